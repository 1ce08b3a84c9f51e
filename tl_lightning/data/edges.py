"""A few lengths to pad to, chosen so that they pad least."""

import numpy as np

from tl_lightning.data.base import Indices


def best_edges(lengths: Indices, shapes: int) -> Indices:
    """At most ``shapes`` lengths, ascending, to which rows of these lengths are padded with the least waste.

    A dynamic programme over the distinct lengths: the last edge is the greatest length, and each row is padded to
    the smallest edge that holds it.  Exact; (distinct lengths)^2 * shapes additions.

    Args:
        lengths: (N,) tokens per row, at least one row.
        shapes: the most edges, at least 1.
    """
    distinct, counts = np.unique(lengths, return_counts=True)
    before = np.concatenate([[0], np.cumsum(counts)])
    shapes = min(shapes, len(distinct))
    waste = np.full((shapes + 1, len(distinct) + 1), np.inf)
    cut = np.zeros(waste.shape, np.int64)
    waste[0, 0] = 0
    for used in range(1, shapes + 1):
        for end in range(1, len(distinct) + 1):
            # The last edge is distinct[end - 1] and takes the lengths from `start` on.
            costs = waste[used - 1, :end] + distinct[end - 1] * (before[end] - before[:end])
            cut[used, end] = costs.argmin()
            waste[used, end] = costs.min()
    edges, end = [], len(distinct)
    for used in range(shapes, 0, -1):
        edges.append(distinct[end - 1])
        end = cut[used, end]
    return np.asarray(edges[::-1], np.int64)
