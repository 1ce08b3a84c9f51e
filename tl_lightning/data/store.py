"""The flat arrays of one split on disk: written as a stream, read through memory maps."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tl_lightning.data.base import Array, Indices
from tl_lightning.data.checksums import opened, sealed

FORMAT = 3
"""Raised whenever the files change their meaning: older caches are then built again."""
META, TEXTS, ENDS = "meta.json", "texts.arrow", "text_ends"
_TEXT_SCHEMA = pa.schema([("text", pa.large_string()), ("pair", pa.large_string())])


class Writer:
    """Appends arrays to flat files in a folder, and the raw texts to an Arrow file.

    The folder is whole only after `finish`, which writes the description last.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}
        self._arrays: dict[str, dict[str, Any]] = {}
        self._sink = pa.OSFile(str(folder / TEXTS), "wb")
        self._texts = pa.ipc.new_file(self._sink, _TEXT_SCHEMA)
        self._count = 0  # of texts

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def add(self, name: str, values: npt.ArrayLike, dtype: npt.DTypeLike) -> None:
        """Appends values to the array of this name; the first call fixes its type."""
        array = np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<"))
        if name not in self._files:
            self._files[name] = (self._folder / f"{name}.bin").open("wb")
            self._arrays[name] = {"dtype": array.dtype.str, "size": 0}
        self._files[name].write(array.data)
        self._arrays[name]["size"] += array.size

    def add_texts(self, texts: list[str], pairs: list[str] | None) -> None:
        """Appends raw texts."""
        columns = [
            pa.array(texts, pa.large_string()),
            pa.array([None] * len(texts) if pairs is None else pairs, pa.large_string()),
        ]
        self._texts.write_batch(pa.record_batch(columns, schema=_TEXT_SCHEMA))
        self._count += len(texts)
        self.add(ENDS, [self._count], np.int64)

    def finish(self, **meta: Any) -> None:
        """Closes the arrays and writes the description, with `meta` in it."""
        self._close()
        description = {"format": FORMAT, "arrays": self._arrays, **meta}
        files = sorted(path for path in self._folder.iterdir() if path.is_file())
        (self._folder / META).write_text(sealed(description, files), encoding="utf-8")

    def _close(self) -> None:
        if not self._sink.closed:  # its own writer leaves it open, and buffered
            with self._sink:
                self._texts.close()
        for file in self._files.values():
            file.close()


class Store:
    """One split of N rows, memory-mapped.

    Raises OSError, ValueError or KeyError (damaged) where the folder does not hold what its description says.

    rows: (N,) int64 row numbers in the source, from 0; hashes: (N,) uint64 of the raw content. For classes codes:
    (N,) int32 into `vocabulary`; for labels the same flat, with label_offsets (N + 1,); for numbers: (N,) float32.
    The raw texts, or the names of the files, stand beside.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta: dict[str, Any] = opened(folder / META)
        if self.meta["format"] != FORMAT:
            raise ValueError(f"format {self.meta['format']}, expected {FORMAT}")
        self._arrays = {name: _open(folder / f"{name}.bin", **is_) for name, is_ in self.meta["arrays"].items()}
        self._homes = dict.fromkeys(self._arrays, folder)
        self._texts = pa.ipc.open_file(pa.memory_map(str(folder / TEXTS)))
        self.first_rows: dict[str, int] = self.meta["first_rows"]

    def __reduce__(self) -> tuple[type["Store"], tuple[Path]]:
        return type(self), (self.folder,)  # another process maps the files itself

    def __len__(self) -> int:
        return len(self._arrays["rows"])

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def once(self, name: str) -> Array:
        """The array opened anew: what is read of it leaves the memory of this process with what is given."""
        return _open(self._homes[name] / f"{name}.bin", **self.meta["arrays"][name])

    @property
    def vocabulary(self) -> list[str]:
        """The labels of this split, in the order in which they were met; codes point into it."""
        return list(self.first_rows)

    def texts(self, rows: Indices) -> list[str]:
        """The raw texts of these rows, pairs joined by a bar. Raises IndexError for a row not here."""
        at = np.minimum(np.searchsorted(self["rows"], rows), len(self) - 1)
        if not np.array_equal(self["rows"][at], rows):
            raise IndexError(f"rows {sorted(set(rows.tolist()) - set(self['rows'].tolist()))[:5]} are not in the split")
        return [text if pair is None else f"{text} | {pair}" for text, pair in self._cells(at)]

    def batches(self) -> Iterator[tuple[list[str], list[str] | None]]:
        """All raw texts in their order, and what they are paired with, as they were written: some thousand at a time.

        Not mapped: what was read leaves the memory of this process.
        """
        with pa.OSFile(str(self.folder / TEXTS)) as file:
            stored = pa.ipc.open_file(file)
            for number in range(stored.num_record_batches):
                batch = stored.get_batch(number)
                pairs = batch["pair"]
                yield batch["text"].to_pylist(), None if pairs.null_count == len(pairs) else pairs.to_pylist()

    def _cells(self, at: Indices) -> Iterator[tuple[str, str | None]]:
        """From the batches that hold them alone: Arrow's take of a whole table copies all its texts into memory.

        Where each batch ends is stored beside them: asking all of them maps a part of each.
        """
        ends = self._arrays.get(ENDS, np.empty(0, np.int64))
        numbers = np.searchsorted(ends, at, "right")
        batches = {number: self._texts.get_batch(number) for number in set(numbers.tolist())}
        for number, row in zip(numbers.tolist(), at.tolist(), strict=True):
            batch = batches[number]
            place = row - int(ends[number]) + batch.num_rows
            yield batch["text"][place].as_py(), batch["pair"][place].as_py()


class TokenStore(Store):
    """One tokenised split: its tokens, over the store of its rows, which are the same for all tokenizers.

    rows: that store, where it is open already; else it is looked for beside this one.

    offsets: (N + 1,) int64 into tokens; lengths: (N,) tokens per row; truncated: (N,) 0 or 1.
    """

    def __init__(self, folder: Path, rows: Store | None = None) -> None:
        super().__init__(folder)
        self._over(rows or Store(folder.with_name(self.meta["rows"])))
        if self["offsets"][-1] != len(self["tokens"]) or len(self["offsets"]) != len(self) + 1:
            raise ValueError("the offsets do not fit the tokens")
        self.lengths: Indices = np.diff(self["offsets"])

    def _over(self, rows: Store) -> None:
        self._homes = {**rows._homes, **self._homes}
        self._arrays = {**rows._arrays, **self._arrays}
        self.meta = {**rows.meta, **self.meta, "arrays": {**rows.meta["arrays"], **self.meta["arrays"]}}
        self._texts, self.first_rows = rows._texts, rows.first_rows


def _open(path: Path, dtype: str, size: int) -> Array:
    if path.stat().st_size != size * np.dtype(dtype).itemsize:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes, expected {size} values of {dtype}")
    # An empty file cannot be mapped.
    return np.memmap(path, dtype, "r", shape=(size,)) if size else np.empty(0, dtype)
