"""Places at which a run kills itself with SIGKILL, for what a kill at a random moment hits rarely."""

import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import tl_lightning.run
from tl_lightning import callbacks, checkpoints, record, throughput, tracking
from tl_lightning.data import store
from tl_lightning.task import TransferTask


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before(owner: Any, name: str, number: int = 1, first: Callable[..., None] | None = None) -> None:
    """Die at the call ``number`` of a function, after ``first`` with its arguments."""
    original, calls = getattr(owner, name), [0]

    def dying(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            if first is not None:
                first(*args, **kwargs)
            die()
        return original(*args, **kwargs)

    setattr(owner, name, dying)


def _half_a_text(path: Path, text: str) -> None:
    path.with_name(path.name + ".tmp").write_text(text[: len(text) // 2])


def _half_a_checkpoint(checkpoint: dict[str, Any], file: Any) -> None:
    whole = io.BytesIO()
    torch.save(checkpoint, whole)
    file.write(whole.getvalue()[: whole.tell() // 2])
    file.flush()


def _half_a_line(self: tracking.Curves, metrics: dict[str, float], step: int) -> None:
    with self.path.open("a") as file:
        file.write(f"{step},0,train/lo")


def _between_the_renames() -> None:
    original = Path.replace

    def dying(self: Path, target: Path) -> Path:
        done = original(self, target)
        if Path(target).name == checkpoints.PREVIOUS:
            die()
        return done

    Path.replace = dying  # type: ignore[method-assign, assignment]


PLACES: dict[str, Callable[[], None]] = {
    "the run directory has only just been made": lambda: _before(tl_lightning.run, "write_config"),
    "half a configuration": lambda: _before(tl_lightning.run, "write_text", first=_half_a_text),
    "half a record": lambda: _before(record, "write_text", first=_half_a_text),
    "half a cache": lambda: _before(store.Writer, "finish"),
    "before the first step": lambda: _before(throughput.Throughput, "on_train_batch_start"),
    "half the first checkpoint": lambda: _before(checkpoints, "_write", first=_half_a_checkpoint),
    "in mid-epoch": lambda: _before(throughput.Throughput, "on_train_batch_start", 6),
    "half a line of the curves": lambda: _before(tracking.Curves, "log_metrics", 4, _half_a_line),
    "in validation": lambda: _before(TransferTask, "validation_step", 2),
    "half a later checkpoint": lambda: _before(checkpoints, "_write", 2, _half_a_checkpoint),
    "the best is saved and the last is not": lambda: _before(callbacks.Last, "_save"),
    "between the two renames": _between_the_renames,
    "between fit and test": lambda: _before(tl_lightning.run, "_average"),
    "in the test": lambda: _before(TransferTask, "test_step", 2),
    "between the predictions and the metrics": lambda: _before(tl_lightning.run, "write_json"),
    "results written, record not": lambda: _before(record.Record, "end"),
}


def install(name: str) -> None:
    PLACES[name]()
