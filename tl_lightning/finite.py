"""A loss or a gradient that is NaN or infinite: the weights never see it, and the run stops or leaves the batch out."""

import logging
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from tl_lightning.errors import UserError
from tl_lightning.length import at_log_step

OnNan = Literal["stop", "skip"]
SHOWN = 16  # rows in a message
MOST_IN_A_ROW = 50  # steps left out one after the other: then nothing is learned any more
log = logging.getLogger(__name__)


class NotFiniteError(UserError):
    """The run stopped at a bad step; its weights and its optimizer stand as before it."""


class Step(NamedTuple):
    """What is known of one optimizer step, on the device until it is looked at."""

    number: int
    bad: Tensor  # () bool
    losses: list[Tensor]  # whether each micro-batch's loss is finite, () bool
    rows: list[Tensor]  # of each micro-batch, (B,)
    norms: Tensor  # of the gradients, (P,)
    parameters: list[nn.Parameter]


class Finite(Callback):
    """Looks at every loss and at the norm of every gradient, which clipping needs anyway.

    On a GPU with a fused optimizer nothing waits for the answer: the optimizer itself leaves a bad step out on the
    device, as it does for a gradient scaler, and the flags are read every ``log_every_n_steps`` and before a
    validation.  With ``stop`` no later step is taken either, so that the weights stay those from before.  Elsewhere
    each step is looked at at once.

    A loss that is not finite makes all gradients NaN, and the ranks add their gradients up: so they all agree.

    Args:
        on_nan: ``stop`` the run, or ``skip`` the batch.
    """

    def __init__(self, on_nan: OnNan = "stop") -> None:
        self.on_nan = on_nan
        self.skipped = 0  # steps left out so far
        self._in_a_row = 0
        self._losses: list[Tensor] = []
        self._rows: list[Tensor] = []
        self._steps: list[Step] = []
        self._stopped: Tensor | None = None

    def state_dict(self) -> dict[str, int]:
        """How many steps were left out."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """How many steps were left out before."""
        self.skipped = state_dict["skipped"]

    def watch(self, loss: Tensor, rows: Tensor) -> Tensor:
        """The same loss (), or NaN with NaN gradients for all parameters where it is not finite; ``rows`` (B,)."""
        finite = loss.detach().isfinite()
        self._losses.append(finite)
        self._rows.append(rows)
        return loss * torch.where(finite, 1.0, float("nan"))

    def forget(self) -> None:
        """What was watched since the last step will come again."""
        self._losses, self._rows = [], []

    def before_step(self, optimizer: Optimizer, number: int, clip: float | None, scaled: bool) -> None:
        """Clip by norm, and leave the step out where it is bad.

        Args:
            optimizer: about to step.
            number: of the step, from 0.
            clip: the largest norm, or None.
            scaled: a gradient scaler looks after the gradients itself, and clips nothing here.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        losses, rows = self._losses, self._rows
        self.forget()
        if not parameters:
            return
        norms = torch.stack(torch._foreach_norm([p.grad for p in parameters if p.grad is not None]))
        total = torch.linalg.vector_norm(norms)
        bad = ~torch.stack(losses).all() if scaled and losses else ~total.isfinite()
        if not scaled:
            if clip:
                nn.utils.clip_grads_with_norm_(parameters, clip, total)
            bad = self._leave_out(optimizer, bad, parameters)
        self._steps.append(Step(number, bad, losses, rows, norms, parameters))

    def _leave_out(self, optimizer: Optimizer, bad: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
        if waits(optimizer):
            if self.on_nan == "stop":
                bad = self._stopped = bad if self._stopped is None else bad | self._stopped
            optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        elif bool(bad):
            for parameter in parameters:
                parameter.grad = None  # an optimizer passes over these, its moments and counters too
        return bad

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Look, if it is time."""
        if self._steps and (not waits(trainer.optimizers[0]) or at_log_step(trainer, trainer.global_step)):
            self._look(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before the weights are judged and saved."""
        self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before the weights are saved."""
        self._look(trainer, pl_module)

    def _look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps, self._steps = self._steps, []
        if not steps:
            return
        flags = torch.stack([step.bad for step in steps]).float()
        if trainer.world_size > 1:  # the ranks' gradients agree; losses under a gradient scaler do not
            flags = trainer.strategy.reduce(flags, reduce_op="max")
        for step, bad in zip(steps, flags.tolist(), strict=True):
            self._in_a_row = self._in_a_row + 1 if bad else 0
            if bad:
                self._act(step, trainer, pl_module)

    def _act(self, step: Step, trainer: Trainer, module: LightningModule) -> None:
        what = described(step, dict(module.named_parameters()), _gathered(bad_rows(step)))
        if self.on_nan == "stop" or self._in_a_row >= MOST_IN_A_ROW:
            # The batch is done with, in the books too: a resume goes on behind it.
            trainer.fit_loop.epoch_loop.batch_progress.increment_completed()
            raise NotFiniteError(
                f"{what}  A smaller optimizer.lr, more schedule.warmup or trainer.precision=32-true may help;"
                " on_nan=skip leaves such batches out.  last.ckpt holds the weights from before this step"
            )
        self.skipped += 1
        log.warning("%s  The batch is left out (on_nan=skip).", what)


def waits(optimizer: Any) -> bool:
    """Whether the optimizer can leave a step out by itself, so that nobody has to wait for the device."""
    groups = getattr(optimizer, "optimizer", optimizer).param_groups
    on_gpu = all(p.is_cuda for group in groups for p in group["params"])
    return on_gpu and all(group.get("fused") for group in groups)


def bad_rows(step: Step) -> list[int]:
    """The rows of the micro-batches whose loss is not finite; of all, where each loss is finite."""
    bad = [rows for rows, finite in zip(step.rows, step.losses, strict=True) if not finite]
    return [int(row) for rows in bad or step.rows for row in rows.tolist()]


def described(step: Step, named: dict[str, nn.Parameter], rows: Sequence[int]) -> str:
    """What went wrong, where and with which rows, in words."""
    names = {id(parameter): name for name, parameter in named.items()}
    finite = step.norms.isfinite()
    worst = int((~finite).float().argmax()) if not bool(finite.all()) else int(step.norms.argmax())
    what = "gradient" if all(map(bool, step.losses)) else "loss"
    shown = ", ".join(map(str, rows[:SHOWN])) + (", ..." if len(rows) > SHOWN else "")
    return (
        f"The {what} is NaN or infinite at step {step.number} (rows {shown} of data.train, counted from 0;"
        f" {int((~finite).sum())} of {len(finite)} gradients are not finite,"
        f" first that of {names.get(id(step.parameters[worst]), 'a parameter')})."
    )


def _gathered(rows: list[int]) -> list[int]:
    """The bad rows of all ranks; each comes here, since they agree that the step is bad."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, rows)
    return [row for part in parts for row in part]
