"""Adapters merged back into plain weights."""

import copy
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tl_lightning.files import aside

MERGED = "merged.safetensors"


def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict that ``module`` has without adapters, with what they learned in its weights.

    On the CPU, each tensor by itself and in the plain order of its elements, as files of weights want them:
    convolutions may hold theirs with the channels last.  ``module`` itself stays as it is.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = {name: layer for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)}
    inside = tuple(f"{name}." for name in adapted)
    state = {name: value for name, value in module.state_dict().items() if not name.startswith(inside)}
    for name, layer in adapted.items():
        plain = copy.deepcopy(layer)
        plain.merge(safe_merge=True)
        state |= {f"{name}.{key}": value for key, value in plain.get_base_layer().state_dict().items()}
    return {n: value.detach().cpu().clone(memory_format=torch.contiguous_format) for n, value in state.items()}


def write_merged(task: nn.Module, folder: Path) -> None:
    """Write the weights that ``task`` holds as plain ones, ``backbone.`` and ``head.``, into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with aside(folder / MERGED) as beside:
        save_file(merged_state(task), beside)
