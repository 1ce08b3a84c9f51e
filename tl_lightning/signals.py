"""Signals that ask a command to end: who listens to them, and what is said then; light, for the very first moment."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, the polite end, a terminal that closes
GOES_ON = "the same command with resume=auto goes on"
Answer = Callable[[int, FrameType | None], object]


class Interrupted(BaseException):
    """A signal asked the command to end.

    ``exit_code`` is 130 for Ctrl-C, 143 for SIGTERM, 129 for a closed terminal, 138 for SLURM's SIGUSR1.

    Args:
        signum: the signal.
        how: what that means for what was done so far, for the message; empty where there is nothing to say.
    """

    def __init__(self, signum: int, how: str = GOES_ON) -> None:
        super().__init__(signum, how)  # all of it, so that it can be sent between processes
        self.signum = signum
        self.how = how
        self.exit_code = 128 + signum

    def __str__(self) -> str:
        return signal.Signals(self.signum).name


def ended_by(code: int) -> int | None:
    """The signal that ended a process, given its exit code: its own after it was heard, or none of ours."""
    return next((int(signum) for signum in SIGNALS if code in (-signum, 128 + signum)), None)


class Ends:
    """Ends a command at once where no run listens; ``how`` says what that means (see `Interrupted`)."""

    def __init__(self, how: str = "") -> None:
        self.how = how

    def __call__(self, signum: int, frame: FrameType | None) -> NoReturn:
        """The signal handler."""
        raise Interrupted(signum, self.how)


def here(answer: Answer) -> Answer:
    """``answer`` in this process alone: one forked from it, to load data say, is told to end by this one.

    A closed terminal and Ctrl-C reach all of them at once; a worker that ended then would look like a fault.
    """
    own = os.getpid()

    def heard(signum: int, frame: FrameType | None) -> None:
        if os.getpid() == own:
            answer(signum, frame)
        elif signum == signal.SIGTERM:  # by which its parent ends it
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    return heard


@contextmanager
def listening(answer: Answer, signums: Iterable[int]) -> Iterator[None]:
    """Send signals to ``answer`` while the block runs.

    One that this process was started to ignore (by nohup, or in the background of a script) stays ignored.
    """
    heard = [signum for signum in signums if signal.getsignal(signum) is not signal.SIG_IGN]
    before = {signum: signal.signal(signum, here(answer)) for signum in heard}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
