"""Whole runs on images, and what W&B shows of them."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.data.pictures import photos
from tl_lightning import wandb_run
from tl_lightning.check import check
from tl_lightning.errors import UserError
from tl_lightning.run import run

Compose = Callable[..., dict[str, Any]]
SMALL = ("trainer=cpu", "trainer.enable_progress_bar=false", "data.batch_size=8", "optimizer.lr=0.01")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TL_LIGHTNING_ALLOW", "tests.tiny_image")
    yield
    wandb_run.finish()


def _run(compose: Compose, folder: Path, *words: str) -> dict[str, Any]:
    config = compose(*SMALL, *words)
    config["backbone"] = {"_target_": "tests.tiny_image.TinyConv"}
    run(check(config), folder)
    record: dict[str, Any] = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    return record


def test_digits_are_learned(compose: Compose, tmp_path: Path) -> None:
    words = ("data=digits", "data.digits=[0,1]", "trainer.max_epochs=4", "logger=csv")
    record = _run(compose, tmp_path / "run", *words)
    assert record["metrics"]["test/accuracy"] > 0.9
    assert record["data"]["rows"] == {"train": 252, "val": 36, "test": 72}
    table = pq.read_table(tmp_path / "run/predictions.parquet")
    assert table.column_names == ["id", "target", "prediction", "p_0", "p_1", "loss"]


@pytest.mark.parametrize(
    "words",
    [
        ("data.mixup=0.2", "data.cutmix=1", "data.mix_off_epochs=1", "objective.label_smoothing=0.1"),
        ("data.auto_augment=trivialaugment", "data.random_erasing=0.25", "data.cache=ram", "data.num_workers=1"),
        ("objective=multilabel", "data.mixup=0.2", "data.cache=disk"),
        ("data.crop_scale=null", "data.flip=false", "data.shots=4"),
    ],
)
def test_the_words_of_image_data(compose: Compose, tmp_path: Path, words: tuple[str, ...]) -> None:
    root = photos(tmp_path / "set", 30)
    record = _run(
        compose,
        tmp_path / "run",
        "data=image_folder",
        f"data.root={root}",
        "trainer.max_epochs=2",
        "logger=csv",
        *words,
    )
    assert record["data"]["size"] == [16, 16]


def test_wrong_words_are_told_before_anything_is_built(compose: Compose) -> None:
    words = (
        "data=image_folder",
        "data.root=x",
        "data.mixup=-1",
        "data.random_erasing=2",
        "data.cache=dsk",
        "data.crop_scal=1",
    )
    with pytest.raises(UserError) as fault:
        check(compose("backbone=bert_base", *words))
    for part in (
        "data.mixup=-1: at least 0 is expected",
        "data.random_erasing=2: at most 1 is expected (and at least 0)",
        "data.cache='dsk': ram or disk or null is expected",
        "data.crop_scal: ImageFolder takes no crop_scal; did you mean crop_scale?",
    ):
        assert part in str(fault.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb")
def test_wandb_shows_the_worst_images(compose: Compose, tmp_path: Path) -> None:
    root = photos(tmp_path / "set", 60)
    words = ("data=image_folder", f"data.root={root}", "data.test_fraction=0.7", "trainer.max_epochs=1", "logger=wandb")
    record = _run(compose, tmp_path / "run", *words)
    folder = Path(record["wandb"]["folder"])
    shown = sorted(folder.rglob("media/images/test/worst_*.png"))
    assert len(shown) == 36
    assert record["data"]["rows"]["test"] == 42
    with Image.open(shown[0]) as image:
        assert image.size == (16, 16)
    (table,) = (path for path in folder.rglob("*.table.json") if "predictions" in path.name)
    content = json.loads(table.read_text())
    assert content["columns"] == ["id", "target", "prediction", "p_ant", "p_bee", "loss", "path"]
    assert len(content["data"]) == 42
    assert all((root / row[-1]).is_file() for row in content["data"])
    assert all(row[-1].split("/")[0] == row[1] for row in content["data"]), "each path beside its target"
    (file,) = folder.glob("*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    text = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    worst = max(content["data"], key=lambda row: row[5])
    confidence = worst[3 + ["ant", "bee"].index(worst[2])]
    captions = text.replace("\\u003e", ">").replace("\\", "")
    assert f"{worst[1]} -> {worst[2]} ({confidence:.0%}), loss {worst[5]:.3g}" in captions
    assert "test/confusion" in text
