"""What is wrong with data: collected, so that all of it is told at once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ParamSpec

from tl_lightning.errors import UserError

P = ParamSpec("P")
NAMED = 3
"""Rows with the same fault that are named beside the first one."""


class DataError(UserError):
    """Faults of the data, one or many, told together."""

    def __init__(self, *faults: str) -> None:
        super().__init__(*faults)  # its only arguments, so that it can be sent between processes
        self.faults = faults

    def __str__(self) -> str:
        if len(self.faults) == 1:
            return self.faults[0]
        return f"The data has {len(self.faults)} faults:\n" + "\n".join(f"  {fault}" for fault in self.faults)


class RowError(ValueError):
    """A row that cannot be used; the message completes "FILE: row 3 ...".

    kind: what such rows have in common, in a word.
    """

    def __init__(self, kind: str, told: str) -> None:
        super().__init__(told)
        self.kind = kind


class Faults:
    """Collects faults, each once, in the order in which they were found."""

    def __init__(self) -> None:
        self._told: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._told)

    def add(self, *faults: str) -> None:
        """Adds messages."""
        self._told |= dict.fromkeys(faults)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """What the block refuses is told with the rest: it ends there, and what follows it goes on."""
        try:
            yield
        except DataError as found:
            self.add(*found.faults)
        except UserError as fault:
            self.add(str(fault))

    def of(self, check: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Collects what a check refuses."""
        with self.collected():
            check(*args, **kwargs)

    def refuse(self) -> None:
        """Raises UserError with all faults, if there are any."""
        if self._told:
            raise DataError(*self._told)


class RowFaults:
    """Collects rows that cannot be used: of each kind, the first is told in full, a few more are named."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._more: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._first)

    def add(self, where: str, fault: RowError, name: str) -> None:
        """Adds a row. where: it stands, in full; name: of it, beside others."""
        kind = fault.kind
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if kind not in self._first:
            self._first[kind], self._more[kind] = f"{where} {fault}", []
        elif len(self._more[kind]) < NAMED:
            self._more[kind].append(name)

    def told(self) -> list[str]:
        """One message for each kind."""
        return [f"{first}{same(self._more[kind], self._counts[kind] - 1)}" for kind, first in self._first.items()]


def same(names: Sequence[str], count: int) -> str:
    """A sentence that names some of ``count`` others with the same fault; nothing where there are none."""
    if not count:
        return ""
    shown = list(names[:NAMED])
    rest = [f"{count - len(shown)} more"] if count > len(shown) else []
    *before, last = [*shown, *rest]
    return f" The same: {', '.join(before)} and {last}." if before else f" The same: {last}."
