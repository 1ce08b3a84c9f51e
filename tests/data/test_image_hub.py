"""The image sets of conf/data, laid out as on the hub, through the tests' own hub."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.data.pictures import SPEC, row_of
from tests.hub_server import Hub
from tests.image_sets import SETS, publish
from tl_lightning.build import make
from tl_lightning.check import check

Compose = Callable[..., dict[str, Any]]
EXPECTED = {
    "cifar10": {"train": 36, "val": 4, "test": 10},
    "cifar100": {"train": 36, "val": 4, "test": 10},
    "pets": {"train": 36, "val": 4, "test": 10},
    "flowers": {"train": 20, "val": 20, "test": 30},
    "food101": {"train": 38, "val": 2, "test": 10},
}


@pytest.mark.parametrize("name", list(SETS))
def test_sets_of_the_hub(name: str, hub: Hub, compose: Compose, tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    publish(hub, *SETS[name])
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
