"""One contract for all strategies: exactly what should move moves, and frozen means eval."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor

from tests.strategy_cases import (
    BATCHES,
    CASES,
    DECAY,
    KINDS,
    NAMES,
    Strategies,
    backbone,
    batch,
    expected,
    fit,
    in_epochs,
    in_train_mode,
    task_of,
)
from tl_lightning.backbones import HFText
from tl_lightning.build import make
from tl_lightning.check import check
from tl_lightning.errors import UserError
from tl_lightning.strategies import FineTuning, Gradual, LinearProbe
from tl_lightning.task import TransferTask

Tiny = Callable[[str], Path]
Compose = Callable[..., dict[str, Any]]
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*isinstance.treespec",
    "ignore:.*in eval mode at the start of training",  # what is asked for here
)
BOTH = [(name, kind) for name in CASES for kind in CASES[name].kinds]


@pytest.fixture(scope="session")
def strategies(compose: Compose) -> Strategies:
    """The strategy that ``strategy=NAME`` stands for, with the words of its case."""

    @cache
    def node(name: str) -> dict[str, Any]:
        return check(compose(f"strategy={name}", *CASES[name].words))["strategy"]  # type: ignore[no-any-return]

    return lambda name: make(node(name))


def test_each_file_of_the_group_has_its_case() -> None:
    assert sorted(CASES) == NAMES


@pytest.mark.parametrize(("name", "kind"), BOTH)
def test_exactly_what_should_move_moves(name: str, kind: str, tiny: Tiny, strategies: Strategies) -> None:
    """In every epoch: bit for bit, statistics of normalisation included; and frozen means eval at every step."""
    case, task = CASES[name], task_of(backbone(kind, tiny), strategies(name))
    watch = fit(task, len(case.opened(len(task.backbone.layer_groups()))))
    parameters = {name for name, _ in task.named_parameters()}
    for epoch, opened in in_epochs(case, task):
        moving = expected(case, task, opened)
        assert watch.changed[epoch] == moving, f"epoch {epoch}"
        for step in range(epoch * BATCHES, (epoch + 1) * BATCHES):
            assert watch.moving[step] == moving & parameters, f"step {step}"
            _check_modes(watch.modes[step], parameters, in_train_mode(case, task, opened))
    most = max(opened for _, opened in in_epochs(case, task))
    _check_optimizer(task, expected(case, task, most) & parameters)


def _check_optimizer(task: TransferTask, ever: set[str]) -> None:
    """It holds once what will ever move, and nothing else."""
    groups, named = task.trainer.optimizers[0].param_groups, dict(task.named_parameters())
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(named[name]) for name in ever)
    vectors = [p for group in groups if group["weight_decay"] == 0 for p in group["params"]]
    assert {group["weight_decay"] for group in groups} <= {0.0, DECAY}
    assert {id(p) for p in named.values() if id(p) in held and p.ndim <= 1} <= set(map(id, vectors))
    assert task.strategy.decays is not FineTuning.decays or all(p.ndim <= 1 for p in vectors)


def _check_modes(modes: dict[str, bool], parameters: set[str], training: set[str]) -> None:
    for module in (name for name in modes if name.startswith("backbone")):
        held = {name for name in parameters if name.startswith(f"{module}.")}
        assert modes[module] == (bool(held & training) if held else modes[module.rpartition(".")[0]]), module
    assert modes["head.0"], "the head's dropout stays on"


def test_there_are_as_many_cases_as_it_seems() -> None:
    assert len(BOTH) >= len(KINDS) * 10


def test_dropout_is_on_in_a_full_fine_tune(tiny: Tiny) -> None:
    modes = fit(task_of(backbone("bert", tiny), FineTuning()), 2).modes
    dropouts = [name for name in modes[0] if "dropout" in name.lower()]
    assert len(dropouts) >= 5
    assert all(mode[name] for mode in modes for name in dropouts), "also after a validation"


class WithBatchNorm(HFText):
    """No text model here has BatchNorm; this one gets one, to see that nothing drifts."""

    def __init__(self, name: str) -> None:
        super().__init__(name, pooling="mean")
        self.norm = torch.nn.BatchNorm1d(self.out_features)

    def forward(self, **inputs: Tensor) -> Tensor:
        features: Tensor = self.norm(super().forward(**inputs))
        return features


@pytest.mark.parametrize(("strategy", "drifts"), [(LinearProbe(), False), (FineTuning(), True)])
def test_batchnorm_statistics_of_a_frozen_backbone_stay(strategy: FineTuning, drifts: bool, tiny: Tiny) -> None:
    made = WithBatchNorm(str(tiny("bert")))
    assert made.norm.running_mean is not None
    before = made.norm.running_mean.clone()
    fit(task_of(made, strategy), 2)
    assert torch.equal(before, made.norm.running_mean) is not drifts


@pytest.mark.parametrize("kind", KINDS)
def test_a_probe_builds_no_graph_through_the_backbone(kind: str, tiny: Tiny) -> None:
    task = task_of(backbone(kind, tiny), LinearProbe())
    fit(task, 1)
    inputs, _, _ = batch(task.backbone)
    assert task.backbone(**inputs).grad_fn is None


def test_a_schedule_of_freezing_is_refused_under_plain_ddp(tiny: Tiny) -> None:
    strategy, task = Gradual(), task_of(backbone("bert", tiny), Gradual())
    plain, able = (
        lightning.Trainer(accelerator="cpu", devices=1, max_epochs=3, logger=False, strategy=name)
        for name in ("ddp", "ddp_find_unused_parameters_true")
    )
    with pytest.raises(UserError, match="ddp_find_unused_parameters_true"):
        strategy.on_fit_start(plain, task)
    strategy.on_fit_start(able, task)
