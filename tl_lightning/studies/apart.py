"""A job of several processes, in processes of its own: inside a multirun they would start the whole of it again."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tl_lightning.errors import ToldError, UserError
from tl_lightning.left_out import carry
from tl_lightning.record import CONFIG, RECORD, read_record, write_json
from tl_lightning.recorded import FAILED, FINISHED, RUNNING
from tl_lightning.run import write_config
from tl_lightning.signals import SIGNALS, Interrupted, ended_by, listening
from tl_lightning.studies.multirun import quoted
from tl_lightning.studies.ticket import PARENT, Ticket

LOOK_S = 1.0
USER_FAULT = 2
TASKS = ("SLURM_STEP_NUM_TASKS", "SUBMITIT_LOCAL_NTASKS", "LOCAL_WORLD_SIZE")
# What a launcher or an earlier job has set would make Lightning wait for processes that nobody starts.
RANKS = (
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"),
)


@contextmanager
def own_world() -> Iterator[None]:
    """Let a job of a multirun make its own group of processes, whatever started this process.

    Raises:
        UserError: several tasks run this multirun, and each would do all of it; names the variable that says so.
    """
    for name in TASKS:
        if os.environ.get(name, "").isdigit() and int(os.environ[name]) > 1:
            raise UserError(
                f"{name}={os.environ[name]}: a --multirun is started once, and each of its jobs starts its own"
                " processes: one task with the GPUs of a node (hydra.launcher.tasks_per_node=1) and trainer.devices=N."
                " To share a grid or a search among machines, start copies of the command, as a job array does"
            )
    before = {name: os.environ.pop(name) for name in RANKS if name in os.environ}
    try:
        yield
    finally:
        for name in RANKS:
            os.environ.pop(name, None)
        os.environ.update(before)


def run_apart(config: Mapping[str, Any], folder: Path, ticket: Ticket) -> tuple[dict[str, Any], Path]:
    """Run a job in processes of its own, and wait for them.

    Returns:
        Its record, and its run directory.

    Raises:
        ToldError: it failed, and has said why.
        Interrupted: a signal ended it.
    """
    resumed = config["resume"]
    folder = (Path(resumed) if resumed else _free(folder)).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, config)
    words = ["--config-path", str(folder), "--config-name", "config", f"hydra.run.dir={quoted(folder)}"]
    words += [f"resume={quoted(folder)}"] if resumed else []
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "tl_lightning", *words],
        env={**os.environ, **ticket.environment(), **carry(config), PARENT: str(os.getpid())},
        start_new_session=True,  # a Ctrl-C reaches its first process through this one, once
    )
    with _passing_on(process) as received:
        code = process.wait()
    if code and not (folder / RECORD).exists():  # refused before there was a run: nothing is left of it
        with suppress(OSError):
            (folder / CONFIG).unlink()
            folder.rmdir()
    elif code:
        _close(folder, code)
    asked = received[-1] if received else ended_by(code)
    if asked is not None:  # also where the job had just ended by itself: the others are not wanted either
        raise Interrupted(asked)
    if code:
        raise ToldError(code if code == USER_FAULT else 1)
    return read_record(folder), folder


def _free(folder: Path) -> Path:
    """A folder without a run: this one or one beside it."""
    number, own = 1, folder
    while (own / RECORD).exists():
        number += 1
        own = folder.with_name(f"{folder.name}_{number}")
    return own


@contextmanager
def _passing_on(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Send Ctrl-C, SIGTERM and SIGHUP on while the block runs; gives those that came."""
    received: list[int] = []

    def send(signum: int, _: object) -> None:
        received.append(signum)
        process.send_signal(signum)

    with listening(send, SIGNALS):
        yield received


def _close(folder: Path, code: int) -> None:
    """Let the record of a run say that it failed, where its process could not."""
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    try:
        record = read_record(folder)
    except UserError:  # it did not get that far
        return
    if record["status"] == RUNNING or (record["status"] == FINISHED and ended_by(code) is None):
        write_json(folder / RECORD, {**record, "status": FAILED, "error": f"a process of this run ended with {how}"})


def end_with_parent() -> None:
    """Where this process does a multirun's job, end it as SIGTERM does once the multirun is gone."""
    parent = os.environ.get(PARENT)
    if parent is None or os.environ.get("LOCAL_RANK", "0") != "0":
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(LOOK_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="parent-observer").start()
