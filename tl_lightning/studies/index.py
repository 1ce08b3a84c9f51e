"""What the records below a folder say, remembered so that ten thousand of them are listed in a moment.

The index lies in the user's cache, keyed by the folder, so shared and read-only folders stay as they are.  A record is
read again when its time or size has changed; an index that is damaged, or of another version, is built anew.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tl_lightning.errors import UserError
from tl_lightning.record import RECORD, read_record, write_text
from tl_lightning.recorded import RUNNING, STATUSES, UNREADABLE, instant
from tl_lightning.run_files import INDEX_BOUND, is_number, is_whole, read_json
from tl_lightning.studies.finding import records_below
from tl_lightning.studies.spelling import spelled

VERSION = 2
TRIAL = "trial"  # the state of a finished run that only tried something
LONGEST_ERROR = 200


@dataclass(frozen=True)
class Row:
    """What is kept of a record.

    Args:
        stamp: time of change (ns) and size (bytes) of its file.
        status: as the record says, ``trial`` or ``unreadable``.
        started: seconds since the epoch; None where the record does not say.
        metrics: those that are numbers.
        selected_by: the metric that selected.
        words: what was typed, chosen, and the name and the seed, by key; values as they mean, not as they were typed.
        typed: the keys of what was typed.
        process: of a run that says that it is running: host, pid, since.
        error: the first line of what went wrong in the run, or in reading its record.
    """

    stamp: list[int]
    status: str
    started: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    selected_by: str = ""
    words: dict[str, str] = field(default_factory=dict)
    typed: list[str] = field(default_factory=list)
    process: dict[str, Any] | None = None
    error: str = ""

    def whole(self) -> bool:
        """Whether each fact is of its kind, as those from a file may not be."""
        texts = [self.selected_by, self.error, *self.words, *self.words.values(), *self.typed, *self.metrics]
        return (
            self.status in (*STATUSES, TRIAL, UNREADABLE)
            and (self.started is None or is_number(self.started))
            and all(map(is_whole, self.stamp))
            and all(map(is_number, self.metrics.values()))
            and all(isinstance(text, str) for text in texts)
            and isinstance(self.process, dict | None)
        )


def rows(root: Path) -> dict[str, Row]:
    """What is kept of each record at or below ``root``, by the run directory's path from there.

    Raises:
        UserError: ``root`` is no folder.
    """
    if not root.is_dir():
        raise UserError(f"dir={root}: there is no such folder; runs are written below output_dir (outputs)")
    path = index_path(root)
    known = _load(path)
    found = {}
    for folder, stat in records_below(root):
        place, stamp = _place(folder, root), [stat.st_mtime_ns, stat.st_size]
        row = known.get(place)
        found[place] = row if row is not None and row.stamp == stamp else _read(folder, stamp)
    if found != known:
        _save(path, found)
    return found


def _place(folder: Path, root: Path) -> str:
    """The path from ``root``; a name that is no text can be told apart, if not typed."""
    return os.path.relpath(folder, root).encode("utf-8", "backslashreplace").decode()


def index_path(root: Path) -> Path:
    """Where the index of ``root`` lies: below $TL_LIGHTNING_CACHE, else ~/.cache/tl_lightning."""
    cache = Path(os.environ.get("TL_LIGHTNING_CACHE") or "~/.cache/tl_lightning").expanduser()
    return cache / "runs" / f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:24]}.json"


def _load(path: Path) -> dict[str, Row]:
    try:
        content = read_json(path, INDEX_BOUND)
        if content["version"] != VERSION:
            return {}
        found = {place: Row(**row) for place, row in content["rows"].items()}
        return found if all(row.whole() for row in found.values()) else {}
    except (OSError, UserError, KeyError, TypeError, AttributeError):
        return {}


def _save(path: Path, found: Mapping[str, Row]) -> None:
    """Where the cache cannot be written, the next call reads the records again."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"version": VERSION, "rows": {place: vars(row) for place, row in found.items()}}
        write_text(path, json.dumps(content, separators=(",", ":")))


def _read(folder: Path, stamp: list[int]) -> Row:
    try:
        record = read_record(folder)
    except UserError as fault:
        return Row(stamp, UNREADABLE, error=_short(_without(folder, str(fault))))
    pairs = (word.lstrip("+~").partition("=") for word in record.get("overrides") or [])
    typed = {key: spelled(value, key) for key, _, value in pairs}
    chosen = {key: str(name) for key, name in (record.get("choices") or {}).items() if name is not None}
    moment = instant(record.get("started"))
    return Row(
        stamp,
        TRIAL if record.get("trial") else record["status"],
        started=moment.timestamp() if moment else None,
        metrics={name: value for name, value in (record.get("metrics") or {}).items() if value is not None},
        selected_by=record.get("selected_by") or "",
        words={**typed, **chosen, "name": _word(record.get("name")), "seed": _word(record.get("seed"))},
        typed=list(typed),
        process=record.get("process") if record["status"] == RUNNING else None,
        error=_short(record.get("error") or ""),
    )


def _without(folder: Path, text: str) -> str:
    """What is said of a run that stands in the same line."""
    return text.removeprefix(f"{folder / RECORD} ").removeprefix(f"{folder} ")


def _word(value: str | int | None) -> str:
    return "" if value is None else str(value)


def _short(text: str) -> str:
    return text.partition("\n")[0][:LONGEST_ERROR]
