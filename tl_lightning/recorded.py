"""What a record may say: each fact is of its kind, or the record is refused in one line."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tl_lightning.errors import UserError
from tl_lightning.run_files import CONFIG_BOUND, RECORD_BOUND, is_number, is_whole, read_json, read_yaml

FINISHED, RUNNING, INTERRUPTED, FAILED, PRUNED = "finished", "running", "interrupted", "failed", "pruned"
STATUSES = (FINISHED, RUNNING, INTERRUPTED, FAILED, PRUNED)  # all that a record says
ENDED = (FINISHED, PRUNED)  # nothing is left to do
DIED, UNREADABLE = "died", "unreadable"  # what a listing says beside those: its process is gone, it cannot be read
SHOWN = 60
YEARS = range(1970, 9999)  # of a run

Kind = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _or_null(kind: Kind) -> Kind:
    return lambda value: value is None or kind(value)


def _list_of(kind: Kind) -> Kind:
    return lambda value: isinstance(value, list) and all(map(kind, value))


def _named(kind: Kind) -> Kind:
    return lambda value: isinstance(value, dict) and all(map(kind, value.values()))


def _with(**kinds: Kind) -> Kind:
    """A mapping in which these keys, where they are, have values of these kinds, or null."""
    return lambda value: (
        isinstance(value, dict) and all(value.get(key) is None or kind(value[key]) for key, kind in kinds.items())
    )


def _interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_or_null(is_number), value))


def _time(value: Any) -> bool:
    return isinstance(value, str) and instant(value) is not None


TEXT, TIME = "a text", "a time such as 2026-01-31T12:00:00+0000"
FACTS: dict[str, tuple[Kind, str]] = {
    "name": (_text, TEXT),
    "seed": (is_whole, "a whole number"),
    "started": (_time, TIME),
    "ended": (_time, TIME),
    "resumed": (_list_of(_time), "a list of times"),
    "error": (_text, TEXT),
    "selected_by": (_text, TEXT),
    "precision": (_text, TEXT),
    "overrides": (_list_of(_text), "a list of texts"),
    "trial": (_list_of(_text), "a list of texts"),
    "choices": (_named(lambda value: _or_null(_text)(value) or _list_of(_text)(value)), "names by group"),
    "identity": (_named(_text), "texts by name"),
    "metrics": (_named(_or_null(is_number)), "finite numbers by name"),
    "intervals": (_named(_or_null(_interval)), "two numbers by name"),
    "durations": (_named(is_number), "seconds by name"),
    "parameters": (_named(is_whole), "whole numbers by name"),
    "peak_memory_bytes": (_named(is_whole), "whole numbers by name"),
    "process": (_with(host=_text, pid=is_whole, since=_text), "host, pid and since of a process"),
    "data": (
        _with(fingerprint=_text, fingerprints=_named(_or_null(_text)), rows=_named(is_whole)),
        "fingerprints and numbers of rows",
    ),
    "backbone": (_with(revision=_text), "texts by name"),
    "wandb": (_with(id=_text, group=_text), "texts by name"),
}


def record_in(path: Path) -> dict[str, Any]:
    """The record in a file: its facts are of their kinds; what else it says is left as it is.

    Raises:
        FileNotFoundError: it is not there.
        UserError: it is not read; says why in one line.
    """
    content = read_json(path, RECORD_BOUND)
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold a record")
    if content.get("status") not in STATUSES:
        raise UserError(_unlike(path, "status", content.get("status"), f"one of {', '.join(STATUSES)}"))
    for key, (kind, expected) in FACTS.items():
        if content.get(key) is not None and not kind(content[key]):
            raise UserError(_unlike(path, key, content[key], f"{expected} (or null)"))
    return content


def _unlike(path: Path, key: str, value: Any, expected: str) -> str:
    return f"{path} says {key}={repr(value)[:SHOWN]}: {expected} is expected"


def config_in(path: Path) -> dict[str, Any]:
    """The configuration in a file of a run: plain values under names.

    Raises:
        UserError: it is not read; says why in one line.
    """
    try:
        content = read_yaml(path, CONFIG_BOUND)
    except FileNotFoundError:
        raise UserError(f"{path} cannot be read: it is not there") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path} does not hold a configuration")
    if not is_whole(content.get("seed", 0)):
        raise UserError(_unlike(path, "seed", content["seed"], "a whole number"))
    return content


def instant(text: str | None) -> datetime | None:
    """The moment that a record's time means, in UTC, whatever zone it was written in; None where it is no time.

    A time without a zone is taken as UTC.
    """
    try:
        told = datetime.fromisoformat(text or "")
        moment = (told if told.tzinfo else told.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if moment.year in YEARS else None


def started(record: Mapping[str, Any]) -> datetime:
    """When a run began; one that does not say so counts as the oldest."""
    told = record.get("started")
    return (instant(told) if isinstance(told, str) else None) or datetime(YEARS.start, 1, 1, tzinfo=UTC)
