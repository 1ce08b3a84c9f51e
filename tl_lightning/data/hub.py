"""Text data from a data set of the Hugging Face hub, or a local folder laid out like one."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tl_lightning.data.hub_loading import commit_of, load
from tl_lightning.data.readers import ROWS, Batches
from tl_lightning.data.tables import Table
from tl_lightning.data.text import TextData
from tl_lightning.errors import UserError
from tl_lightning.parts import part

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


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

    def tables(self) -> dict[str, Table]:
        """One HubTable per split given. Raises UserError for what is not there, or given twice."""
        tables, self._commit = hub_tables(
            self.path, self.subset, self.revision, {"train": self.train, "val": self.val, "test": self.test}
        )
        return dict(tables)

    def _origin(self) -> dict[str, Any]:
        return {"revision": self._commit}


def hub_tables(
    path: str, subset: str | None, revision: str | None, given: dict[str, str | None]
) -> tuple[dict[str, HubTable], str | None]:
    """One table per split given, by "train", "val" and "test", and the commit they came from (None for a folder).

    given: the data set's own names of the splits. Raises UserError for what is not there, or given twice.
    """
    names = {split: name for split, name in given.items() if name is not None}
    if len(set(names.values())) < len(names):
        raise UserError(
            f"data.train, data.val and data.test must be different splits, not "
            f"{', '.join(names.values())}: type data.val=null to take a part of train."
        )
    loaded = load(path, subset, revision)
    tables = {split: _table(loaded, path, split, name) for split, name in names.items()}
    return tables, commit_of(loaded, path)


def _table(loaded: "DatasetDict", path: str, split: str, name: str) -> HubTable:
    if name not in loaded:
        instead = "" if split == "train" else f", or data.{split}=null to take a part of train"
        raise UserError(
            f"data.{split}={name}: {path} has no such split. It has {', '.join(map(str, loaded))}. "
            f"Type data.{split}={next(iter(loaded))}{instead}."
        )
    return HubTable(loaded[name], f"split {name!r} of {path}")
