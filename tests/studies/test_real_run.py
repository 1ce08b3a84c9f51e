"""Runs that were really trained are compared and listed: formats cannot drift apart."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hub_server import Hub
from tl_lightning.studies.compare import compare_page, told
from tl_lightning.studies.listing import main as list_runs
from tl_lightning.studies.reading import curve, read_runs
from tl_lightning.studies.study import study


def test_two_trained_runs(
    hub: Hub, run_small: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["experiment=roberta_base_mrpc", "data.max_length=64"]
    for number, lr in enumerate(("2e-5", "1e-2")):
        run_small(*words, f"optimizer.lr={lr}").rename(tmp_path / str(number))
    capsys.readouterr()
    runs, notes = read_runs([tmp_path / "0", tmp_path / "1"])
    assert notes == []
    assert [step for step, _ in curve(runs[0], "val/accuracy")], "the curve is found"
    found = study([tmp_path])
    assert found.keys == ["optimizer.lr"]
    (one,) = found.sets
    recorded = json.loads((tmp_path / "0" / "metrics.json").read_text())
    for name, arms in one.arms.items():
        assert arms["lr=2e-05"].values[0] == pytest.approx(recorded[f"test/{name}"])
        assert arms["lr=2e-05"].draws.shape[1] == (0 if name == "auroc" else 1000)
    assert "one seed is no evidence" in told(found)
    assert "curves.svg" in compare_page(tmp_path).read_text()
    list_runs([f"dir={tmp_path}"])
    assert "2 of 2 runs (2 finished)" in capsys.readouterr().out


def test_choices_reach_the_record(run_small: Callable[..., Path], compose: Any, tiny: Any, tmp_path: Path) -> None:
    from tl_lightning.check import check
    from tl_lightning.job import Job
    from tl_lightning.run import run

    backbone = [f"backbone.name={tiny('bert')}", "backbone.sha256=null"]
    config = check(compose("experiment=quickstart", *backbone, "data.train_fraction=0.1", "trainer.max_epochs=1",
                           "trainer.enable_progress_bar=false", "logger=csv", "data.max_length=64"))  # fmt: skip
    run(config, tmp_path / "run", job=Job(choices={"strategy": "full", "average": None}))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["choices"] == {"strategy": "full", "average": None}
    (found,), _ = read_runs([tmp_path / "run"])
    assert found.choices == {"strategy": "full", "average": "null"}
