"""Find the run that a command goes on with, and refuse to mix two configurations."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tl_lightning.errors import UserError
from tl_lightning.identity import FREE, flat, identity
from tl_lightning.record import RECORD, read_record, still_runs

AUTO = "auto"
CONFIG = "config.yaml"
ENDED = ("finished", "pruned")  # auto goes on with none of these


def resumed_folder(config: Mapping[str, Any]) -> Path | None:
    """The run directory to go on with, or None for a new run.

    Raises:
        UserError: the named run is finished, is no run, or had another configuration (names the difference).
    """
    wanted = config["resume"]
    if wanted is None:
        return None
    if wanted == AUTO:
        return next(_unfinished(config), None)
    folder = Path(wanted)
    record = read_record(folder)
    if record.get("status") == "finished":
        raise UserError(f"resume={wanted}: this run is finished; leave resume out to start a new one")
    if still_runs(record):
        raise UserError(f"resume={wanted}: this run is running, as process {record['process']['pid']}")
    differences = _differences(stored_config(folder), config)
    if differences:
        raise UserError(
            f"resume={wanted}: the run was started with another configuration:\n  " + "\n  ".join(differences)
        )
    return folder


def _unfinished(config: Mapping[str, Any]) -> Iterator[Path]:
    """Unfinished runs of this configuration, the newest first."""
    for folder, record in _records(everywhere(config)):
        try:
            unfinished = record.get("status") not in ENDED and not still_runs(record)
            if unfinished and not _differences(stored_config(folder), config):
                yield folder
        except UserError:
            continue


def everywhere(config: Mapping[str, Any]) -> list[Path]:
    """The run directories of this name, of single runs and of jobs."""
    root, name = Path(config["output_dir"]), config["name"]
    return [path.parent for path in (*root.glob(f"{name}/*/{RECORD}"), *root.glob(f"multirun/{name}/*/*/{RECORD}"))]


def earlier(config: Mapping[str, Any], folders: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Runs among ``folders`` of the same configuration, files and code, with their records, the newest first."""
    wanted = identity(config)
    return ((folder, record) for folder, record in _records(folders) if record.get("identity") == wanted)


def _records(folders: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for folder in sorted(folders, key=lambda folder: (folder / RECORD).stat().st_mtime, reverse=True):
        try:
            yield folder, read_record(folder)
        except UserError:
            continue


def stored_config(folder: Path) -> dict[str, Any]:
    """What ``config.yaml`` in a run directory holds.

    Raises:
        UserError: it cannot be read.
    """
    try:
        stored = yaml.safe_load((folder / CONFIG).read_text())
    except (OSError, yaml.YAMLError) as fault:
        raise UserError(f"{folder / CONFIG} cannot be read: {fault}") from fault
    return dict(stored)


def _differences(stored: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    old, new = flat(stored), flat(config)
    keys = [k for k in {**old, **new} if k.split(".")[0] not in FREE]
    return [f"{k}: {old.get(k)} then, {new.get(k)} now" for k in keys if old.get(k) != new.get(k)]
