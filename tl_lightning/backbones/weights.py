"""Read weights from a file, safely, and say which keys do not fit."""

import hashlib
from collections import OrderedDict
from pathlib import Path
from pickle import UnpicklingError

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tl_lightning.checkpoints import are_tensors, sealed, unpickled
from tl_lightning.errors import UserError, first_line
from tl_lightning.files import located

SHOWN = 4
DAMAGE = (SafetensorError, OSError, RuntimeError, EOFError, UnpicklingError)  # of a file of weights
CHUNK = 1 << 20
ZIP = b"PK\x03\x04"  # what a zip file begins with


def read_weights(name: str) -> dict[str, Tensor]:
    """The tensors of the file ``backbone.weights=NAME``, as `read_tensors` reads them.

    Raises:
        UserError: the file is missing, damaged, or holds anything but tensors.
    """
    path = located(name)
    if not path.is_file():
        raise UserError(f"backbone.weights={name}: there is no such file")
    return read_tensors(path, f"backbone.weights={name}")


def read_tensors(path: Path, told: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a plain state dict read with ``weights_only``.

    A message calls the file ``told``.

    Raises:
        UserError: the file is damaged, or holds anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # What is no zip file is of torch before 1.6, and never a checkpoint of ours.
        loaded = sealed(path) if _is_zip(path) else unpickled(path)
    except (*DAMAGE, ValueError, UserError) as fault:
        raise UserError(
            f"{told} is damaged, or not a safetensors file or a state dict of tensors: {first_line(fault)}"
        ) from fault
    tensors = loaded.get("state_dict", loaded)
    if not are_tensors(tensors):
        raise UserError(f"{told} does not hold a state dict (names to tensors)")
    return tensors


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(ZIP)) == ZIP


def load_weights(model: nn.Module, name: str, prefixes: tuple[str, ...] = ()) -> None:
    """Load the file ``name`` into ``model``; keys may carry one of ``prefixes``, then the rest is left out.

    Raises:
        UserError: keys are missing, unexpected or of another shape; names them.
    """
    load_tensors(model, without_prefix(read_weights(name), prefixes), f"backbone.weights={name}")


def without_prefix(tensors: dict[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """Those under the first of ``prefixes`` that occurs, without it; all of them where none does."""
    for prefix in prefixes:
        inner = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if inner:
            return inner
    return tensors


def load_tensors(model: nn.Module, tensors: dict[str, Tensor], told: str, left_out: tuple[str, ...] = ()) -> None:
    """Load ``tensors`` into ``model``, but for keys that begin with one of ``left_out`` and that it does not have.

    Modules translate the keys of older files, as ever in ``load_state_dict``.  A message calls the source ``told``.

    Raises:
        UserError: keys are missing, unexpected or of another shape; names them.
    """
    own = model.state_dict()
    other = [k for k in own if k in tensors and own[k].shape != tensors[k].shape]
    kept = OrderedDict(
        (k, v) for k, v in tensors.items() if k not in other and (k in own or not k.startswith(left_out))
    )
    # The version of each module's format; a file that does not say it is in the model's own.
    own_version = {"": getattr(own, "_metadata", {}).get("", {})}
    kept._metadata = getattr(tensors, "_metadata", own_version)  # type: ignore[attr-defined]
    found = model.load_state_dict(kept, strict=False)
    missing = [k for k in found.missing_keys if k not in other]
    faults = {"missing": missing, "unexpected": found.unexpected_keys, "of another shape": other}
    if any(faults.values()):
        raise UserError(
            f"{told} does not fit {type(model).__name__}: "
            + "; ".join(f"{len(keys)} keys {what} ({some(keys)})" for what, keys in faults.items() if keys)
        )


def check_sha256(path: Path, expected: str) -> None:
    """Refuse a file whose SHA-256 is not ``expected`` (hex).

    Raises:
        UserError: it differs.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != expected.lower():
        raise UserError(
            f"{path} has the sha256 {digest.hexdigest()}, not backbone.sha256={expected}: not the expected weights"
        )


def some(keys: list[str]) -> str:
    """The first of them, for a message."""
    return ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")
