"""What a frozen backbone made of a split, kept on disk."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tl_lightning.data.base import Indices
from tl_lightning.data.image_cache import SPARE_DISK, in_words
from tl_lightning.data.store import Store, Writer
from tl_lightning.errors import UserError

FEATURE_FORMAT = 1
"""Raised whenever the meaning of the files, or of what names their folder, changes."""
Kept = Literal["float32", "float16"]


class FeatureStore(Store):
    """The features of a split: rows (N,) int64, each line's position in the split; features (N, D) flat.

    Memory-mapped.  Raises OSError, ValueError or KeyError (damaged) as every store.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        count, width = len(self), int(self.meta["width"])
        if len(self["features"]) != count * width or not np.array_equal(np.sort(self["rows"]), np.arange(count)):
            raise ValueError("the features do not fit the rows")
        self._lines = self["features"].reshape(count, width)
        self._line_of: Indices = np.argsort(self["rows"])
        self._dtype: torch.dtype = getattr(torch, self.meta["dtype"])

    @property
    def bytes(self) -> int:
        """Of the features on disk."""
        return int(self._lines.nbytes)

    def of(self, positions: Indices) -> Tensor:
        """The features of these positions (B,) of the split, (B, D), of the type that the backbone gave them."""
        return torch.from_numpy(self._lines[self._line_of[positions]]).to(self._dtype)


def check_room(split: str, size: int, folder: Path) -> None:
    """Raises UserError where features of so many bytes do not fit the disk of a folder."""
    free = shutil.disk_usage(folder).free
    if size + SPARE_DISK > free:
        raise UserError(
            f"data.cache_features needs {in_words(size)} for {split}, and {folder.parent} has {in_words(free)} free, of"
            f" which {in_words(SPARE_DISK)} stay so. Name another folder with data.cache_dir=FOLDER, or type"
            f" data.cache_features=null."
        )


def write_features(folder: Path, found: Iterable[tuple[Indices, Tensor]], kept: str) -> None:
    """Writes a store into an empty folder.

    found: positions (B,) in the split with their features (B, D); every position once, in any order. kept: the type
    on disk.
    """
    width, dtype = 0, torch.float32
    with Writer(folder) as writer:
        for positions, features in found:
            width, dtype = features.shape[1], features.dtype
            writer.add("rows", positions, np.int64)
            writer.add("features", features.to(getattr(torch, kept)).cpu().numpy(), kept)
        writer.finish(first_rows={}, width=width, dtype=str(dtype).removeprefix("torch."))
