"""Two processes with gloo: the same weights on both, and the same result as one with the same global batch."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from tests.curves import curves
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
        "trainer.enable_progress_bar=false",
        "optimizer=sgd",
        "head.dropout=0",
        "logger=csv",
    ]


def _run(folder: Path, tiny: Tiny, processes: int, *words: str) -> Path:
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


def _start(folder: Path, rank: int, processes: int, port: int) -> "subprocess.Popen[str]":
    """A rank that runs all configurations of a file one after another: the imports cost more than the runs."""
    alone = {} if processes == 1 else {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(processes)}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    code = "import sys; from tests.test_ddp import run_all; run_all(sys.argv[1])"
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, str(folder / f"{processes}.json")],
        env={**os.environ, **alone, **meeting},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_all(file: str) -> None:
    """Run each configuration of a file of them in a folder beside it; one that is interrupted goes on.

    Ranks that nobody but a test has started are told the folder here, as the first one tells those that it starts.
    """
    from tl_lightning import bootstrap
    from tl_lightning.interrupt import Interrupted
    from tl_lightning.run import run

    bootstrap.FEWEST = bootstrap.RESAMPLES = 5
    path = Path(file)
    for config in json.loads(path.read_text()):
        folder, ended = path.parent / path.stem / config["name"], False
        if os.environ.get("LOCAL_RANK", "0") != "0":
            os.environ["TL_LIGHTNING_RUN_DIR"] = str(folder)
        while not ended:
            try:
                run(config, folder)
                ended = True
            except Interrupted:
                config["resume"] = str(folder)


def _on_all_ranks(folder: Path, configs: list[dict[str, Any]], processes: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / str(processes)).mkdir()
    (folder / f"{processes}.json").write_text(json.dumps(configs))
    ranks = [_start(folder, rank, processes, port) for rank in range(processes)]
    for rank in ranks:
        _, told = rank.communicate(timeout=900)
        assert rank.returncode == 0, told


def test_every_strategy_ends_the_same_on_both_ranks_and_in_one_process(
    without_dropout: Tiny, compose: Compose, tmp_path: Path
) -> None:
    for processes in (1, 2):
        _on_all_ranks(tmp_path, _configurations(tmp_path, without_dropout, compose, processes), processes)
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
def test_a_signal_to_one_rank_changes_nothing(accumulated: int, tiny: Tiny, compose: Compose, tmp_path: Path) -> None:
    """Batches of unlike lengths: the ranks draw unlike many numbers for dropout, so each needs its own state back."""
    words = ["trainer.log_every_n_steps=1", f"trainer.accumulate_grad_batches={accumulated}", "data.by_length=false"]
    straight = check(compose(*_words(tmp_path, tiny, 2), *words, "trainer.max_epochs=2", "name=straight"))
    straight["callbacks"]["weights"] = {"_target_": "tests.stopping.Weights"}
    stopped: dict[str, Any] = json.loads(json.dumps({**straight, "name": "stopped"}))
    steps = 8 // accumulated  # of an epoch: 60 rows to train on, 4 in a batch of each rank
    places = [["batch_start", 2], ["validation", steps], ["batch_start", steps], ["batch_start", steps + 2]]
    stopped["callbacks"]["here"] = {"_target_": "tests.stopping.StopRank", "places": places, "rank": 1}
    _on_all_ranks(tmp_path, [straight, stopped], 2)
    one, other = (tmp_path / "2" / name for name in ("straight", "stopped"))
    assert len(json.loads((other / "run.json").read_text())["resumed"]) == len(places)
    logged = curves(one)
    assert len([row for row in logged if row[1] == "train/loss"]) == 2 * steps
    assert curves(other) == logged
    for rank in range(2):
        weights = [torch.load(folder / f"rank_{rank}.pt", weights_only=True) for folder in (one, other)]
        assert [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])] == []
    assert (one / "metrics.json").read_text() == (other / "metrics.json").read_text()
