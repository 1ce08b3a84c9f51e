"""Bytes that flip, files cut short, disks that are full: noticed, told, and the last good thing is still there."""

import copy
import json
import logging
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tl_lightning.__main__ import explained
from tl_lightning.callbacks import Last
from tl_lightning.check import check
from tl_lightning.checkpoints import LAST, PREVIOUS, AsideCheckpointIO, is_whole, newest
from tl_lightning.data.store import META, Store
from tl_lightning.errors import UserError
from tl_lightning.record import RECORD, read_record
from tl_lightning.run import run
from tl_lightning.tracking import Curves

Tiny = Callable[[str], Path]
Compose = Callable[..., dict[str, Any]]
Command = Callable[..., subprocess.CompletedProcess[str]]
Mount = Callable[..., Path]
SLOW = pytest.mark.slow
EPOCHS = 3


def _flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << at % 8
    path.write_bytes(content)


def test_flips_and_cuts_all_over_a_checkpoint_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / LAST
    AsideCheckpointIO().save_checkpoint({"w": torch.arange(10.0), "epoch": 3, "name": "x"}, path)
    whole = path.read_bytes()
    assert is_whole(path)
    assert torch.equal(torch.load(path, weights_only=True, mmap=True)["w"], torch.arange(10.0)), (
        "torch reads it as ever"
    )
    places = [*range(0, len(whole), 7), *range(len(whole) - 150, len(whole))]
    for at in places:
        _flip(path, at)
        assert not is_whole(path), f"byte {at} of {len(whole)}"
        path.write_bytes(whole)
    for length in places:
        path.write_bytes(whole[:length])
        assert not is_whole(path), f"cut to {length} of {len(whole)}"


def test_a_checkpoint_without_a_seal_is_taken_as_it_is_and_half_of_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "theirs.ckpt"
    torch.save({"w": torch.arange(10.0)}, path)
    assert is_whole(path)
    path.write_bytes(path.read_bytes()[:-100])
    assert not is_whole(path)


def test_the_one_before_is_kept_until_the_new_one_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, path = AsideCheckpointIO(), tmp_path / LAST
    for epoch in range(3):
        writer.save_checkpoint({"epoch": epoch}, path)
        kept = {file.name: torch.load(file, weights_only=True)["epoch"] for file in tmp_path.iterdir()}
        assert kept == ({LAST: epoch, PREVIOUS: epoch - 1} if epoch else {LAST: 0})

    def fails(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="Input/output error"):
        writer.save_checkpoint({"epoch": 3}, path)
    assert {file.name: torch.load(file, weights_only=True)["epoch"] for file in tmp_path.iterdir()} == {
        LAST: 2,
        PREVIOUS: 1,
    }


def test_a_process_that_dies_between_the_two_renames_leaves_the_one_before(tmp_path: Path) -> None:
    AsideCheckpointIO().save_checkpoint({"epoch": 1}, tmp_path / LAST)
    (tmp_path / LAST).rename(tmp_path / PREVIOUS)
    assert newest(tmp_path) == tmp_path / PREVIOUS
    assert newest(tmp_path / "nowhere") is None


class Stops(Exception):
    pass


@pytest.fixture(scope="module")
def stopped(tiny: Tiny, compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A run killed after its second epoch, with last.ckpt and previous.ckpt, and the undisturbed one beside it."""
    root = tmp_path_factory.mktemp("damage")
    rows = [f"{'good fine' if i % 2 else 'bad dull'} film number {i},{'pos' if i % 2 else 'neg'}" for i in range(40)]
    (root / "all.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    words = [
        *("backbone=hf_text", f"backbone.name={tiny('bert')}", "data=text_files", f"data.train={root / 'all.csv'}"),
        *("trainer=cpu", f"trainer.max_epochs={EPOCHS}", "trainer.enable_progress_bar=false", "data.batch_size=16"),
        *("logger=csv", "name=mini", "trainer.precision=32-true", "optimizer.lr=1e-3", f"output_dir={root}"),
    ]
    config = check(compose(*words))  # as a command has it, with the defaults filled in
    run(config, root / "straight")
    assert not (root / "straight/checkpoints" / PREVIOUS).exists(), "a finished run needs no second copy"
    original, saved = Last._save, []

    def dies(self: Last, trainer: Any) -> None:
        original(self, trainer)
        saved.append(trainer.global_step)
        if len(saved) == 2:
            raise Stops

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Last, "_save", dies)
        with pytest.raises(Stops):
            run(config, root / "mini/stopped")
    assert {path.name for path in (root / "mini/stopped/checkpoints").iterdir()} == {LAST, PREVIOUS, "best.ckpt"}
    return config, root


@pytest.fixture
def again(stopped: tuple[dict[str, Any], Path], tmp_path: Path) -> tuple[dict[str, Any], Path]:
    """The configuration that goes on with the stopped run, and a copy of its directory."""
    folder = tmp_path / "mini/stopped"
    shutil.copytree(stopped[1] / "mini/stopped", folder)
    return {**copy.deepcopy(stopped[0]), "output_dir": str(tmp_path), "resume": "auto"}, folder


def _ends_as_the_undisturbed_one(folder: Path, stopped: tuple[dict[str, Any], Path]) -> None:
    straight = stopped[1] / "straight"
    assert read_record(folder)["status"] == "finished"
    assert (folder / "metrics.json").read_text() == (straight / "metrics.json").read_text()
    one, other = (torch.load(p / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for p in (folder, straight))
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("damage", ["flipped", pytest.param("cut", marks=SLOW), pytest.param("empty", marks=SLOW)])
def test_a_damaged_last_checkpoint_is_passed_over(
    damage: str, again: tuple[dict[str, Any], Path], stopped: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, folder = again
    last = folder / "checkpoints" / LAST
    size = last.stat().st_size
    if damage == "flipped":
        _flip(last, random.Random(damage).randrange(size))
    else:
        os.truncate(last, size // 3 if damage == "cut" else 0)
    with caplog.at_level(logging.WARNING):
        run(config, tmp_path / "unused")
    assert "last.ckpt is damaged" in caplog.text
    assert "goes on from" in caplog.text
    _ends_as_the_undisturbed_one(folder, stopped)


def test_where_all_checkpoints_are_damaged_the_run_says_so(again: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    config, folder = again
    for name in (LAST, PREVIOUS):
        _flip(folder / "checkpoints" / name, 1000)
    with pytest.raises(UserError, match=r"last.ckpt and .*previous.ckpt: damaged; leave resume= out"):
        run(config, tmp_path / "unused")


def test_a_damaged_best_checkpoint_is_not_tested(
    stopped: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch import Trainer

    original = Trainer.test

    def damaged(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        _flip(Path(kwargs["ckpt_path"]), 5000)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "test", damaged)
    config = copy.deepcopy(stopped[0])
    config["trainer"]["max_epochs"] = 1
    with pytest.raises(UserError, match=r"best.ckpt is damaged"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run/metrics.json").exists()


@pytest.mark.parametrize("left", ['{"status": "runn', pytest.param("", marks=SLOW), pytest.param("[]", marks=SLOW)])
def test_a_record_cut_in_half_does_not_hide_the_run(
    left: str, again: tuple[dict[str, Any], Path], stopped: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, folder = again
    (folder / RECORD).write_text(left)
    with caplog.at_level(logging.WARNING):
        run(config, tmp_path / "unused")
    assert not (tmp_path / "unused").exists()
    assert "the run is known by its config.yaml and its checkpoints" in caplog.text
    _ends_as_the_undisturbed_one(folder, stopped)


def test_a_finished_run_with_a_damaged_record_is_not_run_again(
    again: tuple[dict[str, Any], Path], stopped: Any, tmp_path: Path
) -> None:
    config, folder = again
    shutil.copy(stopped[1] / "straight/metrics.json", folder)
    (folder / RECORD).write_text("")
    config["trainer"]["max_epochs"] = 1
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**stored, "trainer": config["trainer"]}))
    run(config, tmp_path / "mini/new")
    assert read_record(tmp_path / "mini/new")["status"] == "finished"
    assert (folder / RECORD).read_text() == ""


def _cache(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    config["data"]["cache_dir"] = str(folder)
    config["trainer"] |= {"max_epochs": 1, "limit_train_batches": 1, "log_every_n_steps": 1}
    config["resume"] = None
    return config


def test_every_flip_in_a_cache_is_noticed(again: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    run(_cache(again[0], tmp_path / "cache"), tmp_path / "run")
    folders = [path for path in (tmp_path / "cache/text").iterdir() if path.is_dir()]
    chance, seen = random.Random(0), set()
    for path in sorted(path for folder in folders for path in folder.iterdir()):
        Store(path.parent)
        whole = path.read_bytes()
        for at in [0, len(whole) - 1, *chance.choices(range(len(whole)), k=20)]:
            _flip(path, at)
            with pytest.raises((ValueError, KeyError)):  # whatever the damage looks like
                Store(path.parent)
            path.write_bytes(whole)
        seen.add(path.name)
    assert {"tokens.bin", "texts.arrow", "hashes.bin", META} <= seen


def test_a_flipped_byte_in_the_tokens_is_mended_by_building_again(
    again: tuple[dict[str, Any], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = _cache(again[0], tmp_path / "cache")
    run(config, tmp_path / "one")
    (tokens,) = (tmp_path / "cache").rglob("tokens.bin")
    _flip(tokens, tokens.stat().st_size // 2)
    run(config, tmp_path / "two")
    assert "the checksum of tokens.bin differs): building it again" in caplog.text
    records = [read_record(tmp_path / name) for name in ("one", "two")]
    assert records[0]["metrics"] == records[1]["metrics"]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a small disk of its own; only root may."""
    mounted: list[Path] = []

    def mount(name: str, options: str) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        tool = shutil.which("mount")
        command = [tool or "", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if tool is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting is not permitted here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _read_only(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


@contextmanager
def _almost_full(folder: Path, left: int) -> Iterator[None]:
    """Fills a disk but for some bytes."""
    free = shutil.disk_usage(folder).free
    (folder / "filler").write_bytes(bytes(max(0, free - left)))
    yield
    (folder / "filler").unlink()


def test_a_disk_that_fills_while_a_checkpoint_is_written(mount: Mount) -> None:
    folder, writer = mount("disk", "size=2m"), AsideCheckpointIO()
    writer.save_checkpoint({"w": torch.zeros(50_000)}, folder / LAST)
    before = (folder / LAST).read_bytes()
    with pytest.raises(OSError, match="No space left") as caught:
        writer.save_checkpoint({"w": torch.zeros(1_000_000)}, folder / LAST)
    assert (folder / LAST).read_bytes() == before
    assert [path.name for path in folder.iterdir()] == [LAST], "nothing half-written is left"
    told = explained(caught.value) or ""
    assert str(folder / LAST) in told
    assert "of 2 MB are free there" in told


def test_a_disk_that_fills_while_the_curves_are_written(mount: Mount) -> None:
    folder = mount("disk", "size=64k")
    curves = Curves(folder)
    curves.log_metrics({"a": 1.0}, 0)
    with _almost_full(folder, 0), pytest.raises(OSError, match="No space left") as caught:
        _ = [curves.log_metrics({"a": 1.0}, step) for step in range(20_000)]
    assert str(folder / "metrics.csv") in (explained(caught.value) or "")


FULL = {"checkpoint": ("hydra.run.dir", 30_000), "cache": ("data.cache_dir", 2_000), "record": ("hydra.run.dir", 0)}


def _run(config: dict[str, Any], tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The stored configuration as a command."""
    folder = tmp_path / "stored"
    folder.mkdir(exist_ok=True)
    stored = {"defaults": ["run_config", "hydra_settings", "_self_"], **config}
    (folder / "config.yaml").write_text(yaml.safe_dump(stored))
    command = ["-m", "tl_lightning", "--config-path", str(folder), "--config-name", "config", *words]
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=200, check=False, cwd=tmp_path
    )


@pytest.mark.slow
@pytest.mark.parametrize("what", FULL)
def test_a_command_on_a_full_disk(what: str, again: tuple[dict[str, Any], Path], tmp_path: Path, mount: Mount) -> None:
    """Exit code 2, the path and what is free; what was good before is as good after."""
    config, (key, left) = again[0], FULL[what]
    config = {**_cache(config, tmp_path / "cache"), "output_dir": str(tmp_path / "out")}
    disk = mount("disk", "size=2m")
    with _almost_full(disk, left):
        done = _run(config, tmp_path, f"{key}={disk}")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert str(disk) in done.stderr
    assert "free there" in done.stderr
    assert not list(disk.rglob("*.tmp*")), "nothing half-written is left"


@pytest.mark.slow
def test_a_disk_that_fills_in_the_middle_of_a_run_leaves_the_last_good_checkpoint(
    again: tuple[dict[str, Any], Path], stopped: Any, tmp_path: Path, mount: Mount
) -> None:
    config, folder = again
    disk = mount("disk", "size=8m")
    shutil.copytree(folder, disk / "mini/stopped")
    config["output_dir"] = str(disk)
    checkpoints = disk / "mini/stopped/checkpoints"
    before = {path.name: path.read_bytes() for path in checkpoints.iterdir()}
    with _almost_full(disk, 60_000):
        done = _run(config, tmp_path)
    assert done.returncode == 2, done.stderr
    assert "The disk is full" in done.stderr
    assert {path.name: path.read_bytes() for path in checkpoints.iterdir()} == before
    again_ = _run(config, tmp_path)
    assert again_.returncode == 0, again_.stderr
    _ends_as_the_undisturbed_one(disk / "mini/stopped", stopped)


@pytest.mark.slow
def test_an_output_folder_that_may_not_be_written(
    again: tuple[dict[str, Any], Path], tmp_path: Path, mount: Mount
) -> None:
    disk = mount("disk", "size=2m")
    _read_only(disk)
    done = _run({**again[0], "resume": None}, tmp_path, f"output_dir={disk}/out")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"{disk}/out" in done.stderr
    assert "choose another folder, such as output_dir=FOLDER" in done.stderr


def test_a_complete_cache_that_may_not_be_written_is_used(
    again: tuple[dict[str, Any], Path], tmp_path: Path, mount: Mount
) -> None:
    disk = mount("disk", "size=4m")
    config = _cache(again[0], disk)
    run(config, tmp_path / "one")
    _read_only(disk)
    run(config, tmp_path / "two")
    assert read_record(tmp_path / "two")["metrics"] == read_record(tmp_path / "one")["metrics"]
    config["data"]["max_length"] = 9
    with pytest.raises(UserError, match=r"cannot be written to .*disk.*data.cache_dir=FOLDER"):
        run(config, tmp_path / "three")
    assert json.loads((tmp_path / "three/run.json").read_text())["status"] == "failed"
