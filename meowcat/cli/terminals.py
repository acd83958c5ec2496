"""Whether standard output, or error, is a terminal that can be drawn on, and what comes once it is closed."""

import io
import os
import stat
import sys
from contextlib import suppress
from os import environ
from typing import IO, TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_FORCED = ("FORCE_COLOR", "TTY_COMPATIBLE")
"""What makes rich take for a terminal what is none."""


def terminal(stream: TextIO) -> "Console | None":
    """The terminal that the stream is; None where it is none, or one that can't move its cursor.

    rich takes long to load, and most command lines print lines or JSON: it is asked where it may say yes.
    """
    if not (stream.isatty() or any(environ.get(name) for name in _FORCED)):
        return None
    from rich.console import Console  # noqa: PLC0415  # see above

    console = Console(file=stream)
    return console if console.is_terminal and not console.is_dumb_terminal else None


def leave_terminal() -> None:
    """What is still told goes nowhere where the terminal was closed: it can't be written there any more."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(io.UnsupportedOperation):  # of a stream that is no file's
            device = stat.S_ISCHR(os.fstat(stream.fileno()).st_mode)
            if device and not stream.isatty():  # the kernel denies it once it is closed
                drop(stream)


def drop(stream: IO[str]) -> None:
    """Let everything that is written from here on go nowhere, and so what is written at exit."""
    with suppress(io.UnsupportedOperation):  # as above
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
