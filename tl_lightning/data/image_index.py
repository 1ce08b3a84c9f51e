"""The index of a split's images: every file looked at once, its facts and label kept in the cache."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tl_lightning.data.base import Target
from tl_lightning.data.cache import cached, hashed
from tl_lightning.data.faults import DataError, RowError, RowFaults
from tl_lightning.data.image_likeness import UNKNOWN, Likeness, likeness
from tl_lightning.data.image_reading import MOST_PIXELS, Facts, ImageError, check
from tl_lightning.data.image_sources import Source
from tl_lightning.data.labelling import LabelWriter, Seen
from tl_lightning.data.labels import Cell, Label, label_of
from tl_lightning.data.store import FORMAT, Store, Writer
from tl_lightning.errors import UserError

log = logging.getLogger(__name__)
INDEX_FORMAT = 2
"""Raised whenever the check of a file or the meaning of the index changes."""
CHUNK = 1024
UNLABELLED = "has no label"
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
    Raises UserError for all rows that cannot be used (unless they are skipped), and where none can.
    """
    key = hashed([FORMAT, INDEX_FORMAT, MOST_PIXELS, *recipe, source.key()])
    return cached(root / key, Store, partial(_build, source, recipe), "looked-at images")


def see(source: Source, recipe: IndexRecipe, seen: Seen) -> None:
    """Looks at the labels of a source, and at whether its files are there, without reading them.

    Where rows may be skipped for what is in their files, `seen` is not whole: which labels are left is not known yet.
    Raises UserError for all rows that cannot be used.
    """
    bad, doubtful = RowFaults(), set(() if recipe.skip else source.doubtful().tolist())
    for at, cell in enumerate(source.labels()):
        try:
            seen.add(_labelled(cell, recipe), at)
            if at in doubtful:
                check(source.read(at), thorough=False)
        except (RowError, ImageError) as fault:
            if not (recipe.skip and _left_out(source, at, fault)):
                bad.add(source.place(at), _told(fault), source.name(at))
    seen.whole = not recipe.skip
    if bad:
        raise DataError(*bad.told())


def _labelled(cell: Cell, recipe: IndexRecipe) -> Label:
    # No label at all is a fair answer where a row may have any number of them.
    if not cell and recipe.target != "labels":
        raise ImageError(UNLABELLED)
    return label_of(cell, recipe.target, recipe.separator)


def _left_out(source: Source, at: int, fault: RowError | ImageError) -> bool:
    """Whether a row is skipped for something else than a label that cannot be used."""
    if isinstance(fault, ImageError):
        return True
    try:
        check(source.read(at), thorough=True)
    except ImageError:
        return True
    return False


def _told(fault: RowError | ImageError) -> RowError:
    if isinstance(fault, RowError):
        return fault
    kind = re.split("[:(]", str(fault))[0]
    return RowError(kind, f"{fault}. Mend it, or leave such rows out: data.on_bad=skip.")


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
        self._labels, self._bad = LabelWriter(writer, recipe.target), RowFaults()
        self._left_out = {"dropped": 0, "skipped": 0}

    def run(self) -> None:
        cells = self._source.labels()
        log.info("%s: looking at %d images once", self._source.where, len(cells))
        for start in range(0, len(cells), CHUNK):
            self._append(list(self._kept(start, cells[start : start + CHUNK])))
        if self._bad:
            raise DataError(*self._bad.told())
        if sum(self._left_out.values()) == len(cells):
            raise UserError(f"{self._source.where}: there is no image in it that can be used.")
        self._tell()
        self._writer.finish(**self._left_out, first_rows=self._labels.first_rows)

    def _kept(self, start: int, cells: Sequence[Cell]) -> Iterator[tuple[int, Look, Label]]:
        rows = range(start, start + len(cells))
        for at, found, cell in zip(rows, self._pool.map(self._look, rows), cells, strict=True):
            if not cell and self._recipe.target != "labels":
                self._leave_out("dropped", at, ImageError(UNLABELLED))
            elif isinstance(found, ImageError):
                self._leave_out("skipped", at, found)
            else:
                try:
                    yield at, found, label_of(cell, self._recipe.target, self._recipe.separator)
                except RowError as fault:
                    self._bad.add(self._source.place(at), fault, self._source.name(at))

    def _look(self, at: int) -> Look | ImageError:
        try:
            data = self._source.read(at)
            facts = check(data, thorough=self._recipe.skip)
        except ImageError as fault:
            return fault
        return Look(facts, likeness(data) if self._recipe.near else UNKNOWN)

    def _leave_out(self, kind: str, at: int, fault: ImageError) -> None:
        place = self._source.place(at)
        if not self._recipe.skip:
            self._bad.add(place, _told(fault), self._source.name(at))
            return
        self._left_out[kind] += 1
        if sum(self._left_out.values()) <= TOLD:
            log.warning("%s %s: left out.", place, fault)

    def _append(self, rows: list[tuple[int, Look, Label]]) -> None:
        if not rows or self._bad:
            return
        places, looks, labels = zip(*rows, strict=True)
        facts, likes = zip(*looks, strict=True)
        self._writer.add("rows", places, np.int64)
        self._writer.add("hashes", [one.hash for one in facts], np.uint64)
        self._writer.add("heights", [one.height for one in facts], np.int32)
        self._writer.add("widths", [one.width for one in facts], np.int32)
        if self._recipe.near:
            self._writer.add("likeness", np.array([one.hash for one in likes], np.uint64), np.uint64)
            self._writer.add("small", np.concatenate([one.small for one in likes]), np.uint8)
        self._writer.add_texts([self._source.name(at) for at in places], None)
        self._labels.add(labels, places)

    def _tell(self) -> None:
        count = sum(self._left_out.values())
        if count:
            log.warning("%s: %d rows were left out (data.on_bad=skip).", self._source.where, count)
