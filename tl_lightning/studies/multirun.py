"""The table at the end of a ``--multirun``."""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from tl_lightning.errors import UserError
from tl_lightning.record import COMMAND, RECORD, read_record, typed_command, write_json, write_text
from tl_lightning.recorded import FAILED, FINISHED, UNREADABLE, record_in
from tl_lightning.redact import redacted, redacted_word
from tl_lightning.report import aligned, interval, number
from tl_lightning.run_files import CONFIG_BOUND, NOTE_BOUND, read_json, read_yaml
from tl_lightning.shown import log_safely, say
from tl_lightning.studies.publish import at_the_end
from tl_lightning.studies.spelling import spelled

ELSEWHERE = "elsewhere.json"  # in a job's own folder: where its run is, if not there
REFUSED = "refused"  # a folder in the study's: what is known of jobs that ended before there was a run
CONFIG = "multirun.yaml"  # Hydra's own
SAME = ("resume=", "output_dir=", "logger=", "logger.", "hydra.")  # words that do not make another study


class Summary(Callback):
    """Lets a repeated command go on in its study's folder, and prints one line for each job at the end.

    The line says what the job was, its state, the metric that selects on ``val`` and on ``test``.
    """

    def __init__(self) -> None:
        self.started = time.time()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Find the folder of the same command's study, where the command says ``resume=auto``."""
        os.environ.setdefault(COMMAND, typed_command())
        given = any(word.startswith("hydra.sweep.dir=") for word in config.hydra.overrides.hydra)
        if "resume=auto" in config.hydra.overrides.task and not given:
            found = _same_study(config)
            if found is not None:
                settle(config, found)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Leave what is secret out of the file that Hydra has written, and out of the logs of this process."""
        log_safely()
        if config.hydra.mode == RunMode.MULTIRUN:
            _without_secrets(Path(config.hydra.sweep.dir) / CONFIG)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table; keep the comparison on W&B where the jobs are tracked there."""
        folder = Path(config.hydra.sweep.dir)
        show(folder, self.started)
        logger: dict[str, Any] = OmegaConf.to_container(config.logger, resolve=True)  # type: ignore[assignment]
        at_the_end(logger, folder, group(folder))


def _without_secrets(path: Path) -> None:
    """The jobs of a multirun may meet here; that one of them has done it is enough."""
    with suppress(OSError, yaml.YAMLError):
        stored = yaml.safe_load(path.read_text())
        public = redacted(stored)
        if public != stored:
            write_text(path, yaml.safe_dump(public, sort_keys=False, allow_unicode=True))


def group(folder: Path) -> str:
    """The name of a study on the tracker."""
    return f"{folder.parent.name}-{folder.name}"


def settle(config: DictConfig, folder: Path) -> None:
    """Let a multirun and each of its jobs have ``folder`` as the study's."""
    with read_write(config), open_dict(config):
        config.hydra.sweep.dir = str(folder)
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(folder)}")


def quoted(value: object) -> str:
    """A value as Hydra reads it back, whatever is in it."""
    text = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), str(value))
    return f"'{text}'"


def _same_study(config: DictConfig) -> Path | None:
    """The newest folder in which the words of this command ran before."""
    words = _words(OmegaConf.to_container(config.hydra.overrides.task))
    folders = Path(config.hydra.sweep.dir).parent.glob(f"*/{CONFIG}")
    for path in sorted(folders, key=lambda path: os.lstat(path).st_mtime, reverse=True):
        try:
            stored = read_yaml(path, CONFIG_BOUND)["hydra"]["overrides"]["task"]
            if _words(stored) == words:
                return path.parent
        except (OSError, UserError, KeyError, TypeError, AttributeError):
            continue
    return None


def _words(typed: Any) -> list[str]:
    """What makes a study, each value as it is meant: ``[0.8,1.0]`` is ``[0.8,1]``."""
    pairs = (word.partition("=") for word in typed if not word.lstrip("+").startswith(SAME))
    return sorted(redacted_word(f"{key}{equals}{spelled(value, key)}") for key, equals, value in pairs)


def refused(study: Path, folder: Path) -> None:
    """Keep for the table that this job of a study failed before it had a run directory, ``folder``."""
    if (folder / RECORD).exists() or (folder / ELSEWHERE).exists():
        return
    typed = [word.lstrip("+") for word in HydraConfig.get().overrides.task]
    told = study / REFUSED / f"{folder.name}.json"
    with suppress(OSError):
        told.parent.mkdir(exist_ok=True)
        write_json(told, {"overrides": list(map(redacted_word, typed)), "status": FAILED})


def show(folder: Path, started: float = 0.0) -> None:
    """Print the table over ``folder``, if there are runs in it; runs that ended before ``started`` were skipped."""
    text = summary(folder, started)
    if text:
        say(f"\n{text}\n\nruns  {folder}")


def summary(folder: Path, started: float = 0.0) -> str:
    """The table over the run directories directly in ``folder``; empty if there are none.

    Args:
        folder: of the study.
        started: seconds since the epoch; runs that ended before were skipped.
    """
    records = dict(sorted(_records(folder, started), key=lambda item: _number(folder / item[0])))
    if not records:
        return ""
    metric = next((_metric(record) for record in records.values() if _metric(record)), "")
    heading = ("job", "", "status", f"test {metric}", "95% interval", f"val {metric}")
    typed = [set(record["overrides"]) for record in records.values() if record.get("overrides") is not None]
    common = set.intersection(*typed) if len(typed) > 1 else set()
    return aligned([heading, *(_row(name, record, common) for name, record in records.items())], left=2)


def _records(folder: Path, started: float) -> Iterator[tuple[str, dict[str, Any]]]:
    own = {path.name for path in folder.glob("*") if os.path.lexists(path / RECORD)}
    for name in own:
        record = _safely(read_record, folder / name)
        before = record["status"] == FINISHED and (folder / name / RECORD).stat().st_mtime < started
        yield name, {**record, "status": f"{FINISHED}, skipped"} if before else record
    for path in folder.glob(f"*/{ELSEWHERE}"):
        if path.parent.name not in own:
            record = _elsewhere(path)
            yield path.parent.name, {**record, "status": f"{record.get('status')}, skipped"}
    for path in folder.glob(f"{REFUSED}/*.json"):
        if not (folder / path.stem).exists():  # else it has run since
            yield path.stem, _safely(record_in, path)


def _elsewhere(path: Path) -> dict[str, Any]:
    try:
        folder = Path(read_json(path, NOTE_BOUND)["folder"])
    except (OSError, UserError, KeyError, TypeError, ValueError):
        return {"status": UNREADABLE}
    return _safely(read_record, folder)


def _number(folder: Path) -> tuple[int, str]:
    return (int(folder.name) if folder.name.isdecimal() else 0, folder.name)


def _safely(read: Callable[[Path], dict[str, Any]], path: Path) -> dict[str, Any]:
    try:
        return read(path)
    except (OSError, UserError):
        return {"status": UNREADABLE}


def _metric(record: Mapping[str, Any]) -> str:
    return str(record.get("selected_by") or "").removeprefix("val/")


def _row(name: str, record: Mapping[str, Any], common: Set[str]) -> tuple[str, ...]:
    metrics, metric = record.get("metrics") or {}, _metric(record)
    own = " ".join(word for word in record.get("overrides") or [] if word not in common)
    test, val = (number(metrics.get(key)) for key in (f"test/{metric}", f"val/{metric}"))
    return (
        name,
        own,
        str(record.get("status")),
        test,
        interval((record.get("intervals") or {}).get(f"test/{metric}")),
        val,
    )
