"""The settings of a search: ``hydra.sweeper.*`` once ``hydra/sweeper=search`` is chosen, as ``+search=NAME`` does."""

from dataclasses import dataclass, field
from typing import Any

from tl_lightning.errors import UserError
from tl_lightning.values import nearest

PLUGIN = "hydra_plugins.tl_lightning"  # Hydra takes plugins from this package alone
SAMPLERS = ("tpe", "random", "grid", "cmaes", "nsga2")
PRUNERS = ("median", "hyperband")
QUALITY = "quality"
HISTORY, IMPORTANCE = "history.csv", "importance.json"  # in the folder of a search
COSTS = ("seconds", "parameters", "memory")


@dataclass
class Settings:
    """A search over configurations.

    Args:
        params: the space, each key with what Hydra's sweep syntax takes, such as ``tag(log, interval(1e-5, 1e-3))``,
            ``range(1, 5)`` or ``choice(a, b)``.
        study: its name; by default made from the configuration and the space, so that the same command goes on.
        storage: an Optuna storage: a URL, or a file ending in ``.journal`` for file systems without locks for SQLite;
            by default ``study.db`` in the study's folder.
        sampler: ``tpe``, ``random``, ``grid`` (every combination), ``cmaes`` or ``nsga2``.
        pruner: ``median``, ``hyperband``, or null.
        startup_trials: finished trials before the median prunes.
        n_trials: of the whole study, in all processes together.
        n_jobs: trials handed to the launcher at once.
        objectives: what is sought: ``quality`` (``objective.monitor`` on val), ``seconds`` of training, trained
            ``parameters``, peak ``memory`` in bytes, or a metric such as ``val/f1``.
        seed: of the sampler; a trial's draw depends on it and on its number.
        trial: the number of a job's trial; not for you to set.
    """

    _target_: str = f"{PLUGIN}.Search"
    params: dict[str, Any] = field(default_factory=dict)
    study: str | None = None
    storage: str | None = None
    sampler: str = "tpe"
    pruner: str | None = None
    startup_trials: int = 5
    n_trials: int = 20
    n_jobs: int = 1
    objectives: list[str] = field(default_factory=lambda: [QUALITY])
    seed: int = 0
    trial: int | None = None

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            UserError: names each such setting and what it takes.
        """
        faults = [*self._words(), *self._numbers(), *self._goals()]
        if faults:
            raise UserError("The search has a fault:\n" + "\n".join(f"  hydra.sweeper.{fault}" for fault in faults))

    def _words(self) -> list[str]:
        faults = []
        if self.sampler not in SAMPLERS:
            faults.append(f"sampler={self.sampler}: there is no such sampler{nearest(self.sampler, SAMPLERS)}")
        if self.pruner is not None and self.pruner not in PRUNERS:
            faults.append(f"pruner={self.pruner}: there is no such pruner{nearest(self.pruner, PRUNERS)}")
        return faults

    def _numbers(self) -> list[str]:
        numbers = {"n_trials": self.n_trials, "n_jobs": self.n_jobs}
        faults = [f"{name}={value}: at least 1 is expected" for name, value in numbers.items() if value < 1]
        least = {"startup_trials": self.startup_trials, "seed": self.seed}
        return faults + [f"{name}={value}: 0 or more is expected" for name, value in least.items() if value < 0]

    def _goals(self) -> list[str]:
        known = (QUALITY, *COSTS)
        faults = [
            f"objectives: {goal} is none; one is {', '.join(known)} or a metric on val, such as val/f1"
            + (" (nothing is ever selected on test)" if goal.startswith("test/") else "")
            for goal in self.objectives
            if goal not in known and not goal.startswith("val/")
        ]
        if not self.objectives:
            faults.append(f"objectives=[]: at least one of {', '.join(known)} is expected")
        if len(self.objectives) > 1 and self.pruner is not None:
            faults.append(f"pruner={self.pruner}: with several objectives nothing can be pruned; pruner=null")
        if len(self.objectives) > 1 and self.sampler == "cmaes":
            faults.append("sampler=cmaes: it takes one objective; tpe and nsga2 take several")
        return faults
