"""What every kind of image data must do, over kinds and targets."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from tests.data.pictures import LABELS, ROWS, SPEC, as_folder, as_hub, as_table, photo, png, put, row_of, table_of
from tl_lightning.data import Batch, Digits, HubImages, ImageFolder, ImageTable

KINDS: dict[str, tuple[Any, Callable[[Path, str], dict[str, Any]]]] = {
    "folder": (ImageFolder, as_folder),
    "table": (ImageTable, as_table),
    "hub": (HubImages, as_hub),
}


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()


def _made(kind: str, place: Path, target: str = "class", **options: Any) -> Any:
    made, lay_out = KINDS[kind]
    given: dict[str, Any] = {"preprocessor": SPEC, "cache_dir": str(place / "cache"), "batch_size": 8}
    where = {} if "root" in options else lay_out(place, target)
    data = made(**{**given, **where, "target": target, **options})
    data.setup()
    return data


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("target", ["class", "labels", "number"])
def test_contract(tmp_path: Path, kind: str, target: str) -> None:
    data = _made(kind, tmp_path, target, crop_scale=(0.5, 1))
    expected = {"class": ("ant", "bee"), "labels": ("a", "b"), "number": ()}[target]
    assert (data.classes, data.num_outputs) == (expected, max(1, len(expected)))
    assert data.summary["rows"] == {"train": 32, "val": 4, "test": 4}
    seen = []
    for split in ("train", "val", "test"):
        for batch in getattr(data, f"{split}_dataloader")():
            _check_batch(batch, target)
            rows = [row_of(one) for one in batch.inputs["pixels"]]
            for row, name in zip(rows, data.texts(split, batch.index.tolist()), strict=True):
                assert f"{row}.png" in name
            pictures = data.pictures(split, batch.index.tolist())
            assert [tuple(picture.shape) for picture in pictures] == [(16, 16, 3)] * len(rows)
            assert [row_of(torch.from_numpy(picture).permute(2, 0, 1)) for picture in pictures] == rows
            seen += rows
    assert sorted(seen) == list(range(ROWS))
    assert json.loads(json.dumps(data.summary)) == data.summary


def _check_batch(batch: Batch, target: str) -> None:
    pixels = batch.inputs["pixels"]
    assert (pixels.dtype, tuple(pixels.shape[1:])) == (torch.uint8, (3, 16, 16))
    assert pixels.is_contiguous()
    for one, found in zip(pixels, batch.target, strict=True):
        label = LABELS[target](row_of(one))
        if target == "class":
            assert (found.dtype, found.item()) == (torch.int64, ["ant", "bee"].index(label))
        elif target == "number":
            assert (found.dtype, found.item()) == (torch.float32, float(label))
        else:
            assert found.dtype == torch.float32
            assert found.tolist() == [float(name in label.split(",")) for name in ("a", "b")]


def test_kinds_agree_on_the_fingerprint(tmp_path: Path) -> None:
    prints = {kind: _made(kind, tmp_path / kind).summary["fingerprints"]["train"] for kind in ("table", "hub")}
    assert len(set(prints.values())) == 1


def test_the_fingerprint_follows_content_and_labels_not_the_place(tmp_path: Path) -> None:
    first = _made("folder", tmp_path / "here").fingerprint
    shutil.copytree(tmp_path / "here/images", tmp_path / "there")
    assert _made("folder", tmp_path / "other", root=str(tmp_path / "there")).fingerprint == first
    put(tmp_path / "there/ant/row02.png", png(200))
    assert _made("folder", tmp_path / "other2", root=str(tmp_path / "there")).fingerprint != first


def test_an_image_in_another_class_is_another_set(tmp_path: Path) -> None:
    first = _made("folder", tmp_path / "here").fingerprint
    (tmp_path / "here/images/ant/row02.png").rename(tmp_path / "here/images/bee/row02.png")
    assert _made("folder", tmp_path / "here", root=str(tmp_path / "here/images")).fingerprint != first


def _splits(root: Path, **names: int) -> Path:
    """ROOT/SPLIT/{ant,bee}/ with so many images each, no two alike."""
    start = 0
    for name, count in names.items():
        for row in range(start, start + count):
            put(root / name / LABELS["class"](row) / f"{row}.png", png(row))
        start += count
    return root


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_the_folders_of_splits(tmp_path: Path, name: str) -> None:
    root = _splits(tmp_path / "set", train=20, **{name: 6}, test=8)
    data = _made("folder", tmp_path, root=str(root))
    assert data.summary["rows"] == {"train": 20, "val": 6, "test": 8}
    assert all(text.startswith(f"{name}/") for text in data.texts("val", list(range(6))))


def test_a_missing_test_is_a_part_of_train(tmp_path: Path) -> None:
    root = _splits(tmp_path / "set", train=20, val=6)
    data = _made("folder", tmp_path, root=str(root))
    assert data.summary["rows"] == {"train": 18, "val": 6, "test": 2}
    (tested,) = data.test_dataloader()
    trained = {row for batch in data.train_dataloader() for row in batch.index.tolist()}
    assert not trained & set(tested.index.tolist())
    assert all(text.startswith("train/") for text in data.texts("test", tested.index.tolist()))


def test_nested_folders_any_case_and_what_is_no_image(tmp_path: Path) -> None:
    root = _splits(tmp_path / "set", train=20)
    put(root / "train/ant/deep/er/99.PNG", png(99))
    put(root / "train/ant/notes.txt", b"no image")
    put(root / "train/ant/._99.png", b"what macOS knows of it")
    put(root / "train/.hidden/1.png", png(1))
    data = _made("folder", tmp_path, root=str(root))
    assert sum(data.summary["rows"].values()) == 21
    (row,) = np.flatnonzero(["deep/er/99.PNG" in text for text in data._parts["train"].store.texts(np.arange(21))])
    assert row >= 0


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    root = _splits(tmp_path / "set", train=20)
    odd = root / os.fsdecode(b"train/bee/f\xfc.png")
    put(odd, png(99))
    data = _made("folder", tmp_path, root=str(root))
    assert sum(data.summary["rows"].values()) == 21
    assert "train/bee/f?.png" in data._parts["train"].store.texts(np.arange(21))


def test_a_link_that_leads_back_up_ends(tmp_path: Path) -> None:
    root = _splits(tmp_path / "set", train=20)
    (root / "train/ant/again").symlink_to(root / "train/ant")
    (root / "train/bee/far").symlink_to(_splits(tmp_path / "far", train=0) / "x", target_is_directory=True)
    assert sum(_made("folder", tmp_path, root=str(root)).summary["rows"].values()) == 20


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_second_run_reads_no_file(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, lay_out = KINDS[kind]
    given: dict[str, Any] = {"preprocessor": SPEC, "target": "class", "cache_dir": str(tmp_path / "cache")}
    given |= lay_out(tmp_path, "class")
    first = made(**given)
    first.setup()
    monkeypatch.setattr("tl_lightning.data.image_index.check", None)
    second = made(**given, batch_size=3, seed=4)
    second.setup()
    assert second.fingerprint == first.fingerprint


def test_a_changed_file_is_looked_at_again(tmp_path: Path) -> None:
    first = _made("table", tmp_path).fingerprint
    put(tmp_path / "pictures/3.png", png(203))
    data = ImageTable(
        preprocessor=SPEC, target="class", cache_dir=str(tmp_path / "cache"), train=str(tmp_path / "all.csv")
    )
    data.setup()
    assert data.fingerprint != first


def test_images_in_two_splits_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = _splits(tmp_path / "set", train=20, val=6, test=8)
    put(root / "test/bee/a copy.png", (root / "train/ant/4.png").read_bytes())
    data = _made("folder", tmp_path, root=str(root))
    assert data.summary["overlap"] == {"train & val": 0, "train & test": 1, "val & test": 0}
    assert "1 rows stand in two splits (train & test)" in caplog.text


def test_fewer_images_are_nested(tmp_path: Path) -> None:
    names = []
    for shots in (2, 4):
        data = _made("folder", tmp_path, shots=shots)
        assert data.summary["classes"] == {"ant": shots, "bee": shots}
        names.append({row for batch in data.train_dataloader() for row in batch.index.tolist()})
    assert names[0] < names[1]
    assert _made("folder", tmp_path, train_fraction=0.5).summary["rows"] == {"train": 16, "val": 4, "test": 4}


@pytest.mark.parametrize("extension", ["tsv", "jsonl", "parquet"])
def test_tables_in_every_format_and_a_root(tmp_path: Path, extension: str, write: Any) -> None:
    for row in range(ROWS):
        put(tmp_path / f"far/{row}.png", png(row))
    rows = [{"file": f"{row}.png", "kind": LABELS["class"](row)} for row in range(ROWS)]
    path = write(f"all.{extension}", rows)
    given: dict[str, Any] = {"preprocessor": SPEC, "target": "class", "cache_dir": str(tmp_path / "cache")}
    data = ImageTable(train=str(path), root=str(tmp_path / "far"), image="file", label="kind", **given)
    data.setup()
    (batch,) = data.test_dataloader()
    assert [row_of(one) for one in batch.inputs["pixels"]] == batch.index.tolist()
    assert data.texts("test", batch.index.tolist()) == [f"{row}.png" for row in batch.index.tolist()]


@pytest.mark.parametrize("cell", ["bytes", "struct", "path"])
def test_a_folder_of_plain_parquet(tmp_path: Path, cell: str) -> None:
    make: dict[str, Callable[[int], Any]] = {
        "bytes": png,
        "struct": lambda row: {"bytes": png(row), "path": None},
        "path": lambda row: {"bytes": None, "path": str(put(tmp_path / f"far/{row}.png", png(row)))},
    }
    rows = [{"image": make[cell](row), "label": row % 2} for row in range(ROWS)]
    (tmp_path / "set").mkdir()
    table_of(tmp_path / "set/train.parquet", rows)
    given: dict[str, Any] = {"preprocessor": SPEC, "target": "class", "cache_dir": str(tmp_path / "cache")}
    data = HubImages(path=str(tmp_path / "set"), test=None, **given)
    data.setup()
    (batch,) = data.val_dataloader()
    assert [row_of(one) for one in batch.inputs["pixels"]] == batch.index.tolist()
    expected = [f"{row}.png" if cell == "path" else f"row {row + 1}" for row in batch.index.tolist()]
    assert data.texts("val", batch.index.tolist()) == expected


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_workers_get_reads_the_same(tmp_path: Path, kind: str) -> None:
    part = _made(kind, tmp_path)._parts["val"]
    again = pickle.loads(pickle.dumps(part))
    assert torch.equal(again[[0, 1]].inputs["pixels"], part[[0, 1]].inputs["pixels"])
    assert len(pickle.dumps(part)) < 20_000 + 60 * ROWS


def test_digits_are_the_same_parts_every_time(tmp_path: Path) -> None:
    given: dict[str, Any] = {"preprocessor": SPEC, "target": "class", "cache_dir": str(tmp_path)}
    data = Digits(digits=[0, 1, 2, 3, 4], **given)
    data.setup()
    assert data.classes == ("0", "1", "2", "3", "4")
    assert data.summary["rows"] == {"train": 631, "val": 90, "test": 180}
    counts = np.bincount(torch.cat([batch.target for batch in data.test_dataloader()]).numpy())
    assert counts.max() - counts.min() <= 2
    again = Digits(digits=[0, 1, 2, 3, 4], seed=5, **given)
    again.setup()
    assert again.fingerprint == data.fingerprint


def test_digits_show_what_scikit_learn_has(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    given: dict[str, Any] = {"preprocessor": SPEC._replace(size=(8, 8), resize=8), "target": "number"}
    data = Digits(cache_dir=str(tmp_path), **given)
    data.setup()
    assert (data.classes, data.num_outputs) == ((), 1)
    found = load_digits()
    batch = next(iter(data.test_dataloader()))
    rows = batch.index.tolist()
    assert batch.target.tolist() == found.target[rows].tolist()
    grey = np.round(found.images[rows] * (255 / 16)).astype(np.uint8)
    assert np.array_equal(batch.inputs["pixels"].numpy(), np.repeat(grey[:, None], 3, axis=1))
    assert data.texts("test", rows[:2]) == [f"digit {row}" for row in rows[:2]]


def test_evaluation_sees_what_torchvision_shows(tmp_path: Path) -> None:
    from torchvision.transforms import v2

    spec = SPEC._replace(size=(32, 32), resize=40, interpolation="bicubic")
    for row in range(40):
        put(tmp_path / "set" / LABELS["class"](row) / f"{row}.jpg", photo(row, 50 + row, 70))
    data = _made("folder", tmp_path, root=str(tmp_path / "set"), preprocessor=spec)
    show = v2.Compose([v2.Resize(40, interpolation=v2.InterpolationMode.BICUBIC), v2.CenterCrop(32)])
    from tl_lightning.data.image_reading import decode

    (batch,) = data.val_dataloader()
    for name, pixels in zip(data.texts("val", batch.index.tolist()), batch.inputs["pixels"], strict=True):
        assert torch.equal(pixels, show(decode((tmp_path / "set" / name).read_bytes())))
