"""Where images come from: rows of a label and the bytes of a file."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from tl_lightning.data.base import Indices
from tl_lightning.data.image_reading import ImageError
from tl_lightning.data.labels import Cell


class Source(Protocol):
    """The labelled images of one split, N rows."""

    @property
    def where(self) -> str:
        """The source in words, for messages."""

    def class_names(self, label: str) -> tuple[str, ...] | None:
        """The classes in their order, where the source itself declares them."""

    def key(self) -> object:
        """Plain values that change whenever a label or the content of a file does; no image is read for it."""

    def labels(self) -> Sequence[Cell]:
        """The label of each row."""

    def doubtful(self) -> Indices:
        """Rows that seem to have no file, or an empty one, as far as can be told without reading any."""

    def name(self, at: int) -> str:
        """What a table of predictions calls row `at`, counted from 0: the file's path as the user knows it."""

    def place(self, at: int) -> str:
        """Row `at` in a message: the whole path, and in a table the row's number."""

    def read(self, at: int) -> bytes:
        """The file of row `at`. Raises ImageError."""


def read_file(path: str) -> bytes:
    """The bytes of a file. Raises ImageError."""
    try:
        with open(path, "rb") as file:  # on the way of every sample, and twice as fast
            return file.read()
    except FileNotFoundError:
        raise ImageError("does not exist") from None
    except OSError as fault:
        raise ImageError(f"cannot be read: {fault.strerror or fault}") from None


class Stamps:
    """Sizes and times of change of files, (N, 2) int64, looked at once, when they are first asked for.

    Not a list: looking at it would copy it into every worker process.
    """

    def __init__(self) -> None:
        self._found: Indices | None = None

    def of(self, paths: Iterable[str | Path]) -> Indices:
        """Those of these files, the same ones at every call."""
        if self._found is None:
            self._found = np.array([stamp(path) for path in paths], np.int64).reshape(-1, 2)
        return self._found


def stamp(path: str | Path) -> tuple[int, int]:
    """Size and time of change of a file, (0, 0) where there is none: another content has another stamp."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
