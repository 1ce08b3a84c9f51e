"""Reading csv, tsv, jsonl and parquet as a stream of Arrow batches, never a whole file at once."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from tl_lightning.errors import UserError

BLOCK_BYTES = 16 << 20
"""One csv row may not be larger than this."""
ROWS = 1024
Batches = Iterator[pa.RecordBatch]


class Reader(NamedTuple):
    """How one format is read: the names of its columns, and the batches of some of them."""

    names: Callable[[Path], list[str]]
    batches: Callable[[Path, Sequence[str]], Batches]


def _open_csv(path: Path, delimiter: str, convert: Any, on_ragged: str) -> Any:
    quoted = delimiter == ","
    return pa.csv.open_csv(
        path,
        read_options=pa.csv.ReadOptions(block_size=BLOCK_BYTES),
        parse_options=pa.csv.ParseOptions(
            delimiter=delimiter,
            quote_char='"' if quoted else False,
            double_quote=quoted,
            newlines_in_values=quoted,
            invalid_row_handler=lambda _: on_ragged,
        ),
        convert_options=convert,
    )


def _csv_names(delimiter: str) -> Callable[[Path], list[str]]:
    def names(path: Path) -> list[str]:
        with _open_csv(path, delimiter, None, "skip") as reader:
            return list(reader.schema.names)

    return names


def _csv_batches(delimiter: str) -> Callable[[Path, Sequence[str]], Batches]:
    def batches(path: Path, columns: Sequence[str]) -> Batches:
        # Strings throughout: a label "01" or a text "NA" must survive Arrow's guessing.
        convert = pa.csv.ConvertOptions(
            column_types={name: pa.string() for name in columns},
            include_columns=list(columns),
            strings_can_be_null=False,
        )
        try:
            with _open_csv(path, delimiter, convert, "error") as reader:
                yield from reader
        except pa.ArrowInvalid as fault:
            _explain_ragged(path, delimiter)
            raise fault

    return batches


def _explain_ragged(path: Path, delimiter: str) -> None:
    """Raises UserError for the first row with too many or too few cells: Arrow does not number it."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        rows = filter(None, _csv_rows(file, delimiter))
        width = len(next(rows, []))
        for number, row in enumerate(rows, start=1):
            if len(row) != width:
                raise UserError(
                    f"{path}: row {number} has {len(row)} columns, expected {width} as in the header. "
                    f"Put quotes around cells that hold the delimiter, or mend the row."
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
    except ValueError as fault:
        raise UserError(f"{where} is not valid JSON ({fault}). A .jsonl file holds one object a line.") from None
    if not isinstance(row, dict):
        raise UserError(f"{where} is not an object like {{...}}. A .jsonl file holds one object a line.")
    return row


def _json_names(path: Path) -> list[str]:
    return list(next(_json_rows(path), {}))


def _json_batches(path: Path, columns: Sequence[str]) -> Batches:
    # Not pyarrow.json: it fixes each column's type by its first block, turns texts that look like dates
    # into dates, and cannot say which row is broken.
    rows = _json_rows(path)
    while part := list(islice(rows, ROWS)):
        yield pa.RecordBatch.from_pydict({name: _json_column([row.get(name) for row in part]) for name in columns})


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
