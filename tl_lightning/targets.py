"""What a configuration may call, and what those things take."""

import inspect
import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from tl_lightning.errors import UserError
from tl_lightning.parts import FOREIGN, INSIDE, MARKED, Part, own_name
from tl_lightning.values import nearest

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


def locate(target: str, group: str = "") -> Callable[..., Any]:
    """The class or function that a ``_target_`` names.

    Args:
        target: a dotted path.
        group: whose node names it, ``hydra.launcher`` and its like among them; by default a node inside a part, which
            may be any part.

    Raises:
        UserError: it is no part, or not there.
    """
    if target in named(group):
        return _imported(target)  # type: ignore[no-any-return]
    module, _, name = target.rpartition(".")
    ours = module.startswith("tl_lightning.")
    if ours or within(target, allowed_by_user()):
        found = _attribute(target, module, name)
        if _is_marked(found, module, group) if ours else _is_of_user(found):
            return found  # type: ignore[no-any-return]
    raise UserError(_outside(target, group))


def named(group: str) -> frozenset[str]:
    """The names of other packages that a node of ``group``, or without a group one inside a part, may say."""
    if group:
        return frozenset(FOREIGN.get(group, ()))
    ours = (names for of, names in FOREIGN.items() if not of.startswith("hydra."))
    return frozenset(itertools.chain(INSIDE, *ours))


def _is_marked(found: Any, module: str, group: str) -> bool:
    """Whether it is a part of ours, found where it was made or in a package around that, which shows it."""
    known = MARKED.get(own_name(found))
    return known is not None and known.made is found and within(own_name(found), [module]) and _fits(known, group)


def _fits(known: Part, group: str) -> bool:
    return not group or group in known.groups


def _attribute(target: str, module: str, name: str) -> Any:
    """What stands under ``name`` in a module itself: no attribute of a class, nothing behind an underscore."""
    if any(word.startswith("_") for word in target.split(".")):
        raise UserError(f"{target} is no part of a run: it is private")
    try:
        found = vars(import_module(module))
    except (ModuleNotFoundError, ValueError):
        raise UserError(f"{target} does not exist, or is no part of a run: there is no module {module}") from None
    if name not in found:
        raise UserError(f"{target} does not exist{nearest(name, found)}")
    return found[name]


def _imported(target: str) -> Any:
    module, _, name = target.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError):
        raise UserError(f"{target} does not exist in what is installed here") from None


def _is_of_user(found: Any) -> bool:
    """Whether it is a class or function that the user's own package makes, not one that it merely imports."""
    is_part = inspect.isclass(found) or inspect.isfunction(found)
    return is_part and "." not in found.__qualname__ and within(own_name(found), allowed_by_user())


def allowed_by_user() -> tuple[str, ...]:
    """The packages of the user's own that a configuration may call too."""
    return tuple(filter(None, (name.strip() for name in os.environ.get(ALLOW_VARIABLE, "").split(","))))


def within(name: str, allowed: Iterable[str]) -> bool:
    """Whether a dotted name is one of ``allowed`` or inside it."""
    return any(f"{name}.".startswith(f"{package}.") for package in allowed)


def _outside(target: str, group: str) -> str:
    last = {name.rpartition(".")[2]: name for name in (*_marked(group), *named(group))}
    close = get_close_matches(target.rpartition(".")[2], last, n=1, cutoff=0.6)
    hint = f" (did you mean {last[close[0]]}?)" if close else ""
    return (
        f"{target} is outside what a configuration may call here{hint};"
        f" for a package of your own: {ALLOW_VARIABLE}=PACKAGE in the environment"
    )


def _marked(group: str) -> list[str]:
    return [name for name, known in MARKED.items() if _fits(known, group)]


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
