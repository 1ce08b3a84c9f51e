"""Legal words of a trainer, of averages and of parts, one by one to the end of a run: each works, or is refused in
words; and the record claims nothing that did not happen."""

import gc
import inspect
import math
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning
import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from tl_lightning.__main__ import explained
from tl_lightning.check import check
from tl_lightning.errors import UserError
from tl_lightning.finished import finished
from tl_lightning.job import Job
from tl_lightning.record import read_record
from tl_lightning.run import run
from tl_lightning.studies.comparable import chosen_metrics, not_selected
from tl_lightning.studies.listing import main as list_runs
from tl_lightning.studies.reading import Run, read_runs
from tl_lightning.targets import SUPPLIED
from tl_lightning.trial import trial_words

Compose = Callable[..., dict[str, Any]]
RunSmall = Callable[..., Path]
DIGITS = (
    *("backbone=small_resnet", "backbone.image_size=8", "backbone.width=4", "data=digits", "data.digits=[0,1]"),
    *("data.near_duplicates=false", "data.batch_size=64", "trainer.precision=32-true", "optimizer.lr=1e-3"),
)
SELECTED, LAST, TRIAL = "selected", "last weights", "trial"
# What becomes of a run with these words: it selects, it tests its last weights, it is a trial, or it is refused so.
QUICK = {
    "data.cutmix=1": SELECTED,
    "data.mixup=1": SELECTED,
    "trainer.limit_test_batches=0": TRIAL,
    "trainer.limit_test_batches=1": TRIAL,
    "trainer.limit_test_batches=0.01": r"limit_test_batches=0.01 of 1 batches is none",
    "trainer.limit_val_batches=0": TRIAL,
    "trainer.limit_val_batches=0.5": r"limit_val_batches=0.5 of 1 batches is none: .* trainer.limit_val_batches=1 ",
    "trainer.fast_dev_run=true": TRIAL,
    "trainer.overfit_batches=1": r"overfit_batches=1: .* data.shots=4",
    "trainer.max_steps=1": LAST,
    "callbacks.best=null": LAST,
    "callbacks=early_stopping trainer.max_steps=1": LAST,
    "callbacks=early_stopping trainer.limit_val_batches=0": r"limit_val_batches=0, and callbacks.early_stopping",
    "trainer.val_check_interval=100": r"val_check_interval=100: an epoch has \d batches",
    "trainer.devices=[0]": r"trainer: `devices` selected with `CPUAccelerator`",
    "trainer.profiler=xla": r"trainer: Requirement 'torch_xla",
    "optimizer=sgd optimizer.momentum=0 optimizer.nesterov=true": r"optimizer: Nesterov momentum requires a momentum",
}
TRAINER = {
    "accelerator": {"auto": SELECTED, "cpu": SELECTED, "tpu": r"trainer: Requirement|not available", "abc": "invalid"},
    "strategy": {"auto": SELECTED, "fsdp": "GPU accelerator", "deepspeed": "DeepSpeed", "dp": "invalid strategy"},
    "devices": {"1": SELECTED, "'1'": SELECTED, "auto": SELECTED, "-1": "devices", "abc": "devices", "[]": "devices"},
    "num_nodes": {"1": SELECTED, "0": "at least 1"},
    "precision": {
        **dict.fromkeys(("64", "32", "16", "'64'", "bf16", "bf16-true", "bf16-mixed", "16-mixed", "64-true"), SELECTED),
        "transformer-engine": "trainer: Requirement|transformer",
    },
    "fast_dev_run": {"1": TRIAL, "3": TRIAL, "0": SELECTED, "false": SELECTED},
    "max_epochs": {"1": SELECTED, "-1": "needs an end", "null trainer.max_steps=8": SELECTED},
    "min_epochs": {"0": SELECTED, "3": SELECTED, "null": SELECTED},
    "max_steps": {"3": LAST, "8 trainer.max_epochs=-1": SELECTED, "-1": SELECTED, "9007199254740992": SELECTED},
    "min_steps": {"0": SELECTED, "100": SELECTED},
    "max_time": {
        **dict.fromkeys(("00:00:01:00", "{hours:1,minutes:2}", "null"), SELECTED),
        "00:00:00:00": LAST,
        "abc": "valid duration",
        "{lightyears:1}": "weeks or days",
        "{seconds:x}": "a mapping",
        "{weeks:9007199254740992}": "trainer: ",
    },
    "limit_train_batches": {"1": SELECTED, "0.5": SELECTED, "1.0": SELECTED, "0.001": "is none", "0": "at least 1"},
    "limit_val_batches": {"0.0": TRIAL, "1": SELECTED, "1.0": SELECTED, "0.01": "is none", "1.5": "at most 1"},
    "limit_test_batches": {"0.0": TRIAL, "1.0": SELECTED, "7": TRIAL, "null": SELECTED},
    "limit_predict_batches": {"0": SELECTED, "1": SELECTED},
    "overfit_batches": {"0": SELECTED, "0.0": SELECTED, "0.5": "data.shots", "1.0": "data.shots"},
    "val_check_interval": {
        **dict.fromkeys(("1", "2", "0.5", "1.0", "0.001", "null"), SELECTED),
        "00:01:00:00": LAST,
        "{hours:1}": LAST,
        "abc": "Invalid time format",
        "0": "at least 1",
    },
    "check_val_every_n_epoch": {
        "1": SELECTED,
        "5": LAST,
        "null": SELECTED,
        "null trainer.val_check_interval=3": SELECTED,
        "null trainer.val_check_interval=100": LAST,
    },
    "num_sanity_val_steps": {"0": SELECTED, "2": SELECTED, "-1": SELECTED, "null": SELECTED, "-2": "at least 0"},
    "log_every_n_steps": {"1": SELECTED, "1000": SELECTED, "null": SELECTED},
    "enable_checkpointing": {
        "true": SELECTED,
        "null": SELECTED,
        "false": "callbacks.best=null callbacks.last=null",
        "false callbacks.best=null callbacks.last=null": LAST,
    },
    "enable_progress_bar": {"true": SELECTED, "null": SELECTED},
    "enable_model_summary": {"true": SELECTED, "null": SELECTED},
    "accumulate_grad_batches": {"1": SELECTED, "3": SELECTED, "100": SELECTED},
    "gradient_clip_val": {"null": SELECTED, "0": SELECTED, "1": SELECTED, "0.5": SELECTED},
    "gradient_clip_algorithm": {
        "norm": SELECTED,
        "value": SELECTED,
        "null": SELECTED,
        "abc": "norm or value or null is expected",
        "value trainer.gradient_clip_val=null": SELECTED,
    },
    "deterministic": {"true": SELECTED, "warn": SELECTED, "null": SELECTED},
    "benchmark": {"true": SELECTED, "null": SELECTED},
    "inference_mode": {"false": SELECTED},
    "profiler": {"simple": SELECTED, "advanced": SELECTED, "pytorch": SELECTED, "abc": "it can only be one of"},
    "detect_anomaly": {"true": SELECTED},
    "barebones": {"true": "trainer.barebones=false", "false": SELECTED},
    "plugins": {"null": SELECTED},
    "sync_batchnorm": {"true": SELECTED},
    "reload_dataloaders_every_n_epochs": {"0": SELECTED, "1": SELECTED},
    "enable_autolog_hparams": {"false": SELECTED},
    "model_registry": {"abc": SELECTED},
}
UNSEEN = {  # words under which no validation happens, and what each makes of a run
    "trainer.limit_val_batches=0": TRIAL,
    "trainer.fast_dev_run=true": TRIAL,
    "trainer.max_steps=2": LAST,
    "callbacks.best=null": LAST,
}
PARTS = {
    **{f"average={kind} {words}": outcome for kind in ("ema", "swa") for words, outcome in UNSEEN.items()},
    **{f"average={kind} trainer.{word}": SELECTED for kind in ("ema", "swa") for word in (
        "inference_mode=false", "accumulate_grad_batches=100", "precision=bf16-true", "val_check_interval=2")},
    **{f"average={kind} trainer.limit_test_batches=0": TRIAL for kind in ("ema", "swa")},
    **{f"strategy=linear_probe {words}": outcome for words, outcome in UNSEEN.items()},
    "strategy=linear_probe trainer.limit_test_batches=0": TRIAL,
    "strategy=linear_probe head.lr_grid=[1,0.01] head.weight_decay_grid=[0,1]": SELECTED,
    "strategy=linear_probe head.lr_grid=[1,1.0]": "each once",
    "strategy=linear_probe head.lr_grid=[0.1,0.01] trainer.limit_val_batches=0": "head.lr_grid chooses by val",
    "strategy=linear_probe head.lr_grid=[0.1,0.01] trainer.max_steps=2": "no head was chosen",
    "strategy=linear_probe head.lr_grid=[0.1,0.01] trainer.fast_dev_run=true": TRIAL,
    "strategy=linear_probe head.lr_grid=[0.1,0.01] callbacks.best=null": LAST,
    "strategy=lora strategy.targets=[]": r"strategy.targets=\[\]",
    "strategy=lora strategy.alpha=0": SELECTED,
    "regularizer=r_drop regularizer.alpha=0 head.dropout=0.5": SELECTED,
    "regularizer=mixout regularizer.p=0": SELECTED,
    "callbacks=early_stopping callbacks.early_stopping.patience=1 callbacks.early_stopping.min_delta=1": SELECTED,
    "callbacks=early_stopping callbacks.best=null": LAST,
    "callbacks.best=null callbacks.last=null callbacks.random_state=null": LAST,
    "optimizer.fused=true optimizer.foreach=true": "optimizer: `fused` and `foreach`",
    "optimizer.differentiable=true optimizer.fused=false": "optimizer: a leaf Variable",
    "optimizer.capturable=true optimizer.fused=false": "optimizer: If capturable=True",
    "optimizer.amsgrad=true": SELECTED,
    "optimizer.betas=[0,0]": SELECTED,
    "optimizer.eps=0.5": SELECTED,
    "schedule.warmup=0.999": SELECTED,
    "schedule=slanted_triangular schedule.ratio=1": SELECTED,
    "data.batch_size=1 data.shots=2 data.eval_batch_size=1": SELECTED,
    "data.batch_size=9007199254740992": SELECTED,
    "data.batch_size=9007199254740993": r"between -2\*\*53 and 2\*\*53",
    "data.shots=100000": SELECTED,
    "data.train_fraction=1": SELECTED,
    "data.train_fraction=0.0001": SELECTED,
    "data.val_fraction=0.5 data.test_fraction=0.5": "must stay below 1",
    "data.mixup=1 data.cutmix=1": SELECTED,
    "data.mixup=1 data.mix_off_epochs=100": SELECTED,
    "data.random_erasing=1": SELECTED,
    "data.crop_scale=[1,1]": SELECTED,
    "data.crop_scale=[1,0.5]": "the smaller first",
    "data.crop_scale=[0.5]": r"data.crop_scale=\[0.5\]: a list \(\[a,b\]\) of a number and a number or null",
    "data.digits=[0,10]": r"data.digits\[1\]=10: at most 9",
    "data.cache=ram": SELECTED,
    "head.dropout=0": SELECTED,
    "head=mlp head.hidden=1": SELECTED,
    "head=mlp head.hidden=1000000000000": "can't allocate memory",
    "objective.monitor=loss": SELECTED,
    "objective.label_smoothing=0.999": SELECTED,
    "objective=multilabel objective.threshold=0.999": SELECTED,
    "objective=regression": SELECTED,
    "seed=4294967295 data.split_seed=9007199254740992": SELECTED,
}  # fmt: skip


def _walk(words: str, outcome: str, run_small: RunSmall, compose: Compose) -> None:
    asked = (*DIGITS, *words.split())
    if outcome in (SELECTED, LAST, TRIAL):
        _is_honest(run_small(*asked), outcome)
        return
    with pytest.raises(Exception, match=outcome) as caught:
        run_small(*asked)
    told = explained(caught.value)
    del caught
    gc.collect()  # what Lightning has made in part complains as it goes: here, not in the test after this one
    assert told is not None, "this would be a traceback"


def _is_honest(folder: Path, outcome: str) -> None:
    """The record says what the folder holds: a best checkpoint, metrics of a choice, predictions of a test."""
    record, config = read_record(folder), check_of(folder)
    assert record["status"] == "finished"
    chose, metrics = record["selected_by"] is not None, record["metrics"]
    assert (record["trial"] is not None) == (outcome == TRIAL) == bool(trial_words(config))
    assert chose or outcome != SELECTED
    assert not chose or outcome != LAST
    assert chose == (folder / "checkpoints/best.ckpt").exists()
    assert chose == (record["best"] is not None) == any(name.startswith("val/") for name in metrics)
    if chose:
        assert math.isfinite(metrics[record["selected_by"]])
    tested = any(name.startswith("test/") for name in metrics)
    assert tested == (folder / "predictions.parquet").exists() == bool(record["intervals"])


def check_of(folder: Path) -> Mapping[str, Any]:
    """The trainer's node of a run."""
    import yaml

    content: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
    return content["trainer"]  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("words", QUICK)
def test_a_word_works_or_is_refused(words: str, run_small: RunSmall, compose: Compose) -> None:
    _walk(words, QUICK[words], run_small, compose)


MATRIX = {f"trainer.{name}={value}": TRAINER[name][value] for name in TRAINER for value in TRAINER[name]} | PARTS


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's advice about unusual words
@pytest.mark.parametrize("words", MATRIX)
def test_every_word_works_or_is_refused(words: str, run_small: RunSmall, compose: Compose) -> None:
    _walk(words, MATRIX[words], run_small, compose)


def test_every_word_of_the_trainer_is_walked() -> None:
    taken = set(inspect.signature(lightning.Trainer).parameters) - SUPPLIED["trainer"]
    assert set(TRAINER) == taken


def test_a_trial_is_left_out_of_comparisons_and_told_apart(
    run_small: RunSmall, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run_small(*DIGITS)
    tried = whole.with_name("run_2")
    run_small(*DIGITS, "trainer.fast_dev_run=true")
    runs, notes = read_runs([whole, tried])
    assert [one.folder for one in runs] == [whole]
    assert notes == [f"left out: {tried} only tried something (trainer.fast_dev_run=true)"]
    (tried / "checkpoints/best.ckpt").touch()
    with pytest.raises(UserError, match=r"only tried something \(trainer.fast_dev_run=true\)"):
        finished(tried)
    capsys.readouterr()
    list_runs([f"dir={whole.parent}", "status=trial"])
    told = capsys.readouterr().out
    assert "1 trial" in told
    assert " finished " not in told


@pytest.mark.parametrize(
    ("words", "trial"),
    [
        ({}, []),
        ({"limit_test_batches": 1.0, "limit_val_batches": 1, "fast_dev_run": False, "overfit_batches": 0.0}, []),
        ({"limit_test_batches": 1}, ["trainer.limit_test_batches=1"]),
        ({"limit_test_batches": 0.5}, ["trainer.limit_test_batches=0.5"]),
        ({"limit_val_batches": 0.0}, ["trainer.limit_val_batches=0.0"]),
        ({"fast_dev_run": True}, ["trainer.fast_dev_run=true"]),
        ({"fast_dev_run": 3, "overfit_batches": 2}, ["trainer.fast_dev_run=3", "trainer.overfit_batches=2"]),
    ],
)
def test_what_makes_a_trial(words: dict[str, Any], trial: list[str]) -> None:
    assert trial_words(words) == trial


def _run_of(selected_by: str | None, folder: str) -> Run:
    return Run(Path(folder), {"selected_by": selected_by, "metrics": {"test/accuracy": 0.5, "test/f1": 0.4}}, {})


def test_runs_that_selected_nothing_are_compared_by_a_named_metric_alone() -> None:
    last, best = _run_of(None, "a"), _run_of("val/accuracy", "b")
    with pytest.raises(UserError, match="Nothing was selected on val in a: say which metric, as metric=NAME"):
        chosen_metrics([last], [])
    with pytest.raises(UserError, match="selected by different metrics"):
        chosen_metrics([last, best], [])
    assert chosen_metrics([last, best], ["f1"]) == ["f1"]
    assert chosen_metrics([best], []) == ["accuracy"]
    assert not_selected([last, best]) == [
        "tested with the weights at the end, since nothing was selected on val: a",
    ]
    assert not_selected([best]) == []


class Deleting(Callback):
    """Somebody deletes the run directory after an optimizer step, or after the test."""

    def __init__(self, folder: Path, step: int | None) -> None:
        self.folder, self.step = folder, step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        if trainer.global_step == self.step and self.folder.exists():
            shutil.rmtree(self.folder)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.step is None:
            shutil.rmtree(self.folder)


WHOLE = {"run.json", "config.yaml", "metrics.json", "predictions.parquet"}


@pytest.mark.parametrize("step", [1, 3, None])
def test_a_run_whose_directory_is_deleted_writes_its_results(
    step: int | None, compose: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    config = check(compose(*DIGITS, "trainer.max_epochs=2", "trainer=cpu", "trainer.max_epochs=2", "logger=csv"))
    config["trainer"]["enable_progress_bar"] = False
    run(config, folder, job=Job(callbacks=[Deleting(folder, step)]))
    assert {path.name for path in folder.iterdir()} >= WHOLE
    record = read_record(folder)
    assert record["status"] == "finished"
    assert record["metrics"]["test/accuracy"] > 0
    assert "was deleted while the run went on" in caplog.text


def test_the_best_weights_that_are_deleted_are_told(compose: Compose, tmp_path: Path) -> None:
    """The directory goes after the last validation: what was best is lost, and nothing else is tested in its place."""
    folder = tmp_path / "run"
    config = check(compose(*DIGITS, "trainer=cpu", "trainer.max_steps=6", "logger=csv"))
    config["trainer"]["enable_progress_bar"] = False
    with pytest.raises(UserError, match=r"best.ckpt is gone: it was deleted while the run went on"):
        run(config, folder, job=Job(callbacks=[Deleting(folder, 5)]))
    record = read_record(folder)
    assert record["status"] == "failed"
    assert re.search("best.ckpt is gone", record["error"])
