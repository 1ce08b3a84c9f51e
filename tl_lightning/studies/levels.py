"""From variances with few and many degrees of freedom to intervals, p-values and the seeds that would be needed.

A difference whose variance is a sum of parts, one over a handful of seeds and one over all test examples, follows no
exact t distribution (the Behrens-Fisher problem).  Two classical half widths err on either side, as
experiments/comparison_validity measures: Cochran's, whose critical value is the mean of the parts' t values weighted
by the parts (Cochran and Cox, 1957, section 4.14), is too wide; Satterthwaite's (1946, doi:10.2307/3002019), t with
``(sum V)^2 / sum(V^2 / f)`` degrees of freedom, is too narrow.  The half width here is the mean of the two, and with
two seeds, where Satterthwaite's is far too narrow, Cochran's alone.  A p-value is the level at which the interval just
leaves out zero.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy.special import ndtri, stdtrit

from tl_lightning.studies.outcomes import Array

ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 1000
SMALLEST_P = 1e-12
FEWEST_DEGREES = 2


def half_widths(parts: Array, degrees: Array, alpha: float | Array) -> Array:
    """Cochran's and Satterthwaite's half widths of a sum of variances at level ``1 - alpha``.

    ``parts`` (P, K) with ``degrees`` (P, K) of freedom and ``alpha`` () or (P,) -> (2, P).
    """
    total = parts.sum(axis=-1)
    some = np.where(total > 0, total, 1.0)
    upper = 1 - np.asarray(alpha) / 2
    cochran = (stdtrit(degrees, upper[..., None]) * parts).sum(axis=-1) / np.sqrt(some)
    squares = (parts**2 / degrees).sum(axis=-1)
    free = some**2 / np.where(squares > 0, squares, 1.0)
    satterthwaite = stdtrit(np.minimum(free, 1e9), upper) * np.sqrt(some)
    return np.where(total > 0, np.stack([cochran, satterthwaite]), 0.0)


def half_width(parts: Array, degrees: Array, alpha: float | Array) -> Array:
    """The half width that is used, (P,)."""
    cochran, satterthwaite = half_widths(parts, degrees, alpha)
    return np.asarray(np.where(degrees.min(axis=-1) < FEWEST_DEGREES, cochran, (cochran + satterthwaite) / 2))


def p_values(differences: Array, parts: Array, degrees: Array) -> Array:
    """The level at which each interval just leaves out zero, at least 1e-12: (P,)."""
    distance = np.abs(differences)
    low, high = np.full(len(distance), np.log(SMALLEST_P)), np.zeros(len(distance))
    for _ in range(40):
        middle = (low + high) / 2
        outside = half_width(parts, degrees, np.exp(middle)) < distance
        low, high = np.where(outside, low, middle), np.where(outside, middle, high)
    return np.where(distance == 0, 1.0, np.exp(high))


def to_tell(difference: float, spread: float, floor: float, seeds: int, examples: int) -> tuple[int | None, int | None]:
    """How many more seeds would tell, or, where no number of them would, how many test examples in all: estimates.

    If the difference d is as large as it looks, a study with S seeds finds it with a power of 80% where
    ``d^2 >= (t(0.975, S-1) + t(0.8, S-1))^2 (spread / S + floor)``.  The first such S up to 1,000 is searched; where
    ``floor``, the part of the N examples, is too much by itself, the test set must grow to ``2.80^2 N floor / d^2``.
    A difference seen in a small study is itself uncertain, and so is this.

    Args:
        difference: d.
        spread: the variance over seeds of one seed's difference.
        floor: the variance that seeds do not take away.
        seeds: S so far.
        examples: N so far.
    """
    wanted = np.arange(seeds + 1, MOST_SEEDS + 1)
    enough = np.flatnonzero(difference**2 >= _factors()[wanted] ** 2 * (spread / wanted + floor))
    if difference and len(enough):
        return int(wanted[enough[0]] - seeds), None
    reach = float(ndtri(1 - ALPHA / 2) + ndtri(POWER)) ** 2
    if not difference or floor * reach < difference**2:
        return None, None
    return None, int(np.ceil(examples * floor * reach / difference**2))


@cache
def _factors() -> Array:
    """By the number of seeds: how many standard errors a difference must have to be found."""
    free = np.maximum(np.arange(MOST_SEEDS + 1) - 1.0, 1.0)
    return np.asarray(stdtrit(free, 1 - ALPHA / 2) + stdtrit(free, POWER))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that keep the chance of any false difference at the level (Holm, 1979); (P,) -> (P,)."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, float)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(scaled))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(p) for p in adjusted]
