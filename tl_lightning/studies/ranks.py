"""The two metrics that rank: under weights of the examples, for all resamples at once."""

import numpy as np

from tl_lightning.studies.outcomes import Array, Outcomes


def auroc(outcomes: Outcomes, weights: Array) -> Array:
    """Area under the ROC curve, one class against the rest, averaged over classes with both: (B, N) -> (B,)."""
    columns = []
    for at in range(len(outcomes.classes)):
        of_labels = outcomes.kind == "labels"
        positive = outcomes.target[:, at] > 0 if of_labels else outcomes.target == at
        columns.append(_one_auroc(outcomes.scores[:, at].astype(np.float32), positive, weights))
    values = np.stack(columns, axis=1)
    present = ~np.isnan(values)
    total = np.where(present, values, 0).sum(axis=1)
    return _divided(total, present.sum(axis=1), np.nan)


def _one_auroc(score: Array, positive: Array, weights: Array) -> Array:
    """The chance that a positive stands above a negative, ties counting half; NaN without one of them."""
    order, starts = _ties(score)
    ordered, is_positive = weights[:, order], positive[order]
    up = np.add.reduceat(ordered * is_positive, starts, axis=1)
    down = np.add.reduceat(ordered * ~is_positive, starts, axis=1)
    below = down.cumsum(axis=1) - down / 2
    pairs = up.sum(axis=1) * down.sum(axis=1)
    return _divided((up * below).sum(axis=1), pairs, np.nan)


def spearman(outcomes: Outcomes, weights: Array) -> Array:
    """Correlation of ranks, ties sharing theirs: (B, N) -> (B,)."""
    x, y = _ranks(outcomes.predicted, weights), _ranks(outcomes.target, weights)
    total = weights.sum(axis=1, keepdims=True)
    x, y = (rank - (weights * rank).sum(axis=1, keepdims=True) / total for rank in (x, y))
    above = (weights * x * y).sum(axis=1)
    below = np.sqrt((weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1))
    return _divided(above, below, 0.0)


def _divided(above: Array, below: Array, otherwise: float) -> Array:
    return np.asarray(np.divide(above, below, out=np.full(len(above), otherwise), where=below > 0))


def _ranks(values: Array, weights: Array) -> Array:
    """The rank of each example in each resample, (B, N): an example drawn twice takes two places."""
    order, starts = _ties(values)
    size = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = size.cumsum(axis=1) - (size - 1) / 2
    place = np.empty(len(values), int)
    place[order] = np.repeat(np.arange(len(starts)), np.diff([*starts, len(values)]))
    return np.asarray(middle[:, place])


def _ties(values: Array) -> tuple[Array, Array]:
    """The order of ``values``, and where each new value starts in it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    return order, np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
