"""Ctrl-C and SIGTERM: finish the step, save, say so."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning.pytorch import Callback

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal asked the run to end; ``exit_code`` is 130 for Ctrl-C and 143 for SIGTERM."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)  # its only argument, so that it can be sent between processes
        self.exit_code = 128 + signum

    def __str__(self) -> str:
        return signal.Signals(self.args[0]).name


class StopAtStep(Callback):
    """Leaves a signal that comes inside Lightning's loops to Lightning, which ends them between two steps on all ranks.

    Lightning listens to SIGTERM alone, so Ctrl-C is passed on as one.  Outside the loops, and at the second signal,
    the run ends at once.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.in_loop = False
        self._passing_on = False

    def receive(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self._passing_on:
            return
        again = self.signum is not None
        self.signum = signum
        if again or not self.in_loop:
            raise Interrupted(signum)
        if signum != signal.SIGTERM:
            self._passing_on = True
            signal.raise_signal(signal.SIGTERM)
            self._passing_on = False

    def check(self) -> None:
        """End the run if a signal came too late for the loop to end."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    def _enter(self, *_: Any, **__: Any) -> None:
        self.in_loop = True

    def _leave(self, *_: Any, **__: Any) -> None:
        self.in_loop = False

    on_train_start = on_test_start = _enter
    on_train_end = on_test_end = on_exception = _leave


@contextmanager
def graceful(stop: StopAtStep) -> Iterator[None]:
    """Send Ctrl-C and SIGTERM to ``stop`` while the block runs."""
    before = {signum: signal.signal(signum, stop.receive) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
