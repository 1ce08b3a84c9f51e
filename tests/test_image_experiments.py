"""Every image experiment leaves a whole run directory, made small."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from tests.data.pictures import png
from tests.hub_server import COMMIT, Hub
from tests.image_sets import SETS, publish
from tests.test_experiments import CLASS, IMAGES
from tests.tiny_images import save_vision_model

RunSmall = Callable[..., Path]
ON_THE_HUB = {"facebook/dinov2-small": "dinov2", "google/vit-base-patch16-224-in21k": "vit"}
FRESH = ("backbone.pretrained=false", "backbone.image_size=32")  # the published files are too large for tests
# Beside SMALL: nothing changed but sizes, and where the weights come from.
CHANGES: dict[str, tuple[str, ...]] = {
    "resnet50_pets": (*FRESH, "trainer.limit_train_batches=2"),
    "resnet50_cifar10": (*FRESH, "trainer.limit_train_batches=2"),
    "convnext_food": (*FRESH, "data.val_fraction=0.2", "trainer.limit_train_batches=2", "trainer.max_epochs=2"),
    "vit_flowers": (),
    "dinov2_cifar100_probe": (),
    "mobilenet_hymenoptera": FRESH,
    "digits_pretrain": ("data.train_fraction=0.1",),
    "digits_transfer": ("data.shots=2", "backbone.weights=null", "trainer.check_val_every_n_epoch=1"),
    "quickstart_image": ("experiment/quickstart_image=scratch", "data.shots=2", "trainer.check_val_every_n_epoch=1"),
}


@pytest.fixture(scope="session")
def image_hub(hub: Hub) -> Hub:
    """Tiny models and sets under the names that the experiments ask for."""
    for repo, kind in ON_THE_HUB.items():
        save_vision_model(kind, hub.folder / "models" / repo)
    for name in SETS:
        publish(hub, *SETS[name])
    return hub


def test_each_has_its_line() -> None:
    assert set(CHANGES) == IMAGES


def _folders(root: Path) -> str:
    for split, rows in (("train", range(24)), ("val", range(24, 32))):
        for row in rows:
            file = root / split / ("ants", "bees")[row % 2] / f"{row}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(row))
    return f"data.root={root}"


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n == "mobilenet_hymenoptera" else pytest.mark.slow) for n in sorted(IMAGES)],
)
def test_runs(name: str, image_hub: Hub, run_small: RunSmall, tmp_path: Path) -> None:
    own = [_folders(tmp_path / "photos"), "data.test_fraction=0.25"] if name == "mobilenet_hymenoptera" else []
    folder = run_small(f"experiment={name}", *CHANGES[name], *own)
    record = json.loads((folder / "run.json").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (record["status"], record["name"]) == ("finished", name)
    assert set(metrics) == {f"{stage}/{metric}" for stage in ("val", "test") for metric in CLASS}
    assert all(-1 <= value <= 1 for metric, value in metrics.items() if not metric.endswith("loss"))
    trained = record["parameters"]["trained"]
    assert 0 < trained <= record["parameters"]["all"]
    probe = yaml.safe_load((folder / "config.yaml").read_text())["strategy"]["_target_"].endswith("LinearProbe")
    assert (trained < record["parameters"]["all"]) is probe
    if name in ("vit_flowers", "dinov2_cifar100_probe"):
        assert record["backbone"]["revision"] == COMMIT, "it came from the hub"
    table = pq.read_table(folder / "predictions.parquet").to_pydict()
    assert len(table["id"]) == record["data"]["rows"]["test"] > 0
    right = sum(target == said for target, said in zip(table["target"], table["prediction"], strict=True))
    assert right / len(table["id"]) == pytest.approx(metrics["test/accuracy"], abs=1e-6)


@pytest.mark.slow
def test_the_short_study_hands_weights_from_job_to_job(
    command_line: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    words = ("data.train_fraction=null", "trainer.max_epochs=2", "trainer.check_val_every_n_epoch=1", "logger=csv")
    done = command_line("+experiment=quickstart_image", *words)
    assert done.returncode == 0, done.stderr
    (study,) = (tmp_path / "outputs/multirun/quickstart_image").glob("2*")
    records = [json.loads((study / str(job) / "run.json").read_text()) for job in range(3)]
    assert [record["backbone"]["pretrained"] for record in records] == [False, True, False]
    handed = records[1]["backbone"]["weights"]
    assert Path(handed).name == "best.ckpt"
    assert Path(handed).parent.parent.name == "0"
    assert torch.load(tmp_path / handed, weights_only=True)["tl_lightning"]["classes"] == ["0", "1", "2", "3", "4"]
