"""``python -m tl_lightning runs``: the runs in a folder, from their records alone."""

import math
import re
import socket
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tl_lightning.commands import given
from tl_lightning.errors import UserError
from tl_lightning.processes import lives
from tl_lightning.recorded import DIED, RUNNING, STATUSES, UNREADABLE
from tl_lightning.report import aligned
from tl_lightning.shown import say
from tl_lightning.studies.choosing import matches
from tl_lightning.studies.index import TRIAL, Row, rows
from tl_lightning.values import LOWER_IS_BETTER

OPTIONS: dict[str, Any] = {"dir": "outputs", "sort": "", "limit": 30, "since": "", "until": "", "status": ""}
STATES = (*STATUSES, DIED, UNREADABLE, TRIAL)
DATE = re.compile(r"\d{4}-\d{2}(-\d{2}(T\d{2}(:\d{2}(:\d{2})?)?)?)?", re.ASCII)
WHOLE_DATE = "0000-01-01T00:00:00"  # what a shorter date is filled up with
MINUTES, HOURS, DAYS = 16, 13, 10  # lengths of dates that say no more
UNTOLD = frozenset({"name", "seed", "logger", "output_dir", "resume"})  # not shown as what a run was
ALWAYS_TOLD = ("strategy", "data", "backbone")
WIDEST = 56


def main(words: Sequence[str]) -> None:
    """Print the runs that ``words`` ask for, the newest first.

    Words: ``KEY=VALUE`` filters (``status=failed strategy=lora name=bert_*``, several values by commas),
    ``since=2026-01-31``, ``until=``, ``sort=test/accuracy``, ``limit=30`` (0 for all), ``dir=outputs``.
    """
    folders = [word.removeprefix("dir=") for word in words if word.startswith("dir=") or "=" not in word]
    if len(folders) > 1:
        raise UserError(f"runs lists one folder, not {' and '.join(folders)}; say dir=FOLDER once")
    root = Path(folders[0] if folders else OPTIONS["dir"])
    found = rows(root)
    if not found:
        raise UserError(f"dir={root}: there is no run in here; dir=FOLDER names another folder")
    found = {place: replace(row, status=state(row)) for place, row in found.items()}
    keys = sorted({key for row in found.values() for key in row.words if key not in OPTIONS})
    _, options = given(words, {**OPTIONS, **dict.fromkeys(keys, "")})
    _check(options)
    begin, end = _period(options)
    kept = {place: row for place, row in found.items() if begin <= _started(row) < end and _wanted(row, options)}
    ordered = _sorted(kept, found.values(), options["sort"])
    shown = ordered[: options["limit"]] if options["limit"] > 0 else ordered
    say(table([(place, kept[place]) for place in shown], _metric(options["sort"])))
    say(f"\n{_count(len(shown), kept.values(), len(found))}  {root}")


def state(row: Row) -> str:
    """The status of a run; ``died`` where it says running and its process, of this machine, is no more."""
    process = row.process or {}
    if row.status != RUNNING or process.get("host") != socket.gethostname():
        return row.status
    return RUNNING if lives(process) else DIED


def _check(options: Mapping[str, Any]) -> None:
    for key in ("since", "until"):
        if options[key] and _span(options[key]) is None:
            raise UserError(f"{key}={options[key]}: a date is expected, such as {key}=2026-01-31")
    for word in filter(None, options["status"].split(",")):
        if word not in STATES:
            raise UserError(f"status={word}: one of {', '.join(STATES)} is expected")


def _span(date: str) -> tuple[float, float] | None:
    """The first second of a month, day, hour, minute or second of this time zone, and the one after its last."""
    if not DATE.fullmatch(date):
        return None
    try:
        begin = datetime.fromisoformat(date + WHOLE_DATE[len(date) :])
        return begin.timestamp(), (begin + _length(date, begin)).timestamp()
    except (ValueError, OverflowError):
        return None


def _length(date: str, begin: datetime) -> timedelta:
    if len(date) < DAYS:
        return (begin + timedelta(days=31)).replace(day=1) - begin
    units = {DAYS: timedelta(days=1), HOURS: timedelta(hours=1), MINUTES: timedelta(minutes=1)}
    return units.get(len(date), timedelta(seconds=1))


def _period(options: Mapping[str, Any]) -> tuple[float, float]:
    since, until = (_span(options[key]) if options[key] else None for key in ("since", "until"))
    return since[0] if since else -math.inf, until[1] if until else math.inf


def _started(row: Row) -> float:
    """Of a run that does not say when, the beginning of time."""
    return row.started or 0.0


def _wanted(row: Row, options: Mapping[str, Any]) -> bool:
    words = {**row.words, "status": row.status}
    asked = {key: value for key, value in options.items() if value and key not in set(OPTIONS) - {"status"}}
    return all(matches(words.get(key, ""), value, key) for key, value in asked.items())


def _metric(sort: str) -> str:
    return f"test/{sort}" if sort and "/" not in sort else sort


def _sorted(kept: Mapping[str, Row], everything: Iterable[Row], sort: str) -> list[str]:
    """The best first by a metric, those without it at the end; else the newest first."""
    newest = sorted(kept, key=lambda place: _started(kept[place]), reverse=True)
    if not sort:
        return newest
    metric = _metric(sort)
    known = sorted({name for row in everything for name in row.metrics})
    if metric not in known:
        raise UserError(f"sort={sort}: no run here has this metric; there are: {', '.join(known) or 'none'}")
    sign = 1 if metric.partition("/")[2] in LOWER_IS_BETTER else -1
    with_it = [place for place in newest if metric in kept[place].metrics]
    ranked = sorted(with_it, key=lambda place: sign * kept[place].metrics[metric])
    return [*ranked, *(place for place in newest if metric not in kept[place].metrics)]


def table(shown: Sequence[tuple[str, Row]], metric: str) -> str:
    """One line for each run."""
    errors = any(row.error for _, row in shown)
    heading = ["started", "status", "run", "", "seed", "test", "val", *(["error"] if errors else [])]
    return aligned([heading, *(_line(place, row, metric, errors) for place, row in shown)], left=4)


def _line(place: str, row: Row, metric: str, errors: bool) -> list[str]:
    name = (metric or row.selected_by).partition("/")[2]
    values = [row.metrics.get(f"{stage}/{name}") for stage in ("test", "val")]
    said = [f"{value:.4f}" if value is not None else "" for value in values]
    host = (row.process or {}).get("host")
    running = f" on {host}" if row.status == RUNNING and host != socket.gethostname() else ""
    told = [key for key in dict.fromkeys((*ALWAYS_TOLD, *row.typed)) if key not in UNTOLD]
    what = " ".join(f"{key}={row.words[key]}" for key in told if key in row.words)
    return [
        f"{datetime.fromtimestamp(row.started):%Y-%m-%d %H:%M}" if row.started is not None else "",
        f"{row.status}{running}",
        place,
        what if len(what) <= WIDEST else f"{what[: WIDEST - 3]}...",
        row.words.get("seed", ""),
        f"{name} {said[0]}" if said[0] else "",
        said[1],
        *([row.error[:WIDEST]] if errors else []),
    ]


def _count(shown: int, kept: Iterable[Row], everything: int) -> str:
    states = Counter(row.status for row in kept)
    total = sum(states.values())
    each = ", ".join(f"{states[name]:,} {name}" for name in STATES if states[name])
    more = f", of {everything:,} in all" if total < everything else ""
    return f"{shown:,} of {total:,} runs ({each or 'none'}){more}"
