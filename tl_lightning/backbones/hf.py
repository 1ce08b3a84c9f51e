"""Models of transformers: read quietly, and without code of their own."""

from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from tl_lightning.backbones.weights import DAMAGE
from tl_lightning.errors import UserError, first_line


class Loaded(NamedTuple):
    """A model, and where its source does not fit: names of its own, and of the source."""

    model: PreTrainedModel
    missing: list[str]
    unexpected: list[str]


def read_config(name: str, folder: Path) -> PreTrainedConfig:
    """The architecture that ``folder`` describes.

    Raises:
        UserError: it cannot be read, or asks to run code of its own.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as fault:
        raise UserError(
            f"backbone.name={name}: its config.json is missing, damaged, of an architecture that this version of"
            f" transformers does not know, or asks to run code of its own (never done here): {first_line(fault)}"
        ) from fault
    return cast("PreTrainedConfig", config)


def load_model(
    name: str,
    config: PreTrainedConfig,
    source: Path | dict[str, Tensor] | None,
    attn_implementation: str | None = None,
) -> Loaded:
    """The bare model in float32, from a folder, from tensors, or with fresh weights.

    Raises:
        UserError: the weights are missing or damaged, or the attention is not to be had.
    """
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    how: dict[str, Any] = {"attn_implementation": attn_implementation, "dtype": torch.float32}
    told: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": isinstance(source, dict)}
    found: dict[str, Any] = {}
    try:
        if source is None:
            model = AutoModel.from_config(config, trust_remote_code=False, **how)  # type: ignore[no-untyped-call]
        elif isinstance(source, Path):
            model, found = AutoModel.from_pretrained(source, config=config, trust_remote_code=False, **how, **told)
        else:
            kind: Any = MODEL_MAPPING[type(config)]
            model, found = kind.from_pretrained(None, config=config, state_dict=source, **how, **told)
    except (ImportError, ValueError) as fault:
        raise UserError(
            f"backbone.name={name} with attn_implementation={attn_implementation}: {first_line(fault)}"
        ) from fault
    except DAMAGE as fault:
        raise UserError(f"backbone.name={name}: its weights are missing or damaged: {first_line(fault)}") from fault
    other = [key for key, *_ in found.get("mismatched_keys", ())]
    return Loaded(model, sorted([*found.get("missing_keys", ()), *other]), sorted(found.get("unexpected_keys", ())))


def take_off_pooler(model: PreTrainedModel) -> None:
    """Take off the layers over the first token, where there are any."""
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # type: ignore[assignment]


def recompute_activations(model: PreTrainedModel, name: str) -> None:
    """Keep no activations for the backward pass (gradient checkpointing).

    Raises:
        UserError: the architecture cannot.
    """
    # The old name is what transformers before 5.2x has, the new one what version 6 will have.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as fault:
        raise UserError(f"backbone.gradient_checkpointing=true: {name} cannot: {first_line(fault)}") from fault
