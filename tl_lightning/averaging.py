"""Averages of the weights along a training: exponential, and over its last epochs."""

import logging
import math
from abc import abstractmethod
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from tl_lightning.callbacks import Best
from tl_lightning.errors import UserError
from tl_lightning.norms import refresh
from tl_lightning.parts import part
from tl_lightning.ranges import Count, ShareBelow1

log = logging.getLogger(__name__)


class Average(Checkpoint):
    """Keeps an average of what moves, and puts it in place of the weights for each validation.

    A ``Checkpoint``, placed between ``Best`` and ``Last``: the one stores the averaged weights, the other those that
    train on, with the average beside them.  It holds the trained parameters and the BatchNorm statistics, in float32,
    on the model's device; and during a validation the weights that train on as well.

    Lightning's ``WeightAveraging`` is not used: its checkpoints of weights alone are not averaged, it averages whole
    numbers (positions, say) as if they were weights, and it copies the whole module with its metrics.
    """

    def __init__(self) -> None:
        self.count = 0  # updates so far
        self._step = 0  # of the last update
        self._values: dict[str, Tensor] = {}
        self._aside: dict[str, Tensor] = {}  # the weights that train on, while the average is in their place

    @abstractmethod
    def update(self, values: list[Tensor], current: list[Tensor]) -> None:
        """Take ``current`` into ``values``, in place; ``count`` says how many came before."""

    @abstractmethod
    def due(self, trainer: Trainer) -> bool:
        """Whether to take in the weights after this optimizer step."""

    def enter_validation(self, trainer: Trainer, task: LightningModule) -> None:
        """The average is in place; its BatchNorm statistics may be measured now."""

    def begins(self, trainer: Trainer) -> None:
        """The first update comes."""

    def finish(self, trainer: Trainer, task: LightningModule, data: LightningDataModule, best: Best | None) -> None:
        """After the fit: nothing is left to do."""

    def clean(self) -> None:
        """After the test: nothing is left over."""

    def facts(self) -> dict[str, Any]:
        """For the run record."""
        return {"method": type(self).__name__.lower(), "updates": self.count}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What a checkpoint brought goes to where the model is."""
        self._values = {name: self._values[name].to(t.device) for name, t in self._current(trainer, pl_module).items()
                        if name in self._values}  # fmt: skip

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take in the weights after an optimizer step."""
        if trainer.global_step == self._step or not self.due(trainer):
            return
        self._step = trainer.global_step
        current = self._current(trainer, pl_module)
        if not self._values:
            self.begins(trainer)
            self._values = {name: tensor.clone().float() for name, tensor in current.items()}
        with torch.no_grad():
            self.update(list(self._values.values()), [tensor.float() for tensor in current.values()])
        self.count += 1

    def _current(self, trainer: Trainer, task: LightningModule) -> dict[str, Tensor]:
        """What is averaged: parameters that train at some time, and buffers of real numbers."""
        trained = {
            id(p) for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]
        }
        parameters = {name: p.detach() for name, p in task.named_parameters() if id(p) in trained}
        return parameters | {name: b for name, b in task.named_buffers() if b.is_floating_point()}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average in."""
        if trainer.state.fn == "fit" and self._values:
            current = self._current(trainer, pl_module)
            self._aside = {name: tensor.clone() for name, tensor in current.items()}
            _copy(self._values, current)
            self.enter_validation(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """``Best`` has saved: put back what trains on."""
        if self._aside:
            current = self._current(trainer, pl_module)
            for name, buffer in pl_module.named_buffers():
                if name in self._values:  # statistics may have been measured anew
                    self._values[name].copy_(buffer)
            _copy(self._aside, current)
            self._aside = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """``Last`` saves next, and must not find the average in place."""
        if self._aside:
            _copy(self._aside, self._current(trainer, pl_module))
            self._aside = {}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A fit ends with the average in place, which matters where no ``Best`` keeps it."""
        if self._values:
            _copy(self._values, self._current(trainer, pl_module))

    def state_dict(self) -> dict[str, Any]:
        """The average, for a resume."""
        return {"count": self.count, "step": self._step, "values": self._values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The average, from a checkpoint."""
        self.count, self._step, self._values = (state_dict[key] for key in ("count", "step", "values"))


@part("average")
class EMA(Average):
    """An exponential moving average, taken at every step (Polyak and Juditsky, 1992; Tarvainen and Valpola, 2017).

    arXiv:1703.01780.  BatchNorm statistics are averaged alike.

    Args:
        decay: share of the old average that stays at a step.
        decay_warmup: begin with a smaller decay, ``1 - (1 + step) ** (-2 / 3)``, as timm does: a short training is not
            held back by its first weights (0.99 is reached after 1000 steps, 0.999 after 31,600).
    """

    def __init__(self, decay: ShareBelow1 = 0.999, decay_warmup: bool = True) -> None:
        super().__init__()
        self.decay = decay
        self.decay_warmup = decay_warmup

    def due(self, trainer: Trainer) -> bool:
        """Always."""
        return True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The average begins with the weights before the first step."""
        super().on_fit_start(trainer, pl_module)
        if not self._values:
            self._values = {n: t.clone().float() for n, t in self._current(trainer, pl_module).items()}

    def update(self, values: list[Tensor], current: list[Tensor]) -> None:
        """One step."""
        decay = min(self.decay, 1 - (2 + self.count) ** (-2 / 3)) if self.decay_warmup else self.decay
        torch._foreach_lerp_(values, current, 1 - decay)


@part("average")
class SWA(Average):
    """The plain mean of the weights at the end of each epoch from a share of the training on (Izmailov et al., 2018).

    arXiv:1803.05407.  ``best.ckpt`` is chosen anew once the mean begins.  BatchNorm statistics are measured anew
    before each validation of the mean.  It lives from weights that still move: ``schedule=constant`` suits it.

    Args:
        start: share of the epochs that comes before; the paper has 0.75, of longer trainings.
        norm_batches: at most so many training batches to measure BatchNorm statistics on.
    """

    def __init__(self, start: ShareBelow1 = 0.5, norm_batches: Count = 200) -> None:
        super().__init__()
        self.start = start
        self.norm_batches = norm_batches

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that there is something to average."""
        super().on_fit_start(trainer, pl_module)
        epochs = trainer.max_epochs
        if epochs is None or epochs < 1:
            raise UserError("average=swa begins at a share of the epochs and needs their number: trainer.max_epochs=10")
        if epochs - math.floor(self.start * epochs) < 2:
            log.warning(
                "average=swa averages epoch ends after the share average.start=%s: of trainer.max_epochs=%s that is"
                " one, which is no average; more epochs, or an earlier start",
                self.start,
                epochs,
            )

    def due(self, trainer: Trainer) -> bool:
        """At the end of each epoch after the start."""
        epochs = trainer.max_epochs or 1
        return trainer.is_last_batch and trainer.current_epoch >= math.floor(self.start * epochs)

    def begins(self, trainer: Trainer) -> None:
        """No average was validated so far."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Best):
                callback.forget()

    def update(self, values: list[Tensor], current: list[Tensor]) -> None:
        """One epoch."""
        torch._foreach_lerp_(values, current, 1 / (1 + self.count))

    def enter_validation(self, trainer: Trainer, task: LightningModule) -> None:
        """The mean of statistics is not the statistics of the mean."""
        refresh(trainer, task, self.norm_batches)


@torch.no_grad()
def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
