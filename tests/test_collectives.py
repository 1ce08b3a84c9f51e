"""Nothing is asked of the other processes by one alone: every collective is entered by all, at the same place."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
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


def _texts(folder: Path, tiny: Tiny, objective: str = "multiclass", judged: int = 13) -> list[str]:
    """Words for the tiny BERT on texts of unlike lengths; the last batch of a split does not come out even."""
    labels, praise = LABELS[objective], ("bad dull", "good fine")
    lines = [f"{praise[i % 2]} film{' very' * (i % 7)},{labels[i % len(labels)]}" for i in range(41)]
    splits = {"train": lines, "val": lines[:judged], "test": lines[:judged]}
    for split, own in splits.items():
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *own]) + "\n")
    files = [f"data.{split}={folder / split}.csv" for split in splits]
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
    "validation every other epoch": ("trainer.check_val_every_n_epoch=2",),
    "a look before the start": ("trainer.num_sanity_val_steps=2",),
    "accumulated": ("trainer.accumulate_grad_batches=2",),
    "without a bar": ("trainer.enable_progress_bar=false",),
    "ema": ("average=ema",),
    "swa": ("average=swa",),
    "steps": ("trainer.max_steps=3", "trainer.max_epochs=-1", "trainer.val_check_interval=2"),
    "no checkpoints": ("callbacks.best=null", "callbacks.last=null"),
}
OF_TEXTS: dict[str, Sequence[str]] = {
    "soup": ("average=soup",),
    "greedy soup": ("average=greedy_soup",),
    "token budgets": ("data.max_tokens=96", "data.shapes=2"),
    "a grid of heads": ("strategy=linear_probe", "head.lr_grid=[0.001,0.05]"),
    "a grid of heads by ece": ("strategy=linear_probe", "head.lr_grid=[0.001,0.05]", "objective.monitor=ece"),
    "merged adapters": ("strategy=lora", "strategy.merge=true"),
    "r_drop": ("regularizer=r_drop",),  # tests/test_ddp.py has the other strategies
}
STOPS = ("callbacks=early_stopping", "callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=2",
         "trainer.max_epochs=6")  # fmt: skip


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
@pytest.mark.parametrize("kind", ["images", "texts"])
def test_early_stopping(kind: str, pair: Pair, compose: Compose, tiny: Tiny, tmp_path: Path) -> None:
    words = DIGITS if kind == "images" else _texts(tmp_path, tiny)
    record = pair.agree(check(compose(*words, *TWO, *QUICKLY, *STOPS)), tmp_path / "run")
    assert record["best"]["epoch"] == 0, "nothing is better by 2"
    assert record["steps"] == 2 * record["best"]["step"]


@pytest.mark.slow
def test_texts_with_all_defaults(pair: Pair, compose: Compose, tiny: Tiny, tmp_path: Path) -> None:
    record = pair.agree(check(compose(*_texts(tmp_path, tiny), *TWO)), tmp_path / "run")
    assert Path(record["wandb"]["folder"]).is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["multilabel", "regression"])
def test_objectives(objective: str, pair: Pair, compose: Compose, tiny: Tiny, tmp_path: Path) -> None:
    pair.agree(check(compose(*_texts(tmp_path, tiny, objective), *TWO, *QUICKLY)), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("objective", LABELS)
def test_fewer_rows_than_processes(objective: str, pair: Pair, compose: Compose, tiny: Tiny, tmp_path: Path) -> None:
    """The second process has nothing to judge by, and its metrics must know what the first one keeps."""
    words = [*_texts(tmp_path, tiny, objective, judged=1), *TWO, *QUICKLY]
    record = pair.agree(check(compose(*words)), tmp_path / "run")
    (loss,) = pq.read_table(tmp_path / "run/predictions.parquet")["loss"].to_pylist()
    assert record["metrics"]["test/loss"] == pytest.approx(loss, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("monitor", ["auroc", "ece", "loss"])
def test_a_grid_of_heads_with_fewer_rows_than_processes(
    monitor: str, pair: Pair, compose: Compose, tiny: Tiny, tmp_path: Path
) -> None:
    grid = ("strategy=linear_probe", "head.lr_grid=[0.001,0.05]", f"objective.monitor={monitor}")
    pair.agree(check(compose(*_texts(tmp_path, tiny, judged=1), *TWO, *QUICKLY, *grid)), tmp_path / "run")


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


@pytest.mark.slow
def test_three_processes_log_what_each_has_found(pair: Pair, compose: Compose, tmp_path: Path) -> None:
    """Their mean is that number to the last bit, which in float32 a third of three times a number need not be."""
    words = [*DIGITS, *TWO, *QUICKLY, "trainer.devices=3", "trainer.max_epochs=6"]
    pair.agree(check(compose(*words)), tmp_path / "run", processes=3)
    rows = json.loads((tmp_path / "run/run.json").read_text())["data"]["rows"]["val"]
    found = [float(value) for _, name, value in curves(tmp_path / "run") if name == "val/accuracy"]
    assert len(set(found)) > 2
    assert found == [float(np.float32(round(value * rows)) / np.float32(rows)) for value in found]


@pytest.mark.slow
@pytest.mark.parametrize("who", ["the first", "the second", "both"])
def test_an_interruption(who: str, pair: Pair, compose: Compose, tmp_path: Path) -> None:
    """Within an epoch, in a validation in its midst, before the first step of an epoch, at the end of one."""
    config = check(compose(*DIGITS, *TWO, *QUICKLY, "trainer.val_check_interval=0.5", "trainer.max_epochs=4"))
    places = [["batch_start", 1], ["validation", 3], ["batch_start", 6], ["epoch_end", 12], ["validation", 18]]
    stop = {"_target_": f"tests.stopping.{'StopAt' if who == 'both' else 'StopRank'}", "places": places}
    config["callbacks"]["here"] = stop if who == "both" else {**stop, "rank": int(who == "the second")}
    record = pair.agree(config, tmp_path / "run", goes_on=True)
    assert len(record["resumed"]) == len(places)
    assert record["steps"] == 24


@pytest.mark.slow
@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_a_loss_that_one_process_cannot_use(on_nan: str, pair: Pair, compose: Compose, tmp_path: Path) -> None:
    config = check(compose(*DIGITS, *TWO, *QUICKLY, f"on_nan={on_nan}"))
    config["callbacks"]["spoils"] = {"_target_": "tests.stopping.Spoils", "rank": 1, "step": 2}
    ended = pair.run(config, tmp_path / "run")
    assert ended.parted is None, f"{ended.parted}\n{ended.printed}"
    assert ended.codes == [2 if on_nan == "stop" else 0] * 2, ended.printed
    assert "is NaN or infinite at step 2" in ended.printed
    assert json.loads((tmp_path / "run/run.json").read_text()).get("skipped_steps") == (None if on_nan == "stop" else 1)


@pytest.mark.slow
def test_a_trial_that_is_pruned(pair: Pair, compose: Compose, tmp_path: Path) -> None:
    config = check(compose(*DIGITS, *TWO, *QUICKLY, "trainer.max_epochs=5"))
    judge = {"_target_": "tests.stopping.hopeless", "_partial_": True}
    config["callbacks"]["pruning"] = {
        "_target_": "tl_lightning.callbacks.Pruning",
        "monitor": "val/accuracy",
        "judge": judge,
    }
    ended = pair.run(config, tmp_path / "run")
    assert ended.parted is None, f"{ended.parted}\n{ended.printed}"
    assert ended.codes == [0, 0], ended.printed
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert (record["status"], record["steps"]) == ("pruned", 12)
