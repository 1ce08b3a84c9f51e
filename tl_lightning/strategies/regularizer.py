"""The contract of a regularizer: what is added to any strategy's loss or step."""

from typing import TYPE_CHECKING

from lightning.pytorch import Trainer
from torch import Tensor

if TYPE_CHECKING:
    from tl_lightning.task import TransferTask


class Regularizer:
    """As it stands, it adds nothing.  What it remembers stays out of checkpoints: a resume prepares it anew."""

    def prepare(self, task: "TransferTask", trainer: Trainer) -> None:
        """Once, after the strategy's edit and before training or a resume: the weights are the pretrained ones.

        Raises:
            UserError: it makes no sense under the task's strategy or the trainer.
        """

    def loss(self, task: "TransferTask", inputs: dict[str, Tensor], target: Tensor) -> Tensor:
        """The training loss () of one batch."""
        return task.objective.losses(task(inputs), target).mean()

    def before_step(self, task: "TransferTask") -> None:
        """After the backward pass, before clipping and the optimizer's step; the gradients may be changed in place."""
