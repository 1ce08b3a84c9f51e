"""Images that a table names, with a label each."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tl_lightning.data.files import file_tables
from tl_lightning.data.image import ImageData
from tl_lightning.data.image_sources import Source, read_file, stamp
from tl_lightning.data.labels import Cell
from tl_lightning.data.tables import Columns, FileTable, chunks
from tl_lightning.errors import UserError
from tl_lightning.files import located
from tl_lightning.parts import part


class TableSource:
    """The rows of a table with a path and a label each; relative paths begin at `root`."""

    def __init__(self, table: FileTable, root: Path, columns: Columns) -> None:
        self.where, self._root = table.where, root
        names: list[str] = []
        self._labels: list[Cell] = []
        for chunk in chunks(table, columns, ("image", "", "label")):
            names += chunk.texts
            self._labels += chunk.labels
        # Not a list: looking at its strings would copy it into every worker process.
        self._names = pa.array(names, pa.large_string())

    def class_names(self, label: str) -> None:
        """A file declares no classes."""
        return

    def key(self) -> object:
        """Root, and label, path, size and time of change of every file."""
        paths = [(name, *stamp(self._root / name)) for name in self._names.to_pylist()]
        return [str(self._root.resolve()), paths, self._labels]

    def labels(self) -> list[Cell]:
        """The label column."""
        return self._labels

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

    def __post_init__(self) -> None:
        if self.image == self.label:
            raise UserError(f"data.image and data.label are both {self.label!r}: name two columns.")
        super().__post_init__()

    def sources(self) -> dict[str, Source]:
        """One TableSource per table given. Raises UserError for a table that is not there or given twice."""
        tables = file_tables(self.train, self.val, self.test)
        return {split: self._source(table) for split, table in tables.items()}

    def _source(self, table: FileTable) -> TableSource:
        root = table.path.parent if self.root is None else located(self.root)
        if not root.is_dir():
            raise UserError(f"data.root={self.root}: there is no such folder. A relative path begins at {Path.cwd()}.")
        return TableSource(table, root, Columns(self.image, None, self.label))
