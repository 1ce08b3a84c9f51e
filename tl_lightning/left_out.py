"""What a stored configuration lacks since it is secret: told to its reader, and handed to processes that need it."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tl_lightning.redact import CARRIED, LEFT_OUT, carried, redacted

Path = tuple[str | int, ...]


def holes(content: Any, at: Path = ()) -> Iterator[str]:
    """The places in which a structure lacks what was secret, as they are typed: ``data.x[0]``."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from holes(value, (*at, key))
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from holes(value, (*at, number))
    elif is_hole(content):
        yield "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in at).lstrip(".")


def is_hole(value: Any) -> bool:
    """Whether something was left out of a value."""
    return isinstance(value, str) and LEFT_OUT in value


def carry(config: Mapping[str, Any]) -> dict[str, str]:
    """The variable that tells a process of this one what its ``config.yaml`` lacks."""
    found = list(_differing(config, redacted(config), ()))
    return {CARRIED: json.dumps(found)} if found else {}


def _differing(old: Any, new: Any, at: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(new, Mapping):
        for key, value in new.items():
            yield from _differing(old[key], value, (*at, key))
    elif isinstance(new, list):
        for number, value in enumerate(new):
            yield from _differing(old[number], value, (*at, number))
    elif old != new:
        yield at, old


def put_back(content: Any) -> None:
    """Put what ``carry`` told this process into its places."""
    for (*above, last), value in carried():
        place = content
        for step in above:
            place = place[step]
        place[last] = value
