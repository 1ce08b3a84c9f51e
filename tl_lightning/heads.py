"""Heads: pooled features to outputs.

Each takes ``lr_grid`` and ``weight_decay_grid``: values for which heads are trained side by side on a frozen backbone,
crossed, of which ``val`` chooses one.
"""

from torch import nn

from tl_lightning.parts import part
from tl_lightning.ranges import Count, Rate, ShareBelow1, Weight

INIT_STD = 0.02  # as BERT initialises its classifier (Devlin et al., 2019, arXiv:1810.04805)


def _linear(features: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(features, outputs)
    nn.init.normal_(layer.weight, std=INIT_STD)
    nn.init.zeros_(layer.bias)
    return layer


@part("head")
class Linear(nn.Sequential):
    """Dropout and one linear layer: ``(B, D) -> (B, num_outputs)``."""

    def __init__(
        self,
        in_features: int,
        num_outputs: int,
        dropout: ShareBelow1 = 0.1,
        lr_grid: list[Rate] | None = None,
        weight_decay_grid: list[Weight] | None = None,
    ) -> None:
        super().__init__(nn.Dropout(dropout), _linear(in_features, num_outputs))
        self.lr_grid, self.weight_decay_grid = lr_grid, weight_decay_grid


@part("head")
class MLP(nn.Sequential):
    """One hidden layer with tanh, as RoBERTa's classification head: ``(B, D) -> (B, num_outputs)``.

    ``hidden`` is the width of the hidden layer, by default that of the features
    (Liu et al., 2019, arXiv:1907.11692).
    """

    def __init__(
        self,
        in_features: int,
        num_outputs: int,
        hidden: Count | None = None,
        dropout: ShareBelow1 = 0.1,
        lr_grid: list[Rate] | None = None,
        weight_decay_grid: list[Weight] | None = None,
    ) -> None:
        width = hidden or in_features
        super().__init__(
            nn.Dropout(dropout),
            _linear(in_features, width),
            nn.Tanh(),
            nn.Dropout(dropout),
            _linear(width, num_outputs),
        )
        self.lr_grid, self.weight_decay_grid = lr_grid, weight_decay_grid
