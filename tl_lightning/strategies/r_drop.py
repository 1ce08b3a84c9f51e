"""R-Drop: two passes that dropout makes different shall say the same."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tl_lightning.errors import UserError
from tl_lightning.parts import part
from tl_lightning.ranges import Weight
from tl_lightning.strategies.regularizer import Regularizer

if TYPE_CHECKING:
    from tl_lightning.task import TransferTask


@part("regularizer")
class RDrop(Regularizer):
    """The mean loss of two passes, and ``alpha`` times how far apart they are (Wu et al., 2021, arXiv:2106.14448).

    Apart are two classes' distributions by the mean of both Kullback-Leibler divergences; label sets by the same for
    each label's two outcomes, averaged over labels; numbers by their squared difference.  A step costs two forward
    and backward passes.
    """

    def __init__(self, alpha: Weight = 1.0) -> None:
        self.alpha = alpha

    def prepare(self, task: "TransferTask", trainer: Trainer) -> None:
        """Refuse a model in which nothing drops: both passes would be one."""
        if not any(_drops(module) for part in (task.backbone, task.head) for module in part.modules()):
            raise UserError(
                "r_drop compares two passes that dropout makes different, and nothing that trains here has dropout:"
                " head.dropout=0.1, or regularizer=null"
            )

    def loss(self, task: "TransferTask", inputs: dict[str, Tensor], target: Tensor) -> Tensor:
        """The training loss () of two passes."""
        one, other = task(inputs), task(inputs)
        losses = (task.objective.losses(one, target) + task.objective.losses(other, target)) / 2
        return losses.mean() + self.alpha * APART[task.objective.target](one, other)


def _drops(module: nn.Module) -> bool:
    """Whether it drops something in training: dropout, or a stochastic depth by whatever library."""
    named = re.search("drop|stochastic", type(module).__name__.lower())
    return (
        module.training
        and named is not None
        and any((getattr(module, name, None) or 0) > 0 for name in ("p", "drop_prob"))
    )


def _classes(one: Tensor, other: Tensor) -> Tensor:
    """Outputs (..., C) twice -> ()."""
    log_one, log_other = one.log_softmax(-1), other.log_softmax(-1)
    apart = (log_one.exp() - log_other.exp()) * (log_one - log_other)  # p log p/q + q log q/p
    return apart.sum(-1).mean() / 2


def _labels(one: Tensor, other: Tensor) -> Tensor:
    """Outputs (B, C) twice -> (): the difference of the log-odds is all that two outcomes' logarithms leave."""
    return ((one.sigmoid() - other.sigmoid()) * (one - other)).mean() / 2


APART: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"class": _classes, "labels": _labels, "number": F.mse_loss}
