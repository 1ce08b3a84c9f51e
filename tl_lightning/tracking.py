"""Where curves and results go: metrics.csv always, Weights & Biases by default."""

import csv
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from tl_lightning.files import aside, naming
from tl_lightning.wandb_run import InBackground, reachable, start

COLUMNS = ("step", "epoch", "name", "value")


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
        with naming(self.path), self.path.open("a", newline="") as file:
            rows = csv.writer(file)
            if new:
                rows.writerow(COLUMNS)
            rows.writerows((step, epoch, name, value) for name, value in values.items())

    def drop_from(self, step: int) -> None:
        """Drop the rows of ``step`` and later: a run that goes on from there will write them again."""
        if not self.path.exists():
            return
        with self.path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["step"] and int(row["step"]) < step]
        with aside(self.path) as beside, beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


def csv_only(folder: Path, name: str, group: str, tags: Sequence[str], config: dict[str, Any]) -> list[Logger]:
    """``metrics.csv`` alone."""
    return [Curves(folder)]


def wandb(
    folder: Path,
    name: str,
    group: str,
    tags: Sequence[str],
    config: dict[str, Any],
    project: str = "tl_lightning",
    entity: str | None = None,
    mode: Literal["online", "offline", "disabled"] | None = None,
) -> list[Logger]:
    """``metrics.csv`` and Weights & Biases.

    Args:
        folder: the run directory.
        name: of the run.
        group: runs that belong together (the experiment).
        tags: words to filter by.
        config: the whole configuration.
        project: on Weights & Biases.
        entity: user or team; by default that of the key.
        mode: ``online``, ``offline`` or ``disabled``; by default online where there is a key and the server
            answers, else offline.
    """
    if not first_rank():
        return [Curves(folder)]
    what = {"project": project, "entity": entity, "name": name, "group": group, "tags": list(tags), "config": config}
    wanted = mode or os.environ.get("WANDB_MODE") or ("online" if reachable() else "offline")
    return [Curves(folder), InBackground(partial(start, wanted, what, folder))]
