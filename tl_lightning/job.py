"""What a run is part of: alone, a job of a grid, or a trial of a search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lightning.pytorch import Callback


@dataclass(frozen=True)
class Job:
    """How a run shows among others.

    Args:
        kind: the job type on Weights & Biases.
        group: of runs that belong together; by default those of one ``name``.
        callbacks: beside those of the configuration.
        choices: the name chosen for each group (strategy: lora), for the record.
    """

    kind: Literal["run", "job", "trial"] = "run"
    group: str | None = None
    callbacks: Sequence[Callback] = ()
    choices: Mapping[str, str | None] = field(default_factory=dict)


ALONE = Job()
