"""One job of a multirun: skipped where it is done, gone on with where it was interrupted, else run."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from tl_lightning.identity import identity
from tl_lightning.ranks import processes
from tl_lightning.record import RECORD, read_record, still_runs, write_json
from tl_lightning.recorded import ENDED, FINISHED, PRUNED, RUNNING
from tl_lightning.resume import AUTO, earlier, everywhere
from tl_lightning.run import placed_run
from tl_lightning.studies.apart import own_world, run_apart
from tl_lightning.studies.multirun import ELSEWHERE
from tl_lightning.studies.ticket import Ticket

log = logging.getLogger(__name__)

CLAIMS = ".claims"
LOOK_S = 1.0


class Done(NamedTuple):
    """What became of a job: the state of its run, where it is, and the metric that selects, NaN if not known."""

    status: str
    folder: Path
    value: float


def job(config: dict[str, Any], folder: Path, ticket: Ticket) -> Done:
    """Do one job.

    With ``resume=auto``, and always in a search, an earlier run of the same configuration, files and code counts:
    a finished one is not run again, an interrupted one goes on, one that runs now is left to its process.

    Args:
        config: of the job, checked.
        folder: its run directory, if it needs one.
        ticket: what else the run should know.

    Raises:
        UserError: several tasks were started from outside.
    """
    again = config["resume"] == AUTO or ticket.trial is not None
    with own_world(), _claim(config, wait=ticket.trial is not None) as claimed:
        if again and not claimed:
            return _elsewhere(folder, RUNNING, _running(config, folder), float("nan"))
        if again:
            config, done = _earlier(config, folder, ticket)
            if done is not None:
                return done
        return _run(config, folder, ticket)


@contextmanager
def _claim(config: Mapping[str, Any], wait: bool) -> Iterator[bool]:
    """Hold this configuration against other processes; False if one of them holds it."""
    place = Path(config["output_dir"], "multirun", config["name"], CLAIMS)
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / f"{identity(config)['config']}.lock")
    try:
        lock.acquire(timeout=-1 if wait else 0, poll_interval=LOOK_S)
    except Timeout:
        yield False
        return
    except (NotImplementedError, OSError) as fault:
        log.warning("%s: this file system has no locks (%s); start one copy of a command at a time", place, fault)
    try:
        yield True
    finally:
        lock.release()


def _places(config: Mapping[str, Any], folder: Path, searched: bool) -> set[Path]:
    beside = {path.parent.resolve() for path in folder.parent.glob(f"*/{RECORD}")}
    return beside if searched else beside | {path.resolve() for path in everywhere(config)}


def _running(config: Mapping[str, Any], folder: Path) -> Path:
    found = earlier(config, _places(config, folder, searched=False))
    return next((path for path, record in found if record["status"] == RUNNING), folder)


def _earlier(config: dict[str, Any], folder: Path, ticket: Ticket) -> tuple[dict[str, Any], Done | None]:
    """What an earlier run of the same identity leaves to do: nothing, or the rest."""
    final = ENDED if ticket.trial is not None else (FINISHED,)
    found = list(earlier(config, _places(config, folder, ticket.trial is not None)))
    for path, record in found:
        if record["status"] in final:
            return config, _elsewhere(folder, record["status"], path, _value(record))
    for path, record in found:
        if still_runs(record):
            return config, _elsewhere(folder, RUNNING, path, float("nan"))
        if record["status"] != PRUNED:
            return {**config, "resume": str(path)}, None
    return {**config, "resume": None}, None


def _elsewhere(folder: Path, status: str, found: Path, value: float) -> Done:
    log.info("skipped: %s in %s", status, found)
    if found.resolve() != folder.resolve():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / ELSEWHERE, {"folder": str(found), "status": status})
    return Done(status, found, value)


def _value(record: Mapping[str, Any]) -> float:
    value = (record.get("metrics") or {}).get(record.get("selected_by"))
    return float("nan") if value is None else float(value)


def _run(config: dict[str, Any], folder: Path, ticket: Ticket) -> Done:
    if processes(config["trainer"]) > 1:
        record, where = run_apart(config, folder, ticket)
        return Done(record["status"], where, _value(record))
    where, value = placed_run(config, folder, ticket.tags, ticket.overrides, ticket.job(config))
    return Done(read_record(where)["status"], where, value)
