"""The files of a run, which may be anybody's: each is read under the bounds that stand here, or refused in one line."""

import csv
import json
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import yaml

from tl_lightning.errors import UserError, first_line

MIB = 2**20
READ_S = 30.0  # for the bytes of one text file: a disk that takes longer would hold up a whole folder
CHUNK = 4 * MIB
LARGEST = 2**63
LONGEST_NUMBER = 1000  # characters; YAML's whole numbers to the base 60 take time in the square of theirs
PLAIN_NUMBER = frozenset("+-.0123456789")


@dataclass(frozen=True)
class Bound:
    """How much one file may hold.

    Args:
        size: bytes.
        depth: mappings and lists within one another.
        items: keys and values.
    """

    size: int
    depth: int = 0
    items: int = 0


RECORD_BOUND = Bound(4 * MIB, depth=32, items=200_000)  # that of a grid of 1,000 heads takes 0.2 MiB, 10,000 items
CONFIG_BOUND = Bound(4 * MIB, depth=32, items=100_000)  # names of 21,841 classes (ImageNet-21k) take 0.7 MiB
CURVES_BOUND = Bound(1024 * MIB)  # about 25 million values of 40 bytes, read one by one
HISTORY_BOUND = Bound(64 * MIB)  # of a search: 100,000 trials with 30 parameters
IMPORTANCE_BOUND = Bound(1 * MIB, depth=4, items=10_000)  # objectives times parameters
NOTE_BOUND = Bound(64 * 1024, depth=4, items=100)  # one path and some words: elsewhere.json, a meeting
INDEX_BOUND = Bound(256 * MIB, depth=8, items=20_000_000)  # 200,000 runs of 1 KiB; a larger one is built anew

KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
FLOAT, TIMESTAMP = "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # in C: ten times as fast
    """YAML as Hydra reads it: ``1e-3`` is a number, a date is a text."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in known if tag not in (FLOAT, TIMESTAMP)]
    for first, known in Loader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    FLOAT,
    re.compile(
        r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?\Z|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+\Z"
        r"|\.[0-9_]+(?:[eE][-+][0-9]+)?\Z|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*\Z"
        r"|[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z"
    ),
    list("-+.0123456789"),
)


def opened(path: Path, most: int | None = None, home: Path | None = None) -> BinaryIO:
    """Open a regular file to read; nothing else is waited for, or opened at all.

    Args:
        path: of the file.
        most: bytes that it may hold.
        home: the run directory that no link may lead out of; None lets links lead anywhere.

    Raises:
        FileNotFoundError: it is not there.
        UserError: it is no regular file, or too large, or cannot be read.
    """
    try:
        if home is not None and leads_out(path, home):
            raise UserError(
                f"{path} is a link that leads out of the run directory, to {os.path.realpath(path)}: not read"
            )
        _refuse_kind(path, os.stat(path).st_mode)  # before it is opened: opening a device does something
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as fault:
        raise UserError(f"{path} cannot be read: {first_line(fault)}") from fault
    file = os.fdopen(handle, "rb")
    try:
        found = os.fstat(handle)
        _refuse_kind(path, found.st_mode)
        if most is not None and found.st_size > most:
            raise UserError(f"{path} is too large: {found.st_size:,} bytes; up to {most:,} are read")
    except BaseException:
        file.close()
        raise
    return file


def _refuse_kind(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} is {KINDS.get(stat.S_IFMT(mode), 'no file')}, no regular file: not read")


def leads_out(path: Path, home: Path) -> bool:
    """Whether a link on the way from ``home`` to ``path`` leads out of ``home``."""
    if path.parent == home and not path.is_symlink():
        return False
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(home))


def read_text(path: Path, bound: Bound) -> str:
    """The text of a file in a run directory.

    Raises:
        FileNotFoundError: it is not there.
        UserError: it is not read; says why in one line.
    """
    with opened(path, bound.size, path.parent) as file:
        try:
            return b"".join(_chunks(file, path, bound.size)).decode()
        except (OSError, ValueError) as fault:
            raise UserError(f"{path} cannot be read: {first_line(fault)}") from fault


def _chunks(file: BinaryIO, path: Path, most: int) -> Iterator[bytes]:
    """What stands in a file, which may grow meanwhile."""
    until, left = time.monotonic() + READ_S, most + 1
    while chunk := file.read(min(CHUNK, left)):
        yield chunk
        left -= len(chunk)
        if left <= 0:
            raise UserError(f"{path} is too large: it grew while it was read; up to {most:,} bytes are")
        if time.monotonic() > until:
            raise UserError(f"{path} is not read: its disk takes more than {READ_S:.0f} s for it")


def read_json(path: Path, bound: Bound) -> Any:
    """What a JSON file in a run directory holds: nothing too deep, no NaN, no half of a character.

    Raises:
        FileNotFoundError: it is not there.
        UserError: it is not read; says why in one line.
    """
    text = read_text(path, bound)
    try:
        content = json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise _too_deep(path, bound) from None
    except ValueError as fault:
        raise UserError(f"{path} cannot be read: {first_line(fault)}") from fault
    _refuse_beyond(content, path, bound)
    return content


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number (null stands for what is none)")


def _too_deep(path: Path, bound: Bound) -> UserError:
    return UserError(f"{path} is nested too deep: up to {bound.depth} levels are read")


def _refuse_beyond(content: Any, path: Path, bound: Bound) -> None:
    """Look at a plain structure level by level."""
    level, count = [content], 0
    for _ in range(bound.depth + 1):
        count += len(level)
        if count > bound.items:
            raise UserError(f"{path} holds too much: up to {bound.items:,} keys and values are read")
        if any(isinstance(value, str) and not is_text(value) for value in level):
            raise UserError(f"{path} cannot be read: it holds half of a character")
        level = list(chain.from_iterable(_within(value) for value in level if isinstance(value, (dict, list))))
        if not level:
            return
    raise _too_deep(path, bound)


def _within(value: dict[Any, Any] | list[Any]) -> Iterator[Any]:
    return chain(value.keys(), value.values()) if isinstance(value, dict) else iter(value)


def read_yaml(path: Path, bound: Bound) -> Any:
    """What a YAML file in a run directory holds: plain values; an alias counts as all that it stands for.

    Raises:
        FileNotFoundError: it is not there.
        UserError: it is not read; says why in one line.
    """
    text = read_text(path, bound)
    try:
        content = parsed(text, bound)
    except ValueError as fault:
        raise UserError(f"{path} cannot be read: {first_line(fault)}") from fault
    _refuse_beyond(content, path, bound)
    return content


def parsed(text: str, bound: Bound) -> Any:
    """Plain values from YAML.

    Raises:
        ValueError: it is no YAML, or beyond ``bound``.
    """
    try:
        _Stream(bound).look(text)
        return yaml.load(text, Loader)  # noqa: S506  # a safe loader, above
    except yaml.YAMLError as fault:
        raise ValueError(" ".join(str(fault).split())) from fault


class _Stream:
    """YAML looked at event by event, before anything is made of it."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        self.count = 0  # keys and values so far, with all that aliases stand for
        self.sizes: dict[str, int] = {}  # by anchor
        self.open: list[tuple[str | None, int]] = []  # collections: anchor, and the count before

    def look(self, text: str) -> None:
        """Raise ValueError where more is asked for than plain values within the bound."""
        for event in yaml.parse(text, Loader):
            if isinstance(event, yaml.CollectionEndEvent):
                self._close(*self.open.pop())
            elif isinstance(event, yaml.NodeEvent):
                self._node(event)

    def _node(self, event: yaml.NodeEvent) -> None:
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)):
            self._value(event)
        elif event.anchor in self.sizes:
            self._add(self.sizes[event.anchor])
        else:
            raise ValueError(f"the alias *{event.anchor} stands in what it stands for, or for nothing")

    def _value(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        if event.tag is not None:
            raise ValueError(f"it holds a tag ({event.tag}): plain values are expected")
        before = self.count
        self._add(1)
        if isinstance(event, yaml.CollectionStartEvent):
            self.open.append((event.anchor, before))
            if len(self.open) > self.bound.depth:
                raise ValueError(f"it is nested too deep: up to {self.bound.depth} levels are read")
        else:
            _refuse_long_number(event)
            self._close(event.anchor, before)

    def _add(self, more: int) -> None:
        self.count += more
        if self.count > self.bound.items:
            raise ValueError(f"it holds too much: up to {self.bound.items:,} keys and values are read")

    def _close(self, anchor: str | None, before: int) -> None:
        if anchor is not None:
            self.sizes[anchor] = self.count - before


def _refuse_long_number(scalar: yaml.ScalarEvent) -> None:
    if scalar.implicit[0] and len(scalar.value) > LONGEST_NUMBER and scalar.value[0] in PLAIN_NUMBER:
        raise ValueError(f"it holds a number of {len(scalar.value):,} characters")


def read_rows(path: Path, bound: Bound) -> Iterator[list[str]]:
    """The rows of a CSV file in a run directory, one by one; a line without its end is passed over.

    Raises:
        FileNotFoundError: it is not there.
        UserError: it is not read; says why in one line.
    """
    try:
        with opened(path, bound.size, path.parent) as file, TextIOWrapper(file, "utf-8", newline="") as text:
            yield from csv.reader(line for line in text if line.endswith("\n"))
    except (OSError, ValueError, csv.Error) as fault:
        if isinstance(fault, FileNotFoundError):
            raise
        raise UserError(f"{path} cannot be read: {first_line(fault)}") from fault


def is_number(value: Any) -> bool:
    """Whether a plain value is a finite number; true and false are none."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def is_whole(value: Any) -> bool:
    """Whether a plain value is a whole number of 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST


def is_text(value: str) -> bool:
    """Whether a text can be written as UTF-8; half of a character, or of another encoding's, cannot."""
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False
