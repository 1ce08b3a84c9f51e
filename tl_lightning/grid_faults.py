"""What a grid of heads cannot be combined with, told before anything is loaded."""

from collections.abc import Iterator, Mapping
from typing import Any

from tl_lightning.errors import UserError
from tl_lightning.targets import locate

GRIDS = ("lr_grid", "weight_decay_grid")
IN_PROPORTION = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop")
"""Optimizers whose step is the learning rate times what does not hang on it."""


def grid_faults(config: Mapping[str, Any]) -> Iterator[str]:
    """The faults of a composed configuration in what it says of a grid of heads, if it says anything."""
    head = config.get("head")
    names = [name for name in GRIDS if isinstance(head, Mapping) and head.get(name) is not None]
    if not isinstance(head, Mapping) or not names:
        return
    for name in names:
        values = head[name]
        if isinstance(values, list) and (not values or any(values.count(value) > 1 for value in values)):
            yield f"head.{name}={values}: at least one value is expected, and each once, as [0.001,0.01,0.1]"
    asked = f"head.{names[0]} trains many heads side by side"
    yield from _strategy_faults(asked, config)
    yield from _optimizer_faults(asked, config)
    if config.get("average") is not None:
        yield f"{asked} and chooses one, average= makes one of several: average=null, or head.{names[0]}=null"
    if str((config.get("trainer") or {}).get("precision")) in ("16", "16-mixed"):
        yield f"{asked}, and one scale of the gradients would serve none: trainer.precision=bf16-mixed or 32-true"


def _strategy_faults(asked: str, config: Mapping[str, Any]) -> Iterator[str]:
    strategy = config.get("strategy")
    if not isinstance(strategy, Mapping):
        return
    try:
        kind = locate(str(strategy.get("_target_")))
    except UserError:
        return  # told where the node itself is checked
    if not getattr(kind, "probes", False):
        yield (
            f"{asked} on features that stay the same, and {getattr(kind, '__name__', kind)} moves the backbone, or"
            " begins anew with another rate: strategy=linear_probe"
        )
    if strategy.get("regularizer") is not None:
        yield f"{asked}, and a regularizer speaks of one: regularizer=null"


def _optimizer_faults(asked: str, config: Mapping[str, Any]) -> Iterator[str]:
    optimizer, schedule = (str((config.get(key) or {}).get("_target_", "")) for key in ("optimizer", "schedule"))
    if optimizer.rpartition(".")[2] not in IN_PROPORTION:
        yield f"{asked} by the length of their steps, which {optimizer} leaves not to lr alone: optimizer=adamw or sgd"
    if not schedule.startswith("tl_lightning.optim."):
        yield f"{asked}, each by its own rate, and {schedule} may name rates itself: schedule=linear_warmup or cosine"
