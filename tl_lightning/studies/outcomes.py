"""The predictions of a run as arrays, and the test examples they speak of."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tl_lightning.errors import UserError, first_line

PREDICTIONS = "predictions.parquet"
NEEDED = ("id", "target", "prediction", "loss")
Kind = Literal["class", "labels", "number"]
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What one run predicted for N test examples.

    ``target`` and ``predicted`` are class numbers (N,), label sets (N, C) of 0 and 1, or numbers (N,), by ``kind``.
    """

    path: Path
    kind: Kind
    classes: tuple[str, ...]
    ids: Array
    target: Array
    predicted: Array
    losses: Array

    def __len__(self) -> int:
        return len(self.losses)

    @property
    def class_counts(self) -> Array:
        """How often each class or label occurs, (C,); empty for numbers."""
        if self.kind == "class":
            return np.bincount(self.target, minlength=len(self.classes))
        return np.asarray(self.target.sum(axis=0)) if self.kind == "labels" else np.empty(0)

    @cached_property
    def scores(self) -> Array:
        """Probabilities (N, C); read only where a metric asks for them."""
        table = _read(self.path, [f"p_{name}" for name in self.classes])
        return np.stack([_numbers(column) for column in table.columns], axis=1)


def read_outcomes(folder: Path) -> Outcomes:
    """The predictions in a run directory.

    Raises:
        UserError: they are not there, were cut, or hold no predictions.
    """
    path = folder / PREDICTIONS
    table, columns = _read(path, NEEDED), list(pq.read_schema(path).names)
    if missing := set(NEEDED) - set(columns):
        raise UserError(f"{path} holds no predictions: it has no column {', '.join(sorted(missing))}")
    target, predicted = table["target"].combine_chunks(), table["prediction"].combine_chunks()
    classes = tuple(name.removeprefix("p_") for name in columns if name.startswith("p_"))
    kind: Kind = "number" if not classes else "labels" if pa.types.is_list(target.type) else "class"
    try:
        codes = (_codes(target, kind, classes), _codes(predicted, kind, classes))
    except (ValueError, KeyError, pa.ArrowException) as fault:
        raise UserError(f"{path} names a class without a column of its own: {first_line(fault)}") from fault
    return Outcomes(path, kind, classes, _numbers(table["id"]), *codes, _numbers(table["loss"]).astype(float))


def _read(path: Path, columns: Sequence[str]) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:  # pq.read_table would import pandas
            return file.read(columns=list(columns))
    except FileNotFoundError:
        raise UserError(f"{path} is not there") from None
    except (OSError, pa.ArrowException) as fault:
        raise UserError(f"{path} cannot be read ({first_line(fault)}): it was cut or is no table") from fault


def _codes(column: Any, kind: Kind, classes: tuple[str, ...]) -> Array:
    if kind == "number":
        return _numbers(column).astype(float)
    places = {name: at for at, name in enumerate(classes)}
    names = (column.flatten() if kind == "labels" else column).dictionary_encode()
    own = np.asarray([places[str(name)] for name in names.dictionary.to_pylist()], int)
    codes = own[_numbers(names.indices)] if len(own) else np.empty(0, int)
    if kind == "class":
        return codes
    lengths = np.diff(_numbers(column.offsets))
    hot = np.zeros((len(column), len(classes)))
    hot[np.repeat(np.arange(len(column)), lengths), codes] = 1
    return hot


def _numbers(column: Any) -> Array:
    """The values of a column without gaps; ``to_numpy`` would import pandas."""
    return np.from_dlpack(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)


def same_examples(a: Outcomes, b: Outcomes) -> bool:
    """Whether two runs were tested on the same examples in the same order."""
    return np.array_equal(a.ids, b.ids) and np.array_equal(a.target, b.target)
