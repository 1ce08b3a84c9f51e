"""Tokenises the rows of a split batch by batch, so that memory stays bounded."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tl_lightning.data.base import Indices
from tl_lightning.data.clean import clean
from tl_lightning.data.duplicates import signatures
from tl_lightning.data.encoding import Encoder
from tl_lightning.data.store import Store, Writer


class Builder:
    """Writes what a tokenizer makes of texts, cleaned by these steps; near: and by what near duplicates are found."""

    def __init__(self, writer: Writer, encoder: Encoder, steps: Sequence[str], near: bool) -> None:
        self._writer, self._encoder, self._steps, self._near = writer, encoder, steps, near
        self._tokens = 0

    def run(self, rows: Store) -> None:
        """Writes all of them, in their order."""
        self._offsets(np.zeros(1, np.int64))
        for texts, pairs in rows.batches():
            self._append(texts, pairs)
        self._writer.finish(rows=rows.folder.name, first_rows={})

    def _append(self, texts: list[str], pairs: list[str] | None) -> None:
        found = self._encoder.encode(self._cleaned(texts), None if pairs is None else self._cleaned(pairs))
        self._writer.add("tokens", found.tokens, self._encoder.token_dtype)
        if found.types is not None:
            self._writer.add("types", found.types, np.uint8)
        self._offsets(found.lengths)
        self._writer.add("truncated", found.truncated, np.uint8)
        if self._near:
            whole = texts if pairs is None else [" ".join(both) for both in zip(texts, pairs, strict=True)]
            self._writer.add("signatures", signatures(whole).ravel(), np.uint32)

    def _cleaned(self, texts: list[str]) -> list[str]:
        return [clean(text, self._steps) for text in texts] if self._steps else texts

    def _offsets(self, lengths: Indices) -> None:
        ends = self._tokens + np.cumsum(lengths)
        self._writer.add("offsets", ends, np.int64)
        self._tokens = int(ends[-1])


def build(rows: Store, encoder: Encoder, steps: Sequence[str], near: bool, folder: Path) -> None:
    """Writes the tokens of the rows into an empty folder."""
    with Writer(folder) as writer:
        Builder(writer, encoder, steps, near).run(rows)
