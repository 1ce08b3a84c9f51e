"""Only parameters of one kind move."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import nn

from tl_lightning.errors import UserError
from tl_lightning.parts import part
from tl_lightning.strategies.base import FineTuning

if TYPE_CHECKING:
    from tl_lightning.task import TransferTask

BIAS = re.compile(r"(?:^|[._])bias$")  # bias, and the in_proj_bias of torch's attention
NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
NORM = re.compile(r"(?:Layer|RMS|Rms|Batch|Group|Instance)Norm")  # LlamaRMSNorm, T5LayerNorm: plain modules


@part("strategy")
class BitFit(FineTuning):
    """Only the biases of the backbone move, and the head (Zaken et al., 2022, arXiv:2106.10199)."""

    def edit(self, task: "TransferTask") -> None:
        """Freeze the rest for good."""
        _only(task.backbone, {name for name, _ in task.backbone.named_parameters() if BIAS.search(name)}, "biases")


@part("strategy")
class NormOnly(FineTuning):
    """Only scales and shifts of normalisation layers move, and the head (Frankle et al., 2021, arXiv:2003.00152)."""

    def edit(self, task: "TransferTask") -> None:
        """Freeze the rest for good."""
        _only(task.backbone, set(_in_norms(task.backbone)), "normalisation layers with parameters")


def _in_norms(backbone: nn.Module) -> Iterable[str]:
    for prefix, module in backbone.named_modules():
        if isinstance(module, NORMS) or NORM.search(type(module).__name__):
            yield from (f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False))


def _only(backbone: nn.Module, chosen: set[str], what: str) -> None:
    if not chosen:
        raise UserError(
            f"This backbone has no {what}, so nothing of it could move: take strategy=linear_probe, which says so,"
            " or another one"
        )
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name in chosen)
