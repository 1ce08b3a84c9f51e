"""The configuration check: every fault at once, before anything heavy is built."""

import inspect
import math
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Union

from tl_lightning.config import RunConfig
from tl_lightning.errors import UserError

# A configuration from someone else must not run any code but this.  torch as a whole is not in: torch.hub
# loads and runs code from anywhere.
ALLOWED = (
    "tl_lightning",
    "torch.optim",
    "torch.nn",
    "torchmetrics",
    "lightning.Trainer",
    "lightning.pytorch",
    "torchvision.transforms",
    "torchvision.models",
)
ALLOW_VARIABLE = "TL_LIGHTNING_ALLOW"  # in the environment, since a configuration file must not widen it
ROOT = tuple(RunConfig.__dataclass_fields__)
MISSING = "???"
SPECIAL = frozenset({"_target_", "_partial_", "_convert_", "_recursive_", "_args_"})

# What run.py hands to the part at run time.
SUPPLIED: dict[str, frozenset[str]] = {
    "head": frozenset({"in_features", "num_outputs"}),
    "data": frozenset({"preprocessor", "target", "seed"}),
    "optimizer": frozenset({"params"}),
    "schedule": frozenset({"optimizer", "total_steps"}),
    "callbacks": frozenset({"monitor", "mode", "folder"}),
    "logger": frozenset({"folder", "name", "group", "tags", "config"}),
    "trainer": frozenset({"callbacks", "logger", "default_root_dir", "use_distributed_sampler"}),
}

Rule = tuple[Callable[[float], bool], str]
AT_LEAST_1: Rule = (lambda x: x >= 1, "at least 1")
NOT_NEGATIVE: Rule = (lambda x: x >= 0, "0 or more")
SHARE_BELOW_1: Rule = (lambda x: 0 <= x < 1, "at least 0 and below 1")
BETWEEN_0_AND_1: Rule = (lambda x: 0 < x < 1, "above 0 and below 1")
POSITIVE_UP_TO_1: Rule = (lambda x: 0 < x <= 1, "above 0 and at most 1")
RANGES: dict[str, Rule] = {
    "lr": (lambda x: 0 < x < 100, "above 0 (for fine-tuning usually 1e-5 to 1e-3)"),
    "weight_decay": NOT_NEGATIVE,
    "momentum": SHARE_BELOW_1,
    "batch_size": AT_LEAST_1,
    "eval_batch_size": AT_LEAST_1,
    "max_length": (lambda x: x >= 4, "at least 4 tokens"),
    "max_epochs": (lambda x: x >= 1 or x == -1, "at least 1, or -1 for no limit"),
    "accumulate_grad_batches": AT_LEAST_1,
    "gradient_clip_val": NOT_NEGATIVE,
    "num_workers": NOT_NEGATIVE,
    "patience": AT_LEAST_1,
    "shots": AT_LEAST_1,
    "hidden": AT_LEAST_1,
    "dropout": SHARE_BELOW_1,
    "label_smoothing": SHARE_BELOW_1,
    "warmup": SHARE_BELOW_1,
    "threshold": BETWEEN_0_AND_1,
    "val_fraction": BETWEEN_0_AND_1,
    "test_fraction": BETWEEN_0_AND_1,
    "train_fraction": POSITIVE_UP_TO_1,
    "layer_decay": POSITIVE_UP_TO_1,
}


def check(config: Mapping[str, Any]) -> None:
    """Compare every node that has a ``_target_`` with the signature behind it.

    Args:
        config: the resolved configuration as plain containers.

    Raises:
        UserError: there are faults; lists all of them, each with the nearest legal name.
    """
    faults = list(_faults(config))
    if faults:
        count = f"{len(faults)} faults" if len(faults) > 1 else "a fault"
        raise UserError(f"The configuration has {count}:\n" + "\n".join(f"  {fault}" for fault in faults))


def _faults(config: Mapping[str, Any]) -> Iterator[str]:
    for key, value in config.items():
        if key not in ROOT:
            yield f"{key}: there is no such key at the top{nearest(key, ROOT)}"
        elif value == MISSING:
            yield f"{key} is missing: {key}=NAME chooses it"
        elif isinstance(value, Mapping):
            yield from _node_faults(key, value)
        elif key in SUPPLIED:
            yield f"{key}={value}: a group's name is expected ({key}=NAME), as --help lists them"
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


def locate(target: str) -> Callable[..., Any]:
    """The class or function that a ``_target_`` names.

    Raises:
        UserError: it is outside the allowlist, or there is no such thing.
    """
    allowed = (*ALLOWED, *filter(None, os.environ.get(ALLOW_VARIABLE, "").split(",")))
    if not _within(target, allowed):
        raise UserError(_outside(target))
    module, _, _ = target.rpartition(".")
    while module:
        try:
            found: Any = import_module(module)
            break
        except ModuleNotFoundError:
            module, _, _ = module.rpartition(".")
    else:
        raise UserError(f"{target} does not exist")
    for name in target.removeprefix(module + ".").split("."):
        if not hasattr(found, name):
            raise UserError(f"{target} does not exist{nearest(name, dir(found))}")
        found = getattr(found, name)
    # A path may lead out of an allowed module through what that module imports.
    if not callable(found) or not _within(f"{getattr(found, '__module__', '')}.", (*allowed, "lightning")):
        raise UserError(_outside(target))
    return found  # type: ignore[no-any-return]


def _within(name: str, allowed: Iterable[str]) -> bool:
    return any(f"{name}.".startswith(f"{package.strip()}.") for package in allowed)


def _outside(target: str) -> str:
    return (
        f"{target} is outside what a configuration may call ({', '.join(ALLOWED)});"
        f" for a package of your own: {ALLOW_VARIABLE}=PACKAGE in the environment"
    )


def _signature_faults(path: str, node: Mapping[str, Any], part: Callable[..., Any]) -> Iterator[str]:
    parameters = inspect.signature(part).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    supplied = SUPPLIED.get(path.split(".")[0], frozenset()) if node.get("_partial_") else frozenset()
    legal = [n for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and n not in supplied]
    hints = _hints(part)
    for key, value in node.items():
        if key in SPECIAL:
            continue
        if key not in legal and not open_ended:
            yield f"{path}.{key}: {_name(part)} takes no {key}{nearest(key, legal)}"
        else:
            yield from _value_faults(f"{path}.{key}", key, value, hints.get(key, Any))
    for name in legal:
        if name not in node and parameters[name].default is inspect.Parameter.empty:
            yield f"{path}.{name} is missing: {path}.{name}={_described(hints.get(name, Any)).upper()}"


def _value_faults(path: str, key: str, value: Any, hint: Any) -> Iterator[str]:
    if value == MISSING:
        yield f"{path} is missing: {path}={_described(hint).upper()}"
    elif not matches(value, hint):
        yield f"{path}={value!r}: {_described(hint)} is expected"
    elif key in RANGES and isinstance(value, (int, float)) and not RANGES[key][0](value):
        yield f"{path}={value}: {RANGES[key][1]} is expected"


def matches(value: Any, hint: Any) -> bool:
    """Whether a plain value may stand for a parameter annotated with ``hint``."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in (Any, object) or isinstance(hint, typing.TypeVar):
        return True
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    if origin in (Union, types.UnionType):
        return any(matches(value, option) for option in inner)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in inner)
    if hint is None or hint is type(None):
        return value is None
    if isinstance(value, list):
        return _takes_list(value, hint, origin, inner)
    kind = origin or hint
    if isinstance(value, Mapping):
        return isinstance(kind, type) and issubclass(dict, kind)
    return _scalar_matches(value, kind)


def _takes_list(value: list[Any], hint: Any, origin: Any, inner: tuple[Any, ...]) -> bool:
    kind = origin or hint
    if not isinstance(kind, type) or kind is str or not (issubclass(list, kind) or issubclass(tuple, kind)):
        return False
    element = [i for i in inner if i is not ...]
    return not element or all(any(matches(v, e) for e in element) for v in value)


def _scalar_matches(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (bool, str):
        return isinstance(value, kind)
    return kind is Path and isinstance(value, str)


def _hints(part: Callable[..., Any]) -> dict[str, Any]:
    function = part.__init__ if inspect.isclass(part) else part
    try:
        return typing.get_type_hints(inspect.unwrap(function))
    except (NameError, TypeError):  # annotations that only a type checker can read
        return {}


def _described(hint: Any) -> str:
    if isinstance(hint, type):
        return {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}.get(
            hint.__name__, hint.__name__
        )
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(str, inner))
    if typing.get_origin(hint) in (Union, types.UnionType):
        return " or ".join("null" if option is type(None) else _described(option) for option in inner)
    if typing.get_origin(hint) is list:
        return f"a list ([a,b]) of {_described(inner[0])}"
    return str(hint).removeprefix("typing.")


def _name(part: Callable[..., Any]) -> str:
    return getattr(part, "__name__", str(part))


def nearest(name: str, legal: Iterable[str]) -> str:
    """A hint at the nearest legal name, or at all of them."""
    legal = [n for n in legal if not n.startswith("_")]
    close = get_close_matches(name, legal, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; it takes: {', '.join(legal)}" if len(legal) <= 30 else ""
