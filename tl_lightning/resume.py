"""Find the run that a command goes on with, and refuse to mix two configurations."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tl_lightning import slurm
from tl_lightning.checkpoints import LAST, PREVIOUS
from tl_lightning.claim import Claim
from tl_lightning.errors import UserError, first_line
from tl_lightning.identity import FREE, flat, identity, meaning
from tl_lightning.left_out import holes
from tl_lightning.record import CONFIG, RECORD, read_record, still_runs
from tl_lightning.recorded import ENDED, FINISHED, config_in
from tl_lightning.run_files import leads_out

log = logging.getLogger(__name__)

AUTO = "auto"
PATIENCE_S = 10.0  # for what a killed process leaves behind: its workers end within five seconds


def resumed_run(config: Mapping[str, Any]) -> Claim | None:
    """The run directory to go on with, held against other processes; None for a new run.

    Raises:
        UserError: the named run is finished, is no run, runs, or had another configuration (names the difference).
    """
    wanted = config["resume"]
    if wanted is None and slurm.restarted():
        log.info("SLURM has put this job back into its queue: it goes on as with resume=auto.")
        wanted = AUTO
    if wanted is None:
        return None
    if wanted == AUTO:
        return next(_held(config), None)
    folder = Path(wanted)
    refuse_links(folder)
    record = read_record(folder)
    if record["status"] == FINISHED:
        raise UserError(f"resume={wanted}: this run is finished; leave resume out to start a new one")
    if still_runs(record):
        raise UserError(f"resume={wanted}: this run is running, as process {record['process']['pid']}")
    differences = _differences(stored_config(folder), config)
    if differences:
        raise UserError(
            f"resume={wanted}: the run was started with another configuration:\n  " + "\n  ".join(differences)
        )
    claim = Claim(folder, PATIENCE_S)
    if not claim.held:
        raise UserError(f"resume={wanted}: this run is running, or being resumed, by another process")
    return claim


def _held(config: Mapping[str, Any]) -> Iterator[Claim]:
    """Unfinished runs of this configuration that no other process has or takes, the newest first."""
    for folder in _unfinished(config):
        try:
            claim = Claim(folder, PATIENCE_S)
        except OSError as fault:  # it has just been removed, or is not ours to read
            log.warning("resume=auto passes over %s: %s", folder, first_line(fault))
            continue
        if claim.held and _is_unfinished(folder):  # it may have ended while we waited
            yield claim
        else:
            claim.release()
            log.warning("resume=auto passes over %s: another process goes on with it.", folder)


def _is_unfinished(folder: Path) -> bool:
    try:
        return _record_or_none(folder).get("status") not in ENDED
    except UserError:
        return False


def _unfinished(config: Mapping[str, Any]) -> Iterator[Path]:
    """Unfinished runs of this configuration, the newest first."""
    for folder, record in _records(everywhere(config)):
        try:
            refuse_links(folder)
            content = _record_or_none(folder) if record is None else record
            unfinished = content.get("status") not in ENDED and not still_runs(content)
            if unfinished and not _differences(stored_config(folder), config):
                yield folder
        except UserError as fault:
            log.warning("resume=auto passes over %s: %s", folder, fault)


def _record_or_none(folder: Path) -> dict[str, Any]:
    """The record; a damaged one does not hide a run that has checkpoints and no results yet."""
    try:
        return read_record(folder)
    except UserError as fault:
        has_some = any((folder / "checkpoints" / name).exists() for name in (LAST, PREVIOUS))
        if not has_some or (folder / "metrics.json").exists():
            raise
        log.warning("%s: the run is known by its %s and its checkpoints.", fault, CONFIG)
        return {}


def refuse_links(folder: Path) -> None:
    """Refuse a run directory that would be read, or written over, somewhere else, or wait for somebody to write.

    Raises:
        UserError: names the link that leads out, or what is neither a file nor a folder.
    """
    for path in [*folder.glob("*"), *folder.glob("checkpoints/*")]:
        if path.is_symlink() and leads_out(path, folder):
            raise UserError(
                f"{path} is a link that leads out of the run directory, to {os.path.realpath(path)}: not resumed"
            )
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path} is neither a file nor a folder: not resumed")


def everywhere(config: Mapping[str, Any]) -> list[Path]:
    """The run directories of this name, of single runs and of jobs."""
    root, name = Path(config["output_dir"]), config["name"]
    folders = [*root.glob(f"{name}/*"), *root.glob(f"multirun/{name}/*/*")]
    return [folder for folder in folders if os.path.lexists(folder / RECORD)]


def earlier(config: Mapping[str, Any], folders: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Runs among ``folders`` of the same configuration, files and code, with their records, the newest first."""
    wanted = identity(config)
    return ((folder, record) for folder, record in _records(folders) if record and record.get("identity") == wanted)


def _records(folders: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """Each with its record, None where it cannot be read; the newest first."""
    for folder in sorted(folders, key=_changed, reverse=True):
        try:
            yield folder, read_record(folder)
        except UserError:
            yield folder, None


def _changed(folder: Path) -> float:
    try:
        return os.lstat(folder / RECORD).st_mtime
    except OSError:  # it has just been removed
        return 0.0


def stored_config(folder: Path) -> dict[str, Any]:
    """What ``config.yaml`` in a run directory holds.

    Raises:
        UserError: it cannot be read.
    """
    return config_in(folder / CONFIG)


def _differences(stored: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    old, new = flat(stored), flat(config)
    keys = [k for k in {**old, **new} if k.split(".")[0] not in FREE]
    other = [k for k in keys if meaning(old.get(k), k) != meaning(new.get(k), k) and not any(holes(old.get(k), (k,)))]
    return [f"{k}: {old.get(k)} then, {new.get(k)} now" for k in other]
