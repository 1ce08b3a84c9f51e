"""The contract of a regularizer: what is added to any strategy's loss or step."""

from typing import TYPE_CHECKING

from lightning.pytorch import Trainer
from torch import Tensor, nn

from tl_lightning.errors import UserError

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


def pretrained_that_move(task: "TransferTask", word: str) -> dict[str, nn.Parameter]:
    """The backbone's pretrained parameters that train at some time, by name.

    Args:
        task: after its strategy's edit.
        word: the regularizer's in a configuration, for the message.

    Raises:
        UserError: none of them trains.
    """
    known = {id(parameter) for parameter in task.strategy.pretrained}
    named = task.backbone.named_parameters()
    found = {name: p for name, p in named if p.requires_grad and id(p) in known}
    if not found:
        raise UserError(
            f"{word} holds the backbone near what it was pretrained to be, and under {type(task.strategy).__name__}"
            " no pretrained weight moves: take strategy=full or layer_decay with it, or regularizer=null"
        )
    return found


def holds_still(task: "TransferTask") -> bool:
    """Whether nothing in the backbone moves now."""
    return not any(p.requires_grad for p in task.backbone.parameters())


class Start:
    """The values that parameters began with: beside the model, in no state dict, moved to where the model is."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        self._values = {name: p.detach().clone() for name, p in parameters.items()}

    def beside(self, module: nn.Module) -> list[tuple[str, nn.Parameter, Tensor]]:
        """Name, parameter and start of those that train now."""
        named = dict(module.named_parameters())
        found = [(name, named[name]) for name in self._values if named[name].requires_grad]
        for name, parameter in found:
            self._values[name] = self._values[name].to(parameter.device)
        return [(name, parameter, self._values[name]) for name, parameter in found]
