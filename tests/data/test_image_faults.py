"""Every fault of options, folders, tables and files is told in one message that says what to do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.data.pictures import SPEC, as_hub, header_only, photo, photos, png, put, table_of
from tl_lightning.data import Digits, HubImages, ImageFolder, ImageTable, TextFiles
from tl_lightning.errors import UserError

Write = Callable[[str, Any], Path]


def _folder(tmp_path: Path, **options: Any) -> ImageFolder:
    given: dict[str, Any] = {"preprocessor": SPEC, "target": "class", "cache_dir": str(tmp_path / "cache")}
    data = ImageFolder(**{**given, "root": str(tmp_path / "set"), **options})
    data.setup()
    return data


def _table(tmp_path: Path, path: Path, **options: Any) -> ImageTable:
    given: dict[str, Any] = {"preprocessor": SPEC, "target": "class", "cache_dir": str(tmp_path / "cache")}
    data = ImageTable(train=str(path), **{**given, **options})
    data.setup()
    return data


OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"preprocessor": "a tokenizer"}, "This data holds images, which the backbone does not take: .*backbone=resnet50"),
    ({"crop_scale": (0.5, 0.1)}, r"data.crop_scale=\[0.5, 0.1\]: two shares .*data.crop_scale=\[0.08,1\], or null"),
    ({"crop_scale": [0.0, 1.0]}, r"data.crop_scale=\[0.0, 1.0\]"),
    ({"crop_scale": [0.5]}, r"data.crop_scale=\[0.5\]"),
    ({"mixup": -1.0}, "data.mixup=-1.0: it must be 0 or more"),
    ({"cutmix": -0.1}, "data.cutmix=-0.1: it must be 0 or more"),
    ({"random_erasing": 1.5}, "data.random_erasing=1.5: it is a probability"),
    ({"mix_off_epochs": -1}, "data.mix_off_epochs=-1: it must be at least 0"),
    ({"mixup": 0.2, "target": "number"}, "data.mixup and data.cutmix share out labels .*objective=multiclass"),
    ({"on_bad": "drop"}, "data.on_bad=drop: type data.on_bad=error or data.on_bad=skip"),
    ({"cache": "memory"}, "data.cache=memory: type data.cache=ram, data.cache=disk or data.cache=null"),
    ({"auto_augment": "rand"}, "data.auto_augment=rand: type data.auto_augment=randaugment, trivialaugment or null"),
    ({"batch_size": 0}, "data.batch_size=0: it must be at least 1"),
    ({"shots": 2, "target": "number"}, "data.shots=2 counts rows per class"),
    ({"root": "nowhere/at/all"}, "data.root=nowhere/at/all: there is no such folder. A relative path begins at /"),
    ({"target": "number"}, "ant/0.jpg has the label 'ant', which is not a number. For classes: objective=multiclass"),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS)
def test_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    photos(tmp_path / "set")
    with pytest.raises(UserError, match=message):
        _folder(tmp_path, **options)


def test_memory_that_workers_would_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(tmp_path / "set")
    monkeypatch.setattr("multiprocessing.get_start_method", lambda: "spawn")
    with pytest.raises(UserError, match=r"data.cache=ram: worker processes .*data.cache=disk"):
        _folder(tmp_path, cache="ram", num_workers=2)
    _folder(tmp_path, cache="ram", num_workers=0)


def test_images_for_a_text_model(tmp_path: Path, write: Write) -> None:
    write("all.csv", [{"text": f"film {row}", "label": row % 2} for row in range(30)])
    data = TextFiles(train=str(tmp_path / "all.csv"), preprocessor=SPEC, target="class")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="This data holds texts, which the backbone does not take"):
        data.setup()


def _lay_out(root: Path, kind: str) -> None:
    if kind == "empty":
        root.mkdir()
    elif kind == "loose":
        put(root / "1.jpg", photo(1))
    elif kind == "loose in train":
        put(root / "train/1.jpg", photo(1))
    elif kind == "an empty class":
        photos(root)
        (root / "cat").mkdir()
    elif kind == "one class":
        photos(root, classes=("ant",))
    elif kind == "no train":
        photos(root / "test")
    elif kind == "val twice":
        for name in ("train", "val", "valid"):
            photos(root / name)
    elif kind == "a class of test only":
        photos(root / "train")
        photos(root / "test", classes=("ant", "bee", "wasp"))
    else:
        put(root, b"a file")


LAYOUTS = [
    ("empty", r"data.root=.*set: .*there are no images in it \(bmp gif jpeg jpg png tif tiff webp\). .*set/CLASS/"),
    ("loose", "its images stand in no folder of a class. They are expected at .*/set/CLASS/"),
    ("loose in train", "its images stand in no folder of a class. They are expected at .*/set/train/CLASS/"),
    ("an empty class", r"set/cat holds no image .*Fill it or take it away"),
    ("one class", "only the label 'ant': there is nothing to learn. Each class needs a folder of its own"),
    ("no train", "has test but no train: expected are train/CLASS/ beside it, or CLASS/ alone"),
    ("val twice", "has both val and valid: keep one of them"),
    ("a class of test only", r"'wasp' of data.test \(first in test/wasp/11.jpg\) does not occur in data.train"),
    ("a file", "data.root=.*set: is a file"),
]


@pytest.mark.parametrize(("kind", "message"), LAYOUTS)
def test_folders(tmp_path: Path, kind: str, message: str) -> None:
    _lay_out(tmp_path / "set", kind)
    with pytest.raises(UserError, match=message):
        _folder(tmp_path)


def test_loose_images_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(photos(tmp_path / "set", 30) / "loose.jpg", photo(99))
    assert sum(_folder(tmp_path).summary["rows"].values()) == 30
    assert "1 images stand in no folder of a class and are left out" in caplog.text


BAD: list[tuple[str, bytes, str]] = [
    ("ant/bad.jpg", photo(0)[:700], "cannot be decoded, it may be damaged"),
    ("ant/bad.png", png(0)[:60], "damaged"),
    ("ant/text.jpg", b"hello", "is no whole image of a known format"),
    ("ant/zero.jpg", b"", r"is empty \(0 bytes\)"),
    ("ant/bomb.png", header_only(20_000, 20_000), "is too large to decode safely"),
]


@pytest.mark.parametrize(("name", "data", "message"), BAD)
def test_bad_files(tmp_path: Path, name: str, data: bytes, message: str, caplog: pytest.LogCaptureFixture) -> None:
    root = photos(tmp_path / "set", 30)
    bad = put(root / name, data)
    with pytest.raises(UserError, match=rf"{bad} .*{message}.*data.on_bad=skip"):
        _folder(tmp_path)
    assert not list((tmp_path / "cache/images").glob("*.tmp*"))
    skipped = _folder(tmp_path, on_bad="skip")
    assert sum(skipped.summary["rows"].values()) == 30
    assert skipped.summary["skipped"] == {"train": 1, "val": 0, "test": 0}
    assert f"{bad}" in caplog.text
    again = _folder(tmp_path, on_bad="skip")
    assert (again.fingerprint, again.summary["skipped"]["train"]) == (skipped.fingerprint, 1)


def test_skipping_finds_what_the_structure_does_not_tell(tmp_path: Path) -> None:
    # Whole by its looks, and no scan in it that could be decoded.
    whole = bytearray(photo(0))
    at = whole.find(b"\xff\xc4")
    whole[at + 4 : at + 24] = b"\xff" * 20
    put(photos(tmp_path / "set", 30) / "bee/odd.jpg", bytes(whole))
    _folder(tmp_path)
    assert _folder(tmp_path, on_bad="skip").summary["skipped"]["train"] == 1


def test_nothing_but_bad_files(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        put(tmp_path / "set" / name / "bad.jpg", b"bad")
    with pytest.raises(UserError, match="there is no image in it that can be used"):
        _folder(tmp_path, on_bad="skip")


def test_few_of_many_skipped_files_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = photos(tmp_path / "set", 30)
    for number in range(9):
        put(root / f"ant/bad{number}.jpg", b"bad")
    assert _folder(tmp_path, on_bad="skip").summary["skipped"]["train"] == 9
    assert caplog.text.count("left out.") == 3
    assert "9 rows were left out" in caplog.text


def _rows(tmp_path: Path, count: int = 30) -> list[dict[str, Any]]:
    for row in range(count):
        put(tmp_path / f"{row}.png", png(row))
    return [{"image": f"{row}.png", "label": row % 2} for row in range(count)]


def test_a_missing_path_names_its_row(tmp_path: Path, write: Write) -> None:
    rows = _rows(tmp_path)
    rows[6]["image"] = "gone.png"
    path = write("all.csv", rows)
    with pytest.raises(UserError, match=r"all.csv: row 7: .*gone.png does not exist. .*data.on_bad=skip"):
        _table(tmp_path, path)
    assert _table(tmp_path, path, on_bad="skip").summary["skipped"]["train"] == 1


def test_a_missing_label_names_its_row(tmp_path: Path, write: Write) -> None:
    rows = _rows(tmp_path)
    rows[4]["label"] = ""
    path = write("all.csv", rows)
    with pytest.raises(UserError, match=r"all.csv: row 5: .*4.png has no label. .*data.on_bad=skip"):
        _table(tmp_path, path)
    data = _table(tmp_path, path, on_bad="skip")
    assert data.summary["dropped"] == {"train": 1, "val": 0, "test": 0}
    assert data.summary["skipped"] == {"train": 0, "val": 0, "test": 0}


TABLES: list[tuple[dict[str, Any], str]] = [
    ({"image": "img"}, "data.image=img: this column does not exist in .*all.csv. .*Type for example data.image=image"),
    ({"label": "lbl"}, "data.label=lbl: this column does not exist .*data.label=label"),
    ({"label": "image"}, "data.image and data.label are both 'image'"),
    ({"root": "nowhere"}, "data.root=nowhere: there is no such folder"),
    ({"val": "all.csv"}, "data.train and data.val are the same file"),
    ({"test": "gone.csv"}, "data.test=.*gone.csv: there is no such file"),
]


@pytest.mark.parametrize(("options", "message"), TABLES)
def test_tables(
    tmp_path: Path, write: Write, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write("all.csv", _rows(tmp_path))
    with pytest.raises(UserError, match=message):
        _table(tmp_path, Path(path.name), **options)


def test_a_label_of_one_table_only(tmp_path: Path, write: Write) -> None:
    rows = _rows(tmp_path)
    path = write("all.csv", rows)
    write("test.csv", [rows[0], {"image": "3.png", "label": "odd"}])
    with pytest.raises(UserError, match=r"test.csv: the label 'odd' of data.test \(first in 3.png\) does not occur"):
        _table(tmp_path, path, test=str(tmp_path / "test.csv"))


@pytest.fixture
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


HUB: list[tuple[dict[str, Any], str]] = [
    ({"image": "img"}, "data.image=img: this column does not exist in split 'train' .*data.image=image"),
    ({"image": "label", "label": "image"}, "data.image=label: this column .* holds no images .*image, label"),
    ({"test": "test"}, "data.test=test: .* has no such split. It has train"),
    ({"val": "train"}, "must be different splits"),
]


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize(("options", "message"), HUB)
def test_hub(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"preprocessor": SPEC, "target": "class", "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(UserError, match=message):
        HubImages(**{**given, **as_hub(tmp_path, "class"), **options}).setup()


@pytest.mark.usefixtures("_own_cache")
def test_hub_rows_without_an_image(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"image": png(row), "label": row % 2} for row in range(30)]
    rows[8]["image"] = None
    (tmp_path / "set").mkdir()
    table_of(tmp_path / "set/train.parquet", rows)
    given: dict[str, Any] = {"preprocessor": SPEC, "target": "class", "cache_dir": str(tmp_path / "cache")}
    data = HubImages(path=str(tmp_path / "set"), test=None, **given)
    with pytest.raises(UserError, match=r"split 'train' of .*set: row 9 holds no image"):
        data.setup()


@pytest.mark.parametrize("digits", [[10], [], [-1, 2]])
def test_digits_that_there_are_not(digits: list[int]) -> None:
    with pytest.raises(UserError, match=r"data.digits=.*digits of 0 to 9 are expected"):
        Digits(digits=digits, preprocessor=SPEC, target="class").setup()


def test_one_digit_only(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"only the label '3': .*data.digits=\[0,1\]"):
        Digits(digits=[3], preprocessor=SPEC, target="class", cache_dir=str(tmp_path)).setup()


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    photos(tmp_path / "set")
    put(tmp_path / "taken", b"a file, no folder")
    with pytest.raises(UserError, match=r"cannot be written to .*taken.*data.cache_dir=FOLDER"):
        _folder(tmp_path, cache_dir=str(tmp_path / "taken"))
