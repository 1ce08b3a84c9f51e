"""NaN, infinity and a lack of memory in mid-training, made to happen: what the weights, the record and the log say."""

import copy
import csv
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from tl_lightning import finite
from tl_lightning.errors import UserError
from tl_lightning.finite import Finite, NotFiniteError
from tl_lightning.memory import Memory, _cut
from tl_lightning.objectives import MultiClass
from tl_lightning.record import read_record
from tl_lightning.run import run
from tl_lightning.task import TransferTask
from tl_lightning.throughput import CLOCKED

Tiny = Callable[[str], Path]
Compose = Callable[..., dict[str, Any]]
SLOW = pytest.mark.slow
STEPS = 4  # of each of the two epochs
State = dict[str, Tensor]


@pytest.fixture
def config(tiny: Tiny, compose: Compose, tmp_path: Path) -> dict[str, Any]:
    """32 rows to train on, no dropout: what one step takes from a batch is the same whichever way it is computed."""
    model = tmp_path / "bert"
    shutil.copytree(tiny("bert"), model)
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (model / "config.json").write_text(json.dumps({**json.loads((model / "config.json").read_text()), **still}))
    rows = [f"{'good fine' if i % 2 else 'bad dull'} film number {i},{'pos' if i % 2 else 'neg'}" for i in range(48)]
    for name, part in {"train": rows[:32], "val": rows[32:40], "test": rows[40:]}.items():
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "\n".join(part) + "\n")
    return compose(
        *("backbone=hf_text", f"backbone.name={model}", "data=text_files"),
        *(f"data.{name}={tmp_path / name}.csv" for name in ("train", "val", "test")),
        *("trainer=cpu", "trainer.max_epochs=2", "trainer.enable_progress_bar=false", "data.batch_size=8"),
        *("logger=csv", "name=numbers", "trainer.precision=32-true", "optimizer.lr=1e-3", "head.dropout=0"),
        *("trainer.log_every_n_steps=1", "strategy=full", f"output_dir={tmp_path}"),
    )


Spoil = Callable[[Tensor], Tensor]
SPOILS: dict[str, Spoil] = {
    "nan loss": lambda losses: losses * float("nan"),
    "infinite loss with finite gradients": lambda losses: losses + float("inf"),
    "nan gradient of a finite loss": lambda losses: losses + (losses - losses.detach()).abs().sqrt().nan_to_num(0.0),
}


class Spoiler:
    """Spoils the losses of some training batches, and keeps the weights and moments after each step."""

    def __init__(self, patch: pytest.MonkeyPatch, spoil: Spoil, steps: Sequence[int]) -> None:
        self.rows: list[list[int]] = []
        self.weights: list[State] = []
        self.moments: list[list[float]] = []
        losses, step, end = MultiClass.losses, TransferTask.training_step, TransferTask.on_train_batch_end

        def spoiled(objective: MultiClass, outputs: Tensor, target: Tensor) -> Tensor:
            found = losses(objective, outputs, target)
            return spoil(found) if outputs.requires_grad and len(self.rows) - 1 in steps else found

        def noting(task: TransferTask, batch: Any, batch_idx: int) -> Tensor:
            self.rows.append(batch[2].tolist())
            return step(task, batch, batch_idx)

        def after(task: TransferTask, *args: Any) -> None:
            self.weights.append({name: p.detach().clone() for name, p in task.named_parameters()})
            states = task.trainer.optimizers[0].state.values()
            self.moments.append([float(value.sum()) for state in states for value in state.values()])
            end(task, *args)

        patch.setattr(MultiClass, "losses", spoiled)
        patch.setattr(TransferTask, "training_step", noting)
        patch.setattr(TransferTask, "on_train_batch_end", after)


def _equal(one: State, other: State) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("how", SPOILS)
def test_a_bad_step_stops_the_run_with_the_weights_from_before(
    how: str, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiler = Spoiler(monkeypatch, SPOILS[how], [STEPS + 1])
    with pytest.raises(NotFiniteError) as caught:
        run(config, tmp_path / "run")
    told = str(caught.value)
    rows = ", ".join(map(str, spoiler.rows[STEPS + 1]))
    what = "gradient" if "gradient of" in how else "loss"
    assert f"The {what} is NaN or infinite at step {STEPS + 1} (rows {rows} of data.train" in told
    assert "gradients are not finite, first that of backbone.model.embeddings" in told
    assert "on_nan=skip" in told
    assert isinstance(caught.value, UserError)
    stored = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in stored["state_dict"].values() if value.is_floating_point())
    kept = {name: stored["state_dict"][name] for name in spoiler.weights[STEPS]}
    assert _equal(kept, spoiler.weights[STEPS]), "the weights from just before, not those of the epoch's end"
    record = read_record(tmp_path / "run")
    assert record["status"] == "failed"
    assert "NaN or infinite" in record["error"]


@pytest.mark.parametrize("optimizer", ["fused", "not fused"])
@pytest.mark.parametrize("bad", [[2, 3], pytest.param([0], marks=SLOW), pytest.param([STEPS], marks=SLOW)])
def test_skipping_leaves_weights_and_moments_untouched_by_the_batch(
    optimizer: str, bad: list[int], config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    config |= {"on_nan": "skip"}
    config["optimizer"]["fused"] = optimizer == "fused"
    spoiler = Spoiler(monkeypatch, SPOILS["nan loss"], bad)
    run(config, tmp_path / "run")
    assert len(spoiler.weights) == 2 * STEPS
    for step in range(1, 2 * STEPS):
        same = _equal(spoiler.weights[step], spoiler.weights[step - 1])
        assert same is (step in bad), f"step {step}"
        if step in bad:
            assert spoiler.moments[step] == spoiler.moments[step - 1]
    record = read_record(tmp_path / "run")
    assert (record["status"], record["skipped_steps"], record["steps"]) == ("finished", len(bad), 2 * STEPS)
    assert caplog.text.count("The batch is left out (on_nan=skip)") == len(bad)


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_a_device_that_is_not_waited_for(
    on_nan: str, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the fused optimizer leaves the step out by itself, and the flags are read at the log interval."""
    monkeypatch.setattr(finite, "waits", lambda optimizer: True)
    looks = []
    look = Finite._look

    def looking(self: Finite, *args: Any) -> None:
        looks.append(len(self._steps))
        look(self, *args)

    monkeypatch.setattr(Finite, "_look", looking)
    config |= {"on_nan": on_nan}
    config["trainer"] |= {"log_every_n_steps": 3, "max_epochs": 1}
    spoiler = Spoiler(monkeypatch, SPOILS["infinite loss with finite gradients"], [1])
    if on_nan == "skip":
        run(config, tmp_path / "run")
        assert read_record(tmp_path / "run")["skipped_steps"] == 1
        moved = [not _equal(spoiler.weights[step], spoiler.weights[step - 1]) for step in range(1, STEPS)]
        assert moved == [False, True, True]
    else:
        rows = r", ".join
        with pytest.raises(NotFiniteError, match=r"at step 1 \(rows "):
            run(config, tmp_path / "run")
        assert rows(map(str, spoiler.rows[1])) in read_record(tmp_path / "run")["error"], "the rows of that step"
        stored = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        assert _equal({name: stored[name] for name in spoiler.weights[0]}, spoiler.weights[0]), "no later step is taken"
    assert looks[0] == 3, "three steps went by before the first look"


def test_a_run_that_stopped_goes_on_behind_the_bad_batch(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Spoiler(patch, SPOILS["nan loss"], [1])
        with pytest.raises(NotFiniteError):
            run(config, tmp_path / "numbers/run")
    run({**config, "resume": "auto"}, tmp_path / "unused")
    record = read_record(tmp_path / "numbers/run")
    assert (record["status"], record["steps"]) == ("finished", 2 * STEPS)
    with pytest.MonkeyPatch.context() as patch:
        Spoiler(patch, SPOILS["nan loss"], [1])
        run({**config, "on_nan": "skip"}, tmp_path / "skipped")
    states = [
        torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for folder in (tmp_path / "numbers/run", tmp_path / "skipped")
    ]
    assert _equal(*states), "as if the batch had been skipped"


def test_skipping_for_ever_is_no_training(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finite, "MOST_IN_A_ROW", 3)
    Spoiler(monkeypatch, SPOILS["nan loss"], range(100))
    with pytest.raises(NotFiniteError, match="at step 2"):
        run({**config, "on_nan": "skip"}, tmp_path / "run")


def test_clipping_is_as_ever(config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit what torch's own clipping gives."""
    norms: list[float] = []

    def before(self: Finite, optimizer: Any, number: int, clip: float | None, scaled: bool) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, clip or 1e9)))

    config["trainer"] |= {"max_epochs": 1, "gradient_clip_val": 0.01}
    run(config, tmp_path / "ours")
    monkeypatch.setattr(Finite, "before_step", before)
    run(config, tmp_path / "torch")
    assert min(norms) > 0.01, "it clips"
    states = [
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("ours", "torch")
    ]
    assert _equal(*states)


class Scarce:
    """A memory that holds this many rows of a training batch, and that many of an evaluation batch."""

    def __init__(self, patch: pytest.MonkeyPatch, train: int, evaluation: int = 10**6, backward: bool = False) -> None:
        self.largest = 0
        forward = TransferTask.forward

        def check(rows: int, most: int) -> None:
            if rows > most:
                raise torch.OutOfMemoryError(f"{rows} rows, and there is room for {most}")

        class Backward(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                return x.clone()

            @staticmethod
            def backward(ctx: Any, grad: Tensor) -> Tensor:
                check(len(grad), train)
                return grad

        def scarce(task: TransferTask, inputs: dict[str, Tensor]) -> Tensor:
            rows = len(inputs["input_ids"])
            if task.training and torch.is_grad_enabled():
                if not backward:
                    check(rows, train)
                outputs = forward(task, inputs)
                self.largest = max(self.largest, rows)
                return Backward.apply(outputs) if backward else outputs
            check(rows, evaluation)
            return forward(task, inputs)

        patch.setattr(TransferTask, "forward", scarce)


def _ends(folder: Path) -> tuple[State, list[tuple[str, float]]]:
    stored = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    with (folder / "metrics.csv").open() as file:
        rows = [
            (row["name"], float(row["value"]))
            for row in csv.DictReader(file)
            if row["name"].removeprefix("train/") not in CLOCKED
        ]
    return stored, rows


@pytest.mark.parametrize(
    ("room", "parts", "accumulate", "backward"),
    [
        (3, 4, 1, False),
        (2, 4, 1, True),
        pytest.param(4, 2, 2, False, marks=SLOW),
        pytest.param(7, 2, 1, True, marks=SLOW),
        pytest.param(1, 8, 1, False, marks=SLOW),
    ],
)
def test_a_batch_that_does_not_fit_is_computed_in_parts_and_the_training_stays_the_same(
    room: int, parts: int, accumulate: int, backward: bool, config: dict[str, Any], tmp_path: Path, caplog: Any
) -> None:
    config["trainer"]["accumulate_grad_batches"] = accumulate
    config["optimizer"] = {**config["optimizer"], "_target_": "torch.optim.SGD", "lr": 0.05}
    run(config, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        Scarce(patch, room, evaluation=3, backward=backward)
        run(copy.deepcopy(config), tmp_path / "parts")
    (one, curves), (other, others) = _ends(tmp_path / "whole"), _ends(tmp_path / "parts")
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=2e-5, rtol=1e-3, msg=name)
    assert [name for name, _ in curves] == [name for name, _ in others]
    assert [value for _, value in others] == pytest.approx([value for _, value in curves], abs=1e-3)
    record = read_record(tmp_path / "parts")
    assert record["parts_of_a_batch"] == {"train": parts, "evaluation": 4}
    assert record["steps"] == 2 * STEPS // accumulate
    assert read_record(tmp_path / "whole")["parts_of_a_batch"] is None
    assert f"computed in {parts} parts" in caplog.text


def test_memory_for_not_even_one_row_is_told(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Scarce(patch, 0)
        with pytest.raises(torch.OutOfMemoryError):
            run(config, tmp_path / "run")


def test_a_broken_backward_among_accumulated_gradients_is_not_papered_over(
    config: dict[str, Any], tmp_path: Path
) -> None:
    """The gradients of the first micro-batch cannot be told from those that the broken pass has left."""
    config["trainer"]["accumulate_grad_batches"] = 2
    with pytest.MonkeyPatch.context() as patch:
        calls = []
        forward = TransferTask.forward

        class Breaks(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                return x.clone()

            @staticmethod
            def backward(ctx: Any, grad: Tensor) -> Tensor:
                calls.append(len(grad))
                if len(calls) == 2:
                    raise torch.OutOfMemoryError("the second micro-batch")
                return grad

        def breaking(task: TransferTask, inputs: dict[str, Tensor]) -> Tensor:
            outputs = forward(task, inputs)
            return Breaks.apply(outputs) if outputs.requires_grad else outputs

        patch.setattr(TransferTask, "forward", breaking)
        with pytest.raises(torch.OutOfMemoryError, match="the second micro-batch"):
            run(config, tmp_path / "run")


@pytest.mark.parametrize(("rows", "parts", "sizes"), [(8, 3, [3, 3, 2]), (2, 4, [1, 1]), (5, 1, [5])])
def test_a_batch_is_cut_evenly(rows: int, parts: int, sizes: list[int]) -> None:
    whole = ({"x": torch.arange(rows)}, torch.arange(rows), torch.arange(rows))
    cut = list(_cut(whole, parts))
    assert [len(target) for _, target, _ in cut] == sizes
    assert torch.cat([inputs["x"] for inputs, _, _ in cut]).tolist() == list(range(rows))
    assert Memory().facts() == {}


SCRIPT = """
import os
import torch
from tl_lightning.objectives import MultiClass
from tl_lightning.task import TransferTask
rank = int(os.environ.get("LOCAL_RANK", 0))
losses, forward = MultiClass.losses, TransferTask.forward
seen = []
def spoiled(self, outputs, target):
    found = losses(self, outputs, target)
    if outputs.requires_grad:
        seen.append(len(target))
        if {spoil} and rank == 1 and len(seen) == 3:
            return found + float("inf")
    return found
def scarce(task, inputs):
    if torch.is_grad_enabled() and len(inputs["input_ids"]) > {room} and rank == 1:
        raise torch.OutOfMemoryError("no room")
    return forward(task, inputs)
MultiClass.losses, TransferTask.forward = spoiled, scarce
from tl_lightning.__main__ import main
main()
"""


def _two_processes(
    config: dict[str, Any], folder: Path, *words: str, spoil: bool = False, room: int = 99
) -> subprocess.CompletedProcess[str]:
    config = copy.deepcopy(config)
    config["trainer"] |= {"devices": 2, "strategy": "ddp", "max_epochs": 1}
    config["data"]["batch_size"] = 4
    config["optimizer"] = {**config["optimizer"], "_target_": "torch.optim.SGD", "lr": 0.05}
    stored = folder.with_name(f"{folder.name}_stored")
    stored.mkdir()
    text = {"defaults": ["run_config", "hydra_settings", "_self_"], **config}
    (stored / "config.yaml").write_text(yaml.safe_dump(text))
    (stored / "script.py").write_text(SCRIPT.format(spoil=spoil, room=room))
    where = ["--config-path", str(stored), "--config-name", "config", f"hydra.run.dir={folder}"]
    return subprocess.run(
        [sys.executable, str(stored / "script.py"), *where, *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=folder.parent,
    )


@pytest.mark.slow
def test_two_ranks_skip_together_what_is_bad_on_one(config: dict[str, Any], tmp_path: Path) -> None:
    done = _two_processes(config, tmp_path / "run", "on_nan=skip", spoil=True)
    assert done.returncode == 0, done.stderr
    assert read_record(tmp_path / "run")["skipped_steps"] == 1
    assert "The loss is NaN" not in read_record(tmp_path / "run").get("error", "")


@pytest.mark.slow
def test_two_ranks_stop_together_at_what_is_bad_on_one(config: dict[str, Any], tmp_path: Path) -> None:
    done = _two_processes(config, tmp_path / "run", spoil=True)
    assert done.returncode == 2, done.stderr
    assert "NaN or infinite at step 2 (rows " in done.stderr
    stored = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.isfinite(value).all() for value in stored.values() if value.is_floating_point())


@pytest.mark.slow
def test_one_rank_computes_in_parts_and_two_ranks_agree(config: dict[str, Any], tmp_path: Path) -> None:
    for name, room in (("whole", 99), ("parts", 1)):
        done = _two_processes(config, tmp_path / name, "backbone.pretrained=true", room=room)
        assert done.returncode == 0, done.stderr
    assert "computed in 4 parts" in done.stderr + done.stdout
    (one, curves), (other, others) = _ends(tmp_path / "whole"), _ends(tmp_path / "parts")
    assert len(curves) == len(others)
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, atol=1e-3, rtol=1e-2, msg=key)
