"""Find the run that a command goes on with, and refuse to mix two configurations."""

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tl_lightning.checkpoints import LAST, PREVIOUS
from tl_lightning.errors import UserError
from tl_lightning.record import RECORD, read_record, still_runs

log = logging.getLogger(__name__)

AUTO = "auto"
CONFIG = "config.yaml"
FREE = ("resume", "output_dir", "logger", "hydra", "defaults")  # may differ between a run and its resume


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
    refuse_links(folder)
    record = read_record(folder)
    if record.get("status") == "finished":
        raise UserError(f"resume={wanted}: this run is finished; leave resume out to start a new one")
    if still_runs(record):
        raise UserError(f"resume={wanted}: this run is running, as process {record['process']['pid']}")
    differences = _differences(_stored(folder), config)
    if differences:
        raise UserError(
            f"resume={wanted}: the run was started with another configuration:\n  " + "\n  ".join(differences)
        )
    return folder


def _unfinished(config: Mapping[str, Any]) -> Iterator[Path]:
    """Unfinished runs of this configuration, the newest first."""
    root, name = Path(config["output_dir"]), config["name"]
    runs = [folder for folder in (*root.glob(f"{name}/*"), *root.glob(f"multirun/{name}/*/*")) if folder.is_dir()]
    found = {folder: os.lstat(folder / RECORD).st_mtime for folder in runs if os.path.lexists(folder / RECORD)}
    for folder in sorted(found, key=lambda folder: found[folder], reverse=True):
        try:
            refuse_links(folder)
            content = _record_or_none(folder)
            unfinished = content.get("status") != "finished" and not still_runs(content)
            if unfinished and not _differences(_stored(folder), config):
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
    """Refuse a run directory from which a link leads out: it would be read, or written over, somewhere else.

    Raises:
        UserError: names the link.
    """
    home = folder.resolve()
    for path in [*folder.glob("*"), *folder.glob("checkpoints/*")]:
        if path.is_symlink() and not path.resolve().is_relative_to(home):
            raise UserError(f"{path} is a link that leads out of the run directory, to {path.resolve()}: not resumed")


def _stored(folder: Path) -> dict[str, Any]:
    try:
        stored = yaml.safe_load((folder / CONFIG).read_text())
    except (OSError, yaml.YAMLError) as fault:
        raise UserError(f"{folder / CONFIG} cannot be read: {fault}") from fault
    if not isinstance(stored, dict):
        raise UserError(f"{folder / CONFIG} does not hold a configuration")
    return stored


def _differences(stored: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    old, new = flat(stored), flat(config)
    keys = [k for k in {**old, **new} if k.split(".")[0] not in FREE]
    return [f"{k}: {old.get(k)} then, {new.get(k)} now" for k in keys if old.get(k) != new.get(k)]


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found
