"""Image backbones of torchvision."""

import re
from typing import Any

import torchvision.models
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.models.densenet import DenseNet
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings
from torchvision.ops import StochasticDepth

from tl_lightning.backbones.image import ImageBackbone, no_drop_path, refuse_indivisible, resized, unfit_size
from tl_lightning.backbones.torch_hub import cached_file
from tl_lightning.backbones.weights import load_tensors, read_tensors, read_weights, without_prefix
from tl_lightning.errors import UserError
from tl_lightning.images import ImageSpec
from tl_lightning.parts import part
from tl_lightning.ranges import Count, ShareBelow1
from tl_lightning.values import nearest

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # the second heads of GoogLeNet and Inception
# The published weights of both want the input in the first networks' scale, and drop the second heads.
INCEPTION = {"transform_input": True, "aux_logits": False, "init_weights": True}
POSITIONS = "encoder.pos_embedding"
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")  # in all that torchvision publishes of it


@part("backbone")
class Torchvision(ImageBackbone):
    """Any classification model of torchvision: ResNet, ConvNeXt, ViT, MobileNet, EfficientNet, Swin, RegNet ...

    The last linear layer is taken off; what stands before it stays, with the features it gives.  Size, cropping and
    normalisation are those of the published weights, also for fresh ones.

    Args:
        name: torchvision's, ``resnet50``; or one of several published weights, ``resnet50.IMAGENET1K_V1``.
        pretrained: False gives the same architecture with fresh weights (the control).
        weights: a file to load in place of the published weights (safetensors, a plain state dict, or a best.ckpt).
        drop_path: the share of skipped blocks, growing from 0 at the first to this at the last (stochastic depth,
            Huang et al., 2016, arXiv:1603.09382); None leaves the architecture's own.
        image_size: height and width in pixels, in place of the published weights'; a ViT's position embeddings are
            interpolated.

    Raises:
        UserError: there is no such model, it cannot be had, or does not take the size or the rate.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = True,
        weights: str | None = None,
        drop_path: ShareBelow1 | None = None,
        image_size: Count | None = None,
    ) -> None:
        architecture, published = _found(name)
        spec = resized(_spec(published), image_size)
        model = _model(name, architecture, spec)
        left_out = (f"{cut_head(model)}.", *AUXILIARY)
        if drop_path is not None:
            _set_drop_path(model, drop_path, name)
        revision = None
        if weights is not None:
            tensors = without_prefix(read_weights(weights), ("backbone.model.",))
            load_tensors(model, _adapted(model, tensors), f"backbone.weights={weights}", left_out)
        elif pretrained:
            file = cached_file(published.url, name)
            revision, told = file.name, f"backbone.name={name}: {file}"
            load_tensors(model, _adapted(model, read_tensors(file, told)), told, left_out)
        identity = {"revision": revision, "class": type(model).__name__, "pretrained": pretrained, "weights": weights}
        super().__init__(model, spec, {"name": name, **identity})
        self.out_features = self.measured()


def _found(name: str) -> tuple[str, Any]:
    """The architecture and the published weights (a member of a WeightsEnum) that ``name`` means."""
    architecture, _, tag = name.partition(".")
    legal = list_models(module=torchvision.models)
    if architecture not in legal:
        raise UserError(
            f"backbone.name={name}: torchvision has no classification model of this name{nearest(architecture, legal)}"
        )
    choices = get_model_weights(architecture)
    if tag and tag not in choices.__members__:
        raise UserError(f"backbone.name={name}: {architecture} has no such weights{nearest(tag, choices.__members__)}")
    return architecture, choices[tag or "DEFAULT"]


def _spec(published: Any) -> ImageSpec:
    preset = published.transforms()
    (size,), (resize,) = preset.crop_size, preset.resize_size
    return ImageSpec((size, size), resize, preset.interpolation.value, tuple(preset.mean), tuple(preset.std))


def _model(name: str, architecture: str, spec: ImageSpec) -> nn.Module:
    options: dict[str, Any] = {}
    if architecture.startswith("vit_"):
        refuse_indivisible(name, spec.size, int(architecture.rpartition("_")[2]))
        options = {"image_size": spec.size[0]}
    elif architecture.startswith("maxvit"):
        options = {"input_size": spec.size}
    elif architecture in ("googlenet", "inception_v3"):
        options = INCEPTION
    try:
        model: nn.Module = get_model(architecture, weights=None, **options)
    except (AssertionError, ValueError) as fault:
        raise unfit_size(name, spec.size, fault) from fault
    return model


def cut_head(model: nn.Module) -> str:
    """Put nothing in place of the last linear layer (SqueezeNet: convolution); gives its name."""
    name: str = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1]
    model.set_submodule(name, nn.Identity())
    return name


def _set_drop_path(model: nn.Module, drop_path: float, name: str) -> None:
    places = [module for module in model.modules() if isinstance(module, StochasticDepth)]
    if not places:
        raise no_drop_path(name, drop_path)
    for depth, place in enumerate(places):
        place.p = drop_path * depth / (len(places) - 1)


def _adapted(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A ViT's position embeddings for the model's image size, and DenseNet's keys as they are called today."""
    if isinstance(model, VisionTransformer) and POSITIONS in tensors:
        interpolate_embeddings(model.image_size, model.patch_size, tensors)
    if isinstance(model, DenseNet):
        return {OLD_DENSENET.sub(r"\1\2", key): value for key, value in tensors.items()}
    return tensors
