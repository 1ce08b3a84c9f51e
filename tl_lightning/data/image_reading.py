"""Reading one image file: what it holds, whether it is whole, and its pixels."""

import hashlib
import io
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import torch
import torchvision.io  # noqa: F401  # brings torch.ops.image
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from tl_lightning.data.base import Array
from tl_lightning.errors import first_line

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")
"""What Pillow may open: some of its other formats start programs."""
MOST_PIXELS = 2 * 89_478_485
"""A header that promises more is refused before anything is decoded (Pillow's own limit)."""
_JPEG, _START_OF_SCAN, _END_OF_IMAGE = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_RGB = 3
_WHITE = (255, 255, 255, 255)
# The operator itself: the function around it warns at every call that it will move to another package. Where it is
# gone, Pillow decodes the same pixels in a little more time.
_decode_jpeg: Callable[[Tensor, int, bool], Tensor] | None = getattr(torch.ops.image, "decode_jpeg", None)


class ImageError(ValueError):
    """A file that cannot be read as an image; the message completes "FILE ..."."""


class Facts(NamedTuple):
    """What is known of a file without decoding it: a hash of its bytes, and its size as stored, not yet turned."""

    hash: int
    height: int
    width: int


def decode(data: bytes) -> Tensor:
    """The pixels of the file's first picture, (3, H, W) uint8, red, green, blue, upright as its EXIF says.

    What is transparent shows white behind it, as on a page. 16 bits a channel are scaled to 8. Raises ImageError.
    """
    if data.startswith(_JPEG) and _decode_jpeg is not None:
        with suppress(RuntimeError):  # what this decoder does not take may still be one for Pillow
            return _decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), _RGB, True)
    return _pixels(data, _to_rgb)


def grey(data: bytes, least: int) -> Tensor:
    """A grey version of the file's first picture, (1, H, W) uint8, upright as its EXIF says.  Raises ImageError.

    Of a JPEG with sides of twice ``least`` or more, only a part of the detail is decoded, in a fraction of the time.
    """
    return _pixels(data, lambda image: _to_rgb(image).convert("L"), draft=least)


def _pixels(data: bytes, convert: Callable[[Image.Image], Image.Image], draft: int | None = None) -> Tensor:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if draft is not None:
                image.draft("L", (draft, draft))
            pixels = np.array(convert(ImageOps.exif_transpose(image)))
    except ImageError:
        raise
    except Exception as fault:  # its plugins raise whatever their parsers do
        raise ImageError(f"cannot be decoded, it may be damaged: {first_line(fault)}") from None
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, _WHITE)
        return Image.alpha_composite(page, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: Array) -> Array:
    # Pillow's own conversion cuts everything above 255 off.
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 0xFFFF:
        raise ImageError("holds numbers beyond 16 bits: save it with 8 or 16 bits a channel")
    return np.round(values / 257).astype(np.uint8)


def check(data: bytes, thorough: bool) -> Facts:
    """The facts of a file that is whole, as far as its structure tells; thorough: as far as decoding tells.

    Structure is cheap: the header, the end of a JPEG behind its last scan, the checksums of a PNG, the length of a
    WebP. What looks cut there, and every other format, is decoded to be sure. Raises ImageError.
    """
    if not data:
        raise ImageError("is empty (0 bytes)")
    width, height = _size(data)
    if width * height > MOST_PIXELS:
        raise ImageError(_bomb(f"{width} x {height} pixels"))
    if thorough or not _looks_whole(data):
        decode(data)
    return Facts(int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little"), height, width)


def _size(data: bytes) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.size
    except UnidentifiedImageError:
        raise ImageError(f"is no whole image of a known format ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as fault:
        raise ImageError(_bomb(first_line(fault))) from None
    except Exception as fault:
        raise ImageError(f"has a header that cannot be read, it may be damaged: {first_line(fault)}") from None


def _bomb(size: str) -> str:
    return f"is too large to decode safely ({size}; {MOST_PIXELS} pixels at most): shrink it"


def _looks_whole(data: bytes) -> bool:
    if data.startswith(_JPEG):
        return data.rfind(_END_OF_IMAGE) > data.rfind(_START_OF_SCAN)
    if data.startswith(b"\x89PNG"):
        return _png_sums_hold(data)
    if data.startswith(b"RIFF"):
        return int.from_bytes(data[4:8], "little") + 8 <= len(data)
    return False


def _png_sums_hold(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.verify()
    except Exception:
        return False
    return True
