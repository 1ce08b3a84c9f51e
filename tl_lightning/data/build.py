"""Turns a table into a store: cleans, checks and tokenises chunk by chunk, so that memory stays bounded."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tl_lightning.data.base import Indices, Target
from tl_lightning.data.clean import clean
from tl_lightning.data.duplicates import signatures
from tl_lightning.data.encoding import Encoder
from tl_lightning.data.labelling import LabelWriter, kept_label
from tl_lightning.data.labels import Cell
from tl_lightning.data.store import Writer
from tl_lightning.data.tables import Chunk, Columns, Table, chunks
from tl_lightning.errors import UserError


class Recipe(NamedTuple):
    """What is made of a table, apart from the tokenizer: all of it is part of a cache's key."""

    columns: Columns
    target: Target
    clean: tuple[str, ...]
    on_empty: str
    separator: str
    near: bool = True  # whether signatures are kept, by which near duplicates are found


class Row(NamedTuple):
    """One row that is kept: its number from 0, the raw and the cleaned texts, its label."""

    at: int
    raw: tuple[str, str | None]
    text: str
    pair: str | None
    label: str | list[str]


class Builder:
    """Writes the rows of one table. `where` names the table in messages."""

    def __init__(self, writer: Writer, encoder: Encoder, recipe: Recipe, where: str) -> None:
        self._writer, self._encoder, self._recipe, self._where = writer, encoder, recipe, where
        self._labels = LabelWriter(writer, recipe.target, recipe.separator)
        self._tokens = 0
        self._dropped = 0

    def run(self, table: Table) -> None:
        """Raises UserError for the first row that cannot be used, and where none can."""
        self._offsets(np.zeros(1, np.int64))
        kept = 0
        for chunk in chunks(table, self._recipe.columns):
            rows = list(self._kept(chunk))
            kept += len(rows)
            if rows:
                self._append(rows)
        if not kept:
            raise UserError(f"{self._where}: every row is empty. Are data.text= and data.label= the right columns?")
        self._writer.finish(dropped=self._dropped, first_rows=self._labels.first_rows)

    def _kept(self, chunk: Chunk) -> Iterator[Row]:
        pairs: list[str] | list[None] = chunk.pairs or [None] * len(chunk.texts)
        for number_, (text, pair, label) in enumerate(zip(chunk.texts, pairs, chunk.labels, strict=True), chunk.first):
            row = self._row(number_, text, pair, label)
            if row is None:
                self._dropped += 1
            else:
                yield row

    def _row(self, number_: int, raw: str, raw_pair: str | None, cell: Cell) -> Row | None:
        text = clean(raw, self._recipe.clean)
        pair = None if raw_pair is None else clean(raw_pair, self._recipe.clean)
        fault = self._empty(text, pair, cell)
        if fault is None:
            return Row(number_ - 1, (raw, raw_pair), text, pair, kept_label(cell, self._recipe.separator))
        if self._recipe.on_empty == "drop":
            return None
        raise UserError(
            f"{self._where}: row {number_} has {fault}. Fill it, or leave such rows out: data.on_empty=drop."
        )

    def _empty(self, text: str, pair: str | None, cell: Cell) -> str | None:
        columns, cleaned = self._recipe.columns, " after data.clean" if self._recipe.clean else ""
        if not text.strip():
            return f"an empty text (column {columns.text!r}{cleaned})"
        if pair is not None and not pair.strip():
            return f"a pair column for one text only: {columns.pair!r} is empty{cleaned}"
        # No label at all is a fair answer where a row may have any number of them.
        if not cell and self._recipe.target != "labels":
            return f"an empty label (column {columns.label!r})"
        return None

    def _append(self, rows: list[Row]) -> None:
        pairs = None if rows[0].pair is None else [row.pair or "" for row in rows]
        found = self._encoder.encode([row.text for row in rows], pairs)
        self._writer.add("tokens", found.tokens, self._encoder.token_dtype)
        if found.types is not None:
            self._writer.add("types", found.types, np.uint8)
        self._offsets(found.lengths)
        self._writer.add("truncated", found.truncated, np.uint8)
        self._writer.add("rows", [row.at for row in rows], np.int64)
        self._writer.add("hashes", [_hash(*row.raw) for row in rows], np.uint64)
        if self._recipe.near:
            whole = [row.raw[0] if row.raw[1] is None else " ".join((row.raw[0], row.raw[1])) for row in rows]
            self._writer.add("signatures", signatures(whole).ravel(), np.uint32)
        self._writer.add_texts([row.raw[0] for row in rows], pairs and [row.raw[1] or "" for row in rows])
        places = [row.at for row in rows]
        self._labels.add([row.label for row in rows], places, [f"{self._where}: row {at + 1}" for at in places])

    def _offsets(self, lengths: Indices) -> None:
        ends = self._tokens + np.cumsum(lengths)
        self._writer.add("offsets", ends, np.int64)
        self._tokens = int(ends[-1])


def _hash(text: str, pair: str | None) -> int:
    # The unit separator keeps ("ab", "c") apart from ("a", "bc").
    whole = text if pair is None else f"{text}\x1f{pair}"
    return int.from_bytes(hashlib.blake2b(whole.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def build(table: Table, encoder: Encoder, recipe: Recipe, folder: Path) -> None:
    """Writes the store of the table into an empty folder."""
    with Writer(folder) as writer:
        Builder(writer, encoder, recipe, table.where).run(table)
