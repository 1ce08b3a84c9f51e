"""A frozen backbone's features from the cache: the same run, and the backbone does not run twice."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.pictures import photos
from tests.probing import SPLITS, Runs, metrics, predictions, record, texts, weights
from tests.small import Dense
from tests.stopping import StopAt
from tl_lightning import bootstrap
from tl_lightning.backbones import HFText
from tl_lightning.backbones.fingerprint import fingerprint
from tl_lightning.build import learner
from tl_lightning.data import feature_store
from tl_lightning.data.dataset import TextDataset
from tl_lightning.data.feature_store import FeatureStore
from tl_lightning.data.image_cache import SPARE_DISK
from tl_lightning.data.image_dataset import ImageDataset
from tl_lightning.errors import UserError
from tl_lightning.finished import finished, rebuilt
from tl_lightning.interrupt import Interrupted
from tl_lightning.run import run

OFF = "data.cache_features=null"
Tiny = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "FEWEST", 5)
    monkeypatch.setattr(bootstrap, "RESAMPLES", 5)
    monkeypatch.setattr(StopAt, "done", set())


@pytest.fixture
def probe(tiny: Tiny, compose: Callable[..., Any], tmp_path: Path) -> Runs:
    return Runs(tmp_path, compose, texts(tmp_path, tiny))


@pytest.fixture
def image_probe(compose: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    root = photos(tmp_path / "set", 40)
    words = ["data=image_folder", f"data.root={root}", f"data.cache_dir={tmp_path / 'cache'}", "data.batch_size=8"]
    words += ["backbone=small_resnet", "backbone.width=4", "strategy=linear_probe", "optimizer.lr=0.01", "logger=csv"]
    words += ["trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=2", "trainer.enable_progress_bar=false"]
    return Runs(tmp_path, compose, words)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every batch of inputs that is read from here on."""
    rows: list[int] = []
    for kind in (TextDataset, ImageDataset):
        inputs = kind.inputs

        def counted(self: Any, at: Any, inputs: Any = inputs) -> Any:
            rows.append(len(at))
            return inputs(self, at)

        monkeypatch.setattr(kind, "inputs", counted)
    return rows


def _splits(folder: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = record(folder)["features"]["splits"]
    return found


def _caches(folder: Path) -> dict[str, str]:
    return {split: facts["cache"] for split, facts in _splits(folder).items()}


def _assert_same(one: Path, other: Path, names: str = "head.") -> None:
    assert metrics(one) == pytest.approx(metrics(other), abs=1e-4)
    first, second = predictions(one), predictions(other)
    assert first["id"] == second["id"]
    assert first["prediction"] == second["prediction"]
    assert first["loss"] == pytest.approx(second["loss"], abs=1e-4)
    trained, wanted = weights(one), weights(other)
    for name in (name for name in wanted if name.startswith(names)):
        torch.testing.assert_close(trained[name], wanted[name], atol=1e-4, rtol=1e-4, msg=name)


def test_texts_give_the_same_run_and_are_read_once(probe: Runs, read: list[int]) -> None:
    plain = probe("plain", OFF)
    assert sum(read) == 3 * (SPLITS["train"] + SPLITS["val"]) + SPLITS["test"]
    read.clear()
    kept = probe("kept")
    assert sum(read) == sum(SPLITS.values())
    read.clear()
    again = probe("again")
    assert read == [], "no tokenised input is read"
    _assert_same(kept, plain)
    _assert_same(again, plain)
    assert metrics(again) == metrics(kept)
    assert record(plain)["features"] is None
    assert _caches(kept) == dict.fromkeys(SPLITS, "miss")
    assert _caches(again) == dict.fromkeys(SPLITS, "hit")
    told = record(again)
    assert {split: facts["rows"] for split, facts in _splits(again).items()} == SPLITS
    assert {split: facts["bytes"] for split, facts in _splits(again).items()} == {
        split: rows * 32 * 4 for split, rows in SPLITS.items()
    }
    assert (told["features"]["epochs"], told["features"]["off"]) == (3, {})
    assert told["throughput"]["tokens_per_second"] is None, "none was read"


def test_images_give_the_same_run_in_worker_processes_too(image_probe: Runs, read: list[int]) -> None:
    still = ("data.crop_scale=null", "data.flip=false")
    plain = image_probe("plain", *still, OFF)
    read.clear()
    kept = image_probe("kept", *still)
    assert sum(read) == sum(record(kept)["data"]["rows"].values())
    read.clear()
    again = image_probe("again", *still, "data.num_workers=1")
    assert read == []
    _assert_same(kept, plain)
    _assert_same(again, plain)
    assert _caches(again) == dict.fromkeys(SPLITS, "hit")


def test_augmented_images_are_seen_anew_and_said_so(
    image_probe: Runs, read: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    folder = image_probe("run", "data.mixup=0.2", "data.crop_scale=null")
    rows = record(folder)["data"]["rows"]
    assert sum(read) == 2 * rows["train"] + rows["val"] + rows["test"]
    assert set(_splits(folder)) == {"val", "test"}
    why = record(folder)["features"]["off"]["train"]
    assert "data.flip=false data.mixup=0 would leave them as they are" in why
    assert any(why in entry.message for entry in caplog.records)
    assert any(name.startswith("backbone.") for name in weights(folder)), "as ever"


def test_batches_are_the_same_samples_in_the_same_order(probe: Runs) -> None:
    _, data = learner(probe.config("seed=3"))
    plain = [list(loader) for loader in (data.train_dataloader(), data.val_dataloader())]
    for split in ("train", "val"):
        data.part(split).stand_in = lambda at: {"features": torch.from_numpy(at)}
    loaders = (data.train_dataloader(), data.val_dataloader())
    for before, loader, split in zip(plain, loaders, ("train", "val"), strict=True):
        for one, two in zip(before, loader, strict=True):
            assert torch.equal(one.target, two.target)
            assert torch.equal(one.index, two.index)
            assert list(two.inputs) == ["features"]
            rows = data.part(split).store["rows"][data.part(split).take[two.inputs["features"].numpy()]]
            assert rows.tolist() == two.index.tolist()


@pytest.mark.parametrize(
    ("word", "again"),
    [
        ("optimizer.lr=0.1", "hit"),
        ("head=mlp", "hit"),
        ("data.batch_size=4", "hit"),
        ("data.clean=[lower]", "miss"),
        ("data.max_length=6", "miss"),
        ("backbone.pooling=cls", "miss"),
        ("backbone.pretrained=false", "miss"),
        ("trainer.precision=bf16-mixed", "miss"),
        ("data.cache_features=float16", "miss"),
        ("data.cache_features=float32", "hit"),
    ],
)
def test_what_decides_features_decides_where_they_are_kept(probe: Runs, word: str, again: str) -> None:
    """Without runs: the folder alone tells."""
    assert (_folder(probe.config(word)) == _folder(probe.config())) is (again == "hit")


def _folder(config: dict[str, Any]) -> Path:
    """Where the features of train would be."""
    from tl_lightning import features
    from tl_lightning.build import make_trainer

    task, data = learner(config)
    cached, kept = features.CachedFeatures(data), list[Path]()

    def noted(folder: Path, *_: Any) -> _Empty:
        kept.append(folder)
        return _Empty()

    trainer = make_trainer(config["trainer"], data, [], [], Path("unused"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "cached", noted)
        cached._open("train", trainer, task)
    return kept[0]


class _Empty:
    bytes = 0

    def __len__(self) -> int:
        return 0


def test_more_rows_or_others_are_kept_elsewhere(probe: Runs) -> None:
    half = probe("half", "data.train_fraction=0.5")
    whole = probe("whole")
    assert _caches(whole) == {"train": "miss", "val": "hit", "test": "hit"}
    assert _splits(half)["train"]["rows"] == 18


def test_half_precision_takes_half_the_place(probe: Runs) -> None:
    folder = probe("half", "data.cache_features=float16")
    assert _splits(folder)["train"]["bytes"] == SPLITS["train"] * 32 * 2
    assert metrics(folder) == pytest.approx(metrics(probe("plain", OFF)), abs=0.02)


def test_the_first_phase_trains_on_features_and_the_second_on_texts(probe: Runs, read: list[int]) -> None:
    words = ["strategy=lp_ft", "strategy.probe_epochs=2", "strategy.probe_lr=0.01", "optimizer.lr=0.001"]
    words += ["regularizer=mixout", "data.clean=[lower]"]
    plain = probe("plain", *words, OFF)
    read.clear()
    kept = probe("kept", *words)
    once = SPLITS["train"] + SPLITS["val"]
    assert sum(read) == 2 * once + SPLITS["test"], "computed once, and the last epoch"
    _assert_same(kept, plain, names="")
    assert record(kept)["features"]["epochs"] == 2
    assert set(_splits(kept)) == {"train", "val"}


@pytest.mark.parametrize("strategy", [pytest.param("linear_probe", marks=pytest.mark.slow), "lp_ft"])
@pytest.mark.parametrize("place", [("batch_start", 7), pytest.param(("validation", 5), marks=pytest.mark.slow)])
def test_stopped_in_mid_epoch_it_ends_the_same(probe: Runs, strategy: str, place: tuple[str, int]) -> None:
    words = (f"strategy={strategy}", "data.clean=[unicode]")
    straight = probe("straight", *words)
    config = json.loads(json.dumps(probe.config(*words)))
    config["callbacks"]["here"] = {"_target_": "tests.stopping.StopAt", "places": [list(place)]}
    folder = probe.folder / "stopped"
    with pytest.raises(Interrupted):
        run(config, folder)
    run({**config, "resume": str(folder)}, folder)
    one, two = weights(straight), weights(folder)
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    assert metrics(straight) == metrics(folder)


def test_a_probe_of_features_stores_its_head_alone(probe: Runs) -> None:
    folder = probe("run")
    stored = weights(folder, "best")
    assert set(stored) == {"head.1.weight", "head.1.bias"}
    task, _ = rebuilt(*finished(folder))
    checkpoint = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)
    task.on_load_checkpoint(checkpoint)
    task.load_state_dict(checkpoint["state_dict"])
    assert torch.equal(dict(task.head.named_parameters())["1.weight"], stored["head.1.weight"])


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "spoil", [_flip, *(pytest.param(spoil, marks=pytest.mark.slow) for spoil in (_cut, Path.unlink))]
)
def test_a_damaged_file_is_noticed_and_made_again(
    probe: Runs, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    first = probe("first")
    (file,) = (
        folder / "features.bin"
        for folder in (probe.folder / "cache/features").iterdir()
        if folder.is_dir() and len(FeatureStore(folder)) == SPLITS["train"]
    )
    whole = file.read_bytes()
    spoil(file)
    second = probe("second")
    assert _caches(second) == {"train": "miss", "val": "hit", "test": "hit"}
    assert any("is damaged" in entry.message and file.parent.name in entry.message for entry in caplog.records)
    assert file.read_bytes() == whole
    assert metrics(second) == metrics(first)


@pytest.mark.parametrize("asked", ["auto", "float32"])
def test_features_that_do_not_fit_the_disk(probe: Runs, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    full = SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=SPARE_DISK + 100))
    monkeypatch.setattr(feature_store, "shutil", full)
    words = (f"data.cache_features={asked}", "trainer.max_epochs=1")
    if asked == "auto":
        folder = probe("run", *words)
        assert "data.cache_dir=FOLDER" in record(folder)["features"]["off"]["train"]
        assert _splits(folder) == {}
        return
    with pytest.raises(UserError, match=r"data.cache_features needs .* for train, .* free.*data.cache_features=null"):
        probe("run", *words)
    assert not list((probe.folder / "cache/features").glob("*/*")), "nothing is left half made"


def test_asked_for_where_the_backbone_moves(probe: Runs) -> None:
    assert record(probe("full", "strategy=full", "trainer.max_epochs=1"))["features"] is None
    with pytest.raises(UserError, match=r"under FineTuning it moves from the first epoch on: strategy=linear_probe"):
        probe("asked", "strategy=full", "data.cache_features=float32")


def test_few_batches_for_a_trial_do_not_pay_for_all(probe: Runs) -> None:
    folder = probe("few", "trainer.limit_train_batches=2", "trainer.limit_val_batches=0", "trainer.max_epochs=1")
    assert record(folder)["features"]["off"] == {
        "train": "trainer.limit_train_batches=2",
        "val": "trainer.limit_val_batches=0",
    }


def test_a_backbone_is_known_by_all_that_decides_what_it_makes(tiny: Tiny) -> None:
    torch.manual_seed(0)
    net = Dense("norm")
    before = fingerprint(net)
    assert fingerprint(net.eval()) == before
    norm = net.get_submodule("layers.1.0")
    for tensor in (net.get_parameter("layers.0.weight"), net.get_buffer("layers.1.0.running_mean")):
        tensor.data[0] += 1e-3
        assert fingerprint(net) != before
        tensor.data[0] -= 1e-3
    assert isinstance(norm, torch.nn.BatchNorm1d)
    norm.eps = 1e-2
    assert fingerprint(net) != before
    one, two = (HFText(str(tiny("bert")), pooling="mean") for _ in range(2))
    assert fingerprint(one) == fingerprint(two)
    two.model.config.layer_norm_eps = 1.0
    assert fingerprint(one) != fingerprint(two)


def test_features_come_back_by_position_and_type(tmp_path: Path) -> None:
    made = torch.arange(12.0).reshape(4, 3).to(torch.bfloat16)
    order = np.array([2, 0, 3, 1])
    found = ((order[at : at + 2], made[order[at : at + 2]]) for at in (0, 2))
    feature_store.write_features(tmp_path, found, "float32")
    store = FeatureStore(tmp_path)
    assert torch.equal(store.of(np.array([1, 3, 3])), made[[1, 3, 3]])
    assert store.bytes == 4 * 3 * 4
