"""Two processes with gloo: the same weights on both, and the same result as one with the same global batch."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

pytestmark = pytest.mark.slow
Tiny = Callable[[str], Path]
ROWS, EPOCHS = 67, 2  # 67: neither batches nor splits come out even


def _run(folder: Path, tiny: Tiny, processes: int, *words: str) -> Path:
    rows = [
        f"{'good fine' if i % 2 else 'bad dull'} film {'very ' * (i % 7)},{'pos' if i % 2 else 'neg'}"
        for i in range(ROWS)
    ]
    for name in ("train", "test"):
        (folder / f"{name}.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    command = [
        *("-m", "tl_lightning", "backbone=hf_text", f"backbone.name={tiny('bert')}", "data=text_files"),
        *(f"data.{name}={folder / f'{name}.csv'}" for name in ("train", "test")),
        f"data.batch_size={8 // processes}",
        "trainer=ddp",
        "trainer.accelerator=cpu",
        f"trainer.devices={processes}",
        "trainer.precision=32-true",
        f"trainer.max_epochs={EPOCHS}",
        "trainer.enable_progress_bar=false",
        "optimizer=sgd",
        "head.dropout=0",
        "logger=csv",
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


@pytest.mark.parametrize("strategy", ["full", "linear_probe", "layer_decay", "lora", "adalora"])
def test_two_processes_are_one(without_dropout: Tiny, tmp_path: Path, strategy: str) -> None:
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
