"""Near duplicates: what they are, that they are found, counted and named, and that others are not."""

import io
import random
import string
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from tl_lightning.data import TextFiles, duplicates
from tl_lightning.data.duplicates import (
    BITS,
    Near,
    Taken,
    near_images,
    near_texts,
    perceptual_hash,
    signatures,
)

Make = Callable[..., TextFiles]
Write = Callable[[str, Any], Path]


def _texts(count: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    words = ["".join(chance.choices(string.ascii_lowercase, k=chance.randint(2, 9))) for _ in range(2000)]
    return [" ".join(chance.choices(words, k=chance.randint(8, 25))) for _ in range(count)]


def _jaccard(one: str, other: str) -> float:
    sets = [{text[at : at + 4] for at in range(len(text) - 3)} for text in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_a_signature_estimates_the_similarity_of_the_shingles() -> None:
    texts = _texts(200)
    others = [text if at % 4 else text[: len(text) * (at % 8 + 4) // 12] for at, text in enumerate(texts)]
    estimated = (signatures(texts) == signatures(others)).mean(1)
    real = np.array([_jaccard(*pair) for pair in zip(texts, others, strict=True)])
    assert np.abs(estimated - real).max() < 0.35
    assert np.abs(estimated - real).mean() < 0.04
    assert len({float(x) for x in real}) > 20


@pytest.mark.parametrize("text", ["", " ", "a", "é", "\U0001f642", "\ud800", "!!!", "a" * 100_000, "\x00"])
def test_every_text_has_a_signature(text: str) -> None:
    found = signatures([text, "some other text", text])
    assert found.shape == (3, 32)
    assert np.array_equal(found[0], found[2])


def test_a_signature_does_not_depend_on_the_texts_beside() -> None:
    texts = _texts(50)
    together = signatures(texts)
    assert all(np.array_equal(together[at], signatures([text])[0]) for at, text in enumerate(texts))


def test_near_texts_are_found_and_others_are_not() -> None:
    train, fresh = _texts(3000), _texts(1000, seed=1)
    changed = [f"{text.upper()}!" if at % 2 else f"{text} now" for at, text in enumerate(train[:300])]
    found = near_texts({"train": signatures(train), "test": signatures([*fresh, *changed])})["train & test"]
    assert 290 <= found.count <= 300
    assert len(found.pairs) == 5
    assert all(second == first + len(fresh) for first, second in found.pairs)


def test_the_same_row_is_told_as_the_same_only() -> None:
    train = _texts(100)
    hashes = {"train": np.arange(100), "test": np.array([3, 1000])}
    near = near_texts({"train": signatures(train), "test": signatures([train[3], f"{train[4]}!"])}, hashes)
    assert near == {"train & test": Near(1, [(4, 1)])}


def test_of_a_file_of_signatures_no_more_stays_mapped_than_is_looked_at(tmp_path: Path) -> None:
    made = signatures(_texts(300))
    (tmp_path / "signatures.bin").write_bytes(made.tobytes())
    mapped: list[weakref.ref[Any]] = []

    def opened() -> Any:
        assert not any(one() is not None for one in mapped), "what was read before is let go of"
        found = np.memmap(tmp_path / "signatures.bin", made.dtype, "r").reshape(made.shape)
        mapped.append(weakref.ref(found))
        return found

    split = {"train": np.arange(0, 200), "val": np.arange(190, 300)}
    found = near_texts({name: Taken(opened, take) for name, take in split.items()})
    assert found == near_texts({name: made[take] for name, take in split.items()})
    assert found["train & val"].count == 10
    assert mapped


def test_many_equal_rows_do_not_compare_all_with_all() -> None:
    many = signatures(["the same text again"] * 1000)
    assert near_texts({"train": many, "test": many})["train & test"].count == 1000


@pytest.fixture
def files(write: Write) -> list[str]:
    texts = _texts(80)
    write("train.csv", [{"text": text, "label": at % 2} for at, text in enumerate(texts[:60])])
    close = [f"{texts[7].title()}?", texts[8], f"{texts[9]} too"]
    write("test.csv", [{"text": text, "label": at % 2} for at, text in enumerate([*texts[60:], *close])])
    return texts


def test_they_are_counted_and_named_before_training(files: list[str], make: Make, caplog: Any) -> None:
    summary = make("train.csv", test="test.csv", val_fraction=0.05).summary
    pairs = ["train & val", "train & test", "val & test"]
    assert list(summary["near_duplicates"]) == pairs
    assert sum(summary["near_duplicates"].values()) == 2
    assert sum(summary["overlap"].values()) == 1
    assert "rows are almost the same in two splits (train & test), such as rows" in caplog.text
    assert "8 and 21" in caplog.text, "the rows of both files, counted from 1"
    assert "10 and 23" in caplog.text


def test_they_can_be_left_alone(files: list[str], make: Make, caplog: Any) -> None:
    data = make("train.csv", test="test.csv", near_duplicates=False)
    assert data.summary["near_duplicates"] == {}
    assert "almost the same" not in caplog.text
    assert "signatures" not in data.train_dataloader().dataset.store  # type: ignore[attr-defined]


def test_they_are_computed_once(files: list[str], make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make("train.csv", test="test.csv").summary
    monkeypatch.setattr("tl_lightning.data.build.signatures", lambda texts: pytest.fail("computed again"))
    assert make("train.csv", test="test.csv").summary == first


def _picture(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(3, 6, 6, generator=generator)
    return tv.resize(coarse, [160, 200], antialias=True).mul(255).to(torch.uint8)  # type: ignore[no-any-return]


def _through_jpeg(picture: torch.Tensor) -> torch.Tensor:
    kept = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(kept, "JPEG", quality=30)
    return torch.from_numpy(np.array(Image.open(kept))).permute(2, 0, 1)


def _apart(one: torch.Tensor, other: torch.Tensor) -> int:
    return (perceptual_hash(one) ^ perceptual_hash(other)).bit_count()


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "smaller": lambda picture: tv.resize(picture, [60, 75], antialias=True),
    "stretched": lambda picture: tv.resize(picture, [200, 200], antialias=True),
    "jpeg": lambda picture: _through_jpeg(picture),
    "brighter": lambda picture: tv.adjust_brightness(picture, 1.1),
    "grey": lambda picture: picture.float().mean(0, keepdim=True),
    "blurred": lambda picture: tv.gaussian_blur(picture, [5, 5]),
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_changed_picture_keeps_its_hash(how: str) -> None:
    apart = [_apart(_picture(seed), CHANGES[how](_picture(seed))) for seed in range(20)]
    assert max(apart) <= BITS, apart


def test_other_pictures_have_other_hashes() -> None:
    assert min(_apart(_picture(seed), _picture(seed + 1)) for seed in range(50)) > 2 * BITS


@pytest.mark.parametrize("size", [(1, 1), (8, 9), (3, 1000)])
def test_every_picture_has_a_hash(size: tuple[int, int]) -> None:
    assert 0 <= perceptual_hash(torch.rand(3, *size)) < 1 << 64
    assert perceptual_hash(torch.zeros(1, *size)) == 0


def test_near_images_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "SLICE", 1 << 10)  # in several slices
    draw = np.random.default_rng(0)
    old = draw.integers(0, 1 << 64, 20_000, dtype=np.uint64)  # some 40 in a bucket
    flips = [
        np.bitwise_or.reduce(np.uint64(1) << draw.choice(64, n, replace=False).astype(np.uint64)) for n in range(1, 13)
    ]
    new = np.concatenate([draw.integers(0, 1 << 64, 200, dtype=np.uint64), *[old[:40] ^ flip for flip in flips]])
    brute = np.bitwise_count(old[:, None] ^ new[None]) <= BITS
    found = near_images({"train": old, "test": new})["train & test"]
    assert found.count == int(brute.any(0).sum()) == 40 * BITS
    assert all(brute[pair] for pair in found.pairs)


def test_pictures_that_all_look_alike_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set like scans of digits: nearly all pairs have a piece in common."""
    monkeypatch.setattr(duplicates, "MOST_PAIRS", 1 << 16)
    monkeypatch.setattr(duplicates, "SLICE", 1 << 6)
    pairs: list[int] = []
    original = duplicates._candidates

    def counted(*args: Any) -> Any:
        found = original(*args)
        pairs.append(len(found))
        return found

    monkeypatch.setattr(duplicates, "_candidates", counted)
    draw = np.random.default_rng(0)
    old, new = (draw.integers(0, 1 << 16, size, dtype=np.uint64) for size in (3000, 1000))  # 48 bits agree
    found = near_images({"train": old, "test": new})["train & test"]
    assert found.count == 1000, "each has one that is near"
    assert sum(pairs) <= 1 << 16
    assert max(pairs) <= 1 << 13
