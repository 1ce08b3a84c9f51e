"""`sync` against stand-in servers: one that takes runs, one that is broken."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.wandb_server import StandIn
from tl_lightning.errors import UserError
from tl_lightning.record import write_json
from tl_lightning.sync import main, offline_runs

WRITE = """
import sys, wandb
for part in range(int(sys.argv[2])):
    run = wandb.init(project="p", dir=sys.argv[1], mode="offline", id="abcd1234", resume="allow")
    for step in range(3):
        run.log({"loss": 10 * part + step})
    run.finish()
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], StandIn]]:
    started: list[StandIn] = []

    def start(status: int) -> StandIn:
        started.append(StandIn(status))
        monkeypatch.setenv("WANDB_BASE_URL", started[-1].url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        return started[-1]

    yield start
    for one in started:
        one.shutdown()
        one.server_close()


@pytest.fixture
def left(tmp_path: Path) -> Callable[[int], Path]:
    """A run directory with an offline run in so many parts."""

    def left(parts: int) -> Path:
        folder = tmp_path / "outputs/mini/now"
        folder.mkdir(parents=True)
        subprocess.run([sys.executable, "-c", WRITE, str(folder), str(parts)], capture_output=True, check=True)
        return folder

    return left


def test_the_parts_of_a_resumed_run_are_one_run(
    server: Callable[[int], StandIn], left: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taking = server(200)
    left(2)
    main([f"dir={tmp_path / 'outputs'}"])
    assert "1 of 1 runs uploaded" in capsys.readouterr().out
    assert [row["loss"] for row in taking.history.values()] == [0, 1, 2, 10, 11, 12]
    assert [row["_step"] for row in taking.history.values()] == list(range(6))
    asked = taking.asked
    main([f"dir={tmp_path / 'outputs'}"])
    assert "no offline run is left" in capsys.readouterr().out
    assert taking.asked == asked


def test_parts_within_one_second_are_one_run(tmp_path: Path) -> None:
    parts = [tmp_path / f"wandb/offline-run-20260101_000000-abcd1234{more}" for more in ("", "-1")]
    for part in parts:
        part.mkdir(parents=True)
        (part / "run-abcd1234.wandb").touch()
    assert offline_runs(tmp_path) == [parts]


def test_a_broken_server_loses_nothing(
    server: Callable[[int], StandIn], left: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server(500)
    folder = left(1)
    (file,) = folder.rglob("*.wandb")
    before = file.read_bytes()
    with pytest.raises(SystemExit) as end:
        main([f"dir={tmp_path / 'outputs'}", "timeout=4"])
    assert end.value.code == 1
    told = capsys.readouterr()
    assert "0 of 1 runs uploaded" in told.out
    assert re.search(r"left, as they were; the same command tries again:\n.*no end after 4 s", told.err)
    assert file.read_bytes() == before
    assert len(offline_runs(tmp_path)) == 1
    server(200)
    main([f"dir={tmp_path / 'outputs'}"])
    assert offline_runs(tmp_path) == []


def test_a_run_that_runs_is_left(
    server: Callable[[int], StandIn], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import socket

    taking = server(200)
    part = tmp_path / "outputs/mini/now/wandb/offline-run-20260101_000000-abcd1234"
    part.mkdir(parents=True)
    (part / "run-abcd1234.wandb").touch()
    with subprocess.Popen(["sleep", "60"]) as other:
        process = {"host": socket.gethostname(), "pid": other.pid}
        write_json(tmp_path / "outputs/mini/now/run.json", {"status": "running", "process": process})
        with pytest.raises(SystemExit):
            main([f"dir={tmp_path}"])
        other.kill()
    assert "it is still running" in capsys.readouterr().err
    assert taking.asked == 0


def test_what_sync_cannot_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(UserError, match="there is no such folder"):
        main([f"dir={tmp_path / 'nosuch'}"])
    with pytest.raises(UserError, match="did you mean timeout"):
        main(["timeuot=3"])
    with pytest.raises(UserError, match="a number is expected"):
        main(["timeout=long"])
    with pytest.raises(UserError, match="above 0 seconds"):
        main([f"dir={tmp_path}", "timeout=0"])
    with pytest.raises(UserError, match="sync takes no outputs"):
        main(["outputs"])
    main([f"dir={tmp_path}"])  # nothing to do needs no key
    part = tmp_path / "wandb/offline-run-20260101_000000-abcd1234"
    part.mkdir(parents=True)
    (part / "run-abcd1234.wandb").touch()
    with pytest.raises(UserError, match="WANDB_API_KEY"):
        main([f"dir={tmp_path}"])
