"""Read what finished runs left: record, configuration and curves."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from tl_lightning.errors import UserError
from tl_lightning.identity import flat
from tl_lightning.record import CONFIG, read_record, still_runs
from tl_lightning.recorded import FINISHED, INTERRUPTED, RUNNING, config_in, started
from tl_lightning.run_files import CURVES_BOUND, is_number, is_text, is_whole, opened, read_rows
from tl_lightning.trial import trial_words

CURVES = "metrics.csv"
MOST_STEPS = 2**53  # beyond them, whole numbers are no longer whole on an axis


@dataclass(frozen=True)
class Run:
    """One run: its folder, its record, and its configuration with dotted keys."""

    folder: Path
    record: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """The seed of the run."""
        said = self.config.get("seed", self.record.get("seed"))
        return said if is_whole(said) else 0

    @property
    def started(self) -> datetime:
        """When the run began."""
        return started(self.record)

    @cached_property
    def choices(self) -> dict[str, str]:
        """The names that were chosen for the groups (strategy: lora), as far as the record tells."""
        typed = (str(word).partition("=") for word in self._listed("overrides"))
        groups = {key.partition(".")[0] for key in self.config if "." in key}
        said = {key: value for key, _, value in typed if key in groups}
        stored = {key: "null" if name is None else str(name) for key, name in self._named("choices").items()}
        return {**said, **stored}

    def metrics(self, stage: str = "test") -> dict[str, float]:
        """The metrics of a stage by their short names; those that are no number are left out."""
        pairs = ((str(key).partition("/"), value) for key, value in self._named("metrics").items())
        return {name: float(value) for (of, _, name), value in pairs if of == stage and is_number(value)}

    def fact(self, *path: str) -> Any:
        """What the record holds at ``path``, or None."""
        found: Any = self.record
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    def _named(self, key: str) -> Mapping[Any, Any]:
        found = self.record.get(key)
        return found if isinstance(found, Mapping) else {}

    def _listed(self, key: str) -> list[Any]:
        found = self.record.get(key)
        return found if isinstance(found, list) else []


def read_runs(folders: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """The finished runs among ``folders``, and what is to be said of those left out, a line each."""
    runs: list[Run] = []
    notes: list[str] = []
    for folder in folders:
        try:
            _refuse_name(folder)
            record = read_record(folder)
            if record["status"] == FINISHED:
                run = Run(folder, record, flat(config_in(folder / CONFIG)))
                tried = trial(run.config)
                notes += [f"left out: {folder} only tried something ({tried})"] if tried else _odd_curves(folder)
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


def _refuse_name(folder: Path) -> None:
    if not is_text(str(folder)):
        shown = str(folder).encode("utf-8", "backslashreplace").decode()
        raise UserError(f"{shown}: the name of this folder is no text in UTF-8")


def _odd_curves(folder: Path) -> Iterator[str]:
    try:
        opened(folder / CURVES, CURVES_BOUND.size, folder).close()
    except FileNotFoundError:
        return
    except UserError as fault:
        yield f"no curves of this run: {fault}"


def state(record: Mapping[str, Any]) -> str:
    """The state of a run that did not finish, in words."""
    status = str(record["status"])
    if status == RUNNING:
        host = (record.get("process") or {}).get("host")
        return "is running" if still_runs(record) else f"says running, but its process on {host} is not seen here"
    return f"is {status}" if status == INTERRUPTED else status


def curve(run: Run, name: str) -> list[tuple[int, float]]:
    """(step, value) pairs of one name in metrics.csv, in order; what is no row of it is passed over."""
    points = {}
    try:
        for row in read_rows(run.folder / CURVES, CURVES_BOUND):
            if len(row) == 4 and row[2] == name:
                points.update(_point(row[0], row[3]))
    except (FileNotFoundError, UserError):
        return []
    return sorted(points.items())


def _point(step: str, value: str) -> dict[int, float]:
    try:
        return {int(step): float(value)} if 0 <= int(step) < MOST_STEPS else {}
    except ValueError:
        return {}
