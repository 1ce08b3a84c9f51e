"""From decoded images to what the backbone sees: the plain view for evaluation, the augmented one for training."""

import hashlib
import math
import struct
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F  # noqa: N812

from tl_lightning.images import ImageSpec

AutoAugment = Literal["randaugment", "trivialaugment"]
LONGEST = 8
"""Sides longer than this many times the other are cut about their middle first: a line of one pixel's height must
not become an image of gigabytes."""


class Augmentation(NamedTuple):
    """How training images are changed; see ImageData."""

    crop_scale: tuple[float, float] | None = (0.08, 1.0)
    flip: bool = True
    auto_augment: AutoAugment | None = None
    random_erasing: float = 0.0


class Plain:
    """Resized and cut about the centre as in pretraining: no chance in it. What is kept of an image is this view."""

    random = False

    def __init__(self, spec: ImageSpec) -> None:
        self._spec = spec
        self.key = ["plain", *spec.size, spec.resize, spec.interpolation]
        """Plain values that tell what `keep` makes from what other views keep."""

    def __call__(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 -> (3, height, width) uint8."""
        return _middle(resized(image, self._spec), self._spec.size)

    def keep(self, image: Tensor) -> Tensor:
        """(3, H, W) -> (3, h, w), what a cache keeps of an image."""
        return self(image)

    def of_kept(self, kept: Tensor) -> Tensor:
        """(3, h, w) -> (3, height, width): the view of an image that was kept."""
        return kept

    def kept_size(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of what is kept of an image of (H, W)."""
        return self._spec.size


class Augmented:
    """A view by chance, drawn from torch's global random state.

    A random crop by area and shape, or the plain view; a flip; one of the policies RandAugment (Cubuk et al., 2020,
    arXiv:1909.13719; 2 operations of strength 9) and TrivialAugment (Müller & Hutter, 2021, arXiv:2103.10158); random
    erasing (Zhong et al., 2020, arXiv:1708.04896) with the mean colour of pretraining.

    Kept for random crops is the whole image, shrunk so that the crop of mean area is not enlarged: to a shorter side of
    size / sqrt(mean of crop_scale), or spec.resize if that is more, or its own if that is less.
    """

    random = True

    def __init__(self, spec: ImageSpec, how: Augmentation) -> None:
        self._spec, self._how, self._plain = spec, how, Plain(spec)
        self._mode = interpolation(spec)
        scale = how.crop_scale or (1.0, 1.0)
        self._crop = v2.RandomResizedCrop(spec.size, scale=scale, interpolation=self._mode, antialias=True)
        self._rest = _rest(spec, how)
        self._room = max(spec.resize, math.ceil(max(spec.size) / math.sqrt(sum(scale) / 2)))
        whole = ["whole", self._room, LONGEST, spec.interpolation]
        self.key = self._plain.key if how.crop_scale is None else whole

    def __call__(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 -> (3, height, width) uint8."""
        return self._changed(self._plain(image) if self._how.crop_scale is None else self._cropped(image))

    def keep(self, image: Tensor) -> Tensor:
        """(3, H, W) -> (3, h, w), what a cache keeps of an image."""
        if self._how.crop_scale is None:
            return self._plain(image)
        size = self.kept_size(image.shape[1], image.shape[2])
        return _resize(not_too_long(image), size, self._mode)

    def of_kept(self, kept: Tensor) -> Tensor:
        """(3, h, w) -> (3, height, width): the view of an image that was kept."""
        return self._changed(kept if self._how.crop_scale is None else self._cropped(kept))

    def kept_size(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of what is kept of an image of (H, W)."""
        if self._how.crop_scale is None:
            return self._spec.size
        most = LONGEST * min(height, width)
        height, width = min(height, most), min(width, most)
        return (height, width) if min(height, width) <= self._room else after_resize(height, width, self._room)

    def _cropped(self, image: Tensor) -> Tensor:
        # Not the transform itself, whose dispatch costs as much as the flip.
        box = self._crop.make_params([image])
        top, left = box["top"], box["left"]
        part = image[:, top : top + box["height"], left : left + box["width"]]
        return _resize(part, self._spec.size, self._mode)

    def _changed(self, view: Tensor) -> Tensor:
        if self._how.flip and torch.rand(()) < 0.5:
            view = view.flip(-1)
        if self._rest is not None:
            view = self._rest(view)
        return view


def _rest(spec: ImageSpec, how: Augmentation) -> v2.Compose | None:
    mean = [round(255 * part) for part in spec.mean]
    fill = {torch.Tensor: mean}
    policies = {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}
    steps = [] if how.auto_augment is None else [policies[how.auto_augment](fill=fill)]
    if how.random_erasing:
        steps.append(v2.RandomErasing(how.random_erasing, value=mean))
    return v2.Compose(steps) if steps else None


def resized(image: Tensor, spec: ImageSpec) -> Tensor:
    """(3, H, W) uint8 with its shorter side at spec.resize, and large enough for the crop on both sides."""
    image = not_too_long(image)
    height, width = after_resize(image.shape[1], image.shape[2], spec.resize)
    lack = max(spec.size[0] / height, spec.size[1] / width, 1.0)
    if lack > 1:
        height, width = max(spec.size[0], round(height * lack)), max(spec.size[1], round(width * lack))
    return _resize(image, (height, width), interpolation(spec))


def after_resize(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width once the shorter of them is `side`; as torchvision rounds them."""
    short, long = min(height, width), max(height, width)
    longer = int(side * long / short)
    return (side, longer) if height <= width else (longer, side)


def not_too_long(image: Tensor) -> Tensor:
    """(3, H, W) -> the same, or its middle where one side is more than LONGEST times the other."""
    height, width = image.shape[1:]
    most = LONGEST * min(height, width)
    if max(height, width) <= most:
        return image
    return _middle(image, (min(height, most), min(width, most)))


def _middle(image: Tensor, size: tuple[int, int]) -> Tensor:
    cut: Tensor = F.center_crop_image(image, list(size))
    return cut


def _resize(image: Tensor, size: tuple[int, int], mode: InterpolationMode) -> Tensor:
    done: Tensor = F.resize_image(image, list(size), interpolation=mode, antialias=True)
    return done


def interpolation(spec: ImageSpec) -> InterpolationMode:
    """The same for torchvision; lanczos, which tensors do not have, becomes the like bicubic."""
    return InterpolationMode("bicubic" if spec.interpolation == "lanczos" else spec.interpolation)


def seed_of(seed: int, epoch: int, row: int) -> int:
    """A seed that depends on these three alone, well mixed, 63 bits."""
    digest = hashlib.blake2b(struct.pack("<qqq", seed, epoch, row), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
