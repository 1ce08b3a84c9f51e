"""How much a training computes, and how much its GPU could."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tl_lightning.backbones.base import Backbone

if TYPE_CHECKING:
    from tl_lightning.task import TransferTask

# Dense 16-bit operations per second, by a part of the device's name, the more special one first; from the makers'
# data sheets.  With TF32 the same units do half as many.
PEAKS = {
    "B200": 2250e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "A40": 150e12,
    "A30": 165e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def peak_flops(device: str, precision: str) -> float | None:
    """Operations per second that a GPU of this name can do in a precision of the trainer's; None where not known."""
    peak = next((peak for part, peak in PEAKS.items() if part in device), None)
    if peak is None or precision.startswith("64"):
        return None
    return peak / 2 if precision.startswith("32") else peak


def passes(task: "TransferTask") -> float:
    """What a training step computes, in forward passes: 3 where all parameters train, 1 for a probe.

    The forward pass multiplies once with each weight, the backward pass once with each down to the lowest that
    trains, for the gradients of what flows, and once more with those that train.
    """
    sizes = [sum(p.numel() for _, p in layer) for layer in task.layers()]
    trained = [sum(p.numel() for _, p in layer if p.requires_grad) for layer in task.layers()]
    lowest = next((depth for depth, count in enumerate(trained) if count), len(sizes))
    return 1 + (sum(sizes[lowest:]) + sum(trained)) / sum(sizes)


def multiplied(task: "TransferTask") -> int:
    """The parameters that each token is multiplied with: all but the embeddings, which are looked up.

    2 operations for each make a forward pass and 6 a training step (Kaplan et al., 2020, arXiv:2001.08361), without
    the attention's own products, which are few for short texts.
    """
    looked_up = {id(m.weight) for m in task.backbone.modules() if isinstance(m, nn.Embedding)}
    return sum(p.numel() for layer in task.layers() for _, p in layer if id(p) not in looked_up)


def forward_flops(backbone: Backbone, inputs: Mapping[str, Tensor]) -> int:
    """Operations of one forward pass over ``inputs``, counted while it runs; leaves no trace in the backbone."""
    modes = {module: module.training for module in backbone.modules()}
    backbone.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            backbone.forward(**inputs)
        return int(counter.get_total_flops())
    finally:
        for module, mode in modes.items():
            module.training = mode
