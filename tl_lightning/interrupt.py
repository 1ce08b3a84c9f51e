"""Ctrl-C, SIGTERM and SLURM's signal: finish the step, save, say so."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tl_lightning import slurm
from tl_lightning.length import between_steps
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
    """Ends Lightning's loops between two optimizer steps or two batches of an evaluation, on all processes alike.

    Outside the loops, and at the second signal, the run ends at once.  Lightning's own handler listens to SIGTERM
    alone, ends amid the gradients that a step accumulates, and in one of several processes talks to the others at any
    moment, in between whatever they are saying: it is not used in the loops.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.in_loop = False

    def receive(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler."""
        again = self.signum is not None
        self.signum = signum
        if again or not self.in_loop:
            raise Interrupted(signum)

    def check(self) -> None:
        """End the run if a signal came too late for the loop to end."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave signals to the loop."""
        self._enter()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave signals to the loop."""
        self._enter()

    def _enter(self) -> None:
        self.in_loop = True
        signal.signal(signal.SIGTERM, self.receive)  # Lightning has set its own, and brings the earlier one back

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Have Lightning end once it has counted the batch, and closed the epoch if that was its last."""
        if between_steps(trainer) and self._agreed(trainer):
            trainer._signal_connector.received_sigterm = True  # what its own handler does, and its loops look at

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        """In a validation, which is done anew after the resume."""
        if between_steps(trainer) and self._agreed(trainer):
            raise SIGTERMException

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        """In the test, which is done anew after the resume."""
        if self._agreed(trainer):
            raise SIGTERMException

    def _agreed(self, trainer: Trainer) -> bool:
        """Whether all processes end here, whichever of them the signal came to."""
        if not self.in_loop or trainer.sanity_checking:
            return False
        ends = self.signum is not None
        if trainer.world_size > 1:
            ends = trainer.strategy.reduce_boolean_decision(ends, all=False)
        self.signum = self.signum or (signal.SIGTERM if ends else None)
        return ends

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The loop is over; other processes may now end in their own time."""
        self.in_loop = False
        if isinstance(exception, (Interrupted, SIGTERMException)):
            Others(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The loop is over."""
        self.in_loop = False

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
