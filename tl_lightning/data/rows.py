"""The rows of a table, read once: checked and labelled, with their raw texts, before any tokenizer is known."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tl_lightning.data.base import Target
from tl_lightning.data.clean import clean
from tl_lightning.data.faults import Faults, RowError, RowFaults
from tl_lightning.data.labelling import LabelWriter, Seen
from tl_lightning.data.labels import Cell, Label, label_of
from tl_lightning.data.store import Writer
from tl_lightning.data.tables import Chunk, Columns, Table, chunks
from tl_lightning.errors import UserError


class Recipe(NamedTuple):
    """What is made of a table: all of it is part of a cache's key."""

    columns: Columns
    target: Target
    clean: tuple[str, ...]
    on_empty: str
    separator: str


class Row(NamedTuple):
    """One row that is kept: its number from 0, the raw texts, its label."""

    at: int
    text: str
    pair: str | None
    label: Label


class Reading:
    """Writes the rows of one table. `where` names it in messages; what is seen of it goes into `seen`, row by row."""

    def __init__(self, writer: Writer, recipe: Recipe, where: str, seen: Seen) -> None:
        self._writer, self._recipe, self._where, self._seen = writer, recipe, where, seen
        self._labels = LabelWriter(writer, recipe.target)
        self._bad = RowFaults()
        self._dropped = 0

    def run(self, table: Table) -> None:
        """Raises UserError for all rows that cannot be used, for what ends the table too early, and where none is left.

        Nothing is written once a row cannot be used; the rest is looked at all the same.
        """
        ended = Faults()
        with ended.collected():
            for chunk in chunks(table, self._recipe.columns):
                rows = list(self._kept(chunk))
                if rows and not self._bad:
                    self._append(rows)
            self._seen.whole = True
        faults = Faults()
        faults.add(*self._bad.told())
        with faults.collected():
            ended.refuse()
        faults.refuse()
        if not self._seen.rows:
            raise UserError(f"{self._where}: every row is empty. Are data.text= and data.label= the right columns?")
        self._writer.finish(dropped=self._dropped, first_rows=self._labels.first_rows)

    def _kept(self, chunk: Chunk) -> Iterator[Row]:
        pairs: list[str] | list[None] = chunk.pairs or [None] * len(chunk.texts)
        for at, (text, pair, cell) in enumerate(zip(chunk.texts, pairs, chunk.labels, strict=True), chunk.first - 1):
            try:
                row = self._row(at, text, pair, cell)
            except RowError as fault:
                self._bad.add(f"{self._where}: row {at + 1}", fault, f"row {at + 1}")
                continue
            if row is None:
                self._dropped += 1
            else:
                self._seen.add(row.label, at)
                yield row

    def _row(self, at: int, text: str, pair: str | None, cell: Cell) -> Row | None:
        fault = self._empty(text, pair, cell)
        if fault is None:
            return Row(at, text, pair, label_of(cell, self._recipe.target, self._recipe.separator))
        if self._recipe.on_empty == "drop":
            return None
        if cell:  # once its text is there, its label will be too
            self._seen.note(label_of(cell, self._recipe.target, self._recipe.separator), at)
        raise RowError(fault, f"has {fault}. Fill it, or leave such rows out: data.on_empty=drop.")

    def _empty(self, text: str, pair: str | None, cell: Cell) -> str | None:
        columns, steps = self._recipe.columns, self._recipe.clean
        cleaned = " after data.clean" if steps else ""
        if not clean(text, steps).strip():
            return f"an empty text (column {columns.text!r}{cleaned})"
        if pair is not None and not clean(pair, steps).strip():
            return f"a pair column for one text only: {columns.pair!r} is empty{cleaned}"
        # No label at all is a fair answer where a row may have any number of them.
        if not cell and self._recipe.target != "labels":
            return f"an empty label (column {columns.label!r})"
        return None

    def _append(self, rows: list[Row]) -> None:
        places = [row.at for row in rows]
        self._writer.add("rows", places, np.int64)
        self._writer.add("hashes", [_hash(row.text, row.pair) for row in rows], np.uint64)
        paired = rows[0].pair is not None
        self._writer.add_texts([row.text for row in rows], [row.pair or "" for row in rows] if paired else None)
        self._labels.add([row.label for row in rows], places)


def _hash(text: str, pair: str | None) -> int:
    # The unit separator keeps ("ab", "c") apart from ("a", "bc").
    whole = text if pair is None else f"{text}\x1f{pair}"
    return int.from_bytes(hashlib.blake2b(whole.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def read(table: Table, recipe: Recipe, seen: Seen, folder: Path) -> None:
    """Writes the rows of the table into an empty folder."""
    with Writer(folder) as writer:
        Reading(writer, recipe, table.where, seen).run(table)
