"""Two processes read one cache of features, and train the heads of a grid as one process does."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.probing import SPLITS, Runs, metrics, predictions, record, texts, weights

pytestmark = pytest.mark.slow
Tiny = Callable[[str], Path]
DEFAULTS = ("trainer.enable_progress_bar=true", "logger=wandb")
CLIP = "trainer.gradient_clip_val=0.05"


@pytest.fixture
def probe(tiny: Tiny, compose: Callable[..., Any], tmp_path: Path) -> Runs:
    words = [*texts(tmp_path, tiny), "head.dropout=0", "optimizer=sgd"]
    train = tmp_path / "train.csv"
    train.write_text("\n".join(train.read_text().splitlines()[:-1]) + "\n")  # no row comes twice to fill a batch up
    return Runs(tmp_path, compose, words)


def _start(probe: Runs, name: str, *words: str) -> "subprocess.Popen[str]":
    folder = probe.folder / name
    command = [sys.executable, "-m", "tl_lightning", *probe.words, *words, f"hydra.run.dir={folder}"]
    return subprocess.Popen(command, cwd=probe.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _end(process: "subprocess.Popen[str]") -> None:
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told


@pytest.mark.parametrize("grid", ["head.lr_grid=[0.001,0.05]", "head.lr_grid=null"])
def test_two_processes_are_one(probe: Runs, grid: str) -> None:
    several = ("trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=4", *DEFAULTS)
    for name, words in {"one": ("data.batch_size=8",), "two": several}.items():
        _end(_start(probe, name, *words, grid, CLIP, f"data.cache_dir={probe.folder / name}_cache"))
    one, two = probe.folder / "one", probe.folder / "two"
    assert weights(one).keys() == weights(two).keys()
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, atol=1e-5, rtol=1e-4, msg=name)
    assert predictions(two)["id"] == predictions(one)["id"] == list(range(SPLITS["test"]))
    assert metrics(two) == pytest.approx(metrics(one), abs=1e-4)
    told = [record(folder)["head_grid"] for folder in (one, two)]
    if told[0] is not None:
        assert told[0]["chosen"] == told[1]["chosen"]
        values = [[head["val/accuracy"] for head in grid["heads"]] for grid in told]
        assert values[0] == pytest.approx(values[1], abs=1e-6)
    stores = [path for path in (probe.folder / "two_cache/features").iterdir() if path.is_dir()]
    assert len(stores) == len(SPLITS), "each split once, by whichever process came first"


def test_two_runs_at_once_make_one_cache(probe: Runs) -> None:
    runs = [_start(probe, name) for name in ("first", "second")]
    for run in runs:
        _end(run)
    first, second = probe.folder / "first", probe.folder / "second"
    assert metrics(first) == metrics(second)
    stores = [path.name for path in (probe.folder / "cache/features").iterdir() if path.is_dir()]
    assert len(stores) == len(SPLITS)
    assert not [name for name in stores if ".tmp" in name]
