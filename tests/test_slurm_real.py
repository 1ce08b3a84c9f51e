"""On a SLURM of its own on this machine, where its programs are installed: requeue, job array, and Hydra's launcher."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.curves import curves
from tests.slurm_jobs import EPOCHS, STEPS, two_task_words
from tests.test_run import _same_weights
from tl_lightning.record import read_record

Tiny = Callable[[str], Path]
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scancel", "scontrol", "squeue")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]
WAIT_S = 240

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"SLURM is not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="SLURM's daemons are started as root"),
]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _until(true: Callable[[], object], told: Callable[[], str]) -> None:
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end, told()
        time.sleep(0.2)


class Cluster:
    """One node of two processors, with daemons that listen on ports of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._daemons = folder, list[subprocess.Popen[bytes]]()
        host, (controller, node) = socket.gethostname().partition(".")[0], _free_ports(2)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        key, door = folder / "munge.key", folder / "munge.socket"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        settings = {
            "ClusterName": "test",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": controller,
            "SlurmdPort": node,
            "SlurmUser": "root",
            "AuthType": "auth/munge",
            "CredType": "cred/munge",
            "AuthInfo": f"socket={door},cred_expire=5",  # a requeued job waits for as long
            "StateSaveLocation": folder / "state",
            "SlurmdSpoolDir": folder / "spool",
            "SlurmctldPidFile": folder / "slurmctld.pid",
            "SlurmdPidFile": folder / "slurmd.pid",
            "SlurmctldLogFile": folder / "slurmctld.log",
            "SlurmdLogFile": folder / "slurmd.log",
            "SlurmdParameters": "config_overrides",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_CPU",
            "JobAcctGatherType": "jobacct_gather/none",
            "ReturnToService": 2,
            "MpiDefault": "none",
        }
        lines = [f"{name}={value}" for name, value in settings.items()]
        lines += [f"NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN"]
        lines += [f"PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP"]
        (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        self.env = {**kept, "SLURM_CONF": str(folder / "slurm.conf"), "PYTHONPATH": str(Path.cwd())}
        files = [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
        self._start("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={door}", *files)
        _until(door.exists, lambda: "munge does not start")
        self._start("slurmctld", "-D")
        self._start("slurmd", "-D")
        _until(lambda: "idle" in self.asked("sinfo", "--noheader", "--format=%T"), lambda: _told(folder))

    def _start(self, *command: str) -> None:
        with (self._folder / f"{command[0]}.out").open("wb") as file:
            self._daemons.append(subprocess.Popen(command, env=self.env, stdout=file, stderr=file))

    def asked(self, *command: str) -> str:
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60, check=False).stdout

    def submit(self, folder: Path, words: list[str], *options: str) -> str:
        """A batch script that starts one command; gives the number of its job."""
        command = " ".join(f"'{word}'" for word in [sys.executable, "-W", "ignore", "-m", "tl_lightning", *words])
        given = "".join(f"#SBATCH {option}\n" for option in (*options, "--requeue", "--open-mode=append"))
        (folder / "job.sh").write_text(f"#!/bin/sh\n{given}srun {command}\n")
        place = [f"--chdir={folder}", f"--output={folder}/%A_%a.out"]
        return self.asked("sbatch", "--parsable", *place, str(folder / "job.sh")).strip()

    def over(self, job: str) -> bool:
        return not self.asked("squeue", "--noheader", f"--job={job}", "--format=%T").strip()

    def close(self) -> None:
        self.asked("scancel", "--user=root")
        for daemon in reversed(self._daemons):
            daemon.terminate()
            daemon.wait(30)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    yield made
    made.close()


def _told(folder: Path) -> str:
    return "\n".join(path.read_text() for path in folder.glob("*.out"))


def test_the_signal_requeues_a_job_of_two_tasks_and_it_goes_on(cluster: Cluster, tiny: Tiny, tmp_path: Path) -> None:
    told = partial(_told, tmp_path)
    words = two_task_words(tiny, tmp_path)
    tasks = ("--nodes=1", "--ntasks-per-node=2")
    job = cluster.submit(tmp_path, words, *tasks)
    _until(lambda: list(tmp_path.glob("outputs/mini/*/checkpoints/last.ckpt")), told)
    cluster.asked("scancel", "--signal=USR1", job)  # to the tasks of srun, as before a time limit
    (folder,) = (path.parent for path in tmp_path.glob("outputs/mini/*/run.json"))
    _until(lambda: read_record(folder)["status"] == "interrupted", told)
    _until(lambda: cluster.over(job), told)
    record = read_record(folder)
    assert (record["status"], len(record["resumed"])) == ("finished", 1), told()
    assert record["device"] == "2 x cpu"
    assert record["steps"] == EPOCHS * STEPS
    assert [path.name for path in tmp_path.glob("outputs/mini/*")] == [folder.name], "one run in one directory"
    straight = cluster.submit(tmp_path, [*words, "name=straight"], *tasks)
    _until(lambda: cluster.over(straight), told)
    (undisturbed,) = (path.parent for path in tmp_path.glob("outputs/straight/*/run.json"))
    assert _same_weights(undisturbed, folder), "no batch was left out or taken twice"
    assert curves(folder) == curves(undisturbed)


def test_the_copies_of_a_job_array_share_a_grid(cluster: Cluster, tiny: Tiny, tmp_path: Path) -> None:
    told = partial(_told, tmp_path)
    words = [*two_task_words(tiny, tmp_path), "trainer=cpu", "trainer.max_epochs=2"]
    grid = ["--multirun", *words, "trainer.devices=1", "seed=0,1,2", "resume=auto"]
    job = cluster.submit(tmp_path, grid, "--array=0-1", "--ntasks=1")
    _until(lambda: cluster.over(job), told)
    records = [read_record(path.parent) for path in tmp_path.rglob("run.json")]
    assert [record["status"] for record in records] == ["finished"] * 3, told()
    assert {next(word for word in record["overrides"] if word.startswith("seed=")) for record in records} == {
        "seed=0",
        "seed=1",
        "seed=2",
    }


def test_hydras_launcher_runs_each_job_of_a_multirun_on_the_cluster(
    cluster: Cluster, tiny: Tiny, tmp_path: Path
) -> None:
    words = [*two_task_words(tiny, tmp_path), "trainer=cpu", "trainer.devices=1", "trainer.max_epochs=1", "seed=0,1"]
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=4", "hydra.launcher.mem_gb=1"]
    command = [sys.executable, "-W", "ignore", "-m", "tl_lightning", "--multirun", *words, *launcher]
    done = subprocess.run(
        command, cwd=tmp_path, env=cluster.env, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    records = [read_record(path.parent) for path in tmp_path.rglob("run.json")]
    assert [record["status"] for record in records] == ["finished"] * 2
    assert all("--multirun" in record["command"] for record in records)
    assert done.stdout.count("finished") == 2


def test_cancelling_a_job_leaves_a_run_that_can_go_on(cluster: Cluster, tiny: Tiny, tmp_path: Path) -> None:
    told = partial(_told, tmp_path)
    words = [*two_task_words(tiny, tmp_path), "trainer=cpu", "trainer.devices=1"]
    job = cluster.submit(tmp_path, words, "--ntasks=1")
    _until(lambda: list(tmp_path.glob("outputs/mini/*/checkpoints/last.ckpt")), told)
    cluster.asked("scancel", job)  # SIGTERM, and SIGKILL some seconds later
    _until(lambda: cluster.over(job), told)
    (folder,) = (path.parent for path in tmp_path.glob("outputs/mini/*/run.json"))
    assert read_record(folder)["status"] == "interrupted", told()
    command = [sys.executable, "-W", "ignore", "-m", "tl_lightning", *words, "resume=auto"]
    assert subprocess.run(command, cwd=tmp_path, timeout=WAIT_S, check=False).returncode == 0
    assert (read_record(folder)["status"], len(read_record(folder)["resumed"])) == ("finished", 1)
