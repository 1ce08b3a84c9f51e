"""Images that the tests make themselves, and data sets of them laid out in every way."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from PIL import Image

from tl_lightning.data.image_reading import decode
from tl_lightning.images import ImageSpec

SPEC = ImageSpec(size=(16, 16), resize=16)
ROWS = 40
LABELS: dict[str, Callable[[int], str]] = {
    "class": lambda row: ["ant", "bee"][row % 2],
    "labels": lambda row: ["a", "a,b", "b"][row % 3],
    "number": lambda row: str(row % 4 / 4),
}


def color(row: int) -> tuple[int, int, int]:
    """A colour of its own for each row below 256."""
    return row, 255 - row, (7 * row) % 256


def row_of(pixels: torch.Tensor) -> int:
    """The row whose image, all of one colour, these (3, h, w) pixels show."""
    assert (pixels == pixels[:, :1, :1]).all()
    row = int(pixels[0, 0, 0])
    assert tuple(pixels[:, 0, 0].tolist()) == color(row)
    return row


def png(row: int, size: tuple[int, int] = (24, 20)) -> bytes:
    return encoded(Image.new("RGB", size, color(row)), "PNG")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(seed: int, height: int, width: int, channels: int = 3) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An image in blocks of 4 pixels, so that JPEG keeps most of it."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, ((height + 3) // 4, (width + 3) // 4, channels), np.uint8)
    return np.kron(small, np.ones((4, 4, 1), np.uint8))[:height, :width]


def photo(seed: int, height: int = 60, width: int = 80) -> bytes:
    return encoded(Image.fromarray(noise(seed, height, width)), "JPEG", quality=90)


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def photos(root: Path, count: int = 12, classes: tuple[str, ...] = ("ant", "bee")) -> Path:
    """ROOT/CLASS/*.jpg, no two alike."""
    for row in range(count):
        put(root / classes[row % len(classes)] / f"{row}.jpg", photo(row, 40 + row, 60))
    return root


def as_folder(root: Path, target: str) -> dict[str, Any]:
    for row in range(ROWS):
        put(root / "images" / LABELS[target](row) / f"row{row:02}.png", png(row))
    return {"root": str(root / "images")}


def as_table(root: Path, target: str) -> dict[str, Any]:
    for row in range(ROWS):
        put(root / f"pictures/{row}.png", png(row))
    lines = [f'pictures/{row}.png,"{LABELS[target](row)}"' for row in range(ROWS)]
    put(root / "all.csv", "\n".join(["image,label", *lines, ""]).encode())
    return {"train": str(root / "all.csv")}


def as_hub(root: Path, target: str) -> dict[str, Any]:
    """A folder of parquet files with the features of the hub's image sets."""
    import datasets

    labels: list[Any] = [LABELS[target](row) for row in range(ROWS)]
    if target == "class":
        kind: Any = datasets.ClassLabel(names=["ant", "bee"])
    else:
        labels = [float(label) if target == "number" else label.split(",") for label in labels]
        kind = datasets.Value("float32") if target == "number" else datasets.Sequence(datasets.Value("string"))
    images = [{"bytes": png(row), "path": f"row{row:02}.png"} for row in range(ROWS)]
    features = datasets.Features({"image": datasets.Image(), "label": kind})
    made = datasets.Dataset.from_dict({"image": images, "label": labels}, features)
    (root / "set").mkdir(parents=True)
    made.to_parquet(str(root / "set/train-00000-of-00001.parquet"))
    return {"path": str(root / "set"), "test": None}


def header_only(width: int, height: int) -> bytes:
    """A PNG that promises this many pixels and has none of them."""
    import struct
    import zlib

    def part(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(b"")) + part(b"IEND", b"")


def table_of(path: Path, rows: list[dict[str, Any]]) -> Path:
    pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def pixels_of(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What we read, (H, W, 3)."""
    return decode(data).permute(1, 2, 0).numpy()
