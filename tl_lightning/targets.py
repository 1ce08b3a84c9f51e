"""What a configuration may call, and what those things take."""

import inspect
import os
import typing
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

from tl_lightning.errors import UserError
from tl_lightning.values import nearest

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
SPECIAL = frozenset({"_target_", "_partial_", "_convert_", "_recursive_", "_args_"})

# What run.py hands to the part at run time.
SUPPLIED: dict[str, frozenset[str]] = {
    "head": frozenset({"in_features", "num_outputs"}),
    "data": frozenset({"preprocessor", "target", "seed"}),
    "optimizer": frozenset({"params"}),
    "schedule": frozenset({"optimizer", "total_steps"}),
    "callbacks": frozenset({"monitor", "mode", "folder"}),
    "average": frozenset({"monitor", "mode", "folder"}),
    "logger": frozenset({"folder", "name", "group", "tags", "config", "job_type"}),
    "trainer": frozenset({"callbacks", "logger", "default_root_dir", "use_distributed_sampler"}),
}


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


def parameters(path: str, node: Mapping[str, Any], part: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of ``part`` that a configuration may set at ``path``: those that run time does not supply."""
    supplied = SUPPLIED.get(path.split(".")[0], frozenset()) if node.get("_partial_") else frozenset()
    found = inspect.signature(part).parameters
    return {n: p for n, p in found.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and n not in supplied}


def open_ended(part: Callable[..., Any]) -> bool:
    """Whether it takes any keyword."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(part).parameters.values())


def complete(config: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """A checked configuration with the defaults of the signatures filled in."""
    full = {key: complete(v, f"{path}{key}.") if isinstance(v, Mapping) else v for key, v in config.items()}
    if "_target_" in config:
        for name, parameter in parameters(path, config, locate(config["_target_"])).items():
            if name not in full and _plain(parameter.default):
                default = parameter.default
                full[name] = list(default) if isinstance(default, tuple) else default
    return full


def _plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def hints(part: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a class's constructor or of a function; none where only a type checker can read them."""
    function = part.__init__ if inspect.isclass(part) else part
    try:
        return typing.get_type_hints(inspect.unwrap(function))
    except (NameError, TypeError):
        return {}
