"""A compiled backbone: how often it is compiled, and that nothing else knows of it."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.stopping import StopAt
from tl_lightning import bootstrap
from tl_lightning.check import check
from tl_lightning.errors import UserError
from tl_lightning.interrupt import Interrupted
from tl_lightning.record import read_record
from tl_lightning.run import run

Compose = Callable[..., dict[str, Any]]
Tiny = Callable[[str], Path]
SHAPES = 2


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(bootstrap, "FEWEST", 5)
    monkeypatch.setattr(bootstrap, "RESAMPLES", 5)
    monkeypatch.setattr(StopAt, "done", set())


@pytest.fixture
def config(tiny: Tiny, compose: Compose, tmp_path: Path) -> dict[str, Any]:
    """20 texts of 2 lengths for training, in batches of 8: shapes of 8 and, at the end of an epoch, 4 rows."""
    rows = [
        f"{'good fine' if i % 2 else 'bad dull'} film{' plot' * (i % 4)},{'pos' if i % 2 else 'neg'}" for i in range(36)
    ]
    for name, part in {"train": rows[:20], "val": rows[20:28], "test": rows[28:]}.items():
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "\n".join(part) + "\n")
    return check(
        compose(
            *("backbone=hf_text", f"backbone.name={tiny('bert')}", "data=text_files", f"data.shapes={SHAPES}"),
            *(f"data.{name}={tmp_path / name}.csv" for name in ("train", "val", "test")),
            *("trainer=cpu", "trainer.max_epochs=2", "trainer.enable_progress_bar=false", "data.batch_size=8"),
            *("logger=csv", "name=compiled", "trainer.precision=32-true", "optimizer.lr=1e-3", "compile=eager"),
            f"output_dir={tmp_path}",
        )
    )


def _state(folder: Path, name: str = "best") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]
    return state


def test_a_run_compiles_each_shape_once_and_nothing_else_knows_of_it(
    config: dict[str, Any], tmp_path: Path, caplog: Any
) -> None:
    caplog.set_level(logging.INFO)
    run(config, tmp_path / "compiled/run")
    record = read_record(tmp_path / "compiled/run")
    facts = record["compiled"]
    assert facts["shapes"] == record["data"]["shapes"] == 3
    assert facts["graphs"] >= facts["shapes"]
    assert (facts["backend"], facts["graphs_in_mid_training"]) == ("eager", 0)
    assert "in mid-training" not in caplog.text
    assert record["status"] == "finished", "best.ckpt was tested"
    plain = tmp_path / "plain"
    run({**config, "compile": False}, plain)
    assert read_record(plain)["compiled"] is None
    assert set(_state(plain)) == set(_state(tmp_path / "compiled/run")), "no _orig_mod in a name"
    for name, value in _state(plain, "last").items():
        torch.testing.assert_close(_state(tmp_path / "compiled/run", "last")[name], value, atol=1e-5, rtol=1e-4)
    assert record["metrics"]["test/loss"] == pytest.approx(read_record(plain)["metrics"]["test/loss"], abs=1e-4)


@pytest.mark.slow
def test_a_resume_goes_on_exactly(config: dict[str, Any], tmp_path: Path) -> None:
    """From the middle of an epoch, where no epoch begins; and the clock runs from behind the warm-up there, too."""
    run(config, tmp_path / "whole")
    config["callbacks"]["stop"] = {"_target_": "tests.stopping.StopAt", "places": [["batch_start", 1]]}
    torch._dynamo.reset()
    with pytest.raises(Interrupted):
        run(config, tmp_path / "compiled/part")
    torch._dynamo.reset()
    run({**config, "resume": str(tmp_path / "compiled/part")}, tmp_path / "unused")
    whole, part = _state(tmp_path / "whole", "last"), _state(tmp_path / "compiled/part", "last")
    assert all(torch.equal(value, part[name]) for name, value in whole.items())
    record = read_record(tmp_path / "compiled/part")
    assert record["compiled"]["graphs_in_mid_training"] == 0
    steps, throughput = record["steps"], record["throughput"]
    assert steps * 8 / throughput["samples_per_second"] < record["durations"]["fit"] - record["compiled"]["seconds"]


@pytest.mark.parametrize(
    ("word", "shapes", "message"),
    [(True, None, "compile=true: .*data.shapes=16"), ("cuda_graphs", 2, "needs a CUDA GPU")],
)
def test_what_is_refused(word: Any, shapes: int | None, message: str, config: dict[str, Any], tmp_path: Path) -> None:
    config["data"]["shapes"] = shapes
    with pytest.raises(UserError, match=message):
        run({**config, "compile": word}, tmp_path / "run")
    assert read_record(tmp_path / "run")["status"] == "failed"


def test_what_cannot_be_compiled_is_said(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_nothing(backbone: nn.Module, **_: Any) -> None:
        def call(**__: Any) -> None:
            raise RuntimeError("no compiler\nand much more")

        backbone._compiled_call_impl = call

    monkeypatch.setattr(nn.Module, "compile", compile_nothing)
    with pytest.raises(UserError, match=r"cannot be compiled here \(no compiler\): type compile=false"):
        run({**config, "compile": True}, tmp_path / "run")


def test_auto_leaves_a_cpu_alone(config: dict[str, Any], tmp_path: Path) -> None:
    config["trainer"] |= {"max_epochs": 1}
    run({**config, "compile": "auto"}, tmp_path / "run")
    assert read_record(tmp_path / "run")["compiled"] is None


def test_a_word_that_is_none_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"compile=.*fast.*auto"):
        check({**config, "compile": "fast"})


@pytest.mark.slow
def test_a_strategy_that_unfreezes_is_compiled_anew_before_its_epoch(config: dict[str, Any], tmp_path: Path) -> None:
    config["strategy"] = {"_target_": "tl_lightning.strategies.UnfreezeAt", "unfreeze_at": [[1, "all"]]}
    found = {}
    for kept in (None, "auto"):  # features from the cache while all is frozen: nothing to compile before it moves
        config["data"]["cache_features"] = kept
        torch.compiler.reset()  # what one run has compiled the next one in its process need not
        run(check(config), tmp_path / f"run_{kept}")
        found[kept] = read_record(tmp_path / f"run_{kept}")["compiled"]
        assert found[kept]["graphs_in_mid_training"] == 0
    assert found[None]["graphs"] >= 2 * found[None]["shapes"]
    assert found["auto"]["shapes"] <= found["auto"]["graphs"] < found[None]["graphs"]


@pytest.mark.slow
def test_batchnorm_and_dropout_see_nothing_of_the_warm_up(compose: Compose, tmp_path: Path) -> None:
    """Without a compiler the run is the same, bit for bit: random state, statistics and gradients were left alone."""
    words = ["experiment=digits_pretrain", "trainer=cpu", "trainer.max_epochs=1", "trainer.limit_train_batches=3"]
    words += ["trainer.limit_val_batches=1", "trainer.limit_test_batches=1", "trainer.enable_progress_bar=false"]
    config = compose(*words, "logger=csv", "data.batch_size=16", "head.dropout=0.5")
    states = []
    for word in (False, "eager"):
        run({**config, "compile": word}, tmp_path / str(word))
        states.append(_state(tmp_path / str(word), "last"))
    assert any("running_mean" in name for name in states[0])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
