"""Checkpoints are written straight to a file beside the old one, sealed with their checksum, then renamed over it."""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor

from tl_lightning.errors import UserError, first_line
from tl_lightning.files import aside
from tl_lightning.run_files import is_whole as is_whole_number
from tl_lightning.run_files import opened

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
OURS = "tl_lightning"  # what this package keeps in a checkpoint
SEAL = (
    b"tl_lightning sha256 "  # before the hex digest, as the comment at the very end of the zip file that torch writes
)
SEAL_LENGTH = len(SEAL) + 64
CHUNK = 1 << 20
log = logging.getLogger(__name__)


class AsideCheckpointIO(TorchCheckpointIO):
    """Never leaves half a checkpoint, holds no second copy of it in memory, and notices a damaged one.

    Lightning's own writer builds the file twice in memory first: for MiniLM that alone is 12% of the peak.  The
    checksum is taken while the bytes go by.  The last ``last.ckpt`` stays as ``previous.ckpt``.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``; a crash or a full disk leaves the old file as it was."""
        if storage_options is not None:
            raise TypeError("AsideCheckpointIO writes local files and takes no storage options")
        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        with aside(final) as beside:
            with beside.open("w+b") as file:
                _write(checkpoint, file)
            if final.name == LAST and final.exists():
                final.replace(final.with_name(PREVIOUS))

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Tensors and plain values only.

        Raises:
            UserError: the file is damaged, or holds anything else.
        """
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a file; Lightning's own would remove a folder with all that is in it."""
        Path(path).unlink(missing_ok=True)


def read_checkpoint(path: Path, needed: str = "state_dict", mmap: bool = False) -> dict[str, Any]:
    """A checkpoint of a run: as ``sealed`` reads it, and each of its parts is of its kind.

    Args:
        path: of the file.
        needed: the part that is asked for.
        mmap: leave its tensors on the disk until they are looked at.

    Raises:
        UserError: the file is damaged, or holds anything else.
    """
    content = sealed(path, mmap)
    if needed not in content:
        raise UserError(f"{path} is no checkpoint of a run: it holds no {needed}")
    for key, (fits, expected) in PARTS.items():
        if key in content and not fits(content[key]):
            raise UserError(f"{path} is no checkpoint of a run: its {key} is not {expected}")
    return content


def sealed(path: Path, mmap: bool = False) -> dict[str, Any]:
    """The one way to read a zip file of torch's: whole, as its seal says if it has one; tensors and plain values.

    Raises:
        UserError: the file is damaged, or holds anything else.
    """
    try:
        opened(path).close()
        whole = is_whole(path)
    except OSError as fault:
        raise UserError(f"{path} cannot be read: {first_line(fault)}") from fault
    if not whole:
        raise UserError(f"{path} is damaged (its checksum differs): it is not used")
    _refuse_packed(path)
    return unpickled(path, mmap)


def unpickled(path: Path, mmap: bool = False) -> dict[str, Any]:
    """Names to tensors and plain values, from a file of torch's of any age; ``sealed`` asks more of it.

    Raises:
        UserError: it cannot be read so.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as fault:  # whatever the bytes of a stranger make torch's reader stumble over
        raise UserError(
            f"{path} is damaged, or holds more than tensors and plain values: it is not used ({first_line(fault)})"
        ) from fault
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no names, as a checkpoint or a state dict does: it is not used")
    return content


def _refuse_packed(path: Path) -> None:
    """Refuse a packed file: torch packs nothing, so a checkpoint unpacks to no more than its own size."""
    try:
        with ZipFile(path) as file:
            parts = file.infolist()
    except (BadZipFile, OSError, ValueError, NotImplementedError) as fault:
        raise UserError(f"{path} is damaged: it is not used ({first_line(fault)})") from fault
    if any(part.compress_type != ZIP_STORED for part in parts) or sum(p.file_size for p in parts) > path.stat().st_size:
        raise UserError(f"{path} is packed, as no checkpoint is: it is not used")


def are_tensors(state: Any) -> TypeGuard[dict[str, Tensor]]:
    """Whether this is a state dict: names to tensors."""
    return isinstance(state, dict) and all(isinstance(n, str) and isinstance(t, Tensor) for n, t in state.items())


PARTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "state_dict": (are_tensors, "names to tensors"),
    "global_step": (is_whole_number, "a whole number"),
    "epoch": (is_whole_number, "a whole number"),
    **{name: (lambda value: isinstance(value, dict), "names to values") for name in ("loops", "callbacks", OURS)},
    **{name: (lambda value: isinstance(value, list), "a list") for name in ("optimizer_states", "lr_schedulers")},
}


def step_of(path: Path) -> int:
    """The optimizer steps that a checkpoint has behind it.

    Raises:
        UserError: it is damaged, or holds more than tensors and plain values.
    """
    return int(read_checkpoint(path, "global_step", mmap=True)["global_step"])


class _Hashing:
    """A file that takes the checksum of what is written, and keeps the fault that torch would hide."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.fault: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            count = self._file.write(data)
        except OSError as fault:
            self.fault = fault
            raise
        self.digest.update(data)
        return count

    def flush(self) -> None:
        self._file.flush()


def _write(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    hashing = _Hashing(file)
    try:
        torch.save(checkpoint, hashing)  # type: ignore[arg-type]
    except Exception:
        if hashing.fault is not None:
            raise hashing.fault from None
        raise
    file.seek(-2, os.SEEK_END)  # the length of the comment, which torch leaves empty
    file.write(SEAL_LENGTH.to_bytes(2, "little") + SEAL + hashing.digest.hexdigest().encode())
    file.flush()
    os.fsync(file.fileno())


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is as it was written; one without a seal, from elsewhere, is taken as it is."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < SEAL_LENGTH + 2:
            return False
        file.seek(size - SEAL_LENGTH - 2)
        tail = file.read()
        if not tail[2:].startswith(SEAL):
            return _ends_as_zip(tail)
        file.seek(0)
        digest, left = hashlib.sha256(), size - SEAL_LENGTH - 2
        while left and (chunk := file.read(min(CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
    digest.update(bytes(2))
    return tail[2 + len(SEAL) :] == digest.hexdigest().encode() and tail[:2] == SEAL_LENGTH.to_bytes(2, "little")


def _ends_as_zip(tail: bytes) -> bool:
    """Whether a file without our seal ends as a zip file without a comment does; half of one, or of ours, does not."""
    return tail[-22:-18] == b"PK\x05\x06" and tail[-2:] == bytes(2)


def newest(folder: Path) -> Path | None:
    """The last whole checkpoint in ``folder``, or None where there was none yet; says so where one is damaged.

    Raises:
        UserError: all of them are damaged.
    """
    there = [path for path in (folder / LAST, folder / PREVIOUS) if path.exists()]
    for path in there:
        if is_whole(path):
            if path.name == PREVIOUS:
                log.warning("The run goes on from %s, the checkpoint before the last.", path)
            return path
        log.warning("%s is damaged (its checksum differs): it is not used.", path)
    if there:
        raise UserError(f"{' and '.join(map(str, there))}: damaged; leave resume= out to start a new run")
    return None
