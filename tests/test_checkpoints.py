import ast
import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch

from tests.test_hostile import Payload
from tl_lightning import checkpoints
from tl_lightning.backbones.weights import read_weights
from tl_lightning.callbacks import Best
from tl_lightning.checkpoints import AsideCheckpointIO, step_of
from tl_lightning.errors import UserError
from tl_lightning.soup import Soup, mean


class BrokenError(Exception):
    pass


class Breaks:
    def __reduce__(self) -> str:
        raise BrokenError


def test_a_write_that_breaks_leaves_the_old_checkpoint_whole(tmp_path: Path) -> None:
    path = tmp_path / "new/last.ckpt"
    writer = AsideCheckpointIO()
    writer.save_checkpoint({"a": torch.arange(3)}, path)
    before = path.read_bytes()
    with pytest.raises(BrokenError):
        writer.save_checkpoint({"a": torch.arange(99), "b": Breaks()}, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.arange(3))


# --- every reader of a checkpoint refuses, in words, what is not one

GOOD: dict[str, Any] = {"state_dict": {"w": torch.arange(1000.0)}, "global_step": 3, "epoch": 1}
READERS: dict[str, Callable[[Path], Any]] = {
    "resume": AsideCheckpointIO().load_checkpoint,
    "the curves of a resume": step_of,
    "a soup": lambda path: mean([path]),
    "weights for a backbone": lambda path: read_weights(str(path)),
}


def _sealed(content: Any) -> Callable[[Path], None]:
    return lambda path: AsideCheckpointIO().save_checkpoint(content, path)


def _flipped(path: Path) -> None:
    """In the middle of a tensor: torch reads it as ever."""
    _sealed(GOOD)(path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(500.0, 510.0).numpy().tobytes())] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)


def _cut(path: Path) -> None:
    _sealed(GOOD)(path)
    os.truncate(path, path.stat().st_size // 2)


def _packed(path: Path) -> None:
    """All that a small file can be unpacked to would be held in memory."""
    torch.save({"state_dict": {"w": torch.zeros(1_000_000)}, "global_step": 1}, path)
    with ZipFile(path) as file:
        parts = {part.filename: file.read(part) for part in file.infolist()}
    with ZipFile(path, "w", ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, content)
    assert path.stat().st_size < 100_000


def _old(path: Path) -> None:
    torch.save([1], path, _use_new_zipfile_serialization=False)


BROKEN: dict[str, Callable[[Path], Any]] = {
    "flipped": _flipped,
    "cut": _cut,
    "packed": _packed,
    "empty": lambda path: path.write_bytes(b""),
    "no checkpoint at all": lambda path: path.write_bytes(b"PK\x03\x04 nothing"),
    "text": lambda path: path.write_text("state_dict: {}"),
    "old list": _old,
    "list": _sealed([1, 2]),
    "tensor": _sealed(torch.zeros(3)),
    "payload": lambda path: _sealed({**GOOD, "evil": Payload(path.with_name("ran"))})(path),
    "payload without a seal": lambda path: torch.save({**GOOD, "evil": Payload(path.with_name("ran"))}, path),
    "state of numbers": _sealed({**GOOD, "state_dict": {"w": 1.0}}),
    "state of numbered tensors": _sealed({**GOOD, "state_dict": {1: torch.zeros(1)}}),
    "state that is a list": _sealed({**GOOD, "state_dict": [torch.zeros(1)]}),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("broken", BROKEN)
def test_no_reader_uses_a_broken_checkpoint(broken: str, reader: str, tmp_path: Path) -> None:
    path = tmp_path / "best.ckpt"
    BROKEN[broken](path)
    with pytest.raises(UserError, match=r"best\.ckpt") as refused:
        READERS[reader](path)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("reader", [name for name in READERS if "weights" not in name])
@pytest.mark.parametrize(
    "parts",
    [
        {"global_step": "three"},
        {"epoch": [1]},
        {"loops": []},
        {"callbacks": "x"},
        {"optimizer_states": {}},
        {"tl_lightning": 1},
    ],
)
def test_the_parts_of_a_checkpoint_are_of_their_kinds(parts: dict[str, Any], reader: str, tmp_path: Path) -> None:
    _sealed({**GOOD, **parts})(tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=f"last.ckpt is no checkpoint of a run: its {next(iter(parts))} is not"):
        READERS[reader](tmp_path / "last.ckpt")


def test_a_checkpoint_says_what_is_asked_of_it(tmp_path: Path) -> None:
    _sealed({"epoch": 1})(tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="it holds no state_dict"):
        mean([tmp_path / "last.ckpt"])
    with pytest.raises(UserError, match="it holds no global_step"):
        step_of(tmp_path / "last.ckpt")


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_in_place_of_a_checkpoint_is_not_waited_for(reader: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "best.ckpt")
    with pytest.raises(UserError, match=r"is a pipe|no such file"):
        READERS[reader](tmp_path / "best.ckpt")


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_reads_a_sound_one(reader: str, tmp_path: Path) -> None:
    _sealed(GOOD)(tmp_path / "best.ckpt")
    READERS[reader](tmp_path / "best.ckpt")
    torch.save(GOOD, tmp_path / "theirs.ckpt")
    READERS[reader](tmp_path / "theirs.ckpt")


def test_weights_of_an_old_torch_are_read(tmp_path: Path) -> None:
    torch.save(GOOD["state_dict"], tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_weights(str(tmp_path / "w.pth"))["w"], GOOD["state_dict"]["w"])


def test_bytes_turned_anywhere_in_a_file_without_a_seal_are_told_or_harmless(tmp_path: Path) -> None:
    path, chance = tmp_path / "theirs.ckpt", random.Random(0)
    torch.save({"state_dict": {"w": torch.arange(3.0)}, "global_step": 3, "more": [{"a": (1, "b")}] * 3}, path)
    whole = path.read_bytes()
    for _ in range(300):
        content = bytearray(whole)
        for at in chance.sample(range(len(whole)), 3):
            content[at] = chance.randrange(256)
        path.write_bytes(content)
        for reader in READERS.values():
            try:
                reader(path)
            except UserError as fault:
                assert "\n" not in str(fault)  # noqa: PT017


def test_nothing_else_in_the_package_unpickles() -> None:
    found = {}
    for path in Path(checkpoints.__file__).parent.rglob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        named = [ast.unparse(call) for call in calls]
        if loads := [name for name in named if name in ("torch.load", "pickle.load", "pickle.loads", "joblib.load")]:
            found[path.name] = loads
    assert found == {"checkpoints.py": ["torch.load"]}


def test_removing_a_checkpoint_removes_no_folder(tmp_path: Path) -> None:
    (tmp_path / "kept/inside").mkdir(parents=True)
    with pytest.raises(OSError, match="kept"):
        AsideCheckpointIO().remove_checkpoint(tmp_path / "kept")
    assert (tmp_path / "kept/inside").is_dir()
    (tmp_path / "a.ckpt").touch()
    AsideCheckpointIO().remove_checkpoint(tmp_path / "a.ckpt")
    AsideCheckpointIO().remove_checkpoint(tmp_path / "a.ckpt")
    assert not (tmp_path / "a.ckpt").exists()


@pytest.mark.parametrize("make", [Best, partial(Soup, k=2)])
def test_the_files_of_a_state_are_those_of_the_run_s_own_folder(make: Callable[..., Any], tmp_path: Path) -> None:
    """Once the run directory has moved, and where a checkpoint names files elsewhere, which would be removed."""
    folder, strange = tmp_path / "checkpoints", tmp_path / "checkpoints/../kept"
    made = make(monitor="val/loss", mode="min", folder=folder)
    paths = {str(strange): torch.tensor(1.0), "/elsewhere/soup-3.ckpt": torch.tensor(2.0)}
    state = {**made.state_dict(), "best_k_models": paths, "best_model_path": str(strange), "dirpath": "/elsewhere"}
    made.load_state_dict({**state, "metrics": {}, "epoch": 0, "step": 0})
    assert set(made.best_k_models) == {str(folder / "kept"), str(folder / "soup-3.ckpt")}
    assert made.best_model_path == str(folder / "kept")
    assert float(made.best_k_models[str(folder / "kept")]) == 1
