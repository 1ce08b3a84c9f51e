"""The image sets of conf/data, laid out as on the hub, of a few images of one colour each."""

import datasets
import yaml

from tests.data.pictures import png
from tests.hub_server import Hub

SETS: dict[str, tuple[str, str, str, dict[str, int]]] = {
    "cifar10": ("uoft-cs/cifar10", "img", "label", {"train": 40, "test": 10}),
    "cifar100": ("uoft-cs/cifar100", "img", "fine_label", {"train": 40, "test": 10}),
    "pets": ("timm/oxford-iiit-pet", "image", "label", {"train": 40, "test": 10}),
    "flowers": ("dpdl-benchmark/oxford_flowers102", "image", "label", {"train": 20, "validation": 20, "test": 30}),
    "food101": ("ethz/food101", "image", "label", {"train": 40, "validation": 10}),
}


def publish(hub: Hub, repo: str, image: str, label: str, splits: dict[str, int]) -> None:
    """Put a set on the hub."""
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
