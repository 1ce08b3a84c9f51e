"""ImageData: from labelled images to batches of pixels for training, selecting and testing."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from tl_lightning.data import audit
from tl_lightning.data.base import Array, Batch, Indices
from tl_lightning.data.batching import SeededBatchSampler
from tl_lightning.data.cache import cache_root
from tl_lightning.data.faults import Faults
from tl_lightning.data.image_cache import Work, in_memory, on_disk
from tl_lightning.data.image_dataset import Decoded, ImageDataset, Pixels
from tl_lightning.data.image_index import IndexRecipe, open_index, see, workers
from tl_lightning.data.image_mixing import Mixer
from tl_lightning.data.image_options import check_image_options, check_image_spec
from tl_lightning.data.image_sources import Source
from tl_lightning.data.image_views import Augmentation, Augmented, AutoAugment, Plain
from tl_lightning.data.labelling import Seen
from tl_lightning.data.module import SplitData
from tl_lightning.data.store import Store
from tl_lightning.images import ImageSpec
from tl_lightning.ranges import Natural, PositiveUpTo1, Probability, Weight

MOST_WORKERS = 8
FEW = 2048
"""Images that are read, once, before the backbone is there: in a second or two it is known whether they are whole."""
BY_CHANCE = {
    "crop_scale": "null",
    "flip": "false",
    "auto_augment": "null",
    "random_erasing": "0",
    "mixup": "0",
    "cutmix": "0",
}
"""What chance does to training images, and how each is turned off."""


@dataclass(kw_only=True, eq=False, repr=False)
class ImageData(SplitData):
    """Images with a class, labels or a number each; its kinds say from where.

    For training: crop_scale: the area of a random crop, as shares of the image (null: resized and cut about the
    centre, as in evaluation). flip: left to right, half of them. auto_augment, random_erasing (a probability): see
    `Augmented`. mixup, cutmix (alphas; 0 is without): see `Mixer`; off for the last `mix_off_epochs` epochs.
    Evaluation resizes and cuts as the backbone was pretrained.

    on_bad: "error" or "skip", for files that are damaged, missing or too large, and rows without a label. Before
    the first training every file is read and its structure checked, once; "skip" decodes every file then.
    near_duplicates: look for images that are almost the same in two splits; a look at each file once.
    cache: keep decoded images of all splits in "ram" or on "disk", shrunk, so that training decodes nothing: those of
    val and test as the model sees them, those of train see `Augmented`. num_workers: processes that prepare batches
    (default: none on a CPU, which the model needs itself, else one per core, 8 at most). cache_dir: for facts of
    files and decoded images. The other parameters: see SplitData.
    """

    preprocessor: ImageSpec
    crop_scale: tuple[PositiveUpTo1, PositiveUpTo1] | None = (0.08, 1.0)
    flip: bool = True
    auto_augment: AutoAugment | None = None
    random_erasing: Probability = 0.0
    mixup: Weight = 0.0
    cutmix: Weight = 0.0
    mix_off_epochs: Natural = 0
    on_bad: Literal["error", "skip"] = "error"
    near_duplicates: bool = True
    cache: Literal["ram", "disk"] | None = None
    num_workers: Natural | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._stores: dict[str, Store] = {}
        self._kept: dict[str, int] = {}
        self._mixer: Mixer | None = None

    @abstractmethod
    def sources(self, faults: Faults, wait: bool) -> dict[str, Source] | None:
        """The sources there are: see `SplitData._open`."""

    def setup(self, stage: str = "") -> None:
        """Looks at files it does not know yet, learns the classes, takes the splits apart, decodes for the cache."""
        if self._parts:
            return
        self._look(wait=True)
        check_image_spec(self.preprocessor)
        assert self._origins is not None, "a look that waits sees all"
        self._index(self._origins)
        self._take_apart(self._stores)
        if self.mixup or self.cutmix:
            self._mixer = Mixer(self.mixup, self.cutmix, self.num_outputs)
        self._describe(
            [],
            near_duplicates=audit.near_images_of(self._parts),
            skipped=audit.left_out(self._parts, "skipped"),
            size=list(self.preprocessor.size),
            cache={"kind": self.cache, "bytes": self._kept, "folder": str(self._folder())},
            **self._origin(),
        )

    def _check_options(self, faults: Faults) -> None:
        super()._check_options(faults)
        check_image_options(self, faults)

    def _open(self, faults: Faults, wait: bool) -> dict[str, Source] | None:
        return self.sources(faults, wait)

    def _recipe(self) -> IndexRecipe:
        return IndexRecipe(self.target, self.label_separator, self.on_bad == "skip", self.near_duplicates)

    def _folder(self) -> Path:
        return cache_root(self.cache_dir, "images")

    def _see(self, origins: Mapping[str, Source], faults: Faults) -> dict[str, Seen]:
        seen = {split: Seen() for split in origins}
        for split, source in origins.items():
            faults.of(see, source, self._recipe(), seen[split])
        if not len(faults) and sum(split.rows for split in seen.values()) <= FEW:
            for split, source in origins.items():
                with faults.collected():
                    self._stores[split] = open_index(source, self._recipe(), self._folder())
                    seen[split].of(self._stores[split])
        return seen

    def _index(self, origins: Mapping[str, Source]) -> None:
        """Reads the files, of all splits, that the look has not read; classes are those of what is left of them."""
        faults, seen = Faults(), {split: Seen() for split in origins}
        for split, source in origins.items():
            with faults.collected():
                if split not in self._stores:
                    self._stores[split] = open_index(source, self._recipe(), self._folder())
                seen[split].of(self._stores[split])
        self._agree(origins, seen, faults, whole=True)
        faults.refuse()

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Mixes a training batch, on the device it is on."""
        return self._mixer(batch) if self._mixer is not None and self._mixes() else batch

    def pictures(self, split: str, index: list[int]) -> list[Array]:
        """Rows (as in Batch.index) of "val" or "test" as the model sees them, each (height, width, 3) uint8."""
        part: ImageDataset = self._parts[split]
        return part.pictures(index)

    def _mixes(self) -> bool:
        trainer = self.trainer
        if trainer is None or not trainer.training:
            return False
        last = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else float("inf")
        return trainer.current_epoch < last - self.mix_off_epochs

    def _part(self, split: str, store: Store, take: Indices) -> ImageDataset:
        how = Augmentation(self.crop_scale, self.flip, self.auto_augment, self.random_erasing)
        view = Augmented(self.preprocessor, how) if split == "train" else Plain(self.preprocessor)
        assert self._origins is not None
        decoded = Decoded(self._origins.get(split, self._origins["train"]))
        pixels: Pixels = decoded if self.cache is None else self._keep(Work(split, store, take, decoded, view))
        return ImageDataset(store, take, self._codes(store), self.num_outputs, pixels, view, self.seed)

    def _keep(self, work: Work) -> Pixels:
        self._kept[work.split] = work.bytes
        return in_memory(work) if self.cache == "ram" else on_disk(work, cache_root(self.cache_dir, "pixels"))

    def _row_name(self, origin: Source, row: int) -> str:
        return origin.name(row - 1)

    def _origin(self) -> dict[str, Any]:
        """What a kind of source adds to the summary."""
        return {}

    def varies(self, split: str) -> str | None:
        """What chance does to training images."""
        words = [f"data.{name}={off}" for name, off in BY_CHANCE.items() if getattr(self, name)]
        return " ".join(words) if words and split == "train" else None

    def _sampler(self, split: str, *, shuffle: bool, alone: bool = False) -> SeededBatchSampler:
        return SeededBatchSampler(len(self._parts[split]), **self._order(shuffle=shuffle, alone=alone))

    def _workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        return min(MOST_WORKERS, workers()) if torch.cuda.is_available() else 0
