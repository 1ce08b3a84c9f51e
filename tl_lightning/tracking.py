"""Where curves and results go: metrics.csv always, Weights & Biases by default."""

import csv
import logging
import os
import socket
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

log = logging.getLogger(__name__)

SERVER = "https://api.wandb.ai"
PROBE_S = 3.0
INIT_S, FINISH_S = 20, 60
MOST_ROWS = 10_000  # of the table of predictions
MOST_CLASSES = 100  # of the confusion matrix
COLUMNS = ("step", "epoch", "name", "value")


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
        with self.path.open("a", newline="") as file:
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
        aside = self.path.with_suffix(".tmp")
        with aside.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        aside.replace(self.path)


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
    if getattr(rank_zero_only, "rank", 0):
        return [Curves(folder)]
    settled = mode or os.environ.get("WANDB_MODE") or ("online" if _reachable() else "offline")
    run = _started(
        settled,
        {
            "project": project,
            "entity": entity,
            "name": name,
            "group": group,
            "tags": list(tags),
            "config": config,
        },
        folder,
    )
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return [Curves(folder), WandbLogger(experiment=run, save_dir=folder)]


def _started(mode: str, what: dict[str, Any], folder: Path) -> Any:
    import wandb

    settings = wandb.Settings(init_timeout=INIT_S, finish_timeout=FINISH_S, silent=True)
    try:
        return wandb.init(**what, dir=folder, mode=mode, settings=settings)  # type: ignore[arg-type]
    except wandb.errors.Error as fault:
        log.warning("Weights & Biases does not work now (%s): this run is kept offline", fault)
        return wandb.init(**what, dir=folder, mode="offline", settings=settings)


def _reachable() -> bool:
    """Whether there is a key and the server takes connections; without this probe W&B blocks for minutes."""
    from requests.utils import get_netrc_auth

    url = os.environ.get("WANDB_BASE_URL", SERVER)
    if not os.environ.get("WANDB_API_KEY") and get_netrc_auth(url) is None:
        return False
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=PROBE_S):
            return True
    except OSError:
        log.warning("%s does not answer: Weights & Biases keeps this run offline", url)
        return False


def log_test(
    loggers: Sequence[Logger],
    predictions: Mapping[str, Sequence[Any]],
    texts: Sequence[str],
    classes: Sequence[str],
) -> None:
    """Send the table of test predictions and, for single-label classes, the confusion matrix to W&B.

    Args:
        loggers: those of the run; only W&B's is used.
        predictions: columns of equal length, as in predictions.parquet.
        texts: what the model read, for the rows of ``predictions``.
        classes: names of the outputs.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            _log_test(logger.experiment, predictions, texts, classes)


def _log_test(run: Any, predictions: Mapping[str, Sequence[Any]], texts: Sequence[str], classes: Sequence[str]) -> None:
    import wandb

    names: list[str | int] = [*predictions, "text"]
    columns = [*(predictions[name][:MOST_ROWS] for name in predictions), texts[:MOST_ROWS]]
    rows = [[_cell(value) for value in row] for row in zip(*columns, strict=True)]
    found: dict[str, Any] = {"test/predictions": wandb.Table(columns=list(names), data=rows)}
    single = bool(predictions["target"]) and isinstance(predictions["target"][0], str)
    if single and len(classes) <= MOST_CLASSES:
        number = {name: i for i, name in enumerate(classes)}
        found["test/confusion"] = wandb.plot.confusion_matrix(
            y_true=[number[name] for name in predictions["target"]],
            preds=[number[name] for name in predictions["prediction"]],
            class_names=list(classes),
        )
    run.log(found)


def _cell(value: Any) -> Any:
    return ", ".join(value) if isinstance(value, list) else value


def finish() -> None:
    """End the W&B run, so that the next run in this process gets its own."""
    module = sys.modules.get("wandb")
    if module is not None and module.run is not None:
        module.finish()
