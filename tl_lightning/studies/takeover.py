"""Trials that their process has left: found out, and put back to go on."""

import logging
import os
import socket
import time
from collections.abc import Iterable

import optuna
from optuna.trial import FrozenTrial, TrialState

log = logging.getLogger(__name__)

SILENT_S = 120.0  # without a beat, after which a process elsewhere counts as gone
MOST_DEATHS = 3  # a trial that ends its process again and again is given up
HISTORY, DEATHS = "retry_history", "deaths"


def dead(trial: FrozenTrial) -> bool:
    """Whether the process that runs a trial is gone: seen at once on its own machine, else by its silence."""
    known = trial.user_attrs
    started = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    if time.time() - known.get("beat", started) > SILENT_S:
        return True
    if known.get("host") != socket.gethostname() or "pid" not in known:
        return False
    try:
        os.kill(known["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def put_back(study: optuna.Study, trial: FrozenTrial, died: bool) -> None:
    """Mark a running trial as failed, and queue its parameters again.

    Args:
        study: of the trial.
        trial: that nobody runs any more.
        died: with its process; too many times, and it is not queued again.
    """
    deaths = trial.system_attrs.get(DEATHS, 0) + died
    if not study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL):
        return
    if deaths > MOST_DEATHS:
        log.warning("trial %s has ended its process %s times and is given up", trial.number, deaths)
        return
    known = {**trial.system_attrs, HISTORY: [*trial.system_attrs.get(HISTORY, []), trial.number], DEATHS: deaths}
    study.add_trial(
        optuna.trial.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            system_attrs=known,
            intermediate_values=trial.intermediate_values,
        )
    )


def replaced(trials: Iterable[FrozenTrial]) -> set[int]:
    """The numbers of the trials that others, put back, stand for."""
    return {number for trial in trials for number in trial.system_attrs.get(HISTORY, [])}
