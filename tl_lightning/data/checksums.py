"""Checksums of a cache's files: a flipped bit must not become a wrong token."""

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

CHUNK = 1 << 20


def checksum(path: Path) -> int:
    """CRC-32 of a file; about a second for each gigabyte, and it is read into the page cache for what follows."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def sealed(description: Mapping[str, Any], files: Iterable[Path]) -> str:
    """A description as JSON, with the checksums of the files it speaks of and of itself."""
    whole = {**description, "checksums": {path.name: checksum(path) for path in files}}
    return json.dumps({**whole, "checksum": _own(whole)})


def opened(path: Path) -> dict[str, Any]:
    """A sealed description. Raises ValueError or KeyError where it, or a file it speaks of, is not as it was."""
    whole: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if whole.pop("checksum") != _own(whole):
        raise ValueError(f"the checksum of {path.name} differs")
    for name, value in whole["checksums"].items():
        if checksum(path.parent / name) != value:
            raise ValueError(f"the checksum of {name} differs")
    return whole


def _own(description: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(description, sort_keys=True).encode())
