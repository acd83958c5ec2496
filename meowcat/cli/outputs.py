"""Files that a command makes because `-o` says so: whole, or not at all."""

import errno
import os
import re
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import click

from meowcat.cli.exits import Exit

__all__ = [
    "NO_ROOM",
    "descriptor_of",
    "pour",
    "refuse_standing",
    "standard_output",
    "unwritten",
    "write_whole",
]

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What says that there is nothing wrong with the command: the disk takes no more, or is broken."""


_DESCRIPTOR = re.compile(r"/(?:dev/fd|proc/self/fd)/(\d{1,9})")
_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}


class Unwritten(click.ClickException):  # click's own way to say how a command ends
    exit_code = Exit.UNWRITTEN


def unwritten(path: str | Path, error: OSError) -> click.ClickException:
    """What to say of an output that can't be written."""
    if error.errno not in NO_ROOM:
        return click.UsageError(f"{path}: {error.strerror}")
    return Unwritten(f"{path}: {error.strerror}; nothing was written")


def standard_output() -> IO[bytes]:
    """Where bytes go that are all that a command is for.

    Raises:
        click.ClickException: it was closed.

    """
    if sys.stdout.name == os.devnull:  # what stands in for it; of one that leads there it is <stdout>
        raise Unwritten("standard output is closed: nothing was written")
    return sys.stdout.buffer


def descriptor_of(path: str | Path) -> int | None:
    """The descriptor that a path stands for, as /dev/stdout does. To open the path is another thing: of a
    file that output is redirected to it begins anew at its first byte.
    """
    name = os.path.normpath(path)
    found = _DESCRIPTOR.fullmatch(name)
    return _STANDARD.get(name) if found is None else int(found[1])


def pour(lines: Iterable[bytes], into: IO[bytes]) -> None:
    """Write all of them."""
    for line in lines:
        into.write(line)
    into.flush()


def refuse_standing(path: str) -> None:
    """Nothing is written over: it may be a key, or a journal.

    Raises:
        click.UsageError: a file stands at `path`, which is no descriptor.

    """
    if descriptor_of(path) is None and os.path.isfile(path):  # noqa: PTH113  # one that can't be is none
        raise click.UsageError(f"{path} exists; choose another name")


def write_whole(path: Path, lines: Iterable[bytes]) -> None:
    """Write them under another name first: nothing that is half written ever stands at `path`, where no file
    stands (`refuse_standing`). What is no regular file, such as a pipe, is written to as it is, and so is
    what is open already (`descriptor_of`).

    Raises:
        click.ClickException: it can't be written.

    """
    descriptor = descriptor_of(path)
    try:
        if descriptor is not None:
            sys.stdout.flush()  # what was said before stands before it
            with os.fdopen(os.dup(descriptor), "wb") as standing:
                pour(lines, standing)
            return
        if path.exists():
            with path.open("wb") as standing:
                pour(lines, standing)
            return
        target = Path(os.path.realpath(path))  # not the link, but what it leads to
        half = target.with_name(f".meowcat-{secrets.token_hex(4)}")  # any name has room for that
        try:
            with half.open("xb") as file:
                pour(lines, file)
                os.fsync(file.fileno())
            half.replace(target)
        except BaseException:  # raised again: what is half written goes
            half.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise unwritten(path, error) from error
