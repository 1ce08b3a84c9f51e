"""What the processes of a run have each for themselves, put together: numbers, and samples to judge by."""

from collections.abc import Mapping

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torchmetrics import Metric, MetricCollection


def means(trainer: Trainer, values: Mapping[str, Tensor | float]) -> dict[str, Tensor | float]:
    """Numbers () as their means over all processes, which must come here together and with the same names.

    What is logged comes here first, and is logged without ``sync_dist``.  With it Lightning reduces a value once it is
    read, and that may be in one process alone: the first one's progress bar reads while the others are elsewhere.  In
    double precision the mean of equal numbers is that number.
    """
    if trainer.world_size == 1:
        return dict(values)
    root = trainer.strategy.root_device
    stacked = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=root) for value in values.values()])
    return dict(zip(values, trainer.strategy.reduce(stacked, reduce_op="mean").unbind(), strict=True))


def take_in(metrics: Metric | MetricCollection, scores: Tensor, target: Tensor) -> None:
    """Update metrics with samples: scores (N, ...), target (N, ...); one of several processes may have none.

    Metrics that keep all samples are joined over the processes.  Of a process without any torchmetrics believes that
    they are real numbers (0,), which do not meet the classes and the (N, C) of others: it must be told their kind.
    """
    if len(target):
        metrics.update(scores, target)
        return
    sample = scores.new_zeros(1, *scores.shape[1:]), target.new_zeros(1, *target.shape[1:])
    for metric in metrics.values(copy_state=False) if isinstance(metrics, MetricCollection) else (metrics,):
        empty = [name for name, kept in metric.metric_state.items() if isinstance(kept, list) and not kept]
        if empty:
            one = metric.clone()
            one.update(*sample)
            for name in empty:
                setattr(metric, name, [kept[:0] for kept in getattr(one, name)])
