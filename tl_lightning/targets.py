"""What a configuration may call, and what those things take."""

import inspect
import itertools
import os
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from tl_lightning.errors import UserError
from tl_lightning.values import nearest

# A configuration from someone else must not run any code but this.  torch as a whole is not in: torch.hub
# loads and runs code from anywhere.  Neither are the rooms of this package that read and write files.
ROOMS: dict[str, tuple[str, ...]] = {
    "backbone": ("tl_lightning.backbones",),
    "head": ("tl_lightning.heads", "torch.nn"),
    "objective": ("tl_lightning.objectives",),
    "data": ("tl_lightning.data",),
    "strategy": ("tl_lightning.strategies",),
    "optimizer": ("torch.optim", "tl_lightning.optim"),
    "schedule": ("tl_lightning.optim", "torch.optim.lr_scheduler"),
    "trainer": ("lightning.Trainer", "lightning.pytorch.Trainer"),
    "callbacks": ("tl_lightning.callbacks", "lightning.pytorch.callbacks"),
    "logger": ("tl_lightning.tracking",),
    "average": ("tl_lightning.averaging", "tl_lightning.soup"),
}
"""What the node of a group may name; a node inside it may name anything of all groups and of BESIDES."""
BESIDES = (
    "lightning.pytorch.accelerators",
    "lightning.pytorch.plugins",
    "lightning.pytorch.profilers",
    "lightning.pytorch.strategies",
    "torchmetrics",
    "torchvision.models",
    "torchvision.transforms",
)
HOMES = ("lightning.pytorch.trainer.trainer.Trainer", "lightning.fabric.plugins")  # where some of these really stand
ALLOWED = tuple(dict.fromkeys([*itertools.chain(*ROOMS.values()), *BESIDES]))
ALLOW_VARIABLE = "TL_LIGHTNING_ALLOW"  # in the environment, since a configuration file must not widen it
SPECIAL = frozenset({"_target_", "_partial_"})
NOT_TAKEN = frozenset({"_convert_", "_recursive_", "_args_"})  # they would go round the check of the signature

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


def locate(target: str, rooms: Sequence[str] = ALLOWED) -> Callable[..., Any]:
    """The class or function that a ``_target_`` names.

    Args:
        target: a dotted path.
        rooms: the packages and names it may come from, beside those that the user allows.

    Raises:
        UserError: it is outside ``rooms``, no part, or not there.
    """
    own = allowed_by_user()
    if not within(target, (*rooms, *own)):
        raise UserError(_outside(target, rooms))
    found, module = _imported(target)
    # A path may lead out of an allowed module through what that module imports.
    home = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    if not callable(found) or not within(home, (*ALLOWED, *own, *HOMES)):
        raise UserError(_outside(target, rooms))
    if not within(target, own) and not _is_part(target, module):
        raise UserError(f"{target} is no part of a run")
    return found  # type: ignore[no-any-return]


def _imported(target: str) -> tuple[Any, str]:
    """What a dotted path leads to, and the module that was imported on the way."""
    module, _, _ = target.rpartition(".")
    while module:
        try:
            found: Any = import_module(module)
            break
        except (ModuleNotFoundError, ValueError):
            module, _, _ = module.rpartition(".")
    else:
        raise UserError(f"{target} does not exist")
    for name in target.removeprefix(module + ".").split("."):
        if not hasattr(found, name):
            raise UserError(f"{target} does not exist{nearest(name, dir(found))}")
        found = getattr(found, name)
    return found, module


def _is_part(target: str, module: str) -> bool:
    """Whether it is public: for a package of this project, what that package itself shows (``__all__``)."""
    names = target.removeprefix(module + ".").split(".")
    if any(name.startswith("_") for name in target.split(".")):
        return False
    if not target.startswith("tl_lightning."):
        return True
    shown = getattr(sys.modules[module], "__all__", None)
    inside_package = module.count(".") > 1 or hasattr(sys.modules[module], "__path__")
    return len(names) == 1 and (names[0] in shown if shown is not None else not inside_package)


def allowed_by_user() -> tuple[str, ...]:
    """The packages of the user's own that a configuration may call too."""
    return tuple(filter(None, (name.strip() for name in os.environ.get(ALLOW_VARIABLE, "").split(","))))


def within(name: str, allowed: Iterable[str]) -> bool:
    """Whether a dotted name is one of ``allowed`` or inside it."""
    return any(f"{name}.".startswith(f"{package}.") for package in allowed)


def _outside(target: str, rooms: Sequence[str]) -> str:
    return (
        f"{target} is outside what a configuration may call here ({', '.join(rooms)});"
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
