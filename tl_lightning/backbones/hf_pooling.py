"""From the states of a vision model of transformers to one vector per image."""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from tl_lightning.backbones.hf import take_off_pooler
from tl_lightning.errors import UserError

OWN = "own"
CLASS_TOKENS = ("cls_token", "class_embedding")
OTHER_TOKENS = ("distillation_token", "register_tokens")


def leading_tokens(model: PreTrainedModel) -> int:
    """How many tokens stand before those of the patches; the class token, where there is one, is the first."""
    lasts = {name.rpartition(".")[2]: parameter for name, parameter in model.named_parameters()}
    count = sum(name in lasts for name in CLASS_TOKENS)
    return count + sum(lasts[name].shape[-2] for name in OTHER_TOKENS if name in lasts)


def choose(model: PreTrainedModel, asked: str | None, output: Any, name: str) -> str:
    """The pooling to use, what was ``asked`` for if anything; takes off what it leaves idle.

    ``output`` is what the model makes of some image.

    Raises:
        UserError: the class token is asked for, and there is none.
    """
    if hasattr(getattr(model, "pooler", None), "dense"):
        take_off_pooler(model)
        output.pooler_output = None
    has_class = bool(leading_tokens(model))
    if asked == "cls" and not has_class:
        raise UserError(f"backbone.pooling=cls: {name} has no class token; leave it out (backbone.pooling=null)")
    default = "cls" if has_class and getattr(model, "pooler", None) is None else OWN
    grid = output.last_hidden_state.ndim == 4
    chosen = asked if asked and not grid else default  # over a grid, the model's own is the mean
    if chosen == OWN:
        return OWN if output.pooler_output is not None else "mean"
    _take_off(model, chosen, has_class)
    return chosen


def _take_off(model: PreTrainedModel, chosen: str, has_class: bool) -> None:
    take_off_pooler(model)
    if chosen == "mean" and has_class and hasattr(model, "post_layernorm"):  # CLIP: of the class token alone
        model.post_layernorm = nn.Identity()
    if chosen == "mean" and getattr(model, "use_head", False):  # SigLIP
        model.use_head = False  # type: ignore[assignment]
        model.head = None  # type: ignore[assignment]


def pooled(output: Any, pooling: str, leading: int) -> Tensor:
    """The output of a vision model with states (B, T, D) or (B, D, H, W) -> (B, D)."""
    hidden: Tensor = output.last_hidden_state
    own: Tensor | None = getattr(output, "pooler_output", None)
    if pooling == OWN or (pooling == "cls" and own is not None):
        assert own is not None
        return own.flatten(1)
    if pooling == "cls":
        return hidden[:, 0]
    return hidden.mean((2, 3)) if hidden.ndim == 4 else hidden[:, leading:].mean(1)
