"""LoRA and its variants: a low-rank matrix beside each adapted weight."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tl_lightning.errors import UserError
from tl_lightning.parts import part
from tl_lightning.ranges import Count, Natural, PositiveUpTo1, ShareBelow1
from tl_lightning.strategies.adapters import LayerAdapter
from tl_lightning.strategies.places import LINEAR, width
from tl_lightning.strategies.regularizer import Regularizer

if TYPE_CHECKING:
    from tl_lightning.backbones.base import Backbone


def transposed(layers: Mapping[str, nn.Module]) -> bool:
    """Whether these layers are GPT-2's linear ones, whose weight is (in, out)."""
    return any(isinstance(layer, Conv1D) for layer in layers.values())


@part("strategy")
class LoRA(LayerAdapter):
    """Low-rank adaptation (Hu et al., 2021, arXiv:2106.09685): ``W + alpha / r * B @ A``, with ``B`` zero at first.

    The learning rate wants to be about ten times that of a full fine-tune (``optimizer.lr=2e-4``).

    Args:
        r: the rank: ``A`` is (r, in), ``B`` is (out, r).
        alpha: the scale of what is added.
        dropout: of the input to ``A``.
        targets: see `LayerAdapter`.
        merge: see `LayerAdapter`.
        layer_decay: see `LayerAdapter`.
        regularizer: see `LayerAdapter`.
    """

    variant: ClassVar[dict[str, Any]] = {}
    vectors: ClassVar[tuple[str, ...]] = ("lora_magnitude_vector",)

    def __init__(
        self,
        r: Count = 8,
        alpha: Natural = 16,
        dropout: ShareBelow1 = 0.0,
        targets: list[str] | None = None,
        merge: bool = False,
        layer_decay: PositiveUpTo1 = 1.0,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(targets, merge, layer_decay, regularizer)
        self.r = r
        self.alpha = alpha
        self.dropout = dropout

    def config(self, layers: Mapping[str, nn.Module]) -> Any:
        """The configuration of peft's."""
        from peft import LoraConfig

        return LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=list(layers),
            fan_in_fan_out=transposed(layers),
            **self.variant,
        )


@part("strategy")
class DoRA(LoRA):
    """LoRA on the direction of a weight, with its magnitude trained apart (Liu et al., 2024, arXiv:2402.09353)."""

    variant: ClassVar[dict[str, Any]] = {"use_dora": True}


@part("strategy")
class RSLoRA(LoRA):
    """Rank-stabilised LoRA: the scale is ``alpha / sqrt(r)`` (Kalajdzievski, 2023, arXiv:2312.03732)."""

    variant: ClassVar[dict[str, Any]] = {"use_rslora": True}


@part("strategy")
class PiSSA(LoRA):
    """LoRA that begins with the principal part of each weight (Meng et al., 2024, arXiv:2404.02948).

    ``A`` and ``B`` are the ``r`` largest singular values and vectors, and the frozen weight is what they leave.  The
    split is a function of the pretrained weights alone: it is made again where a checkpoint is loaded.

    Args:
        r: the rank, at most the smaller side of a weight.
        alpha: the scale; None stands for ``r``, as in the paper.
        dropout: of the input to ``A``; it takes the principal part away too, so 0 in the paper.
        niter: passes of a fast randomised decomposition (its random numbers are always the same); None: the exact
            one, slow for wide layers.
        targets: see `LayerAdapter`.
        merge: see `LayerAdapter`.
        layer_decay: see `LayerAdapter`.
        regularizer: see `LayerAdapter`.
    """

    kinds = LINEAR

    def __init__(
        self,
        r: Count = 8,
        alpha: Natural | None = None,
        dropout: ShareBelow1 = 0.0,
        niter: Count | None = 16,
        targets: list[str] | None = None,
        merge: bool = False,
        layer_decay: PositiveUpTo1 = 1.0,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(r, r if alpha is None else alpha, dropout, targets, merge, layer_decay, regularizer)
        self.niter = niter

    def config(self, layers: Mapping[str, nn.Module]) -> Any:
        """The configuration of peft's."""
        most = min(min(width(layer)) for layer in layers.values())
        if self.r > most:
            raise UserError(f"strategy.r={self.r}: the narrowest of the adapted layers has {most} singular values")
        config = super().config(layers)
        config.init_lora_weights = "pissa" if self.niter is None else f"pissa_niter_{self.niter}"
        return config

    def insert(self, backbone: "Backbone") -> None:
        """With random numbers of its own, so that a reload makes the same split."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            super().insert(backbone)
