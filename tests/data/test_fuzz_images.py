"""Image files of any bytes: refused in words or left out as configured, never a traceback, in setup or in training."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.pictures import SPEC, encoded, noise, put
from tl_lightning.data.image_folder import ImageFolder
from tl_lightning.data.image_likeness import likeness
from tl_lightning.data.image_reading import ImageError, check, decode
from tl_lightning.errors import UserError

PICTURE = Image.fromarray(noise(0, 24, 30))
BASES = {
    "jpg": encoded(PICTURE, "JPEG", quality=80),
    "progressive.jpg": encoded(PICTURE, "JPEG", progressive=True),
    "png": encoded(PICTURE, "PNG"),
    "palette.png": encoded(PICTURE.convert("P"), "PNG"),
    "webp": encoded(PICTURE, "WEBP"),
    "gif": encoded(PICTURE, "GIF"),
    "bmp": encoded(PICTURE, "BMP"),
    "tif": encoded(PICTURE, "TIFF", compression="tiff_lzw"),
}
EVERY = {"derandomize": True, "database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}


def damaged(base: bytes) -> st.SearchStrategy[bytes]:
    """A good file with bits turned, a part cut out, an end cut off, bytes put in; or any bytes behind its beginning."""
    places = st.integers(0, len(base) - 1)
    flips = st.lists(st.tuples(places, st.integers(0, 7)), min_size=1, max_size=6).map(lambda f: _flipped(base, f))
    end = places.map(lambda at: base[:at])
    hole = st.builds(lambda at, size: base[:at] + base[at + size :], places, st.integers(1, 60))
    put_in = st.builds(lambda at, piece: base[:at] + piece + base[at:], places, st.binary(min_size=1, max_size=12))
    head = st.builds(lambda size, rest: base[:size] + rest, st.integers(0, 40), st.binary(max_size=200))
    return st.one_of(flips, end, hole, put_in, head, st.binary(max_size=100))


def _flipped(base: bytes, places: list[tuple[int, int]]) -> bytes:
    content = bytearray(base)
    for at, bit in places:
        content[at] ^= 1 << bit
    return bytes(content)


@pytest.mark.parametrize("kind", BASES)
def test_any_bytes_are_pixels_or_an_image_error(kind: str) -> None:
    lengths: list[int] = []
    read: list[int] = []

    @settings(max_examples=250, **EVERY)  # type: ignore[arg-type]
    @given(damaged(BASES[kind]))
    def every(content: bytes) -> None:
        likeness(content)
        try:
            facts = check(content, thorough=True)
            pixels = decode(content)
        except ImageError as fault:
            lengths.append(len(str(fault)))
            return
        assert pixels.dtype == torch.uint8
        assert sorted(pixels.shape[1:]) == sorted((facts.height, facts.width))
        assert pixels.shape[0] == 3
        read.append(facts.hash)

    every()
    assert len(lengths) > 20
    assert min(lengths) > 0
    assert max(lengths) < 500
    assert read


def _used(root: Path, on_bad: str) -> tuple[int, str]:
    """The images of all batches of an epoch, or what was told in place of them."""
    given_: dict[str, Any] = {"preprocessor": SPEC, "target": "class", "cache_dir": str(root.parent / "cache")}
    data = ImageFolder(root=str(root), on_bad=on_bad, batch_size=4, **given_)  # type: ignore[arg-type]
    try:
        data.setup()
        seen = sum(len(batch.target) for loader in _loaders(data) for batch in loader)
    except UserError as fault:
        return 0, str(fault)
    assert seen == sum(data.summary["rows"].values())
    return seen, ""


def _loaders(data: ImageFolder) -> list[Any]:
    return [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]


@pytest.mark.parametrize("on_bad", ["error", "skip"])
@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_a_folder_with_any_file_in_it(kind: str, on_bad: str, tmp_path: Path) -> None:
    for row in range(12):
        put(tmp_path / "set" / "ab"[row % 2] / f"{row}.{kind}", encoded(Image.fromarray(noise(row, 20, 20)), "PNG"))
    odd, told = tmp_path / f"set/a/odd.{kind}", []

    @settings(max_examples=40, **EVERY)  # type: ignore[arg-type]
    @given(damaged(BASES[kind]))
    def every(content: bytes) -> None:
        odd.write_bytes(content)
        seen, fault = _used(tmp_path / "set", on_bad)
        told.append(fault)
        if on_bad == "skip":
            assert seen in (12, 13), "the file is used or left out, and all others are used"
        else:
            assert seen == 13 or (str(odd) in fault and "data.on_bad=skip" in fault), fault
            assert len(fault) < 1000

    every()
    assert on_bad == "skip" or any(told), "some files are refused"
    assert not list((tmp_path / "cache").rglob("*.tmp*")), "no half-built cache is left"


WRONG = {
    "a png named jpg": ("x.jpg", BASES["png"], True),
    "a jpeg named gif": ("x.gif", BASES["jpg"], True),
    "a text named png": ("x.png", b"good film, bad film\n" * 20, False),
    "json named jpg": ("x.jpg", json.dumps({"a": [1] * 100}).encode(), False),
    "a page named webp": ("x.webp", b"<html><svg onload='alert(1)'/></html>", False),
    "a script for a program named tif": ("x.tif", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", False),
    "an archive named bmp": ("x.bmp", b"PK\x03\x04" + bytes(300), False),
    "nothing": ("x.jpg", b"", False),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_a_file_is_counts_and_not_its_name(what: str, tmp_path: Path) -> None:
    name, content, is_one = WRONG[what]
    for row in range(12):
        put(tmp_path / "set" / "ab"[row % 2] / f"{row}.png", encoded(Image.fromarray(noise(row, 20, 20)), "PNG"))
    put(tmp_path / "set/a" / name, content)
    assert _used(tmp_path / "set", "skip")[0] == 12 + is_one
    seen, fault = _used(tmp_path / "set", "error")
    assert (seen == 13) is is_one
    assert is_one or name in fault
