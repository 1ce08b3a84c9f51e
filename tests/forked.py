"""A process that has imported everything and forks runs from itself, so that twenty starts cost no imports.

It reads a line of JSON, a list of runs to start at once (config, folder, log, kill), and answers with one: of each the
exit code, negative for a signal, and the seconds.  ``kill`` is null, a number of seconds after which the run is killed
from outside, or the name of a place in tests/dying.py where it kills itself.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import tl_lightning.run
from tests import dying
from tl_lightning import bootstrap
from tl_lightning.errors import UserError


def _child(asked: dict[str, Any]) -> None:
    """The run, and the end of the process."""
    with Path(asked["log"]).open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if isinstance(asked["kill"], str):
        dying.install(asked["kill"])
    try:
        tl_lightning.run.run(asked["config"], Path(asked["folder"]))
    except UserError as fault:
        print(fault, flush=True)
        os._exit(2)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


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
    bootstrap.FEWEST = bootstrap.RESAMPLES = 5
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        start = time.monotonic()
        started = [_started(asked) for asked in json.loads(line)]
        answers.write(json.dumps([(_ended(*one), time.monotonic() - start) for one in started]) + "\n")


if __name__ == "__main__":
    main()
