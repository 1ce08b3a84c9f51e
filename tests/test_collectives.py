"""Nothing is asked of the other processes by one alone: every collective is entered by all, at the same place."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.collectives import difference
from tests.curves import curves
from tests.pair import Pair
from tests.strategy_cases import CASES
from tl_lightning.check import check

Tiny = Callable[[str], Path]
Compose = Callable[..., dict[str, Any]]
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true")
DIGITS = (
    *("backbone=small_resnet", "backbone.image_size=8", "data=digits", "data.digits=[0,1,2]"),
    *("data.near_duplicates=false", "data.batch_size=32", "trainer.max_epochs=2"),
)
UNFREEZES = "trainer.strategy=ddp_find_unused_parameters_true"
QUICKLY = ("logger=csv", "trainer.log_every_n_steps=1")
LABELS = {"multiclass": "ab", "multilabel": ("a", "b", "a|b", "a|c"), "regression": ("0.5", "1", "-2", "3.25")}


def _texts(folder: Path, tiny: Tiny, rows: int = 41, objective: str = "multiclass") -> list[str]:
    """Words for the tiny BERT on texts of unlike lengths; the last batch of a split does not come out even."""
    labels = LABELS[objective]
    lines = [
        f"{'good fine' if i % 2 else 'bad dull'} film{' very' * (i % 7)},{labels[i % len(labels)]}" for i in range(rows)
    ]
    for split in ("train", "val", "test"):
        (folder / f"{split}.csv").write_text(
            "\n".join(["text,label", *lines[: rows if split == "train" else 13]]) + "\n"
        )
    files = [f"data.{split}={folder / split}.csv" for split in ("train", "val", "test")]
    model = ["backbone=hf_text", f"backbone.name={tiny('bert')}", "data=text_files", f"objective={objective}"]
    return [*model, *files, "data.batch_size=4", "trainer.max_epochs=2"]


def test_images_with_all_defaults(pair: Pair, compose: Compose, tmp_path: Path) -> None:
    """What a user types: a progress bar, W&B offline, intervals, a curve of each metric."""
    ended = pair.run(check(compose(*DIGITS, *TWO)), tmp_path / "run")
    assert ended.parted is None, f"{ended.parted}\n{ended.printed}"
    assert ended.codes == [0, 0], ended.printed
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert (record["status"], record["device"]) == ("finished", "2 x cpu")
    assert record["intervals"]["test/accuracy"]
    assert Path(record["wandb"]["folder"]).is_dir()
    assert "Epoch 1: 100%" in ended.printed
    assert "val/accuracy=" in ended.printed
    assert "sync_dist" not in ended.printed, "no advice that would bring a reduction back to the first reader"
    assert {name for _, name, _ in curves(tmp_path / "run")} >= {"train/loss", "val/accuracy", "val/loss"}


def test_one_rank_that_reduces_by_itself_is_found(pair: Pair, compose: Compose, tmp_path: Path) -> None:
    """Both reduce one number at the same time, so nothing crashes."""
    config = check(compose(*DIGITS, *TWO, *QUICKLY))
    config["callbacks"]["apart"] = {"_target_": "tests.stopping.ReducesApart"}
    ended = pair.run(config, tmp_path / "run")
    assert ended.codes == [0, 0], ended.printed
    assert ended.parted is not None
    assert [line.split()[-1] for line in ended.parted.splitlines() if "tests.stopping" in line][::2] == [
        "here",
        "there",
    ]


def test_what_differs_between_ranks_is_told(tmp_path: Path) -> None:
    one, other, longer = (tmp_path / name for name in ("one", "other", "longer"))
    same, inner = ["barrier", [], ["reduce", "bar"]], ["all_reduce", ["torch.float32 []"], ["reduce", "last"]]
    for path, calls in ((one, [same, same]), (other, [same, inner]), (longer, [same, same, inner])):
        path.write_text("".join(json.dumps(call) + "\n" for call in calls))
    assert difference([one, one]) is None
    told = difference([one, other])
    assert told is not None
    assert told.splitlines()[1:] == [
        "  rank 0: barrier()",
        "    bar",
        "  rank 1: all_reduce(torch.float32 [])",
        "    last",
    ]
    told = difference([one, longer])
    assert told is not None
    assert "rank 0: none" in told


ROADS: dict[str, Sequence[str]] = {
    "validation within an epoch": ("trainer.val_check_interval=0.5",),
    "early stopping": ("callbacks=early_stopping", "callbacks.early_stopping.patience=1", "optimizer.lr=0",
                       "trainer.max_epochs=6"),
    "validation every other epoch": ("trainer.check_val_every_n_epoch=2",),
    "a look before the start": ("trainer.num_sanity_val_steps=2",),
    "accumulated": ("trainer.accumulate_grad_batches=2",),
    "without a bar": ("trainer.enable_progress_bar=false",),
    "ema": ("average=ema",),
    "swa": ("average=swa",),
    "steps": ("trainer.max_steps=3", "trainer.max_epochs=-1", "trainer.val_check_interval=2"),
    "no checkpoints": ("callbacks.best=null", "callbacks.last=null"),
    **{name: (f"regularizer={name}",) for name in ("l2_sp", "mixout", "r_drop", "feature_distill", "sam")},
}  # fmt: skip
OF_TEXTS: dict[str, Sequence[str]] = {
    "soup": ("average=soup",),
    "greedy soup": ("average=greedy_soup",),
    "token budgets": ("data.max_tokens=96", "data.shapes=2"),
    "a grid of heads": ("strategy=linear_probe", "head.lr_grid=[0.001,0.05]"),
    "a grid of heads by ece": ("strategy=linear_probe", "head.lr_grid=[0.001,0.05]", "objective.monitor=ece"),
    "merged adapters": ("strategy=lora", "strategy.merge=true"),
}


@pytest.mark.slow
@pytest.mark.parametrize("road", ROADS)
def test_images(road: str, pair: Pair, compose: Compose, tmp_path: Path) -> None:
    pair.agree(check(compose(*DIGITS, *TWO, *QUICKLY, *ROADS[road])), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("road", [*ROADS, *OF_TEXTS])
def test_texts(road: str, pair: Pair, compose: Compose, tiny: Tiny, tmp_path: Path) -> None:
    words = [*_texts(tmp_path, tiny), *TWO, *QUICKLY, *{**ROADS, **OF_TEXTS}[road]]
    pair.agree(check(compose(*words)), tmp_path / "run")


@pytest.mark.slow
def test_texts_with_all_defaults(pair: Pair, compose: Compose, tiny: Tiny, tmp_path: Path) -> None:
    record = pair.agree(check(compose(*_texts(tmp_path, tiny), *TWO)), tmp_path / "run")
    assert Path(record["wandb"]["folder"]).is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["multilabel", "regression"])
def test_objectives(objective: str, pair: Pair, compose: Compose, tiny: Tiny, tmp_path: Path) -> None:
    pair.agree(check(compose(*_texts(tmp_path, tiny, objective=objective), *TWO, *QUICKLY)), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [name for name, case in CASES.items() if "resnet" in case.kinds])
def test_strategies_on_images(strategy: str, pair: Pair, compose: Compose, tmp_path: Path) -> None:
    """Those on texts: tests/test_ddp.py."""
    case = CASES[strategy]
    epochs = f"trainer.max_epochs={len(case.opened(4))}"
    words = [*DIGITS, *TWO, *QUICKLY, UNFREEZES, f"strategy={strategy}", *case.words, epochs]
    pair.agree(check(compose(*words)), tmp_path / "run")


@pytest.mark.slow
def test_callbacks_of_a_users_that_leave_the_reduction_to_the_reader(
    pair: Pair, compose: Compose, tmp_path: Path
) -> None:
    config = check(compose(*DIGITS, *TWO, *QUICKLY, "trainer.val_check_interval=0.5"))
    config["callbacks"] = {"own": {"_target_": "tests.stopping.LogsWithSyncDist"}, **config["callbacks"]}
    pair.agree(config, tmp_path / "run")
    found = [float(value) for _, name, value in curves(tmp_path / "run") if name == "own/rank"]
    assert found == [0.5, 0.5], "the mean of ranks 0 and 1, after each of two epochs"
