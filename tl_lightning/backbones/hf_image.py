"""Image backbones of transformers."""

import inspect
import logging
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from tl_lightning.backbones.hf import Loaded, load_model, read_config, recompute_activations
from tl_lightning.backbones.hf_pooling import choose, leading_tokens, pooled
from tl_lightning.backbones.hf_processor import image_spec, read_settings
from tl_lightning.backbones.hub import snapshot
from tl_lightning.backbones.image import ImageBackbone, no_drop_path, refuse_indivisible, resized
from tl_lightning.backbones.weights import read_weights, some, without_prefix
from tl_lightning.errors import UserError
from tl_lightning.parts import part
from tl_lightning.ranges import Count, ShareBelow1

log = logging.getLogger(__name__)

NEEDED = ("config.json", "*processor_config.json")
# Parts of a published file that stay out.
HEADS = frozenset({"classifier", "cls_classifier", "distillation_classifier", "fc", "head", "heads", "pooler"})
PRETRAINING = frozenset({"decoder", "lm_head", "mask_token"})
OTHER_TOWER = frozenset({"text_model", "text_projection", "visual_projection", "logit_scale", "logit_bias"})
LEFT_OUT = HEADS | PRETRAINING | OTHER_TOWER


@part("backbone")
class HFImage(ImageBackbone):
    """A vision model of transformers: ViT, DINOv2, ConvNeXt, Swin, ResNet ...; of CLIP and SigLIP the vision tower.

    Args:
        name: a hub name ``ORG/NAME``, a folder, or ``package:NAME/FOLDER``.
        pretrained: False gives the same architecture with fresh weights (the control).
        weights: a file to load in place of the published weights (safetensors, a plain state dict, or a best.ckpt).
        pooling: ``cls``, the class token (CLIP's through its last norm, without the projection into the space of
            the texts), or ``mean`` over the patches; by default what the architecture was trained with: ``cls`` where
            there is a class token (ViT, DINOv2, CLIP), else the model's own pooling (SigLIP's attention head, the
            average of ConvNeXt, Swin and ResNet).  A pooler of a dense layer over the class token, as ViT has, is
            seldom trained, and taken off.
        drop_path: the share of skipped blocks, growing from 0 at the first to this at the last (stochastic depth,
            Huang et al., 2016, arXiv:1603.09382); None leaves the configuration's own.
        image_size: height and width in pixels, in place of the image processor's; position embeddings are
            interpolated.
        revision: branch, tag or commit on the hub; the commit it stands for goes into the record.
        attn_implementation: ``sdpa``, ``eager``, ``flash_attention_2`` ...; None leaves it to transformers.
        gradient_checkpointing: recompute activations in the backward pass: less memory, about a third more time
            (Chen et al., 2016, arXiv:1604.06174).

    Raises:
        UserError: the model cannot be had, is damaged, needs code of its own, or does not take what is asked.
    """

    model: PreTrainedModel

    def __init__(
        self,
        name: str,
        pretrained: bool = True,
        weights: str | None = None,
        pooling: Literal["cls", "mean"] | None = None,
        drop_path: ShareBelow1 | None = None,
        image_size: Count | None = None,
        revision: str | None = None,
        attn_implementation: str | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        found = snapshot(name, revision, pretrained and weights is None, NEEDED)
        config = _vision(name, read_config(name, found.folder), drop_path)
        settings = read_settings(name, found.folder)
        spec = resized(image_spec(settings), image_size)
        model = _model(name, config, found.folder if pretrained else None, weights, attn_implementation)
        if isinstance(patch := getattr(config, "patch_size", None), int):
            refuse_indivisible(name, spec.size, patch)
        if gradient_checkpointing:
            recompute_activations(model, name)
        identity = {
            "name": name,
            "revision": found.commit,
            "class": type(model).__name__,
            "pretrained": pretrained,
            "weights": weights,
        }
        super().__init__(model, spec, identity)
        self.flips = bool(settings.get("do_flip_channel_order"))  # MobileViT sees blue, green, red
        interpolates = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
        self.options = {"interpolate_pos_encoding": True} if interpolates else {}
        self.leading = leading_tokens(model)
        self.pooling = choose(model, pooling, self.tried(lambda pixels: self.output(self.normalised(pixels))), name)
        self.identity |= {"pooling": self.pooling, "attention": model.config._attn_implementation}
        self.out_features = self.measured()
        log.info("backbone %s: %s", name, type(model).__name__)

    def features(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> (B, D)."""
        return pooled(self.output(images), self.pooling, self.leading)

    def output(self, images: Tensor) -> Any:
        """Normalised images (B, 3, H, W) -> what the model makes of them."""
        return self.model(pixel_values=images.flip(1) if self.flips else images, **self.options)


def _vision(name: str, config: PreTrainedConfig, drop_path: float | None) -> PreTrainedConfig:
    """The configuration of the vision tower, where there are two."""
    vision: PreTrainedConfig = getattr(config, "vision_config", config)
    if drop_path is not None:
        if not hasattr(vision, "drop_path_rate"):
            raise no_drop_path(name, drop_path)
        vision.drop_path_rate = drop_path
    if hasattr(vision, "mask_ratio"):
        vision.mask_ratio = 0.0  # ViT-MAE would hide most of each image
    return vision


def _model(
    name: str, config: PreTrainedConfig, folder: Path | None, weights: str | None, attn_implementation: str | None
) -> PreTrainedModel:
    """The vision model: the folder's, or with a file's weights, or with fresh ones."""
    tensors = None if weights is None else without_prefix(read_weights(weights), ("backbone.model.",))
    loaded = load_model(name, config, folder if tensors is None else tensors, attn_implementation)
    if loaded.model.main_input_name != "pixel_values":
        raise UserError(f"backbone.name={name} is a {type(loaded.model).__name__}, not an image model")
    _refuse_misfit(loaded, f"backbone.name={name}" if weights is None else f"backbone.weights={weights}", tensors)
    for parameter_name, parameter in loaded.model.named_parameters():
        if parameter_name.endswith("mask_token"):  # for pretraining; never seen here
            parameter.requires_grad_(False)
    return loaded.model


def _refuse_misfit(loaded: Loaded, told: str, tensors: dict[str, Tensor] | None) -> None:
    faults = {"missing or of another shape": [key for key in loaded.missing if not _left_out(key)]}
    if tensors is not None:
        faults["unexpected"] = [key for key in loaded.unexpected if not _left_out(key)]
    if any(faults.values()):
        raise UserError(
            f"{told} does not fit {type(loaded.model).__name__}: "
            + "; ".join(f"{len(keys)} keys {what} ({some(keys)})" for what, keys in faults.items() if keys)
        )


def _left_out(key: str) -> bool:
    return not LEFT_OUT.isdisjoint(key.split("."))
