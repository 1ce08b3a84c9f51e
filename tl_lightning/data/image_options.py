"""The checks of an image data module's options that need no data."""

import multiprocessing
from typing import TYPE_CHECKING

from tl_lightning.data.faults import Faults
from tl_lightning.data.options import at_least
from tl_lightning.errors import UserError
from tl_lightning.images import ImageSpec

if TYPE_CHECKING:
    from tl_lightning.data.image import ImageData


def check_image_spec(preprocessor: object) -> None:
    """Raises UserError for what a backbone hands over that takes no images."""
    if not isinstance(preprocessor, ImageSpec):
        raise UserError("This data holds images, which the backbone does not take: type for example backbone=resnet50.")


def check_image_options(data: "ImageData", faults: Faults) -> None:
    """Collects the options of image data that cannot be meant."""
    faults.of(_check_crop, data)
    for name in ("mixup", "cutmix"):
        if getattr(data, name) < 0:
            faults.add(f"data.{name}={getattr(data, name)}: it must be 0 or more, for example data.{name}=0.2.")
    if not 0 <= data.random_erasing <= 1:
        faults.add(f"data.random_erasing={data.random_erasing}: it is a probability, for example 0.25.")
    faults.of(at_least, "mix_off_epochs", data.mix_off_epochs, 0)
    if data.target == "number" and (data.mixup or data.cutmix):
        faults.add(
            "data.mixup and data.cutmix share out labels among images, and here each has a number: leave both at 0, "
            "or choose objective=multiclass."
        )
    _check_words(data, faults)


def _check_crop(data: "ImageData") -> None:
    scale = data.crop_scale
    if scale is None:
        return
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise UserError(
            f"data.crop_scale={list(scale)}: two shares of the image's area are expected, the smaller first, "
            f"for example data.crop_scale=[0.08,1], or null for no random crop."
        )


def _check_words(data: "ImageData", faults: Faults) -> None:
    if data.on_bad not in ("error", "skip"):
        faults.add(f"data.on_bad={data.on_bad}: type data.on_bad=error or data.on_bad=skip.")
    if data.cache not in (None, "ram", "disk"):
        faults.add(f"data.cache={data.cache}: type data.cache=ram, data.cache=disk or data.cache=null.")
    if data.auto_augment not in (None, "randaugment", "trivialaugment"):
        faults.add(
            f"data.auto_augment={data.auto_augment}: type data.auto_augment=randaugment, trivialaugment or null."
        )
    if data.cache == "ram" and data.num_workers and multiprocessing.get_start_method() != "fork":
        faults.add(
            "data.cache=ram: worker processes share memory only where they are forked, and here each would get a "
            "copy. Type data.cache=disk, which they share, or data.num_workers=0."
        )
