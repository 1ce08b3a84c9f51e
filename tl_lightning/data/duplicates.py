"""Near duplicates: texts or pictures that are almost the same in two splits, found without comparing all pairs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any, NamedTuple, Protocol

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
MOST_PAIRS = 1 << 26
"""Pairs of pictures that are compared; above it, only some of the pictures that have a piece of a hash in common."""
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


class Rows(Protocol):
    """Rows of signatures: an array, or some rows of one that stays in its file."""

    def __len__(self) -> int: ...

    def __getitem__(self, at: Any) -> Array:
        """(N, BANDS * ROWS) of a slice or of positions (N,)."""


class Taken:
    """The rows ``take`` of an array in a file, opened for each look at it: what was read leaves the memory at once."""

    def __init__(self, opened: Callable[[], Array], take: Indices) -> None:
        self._opened, self._take = opened, take

    def __len__(self) -> int:
        return len(self._take)

    def __getitem__(self, at: Any) -> Array:
        rows: Array = self._opened()[self._take[at]]
        return rows


def near_texts(signatures: Mapping[str, Rows], known: Mapping[str, Array] | None = None) -> dict[str, Near]:
    """Near duplicates between every two splits, by their signatures (N, BANDS * ROWS); pairs are positions.

    One band after the other: of ten million rows, that of all bands together would not fit the memory.

    Args:
        signatures: by split.
        known: exact hashes (N,) by split: rows that are equal to one of the first split are not told again.
    """
    found = {}
    for one, other in combinations(signatures, 2):
        old, new = signatures[one], signatures[other]
        joined = np.concatenate([_similar(old, new, band) for band in range(BANDS)])
        near = _distinct(joined, len(new))
        found[f"{one} & {other}"] = _near(near, (known[one], known[other]) if known else None)
    return found


def _similar(old: Rows, new: Rows, band: int) -> Indices:
    """The near pairs that one band brings together."""
    near = [np.empty((0, 2), np.int64)]
    table = _Sorted(np.concatenate([_band(part, band) for _, part in _parts(old)]))
    for at, part in _parts(new):
        candidates = _sharing(table, _band(part, band), LARGEST_BUCKET)
        candidates[:, 1] += at
        near += [pairs[_equal_share(old, new, pairs) >= NEAR] for pairs in _slices(candidates)]
    return np.concatenate(near)


def _parts(rows: Rows) -> Iterator[tuple[int, Array]]:
    return ((at, rows[at : at + SOME_ROWS]) for at in range(0, max(1, len(rows)), SOME_ROWS))


def _slices(pairs: Indices) -> list[Indices]:
    """Parts of some ten megabytes once the signatures stand side by side."""
    return [pairs[at : at + SLICE] for at in range(0, max(1, len(pairs)), SLICE)]


def _equal_share(old: Rows, new: Rows, pairs: Indices) -> Array:
    share: Array = (old[pairs[:, 0]] == new[pairs[:, 1]]).mean(1)
    return share


def _band(signatures: Array, band: int) -> npt.NDArray[np.uint64]:
    """One number for a band of each row, (N,)."""
    mixed = np.zeros(len(signatures), np.uint64)
    for column in range(band * ROWS, (band + 1) * ROWS):
        mixed = (mixed ^ signatures[:, column].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
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
    return _distinct(np.concatenate(pairs), len(new))


def _distinct(pairs: Indices, count: int) -> Indices:
    """Each pair once, the lowest first of each first; ``count`` is above every second."""
    whole = np.unique(pairs[:, 0] * count + pairs[:, 1])  # many times faster than over an axis
    return np.stack(np.divmod(whole, max(1, count)), 1)


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
    pigeonhole principle), so only those that do are compared; none is missed up to MOST_PAIRS of them.
    """
    found = {}
    for one, other in combinations(hashes, 2):
        old, new = (np.asarray(hashes[split], np.uint64) for split in (one, other))
        table = [_Sorted(column) for column in _pieces(old).T]
        near = [_close(old, new, rows, table, most) for rows, most in _bounded(table, _pieces(new))]
        if same is not None:
            near = [pairs[same(one, other, pairs)] for pairs in near]
        found[f"{one} & {other}"] = _near(np.concatenate(near), (known[one], known[other]) if known else None)
    return found


def _bounded(table: Sequence[_Sorted], pieces: Array) -> Iterator[tuple[Indices, int]]:
    """The rows in parts of some million candidates, and how many of each piece are compared with a row.

    Where nearly all pictures look alike to the hash (scans of digits, say), all pairs would be candidates.
    """
    counts = np.stack([_count(column, pieces[:, at]) for at, column in enumerate(table)], 1)
    most = int(counts.max(initial=1))
    while most > LARGEST_BUCKET and np.minimum(counts, most).sum() > MOST_PAIRS:
        most //= 2
    ends = np.cumsum(np.minimum(counts, most).sum(1))
    whole = int(ends[-1]) if len(ends) else 0
    cuts = np.unique(np.searchsorted(ends, np.arange(SLICE << 6, whole, SLICE << 6)))
    return ((rows, most) for rows in np.split(np.arange(len(pieces)), cuts))


def _count(column: _Sorted, values: Array) -> Indices:
    found: Indices = np.searchsorted(column.values, values, "right") - np.searchsorted(column.values, values, "left")
    return found


def _close(old: Array, new: Array, rows: Indices, table: Sequence[_Sorted], most: int) -> Indices:
    candidates = _candidates(table, _pieces(new[rows]), most)
    apart = np.bitwise_count(old[candidates[:, 0]] ^ new[rows][candidates[:, 1]])
    kept = candidates[apart <= BITS]
    return np.stack([kept[:, 0], rows[kept[:, 1]]], 1)


def _pieces(hashes: Array) -> Array:
    edges = np.linspace(0, 64, BITS + 2).astype(np.uint64)
    return np.stack(
        [(hashes >> low) & np.uint64((1 << int(high - low)) - 1) for low, high in pairwise(edges)],
        1,
    )
