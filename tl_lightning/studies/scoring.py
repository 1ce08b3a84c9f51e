"""Metrics from stored predictions under weights of the examples, so that any of them can be resampled.

The definitions are those of ``tl_lightning.objectives``, written in numpy: with weights of one they give the record's
numbers; with the counts of a resample they give that resample's, for all resamples at once.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tl_lightning.studies.outcomes import Array, Outcomes
from tl_lightning.studies.ranks import auroc, spearman

BINS = 15  # of the calibration error
FEW_CLASSES = 64  # up to here a product is faster than sorting


@dataclass(frozen=True, eq=False)
class Weighted:
    """One run's outcomes with B sets of weights of its N examples (B, N), and what several metrics count."""

    outcomes: Outcomes
    weights: Array

    @cached_property
    def total(self) -> Array:
        """The sum of the weights, (B,)."""
        return np.asarray(self.weights.sum(axis=1))

    @cached_property
    def counts(self) -> tuple[Array, Array, Array]:
        """True positives, predicted and true ones of each class: three times (B, C)."""
        target, predicted, weights = self.outcomes.target, self.outcomes.predicted, self.weights
        if self.outcomes.kind == "labels":
            return weights @ (target * predicted), weights @ predicted, weights @ target
        size = len(self.outcomes.classes)
        right = np.where(target == predicted, target, size)
        if size > FEW_CLASSES:
            hits = by_code(weights, right, size + 1)[:, :size]
            return hits, by_code(weights, predicted, size), by_code(weights, target, size)
        hot = np.eye(size + 1)[:, :size]
        sums = weights @ np.concatenate([hot[right], hot[predicted], hot[target]], axis=1)
        return sums[:, :size], sums[:, size : 2 * size], sums[:, 2 * size :]


Scorer = Callable[[Weighted], Array]  # -> (B,)


def _mean(of: Callable[[Outcomes], Array]) -> Scorer:
    return lambda given: given.weights @ of(given.outcomes) / given.total


def _right(outcomes: Outcomes) -> Array:
    same = outcomes.target == outcomes.predicted
    return np.asarray(same.all(axis=1) if same.ndim == 2 else same, float)


def _error(outcomes: Outcomes) -> Array:
    return np.asarray(outcomes.predicted - outcomes.target)


def by_code(values: Array, codes: Array, size: int) -> Array:
    """Sums over the columns of one code: (B, N) and (N,) -> (B, size)."""
    order = np.argsort(codes, kind="stable")
    present, starts = np.unique(codes[order], return_index=True)
    sums = np.zeros((len(values), size))
    if len(present):
        sums[:, present] = np.add.reduceat(values[:, order], starts, axis=1)
    return sums


def _ratio(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)


def _macro(of: Callable[[Array, Array, Array], Array]) -> Scorer:
    """The mean over classes: over those that occur or are predicted, or over all labels."""

    def score(given: Weighted) -> Array:
        hits, predicted, true = given.counts
        values = of(hits, predicted, true)
        counted = np.ones_like(values) if given.outcomes.kind == "labels" else ((predicted + true) > 0).astype(float)
        return _ratio((values * counted).sum(axis=1), counted.sum(axis=1))

    return score


def _mcc(given: Weighted) -> Array:
    """Matthews' correlation for any number of classes (Gorodkin, 2004)."""
    hits, predicted, true = given.counts
    total, right = given.total, hits.sum(axis=1)
    above = right * total - (predicted * true).sum(axis=1)
    below = (total**2 - (predicted**2).sum(axis=1)) * (total**2 - (true**2).sum(axis=1))
    value = _ratio(above, np.sqrt(below))
    return np.where(below > 0, value, _one_sided(hits, predicted, true)) if hits.shape[1] == 2 else value


def _one_sided(hits: Array, predicted: Array, true: Array) -> Array:
    """The two-class limit that torchmetrics takes where one class is never predicted or never true."""
    tn, tp = hits.T
    fp, fn = (predicted - hits).T[1], (true - hits).T[1]
    eps = float(np.finfo(np.float32).eps)
    above = np.select(
        [(fn == 0) & (tn == 0), (fp == 0) & (tn == 0), (tp == 0) & (fn == 0)], [tp - fp, tp - fn, tn - fp], tn - fn
    )
    below = (tp + fp + eps) * (tp + fn + eps) * (tn + fp + eps) * (tn + fn + eps)
    limit = np.sqrt(eps) * above / np.sqrt(below)
    return np.select([fp + fn == 0, tp + tn == 0], [np.ones_like(limit), -np.ones_like(limit)], limit)


def _ece(given: Weighted) -> Array:
    """The gap between confidence and accuracy over equal bins of confidence (Guo et al., 2017)."""
    scores = given.outcomes.scores.astype(np.float32)
    confidence = scores.max(axis=1)
    gap = confidence - (scores.argmax(axis=1) == given.outcomes.target)
    edges = np.linspace(0, 1, BINS + 1, dtype=np.float32)
    bins = np.minimum(np.searchsorted(edges, confidence, side="right") - 1, BINS)
    gaps = given.weights @ (np.eye(BINS + 1)[bins] * gap[:, None])
    return np.asarray(np.abs(gaps).sum(axis=1) / given.total)


def _pearson(given: Weighted) -> Array:
    x, y = (values - values.mean() for values in (given.outcomes.predicted, given.outcomes.target))
    mx, my, xx, yy, xy = (given.weights @ column / given.total for column in (x, y, x * x, y * y, x * y))
    return _ratio(xy - mx * my, np.sqrt((xx - mx**2) * (yy - my**2)))


LOSS = _mean(lambda outcomes: outcomes.losses)
SHARED: dict[str, Scorer] = {
    "accuracy": _mean(_right),
    "f1": _macro(lambda hits, predicted, true: _ratio(2 * hits, predicted + true)),
    "precision": _macro(lambda hits, predicted, true: _ratio(hits, predicted)),
    "recall": _macro(lambda hits, predicted, true: _ratio(hits, true)),
    "auroc": lambda given: auroc(given.outcomes, given.weights),
    "loss": LOSS,
}
SCORERS: dict[str, dict[str, Scorer]] = {
    "class": {**SHARED, "mcc": _mcc, "ece": _ece},
    "labels": SHARED,
    "number": {
        "mse": _mean(lambda outcomes: _error(outcomes) ** 2),
        "mae": _mean(lambda outcomes: np.abs(_error(outcomes))),
        "pearson": _pearson,
        "spearman": lambda given: spearman(given.outcomes, given.weights),
        "loss": LOSS,
    },
}
SLOW = frozenset({"auroc", "spearman"})  # they sort


def values(outcomes: Outcomes, names: Iterable[str]) -> dict[str, float]:
    """Metrics on all examples."""
    given = Weighted(outcomes, np.ones((1, len(outcomes))))
    return {name: float(SCORERS[outcomes.kind][name](given)[0]) for name in names}
