"""Edges pad least: against every other choice on small cases, and on a long-tailed distribution."""

from itertools import combinations

import numpy as np
import pytest

from tl_lightning.data.base import Indices
from tl_lightning.data.edges import best_edges


def _padded(lengths: Indices, edges: Indices) -> int:
    return int(np.asarray(edges)[np.searchsorted(edges, lengths)].sum())


@pytest.mark.parametrize("shapes", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_no_other_choice_pads_less(shapes: int, seed: int) -> None:
    lengths = np.random.default_rng(seed).choice([3, 4, 7, 8, 12, 20, 21], 50)
    edges = best_edges(lengths, shapes)
    assert len(edges) == shapes
    assert edges[-1] == lengths.max()
    inner = sorted(set(lengths.tolist()) - {int(lengths.max())})
    others = [np.asarray([*choice, lengths.max()]) for choice in combinations(inner, shapes - 1)]
    assert _padded(lengths, edges) == min(_padded(lengths, other) for other in others)


def test_more_edges_than_lengths_waste_nothing() -> None:
    lengths = np.asarray([5, 5, 9, 2])
    edges = best_edges(lengths, 16)
    assert edges.tolist() == [2, 5, 9]
    assert _padded(lengths, edges) == lengths.sum()


def test_a_long_tail_is_padded_little() -> None:
    lengths = np.clip(np.random.default_rng(0).geometric(0.1, 20_000) + 3, 4, 128)
    waste = [_padded(lengths, best_edges(lengths, shapes)) / lengths.sum() for shapes in (4, 8, 16)]
    assert waste == sorted(waste, reverse=True)
    eights = _padded(lengths, np.arange(8, 136, 8)) / lengths.sum()
    assert waste[-1] - 1 < (eights - 1) / 3, "16 shapes either way"
