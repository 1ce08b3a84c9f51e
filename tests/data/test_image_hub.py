"""The image sets of conf/data, laid out as on the hub, through the tests' own hub."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from tests.data.pictures import SPEC, png, row_of
from tests.hub_server import Hub
from tl_lightning.build import make
from tl_lightning.check import check

Compose = Callable[..., dict[str, Any]]
SETS: dict[str, tuple[str, str, str, dict[str, int]]] = {
    "cifar10": ("uoft-cs/cifar10", "img", "label", {"train": 40, "test": 10}),
    "cifar100": ("uoft-cs/cifar100", "img", "fine_label", {"train": 40, "test": 10}),
    "pets": ("timm/oxford-iiit-pet", "image", "label", {"train": 40, "test": 10}),
    "flowers": ("dpdl-benchmark/oxford_flowers102", "image", "label", {"train": 20, "validation": 20, "test": 30}),
    "food101": ("ethz/food101", "image", "label", {"train": 40, "validation": 10}),
}
EXPECTED = {
    "cifar10": {"train": 36, "val": 4, "test": 10},
    "cifar100": {"train": 36, "val": 4, "test": 10},
    "pets": {"train": 36, "val": 4, "test": 10},
    "flowers": {"train": 20, "val": 20, "test": 30},
    "food101": {"train": 38, "val": 2, "test": 10},
}


def _publish(hub: Hub, repo: str, image: str, label: str, splits: dict[str, int]) -> None:
    folder = hub.folder / "datasets" / repo
    (folder / "data").mkdir(parents=True, exist_ok=True)
    names = ["first", "second"]
    features = datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=names)})
    start = 0
    for split, count in splits.items():
        rows = range(start, start + count)
        cells = {image: [{"bytes": png(row), "path": f"{row}.png"} for row in rows], label: [row % 2 for row in rows]}
        made = datasets.Dataset.from_dict(cells, features)
        made.to_parquet(str(folder / f"data/{split}-00000-of-00001.parquet"))
        start += count
    header = {
        "dataset_info": {
            "features": [
                {"name": image, "dtype": "image"},
                {"name": label, "dtype": {"class_label": {"names": dict(zip("01", names, strict=True))}}},
            ]
        },
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*"} for split in splits],
            }
        ],
    }
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n")


@pytest.mark.parametrize("name", list(SETS))
def test_sets_of_the_hub(name: str, hub: Hub, compose: Compose, tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    _publish(hub, *SETS[name])
    config = check(compose(f"data={name}"))
    data = make(config["data"])(preprocessor=SPEC, target="class", seed=0)
    data.setup()
    assert data.classes == ("first", "second")
    assert data.summary["rows"] == EXPECTED[name]
    assert len(data.summary["revision"]) == 40
    batch = next(iter(data.test_dataloader()))
    rows = [row_of(one) for one in batch.inputs["pixels"]]
    assert batch.target.tolist() == [row % 2 for row in rows]
    assert data.texts("test", batch.index.tolist()) == [f"{row}.png" for row in rows]
