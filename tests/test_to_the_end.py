"""Every strategy with every average, over BatchNorm and over LayerNorm: to the end of the run, or refused in words.

What the run leaves must load again and answer as the model that was tested.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from tests.strategy_cases import CASES, NAMES
from tl_lightning import bootstrap
from tl_lightning.build import build
from tl_lightning.check import check
from tl_lightning.config import config_folder
from tl_lightning.errors import UserError
from tl_lightning.interrupt import StopAtStep
from tl_lightning.record import read_record
from tl_lightning.run import run
from tl_lightning.strategies.merging import MERGED as MERGED_FILE

Tiny = Callable[[str], Path]
Compose = Callable[..., dict[str, Any]]
Configured = Callable[..., dict[str, Any]]
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*isinstance.treespec")

AVERAGES = ("none", *sorted(file.stem for file in (config_folder() / "average").glob("*.yaml")))
MERGED = ("lora", "dora", "rslora", "pissa", "adalora", "ia3", "vera", "oft")
LINEAR, PROMPTS = ("pissa", "ia3", "vera", "oft"), ("prompt", "prefix")
SMALLER = {"pissa": ["strategy.r=2"], "vera": ["strategy.r=4"]}
# over: BatchNorm and convolutions, LayerNorm, BatchNorm and linear layers (for what convolutions do not take)
KINDS: dict[str, tuple[str, ...]] = {
    "norm": ("backbone=small_resnet", "backbone.width=4", "backbone.image_size=8"),
    "layer": ("backbone=hf_text",),
    "dense": ("backbone=small_resnet",),
}
DIGITS = ("data=digits", "data.digits=[0,1]", "data.near_duplicates=false", "data.batch_size=64")
REFUSED = {
    "qlora": r"needs bitsandbytes, which is not installed|on a CUDA GPU, and there is none",
    **dict.fromkeys(LINEAR, "adapts layers of the kinds .* and this backbone has none above its input side"),
    "ia3": "scales keys and values, and this backbone has no layers of such names: name them",
    **dict.fromkeys(PROMPTS, "stands before a text, and this backbone reads none"),
}


def _refused(strategy: str, kind: str) -> str | None:
    return REFUSED.get(strategy) if strategy == "qlora" or kind == "norm" else None


def _cases() -> list[Any]:
    made = []
    for at, strategy in enumerate(NAMES):
        for kind in KINDS:
            if kind == "dense" and strategy not in LINEAR:
                continue
            for number, average in enumerate(AVERAGES):
                quick = kind == ("norm", "layer")[at % 2] and number == at % len(AVERAGES)
                marks = [] if quick else [pytest.mark.slow]
                made.append(pytest.param(strategy, average, kind, marks=marks, id=f"{strategy}-{average}-{kind}"))
    return made


@pytest.fixture
def configured(tiny: Tiny, compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configured:
    monkeypatch.setattr(bootstrap, "FEWEST", 5)
    monkeypatch.setattr(bootstrap, "RESAMPLES", 5)
    monkeypatch.setenv("TL_LIGHTNING_ALLOW", "tests")
    rows = [f"{'good fine' if i % 2 else 'bad dull'} film number {i},{'pos' if i % 2 else 'neg'}" for i in range(60)]
    (tmp_path / "all.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    texts: tuple[str, ...] = (f"backbone.name={tiny('bert')}", "data=text_files", f"data.train={tmp_path / 'all.csv'}")
    texts += ("data.val_fraction=0.2", "data.test_fraction=0.2", "data.batch_size=16", "data.max_length=40")

    def configured(kind: str, *words: str) -> dict[str, Any]:
        common = (
            *("trainer=cpu", "trainer.precision=32-true", "trainer.enable_progress_bar=false", "logger=csv"),
            *("trainer.max_epochs=6", "optimizer.lr=1e-2", "objective.monitor=loss", "name=mini"),
        )
        config = compose(*KINDS[kind], *(texts if kind == "layer" else DIGITS), *common, *words)
        if kind == "dense":
            weights = config["backbone"].get("weights")
            config["backbone"] = {"_target_": "tests.tiny_image.TinyDense", "weights": weights}
        return check(config)

    return configured


def _tested_again(config: dict[str, Any], folder: Path, file: Path) -> dict[str, float]:
    """The metrics of ``test`` from a checkpoint, or from merged weights, of which the backbone has its own already."""
    folder.mkdir()
    parts = build(config, folder, StopAtStep(), [])
    checkpoint = file if file.suffix == ".ckpt" else None
    if checkpoint is None:
        head = {name: value for name, value in load_file(file).items() if name.startswith("head.")}
        assert not parts.task.load_state_dict(head, strict=False).unexpected_keys
    parts.trainer.test(parts.task, datamodule=parts.data, ckpt_path=checkpoint, verbose=False, weights_only=True)
    return {name: float(value) for name, value in parts.trainer.callback_metrics.items()}


@pytest.mark.parametrize(("strategy", "average", "kind"), _cases())
def test_a_run_comes_to_its_end(strategy: str, average: str, kind: str, configured: Configured, tmp_path: Path) -> None:
    words = [f"strategy={strategy}", *CASES[strategy].words, *SMALLER.get(strategy, [])]
    words += [f"average={average}"] if average != "none" else []
    words += ["strategy.merge=true"] if strategy in MERGED else []
    config, folder = configured(kind, *words), tmp_path / "run"
    refused = _refused(strategy, kind)
    if refused is not None:
        with pytest.raises(UserError, match=refused):
            run(config, folder)
        assert not (folder / "checkpoints").exists(), "before training"
        return
    value = run(config, folder)
    record, metrics = read_record(folder), json.loads((folder / "metrics.json").read_text())
    assert (record["status"], record["after"]) == ("finished", None)
    assert record["metrics"] == metrics
    assert value == metrics["val/loss"]
    assert set(record["intervals"]) == {name for name in metrics if name.startswith("test/")}
    assert pq.read_table(folder / "predictions.parquet").num_rows == record["data"]["rows"]["test"]
    assert (record["average"] or {}).get("method", "none") == average
    left = {path.name: path for path in (folder / "checkpoints").iterdir()}
    assert left.keys() == {"best.ckpt", "last.ckpt", *([MERGED_FILE] if strategy in MERGED else [])}
    found = [_tested_again(config, tmp_path / "again", left["best.ckpt"])]
    if strategy in MERGED:
        plain = configured(kind, f"backbone.weights={left[MERGED_FILE]}")
        found.append(_tested_again(plain, tmp_path / "plain", left[MERGED_FILE]))
    for again in found:
        assert again["test/loss"] == pytest.approx(metrics["test/loss"], rel=1e-4)
