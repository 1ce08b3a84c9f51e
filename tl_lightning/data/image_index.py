"""The index of a split's images: every file looked at once, its facts and label kept in the cache."""

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tl_lightning.data.base import Target
from tl_lightning.data.cache import cached, hashed
from tl_lightning.data.image_likeness import UNKNOWN, Likeness, likeness
from tl_lightning.data.image_reading import MOST_PIXELS, Facts, ImageError, check
from tl_lightning.data.image_sources import Source
from tl_lightning.data.labelling import LabelWriter, kept_label
from tl_lightning.data.labels import Cell
from tl_lightning.data.store import FORMAT, Store, Writer
from tl_lightning.errors import UserError

log = logging.getLogger(__name__)
INDEX_FORMAT = 2
"""Raised whenever the check of a file or the meaning of the index changes."""
CHUNK = 1024
TOLD = 3
"""Skipped files that are named; the others are only counted."""


class IndexRecipe(NamedTuple):
    """What is made of a source; all of it is part of the index's key."""

    target: Target
    separator: str
    skip: bool
    near: bool = True  # whether it is kept what near duplicates are told by


def open_index(source: Source, recipe: IndexRecipe, root: Path) -> Store:
    """The index of a source, a Store with heights and widths (N,) int32 and the files' names as its texts.

    Where near duplicates are looked for, with likeness (N,) uint64 and small (N * SIDE * SIDE,) uint8: see Likeness.

    It is kept by the names, sizes and times of change of the files, so that a second run reads none of them.
    Raises UserError for a row that cannot be used (unless they are skipped), and where none can.
    """
    key = hashed([FORMAT, INDEX_FORMAT, MOST_PIXELS, *recipe, source.key()])
    return cached(root / key, Store, partial(_build, source, recipe), "looked-at images")


def workers() -> int:
    """Threads that decode: as many as this process has cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _build(source: Source, recipe: IndexRecipe, folder: Path) -> None:
    with Writer(folder) as writer, ThreadPoolExecutor(workers()) as pool:
        _Builder(writer, source, recipe, pool).run()


class Look(NamedTuple):
    """What is seen of a file."""

    facts: Facts
    likeness: Likeness


class _Builder:
    def __init__(self, writer: Writer, source: Source, recipe: IndexRecipe, pool: ThreadPoolExecutor) -> None:
        self._writer, self._source, self._recipe, self._pool = writer, source, recipe, pool
        self._labels = LabelWriter(writer, recipe.target, recipe.separator)
        self._left_out = {"dropped": 0, "skipped": 0}

    def run(self) -> None:
        cells = self._source.labels()
        log.info("%s: looking at %d images once", self._source.where, len(cells))
        for start in range(0, len(cells), CHUNK):
            self._append(list(self._kept(start, cells[start : start + CHUNK])))
        if sum(self._left_out.values()) == len(cells):
            raise UserError(f"{self._source.where}: there is no image in it that can be used.")
        self._tell()
        self._writer.finish(**self._left_out, first_rows=self._labels.first_rows)

    def _kept(self, start: int, cells: Sequence[Cell]) -> Iterator[tuple[int, Look, Cell]]:
        rows = range(start, start + len(cells))
        for at, found, cell in zip(rows, self._pool.map(self._look, rows), cells, strict=True):
            if not cell and self._recipe.target != "labels":
                self._leave_out("dropped", at, "has no label")
            elif isinstance(found, ImageError):
                self._leave_out("skipped", at, str(found))
            else:
                yield at, found, cell

    def _look(self, at: int) -> Look | ImageError:
        try:
            data = self._source.read(at)
            facts = check(data, thorough=self._recipe.skip)
        except ImageError as fault:
            return fault
        return Look(facts, likeness(data) if self._recipe.near else UNKNOWN)

    def _leave_out(self, kind: str, at: int, fault: str) -> None:
        place = self._source.place(at)
        if not self._recipe.skip:
            raise UserError(f"{place} {fault}. Mend it, or leave such rows out: data.on_bad=skip.")
        self._left_out[kind] += 1
        if sum(self._left_out.values()) <= TOLD:
            log.warning("%s %s: left out.", place, fault)

    def _append(self, rows: list[tuple[int, Look, Cell]]) -> None:
        if not rows:
            return
        places, looks, cells = zip(*rows, strict=True)
        facts, likes = zip(*looks, strict=True)
        self._writer.add("rows", places, np.int64)
        self._writer.add("hashes", [one.hash for one in facts], np.uint64)
        self._writer.add("heights", [one.height for one in facts], np.int32)
        self._writer.add("widths", [one.width for one in facts], np.int32)
        if self._recipe.near:
            self._writer.add("likeness", np.array([one.hash for one in likes], np.uint64), np.uint64)
            self._writer.add("small", np.concatenate([one.small for one in likes]), np.uint8)
        self._writer.add_texts([self._source.name(at) for at in places], None)
        labels = [kept_label(cell, self._recipe.separator) for cell in cells]
        self._labels.add(labels, places, [self._source.place(at) for at in places])

    def _tell(self) -> None:
        count = sum(self._left_out.values())
        if count:
            log.warning("%s: %d rows were left out (data.on_bad=skip).", self._source.where, count)
