"""What a search leaves in its folder: history.csv, importance.json, and the best in words."""

import csv
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from tl_lightning.files import aside
from tl_lightning.record import write_json
from tl_lightning.report import aligned
from tl_lightning.shown import csv_row
from tl_lightning.studies.settings import HISTORY, IMPORTANCE
from tl_lightning.studies.takeover import replaced

log = logging.getLogger(__name__)

FEWEST = 4  # complete trials before importances say anything
KNOWN = ("trial", "state")
TIMES = ("seconds", "folder")


def write(study: optuna.Study, folder: Path, objectives: Sequence[str], importance: bool = False) -> None:
    """Write ``history.csv``, one row per trial, and on request ``importance.json``.

    ``history.csv`` has the columns trial, state, one per objective, one per parameter, seconds, folder; a trial that
    another one took over is left out.  ``importance.json`` gives each objective the share of each parameter in the
    variance of its values (fANOVA, Hutter et al., 2014), the largest first.

    Args:
        study: of Optuna's.
        folder: of the study.
        objectives: their names, in the study's order.
        importance: whether to write that too.
    """
    trials = _own(study)
    params = sorted({key for trial in trials for key in trial.params})
    with aside(folder / HISTORY) as beside, beside.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*KNOWN, *objectives, *(key.lstrip("+") for key in params), *TIMES])
        rows.writerows(csv_row(_row(trial, params, len(objectives))) for trial in trials)
    if importance:
        write_json(folder / IMPORTANCE, _importances(study, objectives))


def _own(study: optuna.Study) -> list[FrozenTrial]:
    trials = study.get_trials(deepcopy=False)
    gone = replaced(trials)
    return [trial for trial in trials if trial.number not in gone and trial.state != TrialState.WAITING]


def _row(trial: FrozenTrial, params: Sequence[str], objectives: int) -> list[Any]:
    values = trial.values or [""] * objectives
    seconds = round(trial.duration.total_seconds(), 1) if trial.duration else ""
    chosen = [trial.params.get(key, "") for key in params]
    return [trial.number, trial.state.name.lower(), *values, *chosen, seconds, trial.user_attrs.get("folder", "")]


def _importances(study: optuna.Study, objectives: Sequence[str]) -> dict[str, dict[str, float]]:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < FEWEST:
        return {}
    found = {}
    for place, objective in enumerate(objectives):
        try:
            shares = get_param_importances(
                study, evaluator=FanovaImportanceEvaluator(seed=0), target=partial(_at, place)
            )
        except (ValueError, RuntimeError, ImportError) as fault:
            log.info("no importances for %s: %s", objective, fault)
            continue
        found[objective] = {key.lstrip("+"): share for key, share in shares.items()}
    return found


def _at(place: int, trial: FrozenTrial) -> float:
    return float(trial.values[place])


def best(study: optuna.Study, objectives: Sequence[str]) -> str:
    """The best trial, or the trials that no other one beats in all objectives, in words."""
    found = study.best_trials if len(objectives) > 1 else [study.best_trial]
    head = "best trial" if len(found) == 1 else "trials that no other one beats in every objective"
    rows = [
        (
            str(trial.number),
            " ".join(f"{key.lstrip('+')}={value}" for key, value in trial.params.items()),
            trial.user_attrs.get("folder", ""),
            *(f"{name} {value:.6g}" for name, value in zip(objectives, trial.values, strict=True)),
        )
        for trial in found
    ]
    return f"{head}\n{aligned(rows, left=3)}"
