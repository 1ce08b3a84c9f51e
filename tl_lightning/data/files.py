"""Text data from the user's own files."""

from dataclasses import dataclass
from pathlib import Path

from tl_lightning.data.faults import Faults
from tl_lightning.data.tables import FileTable, Table
from tl_lightning.data.text import TextData
from tl_lightning.files import located
from tl_lightning.parts import part


@dataclass(kw_only=True, eq=False, repr=False)
@part("data")
class TextFiles(TextData):
    """Text data from csv, tsv, jsonl or parquet files, told apart by their extensions.

    train, val, test: paths, relative to the working directory, or `package:NAME/PATH` in an installed package.
    Without val or test, a stratified part of train. The other parameters: see TextData.
    """

    train: str
    val: str | None = None
    test: str | None = None

    def tables(self, faults: Faults, wait: bool) -> dict[str, Table]:
        """One FileTable per file given that is there, and not given twice."""
        return dict(file_tables(self.train, self.val, self.test, faults))


def file_tables(train: str, val: str | None, test: str | None, faults: Faults) -> dict[str, FileTable]:
    """One table per file given; collects those that are not there or given twice."""
    tables: dict[str, FileTable] = {}
    seen: dict[Path, str] = {}
    for split, path in {"train": train, "val": val, "test": test}.items():
        if path is None:
            continue
        with faults.collected():
            table = FileTable(located(path), f"data.{split}")
            first = seen.setdefault(table.path.resolve(), split)
            if first == split:
                tables[split] = table
                continue
            faults.add(
                f"data.{first} and data.{split} are the same file, {path}: nothing may be selected or "
                f"reported on rows seen before. Leave data.{split} out to take a part of data.train."
            )
    return tables
