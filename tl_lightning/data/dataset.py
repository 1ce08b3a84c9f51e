"""Some rows of a store as padded batches."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from tl_lightning.data.base import Array, Batch, Indices
from tl_lightning.data.store import Store


class TextDataset(Dataset[Batch]):
    """N rows of a store, chosen by position, with their targets; indexed by whole batches.

    codes: what each code of the store's vocabulary is among the classes; empty for numbers.
    """

    def __init__(
        self, store: Store, take: Indices, codes: Indices, outputs: int, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.store, self.take = store, take
        self._codes, self._outputs = codes, outputs
        # Without a padding token any id serves: the attention mask hides it.
        self._pad = int(tokenizer.pad_token_id or 0)
        self._wants_types = "token_type_ids" in tokenizer.model_input_names

    def __len__(self) -> int:
        return len(self.take)

    @property
    def lengths(self) -> Indices:
        """Tokens per row, (N,) int64."""
        return self.store.lengths[self.take]

    def __getitem__(self, positions: Sequence[int]) -> Batch:
        """The batch of these positions, padded on the right; a complement ~position gets index -1."""
        at = np.asarray(positions, np.int64)
        rows = self.take[np.where(at < 0, ~at, at)]
        index = np.where(at < 0, -1, self.store["rows"][rows])
        return Batch(self._inputs(rows), self.targets(rows), torch.from_numpy(index))

    def targets(self, rows: Indices) -> Tensor:
        """The targets of these rows of the store: see Batch."""
        if "numbers" in self.store:
            return torch.from_numpy(self.store["numbers"][rows].astype(np.float32))
        if "label_offsets" in self.store:
            return torch.from_numpy(self._multi_hot(rows))
        return torch.from_numpy(self._codes[self.store["codes"][rows]])

    def _multi_hot(self, rows: Indices) -> Array:
        hot = np.zeros((len(rows), self._outputs), np.float32)
        starts = self.store["label_offsets"]
        for line, row in zip(hot, rows, strict=True):
            line[self._codes[self.store["codes"][starts[row] : starts[row + 1]]]] = 1
        return hot

    def _inputs(self, rows: Indices) -> dict[str, Tensor]:
        lengths = self.store.lengths[rows]
        inputs = {"input_ids": self._padded("tokens", rows, lengths, self._pad)}
        inputs["attention_mask"] = (np.arange(inputs["input_ids"].shape[1]) < lengths[:, None]).astype(np.int64)
        if self._wants_types:
            stored = "types" in self.store
            inputs["token_type_ids"] = (
                self._padded("types", rows, lengths, 0) if stored else np.zeros_like(inputs["input_ids"])
            )
        return {name: torch.from_numpy(array) for name, array in inputs.items()}

    def _padded(self, name: str, rows: Indices, lengths: Indices, pad: int) -> Array:
        flat, starts = self.store[name], self.store["offsets"][rows]
        out = np.full((len(rows), int(lengths.max())), pad, np.int64)
        for line, start, length in zip(out, starts, lengths, strict=True):
            line[:length] = flat[start : start + length]
        return out
