"""What a search seeks: the direction of an objective, and its value in a run."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tl_lightning.objectives import mode
from tl_lightning.record import read_record
from tl_lightning.studies.jobs import Done
from tl_lightning.studies.settings import QUALITY


def direction(goal: str, monitor: str) -> Literal["minimize", "maximize"]:
    """Whether an objective is to be small or large, in Optuna's words.

    Args:
        goal: an objective.
        monitor: the metric that selects, without its stage.
    """
    metric = monitor if goal == QUALITY else goal.removeprefix("val/")
    best = mode(metric) if goal == QUALITY or goal.startswith("val/") else "min"
    return "maximize" if best == "max" else "minimize"


def measured(objectives: Sequence[str], done: Done) -> list[float] | None:
    """The value of each objective; None where one of them is no number."""
    record = read_record(done.folder)
    found = [done.value if goal == QUALITY else _value(record, goal) for goal in objectives]
    numbers = [float("nan") if value is None else float(value) for value in found]
    return numbers if all(map(math.isfinite, numbers)) else None


def _value(record: Mapping[str, Any], goal: str) -> float | None:
    memory = record.get("peak_memory_bytes") or {}
    costs = {
        "seconds": (record.get("durations") or {}).get("fit"),
        "parameters": (record.get("parameters") or {}).get("trained"),
        "memory": memory.get("gpu", memory.get("host")),
    }
    return costs[goal] if goal in costs else (record.get("metrics") or {}).get(goal)
