"""TextData: from tables of texts and labels to batches for training, selecting and testing."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import lightning
import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from tl_lightning.data import audit
from tl_lightning.data.base import Indices, Target
from tl_lightning.data.batching import BucketBatchSampler, TextLoader, text_loader
from tl_lightning.data.build import Recipe
from tl_lightning.data.cache import cache_root, open_store
from tl_lightning.data.clean import Step
from tl_lightning.data.dataset import TextDataset
from tl_lightning.data.encoding import Encoder
from tl_lightning.data.labels import check_known, learn_classes
from tl_lightning.data.options import check_options
from tl_lightning.data.splits import first_fraction, first_shots, hold_out, strata
from tl_lightning.data.store import Store
from tl_lightning.data.tables import Columns, Table


@dataclass(kw_only=True, eq=False, repr=False)
class TextData(lightning.LightningDataModule):
    """Single texts or pairs, with a class, labels or a number each; its two kinds say from where.

    text, text_pair, label: the columns. batch_size, eval_batch_size: rows per device (default of the second:
    twice the first). max_length: tokens per text, special ones counted (default: what the model takes, 512 at
    most). clean: steps of `tl_lightning.data.clean`. on_empty: "error" or "drop", for rows without text or
    label. label_separator: between the labels in one cell. val_fraction, test_fraction, split_seed: the
    stratified part of train that stands in for a split that is not given. train_fraction, shots (rows per
    class): fewer rows to train on, stratified and nested, chosen by `seed`; numbers and label sets have
    fractions only, those of label sets plainly random. cache_dir: for tokenised texts (default
    $TL_LIGHTNING_CACHE or ~/.cache/tl_lightning). near_duplicates: look for rows that are almost the same in two
    splits.

    Everything is there after `setup`, which prepares all three splits and may be called again. Raises
    UserError for whatever is wrong with options or tables.
    """

    preprocessor: PreTrainedTokenizerBase
    target: Target
    seed: int = 0
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    batch_size: int = 32
    eval_batch_size: int | None = None
    max_length: int | None = None
    clean: list[Step] | None = None
    on_empty: Literal["error", "drop"] = "error"
    label_separator: str = ","
    val_fraction: float = 0.1
    test_fraction: float = 0.1
    split_seed: int = 0
    train_fraction: float | None = None
    shots: int | None = None
    num_workers: int = 0
    cache_dir: str | None = None
    near_duplicates: bool = True

    def __post_init__(self) -> None:
        super().__init__()
        check_options(self)
        self._parts: dict[str, TextDataset] = {}
        self.classes: tuple[str, ...] = ()
        self.num_outputs = 1
        self.fingerprint = ""
        self.summary: dict[str, Any] = {}

    @abstractmethod
    def tables(self) -> dict[str, Table]:
        """The tables there are, by "train", "val" and "test"; the last two may be missing."""

    def setup(self, stage: str = "") -> None:
        """Tokenises what is not in the cache, learns the classes, takes the splits apart."""
        if self._parts:
            return
        columns = Columns(self.text, self.text_pair, self.label)
        steps = tuple(self.clean or ())
        recipe = Recipe(columns, self.target, steps, self.on_empty, self.label_separator, self.near_duplicates)
        encoder = Encoder(self.preprocessor, self.max_length, self.text_pair is not None)
        tables, root = self.tables(), cache_root(self.cache_dir)
        stores = {split: open_store(table, encoder, recipe, root) for split, table in tables.items()}
        self._learn(tables, stores)
        takes = self._divide(stores)
        self._parts = {split: self._part(stores.get(split, stores["train"]), take) for split, take in takes.items()}
        self._describe(encoder.max_length, str(root))

    def train_dataloader(self) -> TextLoader:
        """Batches of like length in a new order every epoch; its place can be saved and taken up again."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> TextLoader:
        """Every row once, the longest first."""
        return self._loader("val", shuffle=False)

    def test_dataloader(self) -> TextLoader:
        """Every row once, the longest first."""
        return self._loader("test", shuffle=False)

    def texts(self, split: str, index: list[int]) -> list[str]:
        """The raw texts of rows (as in Batch.index) of "train", "val" or "test", pairs joined by " | "."""
        return self._parts[split].store.texts(np.asarray(index, np.int64))

    def _learn(self, tables: dict[str, Table], stores: dict[str, Store]) -> None:
        declared = tables["train"].class_names(self.label)
        where = f"data.train ({tables['train'].where})"
        self.classes = learn_classes(stores["train"].vocabulary, declared, self.target, where)
        self.num_outputs = len(self.classes) or 1
        if self.target != "number":  # a class that is declared but never trained is as unknown as any other
            for split, store in stores.items():
                check_known(store.first_rows, stores["train"].vocabulary, split, tables[split].where)

    def _divide(self, stores: dict[str, Store]) -> dict[str, Indices]:
        """Which rows of their store each split has; val and test are settled before train shrinks."""
        groups = self._groups(stores["train"])
        fractions = {"val": self.val_fraction, "test": self.test_fraction}
        missing = {split: size for split, size in fractions.items() if split not in stores}
        *held, train = hold_out(groups, list(missing.values()), self.split_seed)
        takes = dict(zip(missing, held, strict=True))
        takes |= {split: np.arange(len(store)) for split, store in stores.items() if split != "train"}
        return {"train": self._fewer(train, groups[train]), "val": takes["val"], "test": takes["test"]}

    def _fewer(self, train: Indices, groups: Indices) -> Indices:
        if self.train_fraction is not None:
            return train[first_fraction(groups, self.train_fraction, self.seed)]
        if self.shots is not None:
            return train[first_shots(groups, self.classes, self.shots, self.seed)]
        return train

    def _groups(self, store: Store) -> Indices:
        """What splits are stratified by, (N,): the class, a tenth of the numbers, nothing for label sets."""
        if self.target == "class":
            return self._codes(store)[store["codes"]]
        return strata(store["numbers"]) if self.target == "number" else np.zeros(len(store), np.int64)

    def _codes(self, store: Store) -> Indices:
        place = {name: at for at, name in enumerate(self.classes)}
        return np.asarray([place[label] for label in store.vocabulary], np.int64)

    def _part(self, store: Store, take: Indices) -> TextDataset:
        return TextDataset(store, take, self._codes(store), self.num_outputs, self.preprocessor)

    def _describe(self, max_length: int, cache: str) -> None:
        steps = list(self.clean or [])
        prints = {split: audit.fingerprint(part, self.classes, steps) for split, part in self._parts.items()}
        self.fingerprint = audit.combined(prints)
        self.summary = audit.summary(
            self._parts,
            near_duplicates=audit.near_duplicates(self._parts),
            truncated=audit.truncated(self._parts, max_length),
            classes=audit.class_counts(self._parts["train"], self.classes),
            cleaning=steps,
            max_length=max_length,
            padding=round(self._sampler("train", shuffle=True).padding(), 4),
            cache=cache,
            fingerprints=prints,
            **self._origin(),
        )

    def _origin(self) -> dict[str, Any]:
        """What a kind of source adds to the summary."""
        return {}

    def _sampler(self, split: str, *, shuffle: bool) -> BucketBatchSampler:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        size = self.batch_size if shuffle else self.eval_batch_size or 2 * self.batch_size
        lengths = self._parts[split].lengths
        return BucketBatchSampler(lengths, size, seed=self.seed, rank=rank, world_size=world, shuffle=shuffle)

    def _loader(self, split: str, *, shuffle: bool) -> TextLoader:
        sampler = self._sampler(split, shuffle=shuffle)
        pin = torch.cuda.is_available()
        return text_loader(self._parts[split], sampler, num_workers=self.num_workers, pin_memory=pin)
