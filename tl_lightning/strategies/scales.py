"""Adapters that train scales alone."""

import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from tl_lightning.errors import UserError
from tl_lightning.parts import part
from tl_lightning.ranges import Count, Natural, PositiveUpTo1, ShareBelow1
from tl_lightning.strategies.adapters import LayerAdapter
from tl_lightning.strategies.lora import transposed
from tl_lightning.strategies.places import LINEAR, in_layers, named, width
from tl_lightning.strategies.regularizer import Regularizer

if TYPE_CHECKING:
    from tl_lightning.backbones.base import Backbone

# Keys and values of an attention; where they share one matrix with the queries, that one.
KEYS_AND_VALUES = re.compile(
    r"(?:^|\.)(?:(?:key|value|k|v)(?:_proj|_lin)?|c_attn|qkv|qkv_proj|query_key_value|in_proj|Wqkv)$"
)


@part("strategy")
class IA3(LayerAdapter):
    """(IA)^3 (Liu et al., 2022, arXiv:2205.05638): learned scales of keys, values and inner mlp activations.

    Args:
        targets: see `LayerAdapter`; by default keys, values and the layers of the mlps that lead back to the narrower
            width.
        feedforward: those of ``targets`` that have their input scaled, not their output; by default the layers with
            more inputs than outputs.
        merge: see `LayerAdapter`.
        layer_decay: see `LayerAdapter`.
        regularizer: see `LayerAdapter`.
    """

    vectors: ClassVar[tuple[str, ...]] = ("ia3_l",)

    def __init__(
        self,
        targets: list[str] | None = None,
        feedforward: list[str] | None = None,
        merge: bool = False,
        layer_decay: PositiveUpTo1 = 1.0,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(targets, merge, layer_decay, regularizer)
        self.feedforward = feedforward
        self._scaled: set[str] = set()

    def chosen(self, backbone: "Backbone") -> dict[str, nn.Module]:
        """Keys, values and what leads out of the mlps, or what was asked for."""
        if self.targets is not None:
            chosen = super().chosen(backbone)
        else:
            found = in_layers(backbone, LINEAR)
            chosen = {n: m for n, m in found.items() if KEYS_AND_VALUES.search(n) or _narrows(m)}
            if not any(KEYS_AND_VALUES.search(n) for n in chosen):
                raise UserError(
                    "(IA)^3 scales keys and values, and this backbone has no layers of such names: name them,"
                    " strategy.targets=[...] strategy.feedforward=[...]"
                )
        if self.feedforward is not None:
            self._scaled = set(named(backbone, self.kinds, self.feedforward, "strategy.feedforward")) & set(chosen)
        else:
            self._scaled = {name for name, layer in chosen.items() if _narrows(layer)}
        return chosen

    def config(self, layers: Mapping[str, nn.Module]) -> Any:
        """The configuration of peft's."""
        from peft import IA3Config

        return IA3Config(
            target_modules=list(layers),
            feedforward_modules=sorted(self._scaled),
            fan_in_fan_out=transposed(layers),
        )


def _narrows(layer: nn.Module) -> bool:
    inputs, outputs = width(layer)
    return inputs > outputs


@part("strategy")
class VeRA(LayerAdapter):
    """Vector-based random matrix adaptation (Kopiczko et al., 2024, arXiv:2310.11454): trained scales between matrices.

    ``W + diag(b) @ B @ diag(d) @ A``, where one frozen random pair ``A`` and ``B`` serves all layers.  The pair is
    drawn again from its seed where a checkpoint is loaded, and stored nowhere.

    Args:
        r: the rank, well above LoRA's.
        dropout: of the input to ``A``.
        d_initial: value of ``d`` at first; ``b`` is zero.
        projection_seed: of ``A`` and ``B``.
        targets: see `LayerAdapter`.
        merge: see `LayerAdapter`.
        layer_decay: see `LayerAdapter`.
        regularizer: see `LayerAdapter`.
    """

    kinds = LINEAR

    def __init__(
        self,
        r: Count = 256,
        dropout: ShareBelow1 = 0.0,
        d_initial: float = 0.1,
        projection_seed: Natural = 0,
        targets: list[str] | None = None,
        merge: bool = False,
        layer_decay: PositiveUpTo1 = 1.0,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(targets, merge, layer_decay, regularizer)
        self.r = r
        self.dropout = dropout
        self.d_initial = d_initial
        self.projection_seed = projection_seed

    def config(self, layers: Mapping[str, nn.Module]) -> Any:
        """The configuration of peft's."""
        from peft import VeraConfig

        with warnings.catch_warnings():
            # That the pair is drawn again is what is asked for: torch's CPU generator gives the same everywhere.
            warnings.filterwarnings("ignore", "Specified to not save vera_A and vera_B within the state dictionary")
            return VeraConfig(
                r=self.r,
                vera_dropout=self.dropout,
                d_initial=self.d_initial,
                projection_prng_key=self.projection_seed,
                save_projection=False,
                target_modules=list(layers),
                fan_in_fan_out=transposed(layers),
            )

    def insert(self, backbone: "Backbone") -> None:
        """By peft's model: its function for it takes no method whose layers share something."""
        from peft import VeraModel

        VeraModel(backbone, self.config(self.chosen(backbone)), "default")
