"""Confidence intervals of test metrics by resampling the test samples."""

import warnings

import torch
from torch import Tensor
from torchmetrics import MetricCollection

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
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals (Efron and Tibshirani, 1993, chapter 13) of each metric and the loss.

    They speak of the sampling of test examples alone, not of the spread over seeds.

    Args:
        metrics: of scores against targets; used as a calculator and reset.
        scores: (N, C) or (N,).
        target: (N,) or (N, C).
        losses: (N,).
        seed: of the resampling.
        level: share of the resamples inside the interval.
    """
    for metric in metrics.values():
        metric.distributed_available_fn = lambda: False  # one process calculates alone, the others are not waiting
    n = len(losses)
    count = max(FEWEST, min(RESAMPLES, MOST_WORK // n))
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[str, list[float]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a resample may lack a class: its metric is then NaN and left out
        for _ in range(count):
            rows = torch.randint(n, (n,), generator=generator)
            values = {**_values(metrics, scores[rows], target[rows]), "loss": losses[rows].mean()}
            for name, value in values.items():
                drawn.setdefault(name, []).append(float(value))
    tail = (1 - level) / 2
    return {name: _percentiles(values, tail) for name, values in drawn.items()}


def _values(metrics: MetricCollection, scores: Tensor, target: Tensor) -> dict[str, Tensor]:
    metrics.reset()
    metrics.update(scores, target)
    values: dict[str, Tensor] = metrics.compute()
    metrics.reset()
    return values


def _percentiles(values: list[float], tail: float) -> tuple[float, float]:
    tensor = torch.tensor(values, dtype=torch.float64)
    tensor = tensor[~tensor.isnan()]
    if len(tensor) == 0:
        return (float("nan"), float("nan"))
    low, high = torch.quantile(tensor, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high
