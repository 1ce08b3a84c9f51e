"""What the records below a folder say, remembered so that ten thousand of them are listed in a moment.

The index lies in the user's cache, keyed by the folder, so shared and read-only folders stay as they are.  A record is
read again when its time or size has changed; an index that is damaged, or of another version, is built anew.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tl_lightning.errors import UserError
from tl_lightning.record import read_record, write_text
from tl_lightning.studies.finding import records_below

VERSION = 2
UNREADABLE, TRIAL = "unreadable", "trial"
Row = dict[str, Any]  # what is kept of a record, and ``stamp``: time and size of its file


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
        place, stamp = os.path.relpath(folder, root), [stat.st_mtime_ns, stat.st_size]
        row = known.get(place)
        found[place] = row if row is not None and row.get("stamp") == stamp else {**_read(folder), "stamp": stamp}
    if found != known:
        _save(path, found)
    return found


def index_path(root: Path) -> Path:
    """Where the index of ``root`` lies: below $TL_LIGHTNING_CACHE, else ~/.cache/tl_lightning."""
    cache = Path(os.environ.get("TL_LIGHTNING_CACHE") or "~/.cache/tl_lightning").expanduser()
    return cache / "runs" / f"{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:24]}.json"


def _load(path: Path) -> dict[str, Row]:
    try:
        content = json.loads(path.read_text())
        if content["version"] != VERSION or not all(isinstance(row, dict) for row in content["rows"].values()):
            return {}
        return dict(content["rows"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _save(path: Path, found: Mapping[str, Row]) -> None:
    """Where the cache cannot be written, the next call reads the records again."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"version": VERSION, "rows": found}, separators=(",", ":")))


def _read(folder: Path) -> Row:
    try:
        record = read_record(folder)
    except UserError:
        return {"status": UNREADABLE, "words": {}, "metrics": {}}
    parts = (str(word).lstrip("+~").partition("=") for word in record.get("overrides") or [])
    typed = {key: value for key, _, value in parts}
    chosen = {key: name for key, name in (record.get("choices") or {}).items() if name is not None}
    return {
        "status": TRIAL if record.get("trial") else record.get("status", UNREADABLE),
        "started": record.get("started", ""),
        "metrics": {name: value for name, value in (record.get("metrics") or {}).items() if value is not None},
        "selected_by": record.get("selected_by"),
        "words": {
            **typed,
            **chosen,
            "name": str(record.get("name", "")),
            "seed": str(record.get("seed", "")),
        },
        "typed": list(typed),
        "process": record.get("process") if record.get("status") == "running" else None,
        "seconds": (record.get("durations") or {}).get("total"),
        "error": str(record.get("error") or "").partition("\n")[0][:200],
    }
