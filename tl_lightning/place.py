"""The run directory of a command: a new one, or one that it goes on with; held against other processes."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_lightning import tracking
from tl_lightning.claim import Claim
from tl_lightning.errors import UserError
from tl_lightning.meeting import meeting
from tl_lightning.record import RECORD
from tl_lightning.resume import resumed_run

RUN_DIR = "TL_LIGHTNING_RUN_DIR"  # set by the first process of a run for those it starts
MOST_BESIDE = 1000


class Place:
    """The run directory of a command.  The first process chooses, and the others of the run follow it.

    Args:
        config: of the run.
        folder: for a new run; another one beside it is taken if a run stands there already.

    Raises:
        UserError: ``resume`` names what cannot be resumed, or all folders are taken.
    """

    def __init__(self, config: Mapping[str, Any], folder: Path) -> None:
        self._claim: Claim | None = None
        self._before = os.environ.get(RUN_DIR)
        self._meeting = meeting(config)
        self.folder, self.resumed = self._chosen(config, folder)
        os.environ[RUN_DIR] = str(self.folder.resolve())

    def _chosen(self, config: Mapping[str, Any], folder: Path) -> tuple[Path, bool]:
        if not tracking.first_rank():
            return self._followed(config, folder)
        found = resumed_run(config)
        self._claim = found or new_run(folder)
        if self._meeting is not None:
            self._meeting.tell(self._claim.folder, found is not None)
        return self._claim.folder, found is not None

    def _followed(self, config: Mapping[str, Any], folder: Path) -> tuple[Path, bool]:
        if RUN_DIR in os.environ:  # the first process has started this one
            return Path(os.environ[RUN_DIR]), config["resume"] is not None
        if self._meeting is not None:
            return self._meeting.told()
        folder.mkdir(parents=True, exist_ok=True)
        return folder, False

    def known(self) -> None:
        """All processes of the run know it."""
        if self._meeting is not None and tracking.first_rank():
            self._meeting.over()

    def leave(self) -> None:
        """The run has ended, one way or another: what this process starts from now on is not of it."""
        self.known()
        os.environ.pop(RUN_DIR, None)
        if self._before is not None:
            os.environ[RUN_DIR] = self._before
        if self._claim is not None:
            self._claim.release()


def new_run(folder: Path) -> Claim:
    """Make the run directory, or one beside it if another run has just taken it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, MOST_BESIDE):
        own = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        try:
            own.mkdir(exist_ok=True)
            (own / RECORD).open("x").close()
        except FileExistsError:
            continue
        return Claim(own)
    raise UserError(f"{folder} and {MOST_BESIDE} folders beside it are taken")
