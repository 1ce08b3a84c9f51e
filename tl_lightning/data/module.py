"""SplitData: what all data modules share, from stores of labelled rows to loaders for their three splits."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import lightning
import numpy as np
import torch

from tl_lightning.data import audit
from tl_lightning.data.base import Indices, Target
from tl_lightning.data.batching import SeededBatchSampler
from tl_lightning.data.faults import Faults
from tl_lightning.data.labelling import Seen
from tl_lightning.data.labels import check_known, learn_classes
from tl_lightning.data.loading import ExactLoader, exact_loader
from tl_lightning.data.options import check_options
from tl_lightning.data.part import Part
from tl_lightning.data.splits import first_fraction, first_shots, hold_out, part_ends, strata
from tl_lightning.data.store import Store
from tl_lightning.ranges import Between0And1, Count, Natural, PositiveUpTo1, Seed


class Origin(Protocol):
    """Where the rows of a split come from."""

    @property
    def where(self) -> str:
        """The source in words, for messages."""

    def class_names(self, label: str) -> tuple[str, ...] | None:
        """The classes in their order, where the source itself declares them."""


@dataclass(kw_only=True, eq=False, repr=False)
class SplitData(lightning.LightningDataModule):
    """Rows with a class, labels or a number each, in three splits; texts and images are its two kinds.

    label: the column. batch_size, eval_batch_size: rows per device (default of the second: twice the first).
    label_separator: between the labels in one cell. val_fraction, test_fraction, split_seed: the stratified part
    of train that stands in for a split that is not given. train_fraction, shots (rows per class): fewer rows to
    train on, stratified and nested, chosen by `seed`; numbers and label sets have fractions only, those of label
    sets plainly random. num_workers: processes that prepare batches. cache_dir: for what is prepared once (default
    $TL_LIGHTNING_CACHE or ~/.cache/tl_lightning).

    cache_features: while nothing in the backbone moves, keep its features in the cache as "float32" or "float16" and
    train on them; "auto" is float32 wherever it can be, null is never. The batches stay the same, and their order.

    Everything is there after `setup`, which prepares all three splits and may be called again. `look` goes before:
    it needs no `preprocessor`, which may be given after it, and what it has read is not read again. Both raise
    UserError with all that is wrong with options and sources.
    """

    preprocessor: Any
    target: Target
    seed: Seed = 0
    label: str = "label"
    batch_size: Count = 32
    eval_batch_size: Count | None = None
    label_separator: str = ","
    val_fraction: Between0And1 = 0.1
    test_fraction: Between0And1 = 0.1
    split_seed: Natural = 0
    train_fraction: PositiveUpTo1 | None = None
    shots: Count | None = None
    num_workers: Natural | None = 0
    cache_dir: str | None = None
    cache_features: Literal["auto", "float32", "float16"] | None = "auto"

    def __post_init__(self) -> None:
        super().__init__()
        self._origins: dict[str, Any] | None = None
        self._parts: dict[str, Any] = {}
        self.classes: tuple[str, ...] = ()
        self.num_outputs = 1
        self.fingerprint = ""
        self.summary: dict[str, Any] = {}

    def look(self) -> None:
        """Looks at options, files, columns, labels and splits, as far as nothing has to be brought over a network.

        Raises UserError with everything that is wrong.
        """
        self._look(wait=False)

    @abstractmethod
    def _open(self, faults: Faults, wait: bool) -> dict[str, Any] | None:
        """The sources there are, by "train", "val" and "test"; the last two may be missing.

        faults: collects what is wrong with them; a source that cannot be used is left out. wait: for what has to be
        brought over a network; without it, None stands for sources of which no more is known yet.
        """

    @abstractmethod
    def _see(self, origins: Mapping[str, Any], faults: Faults) -> dict[str, Seen]:
        """Reads labels, and whatever else is cheap, of each source; collects what is wrong with them."""

    @abstractmethod
    def _part(self, split: str, store: Store, take: Indices) -> Part:
        """Some rows of a store as the batches of a split."""

    @abstractmethod
    def _sampler(self, split: str, *, shuffle: bool, alone: bool = False) -> SeededBatchSampler:
        """The order of a split's batches: see `_order`."""

    def part(self, split: str) -> Part:
        """The rows of "train", "val" or "test"."""
        found: Part = self._parts[split]
        return found

    def varies(self, split: str) -> str | None:
        """What makes the inputs of a split others in each epoch, as the words that turn it off; None if nothing."""
        return None

    def _row_name(self, origin: Any, row: int) -> str:
        """A row of a source, numbered from 1, in words."""
        return f"row {row}"

    def _check_options(self, faults: Faults) -> None:
        """Collects the options that cannot be meant."""
        check_options(self, faults)

    def _hint(self) -> str:
        """What the user may have meant where there is nothing to learn."""
        return "Is data.label= the right column?"

    def train_dataloader(self) -> ExactLoader:
        """Batches in a new order every epoch; its place can be saved and taken up again."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> ExactLoader:
        """Every row once."""
        return self._loader("val", shuffle=False)

    def test_dataloader(self) -> ExactLoader:
        """Every row once."""
        return self._loader("test", shuffle=False)

    def whole_loader(self, split: str) -> ExactLoader:
        """Every row of a split once, in this process alone and as for evaluation: for what is computed once."""
        return self._loader(split, shuffle=False, alone=True)

    def texts(self, split: str, index: list[int]) -> list[str]:
        """What stands for rows (as in Batch.index) of "train", "val" or "test" in a table: texts, or file names."""
        store: Store = self._parts[split].store
        return store.texts(np.asarray(index, np.int64))

    def _look(self, wait: bool) -> None:
        """Looks at everything once; what was wrong before is looked at again."""
        if self._origins is not None:
            return
        faults = Faults()
        self._check_options(faults)
        meant = not len(faults)
        origins = self._open(faults, wait)
        if origins and meant:  # options that cannot be meant would find faults that are none
            whole = not len(faults)
            seen = self._see(origins, faults)
            self._agree(origins, seen, faults, whole)
        faults.refuse()
        self._origins = origins

    def _agree(self, origins: Mapping[str, Origin], seen: Mapping[str, Seen], faults: Faults, whole: bool) -> None:
        """Learns the classes and collects what does not fit together; whole: all splits that are given are there."""
        if "train" not in seen or not seen["train"].whole:
            return
        with faults.collected():
            self._learn(origins["train"], list(seen["train"].first_rows))
            for split in seen:
                faults.of(self._check_known, split, origins[split], seen)
        missing = [size for split, size in self._fractions().items() if split not in origins]
        if whole:
            faults.of(part_ends, seen["train"].rows, missing)

    def _learn(self, train: Origin, labels: Sequence[str]) -> None:
        declared, where = train.class_names(self.label), f"data.train ({train.where})"
        self.classes = learn_classes(labels, declared, self.target, where, self._hint())
        self.num_outputs = len(self.classes) or 1

    def _check_known(self, split: str, origin: Origin, seen: Mapping[str, Seen]) -> None:
        known = seen["train"].first_rows  # a class that is declared but never trained is as unknown as any other
        odd = {label: row for label, row in seen[split].first_rows.items() if label not in known}
        check_known(
            {label: self._row_name(origin, row) for label, row in odd.items()}, list(known), split, origin.where
        )

    def _fractions(self) -> dict[str, float]:
        """What is taken of train for a split that is not given."""
        return {"val": self.val_fraction, "test": self.test_fraction}

    def _take_apart(self, stores: Mapping[str, Store]) -> None:
        takes = self._divide(stores)
        self._parts = {
            split: self._part(split, stores.get(split, stores["train"]), take) for split, take in takes.items()
        }

    def _divide(self, stores: Mapping[str, Store]) -> dict[str, Indices]:
        """Which rows of their store each split has; val and test are settled before train shrinks."""
        groups = self._groups(stores["train"])
        missing = {split: size for split, size in self._fractions().items() if split not in stores}
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

    def _describe(self, clean: list[str], **more: Any) -> None:
        prints = {split: audit.fingerprint(part, self.classes, clean) for split, part in self._parts.items()}
        self.fingerprint = audit.combined(prints)
        classes = audit.class_counts(self._parts["train"], self.classes)
        self.summary = audit.summary(self._parts, classes=classes, fingerprints=prints, **more)

    def _order(self, *, shuffle: bool, alone: bool = False) -> dict[str, Any]:
        """What a sampler needs beside its rows; alone: this process takes the part of all."""
        among = self.trainer if not alone else None
        rank, world = (among.global_rank, among.world_size) if among else (0, 1)
        size = self.batch_size if shuffle else self.eval_batch_size or 2 * self.batch_size
        return {"batch_size": size, "seed": self.seed, "rank": rank, "world_size": world, "shuffle": shuffle}

    def _workers(self) -> int:
        return self.num_workers or 0

    def _loader(self, split: str, *, shuffle: bool, alone: bool = False) -> ExactLoader:
        sampler = self._sampler(split, shuffle=shuffle, alone=alone)
        pin = torch.cuda.is_available()
        return exact_loader(self._parts[split], sampler, num_workers=self._workers(), pin_memory=pin)
