"""Batches in an order that only the seed and the epoch decide; those of texts hold texts of like length."""

import math
from collections.abc import Iterator
from typing import cast

import numpy as np
from torch.utils.data import Dataset, DistributedSampler

from tl_lightning.data.base import Indices

POOL = 50
"""Global batches per pool: rows are sorted by length within a pool, so larger pads less and shuffles less."""


class SeededBatchSampler(DistributedSampler[list[int]]):
    """Yields this rank's batches of an epoch, each a list of positions among `size` rows.

    Training (shuffle): a permutation that depends on (seed, epoch) is cut into batches of batch_size *
    world_size. The batches are the same for every world size with the same product; where the last one does not
    divide, some of its rows are repeated.

    Evaluation: every row exactly once over all ranks, in order. A position that is repeated, to give every rank
    as many batches as the others, comes as its complement ~position.

    It is a DistributedSampler so that Lightning sees that the ranks are already told apart and does not wrap
    it.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
    ) -> None:
        # The base only asks for the number of samples.
        super().__init__(cast("Dataset[list[int]]", range(size)), world_size, rank, shuffle, seed)
        self.start = 0
        """Batches to leave out of the next pass only, for a resume in mid-epoch."""
        self._size = size
        self._global_size = batch_size * world_size

    def __len__(self) -> int:
        return math.ceil(self._size / self._global_size)

    def __iter__(self) -> Iterator[list[int]]:
        start, self.start = self.start, 0
        for batch in self._batches()[start:]:
            yield batch.tolist()

    def _batches(self) -> list[Indices]:
        whole = self._shuffled(np.random.default_rng([self.seed, self.epoch])) if self.shuffle else self._in_order()
        return [self._even(batch)[self.rank :: self.num_replicas] for batch in whole]

    def _in_order(self) -> list[Indices]:
        return self._cut(np.arange(self._size))

    def _shuffled(self, rng: np.random.Generator) -> list[Indices]:
        return self._cut(rng.permutation(self._size))

    def _cut(self, order: Indices) -> list[Indices]:
        return [order[at : at + self._global_size] for at in range(0, len(order), self._global_size)]

    def _even(self, batch: Indices) -> Indices:
        missing = -len(batch) % self.num_replicas
        extra = np.resize(batch, missing)
        return np.concatenate([batch, extra if self.shuffle else ~extra])


class BucketBatchSampler(SeededBatchSampler):
    """Batches of rows of like length.

    Training: the permutation is cut into pools of 50 global batches, each pool sorted by length and cut into
    batches, their order shuffled. Evaluation: the longest first, so that a lack of memory shows at once.
    """

    def __init__(
        self,
        lengths: Indices,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
    ) -> None:
        super().__init__(len(lengths), batch_size, seed=seed, rank=rank, world_size=world_size, shuffle=shuffle)
        self._lengths = np.asarray(lengths, np.int64)

    def padding(self) -> float:
        """Tokens after padding per real token, over this rank's batches of the current epoch."""
        sizes = [self._lengths[np.where(batch < 0, ~batch, batch)] for batch in self._batches()]
        return float(sum(len(size) * size.max() for size in sizes) / sum(size.sum() for size in sizes))

    def _in_order(self) -> list[Indices]:
        return self._cut(np.argsort(-self._lengths, kind="stable"))

    def _shuffled(self, rng: np.random.Generator) -> list[Indices]:
        order = rng.permutation(self._size)
        size = POOL * self._global_size
        pools = [order[at : at + size] for at in range(0, len(order), size)]
        batches = [b for pool in pools for b in self._cut(pool[np.argsort(self._lengths[pool], kind="stable")])]
        return [batches[at] for at in rng.permutation(len(batches))]
