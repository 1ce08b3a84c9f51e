"""Pooling: token states to one vector per text."""

from collections.abc import Callable

import torch
from torch import Tensor

Pooling = Callable[[Tensor, Tensor], Tensor]


def cls(hidden: Tensor, mask: Tensor) -> Tensor:
    """The first token's state: (B, T, D), (B, T) -> (B, D)."""
    return hidden[:, 0]


def mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean over real tokens: (B, T, D), (B, T) -> (B, D)."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def last(hidden: Tensor, mask: Tensor) -> Tensor:
    """The last real token's state: (B, T, D), (B, T) -> (B, D).  Padding may stand on either side."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    index = (mask * positions).argmax(dim=1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), index]


POOLINGS: dict[str, Pooling] = {"cls": cls, "mean": mean, "last": last}
