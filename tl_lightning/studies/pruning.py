"""How a search draws and prunes: samplers, pruners, and the judge inside a trial's run."""

import logging
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, CmaEsSampler, NSGAIISampler, RandomSampler, TPESampler

from tl_lightning.errors import UserError
from tl_lightning.studies.storage import opened

log = logging.getLogger(__name__)


def sampler(kind: str, seed: int) -> BaseSampler:
    """A sampler (``grid`` draws nothing: its trials are known from the start).

    Raises:
        UserError: CMA-ES is not installed.
    """
    if kind == "tpe":
        return TPESampler(seed=seed)
    if kind == "nsga2":
        return NSGAIISampler(seed=seed)
    if kind == "cmaes":
        if find_spec("cmaes") is None:
            raise UserError("hydra.sweeper.sampler=cmaes needs cmaes: pip install 'tl_lightning[sweep]'")
        return CmaEsSampler(seed=seed, warn_independent_sampling=False)
    return RandomSampler(seed=seed)


def pruner(kind: str | None, startup_trials: int, epochs: int) -> BasePruner:
    """A pruner over the validations of a run.

    Args:
        kind: ``median`` (worse than half of the others at the same validation) or ``hyperband`` (Li et al., 2018).
        startup_trials: finished trials before the median prunes.
        epochs: of a whole run, or -1 where that is not known.
    """
    if kind == "median":
        return MedianPruner(n_startup_trials=startup_trials)
    if kind == "hyperband":
        return HyperbandPruner(max_resource=epochs if epochs > 0 else "auto")
    return NopPruner()


def judge(trial: Mapping[str, Any], epochs: int) -> Callable[[int, float], bool]:
    """What ``Pruning`` asks: reports a validation to the study and says whether its pruner ends the trial.

    A storage that cannot be reached never stops a training.

    Args:
        trial: the settings of the search, with the number of the trial.
        epochs: of a whole run, or -1 where that is not known.
    """
    handles: list[optuna.trial.Trial] = []

    def hopeless(validation: int, value: float) -> bool:
        try:
            if not handles:
                handles.append(_handle(trial, epochs))
            handles[0].report(value, validation)
            return handles[0].should_prune()
        except Exception as fault:
            log.warning("the study cannot be asked whether to prune (%s): the trial goes on", fault)
            return False

    return hopeless


def _handle(trial: Mapping[str, Any], epochs: int) -> optuna.trial.Trial:
    study = optuna.load_study(
        study_name=trial["study"],
        storage=opened(trial["storage"]),
        sampler=RandomSampler(),
        pruner=pruner(trial["pruner"], trial["startup_trials"], epochs),
    )
    found = study.get_trials(deepcopy=False)[trial["trial"]]
    return optuna.trial.Trial(study, found._trial_id)
