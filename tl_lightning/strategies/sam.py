"""Sharpness-aware minimisation."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tl_lightning.errors import UserError
from tl_lightning.parts import part
from tl_lightning.ranges import Range
from tl_lightning.strategies.regularizer import Regularizer

if TYPE_CHECKING:
    from tl_lightning.task import TransferTask

SMALLEST = 1e-12  # of a gradient's norm


@part("regularizer")
class SAM(Regularizer):
    """Descends by the gradient at the worst point within ``rho`` (Foret et al., 2021, arXiv:2010.01412).

    Climbs to ``w + rho * g / |g|``, takes the gradient of the same batch there, and steps from ``w`` with it: a step
    costs two forward and backward passes and a copy of the weights that move.  BatchNorm statistics take the first
    pass alone.  With several processes all climb by the common gradient, as one process with the whole batch would.
    """

    def __init__(self, rho: Annotated[float, Range(gt=0, note="usually 0.01 to 0.2")] = 0.05) -> None:
        self.rho = rho
        self._batch: tuple[dict[str, Tensor], Tensor] | None = None

    def prepare(self, task: "TransferTask", trainer: Trainer) -> None:
        """Refuse what the second gradient cannot be right under."""
        if trainer.accumulate_grad_batches > 1:
            raise UserError(
                f"sam takes a second gradient of the batch, and trainer.accumulate_grad_batches="
                f"{trainer.accumulate_grad_batches} makes several one step:"
                " trainer.accumulate_grad_batches=1, or regularizer=null"
            )
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise UserError(
                f"sam takes a second gradient, which trainer.precision={trainer.precision} would not scale:"
                " trainer.precision=bf16-mixed or 32-true"
            )
        if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
            raise UserError(
                f"sam needs whole parameters on each device, which {type(trainer.strategy).__name__} has not:"
                " trainer.strategy=ddp"
            )

    def loss(self, task: "TransferTask", inputs: dict[str, Tensor], target: Tensor) -> Tensor:
        """The training loss () here; remembers the batch for the second gradient."""
        self._batch = (inputs, target)
        return super().loss(task, inputs, target)

    def before_step(self, task: "TransferTask") -> None:
        """Put the gradient at the worst point nearby in place of the one here."""
        assert self._batch is not None, "a step follows a loss"
        moving = [p for p in task.parameters() if p.grad is not None]
        here = [p.detach().clone() for p in moving]
        _climb(moving, self.rho)
        with torch.enable_grad(), _held_statistics(task):
            with task.trainer.precision_plugin.train_step_context():
                loss = super().loss(task, *self._batch)
            loss.backward()  # type: ignore[no-untyped-call]
        self._batch = None
        with torch.no_grad():
            for parameter, value in zip(moving, here, strict=True):
                parameter.copy_(value)
        _average_gradients(moving)


@torch.no_grad()
def _climb(parameters: list[nn.Parameter], rho: float) -> None:
    """Move up the gradient by ``rho`` and forget it."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.add_(gradient * (rho / (norm + SMALLEST)))
        parameter.grad = None


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    """DDP averages the first gradient alone; the second pass does not go through its wrapper."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    world = torch.distributed.get_world_size()
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)  # this rank did not need it; the others may have
        torch.distributed.all_reduce(parameter.grad)
        parameter.grad /= world


@contextmanager
def _held_statistics(module: nn.Module) -> Iterator[None]:
    """Let BatchNorm use its batch without remembering it."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    held = [(m.momentum, m.num_batches_tracked) for m in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, held, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked
