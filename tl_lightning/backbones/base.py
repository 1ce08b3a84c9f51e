"""The contract of a backbone, and the one way to cut its parameters into layers."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

# The first number after one of these words is the layer: encoder.layer.3, transformer.h.3, model.layers.3 ...
LAYER = re.compile(r"(?:^|\.)\w*(?:layers?|h|blocks?|stages?)\.(\d+)\.")
INPUT_SIDE = re.compile(r"embed")
FEATURES = "features"
"""The one input of a batch that brings what the backbone made of its samples before, (B, D)."""


class Backbone(nn.Module, ABC):
    """A pretrained network without its head.

    Attributes:
        out_features: width D of the pooled features.
        preprocessor: what turns raw samples into ``inputs`` (a tokenizer, ...); picklable, used by the loader.
        identity: name, revision and other facts for the run record.
    """

    out_features: int
    preprocessor: Any
    identity: dict[str, Any]

    @abstractmethod
    def forward(self, **inputs: Tensor) -> Tensor:
        """``inputs`` as the backbone's own preprocessor makes them -> (B, D)."""

    def layer_groups(self) -> list[list[str]]:
        """Parameter names by layer, input side first: a complete partition.

        It drives freezing, layer-wise learning-rate decay and gradual unfreezing alike.
        """
        return group_by_layer(name for name, _ in self.named_parameters())


def group_by_layer(names: Iterable[str], layer: re.Pattern[str] = LAYER) -> list[list[str]]:
    """Cut parameter names into the input side, each layer, and (with the last layer) what follows it.

    Names that agree up to the end of the match of ``layer`` are one layer; layers stand in the order of their first
    names.  A name without a match belongs to the input side if it speaks of an embedding or stands before the first
    layer, otherwise to the last layer before it.

    Raises:
        ValueError: no name matches.
    """
    names = list(names)
    keys = [name[: m.end()] if (m := layer.search(name)) else None for name in names]
    order = {key: place for place, key in enumerate(dict.fromkeys(filter(None, keys)), start=1)}
    if not order:
        raise ValueError(f"no layers found in the parameter names {names[:5]} ...: extend the patterns of its backbone")
    groups: list[list[str]] = [[] for _ in range(len(order) + 1)]
    reached = 0
    for name, key in zip(names, keys, strict=True):
        reached = max(reached, order[key]) if key else reached
        groups[order[key] if key else 0 if INPUT_SIDE.search(name) else reached].append(name)
    assert sorted(n for g in groups for n in g) == sorted(names), "layer groups must be a complete partition"
    return [group for group in groups if group]
