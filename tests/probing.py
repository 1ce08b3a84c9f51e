"""Probes of tiny models made small, for what features from the cache and grids of heads are asked."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from tl_lightning.check import check
from tl_lightning.run import run

Compose = Callable[..., dict[str, Any]]
Tiny = Callable[[str], Path]
SPLITS = {"train": 37, "val": 19, "test": 21}  # no batch comes out even
PRAISE = ("fine good great lovely", "dull bad poor awful")


def texts(folder: Path, tiny: Tiny) -> list[str]:
    """Words for a probe of the tiny BERT on texts that it can tell apart, of many lengths."""
    chance = np.random.default_rng(0)
    for split, rows in SPLITS.items():
        lines = []
        for row in range(rows):
            words = [*chance.choice(PRAISE[row % 2].split(), 2), *["film"] * int(chance.integers(0, 9)), f"plot {row}"]
            lines.append(f"{' '.join(words)},{'pn'[row % 2]}")
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    return [
        *("backbone=hf_text", f"backbone.name={tiny('bert')}", "backbone.pooling=mean", "data=text_files"),
        *(f"data.{split}={folder / split}.csv" for split in SPLITS),
        *("data.batch_size=8", f"data.cache_dir={folder / 'cache'}", "strategy=linear_probe", "optimizer.lr=0.01"),
        *("trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=3", "trainer.enable_progress_bar=false"),
        *("logger=csv", f"output_dir={folder}", "name=probe"),
    ]


class Runs:
    """Runs configurations in folders below one."""

    def __init__(self, folder: Path, compose: Compose, words: Sequence[str]) -> None:
        self.folder, self.words, self._compose = folder, list(words), compose

    def config(self, *words: str) -> dict[str, Any]:
        return check(self._compose(*self.words, *words))

    def __call__(self, name: str, *words: str) -> Path:
        run(self.config(*words), self.folder / name)
        return self.folder / name


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    assert found["status"] == "finished"
    return found


def metrics(folder: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((folder / "metrics.json").read_text())
    return found


def predictions(folder: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = pq.read_table(folder / "predictions.parquet").to_pydict()
    return found


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]
    return found
