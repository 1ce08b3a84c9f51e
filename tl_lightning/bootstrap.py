"""Confidence intervals of the test metrics of one run."""

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from tl_lightning.example_interval import imbalance, over_examples
from tl_lightning.metric_scales import Bounds, scale_of

RESAMPLES = 1000
MOST_WORK = 5_000_000  # resampled rows in all; large test sets have narrow intervals and need fewer resamples
FEWEST = 100


def intervals(
    metrics: MetricCollection,
    scores: Tensor,
    target: Tensor,
    losses: Tensor,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Bounds]:
    """Intervals of each metric and the loss over test examples; a metric of which nothing can be said has none.

    They speak of the sampling of test examples alone, not of the spread over seeds, and keep to what the metric can
    be.  How they come from resamples stands in ``example_interval``.

    Args:
        metrics: of scores against targets; used as a calculator and reset.
        scores: (N, C) or (N,).
        target: (N,) or (N, C).
        losses: (N,).
        seed: of the resampling.
        level: share of such intervals that hold the true value.
    """
    for metric in metrics.values():
        metric.distributed_available_fn = lambda: False  # one process calculates alone, the others are not waiting
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a resample may lack a class: its metric is then NaN and left out
        values = _values(metrics, scores, target, losses)
        drawn = [_values(metrics, scores[rows], target[rows], losses[rows]) for rows in _draws(len(losses), seed)]
    found, uneven = {}, imbalance(_class_counts(target), len(losses))
    for name, value in values.items():
        scale = scale_of(name.rpartition("/")[2], [value])
        draws = np.array([resample[name] for resample in drawn])
        if bounds := over_examples(value, draws, scale, len(losses), 1 - level, imbalance=uneven):
            found[name] = bounds
    return found


def _class_counts(target: Tensor) -> list[float]:
    """How often each class or label occurs; of numbers nothing."""
    if target.ndim == 2:
        return [float(count) for count in target.sum(dim=0)]
    return [] if target.is_floating_point() else [float(count) for count in target.bincount()]


def _draws(examples: int, seed: int) -> Iterator[Tensor]:
    """The rows of each resample, (N,)."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(max(FEWEST, min(RESAMPLES, MOST_WORK // examples))):
        yield torch.randint(examples, (examples,), generator=generator)


def _values(metrics: MetricCollection, scores: Tensor, target: Tensor, losses: Tensor) -> dict[str, float]:
    metrics.reset()
    metrics.update(scores, target)
    values = {name: float(value) for name, value in metrics.compute().items()}
    metrics.reset()
    return {**values, "loss": float(losses.mean())}
