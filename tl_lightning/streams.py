"""Standard output and error whose reader goes away (`| head`, a closed terminal): what is left to say is dropped."""

import errno
import io
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

OUT, ERROR = 1, 2
GONE = (errno.EPIPE, errno.EIO, errno.ECONNRESET)  # a pipe's reader, a terminal, the other end of a socket


class Lasting(io.FileIO):
    """A file that becomes the null device once nobody reads it, for this process and those it starts."""

    def write(self, data: Any, /) -> int:
        """Write, or drop."""
        try:
            return super().write(data)
        except OSError as fault:
            if fault.errno not in GONE:
                raise
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
        return super().write(data)


def outlive_readers() -> None:
    """Let no closed output stop this process, nor make it noisy at its end.

    Whatever holds the streams from now on (a progress bar, a log) needs to know nothing of it.  Streams that stand for
    something else than the process's own (a test that captures them) are left alone.
    """
    _occupied()
    sys.stdout, sys.stderr = _lasting(sys.stdout, OUT), _lasting(sys.stderr, ERROR)


def _occupied() -> None:
    """Have something behind the numbers 0 to 2: a file opened later would get a closed one, and what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free


def _lasting(stream: TextIO | None, number: int) -> TextIO:
    if stream is None:  # it was closed when Python began
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper) or _number(stream) != number or _lasts(stream):
        return stream
    with suppress(OSError):
        stream.flush()
    raw = Lasting(number, "w", closefd=False)
    buffer = raw if stream.write_through else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _number(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def _lasts(stream: io.TextIOWrapper) -> bool:
    return isinstance(getattr(stream.buffer, "raw", stream.buffer), Lasting)
