"""What every kind of text data must do, over formats, targets, single texts and pairs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tl_lightning.data import Batch, TextFiles

Make = Callable[..., TextFiles]
Write = Callable[[str, Any], Path]
LABELS: dict[str, Any] = {
    "class": lambda row: ["neg", "pos"][row % 2],
    "labels": lambda row: ["a", "a,b", "b", ""][row % 4],
    "number": lambda row: row / 4,
}


def _rows(target: str, pair: bool, typed: bool) -> list[dict[str, Any]]:
    rows = []
    for row in range(40):
        label = LABELS[target](row)
        if typed and target == "labels":
            label = [part for part in label.split(",") if part]
        extra = {"other": "a film"} if pair else {}
        rows.append({"text": "good " * (row % 7 + 1) + str(row), "label": label, "unused": row, **extra})
    return rows


@pytest.mark.parametrize("extension", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("target", ["class", "labels", "number"])
@pytest.mark.parametrize("pair", [False, True])
def test_contract(write: Write, make: Make, extension: str, target: str, pair: bool) -> None:
    name = f"all.{extension}"
    write(name, _rows(target, pair, extension in ("jsonl", "parquet")))
    data = make(name, target=target, text_pair="other" if pair else None, batch_size=8)
    expected = {"class": ("neg", "pos"), "labels": ("a", "b"), "number": ()}[target]
    assert (data.classes, data.num_outputs) == (expected, max(1, len(expected)))
    assert data.summary["rows"] == {"train": 32, "val": 4, "test": 4}
    seen = []
    for split in ("train", "val", "test"):
        for batch in getattr(data, f"{split}_dataloader")():
            seen += batch.index.tolist()
            _check_batch(batch, target, pair)
            texts = data.texts(split, batch.index.tolist())
            assert all(str(row) in text for row, text in zip(batch.index.tolist(), texts, strict=True))
            assert all(text.endswith(" | a film") == pair for text in texts)
    assert sorted(seen) == list(range(40))


def _check_batch(batch: Batch, target: str, pair: bool) -> None:
    ids, mask, types = (batch.inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids"))
    assert ids.shape == mask.shape == types.shape
    assert mask.sum(1).max() == ids.shape[1]
    assert torch.equal(ids != 0, mask == 1)
    assert bool((types == 1).any()) == pair
    for row, one in zip(batch.index.tolist(), batch.target, strict=True):
        if target == "class":
            assert (one.dtype, one.item()) == (torch.int64, row % 2)
        elif target == "number":
            assert (one.dtype, one.item()) == (torch.float32, row / 4)
        else:
            assert (one.dtype, one.tolist()) == (torch.float32, [[1, 0], [1, 1], [0, 1], [0, 0]][row % 4])
    # [CLS], each "good", the number (not in the vocabulary), [SEP]; and "a film [SEP]" of a pair.
    lengths = [row % 7 + 4 + (3 if pair else 0) for row in batch.index.tolist()]
    assert mask.sum(1).tolist() == lengths


def test_formats_agree(write: Write, make: Make, reviews: list[dict[str, Any]]) -> None:
    prints = set()
    for extension in ("csv", "tsv", "jsonl", "parquet"):
        write(f"all.{extension}", reviews)
        prints.add(make(f"all.{extension}").fingerprint)
    assert len(prints) == 1
    assert len(prints.pop()) == 16


def test_texts_and_labels_survive_reading(write: Write, make: Make) -> None:
    texts = ["123", "null", "NA", "2020-01-01", 'say "hi"', "two\nlines", "a,b"]
    write("all.csv", [{"text": text, "label": f"0{row % 2}"} for row, text in enumerate(texts)])
    data = _with_others(write, make)
    assert data.classes == ("00", "01")
    assert data.texts("train", list(range(7))) == texts


def _with_others(write: Write, make: Make) -> Any:
    for name in ("val.csv", "test.csv"):
        write(name, [{"text": "film", "label": "00"}])
    return make("all.csv", val="val.csv", test="test.csv")


def test_quotes_are_text_in_tsv(write: Write, make: Make, tmp_path: Path) -> None:
    texts = ['"an open quote', 'a "b" c', "plain"] * 4
    lines = [f"{text} {row}\t{row % 2}" for row, text in enumerate(texts)]
    (tmp_path / "all.tsv").write_text("text\tlabel\n" + "\n".join(lines) + "\n")
    data = make("all.tsv", val_fraction=0.2, test_fraction=0.2)
    assert data.texts("train", [0, 1]) == ['"an open quote 0', 'a "b" c 1']


def test_integer_classes_stand_in_order_of_value(write: Write, make: Make) -> None:
    write("all.jsonl", [{"text": f"film {row}", "label": row % 11} for row in range(110)])
    assert make("all.jsonl").classes == tuple(str(label) for label in range(11))


@pytest.mark.parametrize(("values", "names"), [([True, False], ("false", "true")), ([1.0, 2.0], ("1", "2"))])
@pytest.mark.parametrize("extension", ["jsonl", "parquet"])
def test_bools_and_whole_floats_are_classes(
    write: Write, make: Make, extension: str, values: list[Any], names: tuple[str, ...]
) -> None:
    write(f"all.{extension}", [{"text": f"film {row}", "label": values[row % 2]} for row in range(40)])
    assert make(f"all.{extension}").classes == names


def test_setup_again_changes_nothing(write: Write, make: Make, reviews: list[dict[str, Any]]) -> None:
    write("all.csv", reviews)
    data = make("all.csv")
    before = data.fingerprint, data._parts
    data.setup("fit")
    assert (data.fingerprint, data._parts) == before


def test_fingerprint_follows_content_not_length_limit(write: Write, make: Make, reviews: list[dict[str, Any]]) -> None:
    write("all.csv", reviews)
    first = make("all.csv").fingerprint
    assert make("all.csv", max_length=8).fingerprint == first
    assert make("all.csv", split_seed=1).fingerprint != first
    reviews[7]["label"] = "neg"
    write("all.csv", reviews)
    assert make("all.csv").fingerprint != first


def test_truncated_texts_are_counted_and_told(
    write: Write, make: Make, reviews: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    write("all.csv", reviews)
    data = make("all.csv", max_length=8)
    # [CLS], two words, up to 12 times "very", [SEP]: longer than 8 from 5 times on.
    assert sum(data.summary["truncated"].values()) == sum(row % 13 > 4 for row in range(60))
    assert sum("were cut" in record.message for record in caplog.records) == 3
    assert max(batch.inputs["input_ids"].shape[1] for batch in data.train_dataloader()) == 8


def test_rows_in_two_splits_are_counted(
    write: Write, make: Make, reviews: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    write("train.csv", reviews[:50])
    write("val.csv", reviews[48:55])
    write("test.csv", reviews[52:60])
    data = make("train.csv", val="val.csv", test="test.csv", near_duplicates=False)
    assert data.summary["overlap"] == {"train & val": 2, "train & test": 0, "val & test": 3}
    assert ["stand in two splits" in record.message for record in caplog.records] == [True, True]


def test_summary_is_plain_and_complete(write: Write, make: Make, reviews: list[dict[str, Any]]) -> None:
    import json

    write("all.csv", reviews)
    summary = make("all.csv", clean=["lower"]).summary
    assert json.loads(json.dumps(summary)) == summary
    assert summary["classes"] == {"neg": 16, "pos": 32}
    assert (summary["cleaning"], summary["max_length"]) == (["lower"], 64)
    assert set(summary["fingerprints"]) == {"train", "val", "test"}
    assert 1 <= summary["padding"] < 2
