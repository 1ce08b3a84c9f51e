"""Images that a table names, with a label each."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from tl_lightning.data.base import Indices
from tl_lightning.data.faults import Faults
from tl_lightning.data.files import file_tables
from tl_lightning.data.image import ImageData
from tl_lightning.data.image_sources import Source, Stamps, read_file
from tl_lightning.data.labels import Cell
from tl_lightning.data.tables import Columns, FileTable, check_columns, chunks
from tl_lightning.errors import UserError
from tl_lightning.files import located
from tl_lightning.parts import part

OPTIONS = ("image", "", "label")


class TableSource:
    """The rows of a table with a path and a label each; relative paths begin at `root`."""

    def __init__(self, table: FileTable, root: Path, columns: Columns) -> None:
        check_columns(table.names(), table.where, columns, OPTIONS)
        self.where, self._root = table.where, root
        names: list[str] = []
        self._labels: list[Cell] = []
        for chunk in chunks(table, columns, OPTIONS):
            names += chunk.texts
            self._labels += chunk.labels
        # Not a list: looking at its strings would copy it into every worker process.
        self._names = pa.array(names, pa.large_string())
        self._stamps = Stamps()

    def class_names(self, label: str) -> None:
        """A file declares no classes."""
        return

    def key(self) -> object:
        """Root, and label, path, size and time of change of every file."""
        names = self._names.to_pylist()
        paths = [(name, *found) for name, found in zip(names, self._looked_at().tolist(), strict=True)]
        return [str(self._root.resolve()), paths, self._labels]

    def _looked_at(self) -> Indices:
        return self._stamps.of(self._root / name for name in self._names.to_pylist())

    def labels(self) -> list[Cell]:
        """The label column."""
        return self._labels

    def doubtful(self) -> Indices:
        """Paths where there is no file, or one without a byte."""
        return np.flatnonzero(self._looked_at()[:, 0] == 0)

    def name(self, at: int) -> str:
        """The path as the table has it."""
        name: str = self._names[at].as_py()
        return name

    def place(self, at: int) -> str:
        """Table, row and path."""
        return f"{self.where}: row {at + 1}: {self._root / self.name(at)}"

    def read(self, at: int) -> bytes:
        """The file. Raises ImageError."""
        return read_file(str(self._root / self.name(at)))


@dataclass(kw_only=True, eq=False, repr=False)
@part("data")
class ImageTable(ImageData):
    """Images that csv, tsv, jsonl or parquet tables name, one row each.

    train, val, test: the tables, as for TextFiles; without val or test, a stratified part of train. image: the column
    of paths, relative to `root`, or without it to the folder of the table. label: its column; several labels in a cell
    are divided by label_separator. The other parameters: see ImageData.
    """

    train: str
    val: str | None = None
    test: str | None = None
    image: str = "image"
    root: str | None = None

    def _check_options(self, faults: Faults) -> None:
        super()._check_options(faults)
        if self.image == self.label:
            faults.add(f"data.image and data.label are both {self.label!r}: name two columns.")

    def sources(self, faults: Faults, wait: bool) -> dict[str, Source]:
        """One TableSource per table given that is there, and not given twice."""
        found: dict[str, Source] = {}
        for split, table in file_tables(self.train, self.val, self.test, faults).items():
            with faults.collected():
                found[split] = self._source(table)
        return found

    def _source(self, table: FileTable) -> TableSource:
        root = table.path.parent if self.root is None else located(self.root)
        if not root.is_dir():
            raise UserError(f"data.root={self.root}: there is no such folder. A relative path begins at {Path.cwd()}.")
        return TableSource(table, root, Columns(self.image, None, self.label))
