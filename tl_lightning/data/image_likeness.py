"""What near duplicates of images are told by: a perceptual hash and a small grey version of each."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch.nn import functional as F  # noqa: N812

from tl_lightning.data.base import Array
from tl_lightning.data.duplicates import SLICE, perceptual_hash
from tl_lightning.data.image_reading import ImageError, grey

SIDE = 16
LEAST = 4 * SIDE
"""A JPEG is decoded no larger than this, where it is."""
ALIKE = 0.99
"""The correlation of two small grey versions from which on they are called almost the same: other handwritten digits
are below it, and hashes alone would call nine in ten of them the same; a photo made smaller, compressed or brightened
is above it."""


class Likeness(NamedTuple):
    """A perceptual hash, and SIDE * SIDE grey values."""

    hash: int
    small: npt.NDArray[np.uint8]


UNKNOWN = Likeness(0, np.zeros(SIDE * SIDE, np.uint8))
"""Of what cannot be decoded; as little is known of a picture of one colour."""


def likeness(data: bytes) -> Likeness:
    """What one image file looks like."""
    try:
        pixels = grey(data, LEAST)
    except ImageError:  # where the image is needed, it is told
        return UNKNOWN
    small = F.interpolate(pixels[None].float(), (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    return Likeness(perceptual_hash(pixels), small.round().byte().numpy().ravel())


def alike(old: Array, new: Array, pairs: Array) -> Array:
    """Whether the small versions old[pairs[:, 0]] and new[pairs[:, 1]], (P, SIDE * SIDE) each, are almost the same."""
    parts = [pairs[at : at + SLICE // 4] for at in range(0, max(1, len(pairs)), SLICE // 4)]
    return np.concatenate([_correlation(old[part[:, 0]], new[part[:, 1]]) >= ALIKE for part in parts])


def _correlation(one: Array, other: Array) -> Array:
    """Of each row with the other's; 0 where one has a single colour."""
    one, other = (
        values - values.mean(1, keepdims=True) for values in (one.astype(np.float32), other.astype(np.float32))
    )
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    found: Array = np.divide((one * other).sum(1), norms, out=np.zeros(len(one), np.float32), where=norms > 1e-3)
    return found
