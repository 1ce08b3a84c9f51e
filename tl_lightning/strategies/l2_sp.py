"""L2-SP: weight decay towards the pretrained weights."""

import logging
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer

from tl_lightning.parts import part
from tl_lightning.ranges import Weight
from tl_lightning.strategies.regularizer import Regularizer, Start, pretrained_that_move

if TYPE_CHECKING:
    from tl_lightning.task import TransferTask

log = logging.getLogger(__name__)


@part("regularizer")
class L2SP(Regularizer):
    """Adds ``alpha / 2 * |w - w0|^2`` over the backbone and ``beta / 2 * |v|^2`` over the head (Li et al., 2018).

    arXiv:1802.01483.  ``w0`` are the pretrained weights; only what moves is pulled.  The gradient of both terms is
    added before the step, which is exact and costs no graph; the logged loss is without them.  It stands in for weight
    decay, which pulls to zero: set ``optimizer.weight_decay=0``.  The paper's optimizer is SGD; AdamW rescales the
    pull as any gradient.
    """

    def __init__(self, alpha: Weight = 0.01, beta: Weight = 0.01) -> None:
        self.alpha = alpha
        self.beta = beta
        self._start: Start | None = None

    def prepare(self, task: "TransferTask", trainer: Trainer) -> None:
        """Remember the pretrained weights of what moves."""
        self._start = Start(pretrained_that_move(task, "l2_sp"))
        keywords: dict[str, Any] = getattr(task.make_optimizer, "keywords", {})
        if keywords.get("weight_decay"):
            log.warning(
                "l2_sp pulls to the pretrained weights, optimizer.weight_decay=%s to zero:"
                " optimizer.weight_decay=0 leaves it to l2_sp",
                keywords["weight_decay"],
            )

    def before_step(self, task: "TransferTask") -> None:
        """Add the gradient of the two terms."""
        assert self._start is not None, "prepared at setup"
        for _, parameter, start in self._start.beside(task.backbone):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start, alpha=self.alpha)
        for parameter in task.head.parameters():
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach(), alpha=self.beta)
