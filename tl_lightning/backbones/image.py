"""What all image backbones share: pixels to features, the memory format, and the cut into layers."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tl_lightning.backbones.base import Backbone, group_by_layer
from tl_lightning.errors import UserError, first_line
from tl_lightning.images import ImageSpec

WHITE = 255.0
T = TypeVar("T")
# Networks of many convolutions differ too much in depth (ResNet-18 to -152) to be cut into blocks: their stages.
STAGE = re.compile(
    r"(?:^|\.)(?:\w*(?:features|layers?|blocks?|stages?|levels?|network)\.\d+\."
    r"|\w*(?:layers?|stages?|blocks?|level|cell_|\bs)\d+\.|inception\d|Mixed_\d|features\.conv\d_)"
)
# Transformers: their blocks, within the stages where there are stages (Swin).
BLOCK = re.compile(
    r"(?:^|\.)(?:features\.\d+\.\d+\.(?!weight$|bias$)|encoder_layer_\d+\."
    r"|\w*(?:layers?|blocks?|stages?)\.\d+\.(?!downsample)(?:(?:layers?|blocks?)\.\d+\.)?)"
)


class ImageBackbone(Backbone):
    """A network over images, without its head; it normalises the pixels itself, on the device.

    Args:
        model: normalised images (B, 3, H, W) -> (B, D).
        spec: how it was pretrained to see; the preprocessor.
        identity: for the run record.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, model: nn.Module, spec: ImageSpec, identity: dict[str, Any]) -> None:
        super().__init__()
        self.preprocessor: ImageSpec = spec
        self.identity = {**identity, "image_size": list(spec.size)}
        self.convolutional = sum(isinstance(m, nn.Conv2d) for m in model.modules()) > 1  # one: a ViT's patches
        self.model = model.to(memory_format=torch.channels_last) if self.convolutional else model
        # Not part of a checkpoint: they come with the backbone.
        for name, values in (("shift", spec.mean), ("scale", spec.std)):
            self.register_buffer(name, WHITE * torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        self.train()

    def forward(self, pixels: Tensor) -> Tensor:  # type: ignore[override]
        """Pixels (B, 3, H, W), uint8 or float, on the scale of 0 to 255 -> (B, D)."""
        return self.features(self.normalised(pixels))

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) on the scale of 0 to 255 -> images (B, 3, H, W) as the model takes them."""
        images = (pixels.to(self.scale.dtype) - self.shift) / self.scale
        return images.contiguous(memory_format=torch.channels_last) if self.convolutional else images

    def features(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> (B, D)."""
        features: Tensor = self.model(images)
        return features

    def layer_groups(self) -> list[list[str]]:
        """Parameter names by layer: the stages of a convolutional network, the blocks of a transformer."""
        names = (name for name, _ in self.named_parameters())
        return group_by_layer(names, STAGE if self.convolutional else BLOCK)

    def measured(self) -> int:
        """The width D of the features.

        Raises:
            UserError: the network does not take images of the preprocessor's size, or its layers are not known.
        """
        self._refuse_without_layers()
        features: Tensor = self.imagined(self.forward)
        assert features.ndim == 2, f"{self.identity['name']} gives features of the shape {tuple(features.shape)}"
        return int(features.shape[1])

    def _refuse_without_layers(self) -> None:
        try:
            self.layer_groups()
        except ValueError as fault:
            raise UserError(f"backbone.name={self.identity['name']} cannot be fine-tuned here: {fault}") from fault

    def imagined(self, step: Callable[[Tensor], T]) -> T:
        """What ``step`` makes, in eval mode, of an image of the preprocessor's size that has a shape but no pixels.

        Raises:
            UserError: the network does not take images of this size.
        """
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
                return step(torch.zeros(1, 3, *self.preprocessor.size, dtype=torch.uint8))
        except (RuntimeError, ValueError, AssertionError) as fault:
            raise unfit_size(str(self.identity["name"]), self.preprocessor.size, fault) from fault
        finally:
            for module, mode in modes.items():
                module.training = mode


def resized(spec: ImageSpec, size: int | None) -> ImageSpec:
    """The same share of each image at another size in pixels; None leaves it as it is."""
    if size is None:
        return spec
    return spec._replace(size=(size, size), resize=round(spec.resize * size / min(spec.size)))


def unfit_size(name: str, size: tuple[int, int], fault: BaseException) -> UserError:
    """The message for a size that the architecture cannot take."""
    return UserError(f"backbone.name={name} does not take backbone.image_size={size[0]}: {first_line(fault)}")


def refuse_indivisible(name: str, size: tuple[int, int], patch: int) -> None:
    """Refuse a size that leaves pixels over when cut into patches; most ViTs would drop those in silence.

    Raises:
        UserError: ``patch`` divides the height or the width not.
    """
    if any(length % patch for length in size):
        below = max(size[0] // patch, 1) * patch
        raise UserError(
            f"backbone.image_size={size[0]}: {name} cuts images into patches of {patch} pixels, so that a multiple of"
            f" {patch} is needed, as {below} or {below + patch}"
        )


def no_drop_path(name: str, drop_path: float) -> UserError:
    """The message for stochastic depth where there is none."""
    return UserError(
        f"backbone.drop_path={drop_path}: {name} has no stochastic depth; leave it out (backbone.drop_path=null)"
    )
