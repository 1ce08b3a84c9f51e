"""Where curves and results go: metrics.csv always, Weights & Biases by default."""

import csv
import secrets
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from tl_lightning.errors import UserError
from tl_lightning.files import aside, naming
from tl_lightning.identity import flat
from tl_lightning.parts import part
from tl_lightning.record import read_record
from tl_lightning.redact import redacted
from tl_lightning.run_files import CURVES_BOUND, read_rows
from tl_lightning.wandb_limits import check_project, fitting, is_run_id
from tl_lightning.wandb_limits import tags as fitting_tags
from tl_lightning.wandb_run import InBackground, Start

COLUMNS = ("step", "epoch", "name", "value")
LONGEST_STEP = 18  # digits


def first_rank() -> bool:
    """Whether this is the process of a run that writes."""
    return not getattr(rank_zero_only, "rank", 0)


class Curves(Logger):
    """``metrics.csv``, one row per value: step, epoch, name, value; appended, so that a crash loses nothing.

    ``step`` is the number of the optimizer step, counted from 0, after which the value stood.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"

    @property
    def name(self) -> str:
        """The logger's name."""
        return "csv"

    @property
    def version(self) -> str:
        """One run directory holds one version."""
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """The configuration stands in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row for each value."""
        values = dict(metrics)
        epoch = values.pop("epoch", "")
        new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with naming(self.path), self.path.open("a", newline="") as file:
            rows = csv.writer(file)
            if new:
                rows.writerow(COLUMNS)
            rows.writerows((step, epoch, name, value) for name, value in values.items())

    def drop_from(self, step: int) -> None:
        """Drop the rows of ``step`` and later: a run that goes on from there will write them again.

        A last line without its end is the work of a killed process, and what it says is not what was measured.
        """
        if not self.path.exists():
            return
        rows = (row for row in read_rows(self.path, CURVES_BOUND) if len(row) == len(COLUMNS) and _before(row[0], step))
        with aside(self.path) as beside, beside.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(rows)


def _before(said: str, step: int) -> bool:
    return len(said) <= LONGEST_STEP and said.isascii() and said.isdecimal() and int(said) < step


@part("logger")
def csv_only(
    folder: Path, name: str, group: str, tags: Sequence[str], config: dict[str, Any], job_type: str = "run"
) -> list[Logger]:
    """``metrics.csv`` alone."""
    return [Curves(folder)]


@part("logger")
def wandb(
    folder: Path,
    name: str,
    group: str,
    tags: Sequence[str],
    config: dict[str, Any],
    job_type: str = "run",
    project: str = "tl_lightning",
    entity: str | None = None,
    mode: Literal["online", "offline", "disabled"] | None = None,
) -> list[Logger]:
    """``metrics.csv`` and Weights & Biases.

    Args:
        folder: the run directory.
        name: of the run.
        group: runs that belong together (the experiment, or one study of it).
        tags: words to filter by.
        config: the whole configuration.
        job_type: what kind of run it is: alone, a job of a grid, a trial of a search.
        project: on Weights & Biases.
        entity: user or team; by default that of the key.
        mode: ``online``, ``offline`` or ``disabled``; by default online where there is a key and the server
            answers, else offline.
    """
    if not first_rank():
        return [Curves(folder)]
    check_project(project)
    known = _earlier(folder) or {"id": secrets.token_hex(4), "group": fitting(group)}
    what = {"project": project, "entity": entity, "name": fitting(name), "job_type": job_type, **known}
    what |= {"tags": fitting_tags(tags), "config": flat(redacted(config))}
    return [Curves(folder), InBackground(Start(what, folder, mode), known)]


def _earlier(folder: Path) -> dict[str, Any] | None:
    """Id and group on W&B of a run that goes on."""
    try:
        known = read_record(folder).get("wandb") or {}
    except UserError:
        return None
    if not is_run_id(known.get("id")) or not known.get("group"):
        return None
    return {"id": known["id"], "group": fitting(known["group"])}
