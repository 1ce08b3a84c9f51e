"""Under SLURM, as its variables, its signal and a stand-in `scontrol` show it: requeued, resumed, and nothing left."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import Trainer

from tests.curves import curves
from tests.slurm_jobs import EPOCHS, STEPS, two_task_words
from tests.stopping import SignalOnce
from tests.test_run import STEPS as IN_EPOCH
from tests.test_run import _same_weights, config
from tl_lightning import bootstrap, meeting, slurm
from tl_lightning.errors import UserError
from tl_lightning.interrupt import Interrupted
from tl_lightning.quiet import quiet
from tl_lightning.record import read_record
from tl_lightning.run import run

Tiny = Callable[[str], Path]
__all__ = ["config"]  # a fixture

JOB = {"SLURM_JOB_ID": "4242", "SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "127.0.0.1"}


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """A stand-in for SLURM's program; gives what it was asked."""
    program, asked = tmp_path / "bin/scontrol", tmp_path / "asked"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return lambda: asked.read_text().splitlines() if asked.exists() else []


def _variables(rank: int = 0, tasks: int = 1, restarts: int = 0) -> dict[str, str]:
    known = {**JOB, "SLURM_NTASKS": str(tasks), "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
    known |= {"SLURM_NTASKS_PER_NODE": str(tasks), "SLURM_NODEID": "0"}
    return {**known, **({"SLURM_RESTART_COUNT": str(restarts)} if restarts else {})}


@pytest.mark.parametrize("stage", ["train", "validation"])
def test_the_signal_before_a_time_limit_is_a_requeue_and_an_exact_resume(
    stage: str, config: dict[str, Any], tmp_path: Path, scontrol: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 5)
    straight, stopped = tmp_path / "mini/straight", tmp_path / "other/stopped"
    run(config, straight)
    for name, value in _variables().items():
        monkeypatch.setenv(name, value)
    disturbed = json.loads(json.dumps({**config, "name": "other"}))
    place = {"train": 3, "validation": IN_EPOCH}
    disturbed["callbacks"]["signal"] = {
        "_target_": "tests.stopping.SignalOnce", "signum": int(signal.SIGUSR1), "stage": stage, "step": place[stage],
    }  # fmt: skip
    SignalOnce.sent = False
    with pytest.raises(Interrupted) as caught:
        run(disturbed, stopped)
    assert caught.value.exit_code == 128 + signal.SIGUSR1
    assert scontrol() == ["requeue 4242"]
    assert read_record(stopped)["status"] == "interrupted"
    assert {path.name for path in stopped.rglob("*ckpt*")} <= {"last.ckpt", "previous.ckpt", "best.ckpt"}
    assert (stopped / "checkpoints/last.ckpt").exists()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    run(disturbed, tmp_path / "other/unused")  # the same words, which do not ask for a resume
    assert not (tmp_path / "other/unused").exists()
    assert _same_weights(straight, stopped)
    assert curves(straight) == curves(stopped)
    assert (straight / "predictions.parquet").read_bytes() == (stopped / "predictions.parquet").read_bytes()


def test_outside_a_job_nothing_listens_to_the_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    assert slurm.signals() == ()
    assert slurm.environment() == []
    for name, value in _variables().items():
        monkeypatch.setenv(name, value)
    assert slurm.signals() == (signal.SIGUSR1,)
    assert slurm.job() == "4242"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "77")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert slurm.job() == "77_3"
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3; rm -rf")
    assert slurm.job() is None
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert not slurm.signals()


def test_srun_is_recommended_in_a_job_alone(scontrol: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "bin/scontrol", tmp_path / "bin/srun")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with quiet():
        Trainer(accelerator="cpu", logger=False)
    monkeypatch.setenv("SLURM_JOB_ID", "4242")
    with quiet(), pytest.warns(PossibleUserWarning, match="prepend your python command with `srun`"):
        Trainer(accelerator="cpu", logger=False)


def test_a_requeue_that_slurm_refuses_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in _variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", str(tmp_path))
    slurm.requeue()
    assert "There is no scontrol here" in caplog.text
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho Job is held >&2; exit 1\n")
    (tmp_path / "scontrol").chmod(0o755)
    slurm.requeue()
    assert "Job is held" in caplog.text


def test_tasks_whose_first_one_says_nothing_end_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "WAIT_S", 0.1)
    for name, value in _variables(rank=1, tasks=2).items():
        monkeypatch.setenv(name, value)
    place = meeting.meeting({"output_dir": str(tmp_path)})
    assert place is not None
    with pytest.raises(UserError, match="The first process has not said within"):
        place.told()
    place.tell(tmp_path / "run", True)
    assert place.told() == (tmp_path / "run", True)
    place.over()
    assert not list(tmp_path.iterdir())


def test_contradicting_variables_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in _variables(tasks=2).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(UserError, match=r"SLURM: .*ntasks"):
        slurm.environment()


class Tasks:
    """`python -m tl_lightning` as two tasks of one srun, the second a second later, each in a session of its own."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        self.folder, self.words = folder, words
        self.sessions: list[int] = []

    def start(self, restarts: int) -> list["subprocess.Popen[str]"]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        started = []
        for rank in (0, 1):
            started.append(
                subprocess.Popen(
                    [sys.executable, "-W", "ignore", "-m", "tl_lightning", *self.words],
                    env={**os.environ, **_variables(rank, 2, restarts), **place},
                    cwd=self.folder,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
            )
            time.sleep(1.2)  # the folders that both would make carry another second
        self.sessions += [process.pid for process in started]
        return started

    def left(self) -> list[str]:
        """Processes that outlive their task."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) in self.sessions and fields[0] not in "ZX":
                found.append(path.parent.name)
        return found


@pytest.mark.slow
def test_two_tasks_of_one_srun_are_one_run_through_a_requeue(tiny: Tiny, tmp_path: Path, scontrol: Any) -> None:
    words = two_task_words(tiny, tmp_path)
    tasks = Tasks(tmp_path, words)
    started = tasks.start(0)
    for _ in range(3000):
        if list(tmp_path.glob("outputs/mini/*/checkpoints/last.ckpt")):
            break
        time.sleep(0.1)
    for process in started:
        process.send_signal(signal.SIGUSR1)
    told = [process.communicate(timeout=100)[1] for process in started]
    assert [process.returncode for process in started] == [138, 138], "\n".join(told)
    assert scontrol() == ["requeue 4242"]
    (folder,) = (path.parent for path in tmp_path.glob("outputs/mini/*/run.json"))
    assert read_record(folder)["status"] == "interrupted"
    assert not tasks.left()
    started = tasks.start(1)
    told = [process.communicate(timeout=200)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(told)
    assert [path.name for path in tmp_path.glob("outputs/mini/*")] == [folder.name], "one run in one directory"
    record = read_record(folder)
    assert (record["status"], len(record["resumed"])) == ("finished", 1)
    assert record["steps"] == EPOCHS * STEPS
    logged = [(step, name) for step, name, _ in curves(folder)]
    assert len(logged) == len(set(logged))
    assert not tasks.left()
    assert not (tmp_path / "outputs/.meetings").exists()
    straight = Tasks(tmp_path, [*words, "name=straight"])
    for process in started + straight.start(0):
        process.communicate(timeout=600)
    (undisturbed,) = (path.parent for path in tmp_path.glob("outputs/straight/*/run.json"))
    assert _same_weights(undisturbed, folder), "no batch was left out or taken twice"
    assert curves(folder) == curves(undisturbed)
