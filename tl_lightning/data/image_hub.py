"""Images in a data set of the Hugging Face hub, or in a local folder laid out like one."""

import os
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from tl_lightning.data.base import Array, Indices
from tl_lightning.data.faults import Faults
from tl_lightning.data.hub import HubSplits, HubTable
from tl_lightning.data.image import ImageData
from tl_lightning.data.image_reading import ImageError
from tl_lightning.data.image_sources import Source, read_file, stamp
from tl_lightning.data.labels import Cell, cells
from tl_lightning.data.tables import Columns, check_columns
from tl_lightning.errors import UserError
from tl_lightning.parts import part

if TYPE_CHECKING:
    from datasets import Dataset


OPTIONS = ("image", "", "label")


class HubSource:
    """One split whose image column holds files: their bytes, or their paths on this machine."""

    def __init__(self, table: HubTable, image: str, label: str) -> None:
        check_columns(table.names(), table.where, Columns(image, None, label), OPTIONS)
        self.where, self._table, self._image, self._label = table.where, table, image, label
        self._files: Dataset = table.split.select_columns([image]).with_format("arrow")
        self._kind(self._files.data.schema.field(image).type)
        self._open()

    def _open(self) -> None:
        self._chunks: list[pa.Array] = self._files.data.column(self._image).chunks  # memory-mapped
        self._starts = np.cumsum([0, *(len(chunk) for chunk in self._chunks)])

    def __getstate__(self) -> dict[str, Any]:
        # Chunks would be copied; `datasets` maps the files anew.
        return {name: value for name, value in vars(self).items() if name not in ("_chunks", "_starts")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def _kind(self, type_: pa.DataType) -> None:
        binary = pa.types.is_binary(type_) or pa.types.is_large_binary(type_)
        if binary or (pa.types.is_struct(type_) and type_.get_field_index("bytes") >= 0):
            return
        raise UserError(
            f"data.image={self._image}: this column of {self.where} holds no images (its type is {type_}). "
            f"Its columns: {', '.join(self._table.names())}."
        )

    def class_names(self, label: str) -> tuple[str, ...] | None:
        """The names of a ClassLabel, or of a list of them."""
        return self._table.class_names(label)

    def key(self) -> object:
        """The files in which `datasets` keeps the rows, with sizes and times of change; without any, the content."""
        files = [(file["filename"], *stamp(file["filename"])) for file in self._table.split.cache_files]
        return [
            files or self._table.digest([self._image, self._label]),
            self._table.split._fingerprint,
            self._image,
            self._label,
        ]

    def labels(self) -> list[Cell]:
        """The label column."""
        names = self.class_names(self._label)
        found: list[Cell] = []
        for batch in self._table.batches([self._label]):
            where = f"column {self._label!r} of {self.where}"
            found += cells(batch.column(0), names, where, len(found) + 1)
        return found

    def doubtful(self) -> Indices:
        """Rows with neither bytes nor a path."""
        found = [_nothing(chunk) for chunk in self._chunks]
        return np.flatnonzero(np.concatenate([np.empty(0, bool), *found]))

    def name(self, at: int) -> str:
        """The file's name where the data set has it, else the row's number."""
        path = self._field(at, "path")
        return os.path.basename(path) if path else f"row {at + 1}"

    def place(self, at: int) -> str:
        """Split and row."""
        return f"{self.where}: row {at + 1}"

    def read(self, at: int) -> bytes:
        """The file. Raises ImageError."""
        found: bytes | None = self._field(at, "bytes")
        if found is not None:
            return found
        path = self._field(at, "path")
        if not path:
            raise ImageError("holds no image")
        return read_file(path)

    def _field(self, at: int, name: str) -> Any:
        chunk = int(np.searchsorted(self._starts, at, side="right")) - 1
        cell: Any = self._chunks[chunk][at - int(self._starts[chunk])].as_py()
        if isinstance(cell, bytes):
            return cell if name == "bytes" else None
        return None if cell is None else cell.get(name)


def _nothing(cells: pa.Array) -> Array:
    """Which cells hold no image, (N,) bool."""
    empty = cells.is_null()
    if pa.types.is_struct(cells.type):
        fields = [cells.field(name).is_null() for name in ("bytes", "path") if cells.type.get_field_index(name) >= 0]
        empty = pa.compute.or_(empty, reduce(pa.compute.and_, fields))
    return np.asarray(empty.to_numpy(zero_copy_only=False), bool)


@dataclass(kw_only=True, eq=False, repr=False)
@part("data")
class HubImages(ImageData):
    """Images from the hub by `datasets`, or from a local folder of data files.

    path, subset, revision, train, val, test: see HubText. image, label: the columns. The other parameters: see
    ImageData.
    """

    path: str
    subset: str | None = None
    revision: str | None = None
    train: str = "train"
    val: str | None = None
    test: str | None = "test"
    image: str = "image"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._splits = HubSplits(self.path, self.subset, self.revision, (self.train, self.val, self.test))

    def sources(self, faults: Faults, wait: bool) -> dict[str, Source] | None:
        """One HubSource per split given that is there; None where the data set would have to be brought first."""
        columns = Columns(self.image, None, self.label)
        tables = self._splits.tables(faults, wait, columns, OPTIONS)
        if tables is None:
            return None
        found: dict[str, Source] = {}
        for split, table in tables.items():
            with faults.collected():
                found[split] = HubSource(table, self.image, self.label)
        return found

    def _origin(self) -> dict[str, Any]:
        return {"revision": self._splits.commit}
