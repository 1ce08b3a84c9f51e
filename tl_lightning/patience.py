"""How long a run waits for a server, all waits together, while that does not answer."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

Given = TypeVar("Given")
LOOK_S = 1.0  # how long to wait before the server is asked whether it is there
SHORTEST_S = 0.1  # for it to answer


class Patience:
    """Seconds that may pass, in all, in waiting for a server that does not answer; one that does may take longer.

    Args:
        seconds: in all.
        answers: asks the server, within the seconds that it is given.
    """

    def __init__(self, seconds: float, answers: Callable[[float], bool]) -> None:
        self.left = seconds
        self._answers = answers

    def wait(self, what: Future[Any], longest: float, asks: Callable[[], bool] = lambda: True) -> bool:
        """Wait for something, at most ``longest`` seconds; whether it has ended.

        Args:
            what: is waited for.
            longest: seconds, however well the server answers.
            asks: whether it waits for the server, and not for this machine alone.
        """
        end = time.monotonic() + longest
        while not _ended(what, LOOK_S):
            if time.monotonic() > end:
                return False
            if asks() and not self.answered(LOOK_S) and self.left <= 0:
                return _ended(what, 0)
        return True

    def answered(self, waited: float = 0.0) -> bool:
        """Ask the server whether it is there; where it is not, this counts, and the seconds waited before."""
        start = time.monotonic()
        there = self._answers(max(SHORTEST_S, self.left - waited))
        if not there:
            self.left -= waited + time.monotonic() - start
        return there


def nobody() -> bool:
    """What to ask of a wait that has to do with no server."""
    return False


def _ended(what: Future[Any], seconds: float) -> bool:
    return bool(wait([what], timeout=seconds).done)


def in_background(what: Callable[[], Given]) -> Future[Given]:
    """Call something in a thread that holds up no end of this process."""
    future: Future[Given] = Future()

    def call() -> None:
        try:
            future.set_result(what())
        except BaseException as fault:
            future.set_exception(fault)

    threading.Thread(target=call, daemon=True, name="wandb").start()
    return future
