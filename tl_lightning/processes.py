"""Which process a record means, and whether it lives: by its number and its beginning, since numbers come again."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BOOT = Path("/proc/sys/kernel/random/boot_id")
STATE, SINCE = 0, 19  # among the fields of /proc/PID/stat that follow the name: see proc(5)


def this_process() -> dict[str, Any]:
    """Where this process runs, its number, and its beginning where the system tells it."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": beginning(os.getpid())}


def beginning(pid: int) -> str | None:
    """The start of the system and, in ticks after it, of a process; None where neither is told."""
    fields = _fields(pid)
    try:
        return f"{BOOT.read_text().strip()} {fields[SINCE]}" if fields else None
    except OSError:
        return None


def lives(process: Mapping[str, Any]) -> bool:
    """Whether a process lives; only known on the machine where it runs, and False for this process itself."""
    if process.get("host") != socket.gethostname():
        return False
    try:
        pid = int(process["pid"])
        os.kill(pid, 0)
    except (ProcessLookupError, ValueError, TypeError, KeyError, OverflowError):
        return False
    except PermissionError:  # somebody else's process
        pass
    fields, since = _fields(pid), process.get("since")
    if fields and fields[STATE] in "ZX":  # ended, and its parent has not asked yet
        return False
    return pid != os.getpid() and (since is None or since == beginning(pid))


def _fields(pid: int) -> list[str]:
    """The fields of a process after its name, which may hold spaces; none where the system does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
