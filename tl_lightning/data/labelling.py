"""Labels on their way from cells into a store."""

from collections.abc import Sequence

import numpy as np

from tl_lightning.data.base import Indices, Target
from tl_lightning.data.labels import Cell, class_label, number, split_labels
from tl_lightning.data.store import Writer


class LabelWriter:
    """Writes the labels of kept rows: numbers, or codes in the order in which their labels were met."""

    def __init__(self, writer: Writer, target: Target, separator: str) -> None:
        self._writer, self._target, self._separator = writer, target, separator
        self.first_rows: dict[str, int] = {}
        """Each label with the number, from 1, of the row that has it first."""
        self._codes: dict[str, int] = {}
        self._end = 0
        if target == "labels":
            self._offsets(np.zeros(1, np.int64))

    def add(self, labels: Sequence[str | list[str]], rows: Sequence[int], where: Sequence[str]) -> None:
        """Appends one label, or list of labels, per row.

        rows: their numbers in the source, from 0. where: each row in words. Raises UserError for a label that is
        not what the target asks for.
        """
        if self._target == "number":
            values = [number(label, at) for label, at in zip(labels, where, strict=True)]
            self._writer.add("numbers", values, np.float32)
        elif self._target == "class":
            names = [class_label(label, at) for label, at in zip(labels, where, strict=True)]
            codes = [self._code(name, row) for name, row in zip(names, rows, strict=True)]
            self._writer.add("codes", codes, np.int32)
        else:
            lists = [split_labels(label, self._separator) for label in labels]
            flat = [self._code(label, row) for found, row in zip(lists, rows, strict=True) for label in found]
            self._writer.add("codes", flat, np.int32)
            self._offsets(np.asarray([len(found) for found in lists]))

    def _code(self, label: str, row: int) -> int:
        self.first_rows.setdefault(label, row + 1)
        return self._codes.setdefault(label, len(self._codes))

    def _offsets(self, lengths: Indices) -> None:
        ends = self._end + np.cumsum(lengths)
        self._writer.add("label_offsets", ends, np.int64)
        self._end = int(ends[-1])


def kept_label(cell: Cell, separator: str) -> str | list[str]:
    """A cell as `LabelWriter.add` takes it: nothing at all is an empty list of labels."""
    return split_labels(cell, separator) if cell is None else cell
