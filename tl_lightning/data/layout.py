"""The batches of an epoch as three arrays, and what they hold."""

from typing import NamedTuple

import numpy as np

from tl_lightning.data.base import Indices


class Layout(NamedTuple):
    """The batches of an epoch: order[start:end] for each of starts and ends, as the batches follow each other."""

    order: Indices
    starts: Indices
    ends: Indices

    def shuffled(self, rng: np.random.Generator) -> "Layout":
        """The same batches in a random order."""
        at = rng.permutation(len(self.starts))
        return Layout(self.order, self.starts[at], self.ends[at])

    def of_rank(self, rank: int, world_size: int, repeat: int) -> "Layout":
        """Every world_size-th row of each batch; one that does not divide is filled up from its own beginning.

        A row that is repeated is XORed with `repeat`: 0 leaves it, -1 gives its complement.
        """
        sizes = self.ends - self.starts
        own = -(-sizes // world_size)
        ends = np.cumsum(own)
        starts = ends - own
        place = (np.arange(ends[-1]) - np.repeat(starts, own)) * world_size + rank
        size = np.repeat(sizes, own)
        rows = self.order[np.repeat(self.starts, own) + place % size]
        return Layout(np.where(place < size, rows, rows ^ repeat), starts, ends)


class Padding(NamedTuple):
    """What an epoch's batches hold, (batches,) each: real tokens, tokens after padding, tokens per padded row."""

    real: Indices
    padded: Indices
    widths: Indices

    @property
    def waste(self) -> float:
        """Tokens after padding per real token."""
        return float(self.padded.sum() / self.real.sum())

    @property
    def shapes(self) -> int:
        """How many different shapes there are, of rows and tokens per row."""
        return int(np.unique(np.stack([self.padded // self.widths, self.widths]), axis=1).shape[1])


def meetings(first: Layout, second: Layout) -> float:
    """How many times as often as at random two rows that shared a batch share one again: 1 is a full mix.

    Args:
        first: all batches of an epoch, over all ranks.
        second: those of another epoch of the same rows.
    """
    rows = len(second.order)
    batch_of = np.empty(rows, np.int64)
    batch_of[second.order] = np.repeat(np.arange(len(second.starts)), second.ends - second.starts)
    again = pairs = 0
    for start, end in zip(first.starts.tolist(), first.ends.tolist(), strict=True):
        together = np.bincount(batch_of[first.order[start:end]])
        again += int((together * (together - 1)).sum())
        pairs += (end - start) * (end - start - 1)
    sizes = second.ends - second.starts
    return again / pairs / (float((sizes * (sizes - 1)).sum()) / (rows * (rows - 1)))
