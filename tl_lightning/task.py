"""The one LightningModule: batch -> backbone -> head -> objective."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, MetricCollection

from tl_lightning.backbones.base import FEATURES, Backbone
from tl_lightning.compiled import Compiled
from tl_lightning.finite import Finite, OnNan
from tl_lightning.joint import means, take_in
from tl_lightning.length import at_log_step, training_length
from tl_lightning.memory import Memory
from tl_lightning.objectives import Objective
from tl_lightning.optim import in_phases, param_groups
from tl_lightning.redact import redacted
from tl_lightning.strategies.base import FineTuning, Phase

CHECKPOINT_KEY = "tl_lightning"
Batch = tuple[dict[str, Tensor], Tensor, Tensor]  # inputs, target, rows (-1: a repeat that must not count)


class Predictions(NamedTuple):
    """What came out for each sample of the test split, in the order of ``rows`` (N,), on the CPU."""

    rows: Tensor
    scores: Tensor
    target: Tensor
    losses: Tensor


class TransferTask(LightningModule):
    """Fine-tune a pretrained backbone under a head for an objective; the strategy says what moves.

    Args:
        optimizer: given parameter groups, makes the optimizer; a partial whose keywords hold ``lr`` and
            ``weight_decay``.
        schedule: given the optimizer and the total number of steps, makes the learning-rate schedule.
        classes: names of the outputs (none for a number); stored in the checkpoint.
        config: the whole configuration as plain containers; stored in the checkpoint.
        on_nan: what to do with a batch whose loss or gradient is NaN or infinite.
        compiled: compiles the backbone for training.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Module,
        objective: Objective,
        strategy: FineTuning,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[..., LRScheduler],
        num_outputs: int,
        classes: Sequence[str] = (),
        config: dict[str, Any] | None = None,
        on_nan: OnNan = "stop",
        compiled: Compiled | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.objective = objective
        self.strategy = strategy
        self.make_optimizer = optimizer
        self.make_schedule = schedule
        self.classes = tuple(classes)
        self.config = config or {}
        metrics = objective.metrics(num_outputs)
        self.scorers = nn.ModuleDict({f"at_{stage}": metrics.clone(f"{stage}/") for stage in ("val", "test")})
        self.mean_losses = nn.ModuleDict({f"at_{stage}": MeanMetric() for stage in ("val", "test")})
        self.finite, self.memory, self.compiled = Finite(on_nan), Memory(), compiled
        self.predictions: Predictions | None = None
        self._tested: list[Predictions] = []

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """``inputs`` as the backbone's preprocessor makes them, or its features -> (B, num_outputs), float32."""
        outputs: Tensor = self.head(self.features(inputs))
        return outputs.float()

    def criterion(self, inputs: dict[str, Tensor], target: Tensor) -> Tensor:
        """The mean loss () of one batch."""
        return self.objective.losses(self(inputs), target).mean()

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """What the head reads, (B, D): the backbone's, or what the batch brings in its place."""
        found: Tensor = inputs[FEATURES] if FEATURES in inputs else self.backbone(**inputs)
        return found

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One batch -> the mean loss ()."""
        first = batch_idx % self.trainer.accumulate_grad_batches == 0
        loss, whole = self.memory.loss(self, batch, first)
        if at_log_step(self.trainer, self.trainer.global_step + 1):
            self.log_dict(means(self.trainer, {"train/loss": whole}), batch_size=len(batch[1]))
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Go backward; where memory runs out, in parts."""
        self.memory.backward(self, lambda: loss.backward(*args, **kwargs))  # type: ignore[no-untyped-call]

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Once for each step; the parts of a batch have left their gradients when Lightning comes to it."""
        if not self.memory.zeroed:
            optimizer.zero_grad()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score one batch of ``val``."""
        self._score(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score one batch of ``test`` and keep its predictions."""
        self._tested.append(self._score(batch, "test"))

    def _score(self, batch: Batch, stage: str) -> Predictions:
        inputs, target, rows = batch
        outputs = self.memory.outputs(self, inputs)
        if self.trainer.world_size > 1:
            real = rows >= 0
            outputs, target, rows = outputs[real], target[real], rows[real]
        losses, scores = self.objective.losses(outputs, target), self.objective.scores(outputs)
        take_in(self._scorer(stage), scores, target)
        if len(target):
            self._mean_loss(stage).update(losses)
        return Predictions(rows, scores, target, losses)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of ``val``."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics of ``test`` and gather its predictions from all ranks."""
        self._log_scores("test")
        whole = _joined(_gathered(_joined(self._tested)))
        order = whole.rows.argsort()
        self.predictions = Predictions(*(values[order] for values in whole))
        self._tested.clear()

    def _log_scores(self, stage: str) -> None:
        scorer, loss = self._scorer(stage), self._mean_loss(stage)
        found = {**scorer.compute(), f"{stage}/loss": loss.compute()}
        scorer.reset()
        loss.reset()
        # A degenerate MCC is an integer zero.  All processes have computed the same, but for the rounding of a GPU.
        values = means(self.trainer, {name: value.float() for name, value in found.items()})
        shown = f"{stage}/{self.objective.monitor}"
        self.log_dict({name: value for name, value in values.items() if name != shown})
        self.log(shown, values[shown], prog_bar=True)

    def _scorer(self, stage: str) -> MetricCollection:
        return self.scorers[f"at_{stage}"]  # type: ignore[return-value]

    def _mean_loss(self, stage: str) -> MeanMetric:
        return self.mean_losses[f"at_{stage}"]  # type: ignore[return-value]

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """Named parameters by layer, the backbone's input side first, the head last."""
        named = dict(self.backbone.named_parameters())
        groups = [[(name, named[name]) for name in group] for group in self.backbone.layer_groups()]
        return [*groups, list(self.head.named_parameters())]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Parameter groups by layer, from the optimizer's own lr and weight decay."""
        keywords: dict[str, Any] = getattr(self.make_optimizer, "keywords", {})
        strategy, weight_decay = self.strategy, keywords.get("weight_decay", 0.0)
        groups = param_groups(self.layers(), keywords["lr"], weight_decay, strategy.layer_decay, strategy.decays)
        optimizer = self.make_optimizer(groups)
        schedule = self._schedule(optimizer, keywords["lr"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _schedule(self, optimizer: Optimizer, lr: float) -> LRScheduler:
        length = training_length(self.trainer)
        phases = self.strategy.phases(length.epochs)
        if phases == [Phase(0)]:
            return self.make_schedule(optimizer, total_steps=length.steps)
        starts = [phase.start * length.per_epoch for phase in phases]
        scales = [1.0 if phase.lr is None else phase.lr / lr for phase in phases]
        return in_phases(optimizer, self.make_schedule, starts, length.steps, scales)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm, also for fused optimizers, which Lightning refuses under AMP even without a scaler."""
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        by_norm = gradient_clip_algorithm in (None, "norm")
        if gradient_clip_val is not None and (scaled or not by_norm):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        clip = float(gradient_clip_val) if gradient_clip_val and by_norm else None
        self.finite.before_step(optimizer, self.trainer.global_step, clip, scaled)

    def configure_callbacks(self) -> list[Callback]:
        """The strategy, the watch over NaN and the compiler are callbacks of the task's own."""
        return [self.strategy, self.finite, *([self.compiled] if self.compiled else [])]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what is needed to use the weights: class names and configuration, as plain containers."""
        checkpoint[CHECKPOINT_KEY] = {
            "classes": list(self.classes),
            "config": redacted(self.config),
            "backbone": self.backbone.identity,
        }
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if self.strategy.keeps(name)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What a checkpoint leaves out is the pretrained backbone's, which stands here already."""
        own = {name: value for name, value in self.state_dict().items() if self.strategy.knows(name)}
        checkpoint["state_dict"] = {**own, **checkpoint["state_dict"]}

    def parameter_counts(self) -> dict[str, int]:
        """All parameters, and those that train."""
        parameters = [p for layer in self.layers() for _, p in layer]
        return {
            "all": sum(p.numel() for p in parameters),
            "trained": sum(p.numel() for p in parameters if p.requires_grad),
        }


def _joined(parts: Sequence[Predictions]) -> Predictions:
    columns = ([values.cpu() for values in column] for column in zip(*parts, strict=True))
    return Predictions(*map(torch.cat, columns))


def _gathered(part: Predictions) -> list[Predictions]:
    """The parts of all ranks, on every rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [part]
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, part)
    return parts
