"""Stopped anywhere and resumed, every strategy ends bit for bit where the undisturbed run does."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.curves import curves
from tests.stopping import Cleared, StopAt
from tests.strategy_cases import CASES, KINDS
from tl_lightning import bootstrap
from tl_lightning.check import check
from tl_lightning.interrupt import Interrupted
from tl_lightning.record import RECORD, read_record
from tl_lightning.run import run

Tiny = Callable[[str], Path]
Compose = Callable[..., dict[str, Any]]
Place = tuple[str, int]
STEPS, GROUPS = 3, 3  # in an epoch; layer groups of the tiny BERT
SPLITS = {"train": 8 * STEPS, "val": 8, "test": 8}


# Freezing and phases at once; adapters and regularizers, whose own tests resume some, with the slow ones.
NAMES = [
    pytest.param(name, marks=[] if CASES[name].kinds == KINDS else pytest.mark.slow)
    for name in CASES
    if "bert" in CASES[name].kinds
]


@pytest.fixture
def configuration(
    tiny: Tiny, compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    monkeypatch.setattr(bootstrap, "FEWEST", 5)
    monkeypatch.setattr(bootstrap, "RESAMPLES", 5)
    monkeypatch.setattr(StopAt, "done", set())
    monkeypatch.setattr(Cleared, "at", [])
    for split, rows in SPLITS.items():
        lines = [f"a {'fine' if i % 2 else 'dull'} film {split} {i},{'pos' if i % 2 else 'neg'}" for i in range(rows)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,label", *lines]) + "\n")

    def configuration(name: str, *words: str) -> dict[str, Any]:
        case = CASES[name]
        made = compose(
            f"strategy={name}",
            *case.words,
            "backbone=hf_text",
            f"backbone.name={tiny('bert')}",
            "data=text_files",
            *(f"data.{split}={tmp_path / split}.csv" for split in SPLITS),
            "data.batch_size=8",
            "data.max_length=48",  # of the 64 that the model reads: prompts take some
            "optimizer.lr=1e-2",
            "trainer=cpu",
            "trainer.precision=32-true",
            f"trainer.max_epochs={len(case.opened(GROUPS))}",
            "trainer.enable_progress_bar=false",
            "logger=csv",
            "name=mini",
            f"output_dir={tmp_path}",
            *words,
        )
        return check(made)

    return configuration


def _with(config: dict[str, Any], callback: str, **settings: Any) -> dict[str, Any]:
    added: dict[str, Any] = json.loads(json.dumps(config))
    added["callbacks"]["here"] = {"_target_": f"tests.stopping.{callback}", **settings}
    return added


def _end(folder: Path) -> dict[str, Any]:
    stored = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    moments = stored["optimizer_states"][0]["state"]
    values = {f"{number}.{name}": value for number, state in moments.items() for name, value in state.items()}
    return {**stored["state_dict"], **values, "step": torch.tensor(stored["global_step"])}


def _assert_same(straight: Path, other: Path) -> None:
    one, two = _end(straight), _end(other)
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    assert (straight / "metrics.json").read_text() == (other / "metrics.json").read_text()


def _stopped(config: dict[str, Any], folder: Path, places: Sequence[Place], signals: int = 1) -> int:
    """Run to the end in spite of being stopped, by so many signals at once; gives how often that was."""
    disturbed = _with(config, "StopAt", places=[list(place) for place in places], times=signals)
    times = 0
    while True:
        try:
            run({**disturbed, "resume": str(folder) if times else None}, folder)
        except Interrupted:
            times += 1
        else:
            return times


@pytest.mark.parametrize("name", NAMES)
def test_stopped_in_mid_epoch_and_at_an_end(
    name: str, configuration: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = configuration(name)
    run(config, tmp_path / "straight")
    places = [("batch_start", 1), ("validation", STEPS)]
    assert _stopped(config, tmp_path / "stopped", places) == len(places)
    _assert_same(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.parametrize(
    "place",
    [
        ("batch_start", STEPS - 1),
        ("validation", STEPS),
        ("epoch_end", STEPS),
        ("epoch_start", STEPS),
        ("batch_start", STEPS),
        ("batch_start", STEPS + 1),
        ("epoch_end", 2 * STEPS),
    ],
)
@pytest.mark.slow
def test_two_phases_stopped_about_their_border(
    place: Place, configuration: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = configuration("lp_ft")
    run(config, tmp_path / "straight")
    assert _stopped(config, tmp_path / "stopped", [place]) == 1
    _assert_same(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.parametrize(
    ("within", "place"), [(1.0, ("validation", STEPS)), (0.34, ("validation", 1)), (0.34, ("validation", STEPS + 2))]
)
def test_a_validation_broken_off_is_done_anew(
    within: float, place: Place, configuration: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    rows = [f"a {'fine' if i % 2 else 'dull'} film val {i},{'pos' if i % 3 else 'neg'}" for i in range(20)]
    (tmp_path / "val.csv").write_text("\n".join(["text,label", *rows]) + "\n")  # three batches
    # The rate makes the first validation the best: what is not seen again would be missing.
    words = (f"trainer.val_check_interval={within}", "trainer.max_epochs=2", "optimizer.lr=0.3")
    config = configuration("full", *words)
    run(config, tmp_path / "straight")
    assert _stopped(config, tmp_path / "stopped", [place]) == 1
    _assert_same(tmp_path / "straight", tmp_path / "stopped")
    straight, stopped = read_record(tmp_path / "straight"), read_record(tmp_path / "stopped")
    assert straight["best"] == stopped["best"]
    assert curves(tmp_path / "straight") == curves(tmp_path / "stopped")


@pytest.mark.parametrize("place", [("batch_start", 1), ("validation", 1), ("validation", STEPS)])
def test_a_step_of_several_batches_is_taken_whole_or_not_at_all(
    place: Place, configuration: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """A checkpoint holds no gradients: what is saved between two batches of one step has lost those of the first."""
    words = ("trainer.accumulate_grad_batches=2", "data.batch_size=4", "trainer.log_every_n_steps=1")
    # A validation after three of six batches of an epoch, with half of the second step behind it.
    config = configuration("full", *words, "trainer.val_check_interval=0.5", "trainer.max_epochs=2")
    run(config, tmp_path / "straight")
    assert _stopped(config, tmp_path / "stopped", [place]) == 1
    _assert_same(tmp_path / "straight", tmp_path / "stopped")
    logged = curves(tmp_path / "straight")
    assert len([row for row in logged if row[1] == "train/loss"]) == 2 * STEPS
    assert curves(tmp_path / "stopped") == logged


@pytest.mark.parametrize("place", [("batch_start", 1), ("validation", STEPS), ("batch_start", STEPS + 1)])
def test_a_second_signal_ends_within_a_step_and_leaves_no_half_of_it(
    place: Place, configuration: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = configuration("full", "trainer.max_epochs=2", "trainer.log_every_n_steps=1")
    run(config, tmp_path / "straight")
    assert _stopped(config, tmp_path / "stopped", [place], signals=2) == 1
    _assert_same(tmp_path / "straight", tmp_path / "stopped")
    assert curves(tmp_path / "stopped") == curves(tmp_path / "straight")


@pytest.mark.slow
def test_two_phases_killed_right_after_the_checkpoint_of_an_epoch(
    configuration: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = _with(configuration("lp_ft"), "Cleared")
    folder, straight = tmp_path / "killed", tmp_path / "straight"
    run(config, folder)
    assert Cleared.at == [0, STEPS], "once, where the second phase begins"
    shutil.copytree(folder, straight)
    for step in (STEPS, 2 * STEPS):
        shutil.copyfile(straight / f"checkpoints/after_{step}", folder / "checkpoints/last.ckpt")
        (folder / "metrics.json").unlink()
        (folder / RECORD).write_text(json.dumps({**read_record(folder), "status": "interrupted"}))
        Cleared.at.clear()
        run({**config, "resume": str(folder)}, tmp_path / "unused")
        assert Cleared.at == [STEPS][: step == STEPS]
        _assert_same(straight, folder)
