"""A signal to a run: finish the step, save, say so; once the results stand, leave them so."""

import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tl_lightning import slurm
from tl_lightning.length import between_steps
from tl_lightning.ranks import Others
from tl_lightning.signals import GOES_ON, SIGNALS, here, listening
from tl_lightning.signals import Interrupted as Interrupted


class StopAtStep(Callback):
    """Ends Lightning's loops between two optimizer steps or two batches of an evaluation, on all processes alike.

    Outside the loops, and at the second signal, the run ends at once.  Lightning's own handler listens to SIGTERM
    alone, ends amid the gradients that a step accumulates, and in one of several processes talks to the others at any
    moment, in between whatever they are saying: it is not used in the loops.

    ``how`` is what a signal means for the run, in words (see `Interrupted`); once the results stand, it says so.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.in_loop = False
        self.how = GOES_ON

    @property
    def stands(self) -> bool:
        """Whether there are results, which no signal takes back."""
        return self.how != GOES_ON

    def receive(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler."""
        again = self.signum is not None
        self.signum = signum
        if again or not self.in_loop:
            raise Interrupted(signum, self.how)

    def check(self) -> None:
        """End the run if a signal came too late for the loop to end."""
        if self.signum is not None:
            raise Interrupted(self.signum, self.how)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Write in the block what belongs together: a signal waits for its end, which has to ``check``."""
        self.in_loop = True
        try:
            yield
        finally:
            self.in_loop = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave signals to the loop."""
        self._enter()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave signals to the loop."""
        self._enter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave signals to the loop of a validation by itself, as a soup has; within a fit they are left already."""
        if trainer.state.fn == "validate":
            self._enter()

    def _enter(self) -> None:
        self.in_loop = True
        signal.signal(signal.SIGTERM, here(self.receive))  # Lightning has set its own, and brings the earlier one back

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Have Lightning end once it has counted the batch, and closed the epoch if that was its last."""
        if between_steps(trainer) and self._agreed(trainer):
            trainer._signal_connector.received_sigterm = True  # what its own handler does, and its loops look at

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        """In a validation, which is done anew after the resume."""
        if (trainer.state.fn != "fit" or between_steps(trainer)) and self._agreed(trainer):
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

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """That of a validation by itself is over."""
        if trainer.state.fn == "validate":
            self.in_loop = False

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The loop is over."""
        self.in_loop = False


def graceful(stop: StopAtStep) -> AbstractContextManager[None]:
    """Send Ctrl-C, SIGTERM, SIGHUP and, in a job of SLURM's, its signal to ``stop`` while the block runs."""
    return listening(stop.receive, (*SIGNALS, *slurm.signals()))
