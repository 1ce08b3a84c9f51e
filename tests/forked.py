"""A process that has imported everything and forks runs from itself, so that twenty starts cost no imports.

It reads a line of JSON for each run (config, folder, log, kill) and answers with one: the exit code, negative for a
signal, and the seconds.  ``kill`` is null, a number of seconds after which the run is killed from outside, or the
name of a place in tests/dying.py where it kills itself.
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


def _killer(pid: int, seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, os.kill, (pid, signal.SIGKILL))
    timer.start()
    return timer


def main() -> None:
    bootstrap.FEWEST = bootstrap.RESAMPLES = 5
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        start = time.monotonic()
        pid = os.fork()
        if not pid:
            _child(asked)
        timer = _killer(pid, asked["kill"]) if isinstance(asked["kill"], float) else None
        _, status = os.waitpid(pid, 0)  # a child that is not waited for stays, and its record would say that it runs
        if timer is not None:
            timer.cancel()
            timer.join()
        answers.write(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - start]) + "\n")


if __name__ == "__main__":
    main()
