"""How much memory is free for this process."""

import os
from pathlib import Path

GIB = 1 << 30
_MEMINFO = Path("/proc/meminfo")
_LIMITS = (  # of the control group a container runs in: the limit, and what is used
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def free_memory() -> int:
    """Bytes that can be had without swapping, as the machine and the container see it."""
    return min([_of_the_machine(), *(_left(Path(limit), Path(used)) for limit, used in _LIMITS)])


def _of_the_machine() -> int:
    if _MEMINFO.is_file():
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    # Elsewhere only the whole is known; half of it is a fair guess.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _left(limit: Path, used: Path) -> int:
    try:
        return max(0, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):  # no such group, or "max": no limit
        return 1 << 62
