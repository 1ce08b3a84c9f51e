"""The run record: what was run, on what, and what came out."""

import json
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_lightning.errors import UserError
from tl_lightning.files import aside
from tl_lightning.origin import code, git_state, versions
from tl_lightning.processes import lives, this_process
from tl_lightning.recorded import RUNNING, record_in
from tl_lightning.redact import redacted, redacted_word

RECORD, CONFIG = "run.json", "config.yaml"
PROGRAMS = ("tl_lightning", "tl-lightning")
COMMAND = "TL_LIGHTNING_COMMAND"  # set by a multirun for the processes of its jobs
# What a record says in words of its own, which a secret that is a word like them must not blot out.
OWN = frozenset(
    {
        *("status", "seed", "started", "resumed", "ended", "durations", "process", "host", "device", "precision"),
        *("versions", "code", "git", "identity", "choices", "metrics", "intervals", "selected_by"),
    }
)


def write_text(path: Path, text: str) -> None:
    """Write so that a reader never sees half a file."""
    with aside(path) as beside:
        beside.write_text(text)


def write_json(path: Path, content: Any) -> None:
    """Write JSON as ``write_text`` does."""
    text = json.dumps(_valid(content), indent=2, ensure_ascii=False, default=str, allow_nan=False) + "\n"
    write_text(path, text.encode(errors="backslashreplace").decode())  # half a character, as a file's name may have


def _valid(content: Any) -> Any:
    """The same with null for NaN and infinity, for which JSON has no word."""
    if isinstance(content, Mapping):
        return {key: _valid(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_valid(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


class Record:
    """``run.json`` of one run, written at the start and whenever something is known.

    Args:
        folder: the run directory.
        known: what is known before anything is built (name, seed, ...).
        resumed: go on with the record that stands there.
        writes: False on all processes of a run but the first.
    """

    def __init__(self, folder: Path, known: Mapping[str, Any], resumed: bool = False, writes: bool = True) -> None:
        self.path = folder / RECORD
        self.writes = writes
        self.started = time.time()
        earlier = _earlier(folder) if resumed else {}
        self.content: dict[str, Any] = {
            **earlier,
            "status": RUNNING,
            **known,
            "started": earlier.get("started", _timestamp(self.started)),
            "resumed": [*earlier.get("resumed", []), _timestamp(self.started)] if resumed else [],
            "command": typed_command(),
            "git": git_state(),  # the user's repository, where there is one
            "code": code(),
            "versions": versions(),
            "process": this_process(),
            "host": {
                "platform": platform.platform(),
                "python": platform.python_version(),
                "cpus": os.cpu_count(),
            },
            "durations": earlier.get("durations", {}),
        }

    def add(self, **facts: Any) -> None:
        """Add facts and write."""
        self.content.update(facts)
        if self.writes:
            write_json(self.path, redacted(self.content, OWN))

    def add_duration(self, name: str, seconds: float) -> None:
        """Add seconds to a part of the run; parts done before a resume count."""
        durations = self.content["durations"]
        durations[name] = round(durations.get(name, 0.0) + seconds, 3)

    def end(self, status: str, **facts: Any) -> None:
        """Close the record as finished, failed or interrupted."""
        self.add_duration("total", time.time() - self.started)
        self.add(status=status, ended=_timestamp(time.time()), **facts)


def _earlier(folder: Path) -> dict[str, Any]:
    """The record that a resumed run goes on with; nothing where it is damaged, which is told when it is found."""
    try:
        return read_record(folder)
    except UserError:
        return {}


def read_record(folder: Path) -> dict[str, Any]:
    """The record of the run in ``folder``; its facts are of the kinds that a record has.

    Raises:
        UserError: there is none, or it cannot be read; in one line.
    """
    try:
        return record_in(folder / RECORD)
    except FileNotFoundError:
        raise UserError(f"{folder} is no run directory: it holds no {RECORD}") from None


def still_runs(record: Mapping[str, Any]) -> bool:
    """Whether the process of a record that says ``running`` lives; only known on the machine where it runs."""
    return record.get("status") == RUNNING and lives(record.get("process") or {})


def _timestamp(seconds: float) -> str:
    """In UTC: runs of one folder may be of several time zones."""
    return time.strftime("%Y-%m-%dT%H:%M:%S+0000", time.gmtime(seconds))


def typed_command() -> str:
    """The command as typed, in the processes that it starts too."""
    return os.environ.get(COMMAND) or _command()


def _command() -> str:
    """The words of this process's command; what looks like a secret is left out."""
    typed = sys.orig_argv  # sys.argv holds what Hydra was given
    start = next((i for i, word in enumerate(typed) if Path(word).name in PROGRAMS), len(typed))
    words = ["python -m tl_lightning" if "-m" in typed[:start] else "tl-lightning"]
    return " ".join([*words, *map(redacted_word, typed[start + 1 :])])


def peak_memory_bytes() -> dict[str, int]:
    """The most memory this process has held so far: on the host, and on the GPU if torch has used one."""
    peak = {"host": _peak_resident()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        peak["gpu"] = int(torch.cuda.max_memory_allocated())
    return peak


def _peak_resident() -> int:
    """Bytes.  What getrusage says on Linux is no less than what the process that started this one held then."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    unit = 1 if sys.platform == "darwin" else 1024
    return found[0] if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
