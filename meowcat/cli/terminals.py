"""Whether standard output, or error, is a terminal that can be drawn on."""

from os import environ
from typing import TYPE_CHECKING, TextIO

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
