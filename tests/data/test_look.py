"""What is wrong with data is told without a backbone and all of it at once; what was looked at is not read again."""

import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.data import test_image_faults as of_images
from tests.data import test_text_faults as of_texts
from tests.data.pictures import SPEC, as_hub, photos, png, put, table_of
from tl_lightning.data import Digits, HubImages, ImageFolder, ImageTable, TextFiles, image, image_index, image_sources
from tl_lightning.data.faults import DataError, RowError, RowFaults
from tl_lightning.errors import UserError

Write = Callable[[str, Any], Path]
Given = Callable[..., TextFiles]
OF_BACKBONES = {"preprocessor", "max_length"}  # what only they can tell
OPTIONS = [case for case in of_texts.OPTIONS if not set(case[0]) & OF_BACKBONES]
IMAGE_OPTIONS = [case for case in of_images.OPTIONS if not set(case[0]) & OF_BACKBONES]


@pytest.fixture
def given(tmp_path: Path) -> Given:
    """Data of files in tmp_path, without a backbone."""

    def given(train: str, **options: Any) -> TextFiles:
        paths: dict[str, Any] = {
            split: str(tmp_path / options.pop(split)) for split in ("val", "test") if split in options
        }
        known: dict[str, Any] = {"target": "class", "cache_dir": str(tmp_path / "cache"), "preprocessor": None}
        return TextFiles(train=str(tmp_path / train), **{**known, **options}, **paths)

    return given


def _pictures(kind: type[Any], tmp_path: Path, **options: Any) -> Any:
    return kind(**{"target": "class", "cache_dir": str(tmp_path / "cache"), "preprocessor": None, **options})


def _told(data: Any) -> list[str]:
    """Each fault that a look tells."""
    with pytest.raises(UserError) as caught:
        data.look()
    head, *faults = str(caught.value).split("\n  ")
    if faults:
        assert head == f"The data has {len(faults)} faults:"
    return faults or [head]


def _fit(faults: Sequence[str], patterns: Sequence[str]) -> None:
    assert len(faults) == len(patterns), faults
    for fault, pattern in zip(faults, patterns, strict=True):
        assert re.search(pattern, fault), (pattern, fault)


@pytest.mark.parametrize(("options", "message"), OPTIONS)
def test_options_of_texts(write: Write, given: Given, options: dict[str, Any], message: str) -> None:
    write("all.csv", of_texts._table())
    with pytest.raises(UserError, match=message):
        given("all.csv", **options).look()


@pytest.mark.parametrize(("extension", "options", "label", "message"), of_texts.LABELS)
def test_labels(write: Write, given: Given, extension: str, options: dict[str, Any], label: Any, message: str) -> None:
    write(f"all.{extension}", of_texts._table(label))
    with pytest.raises(UserError, match=message):
        given(f"all.{extension}", **options).look()


@pytest.mark.parametrize(("name", "content", "message"), of_texts.FILES)
def test_files(tmp_path: Path, given: Given, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        given(name).look()
    assert not list((tmp_path / "cache").rglob("*.tmp*"))


def test_faults_of_all_splits_are_told_together(write: Write, given: Given, tmp_path: Path) -> None:
    rows = of_texts._table()
    rows[3]["text"], rows[9]["label"] = "  ", ""
    write("train.csv", rows)
    write("val.csv", of_texts._table(lambda row: "odd" if row in (4, 7) else 1))
    (tmp_path / "test.csv").write_text("words,lbl,other\n")
    wanted = [
        "data.text=text: this column does not exist in .*test.csv.* words, lbl, other",
        "data.label=label: this column does not exist in .*test.csv.*data.label=lbl",
        r"train.csv: row 4 has an empty text \(column 'text'\). Fill it, .*data.on_empty=drop.$",
        "train.csv: row 10 has an empty label",
        "val.csv: the label 'odd' of data.val .first in row 5. does not occur in data.train, whose labels are 0, 1",
    ]
    data = given("train.csv", val="val.csv", test="test.csv")
    _fit(_told(data), wanted)
    _fit(_told(data), wanted)  # a look that found something is no look that is over


def test_files_that_are_not_there_hide_no_other_fault(write: Write, given: Given) -> None:
    write("val.csv", of_texts._table(lambda row: row / 2))
    data = given("gone.csv", val="val.csv", test="all.txt", shots=4, train_fraction=0.5, batch_size=0)
    wanted = [
        "data.batch_size=0",
        "data.shots=4 and data.train_fraction=0.5",
        "data.train=.*gone.csv: there is no such file",
        "data.test=.*all.txt: there is no such file",
    ]
    _fit(_told(data), wanted)
    _fit(_told(given("gone.csv", val="val.csv")), ["gone.csv", "val.csv: row 2 has the label 0.5"])


def test_of_many_rows_with_a_fault_few_are_named(write: Write, given: Given) -> None:
    rows = of_texts._table(lambda row: "x" if row > 29 else row)
    for row in (2, 5):
        rows[row]["text"] = ""
    write("all.csv", rows)
    wanted = [
        r"row 3 has an empty text .*data.on_empty=drop. The same: row 6.$",
        r"row 31 has the label 'x', which is not a number. .* The same: row 32, row 33, row 34 and 6 more.$",
    ]
    _fit(_told(given("all.csv", target="number")), wanted)
    write("val.csv", of_texts._table(lambda row: f"new {row}"))
    write("train.csv", of_texts._table())
    (fault,) = _told(given("train.csv", val="val.csv"))
    assert fault.endswith(" The same: 'new 1' (row 2), 'new 2' (row 3), 'new 3' (row 4) and 36 more.")


def test_a_fault_that_ends_a_file_is_told_beside_those_before_it(given: Given, tmp_path: Path) -> None:
    good = "".join(f"film {row},{row % 2}\n" for row in range(2000))
    (tmp_path / "all.csv").write_text(f"text,label\n,1\n{good}a,b,c\n" + good * 60)
    (tmp_path / "val.csv").write_text("text,label\na film,2\n")
    faults = _told(given("all.csv", val="val.csv"))
    assert [fault for fault in faults if "data.val" in fault] == [], "the labels of train are not known to their end"
    assert "row 2002 has 3 columns, expected 2" in faults[-1]


def test_a_row_that_is_to_be_mended_has_its_label_already(write: Write, given: Given) -> None:
    rows = of_texts._table(lambda row: "rare" if row == 3 else row % 2)
    rows[3]["text"] = ""
    write("train.csv", rows)
    write("val.csv", of_texts._table(lambda row: "rare" if row == 3 else row % 2))
    _fit(_told(given("train.csv", val="val.csv")), ["train.csv: row 4 has an empty text"])
    dropped = given("train.csv", val="val.csv", on_empty="drop")
    _fit(_told(dropped), [r"the label 'rare' of data.val \(first in row 4\) does not occur in data.train"])


def test_too_few_rows_are_told_of_splits_that_are_not_given_alone(write: Write, given: Given) -> None:
    write("all.csv", of_texts._table()[:2])
    _fit(_told(given("all.csv")), ["data.train has 2 rows, too few to take 0.1 and 0.1 of them"])
    _fit(_told(given("all.csv", val="gone.csv", test="gone2.csv")), ["gone.csv", "gone2.csv"])


def test_faults_of_data_are_sent_between_processes_whole() -> None:
    fault = DataError("one", "two")
    again = pickle.loads(pickle.dumps(fault))
    assert (str(again), again.faults) == ("The data has 2 faults:\n  one\n  two", ("one", "two"))
    assert str(DataError("one")) == "one"


def test_kinds_of_rows() -> None:
    rows = RowFaults()
    for number in range(6):
        rows.add(f"a.csv: row {number}", RowError("odd" if number % 2 else "even", f"is {number}."), f"row {number}")
    assert rows.told() == [
        "a.csv: row 0 is 0. The same: row 2 and row 4.",
        "a.csv: row 1 is 1. The same: row 3 and row 5.",
    ]


@pytest.mark.parametrize(("options", "message"), IMAGE_OPTIONS)
def test_options_of_images(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    photos(tmp_path / "set")
    with pytest.raises(UserError, match=message):
        _pictures(ImageFolder, tmp_path, **{"root": str(tmp_path / "set"), **options}).look()


@pytest.mark.parametrize(("kind", "message"), of_images.LAYOUTS)
def test_folders(tmp_path: Path, kind: str, message: str) -> None:
    of_images._lay_out(tmp_path / "set", kind)
    with pytest.raises(UserError, match=message):
        _pictures(ImageFolder, tmp_path, root=str(tmp_path / "set")).look()


@pytest.mark.parametrize(("name", "data", "message"), of_images.BAD)
def test_few_bad_images(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    bad = put(photos(tmp_path / "set", 30) / name, data)
    with pytest.raises(UserError, match=rf"{bad} .*{message}.*data.on_bad=skip"):
        _pictures(ImageFolder, tmp_path, root=str(tmp_path / "set")).look()


@pytest.mark.parametrize(("options", "message"), of_images.TABLES)
def test_tables(tmp_path: Path, write: Write, options: dict[str, Any], message: str, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    write("all.csv", of_images._rows(tmp_path))
    with pytest.raises(UserError, match=message):
        _pictures(ImageTable, tmp_path, train="all.csv", **options).look()


@pytest.mark.parametrize("digits", [[10], [], [3]])
def test_digits(tmp_path: Path, digits: list[int]) -> None:
    with pytest.raises(UserError, match=r"data.digits="):
        _pictures(Digits, tmp_path, digits=digits).look()


@pytest.fixture
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize(("options", "message"), of_images.HUB)
def test_images_of_a_hub(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _pictures(HubImages, tmp_path, **{**as_hub(tmp_path, "class"), **options}).look()


@pytest.fixture
def _many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of images is too many to read before the backbone is there."""
    monkeypatch.setattr(image, "FEW", 0)


@pytest.mark.usefixtures("_own_cache", "_many")
def test_rows_without_an_image_are_seen_without_reading_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, Any]] = [{"image": {"bytes": png(row), "path": None}, "label": row % 2} for row in range(30)]
    rows[8]["image"], rows[11]["image"], rows[12]["label"] = None, {"bytes": None, "path": None}, None
    (tmp_path / "set").mkdir()
    table_of(tmp_path / "set/train.parquet", rows)
    monkeypatch.setattr(image_index, "open_index", None)
    data = _pictures(HubImages, tmp_path, path=str(tmp_path / "set"), test=None)
    wanted = ["set: row 9 holds no image. .*data.on_bad=skip. The same: row 12.$", "set: row 13 has no label"]
    _fit(_told(data), wanted)


@pytest.mark.usefixtures("_many")
def test_files_that_are_missing_or_empty_are_seen_without_reading_any(tmp_path: Path, write: Write) -> None:
    rows = of_images._rows(tmp_path)
    for at in (6, 7, 9, 11, 13, 20):
        rows[at]["image"] = f"gone{at}.png"
    put(tmp_path / "3.png", b"")
    rows[25]["label"] = ""
    write("all.csv", rows)
    write("val.csv", [{"image": "1.png", "label": "odd"}])
    data = _pictures(ImageTable, tmp_path, train=str(tmp_path / "all.csv"), val=str(tmp_path / "val.csv"))
    wanted = [
        r"all.csv: row 4: .*3.png is empty \(0 bytes\)",
        r"row 7: .*gone6.png does not exist. .* The same: gone7.png, gone9.png, gone11.png and 2 more.$",
        r"row 26: .*25.png has no label",
        r"val.csv: the label 'odd' of data.val \(first in 1.png\)",
    ]
    _fit(_told(data), wanted)


@pytest.mark.usefixtures("_many")
def test_images_that_may_be_skipped_decide_about_classes_once_they_are_read(tmp_path: Path) -> None:
    """A label of val alone is no fault where its only image is skipped."""
    photos(tmp_path / "set/train", 30)
    photos(tmp_path / "set/val", 30)
    put(tmp_path / "set/val/wasp/bad.jpg", b"bad")
    data = _pictures(ImageFolder, tmp_path, root=str(tmp_path / "set"), on_bad="skip")
    data.look()
    data.preprocessor = SPEC
    data.setup()
    assert data.classes == ("ant", "bee")
    put(tmp_path / "set/val/wasp/good.png", png(3))
    data = _pictures(ImageFolder, tmp_path, root=str(tmp_path / "set"), on_bad="skip")
    data.look()
    data.preprocessor = SPEC
    with pytest.raises(UserError, match=r"the label 'wasp' of data.val \(first in val/wasp/good.png\)"):
        data.setup()


def test_a_number_that_is_none_is_told_of_images_that_are_not_skipped(tmp_path: Path, write: Write) -> None:
    rows = of_images._rows(tmp_path)
    rows[4]["label"], rows[5]["label"] = "x", "y"
    put(tmp_path / "5.png", b"bad")
    path = write("all.csv", rows)
    for few in (0, 100):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(image, "FEW", few)
            data = _pictures(ImageTable, tmp_path, train=str(path), target="number", on_bad="skip")
            _fit(_told(data), [r"row 5: .*4.png has the label 'x', which is not a number"])


@pytest.mark.usefixtures("_many")
def test_images_are_stamped_once_and_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"stamps": 0, "reads": 0}

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any) -> Any:
            counts[name] += 1
            return call(*args)

        return counting

    photos(tmp_path / "set", 30)
    monkeypatch.setattr(image_sources, "stamp", counted("stamps", image_sources.stamp))
    monkeypatch.setattr("tl_lightning.data.image_folder.read_file", counted("reads", image_sources.read_file))
    data = _pictures(ImageFolder, tmp_path, root=str(tmp_path / "set"))
    data.look()
    assert counts == {"stamps": 30, "reads": 0}
    data.preprocessor = SPEC
    data.setup()
    assert counts == {"stamps": 30, "reads": 30}


def test_all_bad_images_are_told_at_once(tmp_path: Path) -> None:
    root = photos(tmp_path / "set", 30)
    for name in "abcdef":
        put(root / f"ant/{name}.jpg", b"hello")
    put(root / "bee/z.png", png(0)[:60])
    wanted = [
        r"ant/a.jpg is no whole image of a known format .* The same: ant/b.jpg, ant/c.jpg, ant/d.jpg and 2 more.$",
        r"bee/z.png .*damaged.*data.on_bad=skip.$",
    ]
    _fit(_told(_pictures(ImageFolder, tmp_path, root=str(root))), wanted)
