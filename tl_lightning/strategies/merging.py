"""Adapters merged back into plain weights."""

import copy
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import save_file
from torch import Tensor, nn

from tl_lightning.files import aside

MERGED = "merged.safetensors"


def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict that ``module`` has without adapters, with what they learned in its weights; on the CPU.

    ``module`` itself stays as it is.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = {name: layer for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)}
    inside = tuple(f"{name}." for name in adapted)
    state = {name: value for name, value in module.state_dict().items() if not name.startswith(inside)}
    for name, layer in adapted.items():
        plain = copy.deepcopy(layer)
        plain.merge(safe_merge=True)
        state |= {f"{name}.{key}": value for key, value in plain.get_base_layer().state_dict().items()}
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def write_merged(task: nn.Module, trainer: Trainer) -> None:
    """Write the weights that ``task`` holds as plain ones, ``backbone.`` and ``head.``, beside the best checkpoint."""
    kept = [c.best_model_path for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    best = next(filter(None, kept), None)
    folder = Path(best).parent if best else Path(trainer.default_root_dir, "checkpoints")
    folder.mkdir(parents=True, exist_ok=True)
    with aside(folder / MERGED) as beside:
        save_file(merged_state(task), beside)
