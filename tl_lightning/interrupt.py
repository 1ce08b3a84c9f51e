"""Ctrl-C and SIGTERM: finish the step, save, say so."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal asked the run to end; ``exit_code`` is 130 for Ctrl-C and 143 for SIGTERM."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class StopAtStep(Callback):
    """Ends a run between two batches once a signal has come; outside the loops a signal ends it at once."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.in_loop = False

    def receive(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler; a second signal does not wait for the batch."""
        again = self.signum is not None
        self.signum = signum
        if again or not self.in_loop:
            raise Interrupted(signum)

    def _enter(self, *_: Any, **__: Any) -> None:
        self.in_loop = True
        if self.signum is not None:
            raise Interrupted(self.signum)

    def _leave(self, *_: Any, **__: Any) -> None:
        self.in_loop = False

    on_train_batch_start = on_train_batch_end = _enter
    on_validation_batch_start = on_validation_batch_end = _enter
    on_test_batch_start = on_test_batch_end = _enter
    on_train_end = on_test_end = on_exception = teardown = _leave

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a signal waits for the end of the batch."""
        self.in_loop = True


@contextmanager
def graceful(stop: StopAtStep) -> Iterator[None]:
    """Send Ctrl-C and SIGTERM to ``stop`` while the block runs."""
    before = {signum: signal.signal(signum, stop.receive) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
