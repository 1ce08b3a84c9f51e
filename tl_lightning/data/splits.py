"""Which rows train, which select and which report: stratified, seeded, and nested where they shrink."""

import logging
from collections.abc import Sequence

import numpy as np

from tl_lightning.data.base import Array, Indices
from tl_lightning.errors import UserError

log = logging.getLogger(__name__)
_BINS = 10
"""Numbers are stratified by tenths of their distribution."""


def strata(numbers: Array) -> Indices:
    """The tenth of the distribution that each number is in, (N,) int64."""
    ranks = np.argsort(np.argsort(numbers, kind="stable"), kind="stable")
    return ranks * _BINS // len(ranks)


def ranks_in_class(classes: Indices, seed: int) -> tuple[Indices, Indices]:
    """Each row's random rank in its class, and the size of that class, both (N,) int64."""
    shuffled = np.random.default_rng(seed).permutation(len(classes))
    order = shuffled[np.argsort(classes[shuffled], kind="stable")]
    _, starts, sizes = np.unique(classes[order], return_index=True, return_counts=True)
    ranks = np.empty(len(classes), np.int64)
    ranks[order] = np.arange(len(classes)) - np.repeat(starts, sizes)
    size_of = np.empty(len(classes), np.int64)
    size_of[order] = np.repeat(sizes, sizes)
    return ranks, size_of


def stratified_order(classes: Indices, seed: int) -> Indices:
    """A random order of which every beginning holds the classes in proportion, to within a row each.

    So two parts cut from it are disjoint and stratified, and a smaller beginning is nested in a larger one.
    The only row of a class comes in the middle: it stays in train as long as train has more than half.
    """
    ranks, sizes = ranks_in_class(classes, seed)
    tie = np.random.default_rng([seed, 1]).permutation(len(classes))
    return np.lexsort((tie, (ranks + 0.5) / sizes))


def hold_out(classes: Indices, fractions: Sequence[float], seed: int) -> list[Indices]:
    """Parts of these fractions of the rows, then the rest: positions, each part in ascending order.

    Raises UserError as `part_ends` does.
    """
    order = stratified_order(classes, seed)
    return [np.sort(part) for part in np.split(order, part_ends(len(order), fractions))]


def part_ends(rows: int, fractions: Sequence[float]) -> Indices:
    """Where parts of these fractions of so many rows end; what is left follows the last.

    Raises UserError where a part, or the rest, would be empty.
    """
    ends = np.round(np.cumsum(fractions) * rows).astype(np.int64)
    if (np.diff([0, *ends, rows]) == 0).any():
        raise UserError(
            f"data.train has {rows} rows, too few to take {' and '.join(map(str, fractions))} of them "
            f"out. Give files or splits of your own: data.val=..., data.test=..."
        )
    return ends


def first_fraction(classes: Indices, fraction: float, seed: int) -> Indices:
    """A stratified part, at least one row: positions, ascending; smaller parts are nested in larger ones."""
    part = stratified_order(classes, seed)[: max(1, round(fraction * len(classes)))]
    lost = len(np.unique(classes)) - len(np.unique(classes[part]))
    if lost:
        log.warning("data.train_fraction=%s leaves %d of the classes without a row to train on.", fraction, lost)
    return np.sort(part)


def first_shots(classes: Indices, names: Sequence[str], shots: int, seed: int) -> Indices:
    """`shots` rows of each class, or all there are: positions, ascending; fewer shots are nested in more."""
    ranks, sizes = ranks_in_class(classes, seed)
    for code in np.unique(classes[sizes < shots]):
        size = int((classes == code).sum())
        log.warning("data.shots=%d: the class %r has only %d rows, all of them are used.", shots, names[code], size)
    return np.flatnonzero(ranks < shots)
