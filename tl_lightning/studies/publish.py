"""The page of a study on Weights & Biases."""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_lightning.errors import UserError

log = logging.getLogger(__name__)

TRACKER = "tl_lightning.tracking.wandb"


def at_the_end(config: Mapping[str, Any], folder: Path, group: str) -> None:
    """Compare the jobs of a multirun that tracks on W&B, and keep the page there; says why where it cannot.

    Args:
        config: the logger's part of the configuration.
        folder: of the study.
        group: of the study on W&B.
    """
    if config.get("_target_") != TRACKER or config.get("mode") == "disabled":
        return
    from tl_lightning.studies.compare import compare_page

    try:
        page = compare_page(folder)
    except UserError as fault:
        log.info("no page of this study: %s", fault)
        return
    publish(page, group, config)


def publish(page: Path, group: str, config: Mapping[str, Any]) -> None:
    """Log a page as the artifact of a run of its own, the same for the same group; a failure is told, not raised.

    Args:
        page: the page.
        group: of the runs that it is about.
        config: with project, entity and mode, as far as they are set.
    """
    from tl_lightning.wandb_run import log_study_page

    set_ = {key: config[key] for key in ("project", "entity", "mode") if config.get(key)}
    try:
        log_study_page(page, group, hashlib.sha256(group.encode()).hexdigest()[:8], **set_)
    except Exception as fault:  # whatever it raises, the study is done
        log.warning("the page %s is not on Weights & Biases (%s)", page, fault)
