"""Whether a value may stand for a parameter annotated so, and as what."""

import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from tl_lightning.ranges import crossed

LARGEST = sys.float_info.max
LOWER_IS_BETTER = frozenset({"loss", "mse", "mae", "ece"})  # of metrics
PLAIN = (int, float, str, bool, type(None), None, Path, Literal)


def matches(value: Any, hint: Any) -> bool:
    """Whether a plain value may stand for a parameter annotated with ``hint``."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in (Any, object) or isinstance(hint, typing.TypeVar):
        return True
    if origin is Annotated:
        return matches(value, inner[0])
    if isinstance(value, Mapping) and "_target_" in value:
        return takes_part(hint)
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
        return _takes_mapping(value, kind, inner)
    return _scalar_matches(value, kind)


def takes_part(hint: Any) -> bool:
    """Whether a node with a ``_target_`` may stand for a parameter annotated with ``hint``: no plain value is meant."""
    if len(options := _options(hint)) > 1:
        return any(map(takes_part, options))
    kind = typing.get_origin(options[0]) or options[0]
    return kind not in PLAIN and not (isinstance(kind, type) and issubclass(kind, (list, tuple, dict)))


def of_other_kind(part: Any, partial: bool, hint: Any) -> bool:
    """Whether what a node makes (an instance of ``part``, or a partial) is surely none of what ``hint`` names."""
    kinds = [typing.get_origin(option) or option for option in _options(hint) if takes_part(option)]
    if not all(isinstance(kind, type) and not getattr(kind, "_is_protocol", False) for kind in kinds):
        return False
    if partial:
        return Callable not in kinds
    # What a function gives back is not known before.
    return isinstance(part, type) and not any(issubclass(part, kind) for kind in kinds)


def _options(hint: Any) -> tuple[Any, ...]:
    """What an annotation names, one by one, without what stands beside a type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _options(inner[0])
    return tuple(o for i in inner for o in _options(i)) if origin in (Union, types.UnionType) else (hint,)


def _takes_list(value: list[Any], hint: Any, origin: Any, inner: tuple[Any, ...]) -> bool:
    kind = origin or hint
    if not isinstance(kind, type) or kind is str or not (issubclass(list, kind) or issubclass(tuple, kind)):
        return False
    if kind is tuple and inner and ... not in inner:
        return len(value) == len(inner) and all(map(matches, value, inner))
    element = [i for i in inner if i is not ...]
    return not element or all(any(matches(v, e) for e in element) for v in value)


def _takes_mapping(value: Mapping[Any, Any], kind: Any, inner: tuple[Any, ...]) -> bool:
    fits = isinstance(kind, type) and issubclass(dict, kind)
    return fits and (len(inner) != 2 or all(matches(k, inner[0]) and matches(v, inner[1]) for k, v in value.items()))


def _scalar_matches(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (bool, str):
        return isinstance(value, kind)
    return kind is Path and isinstance(value, str)


def described(hint: Any) -> str:
    """An annotation in words."""
    if isinstance(hint, type):
        return {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}.get(
            hint.__name__, hint.__name__
        )
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is Annotated:
        return described(inner[0])
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(str, inner))
    if typing.get_origin(hint) in (Union, types.UnionType):
        return " or ".join("null" if option is type(None) else described(option) for option in inner)
    if typing.get_origin(hint) is list:
        return f"a list ([a,b]) of {described(inner[0])}"
    if typing.get_origin(hint) is tuple:
        each = [described(i) for i in inner if i is not ...]
        return f"a list ([a,b]) of {each[0] if ... in inner else ' and '.join(each)}"
    if typing.get_origin(hint) is dict:
        return f"a mapping ({{a:b}}) from {described(inner[0])} to {described(inner[1])}"
    return str(hint).removeprefix("typing.")


def outside(path: str, value: Any, hint: Any, extras: tuple[Any, ...] = ()) -> Iterator[str]:
    """The numbers in a value that are out of the ranges of its annotation, each with what is expected.

    Args:
        path: where the value stands.
        value: one that matches ``hint``.
        hint: the annotation.
        extras: ranges that hold beside those of ``hint``, such as that of a whole list.
    """
    kind, extras = _meant(value, hint, extras)
    told = crossed(value, extras)
    if told is not None:
        yield f"{path}={value}: {told}"
    for at, item, inner in _items(value, kind):
        yield from outside(f"{path}{at}", item, inner, extras)


def fitted(value: Any, hint: Any) -> Any:
    """A value as its annotation means it: whole numbers as floats where those are expected, at any depth."""
    kind, _ = _meant(value, hint)
    if kind is float and isinstance(value, int):
        return float(value)
    items = [fitted(item, inner) for _, item, inner in _items(value, kind)]
    if not items:
        return value
    return items if isinstance(value, list) else dict(zip(value, items, strict=True))


def _meant(value: Any, hint: Any, extras: tuple[Any, ...] = ()) -> tuple[Any, tuple[Any, ...]]:
    """What of an annotation a value is taken as, and all that stands beside it: of a union, what fits best."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _meant(value, inner[0], (*extras, *inner[1:]))
    fitting = [option for option in inner if origin in (Union, types.UnionType) and matches(value, option)]
    if not fitting:
        return hint, extras
    best = min(fitting, key=lambda o: (any(outside("", value, o, extras)), type(value) not in _options(o)))
    return _meant(value, best, extras)


def _items(value: Any, kind: Any) -> Iterator[tuple[str, Any, Any]]:
    """What is inside a list or a mapping that is no part: its place, itself, and its annotation."""
    inner = [i for i in typing.get_args(kind) if i is not ...]
    if isinstance(value, list):
        each = inner if len(inner) == len(value) > 1 else [inner[0] if inner else Any] * len(value)
        yield from ((f"[{at}]", item, each[at]) for at, item in enumerate(value))
    elif isinstance(value, Mapping) and "_target_" not in value:
        yield from ((f".{key}", item, inner[1] if len(inner) == 2 else Any) for key, item in value.items())


def nearest(name: str, legal: Iterable[str]) -> str:
    """A hint at the nearest legal name, or at all of them."""
    legal = [n for n in legal if not n.startswith("_")]
    close = get_close_matches(name, legal, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; it takes: {', '.join(legal)}" if len(legal) <= 30 else ""
