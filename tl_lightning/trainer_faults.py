"""What a run cannot be combined with of a trainer's words, told before anything is loaded."""

from collections.abc import Iterator, Mapping
from typing import Any

CHOOSING = ("callbacks.early_stopping", "head.lr_grid", "head.weight_decay_grid")
KEEPING = ("callbacks.best", "callbacks.last", "average")


def trainer_faults(config: Mapping[str, Any]) -> Iterator[str]:
    """The faults of a composed configuration in what it says of its trainer."""
    trainer = config.get("trainer")
    if not isinstance(trainer, Mapping):
        return
    if trainer.get("overfit_batches"):
        yield (
            f"trainer.overfit_batches={trainer['overfit_batches']}: an epoch of a run has an order of its own;"
            " data.shots=4 trains on the same few rows in every epoch, trainer.limit_train_batches=1 on few batches"
        )
    if trainer.get("barebones"):
        yield "trainer.barebones=true: it turns off what a run keeps and tells; trainer.barebones=false"
    kept = [name for name in KEEPING if _node(config, name)]
    if trainer.get("enable_checkpointing") is False and kept:
        without = " ".join(f"{name}=null" for name in kept)
        yield f"trainer.enable_checkpointing=false, and {' and '.join(kept)} would keep checkpoints: {without}"
    yield from _unlooked_faults(config, trainer)


def _unlooked_faults(config: Mapping[str, Any], trainer: Mapping[str, Any]) -> Iterator[str]:
    """What lives from a look at ``val``, where there is none."""
    if trainer.get("limit_val_batches") != 0:
        return
    for name in (path for path in CHOOSING if _node(config, path)):
        yield f"trainer.limit_val_batches=0, and {name} chooses by val: {name}=null, or trainer.limit_val_batches=1.0"


def _node(config: Mapping[str, Any], path: str) -> Any:
    found: Any = config
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
