"""What is told about the data of a run: fingerprints, rows in two splits, what was cut and left out."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from tl_lightning.data.base import Array
from tl_lightning.data.duplicates import SHOWN, Near, Taken, near_images, near_texts
from tl_lightning.data.image_likeness import alike
from tl_lightning.data.part import Part
from tl_lightning.data.store import Store

log = logging.getLogger(__name__)


def fingerprint(data: Part, classes: Sequence[str], clean: Sequence[str]) -> str:
    """A hash of the contents and labels of a split in their order: 16 hex digits, the same on every machine.

    Neither the backbone nor where the rows came from has a part in it.
    """
    digest = hashlib.sha256(json.dumps([list(classes), list(clean)]).encode())
    digest.update(data.store["hashes"][data.take].astype("<u8").tobytes())
    for start in range(0, len(data), 4096):
        digest.update(data.targets(data.take[start : start + 4096]).numpy().tobytes())
    return digest.hexdigest()[:16]


def combined(fingerprints: Mapping[str, str]) -> str:
    """One hash of all splits' fingerprints, 16 hex digits."""
    return hashlib.sha256(json.dumps(fingerprints, sort_keys=True).encode()).hexdigest()[:16]


def overlap(parts: Mapping[str, Part]) -> dict[str, int]:
    """Rows of the second split whose content stands in the first too, for every two splits; warns of them."""
    hashes = {split: data.store["hashes"][data.take] for split, data in parts.items()}
    found = {}
    for one, other in combinations(parts, 2):
        twice = np.flatnonzero(np.isin(hashes[other], hashes[one]))
        found[f"{one} & {other}"] = len(twice)
        if len(twice):
            pairs = [(int(np.flatnonzero(hashes[one] == hashes[other][at])[0]), int(at)) for at in twice[:SHOWN]]
            log.warning(
                "%d rows stand in two splits (%s & %s), such as %s: the numbers on them flatter the model.",
                *(len(twice), one, other, _named(parts[one], parts[other], pairs)),
            )
    return found


def near_duplicates(parts: Mapping[str, Part]) -> dict[str, int]:
    """Rows of the second split that are almost a row of the first, but not the same, for every two splits; warns.

    Nothing where no signatures were kept.
    """
    if not all("signatures" in data.store for data in parts.values()):
        return {}
    kept = {split: Taken(partial(_signatures, data.store), data.take) for split, data in parts.items()}
    return _told(near_texts(kept, {split: data.store["hashes"][data.take] for split, data in parts.items()}), parts)


def _signatures(store: Store) -> Array:
    return store.once("signatures").reshape(len(store), -1)


def near_images_of(parts: Mapping[str, Part]) -> dict[str, int]:
    """The same of images."""
    if not all("likeness" in data.store for data in parts.values()):
        return {}
    small = {split: data.store["small"].reshape(len(data.store), -1)[data.take] for split, data in parts.items()}
    hashes, known = ({s: data.store[name][data.take] for s, data in parts.items()} for name in ("likeness", "hashes"))
    found = near_images(hashes, known, same=lambda one, other, pairs: alike(small[one], small[other], pairs))
    return _told(found, parts)


def _told(found: Mapping[str, Near], parts: Mapping[str, Part]) -> dict[str, int]:
    for pair, near in found.items():
        if near.count:
            one, other = (parts[split] for split in pair.split(" & "))
            log.warning(
                "%d rows are almost the same in two splits (%s), such as %s: their numbers flatter the model.",
                *(near.count, pair, _named(one, other, near.pairs)),
            )
    return {pair: near.count for pair, near in found.items()}


def _named(one: Part, other: Part, pairs: Sequence[tuple[int, int]]) -> str:
    """Pairs of positions in words: the numbers of rows, the names of images."""
    if "heights" not in one.store:
        rows = [(one.store["rows"][one.take[a]] + 1, other.store["rows"][other.take[b]] + 1) for a, b in pairs]
        return "rows " + ", ".join(f"{a} and {b}" for a, b in rows)
    at = (
        (data, data.store["rows"][data.take[[pair[side] for pair in pairs]]]) for side, data in enumerate((one, other))
    )
    names = [data.store.texts(rows) for data, rows in at]
    return ", ".join(f"{a} and {b}" for a, b in zip(*names, strict=True))


def truncated(parts: Mapping[str, Part], max_length: int) -> dict[str, int]:
    """Texts per split that were cut to max_length tokens; warns where there are any."""
    found = {split: int(data.store["truncated"][data.take].sum()) for split, data in parts.items()}
    for split, count in found.items():
        if count:
            log.warning(
                "%d of %d texts of %s are longer than %d tokens and were cut: see data.max_length=.",
                *(count, len(parts[split]), split, max_length),
            )
    return found


def class_counts(data: Part, classes: Sequence[str]) -> dict[str, int]:
    """Rows of a split per class or label; nothing for numbers."""
    if not classes:
        return {}
    counts = np.zeros(len(classes), np.int64)
    for start in range(0, len(data), 4096):
        target = data.targets(data.take[start : start + 4096]).numpy()
        counts += target.sum(0).astype(np.int64) if target.ndim == 2 else np.bincount(target, minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))


def summary(parts: Mapping[str, Part], **more: Any) -> dict[str, Any]:
    """Rows per split, rows left out for being empty, rows in two splits, and whatever else is given."""
    rows = {split: len(data) for split, data in parts.items()}
    return {"rows": rows, "dropped": left_out(parts, "dropped"), "overlap": overlap(parts), **more}


def left_out(parts: Mapping[str, Part], kind: str) -> dict[str, int]:
    """Rows of each split's source that were left out, as counted there under this name."""
    seen: set[int] = set()
    found = {}
    for split, data in parts.items():
        # A split that was taken out of train shares its store; what was left out is told once.
        found[split] = 0 if id(data.store) in seen else int(data.store.meta[kind])
        seen.add(id(data.store))
    return found
