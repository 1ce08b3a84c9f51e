"""A table of texts and labels: where it comes from, and its rows in chunks of plain Python values."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, Protocol

import pyarrow as pa

from tl_lightning.data.faults import Faults
from tl_lightning.data.labels import Cell, cells
from tl_lightning.data.readers import READERS, ROWS, Batches
from tl_lightning.errors import UserError, first_line

OPTIONS = ("text", "text_pair", "label")
PACKED = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, zip, bzip2, xz, zstandard


class Columns(NamedTuple):
    """The names of the columns to read."""

    text: str
    pair: str | None
    label: str

    @property
    def wanted(self) -> list[str]:
        """Each column once."""
        return [name for name in dict.fromkeys((self.text, self.pair, self.label)) if name is not None]


class Table(Protocol):
    """A source of rows: a file, or a split of a hub data set."""

    @property
    def where(self) -> str:
        """The source in words, for messages."""

    def names(self) -> list[str]:
        """The columns there are."""

    def batches(self, columns: Sequence[str]) -> Batches:
        """A stream of these columns; every call begins anew."""

    def digest(self, columns: Sequence[str]) -> str:
        """A hash of the content."""

    def class_names(self, label: str) -> tuple[str, ...] | None:
        """The classes in their order, where the source itself declares them."""


class Chunk(NamedTuple):
    """Some consecutive rows, as read; `first` is the 1-based number of the first one."""

    first: int
    texts: list[str]
    pairs: list[str] | None
    labels: list[Cell]


@dataclass(frozen=True)
class FileTable:
    """A csv, tsv, jsonl or parquet file. Raises UserError for whatever is wrong with it."""

    path: Path
    option: str

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise UserError(_missing(self.path, self.option))
        if self.path.suffix.lower() not in READERS:
            raise UserError(
                f"{self.option}={self.path}: the extension {self.path.suffix!r} is not known. "
                f"Give a file that ends in {', '.join(READERS)}."
            )
        with self.path.open("rb") as file:
            if file.read(6).startswith(PACKED):
                raise UserError(f"{self.option}={self.path} is compressed, whatever its name says: unpack it first.")

    @property
    def where(self) -> str:
        """The path."""
        return str(self.path)

    def names(self) -> list[str]:
        """The columns there are."""
        try:
            return READERS[self.path.suffix.lower()].names(self.path)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as fault:
            raise self._fault(fault) from None

    def batches(self, columns: Sequence[str]) -> Batches:
        """A stream of these columns."""
        try:
            yield from READERS[self.path.suffix.lower()].batches(self.path, columns)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as fault:
            raise self._fault(fault) from None

    def digest(self, columns: Sequence[str]) -> str:
        """sha256 of the file, read as a stream."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def class_names(self, label: str) -> None:
        """A file declares no classes."""
        return

    def _fault(self, fault: Exception) -> UserError:
        if self.path.stat().st_size == 0:
            return UserError(f"{self.path} is empty. Give {self.option}= a file with rows.")
        if self.path.suffix.lower() != ".parquet" and (place := _not_utf8(self.path)):
            return UserError(f"{self.path} is not UTF-8: {place}. Save it as UTF-8.")
        return UserError(f"{self.path} cannot be read, it may be damaged: {first_line(fault)}")


def _missing(path: Path, option: str) -> str:
    folder = path.parent
    if path.is_dir():
        return f"{option}={path} is a folder. Give a file that ends in {', '.join(READERS)}."
    if not folder.is_dir():
        return f"{option}={path}: there is no folder {folder}. A relative path begins at {Path.cwd()}."
    near = get_close_matches(path.name, [file.name for file in folder.iterdir()], n=3)
    hint = f"Near it: {', '.join(near)}." if near else f"A relative path begins at {Path.cwd()}."
    return f"{option}={path}: there is no such file. {hint}"


def _not_utf8(path: Path) -> str | None:
    at = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as fault:
                return f"line {number}, byte {at + fault.start + 1} of the file"
            at += len(line)
    return None


def check_columns(there: Sequence[str], where: str, columns: Columns, options: Sequence[str] = OPTIONS) -> None:
    """Raises UserError for all columns that are not among those there, or are there twice.

    where: the table in words. options: what names each of the columns in the configuration, for messages.
    """
    faults = Faults()
    if not there:
        raise UserError(f"{where} is empty: there are no rows in it.")
    for option, name in zip(options, columns, strict=True):
        if name is None or there.count(name) == 1:
            continue
        fault = "stands twice" if name in there else "does not exist"
        near = (get_close_matches(name, there, n=1, cutoff=0.0) or ["COLUMN"])[0]
        faults.add(
            f"data.{option}={name}: this column {fault} in {where}. "
            f"Its columns: {', '.join(there)}. Type for example data.{option}={near}."
        )
    faults.refuse()


def chunks(table: Table, columns: Columns, options: Sequence[str] = OPTIONS) -> Iterator[Chunk]:
    """The rows of a table that has these columns, some thousand at a time.

    options: what names each of the columns in the configuration, for messages. Raises UserError for a table without
    rows, and for columns that hold something else than texts and labels.
    """
    names, row = table.class_names(columns.label), 1
    for batch in table.batches(columns.wanted):
        for start in range(0, batch.num_rows, ROWS):
            part = batch.slice(start, ROWS)
            yield Chunk(
                row,
                _texts(part, columns.text, table, row, options),
                None if columns.pair is None else _texts(part, columns.pair, table, row, options),
                _labels(part, columns.label, names, table, row),
            )
            row += part.num_rows
    if row == 1:
        raise UserError(f"{table.where} is empty: there are no rows in it.")


def _labels(batch: pa.RecordBatch, name: str, names: tuple[str, ...] | None, table: Table, row: int) -> list[Cell]:
    where = f"column {name!r} of {table.where}"
    try:
        return cells(batch.column(name), names, where, row)
    except UnicodeDecodeError as fault:
        raise UserError(f"{where} holds labels near row {row} that are not UTF-8 ({fault.reason}).") from None


def _texts(batch: pa.RecordBatch, name: str, table: Table, row: int, options: Sequence[str]) -> list[str]:
    column = batch.column(name)
    try:
        return ["" if text is None else text for text in column.cast(pa.large_string()).to_pylist()]
    except (pa.ArrowException, UnicodeDecodeError) as fault:
        raise UserError(
            f"column {name!r} of {table.where} holds no readable text near row {row} "
            f"(its type is {column.type}; {type(fault).__name__}). "
            f"Name another with {' or '.join(f'data.{option}=' for option in options[:2] if option)}."
        ) from None
