"""Trying again while a server is busy."""

import time
from collections.abc import Callable
from typing import TypeVar

PAUSES = (0.5, 1.0, 2.0, 4.0, 4.0)
"""Seconds before each new try."""
T = TypeVar("T")


def tried(step: Callable[[], T], again: Callable[[Exception], bool]) -> T:
    """What ``step`` gives, tried again after each fault for which ``again`` says so; the last fault is raised."""
    for pause in PAUSES:
        try:
            return step()
        except Exception as fault:
            if not again(fault):
                raise
            time.sleep(pause)
    return step()
