"""The cache of tokenised splits: one folder per content and recipe, whole or not there."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

import filelock

from tl_lightning.data.build import Recipe, build
from tl_lightning.data.encoding import Encoder
from tl_lightning.data.store import FORMAT, Store
from tl_lightning.data.tables import Table
from tl_lightning.errors import UserError

log = logging.getLogger(__name__)


def cache_root(asked: str | None) -> Path:
    """The folder of the text caches: as asked, else $TL_LIGHTNING_CACHE, else ~/.cache/tl_lightning."""
    root = asked or os.environ.get("TL_LIGHTNING_CACHE") or "~/.cache/tl_lightning"
    return Path(root).expanduser().absolute() / "text"


def open_store(table: Table, encoder: Encoder, recipe: Recipe, root: Path) -> Store:
    """The tokenised table, from the cache where it is there, else built and put there.

    Raises UserError for a table that cannot be used and for a cache folder that cannot be written.
    """
    folder = root / _key(table, encoder, recipe)
    # Without the lock first: a finished cache must work from a read-only folder too.
    store = _try_open(folder)
    if store is not None:
        return store
    try:
        root.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder.with_name(f"{folder.name}.lock")):
            return _try_open(folder) or _build(table, encoder, recipe, folder)
    except OSError as fault:
        raise UserError(
            f"The cache of tokenised texts cannot be written to {root} ({fault.strerror or fault}{_free(root)}). "
            f"Name a folder that can: data.cache_dir=FOLDER."
        ) from fault


def _free(root: Path) -> str:
    try:
        usage = shutil.disk_usage(root)
    except OSError:
        return ""
    return f"; {usage.free / 1e6:.1f} of {usage.total / 1e6:.0f} MB are free there"


def _key(table: Table, encoder: Encoder, recipe: Recipe) -> str:
    names = table.class_names(recipe.columns.label)
    parts = [FORMAT, table.digest(recipe.columns.wanted), encoder.key, *recipe, names]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _try_open(folder: Path) -> Store | None:
    if not folder.is_dir():
        return None
    try:
        return Store(folder)
    except (OSError, ValueError, KeyError, TypeError) as fault:
        log.warning("The cache %s is damaged (%s): building it again.", folder, fault)
        return None


def _build(table: Table, encoder: Encoder, recipe: Recipe, folder: Path) -> Store:
    # Under the lock nobody else builds this key, so whatever lies aside was left by a killed run.
    for left in folder.parent.glob(f"{folder.name}.tmp*"):
        shutil.rmtree(left, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp", dir=folder.parent))
    try:
        build(table, encoder, recipe, aside)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return Store(folder)
