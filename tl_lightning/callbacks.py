"""Callbacks: what is kept of a training, and what is told about it."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import distributed

from tl_lightning.finite import NotFiniteError
from tl_lightning.length import between_steps
from tl_lightning.parts import part
from tl_lightning.ranges import Count

Mode = Literal["min", "max"]
CHEAP_S, SHARE = 0.5, 0.05  # a write of last.ckpt that never waits, and what others may take of the time


@part("callbacks")
class Best(ModelCheckpoint):
    """Keeps ``best.ckpt``: the weights of the best validation so far."""

    def __init__(self, monitor: str, mode: Mode, folder: Path) -> None:
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_weights_only=True,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
        self.metrics: dict[str, float] = {}  # of the best validation
        self.epoch, self.step = 0, 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if this validation is the best, and note its metrics."""
        before = self.best_model_score
        super().on_validation_end(trainer, pl_module)
        if self.best_model_score is not None and self.best_model_score is not before:
            self.epoch, self.step = trainer.current_epoch, trainer.global_step
            found = trainer.callback_metrics.items()
            self.metrics = {name: float(value) for name, value in found if name.startswith("val/")}

    def forget(self) -> None:
        """Choose anew from the next validation on."""
        self.best_k_models, self.best_model_score, self.current_score = {}, None, None
        self.best_model_path = self.kth_best_model_path = ""
        self.metrics = {}

    def replace(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Store the weights that are in the model now, whose validation gave ``metrics``."""
        path = self.best_model_path or str(Path(str(self.dirpath), "best.ckpt"))
        trainer.save_checkpoint(path, weights_only=True)
        self.best_model_path, self.metrics = path, metrics

    def state_dict(self) -> dict[str, Any]:
        """With the metrics of the best validation."""
        return {**super().state_dict(), "metrics": self.metrics, "epoch": self.epoch, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """With the metrics of the best validation; where the run directory has moved, its checkpoint has too."""
        super().load_state_dict(moved_to(Path(str(self.dirpath)), state_dict))
        self.metrics, self.epoch, self.step = (state_dict[k] for k in ("metrics", "epoch", "step"))


def moved_to(folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    """The state of a ModelCheckpoint with all its files in ``folder``, by their names alone.

    Lightning forgets the best scores where the folder differs from the stored one, as it does once a run directory has
    moved; and it would remove the files that a checkpoint names, wherever they are.
    """

    def here(path: str) -> str:
        return str(folder / Path(path).name) if path else path

    paths = {name: here(state[name]) for name in ("best_model_path", "kth_best_model_path", "last_model_path")}
    kept = {here(path): score for path, score in state["best_k_models"].items()}
    return {**state, **paths, "best_k_models": kept, "dirpath": str(folder)}


@part("callbacks")
class Last(Checkpoint):
    """Keeps ``last.ckpt``, all that a resume needs: after each validation and epoch, and on an interruption.

    A ``Checkpoint``, which Lightning calls after all other callbacks and in their order: it stores what ``Best`` has
    just found.

    A file that takes more than half a second is written more rarely: once that is at most a twentieth of the time
    since the one before, whenever a checkpoint of the best has changed (so that all files tell of one course of the
    training), at the end and on an interruption.  A resume is exact from any of them; a process that is killed
    repeats what followed the last.
    """

    def __init__(self, monitor: str, mode: Mode, folder: Path) -> None:
        self.path = folder / "last.ckpt"
        self.writes = 0
        self._cost, self._since = 0.0, 0.0  # seconds of the last write, and when it ended
        self._chosen: list[dict[str, float]] = []
        self._broken_off = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._since, self._chosen = time.perf_counter(), _chosen(trainer)

    def _save(self, trainer: Trainer) -> None:
        if not trainer.sanity_checking:
            start = time.perf_counter()
            trainer.save_checkpoint(self.path, weights_only=False)
            self._since, self._chosen = time.perf_counter(), _chosen(trainer)
            self._cost = self._since - start
            self.writes += 1

    def _save_if_due(self, trainer: Trainer) -> None:
        waited = self._cost <= CHEAP_S or self._cost <= SHARE * (time.perf_counter() - self._since)
        due = waited or _chosen(trainer) != self._chosen or _ends(trainer)
        if trainer.strategy.reduce_boolean_decision(due, all=False):  # all write together, and their clocks differ
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save in mid-epoch, but not within a step; at an epoch's end ``on_train_epoch_end`` follows at once."""
        if trainer.state.fn == "fit" and not trainer.is_last_batch and between_steps(trainer):
            self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save: the epoch is over."""
        self._save_if_due(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save where a signal ended the training between two steps, or a step was not taken.

        Not where a second signal ended it at once: that may be within a step, and what was saved before is exact.
        """
        if trainer.state.fn == "fit" and isinstance(exception, (SIGTERMException, NotFiniteError)):
            self._broken_off = trainer.validating
            self._save(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Have a validation that was broken off done anew, from its first batch.

        Lightning takes one that ended between two batches for done, so that its epoch has no metrics and is never
        the best; one that ended within a batch it goes on with, so that the metrics are those of the rest alone.
        """
        if self._broken_off:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            before = progress["total"]["ready"] - progress["current"]["ready"]
            for name, done in (("total", before), ("current", 0)):
                progress[name].update(ready=done + 1, started=done + 1, processed=done, completed=done)
            progress["is_last_batch"] = False


def _chosen(trainer: Trainer) -> list[dict[str, float]]:
    """The checkpoints that were chosen by a metric, with their scores."""
    kept = (c.best_k_models for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint))
    return [{path: float(score) for path, score in models.items()} for models in kept]


def _ends(trainer: Trainer) -> bool:
    """Whether the training ends with this epoch."""
    epochs, steps = trainer.max_epochs or -1, trainer.max_steps
    return trainer.should_stop or 0 < epochs <= trainer.current_epoch + 1 or 0 < steps <= trainer.global_step


class Patience(EarlyStopping):
    """Begins to watch with the epoch in which the strategy's last change begins: a short probe must not end it all.

    Before the first validation there is nothing to watch.
    """

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look, if it is time."""
        if self._is_time(trainer, pl_module):
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look, if it is time."""
        if self._is_time(trainer, pl_module):
            super().on_train_epoch_end(trainer, pl_module)

    def _is_time(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        settled = trainer.current_epoch >= pl_module.strategy.settled_at  # type: ignore[operator, union-attr]
        return bool(settled and self.monitor in trainer.callback_metrics)


@part("callbacks")
def early_stopping(
    monitor: str, mode: Mode, folder: Path, patience: Count = 3, min_delta: float = 0.0
) -> EarlyStopping:
    """Stop once ``monitor`` has not gained ``min_delta`` over ``patience`` validations."""
    return Patience(monitor, mode=mode, patience=patience, min_delta=min_delta)


@part("callbacks")
class RandomState(Callback):
    """Stores the random states of all processes with a checkpoint and brings them back, so that a resume is exact.

    They draw the same numbers only as long as their batches have the same shapes.
    """

    def __init__(self) -> None:
        self._loaded: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """The states as plain containers and tensors, which load under ``weights_only``; all processes ask together."""
        own = self._own()
        if not (distributed.is_available() and distributed.is_initialized()):
            return {"ranks": [own]}
        ranks = [own] * distributed.get_world_size()
        distributed.all_gather_object(ranks, own)
        return {"ranks": ranks}

    @staticmethod
    def _own() -> dict[str, Any]:
        drawn = np.random.get_state(legacy=False)  # noqa: NPY002
        assert isinstance(drawn, dict)
        words, position = drawn["state"]["key"].tolist(), drawn["state"]["pos"]
        return {
            "python": random.getstate(),
            "numpy": (drawn["bit_generator"], words, position, drawn["has_gauss"], drawn["gauss"]),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training starts."""
        self._loaded = state_dict["ranks"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring them back last of all: building and loading have drawn numbers."""
        if not self._loaded:
            return
        own = self._loaded[trainer.global_rank if len(self._loaded) == trainer.world_size else 0]
        version, words, gauss = own["python"]
        random.setstate((version, tuple(words), gauss))
        np.random.set_state(own["numpy"])  # noqa: NPY002
        torch.set_rng_state(own["torch"].cpu())
        if len(own["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([state.cpu() for state in own["cuda"]])
        self._loaded = []


class Pruning(Callback):
    """Ends a training after a validation that a judge finds hopeless.

    Args:
        monitor: the metric that is judged.
        judge: takes the number of the validation, from 1, and the metric; whether to end.  Asked on the first
            process alone.
    """

    def __init__(self, monitor: str, judge: Callable[[int, float], bool]) -> None:
        self.monitor = monitor
        self.pruned = False
        self._judge = judge
        self._validations = 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask, and end on all processes."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._validations += 1
        value = float(trainer.callback_metrics[self.monitor])
        hopeless = trainer.is_global_zero and self._judge(self._validations, value)
        self.pruned = bool(trainer.strategy.broadcast(hopeless))
        trainer.should_stop = trainer.should_stop or self.pruned

    def state_dict(self) -> dict[str, Any]:
        """How many validations there were."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on."""
        self._validations = state_dict["validations"]
