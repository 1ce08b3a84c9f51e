"""When what moves how fast: learning rates at every step against tables by hand, and schedules that are refused."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from tests.strategy_cases import LR, Batches, backbone, batch, fit, task_of
from tl_lightning.callbacks import early_stopping
from tl_lightning.length import training_length
from tl_lightning.optim import constant, linear_warmup, slanted_triangular
from tl_lightning.strategies import (
    LPFT,
    FineTuning,
    FirstLayers,
    Gradual,
    LinearProbe,
    UnfreezeAt,
)

Tiny = Callable[[str], Path]
Schedule = Callable[..., LRScheduler]
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*isinstance.treespec",
    "ignore:.*in eval mode at the start of training",
)
NO_WARMUP = partial(linear_warmup, warmup=0.0)
# From the head down: a parameter of each layer group of the tiny BERT.
PLACES = [
    "head.1.weight",
    "backbone.model.encoder.layer.1.output.dense.weight",
    "backbone.model.encoder.layer.0.output.LayerNorm.weight",
    "backbone.model.embeddings.word_embeddings.weight",
]
FALL = [1.0, 0.75, 0.5, 0.25]  # four steps, linearly to zero
FALL_8 = [1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
SLANT = [1 / 32, 1.0, 1 - 31 / 32 / 7, 1 - 62 / 32 / 7]  # eight steps, of which one rises; the first four


def _rates(strategy: FineTuning, schedule: Schedule, tiny: Tiny, epochs: int, **settings: Any) -> list[list[float]]:
    task = task_of(backbone("bert", tiny), strategy, schedule=schedule)
    watch = fit(task, epochs, batches=4, **settings)
    return [[rates.get(place, 0.0) / LR for place in PLACES] for rates in watch.rates]


def _layers(decay: float) -> list[float]:
    return [decay**depth for depth in range(4)]


def _table(factors: Sequence[float], layers: Sequence[float]) -> list[Any]:
    return [pytest.approx([factor * layer for layer in layers]) for factor in factors]


def test_layer_decay(tiny: Tiny) -> None:
    assert _rates(FineTuning(layer_decay=0.5), constant, tiny, 1) == _table([1.0] * 4, _layers(0.5))


def test_a_probe_has_one_rate(tiny: Tiny) -> None:
    assert _rates(LinearProbe(), NO_WARMUP, tiny, 1) == _table(FALL, [1, 0, 0, 0])


def test_first_layers_with_layer_decay(tiny: Tiny) -> None:
    assert _rates(FirstLayers(2, layer_decay=0.5), NO_WARMUP, tiny, 1) == _table(FALL, [1, 0.5, 0, 0])


def test_all_layers_frozen_with_layer_decay_is_a_probe(tiny: Tiny) -> None:
    assert _rates(FirstLayers(3, layer_decay=0.5), NO_WARMUP, tiny, 1) == _table(FALL, [1, 0, 0, 0])


def test_gradual_as_ulmfit(tiny: Tiny) -> None:
    """What is still frozen has its rate already and does not use it."""
    found = _rates(Gradual(1 / 3, layer_decay=1 / 2.6), slanted_triangular, tiny, 2)
    assert found[:4] == _table(SLANT, _layers(1 / 2.6))


@pytest.mark.parametrize("settings", [{}, {"max_steps": 100}])
def test_lp_ft_has_two_schedules(settings: dict[str, int], tiny: Tiny) -> None:
    """The probe at its own rate, then the whole at the optimizer's; both reach zero where they end."""
    found = _rates(LPFT(1, probe_lr=5 * LR, layer_decay=0.5), NO_WARMUP, tiny, 3, **settings)
    factors = [*(5 * factor for factor in FALL), *FALL_8]
    assert found == _table(factors, _layers(0.5))


@pytest.mark.parametrize("epochs", [3, -1])
def test_max_steps_end_the_last_phase_and_move_no_other(epochs: int, tiny: Tiny) -> None:
    found = _rates(LPFT(1, probe_lr=LR), NO_WARMUP, tiny, epochs, max_steps=8)
    assert found == _table([*FALL, *FALL], _layers(1.0))
    found = _rates(LPFT(1, probe_lr=LR), NO_WARMUP, tiny, epochs, max_steps=6)
    assert found == _table([*FALL, 1.0, 0.5], _layers(1.0))


def test_accumulated_gradients_make_an_epoch_shorter(tiny: Tiny) -> None:
    found = _rates(LPFT(1, probe_lr=LR), NO_WARMUP, tiny, 2, accumulate_grad_batches=2)
    assert found == _table([1.0, 1.0, 0.5, 0.5] * 2, _layers(1.0))


def test_a_loader_without_a_data_module_has_the_same_length(tiny: Tiny) -> None:
    def trained(**data: Any) -> tuple[int, int, int]:
        task = task_of(backbone("bert", tiny), LPFT(1), schedule=NO_WARMUP)
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=5,
            max_steps=7,
            limit_train_batches=3,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(task, **data)
        assert trainer.optimizers[0].param_groups[0]["lr"] == 0.0, "the schedule ends where the training does"
        length = training_length(trainer)
        return length.steps, length.per_epoch, length.epochs

    data = Batches(batch(backbone("bert", tiny)), 4)
    assert trained(datamodule=data) == (7, 3, 3)
    assert trained(train_dataloaders=data.train_dataloader(), val_dataloaders=data.val_dataloader()) == (7, 3, 3)


def test_a_new_phase_forgets_the_moments_once_and_keeps_the_head(tiny: Tiny) -> None:
    task = task_of(backbone("bert", tiny), LPFT(2), optimizer=torch.optim.AdamW)
    watch = fit(task, 4, batches=3)
    head = {"head.1.weight", "head.1.bias"}
    every = {name for name, _ in task.named_parameters()}
    assert watch.moments == [set(), *[head] * 5, set(), *[every] * 5]
    steps = {int(state["step"]) for state in task.trainer.optimizers[0].state.values()}
    assert steps == {6}


def test_early_stopping_waits_for_the_last_change(tiny: Tiny, tmp_path: Path) -> None:
    """With a rate of next to nothing no validation is better than the first one watched."""

    def epochs(strategy: FineTuning) -> int:
        task = task_of(backbone("bert", tiny), strategy, schedule=_nearly_nothing)
        fit(task, 9, early_stopping("val/loss", "min", tmp_path, patience=1, min_delta=0.1))
        return task.trainer.current_epoch

    assert epochs(FineTuning()) == 2
    assert epochs(LPFT(4, probe_lr=LR)) == 6
    assert epochs(UnfreezeAt([[1, 1], [3, 2]])) == 5


def _nearly_nothing(optimizer: torch.optim.Optimizer, total_steps: int) -> LRScheduler:
    return LambdaLR(optimizer, lambda step: 1e-6)
