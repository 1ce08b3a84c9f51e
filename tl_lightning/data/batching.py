"""Batches of texts of like length, in an order that only the seed and the epoch decide."""

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from tl_lightning.data.base import Batch, Indices

POOL = 50
"""Global batches per pool: rows are sorted by length within a pool, so larger pads less and shuffles less."""


class BucketBatchSampler(DistributedSampler[list[int]]):
    """Yields this rank's batches of an epoch, each a list of positions.

    Training (shuffle): a permutation that depends on (seed, epoch) is cut into pools of 50 global batches,
    each pool sorted by length and cut into batches of batch_size * world_size, their order shuffled. The
    batches are the same for every world size with the same product; where the last one does not divide, some
    of its rows are repeated.

    Evaluation: every row exactly once over all ranks, the longest first, so that a lack of memory shows at
    once. A position that is repeated, to give every rank as many batches as the others, comes as its
    complement ~position.

    It is a DistributedSampler so that Lightning sees that the ranks are already told apart and does not wrap
    it.
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
        # The base only asks for the number of samples.
        super().__init__(cast("Dataset[list[int]]", lengths), world_size, rank, shuffle, seed)
        self.start = 0
        """Batches to leave out of the next pass only, for a resume in mid-epoch."""
        self._lengths = np.asarray(lengths, np.int64)
        self._global_size = batch_size * world_size

    def __len__(self) -> int:
        return math.ceil(len(self._lengths) / self._global_size)

    def __iter__(self) -> Iterator[list[int]]:
        start, self.start = self.start, 0
        for batch in self._batches()[start:]:
            yield batch.tolist()

    def padding(self) -> float:
        """Tokens after padding per real token, over this rank's batches of the current epoch."""
        sizes = [self._lengths[np.where(batch < 0, ~batch, batch)] for batch in self._batches()]
        return float(sum(len(size) * size.max() for size in sizes) / sum(size.sum() for size in sizes))

    def _batches(self) -> list[Indices]:
        whole = self._shuffled() if self.shuffle else self._sorted()
        return [self._even(batch)[self.rank :: self.num_replicas] for batch in whole]

    def _sorted(self) -> list[Indices]:
        return self._cut(np.argsort(-self._lengths, kind="stable"))

    def _shuffled(self) -> list[Indices]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self._lengths))
        size = POOL * self._global_size
        pools = [order[at : at + size] for at in range(0, len(order), size)]
        batches = [b for pool in pools for b in self._cut(pool[np.argsort(self._lengths[pool], kind="stable")])]
        return [batches[at] for at in rng.permutation(len(batches))]

    def _cut(self, order: Indices) -> list[Indices]:
        return [order[at : at + self._global_size] for at in range(0, len(order), self._global_size)]

    def _even(self, batch: Indices) -> Indices:
        missing = -len(batch) % self.num_replicas
        extra = np.resize(batch, missing)
        return np.concatenate([batch, extra if self.shuffle else ~extra])


class TextLoader(DataLoader[Batch]):
    """A loader whose place in the data can be saved and taken up again, exactly.

    The order depends on (seed, epoch) alone, so the state is the epoch and how many batches were handed out;
    those are not read again after a resume. Every pass over the loader is the next epoch, unless the
    sampler's epoch was set meanwhile (Lightning does) or nothing was taken from the last one. Build it with
    `text_loader`.
    """

    _epoch = 0
    _handed_out = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # A generator, so all this happens at the first batch: Lightning calls iter() early, and only then
        # tells the sampler which epoch it is.
        sampler = cast("BucketBatchSampler", self.sampler)
        if sampler.epoch == self._epoch and self._handed_out and not self._resumed:
            self._advance(sampler)
        if sampler.epoch != self._epoch:
            self._epoch, self._handed_out = sampler.epoch, 0
        self._resumed = False
        sampler.start = self._handed_out
        for batch in super().__iter__():
            self._handed_out += 1
            yield batch

    _resumed = False

    def _advance(self, sampler: BucketBatchSampler) -> None:
        sampler.set_epoch(self._epoch + 1)

    def state_dict(self) -> dict[str, int]:
        """The epoch, and the batches of it that were handed out."""
        return {"epoch": self._epoch, "batches": self._handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next pass goes on behind the batches of the state; behind a whole epoch, with the next one."""
        sampler = cast("BucketBatchSampler", self.sampler)
        self._epoch, self._handed_out = state["epoch"], state["batches"]
        sampler.set_epoch(self._epoch)
        self._resumed = self._handed_out < len(sampler)


def text_loader(
    dataset: Dataset[Batch], sampler: BucketBatchSampler, *, num_workers: int, pin_memory: bool
) -> TextLoader:
    """A loader over a dataset that takes a list of positions and gives a whole batch."""
    # batch_size=None: the sampler's lists go to the dataset as they are, and Lightning finds the sampler
    # (and its set_epoch) where it looks for it.
    return TextLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        collate_fn=cast("Callable[[Any], Any]", _as_it_is),
        num_workers=num_workers,
        pin_memory=pin_memory,
        # A loader draws a seed at each pass; from the global state, a resume would go on with other dropout.
        generator=torch.Generator(),
    )


def _as_it_is(batch: Batch) -> Batch:
    return batch
