"""Weight averages: by hand, in both checkpoints, through BatchNorm, with any strategy, and over a resume."""

import json
import os
import signal
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn

from tests.curves import curves
from tests.small import batches, fit, task_of
from tl_lightning.averaging import EMA, SWA, Average
from tl_lightning.callbacks import Best, Last
from tl_lightning.check import check
from tl_lightning.config import config_folder
from tl_lightning.errors import UserError
from tl_lightning.interrupt import Interrupted
from tl_lightning.record import read_record
from tl_lightning.run import run
from tl_lightning.soup import Soup, mean
from tl_lightning.strategies import FineTuning, LinearProbe
from tl_lightning.task import TransferTask

Tiny = Callable[[str], Path]
Compose = Callable[..., dict[str, Any]]
State = dict[str, Tensor]
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*isinstance.treespec",
    "ignore:.*in eval mode at the start of training",
    "ignore:Checkpoint directory .* exists and is not empty",
)
WORDS = sorted(file.stem for file in (config_folder() / "average").glob("*.yaml"))
EPOCHS, STEPS = 3, 3
MONITOR = "val/loss"


class Trail(Callback):
    """Notes the weights before the first and after every step."""

    def __init__(self) -> None:
        self.weights: list[State] = []

    def _note(self, module: LightningModule) -> None:
        self.weights.append({name: value.clone() for name, value in module.state_dict().items()})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._note(pl_module)


def _fit(
    average: Average, folder: Path, task: TransferTask | None = None, epochs: int = EPOCHS
) -> tuple[TransferTask, Trail]:
    task, trail = task or task_of(FineTuning()), Trail()
    kept = [Best(MONITOR, "min", folder), average, Last(MONITOR, "min", folder)]
    fit(task, batches(STEPS), epochs, callbacks=[trail, *kept])
    return task, trail


def _loaded(folder: Path, name: str) -> dict[str, Any]:
    return torch.load(folder / f"{name}.ckpt", weights_only=True)  # type: ignore[no-any-return]


def _close(found: State, wanted: State) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5, msg=name)


# --- the exponential average


@pytest.mark.parametrize(("decay", "warmup"), [(0.9, False), (0.6, True), (0.999, True)])
def test_ema_is_the_formula_at_every_step(decay: float, warmup: bool, tmp_path: Path) -> None:
    average = EMA(decay, warmup)
    _, trail = _fit(average, tmp_path)
    wanted = {name: value.double() for name, value in trail.weights[0].items()}
    for step, current in enumerate(trail.weights[1:], start=1):
        keep = min(decay, 1 - (1 + step) ** (-2 / 3)) if warmup else decay
        wanted = {name: keep * value + (1 - keep) * current[name].double() for name, value in wanted.items()}
    assert len(trail.weights) == 1 + EPOCHS * STEPS
    _close(average.state_dict()["values"], {name: value.float() for name, value in wanted.items()})
    assert average.facts() == {"method": "ema", "updates": EPOCHS * STEPS}


def test_an_accumulated_batch_is_no_step(tmp_path: Path) -> None:
    average, task = EMA(), task_of(FineTuning())
    fit(task, batches(4), 1, callbacks=[average], accumulate_grad_batches=2)
    assert average.count == 2


# --- the mean of epoch ends


def test_swa_is_the_mean_of_the_epoch_ends_from_its_start_on(tmp_path: Path) -> None:
    average = SWA(start=0.5)
    _, trail = _fit(average, tmp_path, epochs=5)
    ends = trail.weights[STEPS::STEPS]
    wanted = {name: torch.stack([end[name] for end in ends[2:]]).mean(0) for name in ends[0]}
    assert average.count == 3
    _close(average.state_dict()["values"], wanted)


def test_best_is_chosen_anew_once_the_mean_begins(tmp_path: Path) -> None:
    """A rate so high that training diverges: the first epoch is the best, and no average."""
    task = task_of(FineTuning(), lr=30.0)
    _, trail = _fit(SWA(start=0.5), tmp_path, task, epochs=2)
    assert _loaded(tmp_path, "best")["global_step"] == 2 * STEPS
    _close(_loaded(tmp_path, "best")["state_dict"], trail.weights[-1])


def test_swa_needs_to_know_the_epochs_and_warns_of_one() -> None:
    with pytest.raises(UserError, match=r"average=swa .* trainer\.max_epochs=10"):
        fit(task_of(FineTuning()), batches(1), -1, callbacks=[SWA()], max_steps=1)


def test_swa_of_one_epoch_says_so(caplog: pytest.LogCaptureFixture) -> None:
    fit(task_of(FineTuning()), batches(1), 1, callbacks=[SWA()])
    assert "which is no average" in caplog.text


# --- what is stored, what is validated


@pytest.mark.parametrize("make", [lambda: EMA(0.9), lambda: SWA(0.3)])
def test_best_holds_the_average_and_last_both(make: Callable[[], Average], tmp_path: Path) -> None:
    average = make()
    task, trail = _fit(average, tmp_path)
    best, last = _loaded(tmp_path, "best"), _loaded(tmp_path, "last")
    (stored,) = (state for key, state in last["callbacks"].items() if type(average).__name__ in key)
    assert best["global_step"] == EPOCHS * STEPS, "the loss falls here"
    _close(best["state_dict"], stored["values"])
    _close(last["state_dict"], trail.weights[-1])
    assert not torch.equal(best["state_dict"]["head.weight"], last["state_dict"]["head.weight"])
    _close(dict(task.state_dict()), best["state_dict"])


@pytest.mark.parametrize("make", [lambda: EMA(0.9), lambda: SWA(0.3)])
def test_the_metrics_of_val_are_those_of_the_average(make: Callable[[], Average], tmp_path: Path) -> None:
    task, _ = _fit(make(), tmp_path)
    other = task_of(FineTuning())
    other.load_state_dict(_loaded(tmp_path, "best")["state_dict"])
    other.eval()
    with torch.no_grad():
        losses = torch.cat([other.objective.losses(other(inputs), target) for inputs, target, _ in batches(STEPS)])
    assert float(task.trainer.callback_metrics[MONITOR]) == pytest.approx(float(losses.mean()), rel=1e-5)


@pytest.mark.parametrize("middle", ["none", "dropout", "norm"])
@pytest.mark.parametrize("make", [lambda: EMA(0.9), lambda: SWA(0.3)])
def test_the_training_itself_goes_on_as_without(make: Callable[[], Average], middle: Any, tmp_path: Path) -> None:
    with_it, without = task_of(FineTuning(), middle), task_of(FineTuning(), middle)
    trails = []
    for task, callbacks in ((with_it, [make()]), (without, [])):
        torch.manual_seed(7)
        trail = Trail()
        fit(task, batches(STEPS), EPOCHS, callbacks=[trail, *callbacks, Last(MONITOR, "min", tmp_path)])
        trails.append(trail)
    for one, other in zip(*(trail.weights for trail in trails), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


class Break(Callback):
    """Stops the second validation halfway."""

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if trainer.current_epoch == 1 and batch_idx == 1:
            raise SIGTERMException


@pytest.mark.parametrize("make", [lambda: EMA(0.9), lambda: SWA(0.3)])
def test_a_validation_that_breaks_off_leaves_what_trains_on(make: Callable[[], Average], tmp_path: Path) -> None:
    task, trail = task_of(FineTuning(), "norm"), Trail()
    kept = [Best(MONITOR, "min", tmp_path), make(), Last(MONITOR, "min", tmp_path)]
    with pytest.raises(SIGTERMException):
        fit(task, batches(STEPS), EPOCHS, callbacks=[trail, Break(), *kept])
    last = _loaded(tmp_path, "last")
    assert last["global_step"] == 2 * STEPS == len(trail.weights) - 1
    assert all(torch.equal(last["state_dict"][name], value) for name, value in trail.weights[-1].items())


# --- BatchNorm


def _norm(task: TransferTask) -> nn.BatchNorm1d:
    return next(module for module in task.modules() if isinstance(module, nn.BatchNorm1d))


def test_swa_measures_the_statistics_of_the_mean(tmp_path: Path) -> None:
    rows = batches(STEPS)
    _fit(SWA(0.3), tmp_path, task_of(FineTuning(), "norm"))
    best = _loaded(tmp_path, "best")["state_dict"]
    by_hand = task_of(FineTuning(), "norm")
    by_hand.load_state_dict(best)
    torch.optim.swa_utils.update_bn([inputs["x"] for inputs, _, _ in rows], _OnX(by_hand))
    for name, value in _norm(by_hand).named_buffers():
        if name != "num_batches_tracked":
            torch.testing.assert_close(best[f"backbone.layers.1.0.{name}"], value)
    last = _loaded(tmp_path, "last")["state_dict"]["backbone.layers.1.0.running_mean"]
    assert not torch.allclose(best["backbone.layers.1.0.running_mean"], last), "what trains on keeps its own"


class _OnX(nn.Module):
    def __init__(self, task: TransferTask) -> None:
        super().__init__()
        self.task = task

    def forward(self, x: Tensor) -> Tensor:
        return self.task({"x": x})  # type: ignore[no-any-return]


def test_ema_averages_the_statistics(tmp_path: Path) -> None:
    average = EMA(0.9, decay_warmup=False)
    _, trail = _fit(average, tmp_path, task_of(FineTuning(), "norm"))
    name = "backbone.layers.1.0.running_var"
    wanted = trail.weights[0][name]
    for current in trail.weights[1:]:
        wanted = 0.9 * wanted + 0.1 * current[name]
    torch.testing.assert_close(average.state_dict()["values"][name], wanted)
    torch.testing.assert_close(_loaded(tmp_path, "best")["state_dict"][name], wanted)
    counter = "backbone.layers.1.0.num_batches_tracked"
    assert counter not in average.state_dict()["values"], "whole numbers are no weights"


@pytest.mark.parametrize("make", [lambda: EMA(0.9), lambda: SWA(0.3)])
def test_a_frozen_batchnorm_stays_as_pretrained(make: Callable[[], Average], tmp_path: Path) -> None:
    task = task_of(LinearProbe(), "norm")
    before = deepcopy(task.backbone.state_dict())
    _fit(make(), tmp_path, task)
    best = _loaded(tmp_path, "best")["state_dict"]
    assert all(torch.equal(best[f"backbone.{name}"], value) for name, value in before.items())


# --- soups


def _save(folder: Path, step: int, state: State) -> Path:
    path = folder / f"soup-{step}.ckpt"
    torch.save({"state_dict": state}, path)
    return path


def test_the_mean_of_checkpoints(tmp_path: Path) -> None:
    states = [{"w": torch.tensor([float(i), 2.0]), "n": torch.tensor(i)} for i in (1, 2, 6)]
    found = mean([_save(tmp_path, i, state) for i, state in enumerate(states)])
    assert found["w"].tolist() == [3.0, 2.0]
    assert found["w"].dtype == torch.float32
    assert found["n"].item() == 1


@pytest.mark.parametrize(
    ("greedy", "used", "value"),
    [(False, [3, 1, 2], 0.5), (True, [3, 2], 0.9)],
)
def test_a_greedy_soup_leaves_out_what_makes_it_worse(
    greedy: bool, used: list[int], value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoint 1 spoils any soup, and 2 makes it no worse."""
    soup, task = Soup("val/accuracy", "max", tmp_path, greedy=greedy), task_of(FineTuning())
    scores = {3: 0.9, 1: 0.8, 2: 0.7}
    soup.best_k_models = {
        str(_save(tmp_path, step, task_of(FineTuning()).state_dict())): torch.tensor(score)
        for step, score in scores.items()
    }

    def taste(self: Soup, paths: list[Path], *_: Any) -> tuple[State, dict[str, float]]:
        steps = [int(path.stem.partition("-")[2]) for path in paths]
        reached = 0.5 if 1 in steps else 0.9
        self._tried.append(reached)
        return dict(task.state_dict()), {"val/accuracy": reached}

    monkeypatch.setattr(Soup, "_taste", taste)
    best = Best("val/accuracy", "max", tmp_path)
    monkeypatch.setattr(best, "replace", lambda _, metrics: best.metrics.update(metrics))
    trainer = fit(task, batches(1))
    soup.finish(trainer, task, None, best)  # type: ignore[arg-type]
    assert soup.facts()["candidates"] == [3, 1, 2]
    assert soup.facts()["ingredients"] == used
    assert best.metrics == {"val/accuracy": value}
    soup.clean()
    assert not list(tmp_path.glob("soup-*"))


# --- whole runs


@pytest.fixture
def words(tiny: Tiny, tmp_path: Path) -> list[str]:
    rows = [f"{'good fine' if i % 2 else 'bad dull'} film number {i},{'pos' if i % 2 else 'neg'}" for i in range(60)]
    (tmp_path / "all.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    return [
        "backbone=hf_text",
        f"backbone.name={tiny('bert')}",
        "data=text_files",
        f"data.train={tmp_path / 'all.csv'}",
        "data.val_fraction=0.1",
        "data.test_fraction=0.2",
        "data.batch_size=11",  # 42 rows: 4 steps an epoch
        "data.eval_batch_size=6",
        "objective.monitor=loss",
        "optimizer.lr=1e-3",
        "schedule=constant",
        "trainer=cpu",
        "trainer.precision=32-true",
        "trainer.max_epochs=3",
        "trainer.enable_progress_bar=false",
        "logger=csv",
        "name=mini",
        f"output_dir={tmp_path}",
    ]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    from tl_lightning import bootstrap

    monkeypatch.setattr(bootstrap, "FEWEST", 5)
    monkeypatch.setattr(bootstrap, "RESAMPLES", 5)


def test_there_are_four() -> None:
    assert WORDS == ["ema", "greedy_soup", "soup", "swa"]


@pytest.mark.parametrize("word", WORDS)
def test_a_stored_configuration_passes_the_check_again(word: str, compose: Compose) -> None:
    full = check(compose(f"average={word}"))
    assert check(full) == full
    assert len(full["average"]) >= 3, "with its defaults"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("average=ema", "average.decay=1"), "average.decay=1: below 1 is expected (and at least 0)"),
        (("average=swa", "average.start=-0.1"), "average.start=-0.1: at least 0 is expected (and below 1)"),
        (("average=soup", "average.k=1"), "average.k=1: at least 2"),
        (("average=soup", "average.monitor=val/f1"), "average.monitor: Soup takes no monitor"),
        (("average=ema", "average.deacy=0.9"), "average.deacy: EMA takes no deacy; did you mean decay?"),
    ],
)
def test_planted_faults_are_told(words: tuple[str, ...], message: str, compose: Compose) -> None:
    with pytest.raises(UserError) as caught:
        check(compose(*words))
    assert message in str(caught.value)


def test_an_average_that_is_no_group(compose: Compose) -> None:
    with pytest.raises(UserError, match="average='ema': a group's name is expected"):
        check({**compose(), "average": "ema"})


def test_whole_runs_report_the_average_and_train_as_without(words: list[str], compose: Compose, tmp_path: Path) -> None:
    run(check(compose(*words)), tmp_path / "plain")
    plain = _loaded(tmp_path / "plain/checkpoints", "last")["state_dict"]
    assert read_record(tmp_path / "plain")["average"] is None
    for word in WORDS:
        folder = tmp_path / word
        value = run(check(compose(*words, f"average={word}")), folder)
        metrics, record = (json.loads((folder / name).read_text()) for name in ("metrics.json", "run.json"))
        assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
        last = _loaded(folder / "checkpoints", "last")["state_dict"]
        assert all(torch.equal(value, plain[name]) for name, value in last.items()), word
        assert record["average"]["method"] == word
        assert value == metrics["val/loss"]
        logged = curves(folder)
        assert len({(step, name) for step, name, _ in logged}) == len(logged)
        assert [int(step) for step, name, _ in logged if name == "val/loss"] == [3, 7, 11]
        assert float(next(v for _, name, v in logged if name == "test/loss")) == pytest.approx(metrics["test/loss"])
    soup, single = (read_record(tmp_path / word) for word in ("soup", "plain"))
    assert soup["average"]["candidates"] == [12, 8, 4]
    assert soup["average"]["val/loss of the best checkpoint"] == single["metrics"]["val/loss"]
    assert soup["metrics"]["val/loss"] == soup["average"]["val/loss of the soups tried"][0]
    greedy = read_record(tmp_path / "greedy_soup")["average"]
    assert greedy["ingredients"] == [12], "the loss falls all the way: older weights make it worse"
    assert len(greedy["val/loss of the soups tried"]) == 3


class KeepsTheHead(FineTuning):
    """Trains the head and stores nothing else, as adapters store their parts."""

    def frozen_groups(self, epoch: int, total: int) -> int:
        return total

    def keeps(self, name: str) -> bool:
        return name.startswith("head.")


@pytest.mark.parametrize("word", WORDS)
def test_checkpoints_of_parts_stay_so(word: str, words: list[str], compose: Compose, tmp_path: Path) -> None:
    config = check(compose(*words, f"average={word}"))
    config["strategy"] = {"_target_": "tests.test_averaging.KeepsTheHead"}
    run(config, tmp_path / word)
    best = _loaded(tmp_path / word / "checkpoints", "best")["state_dict"]
    assert set(best) == {"head.1.weight", "head.1.bias"}
    assert read_record(tmp_path / word)["status"] == "finished"


class SignalAt(Callback):
    """Sends this process a signal at a step of a stage."""

    def __init__(self, stage: str, step: int) -> None:
        self.stage, self.step = stage, step
        self._sent = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._send(trainer, "train")

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._send(trainer, "validation")

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._send(trainer, "test")

    def _send(self, trainer: Trainer, stage: str) -> None:
        if (stage, trainer.global_step) == (self.stage, self.step) and not self._sent:
            self._sent = True  # a second one would end the run at once
            os.kill(os.getpid(), signal.SIGTERM)


# Each regularizer with an average: what both remember is prepared anew, or comes from last.ckpt.
PAIRS = [("l2_sp", "ema"), ("mixout", "swa"), ("r_drop", "soup"), ("sam", "greedy_soup"), ("feature_distill", "swa")]


@pytest.mark.parametrize(
    "stops",
    [
        pytest.param([("train", 6), ("train", 8)], id="train"),  # in mid-epoch, at an epoch's end
        pytest.param([("validation", 8), ("test", 12)], id="evaluation", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(("regularizer", "average"), PAIRS)
def test_a_resumed_run_ends_as_the_undisturbed_one(
    regularizer: str, average: str, stops: list[tuple[str, int]], words: list[str], compose: Compose, tmp_path: Path
) -> None:
    chosen = [f"regularizer={regularizer}", f"average={average}", "optimizer.weight_decay=0"]
    config = check(compose(*words, *chosen))
    straight = tmp_path / "mini/straight"
    run(config, straight)
    for stage, step in stops:
        stopped = tmp_path / f"mini/{stage}{step}"
        disturbed = deepcopy(config)
        signalling = {"_target_": "tests.test_averaging.SignalAt", "stage": stage, "step": step}
        disturbed["callbacks"]["signal"] = signalling
        with pytest.raises(Interrupted):
            run(disturbed, stopped)
        (stopped / "config.yaml").write_text((straight / "config.yaml").read_text())
        run({**config, "resume": str(stopped)}, tmp_path / "unused")
        for name in ("best", "last"):
            one, other = (_loaded(folder / "checkpoints", name) for folder in (straight, stopped))
            assert all(torch.equal(value, other["state_dict"][n]) for n, value in one["state_dict"].items())
        assert (straight / "metrics.json").read_text() == (stopped / "metrics.json").read_text(), (stage, step)
        assert (straight / "predictions.parquet").read_bytes() == (stopped / "predictions.parquet").read_bytes()
        assert curves(straight) == curves(stopped)
        facts = [read_record(folder)["average"] for folder in (straight, stopped)]
        assert facts[0] == facts[1]
        assert not list(stopped.glob("checkpoints/soup-*"))
