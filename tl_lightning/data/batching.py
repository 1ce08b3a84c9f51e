"""Batches in an order that only the seed and the epoch decide; those of texts hold texts of like length."""

from collections.abc import Iterator
from typing import cast

import numpy as np
from torch.utils.data import Dataset, DistributedSampler

from tl_lightning.data.base import Indices
from tl_lightning.data.layout import Layout, Padding

FEWEST, MOST, POOLS = 50, 200, 8
"""Global batches per pool, and the pools an epoch should have: a larger pool pads less and shuffles less."""


class SeededBatchSampler(DistributedSampler[list[int]]):
    """Yields this rank's batches of an epoch, each a list of positions among `size` rows.

    Training (shuffle): a permutation that depends on (seed, epoch) is cut into batches of batch_size *
    world_size. The batches are the same for every world size with the same product; where the last one does not
    divide, some of its rows are repeated.

    Evaluation: every row exactly once over all ranks, in order. A position that is repeated, to give every rank
    as many batches as the others, comes as its complement ~position.

    There are as many batches in every epoch. It is a DistributedSampler so that Lightning sees that the ranks are
    already told apart and does not wrap it.
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
        return -(-self._size // self._global_size)

    def __iter__(self) -> Iterator[list[int]]:
        start, self.start = self.start, 0
        order, starts, ends = self.layout()
        for begin, end in zip(starts[start:].tolist(), ends[start:].tolist(), strict=True):
            yield order[begin:end].tolist()

    def layout(self) -> Layout:
        """This rank's batches of the epoch."""
        whole = self._shuffled(np.random.default_rng([self.seed, self.epoch])) if self.shuffle else self._in_order()
        return whole.of_rank(self.rank, self.num_replicas, 0 if self.shuffle else -1)

    def _in_order(self) -> Layout:
        return self._cut(np.arange(self._size))

    def _shuffled(self, rng: np.random.Generator) -> Layout:
        return self._cut(rng.permutation(self._size))

    def _cut(self, order: Indices) -> Layout:
        starts = np.arange(0, len(order), self._global_size)
        return Layout(order, starts, np.minimum(starts + self._global_size, len(order)))


class BucketBatchSampler(SeededBatchSampler):
    """Batches of rows of like length.

    Training: the permutation is cut into pools, each pool sorted by length and cut into batches, their order
    shuffled. A pool has 200 global batches; fewer, but never below 50, where the epoch would have fewer than 8 pools.
    Evaluation: the longest first, so that a lack of memory shows at once.

    edges: lengths to pad to, ascending, the last one the longest row's; by default a batch is padded to its longest
    row. With edges the whole epoch is one pool, sorted by edge alone: rows of one edge are mixed over the whole epoch.
    mixed: train on the permutation as it is, whatever the lengths: the control.
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
        edges: Indices | None = None,
        mixed: bool = False,
    ) -> None:
        super().__init__(len(lengths), batch_size, seed=seed, rank=rank, world_size=world_size, shuffle=shuffle)
        self._lengths = np.asarray(lengths, np.int64)
        self._widths = self._lengths if edges is None else edges[np.searchsorted(edges, self._lengths)]
        self._whole, self._mixed = edges is not None, mixed
        self._laid_out: tuple[int, Padding] | None = None

    def padding(self) -> Padding:
        """Of this rank's batches in the current epoch; costs nothing once they were asked for."""
        if self._laid_out is None or self._laid_out[0] != self.epoch:
            self.layout()
        assert self._laid_out is not None
        return self._laid_out[1]

    def layout(self) -> Layout:
        """This rank's batches of the epoch; notes their padding."""
        found = super().layout()
        rows = np.where(found.order < 0, ~found.order, found.order)
        real = np.add.reduceat(self._lengths[rows], found.starts)
        widths = np.maximum.reduceat(self._widths[rows], found.starts)
        self._laid_out = self.epoch, Padding(real, widths * (found.ends - found.starts), widths)
        return found

    def _in_order(self) -> Layout:
        return self._cut(np.argsort(-self._lengths, kind="stable"))

    def _shuffled(self, rng: np.random.Generator) -> Layout:
        if self._mixed:
            return super()._shuffled(rng)
        order = rng.permutation(self._size)
        size = self._size if self._whole else self._pool() * self._global_size
        key = np.arange(self._size) // size * (1 + self._widths.max()) + self._widths[order]
        return self._cut(order[np.argsort(key, kind="stable")]).shuffled(rng)

    def _pool(self) -> int:
        return max(FEWEST, min(MOST, len(self) // POOLS))


class TokenBatchSampler(BucketBatchSampler):
    """Batches of like many tokens: a padded one holds at most `max_tokens` per rank, and as many rows as fit.

    Training: the rows of one edge are cut into batches, the epoch's permutation deciding which; the order of all
    batches is shuffled. The last batch of each edge may be smaller. Batches are the same for every world size among
    1, 2, 4 and 8 with the same product with max_tokens. Evaluation: as ever, the longest first.

    edges: see BucketBatchSampler, for training only. No row may have more tokens than max_tokens.
    """

    def __init__(
        self,
        lengths: Indices,
        max_tokens: int,
        *,
        seed: int,
        edges: Indices | None = None,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
    ) -> None:
        super().__init__(
            lengths, 1, seed=seed, rank=rank, world_size=world_size, shuffle=shuffle, edges=edges if shuffle else None
        )
        self._starts = self._all_starts(np.sort(self._widths)[:: 1 if shuffle else -1], max_tokens)

    def __len__(self) -> int:
        return len(self._starts)

    def _all_starts(self, widths: Indices, max_tokens: int) -> Indices:
        """Where batches start among all rows in the order of their widths, which is the same in every epoch."""
        starts, at = [], 0
        while at < len(widths):
            starts.append(at)
            end = np.searchsorted(widths, widths[at], side="right") if self.shuffle else len(widths)
            at = min(at + fitting_rows(max_tokens, int(widths[at]), self.num_replicas), int(end))
        return np.asarray(starts, np.int64)

    def _cut(self, order: Indices) -> Layout:
        return Layout(order, self._starts, np.append(self._starts[1:], len(order)))


def fitting_rows(max_tokens: int, width: int, world_size: int) -> int:
    """Rows of `width` tokens that fit `max_tokens` on each rank, over all ranks.

    A multiple of 8 where there are as many: what matrix units take best, and what most world sizes divide; below
    that a power of two.
    """
    unit = int(np.lcm(8, world_size))
    rows = max_tokens * world_size // width
    return rows // unit * unit if rows >= unit else world_size << (max_tokens // width).bit_length() - 1
