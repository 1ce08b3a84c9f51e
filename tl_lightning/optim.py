"""Parameter groups and learning-rate schedules."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from tl_lightning.errors import UserError
from tl_lightning.parts import part
from tl_lightning.ranges import AT_LEAST_1, Between0And1, ShareBelow1

ParamGroup = dict[str, Any]


def param_groups(
    layers: Sequence[Iterable[tuple[str, nn.Parameter]]],
    lr: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    decays: Callable[[str, nn.Parameter], bool] = lambda _, parameter: parameter.ndim > 1,
) -> list[ParamGroup]:
    """The optimizer's groups: at most two for each layer, with and without weight decay.

    Args:
        layers: named parameters, the input side first, the head last; frozen ones are left out.
        lr: the learning rate of the head.
        weight_decay: of what ``decays``: by default matrices; vectors (biases, norms: ``ndim <= 1``) get none.
        layer_decay: a layer ``d`` steps below the head learns at ``lr * layer_decay ** d``
            (ULMFiT, Howard and Ruder, 2018, arXiv:1801.06146; ELECTRA, Clark et al., 2020, arXiv:2003.10555).
        decays: given name and parameter, says whether it gets weight decay.
    """
    groups: list[ParamGroup] = []
    for depth, layer in zip(range(len(layers) - 1, -1, -1), layers, strict=True):
        trained = [(name, p) for name, p in layer if p.requires_grad]
        for decayed in (True, False):
            params = [p for name, p in trained if decays(name, p) == decayed]
            if params:
                groups.append(
                    {
                        "params": params,
                        "lr": lr * layer_decay**depth,
                        "weight_decay": weight_decay if decayed else 0.0,
                    }
                )
    return groups


def _warmup_steps(total_steps: int, warmup: float) -> float:
    if not 0 <= warmup < 1:
        raise UserError(f"schedule.warmup={warmup} is a share of all steps: at least 0 and below 1, such as 0.1")
    return warmup * total_steps


@part("schedule")
def linear_warmup(optimizer: Optimizer, total_steps: int, warmup: ShareBelow1 = 0.1) -> LambdaLR:
    """Rise linearly over the first ``warmup`` share of ``total_steps``, then fall linearly to zero at the last."""
    start = _warmup_steps(total_steps, warmup)

    def factor(step: int) -> float:
        if step < start:
            return step / start
        return max(0.0, (total_steps - step) / max(1.0, total_steps - start))

    return LambdaLR(optimizer, factor)


@part("schedule")
def cosine(optimizer: Optimizer, total_steps: int, warmup: ShareBelow1 = 0.1) -> LambdaLR:
    """Rise linearly over the first ``warmup`` share of ``total_steps``, then half a cosine to zero.

    The cosine is that of SGDR without restarts (Loshchilov and Hutter, 2017, arXiv:1608.03983).
    """
    start = _warmup_steps(total_steps, warmup)

    def factor(step: int) -> float:
        if step < start:
            return step / start
        done = min(1.0, (step - start) / max(1.0, total_steps - start))
        return 0.5 * (1 + math.cos(math.pi * done))

    return LambdaLR(optimizer, factor)


@part("schedule")
def constant(optimizer: Optimizer, total_steps: int, warmup: ShareBelow1 = 0.0) -> LambdaLR:
    """Rise linearly over the first ``warmup`` share of ``total_steps`` (none by default), then stay."""
    start = _warmup_steps(total_steps, warmup)
    return LambdaLR(optimizer, lambda step: min(1.0, step / start) if start else 1.0)


@part("schedule")
def slanted_triangular(
    optimizer: Optimizer, total_steps: int, cut_frac: Between0And1 = 0.1, ratio: Annotated[float, AT_LEAST_1] = 32.0
) -> LambdaLR:
    """Rise linearly over the first ``cut_frac`` of ``total_steps``, then fall linearly; both ends at ``1 / ratio``.

    ULMFiT's schedule (Howard and Ruder, 2018, arXiv:1801.06146).
    """
    cut = max(1, int(total_steps * cut_frac))

    def factor(step: int) -> float:
        height = step / cut if step < cut else max(0.0, (total_steps - step) / max(1, total_steps - cut))
        return (1 + height * (ratio - 1)) / ratio

    return LambdaLR(optimizer, factor)


def in_phases(
    optimizer: Optimizer,
    make: Callable[..., LRScheduler],
    starts: Sequence[int],
    total_steps: int,
    scales: Sequence[float],
) -> LambdaLR:
    """One schedule after the other: the one of each phase runs its whole course between two ``starts``.

    Args:
        optimizer: the schedule's.
        make: given the optimizer and a number of steps, makes one phase's schedule (a ``LambdaLR``).
        starts: the first step of each phase; the first is 0.
        total_steps: where the last phase ends.
        scales: of the learning rate, one for each phase.

    Raises:
        UserError: the schedule is none that can be cut.
    """
    factors = []
    for start, end in zip(starts, [*starts[1:], total_steps], strict=True):
        schedule = make(optimizer, total_steps=max(1, end - start))
        if not isinstance(schedule, LambdaLR):
            name = type(schedule).__name__
            raise UserError(
                f"{name} cannot begin anew for a phase:"
                " take schedule=linear_warmup, cosine, slanted_triangular or constant"
            )
        factors.append(schedule.lr_lambdas[0])

    def factor(step: int) -> float:
        at = max(0, bisect_right(starts, step) - 1)
        return float(scales[at] * factors[at](step - starts[at]))

    return LambdaLR(optimizer, factor)
