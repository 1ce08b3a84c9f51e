"""Mixout: dropout towards the pretrained weights."""

from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.func import functional_call

from tl_lightning.errors import UserError
from tl_lightning.parts import part
from tl_lightning.ranges import ShareBelow1
from tl_lightning.strategies.regularizer import Regularizer, Start, holds_still, pretrained_that_move

if TYPE_CHECKING:
    from tl_lightning.task import TransferTask


@part("regularizer")
class Mixout(Regularizer):
    """Puts each weight back to its pretrained value with probability ``p``, drawn anew in every step.

    Lee et al., 2020, arXiv:1909.11299: a step sees ``u + m * (w - u) / (1 - p)`` in place of ``w``, where ``u`` is the
    pretrained weight and ``m`` is 0 with probability ``p``, else 1.  It acts on the matrices of the backbone that move
    (not on embeddings, biases, norms); validation and test see ``w``.  The model's own dropout stays as it is; the
    paper replaces it by mixout.
    """

    def __init__(self, p: ShareBelow1 = 0.7) -> None:
        self.p = p
        self._start: Start | None = None

    def prepare(self, task: "TransferTask", trainer: Trainer) -> None:
        """Remember the pretrained matrices that move."""
        moving = pretrained_that_move(task, "mixout")
        tables = {id(p) for m in task.backbone.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        matrices = {name: p for name, p in moving.items() if p.ndim > 1 and id(p) not in tables}
        if not matrices:
            raise UserError(
                f"mixout acts on matrices, and {type(task.strategy).__name__} moves none of the backbone's:"
                " take strategy=full with it, or regularizer=null"
            )
        if any(getattr(module, "gradient_checkpointing", False) for module in task.backbone.modules()):
            raise UserError(
                "mixout draws the weights of a step, which gradient checkpointing would compute with others:"
                " backbone.gradient_checkpointing=false"
            )
        self._start = Start(matrices)

    def loss(self, task: "TransferTask", inputs: dict[str, Tensor], target: Tensor) -> Tensor:
        """The training loss () of the mixed weights."""
        if holds_still(task):  # nothing to mix, and the batch may bring features
            return super().loss(task, inputs, target)
        features = functional_call(task.backbone, self._mixed(task), (), inputs)
        outputs: Tensor = task.head(features).float()
        return task.objective.losses(outputs, target).mean()

    def _mixed(self, task: "TransferTask") -> dict[str, Tensor]:
        assert self._start is not None, "prepared at setup"
        return {name: mixed(weight, start, self.p) for name, weight, start in self._start.beside(task.backbone)}


def mixed(weight: Tensor, start: Tensor, p: float) -> Tensor:
    """``weight`` with each entry put back to ``start`` with probability ``p``, ``weight`` itself in expectation."""
    keep = torch.empty_like(weight).bernoulli_(1 - p)
    return start + keep * (weight - start) / (1 - p)
