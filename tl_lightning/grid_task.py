"""The task of a grid of heads: all are trained, one is chosen on ``val``."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import MeanMetric, Metric

from tl_lightning.errors import UserError
from tl_lightning.head_grid import HeadGrid, scale_steps
from tl_lightning.joint import means, take_in
from tl_lightning.objectives import mode
from tl_lightning.report import aligned, number
from tl_lightning.task import CHECKPOINT_KEY, Batch, TransferTask

log = logging.getLogger(__name__)
KEY = "head_grid"  # in a checkpoint, beside what every task keeps there
PREFIX = "grid."


class GridTask(TransferTask):
    """Trains one head for each point of ``head.lr_grid`` x ``head.weight_decay_grid`` on a frozen backbone.

    The protocol of linear probes that VISSL (Goyal et al., 2019, arXiv:1905.01235) and DINOv2 (Oquab et al., 2024,
    arXiv:2304.07193) report: a probe's learning rate matters much and costs little beside the features.  Every head
    begins with the same weights, sees the same batches and the same dropout, and is clipped by its own norm: it becomes
    what a run with its values alone becomes.  After each validation the head that is best there is copied into
    ``head``; what is monitored, stopped early and kept as ``best.ckpt`` is that head's, and ``best.ckpt`` holds no
    other.  ``test`` has no part in it.  A head whose loss or gradient is not finite goes out alone.

    Args:
        lrs: in place of the optimizer's own learning rate.
        weight_decays: in place of the optimizer's own.
        *args, **kwargs: as for every task.
    """

    def __init__(self, *args: Any, lrs: Sequence[float], weight_decays: Sequence[float], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.grid = HeadGrid(self.head, lrs, weight_decays)
        self.head.requires_grad_(False)
        monitor, outputs = self.objective.monitor, kwargs["num_outputs"]
        self.judge: Metric = MeanMetric() if monitor == "loss" else self.objective.metrics(outputs)[monitor]
        self.best: list[float | None] = [None] * len(self.grid.points)  # on val, of each head
        self.epochs: list[int | None] = [None] * len(self.grid.points)
        self.chosen = 0
        self.has_chosen = False  # by a validation; on metrics that are none, it is the first head
        self._validated: list[tuple[Tensor, Tensor]] = []

    def criterion(self, inputs: dict[str, Tensor], target: Tensor) -> Tensor:
        """The mean over heads (), with the gradient of their sum."""
        outputs = self.grid.outputs(self.head, self.features(inputs))
        losses = self.objective.losses(outputs.flatten(0, 1), target.repeat(len(outputs), *[1] * (target.ndim - 1)))
        return self.grid.loss(losses.view(len(outputs), -1).mean(dim=1))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Two groups for each weight decay, at the highest learning rate; the others take shorter steps."""
        optimizer = self.make_optimizer(self.grid.groups(self.head, self.strategy.decays))
        scale_steps(optimizer, self.grid.lrs)
        schedule = self._schedule(optimizer, max(self.grid.lrs))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Each head by itself."""
        by_norm = gradient_clip_algorithm in (None, "norm")
        self.grid.before_step(self.trainer.global_step, float(gradient_clip_val or 0) if by_norm else None)
        super().configure_gradient_clipping(optimizer, None if by_norm else gradient_clip_val, gradient_clip_algorithm)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep what all heads say of one batch of ``val``."""
        if self.trainer.state.fn != "fit":
            super().validation_step(batch, batch_idx)
            return
        inputs, target, rows = batch
        outputs = self.memory.outputs(self._all, inputs)
        real = rows >= 0 if self.trainer.world_size > 1 else slice(None)
        self._validated.append((outputs[real], target[real]))

    def _all(self, inputs: dict[str, Tensor]) -> Tensor:
        """(B, K, C)."""
        return self.grid.outputs(self.head, self.features(inputs)).transpose(0, 1)

    def on_validation_epoch_end(self) -> None:
        """Choose, and log the metrics of the chosen one; of the others what is monitored."""
        if self._validated:
            outputs, target = map(torch.cat, zip(*self._validated, strict=True))
            self._validated.clear()
            alive = self.grid.alive.tolist()
            values = [self._judged(outputs[:, at], target) if lives else math.nan for at, lives in enumerate(alive)]
            found = zip(self.grid.points, values, strict=True)
            agreed = means(self.trainer, {f"heads/{point}/{self.objective.monitor}": value for point, value in found})
            self._choose([float(value) for value in agreed.values()])  # the same head on all processes
            self._update(outputs[:, self.chosen], target)
            self.log_dict(agreed)
        super().on_validation_epoch_end()

    def _judged(self, outputs: Tensor, target: Tensor) -> float:
        """What is monitored, of one head: (N, C) -> a number over all processes."""
        self.judge.reset()
        if len(target) and self.objective.monitor == "loss":
            self.judge.update(self.objective.losses(outputs, target))
        elif self.objective.monitor != "loss":
            take_in(self.judge, self.objective.scores(outputs), target)
        return float(self.judge.compute())

    def _update(self, outputs: Tensor, target: Tensor) -> None:
        take_in(self._scorer("val"), self.objective.scores(outputs), target)
        if len(target):
            self._mean_loss("val").update(self.objective.losses(outputs, target))

    def _choose(self, values: Sequence[float]) -> None:
        alive = self.grid.alive.tolist()
        order = sorted(range(len(values)), key=lambda at: (not alive[at], self._rank(values[at])))
        self.chosen = order[0]
        self.grid.take(self.chosen, self.head)
        if self.trainer.sanity_checking:
            return
        self.has_chosen = True
        for at, value in enumerate(values):
            if alive[at] and self._rank(value) < self._rank(self.best[at]):
                self.best[at], self.epochs[at] = value, self.trainer.current_epoch

    def _rank(self, value: float | None) -> float:
        """The less, the better."""
        if value is None or math.isnan(value):
            return math.inf
        return value if mode(self.objective.monitor) == "min" else -value

    def on_fit_end(self) -> None:
        """Tell all of them.

        Raises:
            UserError: there was no validation, so that no head could be chosen.
        """
        if not self.has_chosen and self.grid.alive.any():
            raise UserError(
                "head.lr_grid, head.weight_decay_grid: the training ended before its first validation, so that no head"
                " was chosen; train longer, or validate earlier (trainer.val_check_interval=)"
            )
        if self.trainer.is_global_zero:
            name = f"best val/{self.objective.monitor}"
            rows = [
                (str(p), number(v), str(e)) for p, v, e in zip(self.grid.points, self.best, self.epochs, strict=True)
            ]
            log.info("%s", aligned([("head", name, "epoch"), *rows]))

    def facts(self) -> dict[str, Any]:
        """For the run record: what was chosen, and how each head did on ``val``."""
        name, out = f"val/{self.objective.monitor}", self.grid.out_at.tolist()
        heads = [
            {**point._asdict(), name: value, "epoch": epoch, "out_at_step": None if step < 0 else step}
            for point, value, epoch, step in zip(self.grid.points, self.best, self.epochs, out, strict=True)
        ]
        return {"chosen": self.grid.points[self.chosen]._asdict(), "selected_by": name, "heads": heads}

    def parameter_counts(self) -> dict[str, int]:
        """Those of the model that is left: the others served to choose."""
        counts = super().parameter_counts()
        return {**counts, "trained": counts["trained"] + sum(p.numel() for p in self.head.parameters())}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """All heads for a resume; where weights alone are stored, the chosen one."""
        super().on_save_checkpoint(checkpoint)
        state, whole = checkpoint["state_dict"], "optimizer_states" in checkpoint
        checkpoint["state_dict"] = {n: value for n, value in state.items() if whole or not n.startswith(PREFIX)}
        known = {
            "chosen": self.chosen,
            "best": list(self.best),
            "epochs": list(self.epochs),
            "has_chosen": self.has_chosen,
        }
        checkpoint[CHECKPOINT_KEY][KEY] = {**known, "head": self.grid.points[self.chosen]._asdict()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint of weights leaves the heads as they are, but for the chosen one."""
        whole = "optimizer_states" in checkpoint
        known = checkpoint.get(CHECKPOINT_KEY, {}).get(KEY)
        if known is not None:
            self.chosen = known["chosen"]
        if known is not None and whole:
            self.best, self.epochs = list(known["best"]), list(known["epochs"])
            self.has_chosen = bool(known.get("has_chosen", True))
        super().on_load_checkpoint(checkpoint)
        grid = {name: value for name, value in self.state_dict().items() if name.startswith(PREFIX)}
        checkpoint["state_dict"] = {**grid, **checkpoint["state_dict"]}
