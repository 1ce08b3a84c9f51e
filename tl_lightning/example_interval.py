"""Intervals of a metric over test examples: what it may be on other examples of the same kind.

Resamples of few examples, or of examples that were almost all answered rightly, do not show the mistakes that were not
seen: a run without a mistake has the same metric in every resample.  So

- a metric that counts right answers has the interval of Clopper and Pearson (1934, doi:10.1093/biomet/26.4.404) for
  shares: that of an accuracy is exact, and that of any other takes the number of examples from the variance over
  resamples, as for shares in surveys (Korn and Graubard, 1998, Survey Methodology 24(2));
- any other has the percentile interval of the bootstrap, its percentiles moved outwards as far as a t interval is wider
  than a normal one (Hesterberg, 2015, doi:10.1080/00031305.2015.1089789); and none where no resample differs;
- a calibration error, which is too large on few examples and larger still on resamples of them, has the interval
  turned around its value (the basic bootstrap; Davison and Hinkley, 1997, section 5.2), so that the bias is taken out.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtr, stdtrit

from tl_lightning.metric_scales import Bounds, Scale

UNSEEN = 4.0  # mistakes taken to be like any other beside those seen, as many as Agresti and Coull (1998) add


def over_examples(
    value: float,
    draws: NDArray[np.float64],
    scale: Scale,
    examples: int,
    alpha: float,
    runs: int = 1,
    imbalance: float = 1.0,
) -> Bounds | None:
    """The interval over test examples at level ``1 - alpha``; None where nothing can be said.

    Args:
        value: of the metric, the mean over ``runs``.
        draws: the same in B resamples of the examples, (B,).
        scale: of the metric.
        examples: N, of the test set.
        alpha: share of intervals that may miss.
        runs: how many runs the value is a mean of.
        imbalance: of the classes, see below.
    """
    draws = draws[np.isfinite(draws)]
    if not len(draws) or not np.isfinite(value):
        return None
    if scale.counted:
        share = min(max((value - scale.low) / scale.width, 0.0), 1.0)
        of = examples / _effect(share, float(draws.var()) / scale.width**2, scale, examples, runs, imbalance)
        low, high = proportion(share * of, of, alpha)
        return scale.low + scale.width * low, scale.low + scale.width * high
    if examples < 2 or draws.min() == draws.max():
        return None
    return _percentiles(value, draws, scale, examples, alpha)


def _percentiles(value: float, draws: NDArray[np.float64], scale: Scale, examples: int, alpha: float) -> Bounds:
    wider = np.sqrt(examples / (examples - 1))
    tail = float(ndtr(-wider * stdtrit(examples - 1, 1 - alpha / 2)))
    low, high = np.quantile(draws, [tail, 1 - tail]).tolist()
    if scale.biased:
        low, high = 2 * value - high, 2 * value - low
    return scale.within(min(low, value), max(high, value))


def _effect(share: float, variance: float, scale: Scale, examples: int, runs: int, imbalance: float) -> float:
    """How many times the variance is that of a share of so many examples: the design effect (Kish, 1965).

    Below 1 where seeds that are averaged err on different examples, above 1 where a rare class counts as much as the
    others.  Few mistakes are no evidence of either: the effect is drawn towards what it is where all runs and classes
    are alike, as if ``UNSEEN`` more had been seen.
    """
    before, binomial = 1.0 if scale.exact else imbalance, share * (1 - share) / examples
    if binomial <= 0 or variance <= 0 or (scale.exact and runs == 1):
        return before
    seen, unseen = examples * min(share, 1 - share), UNSEEN if scale.stepped else 0.0
    return (variance / binomial * seen + before * unseen) / (seen + unseen)


def imbalance(counts: Iterable[float], examples: int) -> float:
    """How many times the variance of a mean over classes is that of a share, if mistakes are as frequent in each.

    ``counts``: how many of the ``examples`` each class has; those that do not occur are left out.
    """
    present = [count for count in counts if count > 0]
    return sum(examples / count for count in present) / len(present) ** 2 if present else 1.0


def proportion(hits: float, of: float, alpha: float) -> Bounds:
    """The exact interval of a share, right at least as often as its level says; neither number need be whole."""
    low = float(betaincinv(hits, of - hits + 1, alpha / 2)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, of - hits, 1 - alpha / 2)) if hits < of else 1.0
    return low, high
