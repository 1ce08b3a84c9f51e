"""Values as words: two that mean the same are one word, however they were typed."""

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

from tl_lightning.identity import is_share
from tl_lightning.run_files import Bound, is_number, parsed

TARGET = "_target_"
TYPED_BOUND = Bound(64 * 1024, depth=16, items=10_000)  # one word of a command
BRACKETS, SIGNS = ("[", "{"), ("-", "+", ".")
CONSTANTS = {"true": "true", "false": "false", "null": "null", "none": "null"}
WHOLE = 1e15  # up to here whole numbers are written without an exponent


def word(value: Any, key: str = "") -> str:
    """The value at a dotted key as it is typed, one word for one value; of a target its last part."""
    if isinstance(value, str):
        return value.rpartition(".")[2] if key.endswith(TARGET) else value
    return repr(value) if is_share(key) and is_number(value) else _plain(value).replace('"', "")


def _plain(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, Mapping):
        pairs = sorted((_plain(key), _plain(inner)) for key, inner in value.items())
        return f"{{{', '.join(f'{key}: {inner}' for key, inner in pairs)}}}"
    return json.dumps(value, default=str, ensure_ascii=False)


def _number(value: float) -> str:
    if isinstance(value, int) or (isfinite(value) and value.is_integer() and abs(value) < WHOLE):
        return str(int(value))
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def spelled(typed: str, key: str = "") -> str:
    """What was typed for a value as the word that its value has: ``1e-3`` is 0.001, ``[0.8,1.0]`` is [0.8, 1]."""
    if typed.lower() in CONSTANTS:
        return CONSTANTS[typed.lower()]
    begins = typed[:1]
    if not (begins in BRACKETS or begins in SIGNS or begins.isdecimal()) or len(typed) > TYPED_BOUND.size:
        return typed
    try:
        value = parsed(typed, TYPED_BOUND)
    except ValueError:
        return typed
    return word(value, key) if begins in BRACKETS or is_number(value) else typed
