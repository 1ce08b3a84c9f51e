"""How a model of transformers was pretrained to see: its image processor's settings, read as plain JSON."""

import json
from pathlib import Path
from typing import Any

from tl_lightning.errors import UserError, first_line
from tl_lightning.images import ImageSpec

FILES = ("preprocessor_config.json", "processor_config.json")
IMAGENET = ImageSpec((224, 224), 256)
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # PIL's numbers
WITHOUT_CROP = 384  # from this size on, ConvNeXt's processor resizes to the size itself
WHITE = 255.0


def read_settings(name: str, folder: Path) -> dict[str, Any]:
    """The settings of the image processor.

    Raises:
        UserError: there are none, or they cannot be read.
    """
    file = next((folder / file for file in FILES if (folder / file).is_file()), None)
    if file is None:
        raise UserError(
            f"backbone.name={name} has no {FILES[0]}, which says the size and the normalisation of its images; is it"
            " an image model?"
        )
    try:
        settings = json.loads(file.read_text())
        settings = settings.get("image_processor", settings)
        image_spec(settings)
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise UserError(f"backbone.name={name}: its {file.name} cannot be read: {first_line(fault)}") from fault
    return dict(settings)


def image_spec(settings: dict[str, Any]) -> ImageSpec:
    """What the settings come to for a shorter side, a centre crop and pixels on the scale of 0 to 255.

    A processor that squeezes the whole image into a square is followed in size, not in shape: the shorter side is
    resized, and the middle taken.
    """
    crop, resize = _sizes(settings)
    factor = settings.get("rescale_factor", 1 / WHITE) if settings.get("do_rescale", True) else 1.0
    normalises = settings.get("do_normalize", True)
    mean, std = (settings.get(f"image_{what}") or getattr(IMAGENET, what) for what in ("mean", "std"))
    red, green, blue = (value / (WHITE * factor) if normalises else 0.0 for value in mean)
    red_std, green_std, blue_std = (value / (WHITE * factor) if normalises else 1 / (WHITE * factor) for value in std)
    interpolation = RESAMPLING[settings.get("resample", 2)]
    return ImageSpec(crop, resize, interpolation, (red, green, blue), (red_std, green_std, blue_std))


def _sizes(settings: dict[str, Any]) -> tuple[tuple[int, int], int]:
    """The crop, and the shorter side before it."""
    size = settings.get("size", IMAGENET.size[0])
    resize = int(size if isinstance(size, int) else size.get("shortest_edge") or max(size["height"], size["width"]))
    whole = (resize, resize) if isinstance(size, int) or "height" not in size else (size["height"], size["width"])
    if settings.get("crop_pct"):  # ConvNeXt
        share = settings["crop_pct"] if resize < WITHOUT_CROP else 1.0
        return whole, int(resize / share)
    crop = settings.get("crop_size") if settings.get("do_center_crop", True) else None
    if crop is None:
        return whole, resize
    return ((crop, crop) if isinstance(crop, int) else (crop["height"], crop["width"])), resize
