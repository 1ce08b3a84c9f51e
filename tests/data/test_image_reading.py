"""Every kind of image file is read as Pillow shows it, and what is no whole image is told as such."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from tests.data.pictures import encoded, header_only, noise, photo, pixels_of
from tl_lightning.data import image_reading
from tl_lightning.data.image_reading import ImageError, check, decode

RGB = Image.fromarray(noise(0, 48, 64))
MODES = ["RGB", "L", "1", "CMYK"]


def _by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.fixture(params=["torchvision", "Pillow"])
def _decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """JPEG by torchvision's operator, and as it is once that is gone."""
    if request.param == "Pillow":
        monkeypatch.setattr(image_reading, "_decode_jpeg", None)
    else:
        assert image_reading._decode_jpeg is not None


@pytest.mark.usefixtures("_decoder")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg(mode: str, progressive: bool) -> None:
    data = encoded(RGB.convert(mode), "JPEG", quality=90, progressive=progressive)
    assert np.array_equal(pixels_of(data), _by_pillow(data))


@pytest.mark.usefixtures("_decoder")
@pytest.mark.parametrize("turn", range(1, 9))
def test_jpeg_is_upright(turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    data = encoded(RGB, "JPEG", quality=95, exif=exif)
    assert np.array_equal(pixels_of(data), _by_pillow(data))
    assert pixels_of(data).shape == ((48, 64, 3) if turn < 5 else (64, 48, 3))
    facts = check(data, thorough=False)
    assert (facts.height, facts.width) == (48, 64)


def test_jpeg_in_inverted_cmyk() -> None:
    # Adobe's programs store the inks inverted and say so in a marker of theirs.
    data = encoded(ImageOps.invert(RGB).convert("CMYK"), "JPEG", quality=95)
    assert np.array_equal(pixels_of(data), _by_pillow(data))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_other_formats(kind: str, mode: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    image = RGB.convert("RGB" if kind == "WEBP" and mode == "P" else mode)
    data = encoded(image, kind, **options)
    assert np.array_equal(pixels_of(data), _by_pillow(data))
    check(data, thorough=True)


def test_png_is_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(RGB, "PNG", exif=exif)
    assert pixels_of(data).shape == (64, 48, 3)
    assert np.array_equal(pixels_of(data), _by_pillow(data))


def _on_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return rgb * share + 255 * (1 - share)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_what_is_transparent_shows_white(kind: str) -> None:
    both = noise(1, 32, 32, 4)
    data = encoded(Image.fromarray(both, "RGBA"), kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    assert np.abs(pixels_of(data) - _on_white(both[..., :3], both[..., 3])).max() <= 1


def test_grey_with_transparency() -> None:
    both = noise(2, 32, 32, 2)
    data = encoded(Image.fromarray(both, "LA"), "PNG")
    expected = _on_white(np.repeat(both[..., :1], 3, axis=2), both[..., 1])
    assert np.abs(pixels_of(data) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_one_transparent_colour(mode: str) -> None:
    image = Image.new(mode, (8, 8), 0)
    if mode == "P":
        image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1 if mode == "P" else 200 if mode == "L" else (200, 100, 50), (0, 0, 4, 8))
    data = encoded(image, "PNG", transparency=(0, 0, 0) if mode == "RGB" else 0)
    shown = pixels_of(data)
    assert (shown[:, 4:] == 255).all()
    assert (shown[:, :4] == (200 if mode == "L" else [200, 100, 50])).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_cut(kind: str) -> None:
    values = (np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16)
    shown = pixels_of(encoded(Image.fromarray(values), kind))
    assert np.array_equal(shown, np.repeat(np.round(values / 257).astype(np.uint8)[..., None], 3, axis=2))


def test_numbers_beyond_sixteen_bits_are_refused() -> None:
    data = encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF")
    with pytest.raises(ImageError, match="save it with 8 or 16 bits"):
        decode(data)


def test_first_picture_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (pixels_of(data) == [255, 0, 0]).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_one_pixel(kind: str) -> None:
    data = encoded(Image.new("RGB", (1, 1), (255, 255, 255)), kind)
    assert check(data, thorough=True)[1:] == (1, 1)
    assert pixels_of(data).shape == (1, 1, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
@pytest.mark.parametrize("thorough", [False, True])
def test_a_truncated_file_is_told_without_training(kind: str, share: float, thorough: bool) -> None:
    data = encoded(RGB, kind)
    check(data, thorough)
    with pytest.raises(ImageError, match=r"damaged|no whole image"):
        check(data[: int(len(data) * share)], thorough)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_the_end_of_a_thumbnail_is_not_the_end_of_the_image(share: float) -> None:
    thumbnail = encoded(RGB.resize((16, 12)), "JPEG")
    data = encoded(RGB, "JPEG", exif=b"Exif\0\0" + thumbnail)
    assert thumbnail in data
    check(data, thorough=False)
    with pytest.raises(ImageError, match="damaged"):
        check(data[: int(len(data) * share)], thorough=False)


def test_a_whole_jpeg_is_not_decoded_to_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_reading, "decode", lambda _: pytest.fail("decoded"))
    for data in (photo(0), photo(0) + b"and more behind it", encoded(RGB, "PNG"), encoded(RGB, "WEBP")):
        check(data, thorough=False)


def test_a_flipped_bit_of_a_png_is_found() -> None:
    data = bytearray(encoded(RGB, "PNG"))
    data[len(data) // 2] ^= 4
    with pytest.raises(ImageError, match="damaged"):
        check(bytes(data), thorough=False)


NO_IMAGES = [
    (b"", "is empty"),
    (b"this is a text, whatever its name says", "is no whole image of a known format"),
    (b"\xff\xd8", "is no whole image of a known format|damaged"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "is no whole image of a known format"),
]


@pytest.mark.parametrize(("data", "message"), NO_IMAGES)
def test_no_images(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        check(data, thorough=False)


@pytest.mark.parametrize("size", [(20_000, 20_000), (1_000_000, 1_000)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_reading, "decode", lambda _: pytest.fail("decoded"))
    with pytest.raises(ImageError, match=r"too large to decode safely .*shrink it"):
        check(header_only(*size), thorough=True)


def test_a_bomb_is_refused_where_pillow_was_told_to_allow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(image_reading, "decode", lambda _: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="20000 x 20000 pixels"):
        check(header_only(20_000, 20_000), thorough=True)


def test_a_large_photograph_is_no_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        assert check(header_only(12_000, 9_000), thorough=False)[1:] == (9_000, 12_000)


def test_a_bomb_of_text_in_a_png() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * (70 << 20), zip=True)
    with pytest.raises(ImageError, match="damaged"):
        check(encoded(RGB, "PNG", pnginfo=info), thorough=True)


def test_the_hash_is_of_the_bytes(tmp_path: Path) -> None:
    first, second = check(photo(0), thorough=False), check(photo(1), thorough=False)
    assert first.hash != second.hash
    assert first == check(photo(0), thorough=True)
    assert 0 <= first.hash < 1 << 64
