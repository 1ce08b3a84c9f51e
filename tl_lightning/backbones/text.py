"""Text backbones: any encoder or decoder of transformers, from the hub or a folder."""

import logging
from pathlib import Path
from typing import Literal

from torch import Tensor
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from tl_lightning.backbones.base import Backbone
from tl_lightning.backbones.hf import load_model, read_config, recompute_activations, take_off_pooler
from tl_lightning.backbones.hub import snapshot
from tl_lightning.backbones.pooling import POOLINGS
from tl_lightning.backbones.weights import check_sha256, load_weights
from tl_lightning.errors import UserError, first_line
from tl_lightning.parts import part

log = logging.getLogger(__name__)

UNLIMITED = 1 << 30  # tokenizers without a limit say 1e30
# Encoders whose tokens all see each other in every layer.
PLAIN_ENCODERS = ("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")


@part("backbone")
class HFText(Backbone):
    """An encoder (BERT, RoBERTa, DeBERTa, ModernBERT ...) or decoder (GPT-2, Llama ...) of transformers.

    Args:
        name: a hub name ``ORG/NAME``, a folder, or ``package:NAME/FOLDER``.
        pretrained: False gives the same architecture with fresh weights (the control).
        weights: a file to load in place of the published weights (safetensors, or a plain state dict).
        pooling: ``cls``, ``mean`` or ``last`` (the last real token); by default what the architecture was
            made for: ``last`` for decoders, the configuration's own choice where it has one, else ``cls``.
        revision: branch, tag or commit on the hub; the commit it stands for goes into the record.
        attn_implementation: ``sdpa``, ``eager``, ``flash_attention_2`` ...; None leaves it to transformers.
        gradient_checkpointing: recompute activations in the backward pass: less memory, about a third more time
            (Chen et al., 2016, arXiv:1604.06174).
        sha256: of ``model.safetensors`` (hex); other weights are refused.

    Raises:
        UserError: the model cannot be had, is damaged, or needs code of its own.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = True,
        weights: str | None = None,
        pooling: Literal["cls", "mean", "last"] | None = None,
        revision: str | None = None,
        attn_implementation: str | None = None,
        gradient_checkpointing: bool = False,
        sha256: str | None = None,
    ) -> None:
        super().__init__()
        published = pretrained and weights is None
        found = snapshot(name, revision, published)
        if sha256:
            check_sha256(found.folder / "model.safetensors", sha256)
        config = _config(name, found.folder)
        self.preprocessor: PreTrainedTokenizerBase = _tokenizer(name, found.folder)
        self.model = _model(name, found.folder, config, published, attn_implementation)
        if weights is not None:
            load_weights(self.model, weights, ("backbone.model.", f"{self.model.base_model_prefix}."))
        self.pooling = pooling or default_pooling(config)
        if self.pooling not in POOLINGS:
            raise UserError(f"backbone.pooling={pooling} is unknown; choose one of: {', '.join(POOLINGS)}")
        self._settle(gradient_checkpointing)
        self.out_features = int(config.get_text_config().hidden_size)
        self.identity = {
            "name": name,
            "revision": found.commit,
            "class": type(self.model).__name__,
            "pretrained": pretrained,
            "weights": weights,
            "pooling": self.pooling,
            "attention": self.model.config._attn_implementation,
        }

    def _settle(self, gradient_checkpointing: bool) -> None:
        """Make tokenizer and model agree, and switch dropout on: transformers hands models out in eval mode."""
        tokenizer, model = self.preprocessor, self.model
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        model.config.pad_token_id = tokenizer.pad_token_id
        tokenizer.model_max_length = min(int(min(tokenizer.model_max_length, UNLIMITED)), _positions(model))
        if gradient_checkpointing:
            recompute_activations(model, type(model).__name__)
        model.train()

    def forward(self, **inputs: Tensor) -> Tensor:
        """``input_ids``, ``attention_mask`` (and ``token_type_ids``), each (B, T) -> (B, D)."""
        mask = inputs["attention_mask"]
        seen = {"attention_mask": seen_by_all(mask)} if self._asks(mask) else {}
        hidden: Tensor = self.model(**{**inputs, **seen}).last_hidden_state
        return POOLINGS[self.pooling](hidden, mask)

    def _asks(self, mask: Tensor) -> bool:
        """Whether transformers would wait for the device, at each step, to see whether anything is padded."""
        if not waited_for(mask) or not isinstance(self.model, PreTrainedModel):  # prompts and prefixes stand around it
            return False
        config = self.model.config
        known = config.model_type in PLAIN_ENCODERS and not getattr(config, "is_decoder", False)
        return known and config._attn_implementation == "sdpa"


def waited_for(values: Tensor) -> bool:
    """Whether looking at ``values`` means waiting for a device."""
    return values.device.type != "cpu"


def seen_by_all(mask: Tensor) -> Tensor:
    """Which tokens are real, (B, T) -> what each token sees, (B, 1, T, T) bool, as transformers takes it unasked."""
    batch, length = mask.shape
    return mask.bool()[:, None, None, :].expand(batch, 1, length, length)


def default_pooling(config: PreTrainedConfig) -> str:
    """The pooling that the architecture was made for."""
    own = getattr(config, "classifier_pooling", None)
    if own in POOLINGS:
        return str(own)
    kind = config.model_type
    decoder = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return "last" if decoder else "cls"


def _config(name: str, folder: Path) -> PreTrainedConfig:
    config = read_config(name, folder)
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"backbone.name={name} is an encoder-decoder; take an encoder or a decoder")
    return config


def _tokenizer(name: str, folder: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as fault:  # the readers behind it raise plain Exception for a damaged tokenizer.json
        raise UserError(f"backbone.name={name}: its tokenizer cannot be read: {first_line(fault)}") from fault
    return tokenizer


def _model(
    name: str, folder: Path, config: PreTrainedConfig, published: bool, attn_implementation: str | None
) -> PreTrainedModel:
    """The bare model without the pooler, which no pooling here uses."""
    model = load_model(name, config, folder if published else None, attn_implementation).model
    take_off_pooler(model)
    model.config.use_cache = False
    log.info("backbone %s: %s", name, type(model).__name__)
    return model


def _positions(model: PreTrainedModel) -> int:
    """The longest text in tokens; RoBERTa-like models lose the positions up to the padding index."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or UNLIMITED
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return int(limit) - (padding + 1 if padding is not None else 0)
