"""Every fault of the options and the files is told in one message that says what to do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from tl_lightning.data import TextFiles
from tl_lightning.errors import UserError

Make = Callable[..., TextFiles]
Write = Callable[[str, Any], Path]


def _table(label: Callable[[int], Any] = lambda row: row % 2) -> list[dict[str, Any]]:
    return [{"text": f"film {row}", "label": label(row), "other": f"plot {row}"} for row in range(40)]


OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"clean": ["lowr"]}, r"no step 'lowr' \(did you mean 'lower'\?\).*data.clean=\[lower\]"),
    ({"on_empty": "skip"}, "data.on_empty=skip: type data.on_empty=error or data.on_empty=drop"),
    ({"text_pair": "text"}, "data.text and data.text_pair are both 'text'"),
    ({"label": "text"}, "data.label=text is a column of texts too"),
    ({"text": "txt"}, "data.text=txt: this column does not exist .* text, label, other.*data.text=text"),
    ({"label": "lbl"}, "data.label=lbl: this column does not exist .*data.label=label"),
    ({"batch_size": 0}, "data.batch_size=0: it must be at least 1"),
    ({"num_workers": -1}, "data.num_workers=-1: it must be at least 0"),
    ({"shots": 4, "train_fraction": 0.5}, "data.shots=4 and data.train_fraction=0.5 both say"),
    ({"shots": 4, "target": "number"}, "data.shots=4 counts rows per class.*data.train_fraction="),
    ({"train_fraction": 0.0}, "data.train_fraction=0.0: it must be above 0"),
    ({"val_fraction": 1.5}, "data.val_fraction=1.5: it must lie between 0 and 1"),
    ({"val_fraction": 0.5, "test_fraction": 0.5}, "leave nothing to train on"),
    ({"val_fraction": 0.001}, "40 rows, too few to take 0.001 and 0.1 of them"),
    ({"max_length": 2}, "data.max_length=2: this backbone takes 3 to 64 tokens"),
    ({"max_length": 65}, "data.max_length=65: this backbone takes 3 to 64 tokens"),
    ({"label_separator": ""}, "data.label_separator= is empty"),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS)
def test_options(write: Write, make: Make, options: dict[str, Any], message: str) -> None:
    write("all.csv", _table())
    with pytest.raises(UserError, match=message):
        make("all.csv", **options)


LABELS: list[tuple[str, dict[str, Any], Any, str]] = [
    ("csv", {}, lambda row: row / 2, r"all.csv: row 2 has the label 0.5, .*objective=regression"),
    ("parquet", {}, lambda row: row / 2, r"row 2 has the label 0.5, .*objective=regression"),
    ("jsonl", {}, lambda row: ["a"], r"row 1 has the list of labels \['a'\]. .*objective=multilabel"),
    ("csv", {}, lambda row: "same", "only the label 'same': there is nothing to learn"),
    ("csv", {"target": "labels"}, lambda row: "", "has no label: there is nothing to learn"),
    ("csv", {}, lambda row: "" if row == 4 else row % 2, r"row 5 has an empty label .*data.on_empty=drop"),
    (
        "csv",
        {"target": "number"},
        lambda row: "x" if row == 6 else row,
        "row 7 has the label 'x', .* not a number",
    ),
    (
        "csv",
        {"target": "number"},
        lambda row: "inf" if row == 6 else row,
        "row 7 has the label inf, .* not finite",
    ),
    (
        "csv",
        {"target": "number"},
        lambda row: "nan" if row == 6 else row,
        "row 7 has the label nan, .* not finite",
    ),
    ("csv", {"target": "number"}, lambda row: "1e39", "row 1 has the label 1e39, .* not finite"),
    ("parquet", {"target": "number"}, lambda row: ["a"], r"row 1 has the label \['a'\], .* not a number"),
    ("parquet", {}, lambda row: {"a": row}, r"row 1 holds \{'a': 0\}, which is no label"),
]


@pytest.mark.parametrize(("extension", "options", "label", "message"), LABELS)
def test_labels(
    write: Write,
    make: Make,
    extension: str,
    options: dict[str, Any],
    label: Callable[[int], Any],
    message: str,
) -> None:
    write(f"all.{extension}", _table(label))
    with pytest.raises(UserError, match=message):
        make(f"all.{extension}", **options)


FILES: list[tuple[str, bytes, str]] = [
    ("all.csv", b"", "all.csv is empty"),
    ("all.jsonl", b"", "all.jsonl is empty"),
    ("all.csv", b"text,label\n", "all.csv is empty: there are no rows"),
    ("all.csv", b"text,label\ngood,1\nbad\n", "row 2 has 1 columns, expected 2"),
    ("all.csv", b'text,label\n"two\nlines",1\ngood,0,1\n', "row 2 has 3 columns, expected 2"),
    ("all.tsv", b"text\tlabel\ngood\t1\tx\n", "row 1 has 3 columns, expected 2"),
    ("all.csv", b"text,label\ngood,1\nb\xe4d,0\n", "not UTF-8: line 3, byte 20 of the file"),
    ("all.jsonl", b'{"text": "b\xe4d", "label": 1}\n', "not UTF-8: line 1, byte 12 of the file"),
    ("all.csv", b"text,label,text\ngood,1,bad\n", "data.text=text: this column stands twice"),
    ("all.jsonl", b'{"text": "good", "label": 1}\n\n{"text": \n', "row 2 is not valid JSON"),
    ("all.json", b"[1, 2]\n", "row 1 is not an object"),
    ("all.parquet", b"PAR1 and then nothing", "all.parquet cannot be read, it may be damaged"),
    ("all.parquet", b"", "all.parquet is empty"),
    ("all.txt", b"text", r"all.txt: the extension '.txt' is not known.*\.csv"),
    ("all.csv", b"text,label\n ,1\n ,2\n", "row 1 has an empty text .*data.on_empty=drop"),
]


@pytest.mark.parametrize(("name", "content", "message"), FILES)
def test_files(tmp_path: Path, make: Make, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        make(name)
    assert not list((tmp_path / "cache").glob("text/*.tmp*"))


def test_truncated_parquet(write: Write, make: Make) -> None:
    path = write("all.parquet", _table())
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="cannot be read, it may be damaged"):
        make("all.parquet")


def test_text_column_that_holds_lists(write: Write, make: Make) -> None:
    write("all.parquet", [{"text": ["a"], "label": 1}])
    with pytest.raises(UserError, match=r"'text' .* holds no readable text near row 1"):
        make("all.parquet")


def test_missing_file_names_its_neighbours(write: Write, make: Make, tmp_path: Path) -> None:
    write("train.csv", _table())
    with pytest.raises(UserError, match=r"data.train=.*trian.csv: there is no such file. Near it: train.csv"):
        make("trian.csv")
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        make("nowhere/train.csv")
    with pytest.raises(UserError, match="is a folder"):
        make(".")


def test_same_file_for_two_splits(write: Write, make: Make) -> None:
    write("all.csv", _table())
    with pytest.raises(UserError, match=r"data.train and data.val are the same file"):
        make("all.csv", val="all.csv")


@pytest.mark.parametrize("split", ["val", "test"])
def test_label_of_one_split_only(write: Write, make: Make, split: str) -> None:
    write("train.csv", _table())
    write("other.csv", _table(lambda row: "odd" if row == 8 else 1))
    message = rf"other.csv: the label 'odd' of data.{split} \(first in row 9\) does not occur in data.train, .*0, 1"
    with pytest.raises(UserError, match=message):
        make("train.csv", **{split: "other.csv"})


def test_multi_label_of_one_split_only(write: Write, make: Make) -> None:
    write("train.csv", _table(lambda row: "a;b"))
    write("test.csv", _table(lambda row: "a;c" if row else "a"))
    with pytest.raises(UserError, match=r"the label 'c' of data.test \(first in row 2\)"):
        make("train.csv", test="test.csv", target="labels", label_separator=";")


def test_pair_for_some_texts_only(write: Write, make: Make) -> None:
    rows = _table()
    rows[3]["other"] = None
    for name in ("all.csv", "all.jsonl", "all.parquet"):
        write(name, rows)
        with pytest.raises(UserError, match="row 4 has a pair column for one text only: 'other' is empty"):
            make(name, text_pair="other")


def test_empty_rows_are_dropped_on_demand(write: Write, make: Make) -> None:
    rows = _table()
    rows[0]["text"], rows[5]["label"], rows[6]["text"] = "", "", "<br>"
    write("all.csv", rows)
    data = make("all.csv", on_empty="drop", clean=["html"])
    assert sum(data.summary["rows"].values()) == 37
    assert data.summary["dropped"] == {"train": 3, "val": 0, "test": 0}
    write("rest.csv", [rows[1]] * 6 + rows[6:])
    with pytest.raises(UserError, match=r"row 7 has an empty text \(column 'text' after data.clean\)"):
        make("rest.csv", clean=["html"])


def test_slow_tokenizer(write: Write, make: Make, tokenizer: PreTrainedTokenizerBase) -> None:
    class Slow:
        is_fast = False

    write("all.csv", _table())
    with pytest.raises(UserError, match="The tokenizer Slow of this backbone has no fast version"):
        make("all.csv", preprocessor=Slow())


def test_cache_that_cannot_be_written(write: Write, make: Make, tmp_path: Path) -> None:
    write("all.csv", _table())
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(UserError, match=r"cannot be written to .*taken.*data.cache_dir=FOLDER"):
        make("all.csv", cache_dir=str(tmp_path / "taken"))
