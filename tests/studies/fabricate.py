"""Run directories as real runs leave them, without training: the writers are those of a run, the numbers are drawn."""

import copy
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tl_lightning import predictions
from tl_lightning.objectives import MultiClass, MultiLabel, Objective, Regression
from tl_lightning.record import RECORD, Record, write_json
from tl_lightning.run import write_config
from tl_lightning.task import Predictions
from tl_lightning.tracking import Curves

OBJECTIVES: dict[str, Objective] = {
    "MultiClass": MultiClass(),
    "MultiLabel": MultiLabel(),
    "Regression": Regression(),
}
CLASSES = ("negative", "positive")
CONFIG: dict[str, Any] = {
    "backbone": {"_target_": "tl_lightning.backbones.HFText", "name": "org/small", "pooling": "mean"},
    "head": {"_target_": "tl_lightning.heads.Linear", "_partial_": True, "dropout": 0.1},
    "objective": {"_target_": "tl_lightning.objectives.MultiClass", "monitor": "accuracy", "label_smoothing": 0.0},
    "data": {"_target_": "tl_lightning.data.TextFiles", "train": "a/train.csv", "shots": None, "batch_size": 32},
    "strategy": {"_target_": "tl_lightning.strategies.FineTuning", "layer_decay": 1.0},
    "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 2e-5},
    "trainer": {"_target_": "lightning.Trainer", "_partial_": True, "max_epochs": 3},
    "logger": {"_target_": "tl_lightning.tracking.csv_only", "_partial_": True},
    "name": "study",
    "seed": 0,
    "output_dir": "outputs",
    "resume": None,
}


def changed(words: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with dotted keys set."""
    config = copy.deepcopy(CONFIG)
    for key, value in words.items():
        node = config
        *path, last = key.split(".")
        for part in path:
            node = node[part]
        node[last] = value
    return config


@cache
def _record(folder: Path) -> dict[str, Any]:
    """What a real record holds at its start."""
    return Record(folder, {"name": "study", "seed": 0, "overrides": []}, writes=False).content


def outcome(objective: Objective, outputs: torch.Tensor, target: torch.Tensor) -> Predictions:
    """What ``trainer.test`` leaves of outputs (N, C)."""
    rows = torch.arange(len(outputs))
    return Predictions(rows, objective.scores(outputs), target, objective.losses(outputs, target))


def write_run(
    folder: Path,
    words: Mapping[str, Any],
    tested: Predictions,
    classes: Sequence[str] = CLASSES,
    choices: Mapping[str, str] | None = None,
    **facts: Any,
) -> Path:
    """A finished run in ``folder``: record, configuration, metrics, curves and predictions."""
    config = changed(words)
    kind = config["objective"]["_target_"].rpartition(".")[2]
    objective = OBJECTIVES[kind]
    folder.mkdir(parents=True, exist_ok=True)
    calculator = objective.metrics(max(len(classes), 1))
    calculator.update(tested.scores, tested.target)
    metrics = {f"test/{name}": float(value) for name, value in calculator.compute().items()}
    metrics["test/loss"] = float(tested.losses.mean())
    metrics |= {name.replace("test/", "val/"): value for name, value in metrics.items()}
    record = {
        **copy.deepcopy(_record(folder.parent)),
        "status": "finished",
        "name": config["name"],
        "seed": config["seed"],
        "choices": dict(choices or {"strategy": "full", "data": "reviews"}),
        "data": {"fingerprint": "f" * 16, "fingerprints": {"train": "a" * 16, "val": "b" * 16, "test": "c" * 16},
                 "rows": {"train": 56, "val": 133, "test": len(tested.rows)}},
        "metrics": metrics,
        "selected_by": f"val/{objective.monitor}",
        "durations": {"fit": 10.0 + config["seed"], "total": 12.0},
        "parameters": {"all": 1000, "trained": 100},
        **facts,
    }  # fmt: skip
    write_json(folder / RECORD, record)
    write_json(folder / "metrics.json", metrics)
    write_config(folder, config)
    predictions.write(folder / "predictions.parquet", predictions.columns(tested, objective, classes))
    curves = Curves(folder)
    for step in (10, 20, 30):
        value = metrics.get(f"val/{objective.monitor}", 0.0)
        curves.log_metrics({"epoch": step // 10 - 1, "train/loss": 1 / step}, step)
        curves.log_metrics({"epoch": step // 10 - 1, f"val/{objective.monitor}": value * (1 - 3 / step)}, step)
    return folder


def latent(
    seed: int, margin: float, n: int = 300, seed_sd: float = 0.1, own_sd: float = 0.5, study: int = 0, classes: int = 2
) -> Predictions:
    """Predictions of a run of a study: examples differ in difficulty, the same for all runs; seeds differ too."""
    shared, own = np.random.default_rng(study), np.random.default_rng([study, seed, round((margin + 100) * 1e6)])
    target = shared.integers(classes, size=n)
    difficulty = shared.normal(0, 1, n)
    logit = margin + difficulty + own.normal(0, seed_sd) + own.normal(0, own_sd, n)
    outputs = own.normal(0, 0.1, (n, classes))
    outputs[np.arange(n), target] += logit
    tensor = torch.tensor(outputs, dtype=torch.float32)
    return outcome(OBJECTIVES["MultiClass"], tensor, torch.tensor(target))


def write_study(root: Path, margins: Mapping[str, float], seeds: int = 5, **latent_words: Any) -> Path:
    """A study of strategies, ``seeds`` runs each, in ``root``/NUMBER as a multirun leaves them."""
    for at, (strategy, seed) in enumerate((s, k) for s in margins for k in range(seeds)):
        tested = latent(seed, margins[strategy], **latent_words)
        write_run(
            root / str(at),
            {"seed": seed, "strategy._target_": f"tl_lightning.strategies.{strategy.title()}"},
            tested,
            choices={"strategy": strategy, "data": "reviews"},
            overrides=[f"strategy={strategy}", f"seed={seed}"],
            durations={"fit": 20.0 * (1 + len(strategy)) + seed, "total": 100.0},
            parameters={"all": 22_000_000, "trained": 10 ** min(len(strategy), 7)},
        )
    return root
