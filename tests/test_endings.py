"""How real commands end: their output closed, their terminal gone, a signal too late to stop anything."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.studies.conftest import words
from tl_lightning import interrupt, signals
from tl_lightning.errors import ToldError
from tl_lightning.record import read_record, write_json
from tl_lightning.signals import Interrupted, ended_by, here, listening
from tl_lightning.studies import apart
from tl_lightning.studies.ticket import Ticket

__all__ = ["words"]  # a fixture
ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "tl_lightning"]
SLOW = pytest.mark.slow


def _environment() -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "TL_LIGHTNING_ALLOW": "tests", "PYTHONPATH": os.pathsep.join(paths)}


def _start(folder: Path, *typed: str, **given: Any) -> subprocess.Popen[str]:
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **given}
    return subprocess.Popen([*COMMAND, *typed], cwd=folder, env=_environment(), text=True, **streams)


@contextmanager
def _closed() -> Iterator[int]:
    """The end of a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


def _until(folder: Path, pattern: str, process: subprocess.Popen[str]) -> Path:
    for _ in range(3000):
        if found := list(folder.glob(pattern)):
            return found[0]
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError(f"no {pattern} in {folder}")


def _record(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("outputs/**/run.json")
    return read_record(path.parent)


# --- a reader that goes away


@pytest.mark.parametrize(
    ("typed", "code"), [((), 0), (("--help",), 0), (("--cfg", "job"), 0), (("runs", "here"), 2), (("fitt",), 2)]
)
@pytest.mark.parametrize("both", [False, True])
def test_a_command_whose_output_nobody_reads_ends_as_ever_and_in_silence(
    typed: tuple[str, ...], code: int, both: bool, tmp_path: Path
) -> None:
    with _closed() as nobody:
        process = _start(tmp_path, *typed, stdout=nobody, stderr=nobody if both else subprocess.PIPE)
        _, told = process.communicate(timeout=120)
    assert process.returncode == code, told
    for noise in ("BrokenPipe", "Exception ignored", "Traceback"):
        assert noise not in (told or "")


def test_a_command_without_any_output_writes_into_no_file_by_mistake(tmp_path: Path) -> None:
    """Closed by `>&- 2>&-`, numbers 1 and 2 would be those of the next files that are opened."""
    script = (
        "from tl_lightning.streams import outlive_readers; outlive_readers(); import os, sys;"
        " f = open('next', 'w'); os.write(1, b'astray'); print('astray'); print('astray', file=sys.stderr); f.close()"
    )
    command = 'exec "$0" -c "$1" >&- 2>&- <&-'
    done = subprocess.run(["sh", "-c", command, sys.executable, script], cwd=tmp_path, env=_environment(), check=False)
    assert done.returncode == 0
    assert (tmp_path / "next").read_text() == ""


@SLOW
@pytest.mark.parametrize("both", [False, True])
def test_a_run_whose_output_nobody_reads_is_finished(both: bool, words: list[str], tmp_path: Path) -> None:
    """With what a user gets: the progress bar, on standard output, and W&B."""
    own = [word for word in words if not word.startswith(("trainer.enable_progress_bar", "logger"))]
    with _closed() as nobody:
        process = _start(tmp_path, *own, stdout=nobody, stderr=nobody if both else subprocess.PIPE)
        _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    for noise in ("BrokenPipe", "Exception ignored", "Traceback"):
        assert noise not in (told or "")
    record = _record(tmp_path)
    assert (record["status"], record["after"]) == ("finished", None)
    assert record["wandb"]["folder"]
    for command in (["runs"], ["compare", "outputs"], ["wise_ft", f"run={next(tmp_path.glob('outputs/mini/*'))}"]):
        with _closed() as nobody:
            process = _start(tmp_path, *command, stdout=nobody)
            _, told = process.communicate(timeout=300)
        assert "BrokenPipe" not in told
        assert "Exception ignored" not in told
        assert process.returncode in (0, 2), told
    assert list(tmp_path.glob("outputs/mini/*/wise_ft.png")), "a file is written though nobody reads the table"


# --- a terminal that closes


@SLOW
def test_a_terminal_that_closes_is_an_interruption(words: list[str], tmp_path: Path) -> None:
    """The hang-up reaches the run and its workers, and from then on nothing can be printed."""
    lasting = ("trainer.max_epochs=400", "data.num_workers=1", "trainer.enable_progress_bar=true")
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(tmp_path)
        os.execve(sys.executable, [*COMMAND, *words, *lasting], _environment())
    os.set_blocking(terminal, False)
    for _ in range(3000):
        try:
            os.read(terminal, 1 << 16)
        except BlockingIOError:
            time.sleep(0.05)
        if list(tmp_path.glob("outputs/mini/*/checkpoints/last.ckpt")):
            break
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    assert _record(tmp_path)["status"] == "interrupted"
    process = _start(tmp_path, *words, *lasting, "resume=auto")
    _until(tmp_path, "outputs/mini/*/checkpoints/previous.ckpt", process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert len(list(tmp_path.glob("outputs/mini/*"))) == 1, "it goes on where it was"


@SLOW
def test_under_nohup_a_run_takes_no_notice(words: list[str], tmp_path: Path) -> None:
    def ignoring() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = _start(tmp_path, *words, "trainer.max_epochs=12", preexec_fn=ignoring)
    _until(tmp_path, "outputs/mini/*/checkpoints/last.ckpt", process)
    process.send_signal(signal.SIGHUP)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert _record(tmp_path)["status"] == "finished"


# --- signals that come too late, or between


@SLOW
@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)], ids=["term", "int", "hup"]
)
def test_a_signal_once_the_results_stand_says_so(signum: int, code: int, words: list[str], tmp_path: Path) -> None:
    process = _start(tmp_path, *words, "+callbacks.slow._target_=tests.stopping.SlowAfter")
    _until(tmp_path, "outputs/mini/*/metrics.json", process)
    while _record(tmp_path)["status"] == "running":
        time.sleep(0.05)
    process.send_signal(signum)
    _, told = process.communicate(timeout=120)
    assert process.returncode == code, told
    record = _record(tmp_path)
    assert record["status"] == "finished"
    assert "report" in record["after"]
    assert "the run is finished, and its results are in" in told
    assert str(next(tmp_path.glob("outputs/mini/*")).relative_to(tmp_path)) in told
    assert "resume=auto" not in told
    assert "Traceback" not in told


@SLOW
def test_a_signal_between_two_jobs_ends_a_multirun_in_words(words: list[str], tmp_path: Path) -> None:
    between = "+callbacks.between._target_=tests.stopping.SignalWhenOver"
    process = _start(tmp_path, "--multirun", *words, "seed=0,1,2", between)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 143, told
    assert "Interrupted by SIGTERM: the same command with resume=auto goes on." in told
    assert "Traceback" not in told
    records = [read_record(path.parent) for path in tmp_path.glob("outputs/**/run.json")]
    assert [record["status"] for record in records] == ["finished"] * 2, "the third has not begun"


@SLOW
def test_a_command_that_does_not_go_on_does_not_say_so(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\nfrom tl_lightning import commands\nfrom tl_lightning.__main__ import main\n"
        "commands.Command.__call__ = lambda *_: os.kill(os.getpid(), int(sys.argv[2]))\nmain()"
    )
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        command = [sys.executable, "-c", code, "compare", str(int(signum))]
        done = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 128 + signum, done.stderr
        name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        assert done.stderr.strip() == f"Interrupted by {name}."


def test_what_was_ignored_stays_ignored_and_what_was_there_comes_back() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with listening(lambda signum, _: heard.append(signum), (signal.SIGHUP, signal.SIGTERM)):
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_forked_process_leaves_signals_to_the_one_that_made_it() -> None:
    """A worker that a hang-up or Ctrl-C reaches as well; its parent ends it by SIGTERM."""
    stop = interrupt.StopAtStep()
    for signum, code in ((signal.SIGHUP, 7), (signal.SIGINT, 7), (signal.SIGTERM, -signal.SIGTERM)):
        with listening(stop.receive, signals.SIGNALS):
            pid = os.fork()
            if not pid:
                os.kill(os.getpid(), signum)
                os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code
    assert here(stop.receive) is not stop.receive


@pytest.mark.parametrize(("code", "signum"), [(0, None), (1, None), (2, None), (129, 1), (130, 2), (143, 15), (-1, 1)])
def test_exit_codes_tell_signals_from_faults(code: int, signum: int | None) -> None:
    assert ended_by(code) == signum


@pytest.mark.parametrize(
    ("code", "status", "fault"),
    [
        (0, "finished", None),
        (143, "finished", Interrupted),
        (129, "interrupted", Interrupted),
        (1, "failed", ToldError),
    ],
)
def test_a_job_of_its_own_processes_that_a_signal_ended_late_stays_finished(
    code: int, status: str, fault: type[BaseException] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = {"finished": "finished", "interrupted": "interrupted", "failed": "running"}[status]
    script = f"raise SystemExit({code})"
    monkeypatch.setattr(apart, "write_config", lambda folder, _: write_json(folder / "run.json", {"status": left}))
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **given: popen([sys.executable, "-c", script], **given))
    ticket = Ticket([], [])
    if fault is None:
        assert apart.run_apart({"resume": None}, tmp_path / "job", ticket)[0]["status"] == status
    else:
        with pytest.raises(fault):
            apart.run_apart({"resume": None}, tmp_path / "job", ticket)
    assert read_record(tmp_path / "job")["status"] == status


# --- several processes


DIGITS = (
    *("backbone=small_resnet", "backbone.width=4", "backbone.image_size=8", "data=digits", "data.digits=[0,1]"),
    *("data.near_duplicates=false", "data.batch_size=32", "trainer=ddp", "trainer.accelerator=cpu", "logger=csv"),
    *("trainer.devices=2", "trainer.max_epochs=2", "trainer.precision=32-true", "trainer.enable_progress_bar=false"),
)


@SLOW
@pytest.mark.parametrize("rank", [None, 0, 1])
def test_processes_go_the_same_way_where_one_cannot_read_what_a_soup_is_made_of(
    rank: int | None, tmp_path: Path
) -> None:
    spoilt = f"+callbacks.spoils={{_target_: tests.stopping.SpoilsSoup, rank: {rank}}}"
    words = [*DIGITS, "average=greedy_soup", *([spoilt] if rank is not None else [])]
    process = _start(tmp_path, *words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    told, _ = process.communicate(timeout=400)
    assert process.returncode == 0, told
    record = _record(tmp_path)
    assert record["status"] == "finished"
    assert record["average"].get("made", True) is (rank is None)
    assert list(record["after"] or {}) == ([] if rank is None else ["average"])
    assert ("Input/output error" in (record["after"] or {}).get("average", "")) is (rank == 0)
    assert ("Input/output error" in told) is (rank is not None)


@SLOW
def test_a_signal_to_the_second_process_once_it_has_tested_takes_no_result_back(tmp_path: Path) -> None:
    process = _start(tmp_path, *DIGITS, "+callbacks.signal._target_=tests.stopping.SignalToOther")
    _, told = process.communicate(timeout=400)
    assert process.returncode == 143, told
    record = _record(tmp_path)
    assert (record["status"], record["after"]) == ("finished", None)
    assert "the run is finished, and its results are in" in told
    assert "resume=auto" not in told
