"""Near duplicates: texts or pictures that are almost the same in two splits, found without comparing all pairs."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from tl_lightning.data.base import Array, Indices
from tl_lightning.data.portions import portions

BANDS, ROWS = 8, 4
"""A signature has BANDS * ROWS values. Two texts meet if one whole band agrees: at a similarity of 0.8 in 98.5 of
100 cases, at 0.5 in 40 (and are then compared by all values), at 0.2 in 1."""
NEAR = 0.8
"""Share of equal values in two signatures, an estimate of the Jaccard similarity of two texts' shingles, from which
on they are called near duplicates. Its standard error at 0.8 is 0.07 with 32 values."""
SHINGLE = 4
"""Bytes of a shingle; a text is lowered first, and what is no letter, number or letter beyond ASCII is a space."""
BITS = 6
"""Perceptual hashes of 64 bits that differ in so many at most are near."""
SHOWN = 5
LARGEST_BUCKET = 16
"""Of more texts than these with one band in common, only this many are compared."""
SOME_ROWS = 1 << 12
"""Rows of a split that are looked up at once."""
SLICE = 1 << 16
"""Pairs that are compared at once: some ten megabytes of signatures."""


class Near(NamedTuple):
    """How many rows of the second split are almost a row of the first, and some of these pairs (first, second)."""

    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls on it
    pairs: list[tuple[int, int]]


def signatures(texts: Sequence[str]) -> npt.NDArray[np.uint32]:
    """MinHash (Broder, 1997) of the character shingles of N texts: (N, BANDS * ROWS).

    Texts that differ in case, punctuation and spaces alone have the same signature.
    """
    parts = [_signatures(texts[portion]) for portion in portions(texts)]
    return np.concatenate(parts) if parts else np.empty((0, BANDS * ROWS), np.uint32)


def _signatures(texts: Sequence[str]) -> npt.NDArray[np.uint32]:
    flat, starts, lengths = _shingles(texts)
    found = np.empty((len(texts), BANDS * ROWS), np.uint32)
    for column, (factor, shift) in enumerate(_hashes()):
        # Multiply and shift (Dietzfelbinger et al., 1997): the upper half of a 64-bit product.
        mixed = ((flat * factor + shift) >> np.uint64(32)).astype(np.uint32)
        found[:, column] = np.minimum.reduceat(mixed, starts)
    assert len(lengths) == len(texts)
    return found


def _hashes() -> list[tuple[np.uint64, np.uint64]]:
    drawn = np.random.default_rng(20260131).integers(1, 1 << 63, (BANDS * ROWS, 2), dtype=np.uint64)
    return [(factor | np.uint64(1), shift) for factor, shift in drawn]


_PLAIN = np.array([ord(chr(c).lower()) if chr(c).isalnum() or c > 127 else 32 for c in range(256)], np.uint8)


def _shingles(texts: Sequence[str]) -> tuple[npt.NDArray[np.uint64], Indices, Indices]:
    """The shingles of all texts in a row, each as a number; where those of each text start; and how many it has."""
    raw = [_plain(text) for text in texts]
    lengths = np.fromiter((len(one) for one in raw), np.int64, len(raw))
    letters = np.frombuffer(b"".join(raw), np.uint8).astype(np.uint64)
    numbers = letters[: len(letters) - SHINGLE + 1].copy()
    for at in range(1, SHINGLE):
        numbers = (numbers << np.uint64(8)) | letters[at : len(letters) - SHINGLE + 1 + at]
    counts = lengths - SHINGLE + 1
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    # The last shingles of a text reach into the next one: left out.
    kept = np.ones(len(numbers), bool)
    ends = starts + counts
    for at in range(SHINGLE - 1):
        kept[(ends + at)[ends + at < len(kept)]] = False
    return numbers[kept], np.concatenate([[0], np.cumsum(counts)[:-1]]), counts


def _plain(text: str) -> bytes:
    coded = np.frombuffer(text.lower().encode(errors="surrogatepass"), np.uint8)
    words = _PLAIN[coded].tobytes().split()
    return b" ".join(words).ljust(SHINGLE)  # a short text is one shingle


def near_texts(signatures: Mapping[str, Array], known: Mapping[str, Array] | None = None) -> dict[str, Near]:
    """Near duplicates between every two splits, by their signatures (N, BANDS * ROWS); pairs are positions.

    Args:
        signatures: by split.
        known: exact hashes (N,) by split: rows that are equal to one of the first split are not told again.
    """
    found = {}
    for one, other in combinations(signatures, 2):
        old, new = signatures[one], signatures[other]
        table = [_Sorted(column) for column in _bands(old).T]
        near = [_similar(old, new, table, at) for at in range(0, max(1, len(new)), SOME_ROWS)]
        found[f"{one} & {other}"] = _near(np.concatenate(near), (known[one], known[other]) if known else None)
    return found


def _similar(old: Array, new: Array, table: list["_Sorted"], at: int) -> Indices:
    """The near pairs of some rows of the second split, from row ``at`` on."""
    candidates = _candidates(table, _bands(new[at : at + SOME_ROWS]), LARGEST_BUCKET)
    candidates[:, 1] += at
    similar = np.concatenate([_equal_share(old, new, part) >= NEAR for part in _slices(candidates)])
    near: Indices = candidates[similar]
    return near


def _slices(pairs: Indices) -> list[Indices]:
    """Parts of some ten megabytes once the signatures stand side by side."""
    return [pairs[at : at + SLICE] for at in range(0, max(1, len(pairs)), SLICE)]


def _equal_share(old: Array, new: Array, pairs: Indices) -> Array:
    share: Array = (old[pairs[:, 0]] == new[pairs[:, 1]]).mean(1)
    return share


def _bands(signatures: Array) -> npt.NDArray[np.uint64]:
    """One number for each band of each row, (N, BANDS)."""
    values = signatures.reshape(len(signatures), BANDS, ROWS)
    mixed = np.zeros(values.shape[:2], np.uint64)
    for row in range(ROWS):
        mixed = (mixed ^ values[..., row].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed


class _Sorted:
    """A column of numbers with the order that sorts it."""

    def __init__(self, column: Array) -> None:
        self.order = np.argsort(column, kind="stable")
        self.values = column[self.order]


def _candidates(old: Sequence[_Sorted], new: Array, most: int) -> Indices:
    """Pairs of rows that share a value in the same column, ``most`` for each row and value: (P, 2), each pair once."""
    pairs = [_sharing(column, new[:, at], most) for at, column in enumerate(old)]
    joined = np.concatenate(pairs)
    whole = np.unique(joined[:, 0] * len(new) + joined[:, 1])  # many times faster than over an axis
    return np.stack(np.divmod(whole, max(1, len(new))), 1)


def _sharing(old: _Sorted, new: Array, most: int) -> Indices:
    first, last = (np.searchsorted(old.values, new, side) for side in ("left", "right"))
    sizes = np.minimum(last - first, most)
    second = np.repeat(np.arange(len(new)), sizes)
    offsets = np.arange(len(second)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.stack([old.order[np.repeat(first, sizes) + offsets], second], 1)


def _near(pairs: Indices, known: tuple[Array, Array] | None) -> Near:
    if known is not None:
        pairs = pairs[~np.isin(known[1][pairs[:, 1]], known[0])]
    _, firsts = np.unique(pairs[:, 1], return_index=True)
    return Near(len(firsts), [(int(a), int(b)) for a, b in pairs[firsts[:SHOWN]]])


def perceptual_hash(pixels: Tensor) -> int:
    """A hash of 64 bits (difference hash, Krawetz, 2013) that small changes of a picture hardly change.

    Each bit says whether a cell of a grey 9 x 8 version is brighter than its right neighbour.

    Args:
        pixels: (3, H, W) or (1, H, W), any real type.
    """
    grey = pixels.float().mean(0, keepdim=True)[None]
    small = F.interpolate(grey, (8, 9), mode="bilinear", antialias=True, align_corners=False)[0, 0]
    bits = (small[:, :-1] > small[:, 1:]).flatten()
    return int((bits.long() * (1 << torch.arange(63, -1, -1)).long()).sum()) & ((1 << 64) - 1)


def near_images(
    hashes: Mapping[str, Array],
    known: Mapping[str, Array] | None = None,
    same: Callable[[str, str, Indices], Array] | None = None,
) -> dict[str, Near]:
    """Near duplicates between every two splits, by their perceptual hashes (N,) uint64; pairs are positions.

    ``same`` has the last word on pairs of two splits (P, 2), for which hashes are near: (P,) bool.  ``known`` as above.

    Two hashes that differ in at most BITS = 6 bits agree in at least one of seven pieces of 9 or 10 bits (the
    pigeonhole principle), so only those that do are compared, and none is missed.
    """
    found = {}
    for one, other in combinations(hashes, 2):
        old, new = (np.asarray(hashes[split], np.uint64) for split in (one, other))
        step = max(1, (SLICE << 6) // max(1, len(old) >> 6))  # so many rows have some million candidates
        table = [_Sorted(column) for column in _pieces(old).T]
        parts = [np.arange(at, min(at + step, len(new))) for at in range(0, max(1, len(new)), step)]
        near = [_close(old, new, rows, table) for rows in parts]
        if same is not None:
            near = [pairs[same(one, other, pairs)] for pairs in near]
        found[f"{one} & {other}"] = _near(np.concatenate(near), (known[one], known[other]) if known else None)
    return found


def _close(old: Array, new: Array, rows: Indices, table: Sequence[_Sorted]) -> Indices:
    candidates = _candidates(table, _pieces(new[rows]), len(old))
    apart = np.bitwise_count(old[candidates[:, 0]] ^ new[rows][candidates[:, 1]])
    kept = candidates[apart <= BITS]
    return np.stack([kept[:, 0], rows[kept[:, 1]]], 1)


def _pieces(hashes: Array) -> Array:
    edges = np.linspace(0, 64, BITS + 2).astype(np.uint64)
    return np.stack(
        [(hashes >> low) & np.uint64((1 << int(high - low)) - 1) for low, high in pairwise(edges)],
        1,
    )
