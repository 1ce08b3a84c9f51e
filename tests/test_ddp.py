"""Two processes with gloo: the same weights on both, and the same result as one with the same global batch."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from tests.curves import curves
from tests.pair import Pair
from tests.strategy_cases import CASES
from tl_lightning.check import check

pytestmark = pytest.mark.slow
Tiny = Callable[[str], Path]
Compose = Callable[..., dict[str, Any]]
GROUPS = 3  # of layers, in the tiny BERT
# r_drop asks for dropout, which each rank draws by itself.
ALIKE = [name for name in CASES if "bert" in CASES[name].kinds and name != "r_drop"]
ROWS, EPOCHS = 67, 2  # 67: neither batches nor splits come out even


def _words(folder: Path, tiny: Tiny, processes: int) -> list[str]:
    rows = [
        f"{'good fine' if i % 2 else 'bad dull'} film {'very ' * (i % 7)},{'pos' if i % 2 else 'neg'}"
        for i in range(ROWS)
    ]
    for name in ("train", "test"):
        (folder / f"{name}.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    return [
        *("backbone=hf_text", f"backbone.name={tiny('bert')}", "data=text_files"),
        *(f"data.{name}={folder / f'{name}.csv'}" for name in ("train", "test")),
        f"data.batch_size={8 // processes}",
        "trainer=ddp",
        "trainer.accelerator=cpu",
        f"trainer.devices={processes}",
        "optimizer=sgd",
        "head.dropout=0",
    ]


def _run(folder: Path, tiny: Tiny, processes: int, *words: str) -> Path:
    """As a user starts it, with a progress bar and W&B offline; the first process starts the second."""
    command = [
        *("-m", "tl_lightning", *_words(folder, tiny, processes), "trainer.precision=32-true"),
        f"trainer.max_epochs={EPOCHS}",
        f"hydra.run.dir={folder / str(processes)}",
        *words,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / str(processes)


@pytest.fixture
def without_dropout(tiny: Tiny, tmp_path: Path) -> Tiny:
    """Ranks draw dropout of their own, so that only without it one process and two can agree."""
    import shutil

    folder = tmp_path / "bert"
    shutil.copytree(tiny("bert"), folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return lambda _: folder


@pytest.mark.parametrize("strategy", ["full", "lora", "adalora"])
def test_two_processes_are_one(strategy: str, without_dropout: Tiny, tmp_path: Path) -> None:
    one, two = (_run(tmp_path, without_dropout, n, f"strategy={strategy}") for n in (1, 2))
    weights = [torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=1e-5, rtol=1e-4, msg=name)
    tables = [pq.read_table(run / "predictions.parquet").to_pydict() for run in (one, two)]
    assert tables[0]["id"] == tables[1]["id"] == list(range(ROWS)), "every test row exactly once"
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (one, two)]
    assert metrics[1] == pytest.approx(metrics[0], abs=1e-4)
    records = [json.loads((run / "run.json").read_text()) for run in (one, two)]
    assert [record["device"] for record in records] == ["1 x cpu", "2 x cpu"]
    assert [record["steps"] for record in records] == [EPOCHS * 8] * 2, "60 rows to train on, 8 in a global batch"
    losses = [[(step, float(value)) for step, name, value in curves(run) if name == "train/loss"] for run in (one, two)]
    assert len(losses[0]) == EPOCHS
    assert [step for step, _ in losses[1]] == [step for step, _ in losses[0]]
    assert [loss for _, loss in losses[1]] == pytest.approx([loss for _, loss in losses[0]], abs=1e-5), "of all rows"


def test_token_budgets_make_the_same_batches_for_two_processes(without_dropout: Tiny, tmp_path: Path) -> None:
    """A budget is of one process: half of it on each of two is the same global batch."""
    one, two = (_run(tmp_path, without_dropout, n, f"data.max_tokens={192 // n}", "data.shapes=2") for n in (1, 2))
    records = [json.loads((run / "run.json").read_text()) for run in (one, two)]
    assert records[0]["steps"] == records[1]["steps"] > 2 * EPOCHS
    weights = [torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (one, two)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=1e-5, rtol=1e-4, msg=name)
    tables = [pq.read_table(run / "predictions.parquet").to_pydict() for run in (one, two)]
    assert tables[0]["id"] == tables[1]["id"] == list(range(ROWS)), "every test row exactly once"


def _configurations(folder: Path, tiny: Tiny, compose: Compose, processes: int) -> list[dict[str, Any]]:
    """One for each strategy that several processes may run, in double precision: sums in another order then agree."""
    made = []
    for name in ALIKE:
        case = CASES[name]
        epochs = len(case.opened(GROUPS))
        config = compose(
            *_words(folder, tiny, processes),
            f"strategy={name}",
            *case.words,
            "logger=csv",
            "trainer.strategy=ddp_find_unused_parameters_true",
            "trainer.precision=64-true",
            f"trainer.max_epochs={epochs}",
            "optimizer.lr=0.1",
            "data.max_length=48",  # of the 64 that the model reads: prompts take some
            f"name={name}",
        )
        made.append(check(config))
        made[-1]["callbacks"]["weights"] = {"_target_": "tests.stopping.Weights"}
    return made


def test_every_strategy_ends_the_same_on_both_ranks_and_in_one_process(
    without_dropout: Tiny, compose: Compose, pair: Pair, tmp_path: Path
) -> None:
    for processes in (1, 2):
        for config in _configurations(tmp_path, without_dropout, compose, processes):
            pair.agree(config, tmp_path / str(processes) / config["name"], processes)
    for name in ALIKE:
        alone, first, second = (
            torch.load(tmp_path / run / name / f"rank_{rank}.pt", weights_only=True)
            for run, rank in (("1", 0), ("2", 0), ("2", 1))
        )
        for key, value in alone.items():
            assert value.dtype == torch.float64 or not value.is_floating_point()
            assert torch.equal(first[key], second[key]), f"{name}: {key} differs between the ranks"
            torch.testing.assert_close(first[key], value, atol=1e-6, rtol=0, msg=f"{name}: {key}")


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_signal_to_one_rank_changes_nothing(
    accumulated: int, tiny: Tiny, compose: Compose, pair: Pair, tmp_path: Path
) -> None:
    """Batches of unlike lengths: the ranks draw unlike many numbers for dropout, so each needs its own state back."""
    words = [
        "logger=csv",
        "trainer.log_every_n_steps=1",
        f"trainer.accumulate_grad_batches={accumulated}",
        "data.by_length=false",
    ]
    straight = check(compose(*_words(tmp_path, tiny, 2), *words, "trainer.max_epochs=2", "name=straight"))
    straight["callbacks"]["weights"] = {"_target_": "tests.stopping.Weights"}
    stopped: dict[str, Any] = json.loads(json.dumps({**straight, "name": "stopped"}))
    steps = 8 // accumulated  # of an epoch: 60 rows to train on, 4 in a batch of each rank
    places = [["batch_start", 2], ["validation", steps], ["batch_start", steps], ["batch_start", steps + 2]]
    stopped["callbacks"]["here"] = {"_target_": "tests.stopping.StopRank", "places": places, "rank": 1}
    one, other = (tmp_path / name for name in ("straight", "stopped"))
    for config, folder in ((straight, one), (stopped, other)):
        pair.agree(config, folder, goes_on=True)
    assert len(json.loads((other / "run.json").read_text())["resumed"]) == len(places)
    logged = curves(one)
    assert len([row for row in logged if row[1] == "train/loss"]) == 2 * steps
    assert curves(other) == logged
    for rank in range(2):
        weights = [torch.load(folder / f"rank_{rank}.pt", weights_only=True) for folder in (one, other)]
        assert [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])] == []
    assert (one / "metrics.json").read_text() == (other / "metrics.json").read_text()
