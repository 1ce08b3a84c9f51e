"""Feature regularisation: stay near what the pretrained backbone sees."""

from copy import deepcopy
from typing import TYPE_CHECKING, Literal

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tl_lightning.parts import part
from tl_lightning.ranges import Weight
from tl_lightning.strategies.regularizer import Regularizer, holds_still, pretrained_that_move

if TYPE_CHECKING:
    from tl_lightning.task import TransferTask


@part("regularizer")
class FeatureDistill(Regularizer):
    """Adds ``alpha`` times the distance between the features and the pretrained backbone's on the same batch.

    After DELTA (Li et al., 2019, arXiv:1901.09229), on the pooled features and without its attention over channels.
    The pretrained backbone runs in eval mode without gradients: one more forward pass a step, and a copy of the
    weights that move.

    Args:
        alpha: how much.
        distance: ``l2``, the squared distance divided by the width D; ``cosine``, one minus the cosine.
    """

    def __init__(self, alpha: Weight = 1.0, distance: Literal["l2", "cosine"] = "l2") -> None:
        self.alpha = alpha
        self.distance = distance
        self._teacher: nn.Module | None = None

    def prepare(self, task: "TransferTask", trainer: Trainer) -> None:
        """Copy the pretrained backbone, all but what never moves."""
        pretrained_that_move(task, "feature_distill")
        shared = [task.backbone.preprocessor, *(p for p in task.backbone.parameters() if not p.requires_grad)]
        self._teacher = deepcopy(task.backbone, {id(part): part for part in shared}).eval()
        self._teacher.requires_grad_(False)

    def loss(self, task: "TransferTask", inputs: dict[str, Tensor], target: Tensor) -> Tensor:
        """The training loss () with the distance of the features."""
        if holds_still(task):  # no distance, and the batch may bring features
            return super().loss(task, inputs, target)
        features: Tensor = task.backbone(**inputs)
        outputs: Tensor = task.head(features).float()
        apart = _distance(features.float(), self._taught(inputs, features.device), self.distance)
        return task.objective.losses(outputs, target).mean() + self.alpha * apart

    def _taught(self, inputs: dict[str, Tensor], device: torch.device) -> Tensor:
        assert self._teacher is not None, "prepared at setup"
        self._teacher.to(device)
        with torch.no_grad():
            features: Tensor = self._teacher(**inputs)
        return features.float()


def _distance(one: Tensor, other: Tensor, kind: str) -> Tensor:
    """(..., D), (..., D) -> (), averaged over samples."""
    if kind == "cosine":
        return (1 - F.cosine_similarity(one, other, dim=-1)).mean()
    return F.mse_loss(one, other)
