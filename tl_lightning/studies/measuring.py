"""The metrics of each run on one test set, and the same in resamples of its examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tl_lightning.errors import UserError
from tl_lightning.example_interval import imbalance
from tl_lightning.studies.outcomes import Array, Outcomes, read_outcomes, same_examples
from tl_lightning.studies.reading import Run
from tl_lightning.studies.resampling import how_many, resampled
from tl_lightning.studies.scoring import SCORERS, SLOW, values
from tl_lightning.studies.spread import Arm

KNOWN = ("MultiClass", "MultiLabel", "Regression")  # objectives whose metrics are defined here too
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Measured:
    """Metrics of R runs: values (R,), and values in B resamples of the N examples (R, B), or (R, 0).

    ``imbalance`` is that of the classes, see ``example_interval``.
    """

    examples: int
    place: dict[Path, int]
    values: dict[str, Array]
    draws: dict[str, Array]
    imbalance: float = 1.0

    def arm(self, metric: str, runs: Sequence[Run]) -> Arm:
        """The repetitions ``runs``."""
        at = [self.place[run.folder] for run in runs]
        return Arm(self.values[metric][at], self.draws[metric][at])


def measured(runs: Sequence[Run], main: Sequence[str], notes: list[str]) -> Measured:
    """Measure ``runs``, all on one test set, by every metric they share.

    Metrics come from the stored predictions; where none of the runs has any, or the objective is not one of this
    package, from the records alone, without resamples.

    Args:
        runs: on one test set.
        main: metrics to resample even if that takes long.
        notes: told what was left out.

    Raises:
        UserError: the runs were tested on different examples or classes, or none is left.
    """
    outcomes = _outcomes(runs, notes)
    kept = [run for run in runs if not outcomes or run.folder in outcomes]
    if not kept:
        raise UserError("No run with readable predictions is left:\n  " + "\n  ".join(notes))
    first = kept[0]
    names = [name for name in first.metrics() if all(name in run.metrics() for run in kept)]
    found = {name: np.array([run.metrics()[name] for run in kept]) for name in names}
    draws = {name: np.empty((len(kept), 0)) for name in names}
    uneven = 1.0
    examples = len(outcomes[first.folder]) if outcomes else int(first.fact("data", "rows", "test") or 0)
    if outcomes:
        count = how_many(examples, len(kept))
        listed = [outcomes[run.folder] for run in kept]
        drawn = [n for n in names if n in SCORERS[listed[0].kind] and (n not in SLOW or n in main)]
        draws |= resampled(drawn, listed, count)
        uneven = imbalance(listed[0].class_counts, examples)
    return Measured(examples, {run.folder: at for at, run in enumerate(kept)}, found, draws, uneven)


def _outcomes(runs: Sequence[Run], notes: list[str]) -> dict[Path, Outcomes]:
    """Predictions by folder of the runs that have sound ones."""
    if any(str(run.config.get("objective._target_")).rpartition(".")[2] not in KNOWN for run in runs):
        notes.append("the objective is not one of this package: intervals over test examples are not known")
        return {}
    found, faults = {}, []
    for run in runs:
        try:
            found[run.folder] = _sound(run)
        except UserError as fault:
            faults.append(f"left out: {fault}")
    if found:
        _refuse_other_examples(found)
        notes += faults
    else:
        notes.append(f"no run has readable predictions, so intervals over test examples are not known: {faults[0]}")
    return found


def _sound(run: Run) -> Outcomes:
    """The predictions of a run, if they give the numbers of its record."""
    outcomes = read_outcomes(run.folder)
    recorded = run.metrics()
    known = [name for name in recorded if name in SCORERS[outcomes.kind] and name not in SLOW]
    for name, again in values(outcomes, known).items():
        if abs(again - recorded[name]) > TOLERANCE * max(1.0, abs(recorded[name])):
            raise UserError(
                f"{outcomes.path} does not belong to its record: {name} is {again:.4f} by the one and"
                f" {recorded[name]:.4f} by the other"
            )
    return outcomes


def _refuse_other_examples(found: dict[Path, Outcomes]) -> None:
    (first, outcomes), *others = found.items()
    for folder, other in others:
        if other.classes != outcomes.classes or other.kind != outcomes.kind:
            a, b = (", ".join(one.classes[:6]) or one.kind for one in (outcomes, other))
            raise UserError(f"{first} and {folder} tell different classes apart ({a}; {b}) and cannot be compared")
        if not same_examples(outcomes, other):
            raise UserError(f"{first} and {folder} were tested on different examples and cannot be compared")
