"""HubText over a real data set folder (parquet and a README header), and the hub being away."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
from transformers import PreTrainedTokenizerBase

from tl_lightning.data import HubText, hub_loading
from tl_lightning.errors import UserError

Hub = Callable[..., HubText]
FEATURES = """  features:
  - name: sentence
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': worse
          '1': better
  - name: tags
    sequence:
      class_label:
        names:
          '0': x
          '1': a
          '2': m
"""
README = f"""---
dataset_info:
- config_name: polarity
{FEATURES}- config_name: other
{FEATURES}configs:
- config_name: polarity
  data_files:
  - split: train
    path: polarity/train-*
  - split: validation
    path: polarity/validation-*
  - split: test
    path: polarity/test-*
- config_name: other
  data_files:
  - split: train
    path: polarity/train-*
---
"""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _split(folder: Path, name: str, rows: int, secret: bool = False) -> None:
    table = {
        "sentence": [f"{name} {row} good film" for row in range(rows)],
        "label": [-1 if secret else row % 2 for row in range(rows)],
        "tags": [[row % 3] if row % 2 else [0, 2] for row in range(rows)],
    }
    pa.parquet.write_table(pa.table(table), folder / f"polarity/{name}-00000-of-00001.parquet")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "reviews"
    (folder / "polarity").mkdir(parents=True)
    (folder / "README.md").write_text(README)
    for name, rows in (("train", 40), ("validation", 10)):
        _split(folder, name, rows)
    _split(folder, "test", 10, secret=True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    return folder


@pytest.fixture
def hub(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> Hub:
    def make(path: Any, **options: Any) -> HubText:
        given = {"subset": "polarity", "text": "sentence", "test": "validation", "target": "class"} | options
        data = HubText(path=str(path), preprocessor=tokenizer, cache_dir=str(tmp_path / "cache"), **given)
        data.setup()
        return data

    return make


def test_declared_classes_keep_their_order(folder: Path, hub: Hub) -> None:
    data = hub(folder)
    assert data.classes == ("worse", "better")
    assert data.summary["rows"] == {"train": 36, "val": 4, "test": 10}
    assert data.summary["revision"] is None
    assert data.texts("test", [3]) == ["validation 3 good film"]
    (batch,) = data.test_dataloader()
    assert dict(zip(batch.index.tolist(), batch.target.tolist(), strict=True)) == {row: row % 2 for row in range(10)}


def test_a_declared_label_that_train_lacks_is_named(folder: Path, hub: Hub) -> None:
    table = {"sentence": ["a film", "b film"], "label": [0, 0], "tags": [[0], [2]]}
    pa.parquet.write_table(pa.table(table), folder / "polarity/train-00000-of-00001.parquet")
    with pytest.raises(UserError, match=r"the label 'a' of data.test \(first in row 2\) does not occur in data.train"):
        hub(folder, label="tags", target="labels")


def test_declared_labels_of_lists(folder: Path, hub: Hub) -> None:
    data = hub(folder, label="tags", target="labels")
    assert data.classes == ("x", "a", "m")
    (batch,) = data.test_dataloader()
    hot = dict(zip(batch.index.tolist(), batch.target.tolist(), strict=True))
    assert hot[0] == [1, 0, 1]
    assert hot[1] == [0, 1, 0]


def test_second_run_comes_from_the_cache(folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    before = hub(folder).fingerprint
    monkeypatch.setattr("tl_lightning.data.cache.build", None)
    assert hub(folder).fingerprint == before


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"test": "test"}, "row 1 has the label -1, .* secret.*data.test=validation"),
    ({"test": "tset"}, "data.test=tset: .* train, validation, test. .*data.test=null"),
    ({"train": "nosuch"}, "data.train=nosuch: .* Type data.train=train"),
    ({"val": "validation"}, "must be different splits, not train, validation, validation"),
    ({"subset": "polar"}, "has no subset 'polar'. It has polarity, other. Type data.subset=polarity"),
    ({"subset": None}, "needs a subset. It has polarity, other."),
    ({"text": "text"}, "data.text=text: this column does not exist .*sentence, label, tags"),
]


@pytest.mark.parametrize(("options", "message"), FAULTS)
def test_faults(folder: Path, hub: Hub, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        hub(folder, **options)


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_loading, "_probe", lambda *_: (None, "ConnectError"))


def test_hub_away_and_nothing_cached(hub: Hub, folder: Path, away: None) -> None:
    before = datasets.config.HF_HUB_OFFLINE
    start = time.monotonic()
    message = r'cannot be reached \(ConnectError\).*load_dataset\("some/reviews", "polarity"\)'
    with pytest.raises(UserError, match=message):
        hub("some/reviews")
    assert time.monotonic() - start < 5
    assert before == datasets.config.HF_HUB_OFFLINE


def test_not_a_name_of_a_data_set(hub: Hub) -> None:
    with pytest.raises(UserError, match=r"data.path=/nowhere/at/all is neither a folder nor the name"):
        hub("/nowhere/at/all")


@pytest.fixture
def cached(folder: Path, tmp_path: Path, hub: Hub) -> None:
    """The data set as `datasets` keeps it after a download."""
    hub(folder)
    (made,) = (tmp_path / "hf/reviews").glob("polarity*/0.0.0/*/")
    target = tmp_path / f"hf/some___reviews/polarity/0.0.0/{COMMIT}"
    shutil.copytree(made, target)


def test_hub_away_takes_the_cache_and_its_commit(hub: Hub, cached: None, away: None) -> None:
    data = hub("some/reviews")
    assert data.summary["revision"] == COMMIT
    assert data.classes == ("worse", "better")
    assert hub("some/reviews", revision=COMMIT).fingerprint == data.fingerprint


def test_hub_away_with_another_commit(hub: Hub, cached: None, away: None, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match=rf"the local cache has some/reviews at {COMMIT} only"):
        hub("some/reviews", revision="f" * 40)
    hub("some/reviews", revision="v1")
    assert f"data.revision=v1 is taken to be {COMMIT}" in caplog.text
