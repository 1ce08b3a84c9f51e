"""Caches on disk: one folder per content and recipe, whole or not there."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import filelock

from tl_lightning.data.build import build
from tl_lightning.data.encoding import Encoder
from tl_lightning.data.labelling import Seen
from tl_lightning.data.rows import Recipe, read
from tl_lightning.data.store import FORMAT, Store, TokenStore
from tl_lightning.data.tables import Table
from tl_lightning.errors import UserError

log = logging.getLogger(__name__)
S = TypeVar("S", bound=Store)


def cache_root(asked: str | None, kind: str = "text") -> Path:
    """The folder of the caches of a kind: as asked, else $TL_LIGHTNING_CACHE, else ~/.cache/tl_lightning."""
    root = asked or os.environ.get("TL_LIGHTNING_CACHE") or "~/.cache/tl_lightning"
    return Path(root).expanduser().absolute() / kind


def open_rows(table: Table, recipe: Recipe, root: Path, seen: Seen) -> Store:
    """The rows of a table, from the cache where they are there, else read, checked and put there.

    seen: takes what is seen of the table, of one that cannot be used too. Raises UserError for such a table, with all
    that is wrong with it, and for a cache folder that cannot be written.
    """
    content, names = table.digest(recipe.columns.wanted), table.class_names(recipe.columns.label)
    folder = root / hashed([FORMAT, "rows", content, *recipe, names])
    store = cached(folder, Store, lambda aside: read(table, recipe, seen, aside), "the rows of tables")
    seen.of(store)
    return store


def open_store(rows: Store, encoder: Encoder, steps: Sequence[str], near: bool, root: Path) -> TokenStore:
    """The rows tokenised, from the cache where they are there, else built and put there.

    steps: that clean a text; near: whether signatures are kept, by which near duplicates are found. Raises UserError
    for a cache folder that cannot be written.
    """
    folder = root / hashed([FORMAT, rows.folder.name, encoder.key, list(steps), near])

    def opened(folder: Path) -> TokenStore:
        return TokenStore(folder, rows)

    return cached(folder, opened, lambda aside: build(rows, encoder, steps, near, aside), "tokenised texts")


def cached(folder: Path, kind: Callable[[Path], S], build: Callable[[Path], None], what: str) -> S:
    """The store in a folder, written there by `build` where it is missing or damaged.

    Two processes at once build it once. what: is kept there, for the UserError of a folder that cannot be written.
    """
    # Without the lock first: a finished cache must work from a read-only folder too.
    store = _try_open(folder, kind)
    if store is not None:
        return store
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder.with_name(f"{folder.name}.lock")):
            return _try_open(folder, kind) or _build(folder, kind, build)
    except OSError as fault:
        raise UserError(
            f"The cache of {what} cannot be written to {folder.parent}"
            f" ({fault.strerror or fault}{_free(folder.parent)}). "
            f"Name a folder that can: data.cache_dir=FOLDER."
        ) from fault


def _free(root: Path) -> str:
    try:
        usage = shutil.disk_usage(root)
    except OSError:
        return ""
    return f"; {usage.free / 1e6:.1f} of {usage.total / 1e6:.0f} MB are free there"


def hashed(parts: object) -> str:
    """A name for a folder of the cache, from plain values."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _try_open(folder: Path, kind: Callable[[Path], S]) -> S | None:
    if not folder.is_dir():
        return None
    try:
        return kind(folder)
    except (OSError, ValueError, KeyError, TypeError) as fault:
        log.warning("The cache %s is damaged (%s): building it again.", folder, fault)
        return None


def _build(folder: Path, kind: Callable[[Path], S], build: Callable[[Path], None]) -> S:
    # Under the lock nobody else builds this key, so whatever lies aside was left by a killed run.
    for left in folder.parent.glob(f"{folder.name}.tmp*"):
        shutil.rmtree(left, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp", dir=folder.parent))
    try:
        build(aside)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return kind(folder)
