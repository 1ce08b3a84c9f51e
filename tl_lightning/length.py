"""How long a training is."""

import math
from typing import Any, NamedTuple

from lightning.pytorch import Trainer

from tl_lightning.errors import UserError

ENDLESS = 1000  # epochs looked ahead where nothing names a limit


class Length(NamedTuple):
    """Steps that the optimizer takes: in all, and in one whole epoch."""

    steps: int
    per_epoch: int

    @property
    def epochs(self) -> int:
        """How many epochs begin; ``max_steps`` may end the last one early."""
        return math.ceil(self.steps / self.per_epoch)


def training_length(trainer: Trainer) -> Length:
    """The length of a training whose data can be asked.

    Not ``trainer.estimated_stepping_batches``: asked for here, it keeps Lightning from restoring the loader's place
    on a resume (Lightning issue 20550, open).

    Raises:
        UserError: it has no end.
    """
    data = getattr(trainer, "datamodule", None)
    if data is None:
        steps, batches = trainer.estimated_stepping_batches, trainer.num_training_batches
        per_epoch = math.ceil(batches / trainer.accumulate_grad_batches) if math.isfinite(batches) else steps
        return Length(int(_ending(steps)), max(1, int(per_epoch)))
    batches = limited(len(data.train_dataloader()), trainer.limit_train_batches)
    per_epoch = max(1, math.ceil(batches / trainer.accumulate_grad_batches))
    limits = (
        per_epoch * trainer.max_epochs if trainer.max_epochs not in (None, -1) else math.inf,
        trainer.max_steps if trainer.max_steps >= 0 else math.inf,
    )
    return Length(int(_ending(min(limits))), per_epoch)


def at_log_step(trainer: Trainer, steps: int) -> bool:
    """Whether it is time to log after so many optimizer steps: a GPU is waited for at no other time."""
    return steps % (trainer.log_every_n_steps or 1) == 0  # type: ignore[attr-defined]


def between_steps(trainer: Trainer) -> bool:
    """Whether the batch that was last begun ends an optimizer step, so that no gradients wait for further batches."""
    taken = trainer.fit_loop.batch_idx + 1
    return trainer.is_last_batch or taken % trainer.accumulate_grad_batches == 0


def limited(batches: int, limit: float | None) -> int:
    """How many of an epoch's batches are used under ``limit_train_batches``: a number of them, or a share."""
    if limit is None:
        return batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def refuse_no_batches(trainer: Trainer, data: Any) -> None:
    """Find out before the training what Lightning would only tell in it, or after it.

    Raises:
        UserError: a share of a split's batches is none of them, or no epoch is as long as ``val_check_interval``.
    """
    for split in ("train", "val", "test"):
        limit = getattr(trainer, f"limit_{split}_batches")
        if not isinstance(limit, float) or not 0 < limit < 1:
            continue
        batches = _batches(trainer, data, split)
        if not limited(batches, limit):
            raise UserError(
                f"trainer.limit_{split}_batches={limit} of {batches} batches is none: a share of"
                f" {math.ceil(1000 / batches) / 1000} or more, or trainer.limit_{split}_batches=1 for one batch"
            )
    if trainer.world_size == 1:  # of several processes Lightning counts the batches itself
        _refuse_no_validation(trainer, limited(_batches(trainer, data, "train"), trainer.limit_train_batches))


def _batches(trainer: Trainer, data: Any, split: str) -> int:
    """Those of one process."""
    return math.ceil(len(getattr(data, f"{split}_dataloader")()) / trainer.world_size)


def _refuse_no_validation(trainer: Trainer, batches: int) -> None:
    every = getattr(trainer, "val_check_interval", None)  # not there where it was given as a time
    if isinstance(every, int) and every > batches and trainer.check_val_every_n_epoch is not None:
        raise UserError(
            f"trainer.val_check_interval={every}: an epoch has {batches} batches; trainer.val_check_interval={batches}"
            " or less, or trainer.check_val_every_n_epoch=null to count on from one epoch to the next"
        )


def _ending(steps: float) -> float:
    if math.isfinite(steps):
        return steps
    raise UserError("A learning-rate schedule needs an end: trainer.max_epochs=NUMBER or trainer.max_steps=NUMBER")


def epochs_ahead(trainer: Trainer) -> int:
    """How many epochs begin at most; callable before there are loaders."""
    if getattr(trainer, "datamodule", None) is not None:
        return training_length(trainer).epochs
    limits = [limit for limit in (trainer.max_epochs, trainer.max_steps) if limit is not None and limit > 0]
    return min(limits, default=ENDLESS)
