"""A process that has imported everything and forks runs from itself, so that twenty starts cost no imports.

It reads a line of JSON, a list of runs to start at once, and answers with one: of each the exit code, negative for a
signal, and the seconds.  Of a run it is told

config, folder  what to run, and where.
log             the file that takes what it prints.
kill            null, a number of seconds after which the run is killed from outside, or the name of a place in
                tests/dying.py where it kills itself.
rank            null, or its number among the processes of one run; ``environment`` is what it needs to meet them, and
                ``limit`` the seconds after which one that waits for another in vain ends itself.
collectives     null, or the file that takes what it asks of the others (tests/collectives.py).
goes_on         whether a run that is interrupted goes on in the same process, until it has ended.
"""

import importlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

import tl_lightning.run
from tests import collectives, dying
from tl_lightning import bootstrap
from tl_lightning.errors import UserError
from tl_lightning.interrupt import Interrupted

LATE = ("pandas", "peft", "sklearn.datasets", "wandb")  # what a run imports on its way, some of them for seconds


def _child(asked: dict[str, Any]) -> None:
    """The run, and the end of the process."""
    with Path(asked["log"]).open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if isinstance(asked["kill"], str):
        dying.install(asked["kill"])
    if asked.get("rank") is not None:
        _join(asked)
    try:
        _run(asked["config"], Path(asked["folder"]), asked.get("goes_on", False))
    except UserError as fault:
        print(fault, flush=True)
        os._exit(2)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _join(asked: dict[str, Any]) -> None:
    """Be one of several.  Lightning looked for its rank when it was imported; the folder is told by the first one."""
    signal.alarm(asked["limit"])
    os.environ.update(asked["environment"])
    rank_zero_only.rank = asked["rank"]  # type: ignore[attr-defined]
    if asked["rank"]:
        os.environ["TL_LIGHTNING_RUN_DIR"] = asked["folder"]
    if asked["collectives"]:
        collectives.record(Path(asked["collectives"]))


def _run(config: dict[str, Any], folder: Path, goes_on: bool) -> None:
    try:
        tl_lightning.run.run(config, folder)
    except Interrupted:
        if not goes_on:
            raise
        _run({**config, "resume": str(folder)}, folder, goes_on)


def _started(asked: dict[str, Any]) -> tuple[int, threading.Timer | None]:
    pid = os.fork()
    if not pid:
        _child(asked)
    if not isinstance(asked["kill"], float):
        return pid, None
    timer = threading.Timer(asked["kill"], os.kill, (pid, signal.SIGKILL))
    timer.start()
    return pid, timer


def _ended(pid: int, timer: threading.Timer | None) -> int:
    _, status = os.waitpid(pid, 0)
    if timer is not None:
        timer.cancel()
        timer.join()
    return os.waitstatus_to_exitcode(status)


def main() -> None:
    for name in LATE:
        importlib.import_module(name)
    bootstrap.FEWEST = bootstrap.RESAMPLES = 5
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        start = time.monotonic()
        started = [_started(asked) for asked in json.loads(line)]
        answers.write(json.dumps([(_ended(*one), time.monotonic() - start) for one in started]) + "\n")


if __name__ == "__main__":
    main()
