"""QLoRA: LoRA over weights of four bits."""

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tl_lightning.errors import UserError
from tl_lightning.parts import part
from tl_lightning.ranges import Count, Natural, PositiveUpTo1, ShareBelow1
from tl_lightning.strategies.adapters import require
from tl_lightning.strategies.lora import LoRA
from tl_lightning.strategies.places import in_layers
from tl_lightning.strategies.regularizer import Regularizer

if TYPE_CHECKING:
    from tl_lightning.backbones.base import Backbone
    from tl_lightning.task import TransferTask

QUANTISATION = re.compile(r"\.weight\.(?:nested_)?(?:absmax|quant_map|quant_state)\b")


@part("strategy")
class QLoRA(LoRA):
    """LoRA beside linear layers held in 4 bits (Dettmers et al., 2023, arXiv:2305.14314): NF4, quantised twice.

    The weights are quantised where the model moves to the GPU; a checkpoint holds the trained parts alone and comes
    back over the pretrained weights, which are quantised again, to the same values.  They cannot be merged without a
    loss: train with strategy=lora for that.

    Args:
        r: the rank.
        alpha: the scale of what is added.
        dropout: of the input to ``A``.
        targets: see `LayerAdapter`; the linear layers of the backbone's layers are quantised all the same.
        layer_decay: see `LayerAdapter`.
        regularizer: see `LayerAdapter`.

    Raises:
        UserError: bitsandbytes is not installed, or there is no CUDA GPU.
    """

    kinds = (nn.Linear,)

    def __init__(
        self,
        r: Count = 8,
        alpha: Natural = 16,
        dropout: ShareBelow1 = 0.0,
        targets: list[str] | None = None,
        layer_decay: PositiveUpTo1 = 1.0,
        regularizer: Regularizer | None = None,
    ) -> None:
        require("bitsandbytes", "qlora")
        if not torch.cuda.is_available():
            raise UserError("QLoRA computes with 4-bit weights on a CUDA GPU, and there is none: take strategy=lora")
        super().__init__(r, alpha, dropout, targets, False, layer_decay, regularizer)

    def edit(self, task: "TransferTask") -> None:
        """Keep no hold of the weights as they were before."""
        super().edit(task)
        self.pretrained = ()

    def insert(self, backbone: "Backbone") -> None:
        """Quantise, then put the adapters in."""
        chosen = {**in_layers(backbone, self.kinds), **self.chosen(backbone)}
        for name, layer in chosen.items():
            parent, _, own = name.rpartition(".")
            setattr(backbone.get_submodule(parent), own, _in_four_bits(layer))
        backbone.register_load_state_dict_pre_hook(_without_quantisation)  # type: ignore[no-untyped-call]
        backbone.is_loaded_in_4bit = True  # type: ignore[assignment]  # what peft asks for
        super().insert(backbone)


def _in_four_bits(layer: nn.Module) -> nn.Module:
    assert isinstance(layer, nn.Linear)
    bnb: Any = import_module("bitsandbytes.nn")
    made: nn.Module = bnb.Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        compute_dtype=torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16,
        quant_type="nf4",
        compress_statistics=True,
        device="meta",
    )
    made.weight = bnb.Params4bit(
        layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=made
    )
    made.bias = layer.bias
    return made


def _without_quantisation(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Bitsandbytes writes how a weight was quantised beside it, and knows nothing of it on loading."""
    for name in [name for name in state if name.startswith(prefix) and QUANTISATION.search(name)]:
        del state[name]
