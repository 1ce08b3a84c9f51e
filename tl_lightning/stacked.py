"""One pass through many copies of a head."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812

ONE_BY_ONE = (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU)  # on each value by itself, whatever stands before it


def stacked(head: nn.Module, parameters: Mapping[str, Tensor], features: Tensor) -> Tensor:
    """Features (B, D) through K copies of ``head`` -> (K, B, C); all drop the same, as one alone would.

    The first layer of all heads is one product of matrices, which costs hardly more than that of one head.

    Args:
        head: whose structure and mode count.
        parameters: its parameters by name, each (K, ...).
        features: of B samples.
    """
    layers = list(head.named_children()) if isinstance(head, nn.Sequential) else []
    if not layers or not all(isinstance(layer, (nn.Linear, nn.Dropout, *ONE_BY_ONE)) for _, layer in layers):
        many = torch.vmap(lambda one: functional_call(head, one, (features,)), randomness="same")
        found: Tensor = many(dict(parameters))
        return found
    values = features  # (B, D) until a layer tells the heads apart, then (K, B, width)
    for name, layer in layers:
        if isinstance(layer, nn.Linear):
            values = _linear(values, parameters[f"{name}.weight"], parameters.get(f"{name}.bias"))
        elif isinstance(layer, nn.Dropout) and values.ndim > features.ndim:
            values = values * layer(torch.ones_like(values[0])) if layer.training else values
        else:
            values = layer(values)
    return values


def _linear(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, D) or (K, B, D), with weight (K, C, D) and bias (K, C) -> (K, B, C)."""
    if values.ndim == 2:
        flat = F.linear(values, weight.flatten(0, 1), None if bias is None else bias.flatten())
        return flat.view(len(values), *weight.shape[:2]).transpose(0, 1)
    found = values @ weight.transpose(1, 2)
    return found if bias is None else found + bias.unsqueeze(1)
