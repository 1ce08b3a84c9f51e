"""What comes after the results: each step by itself, so that none of them costs what stands."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tl_lightning.errors import UserError, first_line

NOT_DONE = "not done: the process ended before"
log = logging.getLogger(__name__)


class Beside:
    """Steps of a run that are beside its results: one that fails is a warning, and a line in the record.

    ``failed`` holds those lines: the step, and why it is not done.
    """

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}

    @contextmanager
    def step(self, name: str, meaning: str, kind: type[Exception] = Exception) -> Iterator[None]:
        """Go on after a fault in the block.

        Args:
            name: of the step, in the record.
            meaning: what the fault means for the run, for the warning.
            kind: of the faults after which to go on.
        """
        try:
            yield
        except kind as fault:
            self.failed[name] = f"{type(fault).__name__}: {first_line(fault)}"
            ours = not isinstance(fault, (UserError, OSError, MemoryError))
            log.warning("%s failed (%s): %s", name, self.failed[name], meaning, exc_info=ours)

    def lines(self, left: Iterable[str]) -> dict[str, str] | None:
        """For the record: the steps that failed, and those still to come, should the process not live to do them."""
        return self.failed | dict.fromkeys(left, NOT_DONE) or None
