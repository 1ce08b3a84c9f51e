"""Handwritten digits that come with scikit-learn: small, offline, and good for trying things out."""

import io
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from PIL import Image

from tl_lightning.data.base import Array, Indices
from tl_lightning.data.faults import Faults
from tl_lightning.data.image import ImageData
from tl_lightning.data.image_sources import Source
from tl_lightning.data.image_views import AutoAugment
from tl_lightning.data.labels import Cell
from tl_lightning.parts import part
from tl_lightning.ranges import Between0And1, PositiveUpTo1, Range

WHITE = 16
"""Of the 17 shades of grey."""


class DigitSource:
    """The digits that are wanted, as PNG files in memory."""

    where = "scikit-learn's digits"

    def __init__(self, wanted: list[int] | None) -> None:
        from sklearn.datasets import load_digits

        found = load_digits()
        kept = np.isin(found.target, range(10) if wanted is None else wanted)
        self._numbers = np.flatnonzero(kept).tolist()
        self._labels: list[Cell] = [str(label) for label in found.target[kept].tolist()]
        self._files = [_png(image) for image in found.images[kept]]

    def class_names(self, label: str) -> None:
        """In the usual order."""
        return

    def key(self) -> object:
        """Which digits of the set."""
        return ["digits", self._numbers]

    def labels(self) -> list[Cell]:
        """The digit of each image."""
        return self._labels

    def doubtful(self) -> Indices:
        """None."""
        return np.empty(0, np.int64)

    def name(self, at: int) -> str:
        """Its number in the whole set, from 0."""
        return f"digit {self._numbers[at]}"

    def place(self, at: int) -> str:
        """The same with the set."""
        return f"{self.where}: {self.name(at)}"

    def read(self, at: int) -> bytes:
        """A grey PNG of 8 x 8 pixels."""
        return self._files[at]


def _png(image: Array) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.round(image * (255 / WHITE)).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@dataclass(kw_only=True, eq=False, repr=False)
@part("data")
class Digits(ImageData):
    """The 1,797 handwritten digits of 8 x 8 pixels in scikit-learn (Alpaydin & Kaynak, 1998), white on black.

    digits: which of 0 to 9 (default: all). test_fraction, val_fraction, split_seed: the parts that are always the
    same. Not flipped and not cropped unless asked for: that can make another digit of it. The other parameters: see
    ImageData.
    """

    digits: list[Annotated[int, Range(ge=0, le=9)]] | None = None
    test_fraction: Between0And1 = 0.2
    crop_scale: tuple[PositiveUpTo1, PositiveUpTo1] | None = None
    flip: bool = False
    auto_augment: AutoAugment | None = None
    on_bad: Literal["error"] = "error"

    def _check_options(self, faults: Faults) -> None:
        super()._check_options(faults)
        odd = [digit for digit in self.digits or [] if digit not in range(10)]
        if odd or self.digits == []:
            faults.add(f"data.digits={self.digits}: digits of 0 to 9 are expected, for example data.digits=[0,1,2].")

    def sources(self, faults: Faults, wait: bool) -> dict[str, Source]:
        """One source."""
        return {"train": DigitSource(self.digits)} if not len(faults) else {}

    def _hint(self) -> str:
        return "Give two digits or more: data.digits=[0,1]."
