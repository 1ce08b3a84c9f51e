"""Images that stand in two splits, exactly or nearly: counted and named before training, and others are not."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from tests.data.pictures import SPEC, encoded, photo, png, put
from tl_lightning.data import image_index
from tl_lightning.data.image_folder import ImageFolder
from tl_lightning.data.image_likeness import UNKNOWN, alike, likeness

PAIRS = ["train & val", "train & test", "val & test"]


def _scene(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Something like a photo: soft shapes with some detail."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (7, 9, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    fine = Image.fromarray(draw.integers(0, 256, (size[1], size[0], 3), np.uint8))
    return Image.blend(coarse, fine, 0.15)


CHANGES: dict[str, Callable[[Image.Image], bytes]] = {
    "smaller": lambda image: encoded(image.resize((100, 75)), "JPEG", quality=90),
    "compressed": lambda image: encoded(image, "JPEG", quality=20),
    "another format": lambda image: encoded(image, "PNG"),
    "brighter": lambda image: encoded(ImageEnhance.Brightness(image).enhance(1.1), "JPEG"),
    "grey": lambda image: encoded(image.convert("L"), "PNG"),
    "blurred": lambda image: encoded(image.filter(ImageFilter.GaussianBlur(2)), "WEBP"),
}


def _folder(root: Path, twins: dict[str, bytes]) -> ImageFolder:
    for seed in range(24):
        put(root / "train" / "ab"[seed % 2] / f"{seed}.jpg", encoded(_scene(seed), "JPEG", quality=92))
    for seed in range(100, 108):
        put(root / "val" / "ab"[seed % 2] / f"{seed}.jpg", encoded(_scene(seed), "JPEG", quality=92))
        put(root / "test" / "ab"[seed % 2] / f"{seed + 100}.jpg", encoded(_scene(seed + 100), "JPEG", quality=92))
    for name, data in twins.items():
        put(root / "test/a" / name, data)
    return _made(root)


def _made(root: Path, **options: Any) -> ImageFolder:
    given: dict[str, Any] = {"preprocessor": SPEC, "target": "class", "cache_dir": str(root.parent / "cache")}
    data = ImageFolder(root=str(root), **given, **options)
    data.setup()
    return data


def test_they_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    twins = {f"twin{at}.img.jpg": make(_scene(at)) for at, make in enumerate(CHANGES.values())}
    twins["same.jpg"] = encoded(_scene(10), "JPEG", quality=92)
    summary = _folder(tmp_path / "set", twins).summary
    assert summary["near_duplicates"] == dict(zip(PAIRS, (0, len(CHANGES), 0), strict=True))
    assert summary["overlap"] == dict(zip(PAIRS, (0, 1, 0), strict=True))
    assert f"{len(CHANGES)} rows are almost the same in two splits (train & test), such as" in caplog.text
    assert "train/a/0.jpg and test/a/twin0.img.jpg" in caplog.text
    assert "1 rows stand in two splits (train & test), such as train/a/10.jpg and test/a/same.jpg" in caplog.text


@pytest.mark.parametrize("how", CHANGES)
def test_a_changed_photo_is_alike(how: str) -> None:
    for seed in range(5):
        one, other = likeness(encoded(_scene(seed), "JPEG", quality=92)), likeness(CHANGES[how](_scene(seed)))
        assert alike(one.small[None], other.small[None], np.zeros((1, 2), np.int64)).all()
        assert (one.hash ^ other.hash).bit_count() <= 6


def test_other_photos_are_not_and_one_colour_says_nothing() -> None:
    small = np.stack([likeness(encoded(_scene(seed), "JPEG")).small for seed in range(60)])
    pairs = np.array([(a, b) for a in range(60) for b in range(60) if a != b])
    assert not alike(small, small, pairs).any()
    plain = [likeness(png(row)) for row in (3, 4)]
    assert not alike(plain[0].small[None], plain[1].small[None], np.zeros((1, 2), np.int64)).any()


def test_other_handwritten_digits_are_not_near(tmp_path: Path) -> None:
    """Hashes alone would say so of nine in ten."""
    from tl_lightning.data.image_digits import Digits

    given: dict[str, Any] = {"preprocessor": SPEC, "target": "class", "cache_dir": str(tmp_path)}
    data = Digits(**given)
    data.setup()
    assert sum(data.summary["near_duplicates"].values()) <= 0.02 * sum(data.summary["rows"].values())


def test_they_are_looked_at_once_and_only_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _folder(tmp_path / "set", {"twin.png": encoded(_scene(0), "PNG")})
    assert first.summary["near_duplicates"]["train & test"] == 1
    monkeypatch.setattr(image_index, "likeness", lambda data: pytest.fail("looked at again"))
    assert _made(tmp_path / "set").summary == first.summary
    without = _made(tmp_path / "set", near_duplicates=False)
    assert without.summary["near_duplicates"] == {}
    assert "likeness" not in without.train_dataloader().dataset.store  # type: ignore[attr-defined]


def test_what_cannot_be_decoded_is_like_nothing() -> None:
    whole = photo(0)
    assert likeness(whole[: len(whole) // 2]) is UNKNOWN
    assert likeness(b"") is UNKNOWN
    turned = Image.open(io.BytesIO(whole)).getexif()
    turned[0x0112] = 6
    upright, stored = likeness(whole), likeness(encoded(Image.open(io.BytesIO(whole)), "JPEG", exif=turned, quality=90))
    assert upright.hash != stored.hash, "as EXIF turns it"
