"""The configuration check: every fault at once, before anything heavy is built."""

import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any, Literal

from tl_lightning.config import RunConfig
from tl_lightning.errors import UserError
from tl_lightning.grid_faults import grid_faults
from tl_lightning.left_out import is_hole
from tl_lightning.ranges import hints
from tl_lightning.targets import (
    NOT_TAKEN,
    SPECIAL,
    SUPPLIED,
    complete,
    locate,
    open_ended,
    parameters,
)
from tl_lightning.trainer_faults import trainer_faults
from tl_lightning.values import described, fitted, matches, nearest, of_other_kind, outside

MISSING = "???"
ROOT = {field.name: field for field in fields(RunConfig)}
WORDS: dict[str, Any] = {  # legal words, which the typed root cannot hold
    "on_nan": Literal["stop", "skip"],
    "compile": Literal[True, False, "auto", "inductor", "cuda_graphs", "aot_eager", "eager"],
}
SCALARS = {
    name: WORDS.get(name, hint)
    for name, hint in typing.get_type_hints(RunConfig, include_extras=True).items()
    if hint is not Any
}
FAMILY = re.compile(r"[\w(\[][^/\\]*")  # a run's family is one folder
EITHER = ("callbacks", "average")  # groups whose parts are made whole, or take what a run hands to them
DEEPEST = 16
LARGEST_WHOLE = 1 << 53  # beyond it, no count of anything, and none that a float holds exactly
SHOWN = 80


def check(config: Mapping[str, Any]) -> dict[str, Any]:
    """Compare every node that has a ``_target_`` with the signature behind it.

    Args:
        config: the resolved configuration as plain containers.

    Returns:
        The configuration with the defaults of the signatures filled in, so that it says all that will be used.

    Raises:
        UserError: there are faults; lists all of them, each with the nearest legal name.
    """
    faults = list(_shape_faults("", config, 0)) or list(_faults(config))
    if faults:
        count = f"{len(faults)} faults" if len(faults) > 1 else "a fault"
        raise UserError(f"The configuration has {count}:\n" + "\n".join(f"  {fault}" for fault in faults))
    full: dict[str, Any] = _as_meant(complete(config))
    return full | {key: fitted(full[key], hint) for key, hint in SCALARS.items() if key in full}


def _shape_faults(path: str, value: Any, depth: int) -> Iterator[str]:
    """What no configuration may hold anywhere, whatever it means there."""
    if depth > DEEPEST:
        yield f"{path}: nested more than {DEEPEST} deep"
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                yield f"{_joined(path, key)}: a key must be text"
            yield from _shape_faults(_joined(path, key), inner, depth + 1)
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from _shape_faults(f"{path}[{at}]", inner, depth + 1)
    else:
        yield from _scalar_faults(path, value)


def _scalar_faults(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, str):
        # Hydra would resolve what still looks like an interpolation when the part is made, behind this check.
        if "${" in value:
            yield f"{path}={_short(value)}: ${{ is left after everything is resolved"
        if is_hole(value):
            yield f"{path}: left out of this file, since it is secret (***): say it again, as {path}=VALUE"
        if "\0" in value:
            yield f"{path}={_short(value)}: holds a null byte"
    elif isinstance(value, int) and abs(value) > LARGEST_WHOLE:
        yield f"{path}={_short(value)}: a whole number between -2**53 and 2**53 is expected"
    elif value is not None and not isinstance(value, (bool, int, float)):
        yield f"{path}={_short(value)}: text, a number, true, false or null is expected"


def _joined(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _faults(config: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys([*ROOT, *config]):
        if key not in ROOT:
            yield f"{key}: there is no such key at the top{nearest(key, ROOT)}"
        elif key in SCALARS:
            value = config.get(key, ROOT[key].default)
            yield from _value_faults(key, value, SCALARS[key])
        elif config.get(key, ROOT[key].default) == MISSING:
            yield f"{key} is missing: {key}=NAME chooses it"
        else:
            yield from _group_faults(key, config.get(key))
    yield from _together_faults(config)


def _together_faults(config: Mapping[str, Any]) -> Iterator[str]:
    data, name = config.get("data"), config.get("name")
    if isinstance(data, Mapping) and None not in (data.get("shots"), data.get("train_fraction")):
        yield "data.shots and data.train_fraction both say how much to train on: give one of them"
    yield from grid_faults(config)
    yield from trainer_faults(config)
    if isinstance(name, str) and not FAMILY.fullmatch(name):
        yield f"name={_short(name)}: a name for a folder is expected, without a slash and not beginning with a dot"


def _group_faults(group: str, value: Any) -> Iterator[str]:
    if value is None and ROOT[group].default is None:
        return
    if not isinstance(value, Mapping):
        yield f"{group}={_short(value)}: a group's name is expected ({group}=NAME), as --help lists them"
    elif group != "callbacks":
        yield from _part_faults(group, value, group)
    else:
        for name, node in value.items():
            if isinstance(node, Mapping):
                yield from _part_faults(f"{group}.{name}", node, group)
            elif node is not None:
                yield f"{group}.{name}={_short(node)}: a node with a _target_, or null, is expected"


def _part_faults(path: str, node: Mapping[str, Any], group: str) -> Iterator[str]:
    """The faults of the part at the top of a group."""
    if "_target_" not in node:
        yield f"{path} has no _target_"
        yield from _inner_faults(path, node)
        return
    faults = list(_node_faults(path, node, group))
    yield from faults
    if faults or group not in (*SUPPLIED, "backbone", "objective", "strategy"):
        return
    partial = node.get("_partial_", False)
    if group not in EITHER and partial is not (group in SUPPLIED):
        yield f"{path}._partial_={str(partial).lower()}: {str(group in SUPPLIED).lower()} is expected"
    elif partial:
        taken = inspect.signature(locate(node["_target_"])).parameters
        lacking = sorted(SUPPLIED[group] - set(taken))
        if lacking and not open_ended(locate(node["_target_"])):
            yield f"{path}._target_={node['_target_']}: this takes no {', '.join(lacking)}, which a run hands to it"


def _node_faults(path: str, node: Mapping[str, Any], group: str = "") -> Iterator[str]:
    target = node["_target_"]
    if not isinstance(target, str):
        yield f"{path}._target_={_short(target)}: the dotted name of a class or function is expected"
        return
    try:
        part = locate(target, group)
    except UserError as fault:
        yield f"{path}._target_: {fault}"
        return
    if not isinstance(node.get("_partial_", False), bool):
        yield f"{path}._partial_={_short(node['_partial_'])}: true or false is expected"
    yield from _signature_faults(path, node, part)
    yield from _inner_faults(path, node)


def _inner_faults(path: str, value: Any) -> Iterator[str]:
    """The faults of nodes at any depth inside a mapping or a list."""
    if isinstance(value, Mapping):
        inside = [(f"{path}.{key}", inner) for key, inner in value.items()]
    else:
        inside = [(f"{path}[{at}]", inner) for at, inner in enumerate(value)]
    for where, inner in inside:
        if isinstance(inner, Mapping) and "_target_" in inner:
            yield from _node_faults(where, inner)
        elif isinstance(inner, (Mapping, list)):
            yield from _inner_faults(where, inner)


def _signature_faults(path: str, node: Mapping[str, Any], part: Callable[..., Any]) -> Iterator[str]:
    legal, expected = parameters(path, node, part), hints(part)
    for key, value in node.items():
        if key in SPECIAL:
            continue
        if key in NOT_TAKEN or (key not in legal and not open_ended(part)):
            yield f"{path}.{key}: {_name(part)} takes no {key}{nearest(key, legal)}"
        else:
            yield from _value_faults(f"{path}.{key}", value, expected.get(key, Any))
    for name, parameter in legal.items():
        if name not in node and parameter.default is inspect.Parameter.empty:
            yield _missing(f"{path}.{name}", expected.get(name, Any))


def _missing(path: str, hint: Any) -> str:
    return f"{path} is missing: {path}={described(hint).upper()}"


def _value_faults(path: str, value: Any, hint: Any) -> Iterator[str]:
    if value == MISSING:
        yield _missing(path, hint)
    elif not matches(value, hint):
        yield f"{path}={_short(value)}: {described(hint)} is expected"
    elif isinstance(value, Mapping) and isinstance(value.get("_target_"), str):
        yield from _kind_faults(path, value, hint)
    else:
        yield from outside(path, value, hint)


def _kind_faults(path: str, node: Mapping[str, Any], hint: Any) -> Iterator[str]:
    """A part of another kind than the annotation names."""
    try:
        part = locate(node["_target_"])
    except UserError:
        return  # told where the node itself is checked
    if of_other_kind(part, node.get("_partial_") is True, hint):
        yield f"{path}: {described(hint)} is expected, not {_name(part)}"


def _name(part: Callable[..., Any]) -> str:
    return getattr(part, "__name__", str(part))


def _as_meant(value: Any) -> Any:
    """A checked configuration with every value as its annotation means it, so that 1 and 1.0 are one where they are."""
    if isinstance(value, list):
        return [_as_meant(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    expected = hints(locate(value["_target_"])) if "_target_" in value else {}
    return {key: _as_meant(fitted(inner, expected.get(key, Any))) for key, inner in value.items()}
