"""One process at a time writes a run directory: a lock on it, which ends with its process however that ends."""

import fcntl
import os
import time
from pathlib import Path

LOOK_S = 0.2


class Claim:
    """A lock on a folder; ``held`` says whether it was to be had.

    On the folder itself: no file is left over.  A file system without locks gives every claim.

    Args:
        folder: an existing one.
        patience: seconds to wait for it.  The workers of a killed process keep its lock until they notice.
    """

    def __init__(self, folder: Path, patience: float = 0.0) -> None:
        self.folder = folder
        self._handle: int | None = os.open(folder, os.O_RDONLY)
        self.held = self._taken(time.monotonic() + patience)
        if not self.held:
            self.release()

    def _taken(self, until: float) -> bool:
        assert self._handle is not None
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    return False
                time.sleep(LOOK_S)
            except OSError:
                return True
            else:
                return True

    def release(self) -> None:
        """Let others have it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
