"""Prompts: learned tokens, or learned keys and values, before a text."""

import inspect
import warnings
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from transformers import PreTrainedModel

from tl_lightning.errors import UserError
from tl_lightning.parts import part
from tl_lightning.ranges import Count
from tl_lightning.strategies.adapters import Adapter
from tl_lightning.strategies.regularizer import Regularizer

if TYPE_CHECKING:
    from tl_lightning.backbones.base import Backbone


class Prompted(nn.Module):
    """A transformer behind ``tokens`` virtual tokens, which are left out of what it gives."""

    def __init__(self, model: PreTrainedModel, config: Any) -> None:
        super().__init__()
        from peft import get_peft_model

        with warnings.catch_warnings():
            # peft asks transformers for a property by the name that it will lose.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            self.peft = get_peft_model(model, config)
        self.tokens: int = config.num_virtual_tokens
        self.as_past = config.peft_type == "PREFIX_TUNING"

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Tensor) -> Any:
        """``input_ids``, ``attention_mask``, ``token_type_ids`` (B, T) -> ``last_hidden_state`` (B, T, D)."""
        prompt = self.peft.get_prompt(batch_size=len(input_ids))
        seen = attention_mask.new_ones(len(input_ids), self.tokens)
        inputs["attention_mask"] = torch.cat([seen, attention_mask], dim=1)
        if self.as_past:
            return self.peft.base_model(input_ids=input_ids, past_key_values=prompt, **inputs)
        words = self.peft.base_model.get_input_embeddings()(input_ids)
        if "token_type_ids" in inputs:  # the prompt belongs to the first text
            inputs["token_type_ids"] = torch.cat([torch.zeros_like(seen), inputs["token_type_ids"]], dim=1)
        embedded = torch.cat([prompt.to(words.dtype), words], dim=1)
        output = self.peft.base_model(inputs_embeds=embedded, **inputs)
        output.last_hidden_state = output.last_hidden_state[:, self.tokens :]
        return output


class Prompt(Adapter):
    """What comes before a text is learned, and the head.

    Args:
        tokens: how many virtual tokens stand before each text; they take as many of the model's positions.
        merge: there is nothing to merge into weights.
        regularizer: as in a full fine-tune; one that pulls towards pretrained weights has nothing to act on here.

    Raises:
        UserError: the backbone is no text model, or has no room for the tokens.
    """

    needs = "inputs_embeds"
    """What the transformer must take to be prompted."""

    def __init__(self, tokens: int, merge: bool, regularizer: Regularizer | None) -> None:
        if merge:
            raise UserError(
                f"strategy.merge=true: {type(self).__name__} learns inputs, and there are no weights to merge them"
                " into: leave it out, or take strategy=lora"
            )
        super().__init__(regularizer=regularizer)
        self.tokens = tokens

    @abstractmethod
    def config(self, shape: dict[str, Any]) -> Any:
        """The configuration of peft's for a model with these sizes."""

    def insert(self, backbone: "Backbone") -> None:
        """Put the prompt before the backbone's transformer."""
        model = self._model(backbone)
        sizes = model.config.get_text_config()
        backbone.requires_grad_(False)
        shape = {
            "num_virtual_tokens": self.tokens,
            "token_dim": sizes.hidden_size,
            "num_layers": sizes.num_hidden_layers,
            "num_attention_heads": sizes.num_attention_heads,
        }
        backbone.model = Prompted(model, self.config(shape))

    def acts_on(self, backbone: "Backbone") -> set[str]:
        """All of them: every layer reads the prompt."""
        return {name for name, _ in backbone.named_parameters()}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse texts that leave no room for the prompt."""
        super().setup(trainer, pl_module, stage)
        summary = getattr(getattr(trainer, "datamodule", None), "summary", {})
        backbone: Any = pl_module.backbone
        longest, room = summary.get("max_length"), _positions(backbone.model.peft.base_model)
        if longest is not None and room is not None and longest + self.tokens > room:
            if self.tokens >= room:
                raise UserError(f"strategy.tokens={self.tokens}: the model reads {room} tokens in all, the text's too")
            raise UserError(
                f"data.max_length={longest}: the model reads {room} tokens, and {self.tokens} of them are the prompt:"
                f" data.max_length={room - self.tokens}"
            )

    def _model(self, backbone: "Backbone") -> PreTrainedModel:
        model = getattr(backbone, "model", None)
        if not isinstance(model, PreTrainedModel) or model.main_input_name != "input_ids":
            raise UserError(f"{type(self).__name__} stands before a text, and this backbone reads none: strategy=lora")
        if self.needs not in inspect.signature(model.forward).parameters:
            raise UserError(
                f"{type(self).__name__}: {type(model).__name__} takes no {self.needs}: take another strategy, such as"
                " strategy=prompt or strategy=lora"
            )
        return model


def _positions(model: PreTrainedModel) -> int | None:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)  # RoBERTa-like models lose the positions up to it
    return limit if limit is None or padding is None else limit - padding - 1


@part("strategy")
class PromptTuning(Prompt):
    """Learned embeddings before each text (Lester et al., 2021, arXiv:2104.08691), at first those of random words.

    The learning rate wants to be large (``optimizer.lr=1e-2`` or above).

    Args:
        tokens: see `Prompt`.
        merge: see `Prompt`.
        regularizer: see `Prompt`.
    """

    def __init__(self, tokens: Count = 20, merge: bool = False, regularizer: Regularizer | None = None) -> None:
        super().__init__(tokens, merge, regularizer)

    def config(self, shape: dict[str, Any]) -> Any:
        """The configuration of peft's."""
        from peft import PromptTuningConfig

        return PromptTuningConfig(task_type="FEATURE_EXTRACTION", prompt_tuning_init="SAMPLE_VOCAB", **shape)


@part("strategy")
class PrefixTuning(Prompt):
    """Learned keys and values before each layer's own (Li and Liang, 2021, arXiv:2101.00190).

    For models that take ``past_key_values``: GPT-2, Llama and their like, and BERT and RoBERTa.

    Args:
        tokens: see `Prompt`.
        hidden: width of an mlp that makes keys and values out of one embedding each, as in the paper; None: they are
            learned as they are.
        merge: see `Prompt`.
        regularizer: see `Prompt`.
    """

    needs = "past_key_values"

    def __init__(
        self,
        tokens: Count = 20,
        hidden: Count | None = None,
        merge: bool = False,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(tokens, merge, regularizer)
        self.hidden = hidden

    def config(self, shape: dict[str, Any]) -> Any:
        """The configuration of peft's."""
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(
            task_type="FEATURE_EXTRACTION",
            prefix_projection=self.hidden is not None,
            encoder_hidden_size=self.hidden or shape["token_dim"],
            **shape,
        )

    def insert(self, backbone: "Backbone") -> None:
        """Refuse to recompute activations, in which the prefix would be read twice."""
        if any(getattr(module, "gradient_checkpointing", False) for module in backbone.modules()):
            raise UserError("PrefixTuning does not go with backbone.gradient_checkpointing=true: leave that out")
        super().insert(backbone)
