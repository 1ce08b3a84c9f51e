"""What makes no sense is refused in words, before training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LRScheduler, StepLR

from tests.strategy_cases import backbone, fit, task_of
from tl_lightning.build import make
from tl_lightning.check import check
from tl_lightning.errors import UserError
from tl_lightning.strategies import LPFT, BitFit, FineTuning, FirstLayers, Gradual, HeadThenTop, NormOnly, UnfreezeAt

Tiny = Callable[[str], Path]
Compose = Callable[..., dict[str, Any]]
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*isinstance.treespec",
    "ignore:.*in eval mode at the start of training",
)


@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        (FirstLayers(4), r"strategy.frozen=4: the backbone has 3 layer groups, so 0 to 3 is expected"),
        (HeadThenTop(top=4), r"strategy.top=4: the backbone has 3 layer groups"),
        (UnfreezeAt([[0, 1], [1, 5]]), r"strategy.unfreeze_at=5: the backbone has 3 layer groups"),
        (
            HeadThenTop(3),
            r"HeadThenTop needs 4 epochs and the training has 3: trainer.max_epochs=4, or lower strategy.h",
        ),
        (LPFT(3), r"LPFT needs 4 epochs and the training has 3: trainer.max_epochs=4, or lower strategy.probe_epochs"),
        (Gradual(), r"Gradual needs 4 epochs .* or lower strategy.epochs_per_group"),
        (UnfreezeAt([[1, 1], [3, "all"]]), r"UnfreezeAt needs 4 epochs .* or lower the epochs of strategy.unfreeze_at"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(strategy: FineTuning, told: str, tiny: Tiny) -> None:
    task = task_of(backbone("bert", tiny), strategy)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    with pytest.raises(UserError, match=told):
        fit(task, 3)
    assert all(torch.equal(before[name], value) for name, value in task.state_dict().items())


def test_too_few_steps_are_refused_and_a_dry_run_is_not(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"needs 2 epochs and the training has 1: .* and a larger trainer.max_steps"):
        fit(task_of(backbone("bert", tiny), LPFT()), 3, max_steps=2)
    fit(task_of(backbone("bert", tiny), LPFT()), 3, fast_dev_run=True)


def test_a_training_without_end_is_refused(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"needs an end: trainer.max_epochs=NUMBER or trainer.max_steps=NUMBER"):
        fit(task_of(backbone("bert", tiny), FineTuning()), -1)


def test_a_schedule_that_cannot_begin_anew_is_refused(tiny: Tiny) -> None:
    def steps(optimizer: torch.optim.Optimizer, total_steps: int) -> LRScheduler:
        return StepLR(optimizer, total_steps)

    with pytest.raises(UserError, match="StepLR cannot begin anew for a phase: take schedule=linear_warmup"):
        fit(task_of(backbone("bert", tiny), LPFT(), schedule=steps), 2)


@pytest.mark.parametrize(("strategy", "what"), [(BitFit(), "biases"), (NormOnly(), None)])
def test_a_network_without_biases_has_norms(strategy: FineTuning, what: str | None, tiny: Tiny) -> None:
    """Llama has no bias at all, and a normalisation of its own class."""
    task = task_of(backbone("llama", tiny), strategy)
    if what:
        with pytest.raises(UserError, match=f"has no {what}"):
            fit(task, 1)
        return
    (changed,) = fit(task, 1).changed
    norms = {name for name, _ in task.named_parameters() if "norm" in name}
    assert len(norms) == 5
    assert changed == norms | {"head.1.weight", "head.1.bias"}


@pytest.mark.parametrize(
    "value", ["[]", "[[1]]", "[[1,2,3]]", "[[2,1],[1,all]]", "[[1,1],[1,2]]", "[[-1,2]]", "[[all,1]]"]
)
def test_a_schedule_by_hand_that_is_none_is_refused(value: str, compose: Compose) -> None:
    with pytest.raises(UserError, match=r"strategy.unfreeze_at=.*strategy.unfreeze_at=\[\[2,4\],\[5,all\]\]"):
        make(check(compose("strategy=unfreeze_at", f"strategy.unfreeze_at={value}"))["strategy"])


@pytest.mark.parametrize("value", ["3", "[1,2]", "[[1,1.5]]", "[[1,most]]", "true"])
def test_a_schedule_by_hand_of_another_form_is_a_fault_of_the_configuration(value: str, compose: Compose) -> None:
    with pytest.raises(UserError, match=r"strategy.unfreeze_at=.* is expected"):
        check(compose("strategy=unfreeze_at", f"strategy.unfreeze_at={value}"))
