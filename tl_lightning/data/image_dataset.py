"""Some images of an index as batches of pixels."""

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from tl_lightning.data.base import Array, Batch, Indices
from tl_lightning.data.image_reading import ImageError, decode
from tl_lightning.data.image_sources import Source
from tl_lightning.data.image_views import Augmented, Plain, seed_of
from tl_lightning.data.part import Part
from tl_lightning.data.store import Store
from tl_lightning.errors import UserError


class Pixels(Protocol):
    """Decoded images by their row in the source."""

    kept: bool
    """Whether they are what the view keeps of an image, not the image."""

    def image(self, row: int) -> Tensor:
        """(3, H, W) uint8."""


class Decoded:
    """Images that are read and decoded whenever they are asked for."""

    kept = False

    def __init__(self, source: Source) -> None:
        self._source = source

    def image(self, row: int) -> Tensor:
        """(3, H, W) uint8. Raises UserError for a file that cannot be decoded."""
        try:
            return decode(self._source.read(row))
        except ImageError as fault:
            raise UserError(
                f"{self._source.place(row)} {fault}. Mend it, or leave such files out: data.on_bad=skip "
                f"(it decodes every image once before training)."
            ) from None

    def place(self, row: int) -> str:
        """The row in words."""
        return self._source.place(row)


class ImageDataset(Part):
    """N images of an index. What chance does to one depends on (seed, epoch, row) alone."""

    def __init__(
        self,
        store: Store,
        take: Indices,
        codes: Indices,
        outputs: int,
        pixels: Pixels,
        view: Plain | Augmented,
        seed: int,
    ) -> None:
        super().__init__(store, take, codes, outputs)
        self.pixels, self.view, self._seed = pixels, view, seed

    def __getitem__(self, positions: Sequence[int]) -> Batch:
        """The batch of these positions; see Part. A UserError comes in its place: see `exact_loader`."""
        try:
            return super().__getitem__(positions)
        except UserError as fault:
            return fault  # type: ignore[return-value]

    def inputs(self, rows: Indices) -> dict[str, Tensor]:
        """Of these rows: pixels (B, 3, height, width) uint8."""
        sources: list[int] = self.store["rows"][rows].tolist()
        with torch.random.fork_rng(devices=[], enabled=self.view.random):
            views = (self._view(row) for row in sources)
            first = next(views)
            batch = first.new_empty((len(sources), *first.shape))
            batch[0] = first
            for at, view in enumerate(views, start=1):
                batch[at] = view
        return {"pixels": batch}

    def content(self) -> list[Any]:
        """The images by the hashes of their files, and the view of them; for an augmented one, what is kept of them."""
        files = hashlib.sha256(self.store["hashes"][self.take].astype("<u8").tobytes()).hexdigest()
        return ["images", files, self.view.key]

    def _view(self, row: int) -> Tensor:
        if self.view.random:
            torch.default_generator.manual_seed(seed_of(self._seed, self.epoch, row))
        image = self.pixels.image(row)
        return self.view.of_kept(image) if self.pixels.kept else self.view(image)

    def pictures(self, index: Sequence[int]) -> list[Array]:
        """Rows (as in Batch.index) as the model sees them, each (height, width, 3) uint8."""
        return [self._view(row).permute(1, 2, 0).contiguous().numpy() for row in index]
