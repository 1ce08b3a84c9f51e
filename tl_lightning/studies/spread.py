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

Both are kept from claiming what examples do not show.  Where fewer than two answers differ between the groups, or all
do, ``W`` is that of two examples that differ, one for each side (Bonett and Price, 2012, doi:10.3102/1076998611411915):
the same answers on N examples are no proof of the same on others, and one example proves nothing.  A seed's part of
``V_s`` is at least that of a share that may fall on either of two neighbouring steps, a quarter of the step squared
(Popoviciu, 1935): seeds that came out the same on N examples need not be the same.  Intervals end where the metric,
or its difference, does.

Where two groups have fewer than two seeds in common, each has a ``V_s`` of its own; they add up, with the degrees
of freedom of Welch (1938).  How an interval and a p-value come from these parts stands in ``levels``.

Why both sources: Bouthillier et al., 2021, arXiv:2103.03098; Dror et al., 2018, doi:10.18653/v1/P18-1128;
examples as a crossed random effect: Clark, 1973, doi:10.1016/S0022-5371(73)80014-3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from tl_lightning.example_interval import over_examples
from tl_lightning.metric_scales import UNKNOWN, Bounds, Scale
from tl_lightning.studies.levels import ALPHA, half_width, p_values, to_tell
from tl_lightning.studies.outcomes import Array

ONE_ANSWER = 1.5  # steps squared: the variance of one answer that differs is 1, of two it is 2


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

    def seed_variance(self, step: float = 0.0) -> float:
        """Of the mean over seeds, ``V_s``; 0 for one seed, which says nothing of it.  ``step``: of the metric."""
        seeds = len(self.values)
        return max(float(self.values.var(ddof=1)), step**2 / 4) / seeds if seeds > 1 else 0.0

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

    ``one_seed`` says that it speaks of single runs, and of chance in the test examples alone; ``one_example``, that
    there was but one, which says nothing of others.  ``more_seeds`` or ``more_examples`` (in all) is what would tell,
    where it does not.  Where nothing can be said, the interval is all that a difference can be; it may be infinite.
    """

    difference: float
    interval: Bounds
    p: float
    one_seed: bool
    seeds: int
    one_example: bool = False
    more_seeds: int | None = None
    more_examples: int | None = None


def seed_interval(arm: Arm, scale: Scale = UNKNOWN, examples: int = 0) -> Bounds | None:
    """The 95% t-interval of the mean over seeds.

    None for one seed, which says nothing of the spread, and where a metric without steps came out the same to
    the last digit: no interval follows from that.
    """
    variance = arm.seed_variance(scale.step(examples))
    if not variance:
        return None
    half = float(stdtrit(len(arm.values) - 1, 1 - ALPHA / 2) * np.sqrt(variance))
    return scale.within(arm.mean - half, arm.mean + half)


def example_interval(arm: Arm, scale: Scale = UNKNOWN, examples: int = 0, imbalance: float = 1.0) -> Bounds | None:
    """The 95% interval over test examples of the mean over these seeds; None where nothing can be said."""
    return over_examples(arm.mean, arm.draws.mean(axis=0), scale, examples, ALPHA, len(arm.values), imbalance)


def contrasts(pairs: Sequence[Sequence[Arm]], examples: int, scale: Scale = UNKNOWN) -> list[Contrast]:
    """The sum of the means of each pair's arms against zero.

    Args:
        pairs: one arm of paired differences, or A and the negative of B.
        examples: N, of the test set.
        scale: of the metric.
    """
    if not pairs:
        return []
    step = scale.step(examples)
    parts, degrees = map(np.array, zip(*(sources(arms, examples, step) for arms in pairs), strict=True))
    differences = np.array([sum(arm.mean for arm in arms) for arms in pairs])
    blind = (parts.sum(axis=1) == 0) | (examples == 1)
    halves = np.where(blind, np.inf, half_width(parts, degrees, ALPHA))
    levels = np.where(blind, 1.0, p_values(differences, parts, degrees))
    apart = Scale(-scale.width, scale.width)
    return [
        _contrast(arms, float(d), apart.within(float(d - half), float(d + half)), float(p), sources, examples)
        for arms, d, half, p, sources in zip(pairs, differences, halves, levels, parts, strict=True)
    ]


def sources(arms: Sequence[Arm], examples: int, step: float = 0.0) -> tuple[list[float], list[float]]:
    """The variances ``V_s`` and ``W``, and the degrees of freedom of each."""
    free = max(examples - 1.0, 1.0)
    single = _one_seed(arms)  # of these runs as they are
    floor = _of_examples(arms, (free + 1) / free, step, single)
    if single:
        return [0.0, floor], [1.0, free]
    parts = np.array([arm.seed_variance(step) for arm in arms])
    squares = sum(part**2 / (len(arm.values) - 1) for part, arm in zip(parts, arms, strict=True))
    over_seeds = parts.sum() ** 2 / squares if squares > 0 else 1.0  # Welch's, where each arm has its own
    return [float(parts.sum()), floor], [float(over_seeds), free]


def _of_examples(arms: Sequence[Arm], small: float, step: float, single: bool) -> float:
    """``W``, or ``V_x`` of single runs; a bootstrap variance is too small by the factor ``small``."""
    together = np.sum([arm.draws.mean(axis=0) for arm in arms], axis=0)
    if not len(together):
        return 0.0
    drawn = float(np.nanvar(together, ddof=1))
    rest = 0.0 if single else sum(arm.rest_variance for arm in arms)
    least_step = step / min(len(arm.values) for arm in arms)  # one answer of one seed
    unseen = 2 * step**2 if drawn < ONE_ANSWER * least_step**2 else 0.0
    return max(small * (drawn - rest), unseen, 0.0)


def _one_seed(arms: Sequence[Arm]) -> bool:
    return any(len(arm.values) < 2 for arm in arms)


def _contrast(
    arms: Sequence[Arm], difference: float, interval: Bounds, p: float, parts: Array, examples: int
) -> Contrast:
    seeds, single = min(len(arm.values) for arm in arms), _one_seed(arms)
    if single and not arms[0].draws.shape[1]:
        interval, p = (float("nan"), float("nan")), float("nan")
    found = Contrast(difference, interval, p, single, seeds, one_example=examples == 1)
    if single or p < ALPHA or not parts.any():
        return found
    more = to_tell(difference, float(parts[0]) * seeds, float(parts[1]), seeds, examples)
    return replace(found, more_seeds=more[0], more_examples=more[1])
