"""Text data from a data set of the Hugging Face hub, or a local folder laid out like one."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tl_lightning.data.faults import Faults
from tl_lightning.data.hub_loading import HubSet, commit_of
from tl_lightning.data.readers import ROWS, Batches
from tl_lightning.data.tables import OPTIONS, Columns, Table, check_columns
from tl_lightning.data.text import TextData
from tl_lightning.parts import part

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class HubTable:
    """One split of a loaded data set; it streams from the Arrow files that `datasets` keeps."""

    split: "Dataset"
    where: str

    def names(self) -> list[str]:
        """The columns there are."""
        return list(self.split.column_names)

    def batches(self, columns: Sequence[str]) -> Batches:
        """A stream of these columns."""
        for table in self.split.select_columns(list(columns)).with_format("arrow").iter(batch_size=ROWS):
            yield from table.combine_chunks().to_batches()

    def digest(self, columns: Sequence[str]) -> str:
        """sha256 of the columns' content."""
        found = [name for name in columns if name in self.split.column_names]
        digest = hashlib.sha256(repr(found).encode())
        for batch in self.batches(found):
            digest.update(batch.replace_schema_metadata().serialize())
        return digest.hexdigest()

    def class_names(self, label: str) -> tuple[str, ...] | None:
        """The names of a ClassLabel, or of a list of them."""
        feature: Any = self.split.features.get(label)
        names = getattr(getattr(feature, "feature", feature), "names", None)
        return None if names is None else tuple(names)


@dataclass(kw_only=True, eq=False, repr=False)
@part("data")
class HubText(TextData):
    """Text data from the hub by `datasets`, or from a local folder of data files.

    path: ORG/NAME or a folder. subset: its configuration. revision: a branch, tag or commit; the commit that
    was used stands in `summary["revision"]` (None for a folder). train, val, test: names of its splits;
    without val or test, a stratified part of train. The other parameters: see TextData.
    """

    path: str
    subset: str | None = None
    revision: str | None = None
    train: str = "train"
    val: str | None = None
    test: str | None = "test"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._splits = HubSplits(self.path, self.subset, self.revision, (self.train, self.val, self.test))

    def tables(self, faults: Faults, wait: bool) -> dict[str, Table] | None:
        """One HubTable per split given that is there; None where the data set would have to be brought first."""
        tables = self._splits.tables(faults, wait, self.columns)
        return None if tables is None else dict(tables)

    def _origin(self) -> dict[str, Any]:
        return {"revision": self._splits.commit}


class HubSplits:
    """The splits of a data set that train, val and test name, each by the data set's own name of it or None."""

    def __init__(
        self, path: str, subset: str | None, revision: str | None, given: tuple[str | None, str | None, str | None]
    ) -> None:
        self._path, self._subset, self._revision = path, subset, revision
        self._names = {split: name for split, name in zip(SPLITS, given, strict=True) if name is not None}
        self._set: HubSet | None = None
        self.commit: str | None = None
        """That they came from; None for a folder, and before they are loaded."""

    def tables(
        self, faults: Faults, wait: bool, columns: Columns, options: Sequence[str] = OPTIONS
    ) -> dict[str, HubTable] | None:
        """One table per split that is there; collects what is not, or is given twice.

        None where it would have to be brought over a network and nobody waits, or something is wrong already: then
        the columns are looked for in what is told of the data set before.
        """
        self._check_different(faults)
        with faults.collected():
            self._set = self._set or HubSet(self._path, self._subset, self._revision)
            if not self._set.at_hand and (len(faults) or not wait):
                self._check_promised(self._set, faults, columns, options)
                return None
            loaded = self._set.load()
            self.commit = commit_of(loaded, self._path)
            there = self._there(list(map(str, loaded)), faults)
            return {split: HubTable(loaded[name], self._where(name)) for split, name in there.items()}
        return {}

    def _where(self, name: str) -> str:
        return f"split {name!r} of {self._path}"

    def _check_different(self, faults: Faults) -> None:
        if len(set(self._names.values())) < len(self._names):
            faults.add(
                f"data.train, data.val and data.test must be different splits, not "
                f"{', '.join(self._names.values())}: type data.val=null to take a part of train."
            )

    def _check_promised(self, found: HubSet, faults: Faults, columns: Columns, options: Sequence[str]) -> None:
        if found.splits is not None:
            self._there(found.splits, faults)
        if found.columns is not None:
            faults.of(check_columns, found.columns, self._path, columns, options)

    def _there(self, names: Sequence[str], faults: Faults) -> dict[str, str]:
        for split, name in self._names.items():
            if name not in names:
                instead = "" if split == "train" else f", or data.{split}=null to take a part of train"
                faults.add(
                    f"data.{split}={name}: {self._path} has no such split. It has {', '.join(names)}. "
                    f"Type data.{split}={names[0]}{instead}."
                )
        return {split: name for split, name in self._names.items() if name in names}
