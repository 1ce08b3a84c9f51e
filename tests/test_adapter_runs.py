"""Whole runs with adapters: stopped and resumed, merged, small on the disk, and refused before a model loads."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.adapted import QUIET, Tiny
from tl_lightning import build as building
from tl_lightning.check import check
from tl_lightning.config import config_folder
from tl_lightning.errors import UserError
from tl_lightning.interrupt import Interrupted, StopAtStep
from tl_lightning.record import read_record
from tl_lightning.run import run

pytestmark = [pytest.mark.filterwarnings(*QUIET)]
Compose = Callable[..., dict[str, Any]]
STEPS = 4  # in an epoch: 32 rows to train on, 8 in a batch; two epochs
RESUMED = {
    "lora": ["strategy.r=2", "strategy.dropout=0.1"],
    "dora": ["strategy.r=2"],
    "rslora": ["strategy.r=2"],
    "pissa": ["strategy.r=2"],
    "adalora": ["strategy.target_r=1", "strategy.init_r=3"],
    "ia3": [],
    "vera": ["strategy.r=4"],
    "oft": ["strategy.block_size=8", "strategy.dropout=0.5"],
    "prompt": ["strategy.tokens=3"],
    "prefix": ["strategy.tokens=3"],
}
QUICK = [("lora", 3), ("adalora", 3), ("pissa", STEPS), ("vera", 3)]
ALL = [(name, step) for name in RESUMED for step in (3, STEPS)]
Configured = Callable[..., dict[str, Any]]


@pytest.fixture
def configured(tiny: Tiny, compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configured:
    from tl_lightning import bootstrap

    monkeypatch.setattr(bootstrap, "RESAMPLES", 5)
    rows = [f"{'good fine' if i % 2 else 'bad dull'} film number {i},{'pos' if i % 2 else 'neg'}" for i in range(48)]
    for name, part in (("train", rows[:32]), ("val", rows[32:40]), ("test", rows[40:])):
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "\n".join(part) + "\n")

    def configured(strategy: str, *words: str) -> dict[str, Any]:
        common = (
            "backbone=hf_text",
            f"backbone.name={tiny('bert')}",
            "data=text_files",
            *(f"data.{name}={tmp_path / f'{name}.csv'}" for name in ("train", "val", "test")),
            "data.batch_size=8",
            "data.max_length=32",
            "optimizer.lr=1e-2",
            "trainer=cpu",
            "trainer.precision=32-true",
            "trainer.max_epochs=2",
            "trainer.enable_progress_bar=false",
            "logger=csv",
            "name=mini",
            f"output_dir={tmp_path}",
        )
        return check(compose(*common, f"strategy={strategy}", *words))

    return configured


def _state(folder: Path) -> dict[str, torch.Tensor]:
    loaded = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    return {**loaded["state_dict"], "steps": torch.tensor(loaded["global_step"])}


def _stopped_and_resumed(config: dict[str, Any], folder: Path, step: int) -> None:
    disturbed = json.loads(json.dumps(config))
    disturbed["callbacks"]["signal"] = {
        "_target_": "tests.test_run.SignalAt", "signum": int(signal.SIGTERM), "stage": "train", "step": step,
    }  # fmt: skip
    with pytest.raises(Interrupted):
        run(disturbed, folder)
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    del stored["callbacks"]["signal"]
    (folder / "config.yaml").write_text(yaml.safe_dump(stored, sort_keys=False))
    run({**config, "resume": str(folder)}, folder / "unused")


@pytest.mark.parametrize(
    ("name", "step"), [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in ALL]
)
def test_a_resumed_run_ends_as_the_undisturbed_one(
    name: str, step: int, configured: Configured, tmp_path: Path
) -> None:
    config = configured(name, *RESUMED[name])
    straight, stopped = tmp_path / "mini/straight", tmp_path / "mini/stopped"
    run(config, straight)
    _stopped_and_resumed(config, stopped, step)
    one, other = _state(straight), _state(stopped)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    for file in ("metrics.json", "predictions.parquet"):
        assert (straight / file).read_bytes() == (stopped / file).read_bytes()
    record = read_record(straight)
    assert record["parameters"]["trained"] == sum(v.numel() for k, v in one.items() if k != "steps")
    assert record["parameters"]["trained"] < record["parameters"]["all"]


def test_every_adapter_has_a_file_that_passes_the_check(compose: Compose) -> None:
    files = {file.stem: yaml.safe_load(file.read_text()) for file in (config_folder() / "strategy").glob("*.yaml")}
    assert {*RESUMED, "qlora"} <= files.keys()
    check(compose("+experiment=bert_sst2", "strategy=qlora"))
    for name, words in RESUMED.items():
        node = check(compose("+experiment=bert_sst2", f"strategy={name}", *words))["strategy"]
        assert node["_target_"] == files[name]["_target_"]
        assert all(str(node[word.split(".")[1].split("=")[0]]) == word.split("=")[1] for word in words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["strategy=lora", "strategy.r=0"], "strategy.r=0: at least 1 is expected"),
        (["strategy=lora", "strategy.rank=4"], "strategy.rank: LoRA takes no rank"),
        (["strategy=lora", "strategy.targets=query"], "strategy.targets='query': a list"),
        (["strategy=adalora", "strategy.final=1.5"], "strategy.final=1.5: below 1 is expected (and at least 0)"),
        (["strategy=prompt", "strategy.layer_decay=0.9"], "strategy.layer_decay: PromptTuning takes no layer_decay"),
    ],
)
def test_a_wrong_word_is_refused_by_the_check(words: list[str], message: str, compose: Compose) -> None:
    with pytest.raises(UserError) as caught:
        check(compose("+experiment=bert_sst2", *words))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["lora", "adalora"])
def test_the_best_checkpoint_is_merged_into_a_file_that_a_backbone_loads(
    name: str, configured: Configured, tmp_path: Path
) -> None:
    folder = tmp_path / "mini/merged"
    run(configured(name, *RESUMED[name], "strategy.merge=true"), folder)
    file = folder / "checkpoints/merged.safetensors"
    from safetensors.torch import load_file

    (tmp_path / "other").mkdir()
    parts = building.build(configured("full", f"backbone.weights={file}"), tmp_path / "other", StopAtStep(), [])
    head = {key: value for key, value in load_file(file).items() if key.startswith("head.")}
    assert not parts.task.load_state_dict(head, strict=False).unexpected_keys
    parts.trainer.test(parts.task, datamodule=parts.data, verbose=False)
    found = {name: float(value) for name, value in parts.trainer.callback_metrics.items()}
    expected = json.loads((folder / "metrics.json").read_text())
    assert found["test/loss"] == pytest.approx(expected["test/loss"], abs=1e-5)
    assert found["test/accuracy"] == expected["test/accuracy"]


def test_a_missing_package_is_told_before_the_model_is_made(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tl_lightning.strategies import adapters

    monkeypatch.setattr(adapters, "find_spec", lambda _: None)
    config = configured("lora", "backbone.name=./nowhere")
    with pytest.raises(UserError, match=r"pip install 'tl_lightning\[peft\]'"):
        building.build(config, tmp_path, StopAtStep(), [])


def test_adalora_refuses_a_training_too_short_to_allocate_in(configured: Configured, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot spread its ranks over 3 steps"):
        run(configured("adalora", "trainer.max_steps=3"), tmp_path / "mini/short")
