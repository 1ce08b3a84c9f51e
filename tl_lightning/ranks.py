"""The processes of one run: how many there are, what fails on all of them alike, and whether all of them ended well."""

import subprocess
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from tl_lightning.errors import first_line
from tl_lightning.signals import Interrupted, ended_by

T = TypeVar("T")
PATIENCE_S = 60.0  # the other processes end within seconds of the first one


def processes(trainer: Mapping[str, Any]) -> int:
    """How many processes a trainer's settings ask for.

    Args:
        trainer: the node of a checked configuration.
    """
    devices, accelerator = trainer.get("devices", "auto"), trainer.get("accelerator", "auto")
    nodes = int(trainer.get("num_nodes") or 1)
    if isinstance(devices, (list, tuple)):
        return len(devices) * nodes
    if isinstance(devices, str) and devices != "auto" and not devices.lstrip("-").isdigit():
        return len([word for word in devices.split(",") if word.strip()]) * nodes
    if devices in ("auto", "-1", -1):
        return _all_devices(str(accelerator)) * nodes
    return int(devices) * nodes


def _all_devices(accelerator: str) -> int:
    return max(1, torch.cuda.device_count()) if accelerator in ("auto", "gpu", "cuda") else 1


class SharedError(Exception):
    """What one process of a run could not do, raised on all of them, so that they go on in the same way."""


def together(trainer: Any, do: Callable[[], T]) -> T:
    """What ``do`` gives; it talks to no other process.

    Raises:
        SharedError: it failed on one of the processes.
    """
    made: list[T] = []
    own: Exception | None = None
    try:
        made.append(do())
    except Exception as fault:
        own = fault
    if trainer.strategy.reduce_boolean_decision(own is not None, all=False):
        why = "another process of this run could not do it, and says why"
        raise SharedError(why if own is None else f"{type(own).__name__}: {first_line(own)}") from own
    return made[0]


class Others:
    """The processes that the first one of a run has started.

    Lightning's observer kills the first process, without a word, where another one fails; from here on it has
    nothing to look at, and ``wait`` tells.
    """

    def __init__(self, trainer: Any) -> None:
        started: list[subprocess.Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
        self._processes = list(started)
        started.clear()

    def wait(self) -> None:
        """Wait for their end.

        Raises:
            RuntimeError: one of them failed, or does not end.
            Interrupted: one of them was ended by a signal, as this one may be in a moment.
        """
        for rank, process in enumerate(self._processes, start=1):
            try:
                code = process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise RuntimeError(f"process {rank} of this run did not end and was killed") from None
            signum = ended_by(code)
            if signum is not None:
                raise Interrupted(signum)
            if code:
                raise RuntimeError(f"process {rank} of this run failed with exit code {code}; its own message says why")
