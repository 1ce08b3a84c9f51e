"""Reading csv, tsv, jsonl and parquet as a stream of Arrow batches, never a whole file at once."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from tl_lightning.errors import UserError

BLOCK_BYTES = 16 << 20
"""One csv row may not be larger than this."""
SMALL_BYTES = 1 << 20
"""What is read of a csv file at once, as long as each row fits: Arrow holds some forty times as much."""
ROWS = 1024
HINT = "Put quotes around cells that hold the delimiter, or mend the row"
Batches = Iterator[pa.RecordBatch]


class Reader(NamedTuple):
    """How one format is read: the names of its columns, and the batches of some of them."""

    names: Callable[[Path], list[str]]
    batches: Callable[[Path, Sequence[str]], Batches]


def _open_csv(path: Path, delimiter: str, convert: Any, block: int) -> Any:
    quoted = delimiter == ","
    return pa.csv.open_csv(
        path,
        read_options=pa.csv.ReadOptions(block_size=block),
        parse_options=pa.csv.ParseOptions(
            delimiter=delimiter,
            quote_char='"' if quoted else False,
            double_quote=quoted,
            newlines_in_values=quoted,
        ),
        convert_options=convert,
    )


def _csv_names(delimiter: str) -> Callable[[Path], list[str]]:
    def names(path: Path) -> list[str]:
        with path.open(encoding="utf-8-sig", newline="") as file:
            try:
                return next(filter(None, _csv_rows(file, delimiter)), [])
            except csv.Error as fault:
                raise pa.ArrowInvalid(str(fault)) from None

    return names


def _csv_batches(delimiter: str) -> Callable[[Path, Sequence[str]], Batches]:
    def batches(path: Path, columns: Sequence[str]) -> Batches:
        # Strings throughout: a label "01" or a text "NA" must survive Arrow's guessing.
        convert = pa.csv.ConvertOptions(
            column_types={name: pa.string() for name in columns},
            include_columns=list(columns),
            strings_can_be_null=False,
        )
        read = 0
        for block in sorted({min(SMALL_BYTES, BLOCK_BYTES), BLOCK_BYTES}):
            try:
                with _open_csv(path, delimiter, convert, block) as reader:
                    for batch in _from_row(reader, read):
                        yield batch
                        read += batch.num_rows
            except pa.ArrowInvalid as fault:
                if _straddles(fault) and block < BLOCK_BYTES:
                    continue  # from the same row on, in larger blocks
                _explain_large(path, fault, read)
                _explain_ragged(path, delimiter)
                raise fault
            return

    return batches


def _from_row(batches: Iterable[pa.RecordBatch], first: int) -> Batches:
    """The batches without what comes before a row."""
    at = 0
    for batch in batches:
        if at + batch.num_rows > first:
            yield batch.slice(max(0, first - at))
        at += batch.num_rows


def _straddles(fault: pa.ArrowInvalid) -> bool:
    return "straddl" in str(fault)


def _explain_large(path: Path, fault: pa.ArrowInvalid, read: int) -> None:
    """Raises UserError where a row is larger than a block: Arrow reads no further then."""
    if _straddles(fault):
        raise UserError(
            f"{path}: after row {read} comes one row of more than {BLOCK_BYTES >> 20} MB, the most that is read of one."
            f" Is a quote opened and never closed? A larger text can stand in a .jsonl or .parquet file."
        )


def _explain_ragged(path: Path, delimiter: str) -> None:
    """Raises UserError for the first row with too many or too few cells: Arrow does not number it."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file, suppress(csv.Error):
        rows = filter(None, _csv_rows(file, delimiter))
        width = len(next(rows, []))
        for number, row in enumerate(rows, start=1):
            if len(row) != width:
                open_quote = any("\n" in cell for cell in row)
                hint = "A quote may be opened there and never closed: mend the row" if open_quote else HINT
                raise UserError(
                    f"{path}: row {number} has {len(row)} columns, expected {width} as in the header. {hint}."
                )


def _csv_rows(file: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    if delimiter == ",":
        return csv.reader(file)
    return csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE)


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    number = 0
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                continue
            number += 1
            yield _json_row(line.decode("utf-8-sig"), f"{path}: row {number}")


def _json_row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as fault:
        told = str(fault)[:200]
        raise UserError(f"{where} is not valid JSON ({told}). A .jsonl file holds one object a line.") from None
    if not isinstance(row, dict):
        raise UserError(f"{where} is not an object like {{...}}. A .jsonl file holds one object a line.")
    if "\\u" in line and any(map(_is_half, row.values())):
        raise UserError(f"{where} holds half a character (a lone surrogate such as \\ud800): mend or drop the row.")
    return row


def _is_half(value: Any) -> bool:
    """Whether a text, at any depth, cannot be written down in UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _json_names(path: Path) -> list[str]:
    return list(next(_json_rows(path), {}))


def _json_batches(path: Path, columns: Sequence[str]) -> Batches:
    # Not pyarrow.json: it fixes each column's type by its first block, turns texts that look like dates
    # into dates, and cannot say which row is broken.
    rows, done = _json_rows(path), 0
    while part := list(islice(rows, ROWS)):
        _refuse_objects(path, part, columns, done)
        done += len(part)
        yield pa.RecordBatch.from_pydict({name: _json_column([row.get(name) for row in part]) for name in columns})


def _refuse_objects(path: Path, rows: list[dict[str, Any]], columns: Sequence[str], done: int) -> None:
    for number, row in enumerate(rows, start=done + 1):
        for name in columns:
            if isinstance(row.get(name), dict):
                raise UserError(
                    f"{path}: row {number} has an object in column {name!r}, where a text or label belongs."
                )


def _json_column(values: list[Any]) -> pa.Array:
    if any(isinstance(value, list) for value in values):
        return pa.array([_json_list(value) for value in values], pa.list_(pa.string()))
    return pa.array([_json_text(value) for value in values], pa.string())


def _json_list(value: Any) -> list[str | None] | None:
    cells = value if isinstance(value, list) else [value]
    return None if value is None else [_json_text(cell) for cell in cells]


def _json_text(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return None if value is None else value if isinstance(value, str) else json.dumps(value)


def _parquet_names(path: Path) -> list[str]:
    return list(pa.parquet.read_schema(path).names)


def _parquet_batches(path: Path, columns: Sequence[str]) -> Batches:
    with pa.parquet.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=ROWS, columns=list(columns))


_JSON = Reader(_json_names, _json_batches)
READERS = {
    ".csv": Reader(_csv_names(","), _csv_batches(",")),
    ".tsv": Reader(_csv_names("\t"), _csv_batches("\t")),
    ".jsonl": _JSON,
    ".json": _JSON,
    ".parquet": Reader(_parquet_names, _parquet_batches),
}
"""By the file's extension."""
