"""Read weights from a file, safely, and say which keys do not fit."""

import hashlib
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tl_lightning.errors import UserError, first_line
from tl_lightning.files import located

SHOWN = 4
DAMAGE = (SafetensorError, OSError, RuntimeError, EOFError, UnpicklingError)  # of a file of weights
CHUNK = 1 << 20


def read_weights(name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a plain state dict read with ``weights_only``.

    Raises:
        UserError: the file is missing, damaged, or holds anything but tensors.
    """
    path = located(name)
    if not path.is_file():
        raise UserError(f"backbone.weights={name}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (*DAMAGE, ValueError) as fault:
        raise UserError(
            f"backbone.weights={name} is damaged, or not a safetensors file or a state dict of tensors:"
            f" {first_line(fault)}"
        ) from fault
    tensors = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(tensors, dict) or not all(isinstance(v, Tensor) for v in tensors.values()):
        raise UserError(f"backbone.weights={name} does not hold a state dict (names to tensors)")
    return tensors


def load_weights(model: nn.Module, name: str, prefixes: tuple[str, ...] = ()) -> None:
    """Load the file ``name`` into ``model``; keys may carry one of ``prefixes``, then the rest is left out.

    Raises:
        UserError: keys are missing, unexpected or of another shape; names them.
    """
    tensors = read_weights(name)
    for prefix in prefixes:
        inner = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if inner:
            tensors = inner
            break
    own = model.state_dict()
    faults = {
        "missing": [k for k in own if k not in tensors],
        "unexpected": [k for k in tensors if k not in own],
        "of another shape": [k for k in own if k in tensors and own[k].shape != tensors[k].shape],
    }
    if any(faults.values()):
        raise UserError(
            f"backbone.weights={name} does not fit {type(model).__name__}: "
            + "; ".join(f"{len(keys)} keys {what} ({_some(keys)})" for what, keys in faults.items() if keys)
        )
    model.load_state_dict(tensors)


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


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")
