"""Callbacks that a configuration names, to stop a run and to look into it."""

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

Place = tuple[str, int]


class StopAt(Callback):
    """Sends this process SIGTERM at places, some times in a row.

    A place is a hook and the step it comes at; each one counts once in a process.
    """

    done: set[Place] = set()  # noqa: RUF012  # the resumed run must not stop where the first one did

    def __init__(self, places: list[list[Any]], times: int = 1) -> None:
        self.places = {(str(hook), int(step)) for hook, step in places}
        self.times = times

    def _stop(self, hook: str, trainer: Trainer) -> None:
        place = (hook, trainer.global_step)
        if place in self.places - StopAt.done:
            StopAt.done.add(place)
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGTERM)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop("epoch_start", trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._stop("batch_start", trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop("validation", trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop("epoch_end", trainer)


class StopRank(StopAt):
    """The same on one process of several."""

    def __init__(self, places: list[list[Any]], rank: int) -> None:
        super().__init__(places)
        self.rank = rank

    def _stop(self, hook: str, trainer: Trainer) -> None:
        if trainer.global_rank == self.rank:
            super()._stop(hook, trainer)


class SignalOnce(Callback):
    """Sends this process a signal before a batch of a stage, once: the run that goes on is not disturbed again."""

    sent = False

    def __init__(self, signum: int, stage: str, step: int) -> None:
        self.signum, self.stage, self.step = signum, stage, step

    def _send(self, stage: str, trainer: Trainer) -> None:
        if not SignalOnce.sent and (stage, trainer.global_step) == (self.stage, self.step):
            SignalOnce.sent = True
            os.kill(os.getpid(), self.signum)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._send("train", trainer)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._send("validation", trainer)


class Cleared(Callback):
    """Notes at which step the optimizer has no moments, and a copy of last.ckpt after each epoch."""

    at: list[int] = []  # noqa: RUF012

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not any(trainer.optimizers[0].state.values()):
            Cleared.at.append(trainer.global_step)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        last = Path(str(trainer.default_root_dir)) / "checkpoints/last.ckpt"
        if last.exists():
            shutil.copyfile(last, last.with_name(f"after_{trainer.global_step}"))


class Weights(Callback):
    """Leaves the weights of every rank, as they are when training ends, in the run directory."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.save(pl_module.state_dict(), Path(trainer.default_root_dir) / f"rank_{trainer.global_rank}.pt")


class ReducesApart(Callback):
    """A collective that the first process enters at one place and the others, at the same time, at another one."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.here(trainer)
        else:
            self.there(trainer)

    def here(self, trainer: Trainer) -> None:
        trainer.strategy.reduce(torch.zeros(1))

    def there(self, trainer: Trainer) -> None:
        trainer.strategy.reduce(torch.zeros(1))


class LogsWithSyncDist(Callback):
    """A user's own number, reduced by Lightning once somebody reads it."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("own/rank", float(trainer.global_rank), sync_dist=True)


class Spoils(Callback):
    """Makes the loss of one process NaN at one step."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step = rank, step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if (trainer.global_rank, trainer.global_step, batch_idx) == (self.rank, self.step, self.step):
            objective: Any = pl_module.objective
            objective.losses = lambda *args: type(objective).losses(objective, *args) * float("nan")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        vars(pl_module.objective).pop("losses", None)


def hopeless(validations: int, value: float) -> bool:
    """What Pruning asks."""
    return validations == 2


class SlowAfter(Callback):
    """Lets what comes after the test take a minute, so that a signal finds it there."""

    def __init__(self) -> None:
        from tl_lightning import run

        vars(run)["intervals"] = lambda *_: time.sleep(60)


class SignalWhenOver(Callback):
    """Sends this process SIGTERM when the second job of a multirun is over and no other has begun."""

    def __init__(self) -> None:
        from tl_lightning.studies import jobs

        original = vars(jobs)["placed_run"]

        def ending(*args: Any, **kwargs: Any) -> Any:
            done = original(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGTERM)
            return done

        vars(jobs)["placed_run"] = ending


class SpoilsSoup(Callback):
    """Lets one process of several be unable to read what a soup is made of."""

    def __init__(self, rank: int) -> None:
        from tl_lightning import soup

        if int(os.environ.get("LOCAL_RANK", "0")) == rank:
            soup.mean = _unreadable


def _unreadable(paths: Any) -> Any:
    raise OSError(5, "Input/output error", str(paths[0]))


class SignalToOther(Callback):
    """Has the second process of a run be ended by a signal while the first writes its results."""

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "test" and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
