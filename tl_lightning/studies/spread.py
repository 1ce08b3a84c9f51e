"""The statistics of a study: the spread over seeds, the draw of test examples, and differences between groups.

**Estimand.** For two groups A and B and a metric, the difference that is expected for a new seed and a new test
example, the training data as they are: E[metric(A)] - E[metric(B)].

**Two sources of chance**, crossed: every seed is tested on the same examples.  With S seeds and N examples the variance
of the mean difference is ``seed/S + example/N + rest/(S N)``.  Its parts are estimated as in an analysis of variance of
crossed random effects, those of the examples by the bootstrap, so that it holds for any metric:

- ``V_s``, the variance over seeds of the paired differences, divided by S, estimates ``seed/S + rest/(S N)``;
- ``V_x``, the bootstrap variance of the mean difference, estimates ``example/N + rest/(S N)``;
- ``V_r``, the bootstrap variance of what each seed differs by from their mean, estimates ``rest/(S N)``;
- so ``W = max(V_x - V_r, 0)`` is the part of the examples that more seeds do not take away.

Where two groups have fewer than two seeds in common, each has a ``V_s`` of its own; they add up, with the degrees
of freedom of Welch (1938).  How an interval and a p-value come from these parts stands in ``levels``.

Why both sources: Bouthillier et al., 2021, arXiv:2103.03098; Dror et al., 2018, doi:10.18653/v1/P18-1128;
examples as a crossed random effect: Clark, 1973, doi:10.1016/S0022-5371(73)80014-3.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from tl_lightning.studies.levels import ALPHA, half_width, p_values, to_tell
from tl_lightning.studies.outcomes import Array

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Arm:
    """One set of repetitions: a value for each of S seeds (S,), and the same in B resamples of the examples (S, B).

    Where there are no predictions there are no resamples: (S, 0).
    """

    values: Array
    draws: Array

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(self.values.mean())

    @property
    def seed_variance(self) -> float:
        """Of the mean over seeds, ``V_s``; 0 for one seed, which says nothing of it."""
        return float(self.values.var(ddof=1) / len(self.values)) if len(self.values) > 1 else 0.0

    @property
    def rest_variance(self) -> float:
        """The part of it that comes from the examples each seed happened to get right, ``V_r``."""
        if len(self.values) < 2 or not self.draws.shape[1]:
            return 0.0
        own = self.draws - self.draws.mean(axis=0)
        return float(np.nanvar(own, axis=1, ddof=1).sum() / (len(own) - 1) / len(own))

    def minus(self, other: "Arm") -> "Arm":
        """The differences, paired by place."""
        return Arm(self.values - other.values, self.draws - other.draws)

    def negative(self) -> "Arm":
        """The same with the other sign."""
        return Arm(-self.values, -self.draws)


@dataclass(frozen=True)
class Contrast:
    """A difference with its 95% interval and p-value.

    ``one_seed`` says that it speaks of single runs, and of chance in the test examples alone.  ``more_seeds`` or
    ``more_examples`` (in all) is what would tell, where it does not.
    """

    difference: float
    interval: Bounds
    p: float
    one_seed: bool
    seeds: int
    more_seeds: int | None = None
    more_examples: int | None = None


def seed_interval(values: Array) -> Bounds | None:
    """The 95% t-interval of the mean over seeds (S,); None for one seed, which says nothing of the spread."""
    if len(values) < 2:
        return None
    half = float(stdtrit(len(values) - 1, 1 - ALPHA / 2) * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half


def example_interval(draws: Array) -> Bounds | None:
    """The 95% percentile bootstrap interval over test examples of the mean over seeds: (S, B) -> bounds."""
    means = draws.mean(axis=0)
    means = means[~np.isnan(means)]
    if not len(means):
        return None
    low, high = np.quantile(means, [ALPHA / 2, 1 - ALPHA / 2]).tolist()
    return low, high


def contrasts(pairs: Sequence[Sequence[Arm]], examples: int) -> list[Contrast]:
    """The sum of the means of each pair's arms against zero.

    Args:
        pairs: one arm of paired differences, or A and the negative of B.
        examples: N, of the test set.
    """
    if not pairs:
        return []
    parts, degrees = map(np.array, zip(*(sources(arms, examples) for arms in pairs), strict=True))
    differences = np.array([sum(arm.mean for arm in arms) for arms in pairs])
    halves, levels = half_width(parts, degrees, ALPHA), p_values(differences, parts, degrees)
    return [
        _contrast(arms, float(d), float(half), float(p), sources, examples)
        for arms, d, half, p, sources in zip(pairs, differences, halves, levels, parts, strict=True)
    ]


def sources(arms: Sequence[Arm], examples: int) -> tuple[list[float], list[float]]:
    """The variances ``V_s`` and ``W``, and the degrees of freedom of each."""
    together = np.sum([arm.draws.mean(axis=0) for arm in arms], axis=0)
    drawn = float(np.nanvar(together, ddof=1)) if len(together) else 0.0
    free = max(examples - 1.0, 1.0)
    if _one_seed(arms):  # of these runs as they are
        return [0.0, drawn], [1.0, free]
    parts = np.array([arm.seed_variance for arm in arms])
    squares = sum(part**2 / (len(arm.values) - 1) for part, arm in zip(parts, arms, strict=True))
    over_seeds = parts.sum() ** 2 / squares if squares > 0 else 1.0  # Welch's, where each arm has its own
    floor = max(drawn - sum(arm.rest_variance for arm in arms), 0.0)
    return [float(parts.sum()), floor], [float(over_seeds), free]


def _one_seed(arms: Sequence[Arm]) -> bool:
    return any(len(arm.values) < 2 for arm in arms)


def _contrast(arms: Sequence[Arm], difference: float, half: float, p: float, parts: Array, examples: int) -> Contrast:
    seeds, single = min(len(arm.values) for arm in arms), _one_seed(arms)
    if single and not arms[0].draws.shape[1]:
        half = p = float("nan")
    found = Contrast(difference, (difference - half, difference + half), p, single, seeds)
    if single or p < ALPHA:
        return found
    more = to_tell(difference, float(parts[0]) * seeds, float(parts[1]), seeds, examples)
    return Contrast(difference, found.interval, p, single, seeds, *more)
