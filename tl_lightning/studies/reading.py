"""Read what finished runs left: record, configuration and curves."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from tl_lightning.errors import UserError, first_line
from tl_lightning.identity import flat
from tl_lightning.record import CONFIG, read_record, still_runs
from tl_lightning.trial import trial_words

CURVES = "metrics.csv"
FINISHED = "finished"
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C reads ten times as fast


@dataclass(frozen=True)
class Run:
    """One run: its folder, its record, and its configuration with dotted keys."""

    folder: Path
    record: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.config.get("seed", self.record.get("seed", 0)))

    @cached_property
    def choices(self) -> dict[str, str]:
        """The names that were chosen for the groups (strategy: lora), as far as the record tells."""
        typed = (word.partition("=") for word in self.record.get("overrides") or [])
        groups = {key.partition(".")[0] for key in self.config if "." in key}
        said = {key: value for key, _, value in typed if key in groups}
        stored = {
            key: "null" if name is None else str(name) for key, name in (self.record.get("choices") or {}).items()
        }
        return {**said, **stored}

    def metrics(self, stage: str = "test") -> dict[str, float]:
        """The metrics of a stage by their short names; those that are no number are left out."""
        pairs = ((key.partition("/"), value) for key, value in (self.record.get("metrics") or {}).items())
        return {name: float(value) for (of, _, name), value in pairs if of == stage and value is not None}

    def fact(self, *path: str) -> Any:
        """What the record holds at ``path``, or None."""
        found: Any = self.record
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found


def read_runs(folders: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """The finished runs among ``folders``, and what is to be said of those left out, a line each."""
    runs, notes = [], []
    for folder in folders:
        try:
            record = read_record(folder)
            if record.get("status") == FINISHED:
                run = Run(folder, record, _config(folder))
                tried = trial(run.config)
                notes += [f"left out: {folder} only tried something ({tried})"] if tried else []
                runs += [] if tried else [run]
            else:
                notes.append(f"left out: {folder} {state(record)}")
        except UserError as fault:
            notes.append(f"left out: {fault}")
    return runs, notes


def trial(config: Mapping[str, Any]) -> str:
    """The words of a configuration, with dotted keys, that make the numbers of its run no evidence; may be empty."""
    prefix = "trainer."
    return " ".join(trial_words({k.removeprefix(prefix): v for k, v in config.items() if k.startswith(prefix)}))


def state(record: Mapping[str, Any]) -> str:
    """The state of a run that did not finish, in words."""
    status = str(record.get("status", "has no status"))
    if status == "running":
        host = (record.get("process") or {}).get("host")
        return "is running" if still_runs(record) else f"says running, but its process on {host} is not seen here"
    return status if status.startswith("has") else f"is {status}" if status == "interrupted" else status


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        content = yaml.load(path.read_text(), Loader)  # noqa: S506  # a safe loader, above
    except (OSError, ValueError, yaml.YAMLError) as fault:
        raise UserError(f"{path} cannot be read: {first_line(fault)}") from fault
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no configuration")
    return flat(content)


def curve(run: Run, name: str) -> list[tuple[int, float]]:
    """(step, value) pairs of one name in metrics.csv, in order; half a line at the end is passed over."""
    try:
        with (run.folder / CURVES).open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("name") == name]
    except (OSError, ValueError, csv.Error):
        return []
    points = {}
    for row in rows:
        try:
            points[int(row["step"])] = float(row["value"])
        except (TypeError, ValueError):
            continue
    return sorted(points.items())
