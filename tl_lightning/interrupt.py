"""Ctrl-C, SIGTERM and SLURM's signal: finish the step, save, say so."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tl_lightning import slurm
from tl_lightning.ranks import Others

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal asked the run to end; ``exit_code`` is 130 for Ctrl-C, 143 for SIGTERM, 138 for SLURM's SIGUSR1."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)  # its only argument, so that it can be sent between processes
        self.exit_code = 128 + signum

    def __str__(self) -> str:
        return signal.Signals(self.args[0]).name


class StopAtStep(Callback):
    """Leaves a signal that comes inside Lightning's loops to Lightning, which ends them between two steps on all ranks.

    Lightning listens to SIGTERM alone, so Ctrl-C is passed on as one.  Outside the loops, and at the second signal,
    the run ends at once.  Where there are several processes they agree before each step: Lightning's own handler
    would talk to the others at any moment, in between whatever they are saying.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.in_loop = False
        self._passing_on = False
        self._among_others = False

    def receive(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self._passing_on:
            return
        again = self.signum is not None
        self.signum = signum
        if again or not self.in_loop:
            raise Interrupted(signum)
        if signum != signal.SIGTERM and not self._among_others:
            self._passing_on = True
            signal.raise_signal(signal.SIGTERM)
            self._passing_on = False

    def check(self) -> None:
        """End the run if a signal came too late for the loop to end."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave signals to the loop."""
        self.in_loop, self._among_others = True, trainer.world_size > 1
        if self._among_others:
            signal.signal(signal.SIGTERM, self.receive)  # Lightning brings the earlier handler back after the fit

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave signals to the loop."""
        self.in_loop, self._among_others = True, False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Before a step, whose batch is kept for the resume."""
        if self._agreed(trainer):
            trainer.train_dataloader.take_back()  # type: ignore[union-attr]
            raise SIGTERMException

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        """In a validation, which is done anew after the resume."""
        if self._agreed(trainer):
            raise SIGTERMException

    def _agreed(self, trainer: Trainer) -> bool:
        """Whether all processes end here, whichever of them the signal came to."""
        if not self._among_others or trainer.sanity_checking:
            return False
        ends = trainer.strategy.reduce_boolean_decision(self.signum is not None, all=False)
        self.signum = self.signum or (signal.SIGTERM if ends else None)
        return ends

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The loop is over; other processes may now end in their own time."""
        self.in_loop = False
        if isinstance(exception, (Interrupted, SIGTERMException)):
            Others(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The loop is over."""
        self.in_loop = self._among_others = False

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The loop is over."""
        self.in_loop = False


@contextmanager
def graceful(stop: StopAtStep) -> Iterator[None]:
    """Send Ctrl-C, SIGTERM and, in a job of SLURM's, its signal to ``stop`` while the block runs."""
    before = {signum: signal.signal(signum, stop.receive) for signum in (*SIGNALS, *slurm.signals())}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
