"""Some rows of a store with their targets, as batches."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tl_lightning.data.base import Array, Batch, Indices
from tl_lightning.data.store import Store


class Part(Dataset[Batch]):
    """N rows of a store, chosen by position, with their targets; indexed by whole batches.

    codes: what each code of the store's vocabulary is among the classes; empty for numbers. outputs: C.
    epoch: of the batches that are asked for next; the loader sets it. stand_in: given positions, makes what a batch
    has in place of its inputs, which are not read then.
    """

    epoch = 0
    stand_in: Callable[[Indices], dict[str, Tensor]] | None = None

    def __init__(self, store: Store, take: Indices, codes: Indices, outputs: int) -> None:
        self.store, self.take = store, take
        self._codes, self._outputs = codes, outputs

    def __len__(self) -> int:
        return len(self.take)

    def __getitem__(self, positions: Sequence[int]) -> Batch:
        """The batch of these positions; a complement ~position gets index -1."""
        at = np.asarray(positions, np.int64)
        places = np.where(at < 0, ~at, at)
        rows = self.take[places]
        index = np.where(at < 0, -1, self.store["rows"][rows])
        inputs = self.inputs(rows) if self.stand_in is None else self.stand_in(places)
        return Batch(inputs, self.targets(rows), torch.from_numpy(index))

    @abstractmethod
    def content(self) -> list[Any]:
        """Plain values that tell the inputs of these rows, in their order, from all others."""

    @abstractmethod
    def inputs(self, rows: Indices) -> dict[str, Tensor]:
        """What the backbone takes of these rows of the store: see Batch."""

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
