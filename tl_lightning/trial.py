"""Runs that only try something: their numbers are those of some test rows, or of weights that nothing has selected."""

from collections.abc import Mapping
from typing import Any


def trial_words(trainer: Mapping[str, Any]) -> list[str]:
    """The words of a trainer's node that make a run a trial; none for a run whose numbers count.

    In a share and in a number of batches 1.0 and 1 are two things: all of them, and one.
    """
    asked = {
        "fast_dev_run": bool(trainer.get("fast_dev_run")),
        "overfit_batches": bool(trainer.get("overfit_batches")),
        "limit_val_batches": trainer.get("limit_val_batches") == 0,
        "limit_test_batches": not _all(trainer.get("limit_test_batches")),
    }
    return [f"trainer.{name}={_typed(trainer[name])}" for name, is_so in asked.items() if is_so]


def _all(limit: Any) -> bool:
    return limit is None or (isinstance(limit, float) and limit >= 1)


def _typed(value: Any) -> str:
    return str(value).lower()
