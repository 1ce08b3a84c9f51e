"""Images in folders, one for each class."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from tl_lightning.data.base import Indices
from tl_lightning.data.faults import Faults, same
from tl_lightning.data.image import ImageData
from tl_lightning.data.image_reading import EXTENSIONS
from tl_lightning.data.image_sources import Source, Stamps, read_file
from tl_lightning.data.labels import Cell
from tl_lightning.errors import UserError
from tl_lightning.files import located
from tl_lightning.parts import part

log = logging.getLogger(__name__)
NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""What the folder of a split may be called."""


class FolderSource:
    """The images below FOLDER/CLASS/, at any depth; those of each class in the order of their paths.

    root: what the paths in tables begin at. Raises UserError for a folder without classes and a class
    without images.
    """

    def __init__(self, folder: Path, root: Path, option: str) -> None:
        self.where = str(folder)
        self._root = root
        classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and _visible(entry.name))
        found = {name: sorted(_images(folder / name)) for name in classes}
        _check(folder, found, option)
        self._labels: list[Cell] = [name for name, paths in found.items() for _ in paths]
        # Not a list: looking at its strings would copy it into every worker process. As bytes, since a name on disk
        # need not be UTF-8.
        self._paths = pa.array([os.fsencode(path) for paths in found.values() for path in paths], pa.large_binary())
        self._stamps = Stamps()

    def class_names(self, label: str) -> None:
        """The folders are the classes, in the usual order."""
        return

    def key(self) -> object:
        """Root, and path, size and time of change of every file."""
        paths = [os.fsdecode(path) for path in self._paths.to_pylist()]
        stamps = self._stamps.of(paths).tolist()
        return [str(self._root.resolve()), [(path, *found) for path, found in zip(paths, stamps, strict=True)]]

    def labels(self) -> list[Cell]:
        """The class folder of each file."""
        return self._labels

    def doubtful(self) -> Indices:
        """Files without a byte, and links to nothing."""
        return np.flatnonzero(self._stamps.of(map(os.fsdecode, self._paths.to_pylist()))[:, 0] == 0)

    def name(self, at: int) -> str:
        """The path below the root."""
        return Path(self.place(at)).relative_to(self._root).as_posix().encode(errors="replace").decode()

    def place(self, at: int) -> str:
        """The whole path."""
        return os.fsdecode(self._paths[at].as_py())

    def read(self, at: int) -> bytes:
        """The file. Raises ImageError."""
        return read_file(self.place(at))


def _visible(name: str) -> bool:
    return not name.startswith(".")  # ._x.jpg holds what macOS knows of x.jpg, and no image


def _images(folder: Path) -> Iterator[str]:
    seen = set()
    for at, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(at)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = filter(_visible, folders)
        yield from (os.path.join(at, name) for name in files if _visible(name) and _is_image(name))


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _check(folder: Path, found: dict[str, list[str]], option: str) -> None:
    loose = sum(_is_image(entry.name) for entry in os.scandir(folder))
    kinds = " ".join(sorted(extension.removeprefix(".") for extension in EXTENSIONS))
    if not any(found.values()):
        fault = "its images stand in no folder of a class" if loose else f"there are no images in it ({kinds})"
        raise UserError(f"{option}: {folder}: {fault}. They are expected at {folder}/CLASS/.")
    empty = [name for name, paths in found.items() if not paths]
    if empty:
        raise UserError(
            f"{option}: {folder / empty[0]} holds no image ({kinds}): each folder stands for a class. Fill it or "
            f"take it away.{same(empty[1:], len(empty) - 1)}"
        )
    if loose:
        log.warning("%s: %d images stand in no folder of a class and are left out.", folder, loose)


@dataclass(kw_only=True, eq=False, repr=False)
@part("data")
class ImageFolder(ImageData):
    """Images in folders, one for each class: ROOT/train/CLASS/, with val/ (or valid/, validation/) and test/ if there.

    Without train/, ROOT/CLASS/. A split that is not there is a stratified part of train: where there is val/ and no
    test/, val/ selects and a part of train is kept for the test, so that nothing is selected and reported on the same
    images. Folders in the folder of a class belong to it; names that begin with a dot are passed over. The folders'
    names are the labels: with objective=multilabel several in one name, with objective=regression numbers.

    root: a path, relative to the working directory, or `package:NAME/PATH`. The other parameters: see ImageData.
    """

    root: str

    def sources(self, faults: Faults, wait: bool) -> dict[str, Source]:
        """One FolderSource per split that is there; collects what is not laid out like that."""
        found: dict[str, Source] = {}
        with faults.collected():
            root = located(self.root)
            for split, folder in self._folders(root, faults).items():
                with faults.collected():
                    found[split] = FolderSource(folder, root, f"data.root={self.root}")
        return found

    def _folders(self, root: Path, faults: Faults) -> dict[str, Path]:
        option = f"data.root={self.root}"
        if not root.is_dir():
            what = "is a file" if root.is_file() else "there is no such folder"
            raise UserError(f"{option}: {what}. A relative path begins at {Path.cwd()}.")
        folders = {split: [root / name for name in names if (root / name).is_dir()] for split, names in NAMES.items()}
        there = {split: found for split, found in folders.items() if found}
        if not there:
            return {"train": root}
        for found in there.values():
            if len(found) > 1:
                faults.add(
                    f"{option} has both {' and '.join(path.name for path in found)}: keep one of them, "
                    f"or put them together."
                )
        if "train" not in there:
            names = ", ".join(found[0].name for found in there.values())
            faults.add(f"{option} has {names} but no train: expected are train/CLASS/ beside it, or CLASS/ alone.")
        return {split: found[0] for split, found in there.items()}

    def _hint(self) -> str:
        return "Each class needs a folder of its own."
