"""What a backbone asks of its images: the contract between image backbones and image data."""

from typing import NamedTuple


class ImageSpec(NamedTuple):
    """How a backbone was pretrained to see: the preprocessor of image backbones.

    size: height and width of the crop, in pixels. resize: the shorter side before the centre crop, in pixels.
    interpolation: of the resizing. mean, std: of each channel (red, green, blue) on the scale 0 to 1; the backbone
    itself normalises with them, on the device.

    A batch of images is ``{"pixels": (B, 3, height, width)}``, uint8, or float on the same scale of 0 to 255 where
    images were mixed.
    """

    size: tuple[int, int]
    resize: int
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
