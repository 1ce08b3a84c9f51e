"""Decoded images kept in memory or on disk, so that no file is decoded twice."""

import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tl_lightning.data.base import Array, Indices
from tl_lightning.data.cache import cached, hashed
from tl_lightning.data.image_dataset import Decoded
from tl_lightning.data.image_index import workers
from tl_lightning.data.image_views import Augmented, Plain
from tl_lightning.data.memory import GIB, free_memory
from tl_lightning.data.store import FORMAT, Store, Writer
from tl_lightning.errors import UserError

log = logging.getLogger(__name__)
CHUNK = 256
MOST_OF_MEMORY = 0.8
"""Of what is free, the images may take this share: the model needs some, too."""
SPARE_DISK = GIB


class KeptStore(Store):
    """Kept images on disk: offsets (N + 1,) int64 into pixels, heights and widths (N,) int32; rows of the source."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        if self["offsets"][-1] != len(self["pixels"]) or len(self["offsets"]) != len(self) + 1:
            raise ValueError("the offsets do not fit the pixels")
        # Copy on write: torch warns of arrays that cannot be written.
        self.pixels: Array = np.memmap(folder / "pixels.bin", np.uint8, "c")


class Kept:
    """Images kept flat: image i is pixels[offsets[i]:offsets[i + 1]], its height x width x 3; rows ascending."""

    kept = True

    def __init__(self, rows: Indices, offsets: Indices, heights: Array, widths: Array, pixels: Array) -> None:
        self._rows, self._offsets, self._heights, self._widths = rows, offsets, heights, widths
        self._pixels = pixels

    def image(self, row: int) -> Tensor:
        """(3, H, W) uint8, a view of what is kept."""
        at = int(np.searchsorted(self._rows, row))
        flat = self._pixels[self._offsets[at] : self._offsets[at + 1]]
        return torch.from_numpy(flat.reshape(self._heights[at], self._widths[at], 3)).permute(2, 0, 1)


class KeptOnDisk(Kept):
    """The same in a store, which other processes map themselves."""

    def __init__(self, store: KeptStore) -> None:
        super().__init__(store["rows"], store["offsets"], store["heights"], store["widths"], store.pixels)
        self._store = store

    def __reduce__(self) -> "tuple[type[KeptOnDisk], tuple[KeptStore]]":
        return type(self), (self._store,)


class Work:
    """What is to be kept: the rows `take` of an index, as a view keeps them. `split` names it in messages."""

    def __init__(self, split: str, index: Store, take: Indices, decoded: Decoded, view: Plain | Augmented) -> None:
        self.split, self.view, self._decoded = split, view, decoded
        self.rows: Indices = index["rows"][take]
        self.hashes: Array = index["hashes"][take]
        sizes = zip(index["heights"][take].tolist(), index["widths"][take].tolist(), strict=True)
        lengths = [3 * height * width for height, width in (view.kept_size(*size) for size in sizes)]
        self.offsets: Indices = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
        self.bytes = int(self.offsets[-1])

    def images(self) -> Iterator[Array]:
        """Every image as it is kept, (h, w, 3) uint8, decoded by all cores; a bounded number at a time."""
        log.info("%s: decoding %d images once, %s", self.split, len(self.rows), in_words(self.bytes))
        with ThreadPoolExecutor(workers()) as pool:
            for start in range(0, len(self.rows), CHUNK):
                yield from pool.map(self._one, range(start, min(start + CHUNK, len(self.rows))))

    def _one(self, at: int) -> Array:
        row = int(self.rows[at])
        kept = self.view.keep(self._decoded.image(row)).permute(1, 2, 0).contiguous().numpy()
        if kept.size != self.offsets[at + 1] - self.offsets[at]:
            raise UserError(f"{self._decoded.place(row)} changed while it was read: start again.")
        return kept


def in_memory(work: Work) -> Kept:
    """Decodes into memory. Raises UserError where it does not fit."""
    free = free_memory()
    if work.bytes > MOST_OF_MEMORY * free:
        raise UserError(
            f"data.cache=ram needs {in_words(work.bytes)} for {work.split}, and of the {in_words(free)} that are free "
            f"it may take {in_words(int(MOST_OF_MEMORY * free))}. Type data.cache=disk, or data.cache=null."
        )
    pixels = np.empty(work.bytes, np.uint8)
    sizes = np.empty((len(work.rows), 2), np.int32)
    for at, image in enumerate(work.images()):
        pixels[work.offsets[at] : work.offsets[at + 1]] = image.reshape(-1)
        sizes[at] = image.shape[:2]
    return Kept(work.rows, work.offsets, sizes[:, 0], sizes[:, 1], pixels)


def on_disk(work: Work, root: Path) -> KeptOnDisk:
    """Takes the images from the cache folder, else decodes them into it; runs of the same images share it.

    Raises UserError where they do not fit, or where the folder cannot be written.
    """
    contents = [work.hashes.astype("<u8").tobytes().hex(), work.rows.tolist()]
    folder = root / hashed([FORMAT, work.view.key, contents])
    return KeptOnDisk(cached(folder, KeptStore, partial(_write, work), "decoded images"))


def _write(work: Work, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if work.bytes + SPARE_DISK > free:
        raise UserError(
            f"data.cache=disk needs {in_words(work.bytes)} for {work.split}, and {folder.parent} has "
            f"{in_words(free)} free, of which {in_words(SPARE_DISK)} stay so. Name another folder with "
            f"data.cache_dir=FOLDER, or type data.cache=null."
        )
    with Writer(folder) as writer:
        writer.add("rows", work.rows, np.int64)
        writer.add("offsets", work.offsets, np.int64)
        for image in work.images():
            writer.add("heights", image.shape[:1], np.int32)
            writer.add("widths", image.shape[1:2], np.int32)
            writer.add("pixels", image.reshape(-1), np.uint8)
        writer.finish(first_rows={})


def in_words(size: int) -> str:
    """Bytes in MiB or GiB."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / (1 << 20):.1f} MiB"
