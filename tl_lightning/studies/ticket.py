"""What a job of a multirun is told beside its configuration."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from tl_lightning.callbacks import Pruning
from tl_lightning.config import OURS
from tl_lightning.errors import UserError
from tl_lightning.job import Job
from tl_lightning.studies.multirun import group

TICKET, PARENT = "TL_LIGHTNING_TICKET", "TL_LIGHTNING_PARENT"  # set for the processes of one job
GROUPS = ("backbone", "data", "strategy", "objective", "regularizer", "average")


@dataclass(frozen=True)
class Ticket:
    """Plain, so that it can be sent to the processes of a job.

    Args:
        tags: words for the tracker.
        overrides: what was typed beside the experiment, for the record.
        group: of the study, on the tracker; None for a run alone.
        trial: the settings of the search that the job belongs to, with the number of the trial.
        choices: the name chosen for each group.
    """

    tags: list[str]
    overrides: list[str]
    group: str | None = None
    trial: dict[str, Any] | None = None
    choices: dict[str, str | None] = field(default_factory=dict)

    def job(self, config: Mapping[str, Any]) -> Job:
        """How the run shows among others, with the callback that prunes it."""
        if self.group is None:
            return Job(choices=self.choices)
        kind: Literal["job", "trial"] = "job" if self.trial is None else "trial"
        callbacks = []
        if self.trial is not None and self.trial["pruner"] is not None:
            from tl_lightning.studies.pruning import judge

            epochs = int(config["trainer"].get("max_epochs") or -1)
            callbacks.append(Pruning(f"val/{config['objective']['monitor']}", judge(self.trial, epochs)))
        return Job(kind, self.group, callbacks, self.choices)

    def environment(self) -> dict[str, str]:
        """The variable that carries it."""
        return {TICKET: json.dumps(asdict(self))}


def ticket(multirun: bool) -> Ticket:
    """That of the job which Hydra runs now."""
    if os.environ.get(TICKET):
        return _handed_over(os.environ[TICKET])
    config = HydraConfig.get()
    typed = [word.lstrip("+") for word in config.overrides.task]
    typed = [word for word in typed if not word.startswith(("experiment=", "search=", "resume="))]
    chosen = config.runtime.choices
    choices = {group: name for group, name in chosen.items() if group in (*OURS, "regularizer")}
    tags = [f"{group}:{chosen[group]}" for group in GROUPS if chosen.get(group)]
    if not multirun:
        return Ticket(tags, typed, choices=choices)
    study = Path(config.sweep.dir)
    return Ticket(tags, typed, group(study), _trial(config.sweeper), choices)


def _handed_over(text: str) -> Ticket:
    try:
        return Ticket(**json.loads(text))
    except (TypeError, ValueError, RecursionError) as fault:
        raise UserError(f"{TICKET} in the environment is no ticket of a multirun: unset {TICKET}") from fault


def _trial(sweeper: DictConfig) -> dict[str, Any] | None:
    if sweeper.get("trial") is None:
        return None
    settings: dict[str, Any] = OmegaConf.to_container(sweeper, resolve=True)  # type: ignore[assignment]
    return {key: value for key, value in settings.items() if key not in ("_target_", "params")}
