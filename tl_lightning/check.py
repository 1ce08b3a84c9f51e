"""The configuration check: every fault at once, before anything heavy is built."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tl_lightning.config import RunConfig
from tl_lightning.errors import UserError
from tl_lightning.targets import SPECIAL, SUPPLIED, complete, hints, locate, open_ended, parameters
from tl_lightning.values import RANGES, described, matches, nearest

ROOT = tuple(RunConfig.__dataclass_fields__)
MISSING = "???"


def check(config: Mapping[str, Any]) -> dict[str, Any]:
    """Compare every node that has a ``_target_`` with the signature behind it.

    Args:
        config: the resolved configuration as plain containers.

    Returns:
        The configuration with the defaults of the signatures filled in, so that it says all that will be used.

    Raises:
        UserError: there are faults; lists all of them, each with the nearest legal name.
    """
    faults = list(_faults(config))
    if faults:
        count = f"{len(faults)} faults" if len(faults) > 1 else "a fault"
        raise UserError(f"The configuration has {count}:\n" + "\n".join(f"  {fault}" for fault in faults))
    return complete(config)


def _faults(config: Mapping[str, Any]) -> Iterator[str]:
    for key, value in config.items():
        if key not in ROOT:
            yield f"{key}: there is no such key at the top{nearest(key, ROOT)}"
        elif value == MISSING:
            yield f"{key} is missing: {key}=NAME chooses it"
        elif isinstance(value, Mapping):
            yield from _node_faults(key, value)
        elif key in SUPPLIED and not (key == "average" and value is None):
            yield f"{key}={value}: a group's name is expected ({key}=NAME), as --help lists them"
    data = config.get("data")
    if isinstance(data, Mapping) and None not in (data.get("shots"), data.get("train_fraction")):
        yield "data.shots and data.train_fraction both say how much to train on: give one of them"
    if config.get("seed", 0) < 0:
        yield f"seed={config['seed']}: 0 or more is expected"


def _node_faults(path: str, node: Mapping[str, Any]) -> Iterator[str]:
    target = node.get("_target_")
    if target is None:
        if path in SUPPLIED and path != "callbacks":
            yield f"{path} has no _target_"
    else:
        try:
            part = locate(str(target))
        except UserError as fault:
            yield f"{path}._target_: {fault}"
            return
        yield from _signature_faults(path, node, part)
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _node_faults(f"{path}.{key}", value)


def _signature_faults(path: str, node: Mapping[str, Any], part: Callable[..., Any]) -> Iterator[str]:
    legal, expected = parameters(path, node, part), hints(part)
    for key, value in node.items():
        if key in SPECIAL:
            continue
        if key not in legal and not open_ended(part):
            yield f"{path}.{key}: {_name(part)} takes no {key}{nearest(key, legal)}"
        else:
            yield from _value_faults(f"{path}.{key}", key, value, expected.get(key, Any))
    for name, parameter in legal.items():
        if name not in node and parameter.default is inspect.Parameter.empty:
            yield _missing(f"{path}.{name}", expected.get(name, Any))


def _missing(path: str, hint: Any) -> str:
    return f"{path} is missing: {path}={described(hint).upper()}"


def _value_faults(path: str, key: str, value: Any, hint: Any) -> Iterator[str]:
    if value == MISSING:
        yield _missing(path, hint)
    elif not matches(value, hint):
        yield f"{path}={value!r}: {described(hint)} is expected"
    elif key in RANGES and isinstance(value, (int, float)) and not RANGES[key][0](value):
        yield f"{path}={value}: {RANGES[key][1]} is expected"


def _name(part: Callable[..., Any]) -> str:
    return getattr(part, "__name__", str(part))
