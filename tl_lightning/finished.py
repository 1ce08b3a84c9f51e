"""A finished run, built again from its directory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_lightning.build import learner
from tl_lightning.check import check
from tl_lightning.errors import UserError
from tl_lightning.record import read_record
from tl_lightning.recorded import FINISHED
from tl_lightning.resume import refuse_links, stored_config
from tl_lightning.task import TransferTask
from tl_lightning.trial import trial_words

BEST = "checkpoints/best.ckpt"


def finished(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The checked configuration and the record of the finished run in ``folder``.

    Raises:
        UserError: there is no run, it is not finished, or its checkpoint is gone.
    """
    refuse_links(folder)
    record = read_record(folder)
    if record["status"] != FINISHED:
        raise UserError(f"{folder}: this run is {record['status']}; its own command with resume={folder} ends it")
    if not (folder / BEST).is_file():
        raise UserError(f"{folder} has no {BEST}: there are no fine-tuned weights to work with")
    config = stored_config(folder)
    config.pop("defaults", None)
    checked = check(config)
    if tried := trial_words(checked["trainer"]):
        raise UserError(f"{folder} only tried something ({' '.join(tried)}): a whole run is expected")
    return checked, record


def rebuilt(config: Mapping[str, Any], record: Mapping[str, Any]) -> tuple[TransferTask, Any]:
    """The task with its pretrained weights, and its data, as the run began with them.

    Raises:
        UserError: they cannot be had, or the data are others now.
    """
    backbone, commit = dict(config["backbone"]), (record.get("backbone") or {}).get("revision")
    if commit is not None and "revision" in backbone:
        backbone["revision"] = commit  # a branch may have moved on
    task, data = learner({**config, "backbone": backbone})
    then = (record.get("data") or {}).get("fingerprint")
    if then is not None and then != data.fingerprint:
        raise UserError(f"the data have changed since this run: fingerprint {then} then, {data.fingerprint} now")
    return task, data
