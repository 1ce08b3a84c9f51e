"""The predictions of a run as arrays, and the test examples they speak of."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tl_lightning.errors import UserError, first_line
from tl_lightning.run_files import opened

PREDICTIONS = "predictions.parquet"
NEEDED = ("id", "target", "prediction", "loss")
NAMES = ("target", "prediction")  # few texts, often repeated: each is held once
# What a table of predictions may hold.  Ten million rows of a few classes are 60 million cells, 100,000 rows of 1,000
# classes are 100 million, the 50,000 test images of ImageNet-21k's classes 1.1 billion, of which 8.8 GB are in memory
# where a metric asks for all probabilities.
MOST_ROWS, MOST_COLUMNS, MOST_CELLS = 100_000_000, 32_768, 1_200_000_000
MOST_PARTS = 10_000  # row groups; the writer puts a million rows into each
MOST_BYTES = 16 * 2**30  # of the file, and of its columns once they are unpacked
CODECS = ("SNAPPY", "UNCOMPRESSED")  # the writer's; neither makes more than 22 bytes out of one
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
        with _opened(self.path) as file:
            table = _columns(self.path, file, [f"p_{name}" for name in self.classes])
        return np.stack([_numbers(column) for column in table.columns], axis=1)


def read_outcomes(folder: Path) -> Outcomes:
    """The predictions in a run directory.

    Raises:
        UserError: they are not there, were cut, or are no predictions as a run writes them; in one line.
    """
    path = folder / PREDICTIONS
    with _opened(path) as file:
        kind, classes = _schema(path, file.schema_arrow)
        table = _columns(path, file, NEEDED)
    if not len(table):
        raise UserError(f"{path} holds no predictions: it has no rows")
    try:
        target, predicted = (_codes(table[name].combine_chunks(), kind, classes) for name in NAMES)
    except (ValueError, KeyError, pa.ArrowException) as fault:
        raise UserError(f"{path} names a class without a column of its own: {first_line(fault)}") from fault
    losses = _numbers(table["loss"]).astype(float)
    return Outcomes(path, kind, classes, _numbers(table["id"]), target, predicted, losses)


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A table within the bounds; nothing of it is unpacked yet."""
    try:
        with opened(path, MOST_BYTES, path.parent) as file:
            said = pq.read_metadata(file)
            _refuse_beyond(path, said)
            with pq.ParquetFile(file, metadata=said, read_dictionary=_repeated(said)) as table:
                yield table
    except FileNotFoundError:
        raise UserError(f"{path} is not there") from None
    except (OSError, ValueError, pa.ArrowException) as fault:
        raise UserError(f"{path} cannot be read ({first_line(fault)}): it was cut or is no table") from fault


def _refuse_beyond(path: Path, said: pq.FileMetaData) -> None:
    """Refuse by what the end of the file says of the rest."""
    rows, columns, parts = said.num_rows, said.num_columns, said.num_row_groups
    limits = [
        (rows, MOST_ROWS, "rows"),
        (columns, MOST_COLUMNS, "columns"),
        (rows * columns, MOST_CELLS, "cells"),
        (parts, MOST_PARTS, "parts"),
        (parts * columns, MOST_PARTS * 100, "parts of columns"),
    ]
    for count, most, what in limits:
        if count > most:
            raise UserError(f"{path} holds {count:,} {what}: up to {most:,} are read")
    chunks = [said.row_group(part).column(at) for part in range(parts) for at in range(columns)]
    if sum(chunk.total_uncompressed_size for chunk in chunks) > MOST_BYTES:
        raise UserError(f"{path} is too large once it is unpacked: up to {MOST_BYTES:,} bytes are read")
    if any(chunk.num_values > (rows + 1) * columns for chunk in chunks):
        raise UserError(f"{path} holds more labels than {rows:,} rows of {columns:,} columns can have")
    if other := {chunk.compression for chunk in chunks} - set(CODECS):
        raise UserError(f"{path} is packed by {', '.join(sorted(other))}; {' or '.join(CODECS)} is expected")


def _repeated(said: pq.FileMetaData) -> list[str]:
    """The columns of texts that are read with each text held once."""
    columns = (said.schema.column(at) for at in range(said.num_columns))
    texts = (column.path for column in columns if column.physical_type == "BYTE_ARRAY")
    return [path for path in texts if path.partition(".")[0] in NAMES]


def _schema(path: Path, schema: pa.Schema) -> tuple[Kind, tuple[str, ...]]:
    """What kind of predictions these are, and the classes that they tell apart."""
    names = list(schema.names)
    if missing := set(NEEDED) - set(names):
        raise UserError(f"{path} holds no predictions: it has no column {', '.join(sorted(missing))}")
    if len(set(names)) < len(names):
        raise UserError(f"{path} holds no predictions: two of its columns have one name")
    classes = tuple(name.removeprefix("p_") for name in names if name.startswith("p_"))
    kind: Kind = "number" if not classes else "labels" if pa.types.is_list(schema.field("target").type) else "class"
    expected = {"id": WHOLE, "loss": REAL, **dict.fromkeys(NAMES, TARGETS[kind])}
    for name, (fits, what) in (expected | {f"p_{name}": REAL for name in classes}).items():
        if not fits(schema.field(name).type):
            raise UserError(f"{path}: its column {name} holds {schema.field(name).type}, where {what} are expected")
    return kind, classes


def _columns(path: Path, file: pq.ParquetFile, columns: Sequence[str]) -> pa.Table:
    table = file.read(columns=list(columns))
    for name in columns:
        if _gaps(table[name]):
            raise UserError(f"{path}: its column {name} has gaps (null), where each row is expected to say something")
    return table


def _gaps(column: pa.ChunkedArray) -> int:
    inner = [chunk.flatten().null_count for chunk in column.chunks] if pa.types.is_list(column.type) else []
    return int(column.null_count + sum(inner))


def _is_text(kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


WHOLE = (pa.types.is_integer, "whole numbers")
REAL = (_is_number, "numbers")
TARGETS: dict[Kind, tuple[Callable[[pa.DataType], bool], str]] = {
    "class": (_is_text, "texts"),
    "labels": (lambda kind: pa.types.is_list(kind) and _is_text(kind.value_type), "lists of texts"),
    "number": REAL,
}


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
