"""Decoded images are kept in memory or on disk; what is kept is whole, or not there."""

import multiprocessing
from collections import Counter, namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.pictures import photos
from tl_lightning.data import ImageFolder, image_cache, image_dataset, memory
from tl_lightning.data.image_reading import decode
from tl_lightning.errors import UserError
from tl_lightning.images import ImageSpec

SPEC = ImageSpec((24, 24), 28)
COUNT = 40


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """How often each file was decoded."""
    counts: Counter[bytes] = Counter()

    def counting(data: bytes) -> torch.Tensor:
        counts[data] += 1
        return decode(data)

    monkeypatch.setattr(image_dataset, "decode", counting)
    return counts


def _made(tmp_path: Path, **options: Any) -> ImageFolder:
    if not (tmp_path / "set").exists():
        photos(tmp_path / "set", COUNT)
    given: dict[str, Any] = {"preprocessor": SPEC, "target": "class", "cache_dir": str(tmp_path / "cache")}
    data = ImageFolder(root=str(tmp_path / "set"), **{**given, "batch_size": 8, **options})
    data.setup()
    return data


def _rows(loader: Any) -> dict[int, torch.Tensor]:
    return {row: one for batch in loader for row, one in zip(batch.index.tolist(), batch.inputs["pixels"], strict=True)}


def _folders(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "cache/pixels").iterdir() if path.is_dir())


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_nothing_is_decoded_twice(tmp_path: Path, cache: str, decoded: Counter[bytes]) -> None:
    data = _made(tmp_path, cache=cache)
    assert len(decoded) == COUNT
    for _ in range(2):
        for split in ("train", "val", "test"):
            list(getattr(data, f"{split}_dataloader")())
    data.pictures("test", data._parts["test"].take.tolist())
    assert set(decoded.values()) == {1}


def test_without_a_cache_every_epoch_decodes(tmp_path: Path, decoded: Counter[bytes]) -> None:
    loader = _made(tmp_path).train_dataloader()
    list(loader)
    list(loader)
    assert set(decoded.values()) == {2}


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_evaluation_sees_the_same_to_the_bit(tmp_path: Path, cache: str) -> None:
    plain, kept = _made(tmp_path), _made(tmp_path, cache=cache)
    for split in ("val", "test"):
        a, b = (_rows(getattr(data, f"{split}_dataloader")()) for data in (plain, kept))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[row], b[row]) for row in a)
    assert plain.fingerprint == kept.fingerprint


@pytest.mark.parametrize("options", [{"crop_scale": None}, {"crop_scale": (0.2, 1.0)}])
def test_ram_disk_and_workers_agree(tmp_path: Path, options: dict[str, Any]) -> None:
    ways: list[dict[str, Any]] = [{"cache": "ram"}, {"cache": "disk"}, {"cache": "ram", "num_workers": 2}]
    seen = [
        _rows(_made(tmp_path, **options, **way).train_dataloader()) for way in [*ways, {**ways[1], "num_workers": 2}]
    ]
    for other in seen[1:]:
        assert all(torch.equal(seen[0][row], other[row]) for row in seen[0])
    if options["crop_scale"] is None:
        plain = _rows(_made(tmp_path, **options).train_dataloader())
        assert all(torch.equal(seen[0][row], plain[row]) for row in plain)


def test_images_that_fit_are_kept_as_they_are(tmp_path: Path) -> None:
    spec = ImageSpec((64, 64), 64)  # shorter sides are 40 to 60: none is shrunk
    kept, plain = (_rows(_made(tmp_path, preprocessor=spec, cache=how).train_dataloader()) for how in ("ram", None))
    assert all(torch.equal(kept[row], plain[row]) for row in plain)


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_what_it_costs_is_told(tmp_path: Path, cache: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        summary = _made(tmp_path, cache=cache).summary["cache"]
    assert summary["kind"] == cache
    assert summary["bytes"]["val"] == summary["bytes"]["test"] == 4 * 3 * 24 * 24
    if cache == "disk":
        sizes = sorted((folder / "pixels.bin").stat().st_size for folder in _folders(tmp_path))
        assert sizes == sorted(summary["bytes"].values())
    assert "train: decoding 32 images once, 0." in caplog.text


def test_memory_that_does_not_suffice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_cache, "free_memory", lambda: 100_000)
    with pytest.raises(
        UserError, match=r"data.cache=ram needs 0.. MiB for train, and of the 0.1 MiB .*data.cache=disk"
    ):
        _made(tmp_path, cache="ram")


def test_a_disk_that_does_not_suffice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(0, 0, 1 << 30))
    with pytest.raises(UserError, match=r"data.cache=disk needs .* for train, .*1.0 GiB free.*data.cache_dir=FOLDER"):
        _made(tmp_path, cache="disk")
    assert _folders(tmp_path) == []


def test_free_memory_is_plausible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 << 20 < memory.free_memory() < 1 << 50
    (tmp_path / "max").write_text("5000000")
    (tmp_path / "current").write_text("2000000")
    monkeypatch.setattr(memory, "_LIMITS", ((str(tmp_path / "max"), str(tmp_path / "current")),))
    assert memory.free_memory() == 3_000_000
    (tmp_path / "max").write_text("max")
    assert memory.free_memory() > 3_000_000
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    assert 1 << 20 < memory.free_memory() < 1 << 50


def test_runs_share_the_disk(tmp_path: Path, decoded: Counter[bytes]) -> None:
    first = _rows(_made(tmp_path, cache="disk").train_dataloader())
    decoded.clear()
    second = _rows(_made(tmp_path, cache="disk", flip=False, batch_size=4).train_dataloader())
    assert not decoded
    assert first.keys() == second.keys()
    assert len(_folders(tmp_path)) == 3


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({"crop_scale": (0.5, 1.0)}, 1),
        ({"preprocessor": ImageSpec((24, 24), 30)}, 2),  # of val and test: train keeps more than either
        ({"shots": 4}, 1),
        ({"crop_scale": None}, 1),
    ],
)
def test_what_is_kept_depends_on(tmp_path: Path, options: dict[str, Any], more: int) -> None:
    _made(tmp_path, cache="disk")
    _made(tmp_path, cache="disk", **options)
    assert len(_folders(tmp_path)) == 3 + more


def test_another_content_is_another_cache(tmp_path: Path, decoded: Counter[bytes]) -> None:
    _made(tmp_path, cache="disk")
    photos(tmp_path / "set", 2, classes=("bee", "ant"))
    decoded.clear()
    _made(tmp_path, cache="disk")
    assert decoded


@pytest.mark.parametrize("name", ["meta.json", "pixels.bin", "offsets.bin", "heights.bin", "rows.bin"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_cache_is_built_again(
    tmp_path: Path, name: str, damage: str, decoded: Counter[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    before = _rows(_made(tmp_path, cache="disk").train_dataloader())
    for folder in _folders(tmp_path):
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        if damage == "cut":
            (folder / name).write_bytes(content[: len(content) // 2])
    decoded.clear()
    after = _rows(_made(tmp_path, cache="disk").train_dataloader())
    assert all(torch.equal(before[row], after[row]) for row in before)
    assert len(decoded) == COUNT
    assert "is damaged" in caplog.text


def test_a_killed_build_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_: bytes) -> torch.Tensor:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(image_dataset, "decode", killed)
        with pytest.raises(KeyboardInterrupt):
            _made(tmp_path, cache="disk")
    assert _folders(tmp_path) == []
    assert _made(tmp_path, cache="disk").summary["rows"]["train"] == 32


def test_a_file_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    photos(tmp_path / "set", COUNT)
    odd = tmp_path / "set/ant/0.jpg"
    whole = bytearray(odd.read_bytes())
    at = whole.find(b"\xff\xc4")
    whole[at + 4 : at + 24] = b"\xff" * 20
    odd.write_bytes(bytes(whole))
    for cache in ("ram", "disk"):
        with pytest.raises(UserError, match=f"{odd} cannot be decoded"):
            _made(tmp_path, cache=cache)


def test_two_at_once_build_once(tmp_path: Path, decoded: Counter[bytes]) -> None:
    _made(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: _made(tmp_path, cache="disk"), range(2)))
    assert set(decoded.values()) == {1}
    rows = [_rows(data.train_dataloader()) for data in both]
    assert all(torch.equal(rows[0][row], rows[1][row]) for row in rows[0])


def _in_a_process(folder: Path, results: Any) -> None:
    data = _made(folder, cache="disk")
    results.put(np.concatenate([one.flatten().numpy() for one in _rows(data.val_dataloader()).values()]).tobytes())


@pytest.mark.slow
def test_two_processes_at_once(tmp_path: Path) -> None:
    photos(tmp_path / "set", 200)
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    processes = [context.Process(target=_in_a_process, args=(tmp_path, results)) for _ in range(3)]
    for process in processes:
        process.start()
    found = {results.get(timeout=120) for _ in processes}
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert len(found) == 1
    assert len(_folders(tmp_path)) == 3
    assert not list((tmp_path / "cache").rglob("*.tmp*"))
