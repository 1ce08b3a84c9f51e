"""Labels on their way into a store, and what is seen of them before."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tl_lightning.data.base import Indices, Target
from tl_lightning.data.labels import Label
from tl_lightning.data.store import Store, Writer


@dataclass
class Seen:
    """What is known of a split before anything is made of it.

    rows: that are used. first_rows: each label with the number, from 1, of the row that has it first. whole: its
    source could be read to the end, so that a label that is not here is nowhere.
    """

    rows: int = 0
    first_rows: dict[str, int] = field(default_factory=dict)
    whole: bool = False

    def add(self, label: Label, row: int) -> None:
        """Adds a row, by its number from 0."""
        self.rows += 1
        self.note(label, row)

    def note(self, label: Label, row: int) -> None:
        """Adds the labels of a row alone."""
        if isinstance(label, str):  # on the way of every row
            self.first_rows.setdefault(label, row + 1)
        elif isinstance(label, list):
            for one in label:
                self.first_rows.setdefault(one, row + 1)

    def of(self, store: Store) -> None:
        """As a store has it."""
        self.rows, self.first_rows, self.whole = len(store), dict(store.first_rows), True


class LabelWriter:
    """Writes the labels of kept rows: numbers, or codes in the order in which their labels were met."""

    def __init__(self, writer: Writer, target: Target) -> None:
        self._writer, self._target = writer, target
        self.first_rows: dict[str, int] = {}
        """Each label with the number, from 1, of the row that has it first."""
        self._codes: dict[str, int] = {}
        self._end = 0
        if target == "labels":
            self._offsets(np.zeros(1, np.int64))

    def add(self, labels: Sequence[Any], rows: Sequence[int]) -> None:
        """Appends one label, list of labels or number per row, as the target has it.

        rows: their numbers in the source, from 0.
        """
        if self._target == "number":
            self._writer.add("numbers", labels, np.float32)
        elif self._target == "class":
            codes = [self._code(label, row) for label, row in zip(labels, rows, strict=True)]
            self._writer.add("codes", codes, np.int32)
        else:
            flat = [self._code(label, row) for found, row in zip(labels, rows, strict=True) for label in found]
            self._writer.add("codes", flat, np.int32)
            self._offsets(np.asarray([len(found) for found in labels]))

    def _code(self, label: str, row: int) -> int:
        self.first_rows.setdefault(label, row + 1)
        return self._codes.setdefault(label, len(self._codes))

    def _offsets(self, lengths: Indices) -> None:
        ends = self._end + np.cumsum(lengths)
        self._writer.add("label_offsets", ends, np.int64)
        self._end = int(ends[-1])
