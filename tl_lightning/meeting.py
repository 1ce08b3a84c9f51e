"""How processes that were started from outside, by srun or torchrun, come to the same run directory."""

import json
import os
import re
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tl_lightning import slurm
from tl_lightning.errors import UserError
from tl_lightning.processes import beginning
from tl_lightning.record import write_text
from tl_lightning.run_files import NOTE_BOUND, read_json

MEETINGS = ".meetings"  # in the output directory
WAIT_S, LOOK_S = 300.0, 0.2


class Meeting:
    """A file by which the first process tells the others which run directory it has chosen.

    Each by itself might choose another one: another second in its name, or a run that the first has just claimed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def tell(self, folder: Path, resumed: bool) -> None:
        """Called by the first."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps([str(folder.resolve()), resumed]))

    def told(self) -> tuple[Path, bool]:
        """The run directory, and whether a run goes on there; waits for the first process to say so.

        Raises:
            UserError: it does not, or something else stands in its place.
        """
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            with suppress(FileNotFoundError):
                return _place(read_json(self.path, NOTE_BOUND), self.path)
            time.sleep(LOOK_S)
        raise UserError(
            f"The first process has not said within {WAIT_S:.0f} s in {self.path} where this run stands: it failed"
            " (its own message says why), or output_dir is no folder that all nodes share"
        )

    def over(self) -> None:
        """All know it: a later command of the same start begins anew."""
        self.path.unlink(missing_ok=True)
        with suppress(OSError):
            self.path.parent.rmdir()


def _place(told: Any, path: Path) -> tuple[Path, bool]:
    match told:
        case [str(folder), bool(resumed)]:
            return Path(folder), resumed
    raise UserError(f"{path} does not name a run directory: remove it, and start the processes again")


def meeting(config: Mapping[str, Any]) -> Meeting | None:
    """Where the processes of this start meet; None where there is one alone, or Lightning starts the others."""
    name = _of_torchrun() or _of_srun()
    return Meeting(Path(config["output_dir"], MEETINGS, re.sub(r"[^\w.-]", "_", name))) if name else None


def _of_srun() -> str | None:
    """A name for this step that no other one has: a job that is put back into the queue counts its starts."""
    number = slurm.job()
    if number is None or int(os.environ["SLURM_NTASKS"]) < 2 or "SLURM_PROCID" not in os.environ:
        return None
    known = os.environ.get
    return f"srun-{number}-{known('SLURM_STEP_ID', '0')}-{known('SLURM_RESTART_COUNT', '0')}"


def _of_torchrun() -> str | None:
    """A name for this start: on one node the agent is the parent of all, on several the user names it."""
    known = os.environ.get
    given, again = known("TORCHELASTIC_RUN_ID"), known("TORCHELASTIC_RESTART_COUNT", "0")
    if given is None or int(known("WORLD_SIZE", "1")) < 2:
        return None
    if known("GROUP_WORLD_SIZE", "1") == "1":
        given = f"{socket.gethostname()}-{os.getppid()}-{beginning(os.getppid())}"
    return None if given == "none" else f"torchrun-{given}-{again}"
