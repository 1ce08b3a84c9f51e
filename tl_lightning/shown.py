"""Text from elsewhere (records, names of files, messages of libraries) made safe to show."""

import logging
import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tl_lightning.redact import redacted_text

# Control characters (a terminal obeys them), marks that turn the direction of writing, separators that break a line,
# and halves of characters, which cannot be written at all.  A line break and a tab stay where a text may have some.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
BREAKS = str.maketrans({"\n": r"\n", "\t": r"\t"})
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # also in their wide forms


NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def shown(text: object) -> str:
    """A text of several lines with nothing in it that a terminal or a page would obey."""
    return CONTROL.sub(_named, str(text))


def in_line(text: object) -> str:
    """The same in one line: a cell, a label, a caption."""
    return shown(text).translate(BREAKS)


def _named(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


def say(text: object = "", file: TextIO | None = None) -> None:
    """Print for people: safe to show, and without what is secret."""
    print(shown(redacted_text(str(text))), file=file, flush=True)


def csv_row(cells: Iterable[Any]) -> list[Any]:
    """A row for people: what is no number, a spreadsheet takes for a text and never for a formula."""
    return [_cell(cell) for cell in cells]


def _cell(value: Any) -> Any:
    value = value if value is None or isinstance(value, (int, float)) else shown(value)
    formula = isinstance(value, str) and value.startswith(FORMULA) and not NUMBER.fullmatch(value)
    return f"'{value}" if formula else value


def log_safely() -> None:
    """Let every line of a log, whoever writes it, go out as ``say`` prints."""
    make = logging.getLogRecordFactory()
    if getattr(make, "safe", False):
        return

    def safe(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            record.msg, record.args = shown(redacted_text(record.getMessage())), None
        except Exception:  # a message that does not fit its arguments is told by logging itself
            return record
        return record

    safe.safe = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(safe)


def error(text: object) -> None:
    """Say it on stderr."""
    say(text, sys.stderr)
