"""Find run directories below a folder."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from tl_lightning.errors import UserError
from tl_lightning.record import RECORD

INSIDE_A_RUN = frozenset({"checkpoints", "wandb"})


def run_folders(roots: Iterable[Path]) -> list[Path]:
    """The run directories at or below ``roots``, each once, in the order of their names (job 2 before job 10).

    Raises:
        UserError: a root is not there, or there is no run below any.
    """
    roots = list(roots)
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root}: there is no such folder; runs are written below output_dir (outputs)")
    found = {folder.resolve(): folder for root in roots for folder, _ in records_below(root)}
    if not found:
        where = ", ".join(map(str, roots))
        raise UserError(
            f"{where}: there is no run in here; a run directory holds {RECORD}, as output_dir/NAME/TIME does"
        )
    return sorted(found.values(), key=_natural)


def records_below(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Each run directory at or below ``root`` with what the file system knows of its record.

    One look at a run directory: nothing is opened, links to folders are not followed, and folders that cannot be
    read are passed over.
    """
    waiting = [str(root)]
    while waiting:
        folder = waiting.pop()
        stat = _stat_of_record(folder)
        if stat is None:
            waiting.extend(_folders_in(folder))
        else:
            yield Path(folder), stat


def _stat_of_record(folder: str) -> os.stat_result | None:
    """What the file system knows of a record; of a link that leads nowhere, what it knows of the link."""
    path = f"{folder}/{RECORD}"
    for look in (os.stat, os.lstat):
        with suppress(OSError):
            return look(path)
    return None


def _folders_in(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [
                entry.path
                for entry in entries
                if entry.is_dir(follow_symlinks=False)
                and not entry.name.startswith(".")
                and entry.name not in INSIDE_A_RUN
            ]
    except OSError:
        return []


def _natural(folder: Path) -> list[tuple[int, str]]:
    return [(int(part) if part.isdecimal() else -1, part) for part in folder.parts]
