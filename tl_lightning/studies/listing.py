"""``python -m tl_lightning runs``: the runs in a folder, from their records alone."""

import re
import socket
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tl_lightning.commands import given
from tl_lightning.errors import UserError
from tl_lightning.record import still_runs
from tl_lightning.report import aligned
from tl_lightning.studies.choosing import matches
from tl_lightning.studies.index import Row, rows
from tl_lightning.values import LOWER_IS_BETTER

OPTIONS: dict[str, Any] = {"dir": "outputs", "sort": "", "limit": 30, "since": "", "until": "", "status": ""}
STATES = ("finished", "trial", "running", "interrupted", "failed", "died", "unreadable")
DATE = re.compile(r"\d{4}-\d{2}(-\d{2}(T\d{2}(:\d{2}(:\d{2})?)?)?)?")
UNTOLD = frozenset({"name", "seed", "logger", "output_dir", "resume"})  # not shown as what a run was
ALWAYS_TOLD = ("strategy", "data", "backbone")
WIDEST = 56
DIED = "died"


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
    for row in found.values():
        row["status"] = state(row)
    keys = sorted({key for row in found.values() for key in row["words"] if key not in OPTIONS})
    _, options = given(words, {**OPTIONS, **dict.fromkeys(keys, "")})
    _check(options)
    kept = {place: row for place, row in found.items() if _wanted(row, options)}
    ordered = _sorted(kept, found.values(), options["sort"])
    shown = ordered[: options["limit"]] if options["limit"] > 0 else ordered
    print(table([(place, kept[place]) for place in shown], _metric(options["sort"])))
    print(f"\n{_count(len(shown), kept.values(), len(found))}  {root}")


def state(row: Mapping[str, Any]) -> str:
    """The status of a run; ``died`` where it says running and its process, of this machine, is no more."""
    if row["status"] != "running" or (row.get("process") or {}).get("host") != socket.gethostname():
        return str(row["status"])
    return "running" if still_runs(row) else DIED


def _check(options: Mapping[str, Any]) -> None:
    for key in ("since", "until"):
        if options[key] and not DATE.fullmatch(options[key]):
            raise UserError(f"{key}={options[key]}: a date is expected, such as {key}=2026-01-31")
    for word in filter(None, options["status"].split(",")):
        if word not in STATES:
            raise UserError(f"status={word}: one of {', '.join(STATES)} is expected")


def _wanted(row: Row, options: Mapping[str, Any]) -> bool:
    started = str(row.get("started", ""))
    since, until = options["since"], options["until"]
    if (since and started < since) or (until and started[: len(until)] > until):
        return False
    words = {**row["words"], "status": row["status"]}
    asked = {key: value for key, value in options.items() if value and key not in set(OPTIONS) - {"status"}}
    return all(matches(str(words.get(key, "")), value) for key, value in asked.items())


def _metric(sort: str) -> str:
    return f"test/{sort}" if sort and "/" not in sort else sort


def _sorted(kept: Mapping[str, Row], everything: Iterable[Row], sort: str) -> list[str]:
    """The best first by a metric, those without it at the end; else the newest first."""
    newest = sorted(kept, key=lambda place: str(kept[place].get("started", "")), reverse=True)
    if not sort:
        return newest
    metric = _metric(sort)
    known = sorted({name for row in everything for name in row["metrics"]})
    if metric not in known:
        raise UserError(f"sort={sort}: no run here has this metric; there are: {', '.join(known) or 'none'}")
    sign = 1 if metric.partition("/")[2] in LOWER_IS_BETTER else -1
    with_it = [place for place in newest if metric in kept[place]["metrics"]]
    ranked = sorted(with_it, key=lambda place: sign * float(kept[place]["metrics"][metric]))
    return [*ranked, *(place for place in newest if metric not in kept[place]["metrics"])]


def table(shown: Sequence[tuple[str, Row]], metric: str) -> str:
    """One line for each run."""
    errors = any(row.get("error") for _, row in shown)
    heading = ["started", "status", "run", "", "seed", "test", "val", *(["error"] if errors else [])]
    return aligned([heading, *(_line(place, row, metric, errors) for place, row in shown)], left=4)


def _line(place: str, row: Row, metric: str, errors: bool) -> list[str]:
    name = (metric or str(row.get("selected_by") or "")).partition("/")[2]
    values = [row["metrics"].get(f"{stage}/{name}") for stage in ("test", "val")]
    said = [f"{value:.4f}" if value is not None else "" for value in values]
    host = (row.get("process") or {}).get("host")
    running = f" on {host}" if row["status"] == "running" and host != socket.gethostname() else ""
    told = [key for key in dict.fromkeys((*ALWAYS_TOLD, *row.get("typed", ()))) if key not in UNTOLD]
    what = " ".join(f"{key}={row['words'][key]}" for key in told if key in row["words"])
    return [
        str(row.get("started", ""))[:16].replace("T", " "),
        f"{row['status']}{running}",
        place,
        what if len(what) <= WIDEST else f"{what[: WIDEST - 3]}...",
        row["words"].get("seed", ""),
        f"{name} {said[0]}" if said[0] else "",
        said[1],
        *([str(row.get("error") or "")[:WIDEST]] if errors else []),
    ]


def _count(shown: int, kept: Iterable[Row], everything: int) -> str:
    states = Counter(row["status"] for row in kept)
    total = sum(states.values())
    each = ", ".join(
        f"{states[name]:,} {name}" for name in (*STATES, *sorted(set(states) - set(STATES))) if states[name]
    )
    more = f", of {everything:,} in all" if total < everything else ""
    return f"{shown:,} of {total:,} runs ({each or 'none'}){more}"
