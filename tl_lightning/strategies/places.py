"""Which layers of a backbone take an adapter."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from torch import nn
from transformers.pytorch_utils import Conv1D

from tl_lightning.errors import UserError

if TYPE_CHECKING:
    from tl_lightning.backbones.base import Backbone

LINEAR = (nn.Linear, Conv1D)  # GPT-2's Conv1D is a linear layer with its weight transposed
READERS = ("MultiheadAttention", "ShiftedWindowAttention", "ShiftedWindowAttentionV2")  # of torch and torchvision
Kinds = tuple[type[nn.Module], ...]


def width(layer: nn.Module) -> tuple[int, int]:
    """Features or channels of a linear or convolutional layer: in, out."""
    if isinstance(layer, Conv1D):
        return layer.nx, layer.nf
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    assert isinstance(layer, nn.Conv2d)
    return layer.in_channels, layer.out_channels


def adaptable(backbone: nn.Module, kinds: Kinds) -> dict[str, nn.Module]:
    """All layers of these kinds by name.

    Left out: convolutions in groups (depthwise ones), and what lies inside an attention that reads the weights of its
    parts without calling them, so that an adapter there would never act.
    """
    inside = tuple(f"{name}." for name, module in backbone.named_modules() if type(module).__name__ in READERS)
    return {
        name: module
        for name, module in backbone.named_modules()
        if isinstance(module, kinds) and getattr(module, "groups", 1) == 1 and not name.startswith(inside)
    }


def in_layers(backbone: "Backbone", kinds: Kinds) -> dict[str, nn.Module]:
    """The linear layers of the backbone's layers, attention and mlp alike, or those of a convolutional network.

    The input side (embeddings, stem: the first layer group) is left out.  A network that has linear layers at its end
    alone, or none, is a convolutional one: all its layers are taken.
    """
    place = {name: depth for depth, group in enumerate(backbone.layer_groups()) for name in group}
    found = {n: m for n, m in adaptable(backbone, kinds).items() if place.get(f"{n}.weight", 0) > 0}
    linear = {n: m for n, m in found.items() if isinstance(m, LINEAR)}
    throughout = any(place[f"{name}.weight"] < max(place.values()) for name in linear)
    return dict(linear) if throughout else found


def named(backbone: nn.Module, kinds: Kinds, targets: Sequence[str], word: str) -> dict[str, nn.Module]:
    """The layers whose name is one of ``targets`` or ends with it (``query``, ``mlp.c_fc``, a full name).

    Raises:
        UserError: a target names no layer that can be adapted; says which there are.
    """
    layers = adaptable(backbone, kinds)
    for target in targets:
        if not any(_ends(name, target) for name in layers):
            there = sorted({name.rpartition(".")[2] for name in layers})
            close = get_close_matches(target, there, n=1)
            hint = f"; did you mean {close[0]}?" if close else "."
            raise UserError(
                f"{word}=[{target}]: the backbone has no layer of this name that can be adapted{hint}"
                f"  There are: {', '.join(there) or 'none'}"
            )
    return {n: m for n, m in layers.items() if any(_ends(n, target) for target in targets)}


def _ends(name: str, target: str) -> bool:
    return f".{name}".endswith(f".{target}")
