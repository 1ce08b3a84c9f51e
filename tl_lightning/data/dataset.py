"""Some rows of a tokenised split as padded batches."""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tl_lightning.data.base import Array, Indices
from tl_lightning.data.part import Part
from tl_lightning.data.store import TokenStore


class TextDataset(Part):
    """N rows of a tokenised split, padded on the right.

    edges: the lengths to pad to, ascending, where it is not the longest row of each batch.
    """

    store: TokenStore
    edges: Indices | None = None

    def __init__(
        self, store: TokenStore, take: Indices, codes: Indices, outputs: int, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        super().__init__(store, take, codes, outputs)
        # Without a padding token any id serves: the attention mask hides it.
        self._pad = int(tokenizer.pad_token_id or 0)
        self._wants_types = "token_type_ids" in tokenizer.model_input_names

    @property
    def lengths(self) -> Indices:
        """Tokens per row, (N,) int64."""
        return self.store.lengths[self.take]

    def inputs(self, rows: Indices) -> dict[str, Tensor]:
        """input_ids and attention_mask, and token_type_ids where the tokenizer has them, (B, T) int64."""
        lengths = self.store.lengths[rows]
        width = int(lengths.max() if self.edges is None else self.edges[np.searchsorted(self.edges, lengths.max())])
        inputs = {"input_ids": self._padded("tokens", rows, width, self._pad)}
        inputs["attention_mask"] = (np.arange(width) < lengths[:, None]).astype(np.int64)
        if self._wants_types:
            stored = "types" in self.store
            inputs["token_type_ids"] = (
                self._padded("types", rows, width, 0) if stored else np.zeros_like(inputs["input_ids"])
            )
        return {name: torch.from_numpy(array) for name, array in inputs.items()}

    def content(self) -> list[Any]:
        """The store is named by its texts and what was made of them, tokenizer and all."""
        taken = hashlib.sha256(self.take.astype("<i8").tobytes()).hexdigest()
        return ["texts", self.store.folder.name, taken, self._pad, self._wants_types]

    def _padded(self, name: str, rows: Indices, width: int, pad: int) -> Array:
        flat, offsets = self.store[name], self.store["offsets"]
        out = np.full((len(rows), width), pad, np.int64)
        for line, start, end in zip(out, offsets[rows].tolist(), offsets[rows + 1].tolist(), strict=True):
            line[: end - start] = flat[start:end]
        return out
