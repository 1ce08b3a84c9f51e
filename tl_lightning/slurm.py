"""Under SLURM: the signal before a time limit, and the job put back into the queue."""

import logging
import os
import re
import shutil
import signal
import subprocess
from typing import Any

from tl_lightning.errors import UserError

log = logging.getLogger(__name__)

SIGNAL = signal.SIGUSR1
INTERACTIVE = ("bash", "interactive")  # jobs of this name are a shell: what is started there is no task of SLURM's


def job() -> str | None:
    """The job that this process is a task of, as ``scontrol`` names it."""
    number, array = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_ARRAY_JOB_ID")
    if number is None or "SLURM_NTASKS" not in os.environ or os.environ.get("SLURM_JOB_NAME") in INTERACTIVE:
        return None
    found = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else number
    return found if re.fullmatch(r"\d+(_\d+)?", found) else None


def restarted() -> bool:
    """Whether this job has been in the queue before."""
    return job() is not None and os.environ.get("SLURM_RESTART_COUNT", "0").strip("0 ") != ""


def signals() -> tuple[signal.Signals, ...]:
    """What SLURM sends before a time limit where ``--signal=SIGUSR1@SECONDS`` asks for it."""
    return () if job() is None else (SIGNAL,)


def environment() -> list[Any]:
    """Lightning's plug-in for SLURM where it would take it, but without its own answer to the signal.

    That one saves in mid-step, from which no resume is exact, and leaves a second file that goes before last.ckpt.

    Raises:
        UserError: SLURM's variables contradict each other.
    """
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if job() is None or TorchElasticEnvironment.detect():
        return []
    try:
        return [SLURMEnvironment(auto_requeue=False)]
    except RuntimeError as fault:
        raise UserError(f"SLURM: {fault}") from fault


def requeue() -> None:
    """Put this job back into the queue, which ends its processes soon; says so where SLURM does not take it."""
    number, program = job(), shutil.which("scontrol")
    if number is None or program is None:
        log.warning("There is no scontrol here: job %s is not put back into the queue.", number)
        return
    try:
        done = subprocess.run(  # noqa: S603
            [program, "requeue", number], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as fault:
        log.warning("scontrol requeue %s: %s %s", number, fault, getattr(fault, "stderr", None) or "")
    else:
        log.warning("Job %s is back in the queue, and goes on from last.ckpt. %s", number, done.stdout.strip())
