"""Events as JSON lines (jsonlines.org), in a file or on a stream."""

import os
from collections.abc import Sequence
from functools import partial
from io import RawIOBase
from pathlib import Path
from typing import IO, Any

import msgspec

from meowcat.core.errors import InvalidArgument, SinkError
from meowcat.journal.logged import LoggedEvent, event_object
from meowcat.transfer.disk import Disk, OsDisk, lacks
from meowcat.transport.threads import Lane

_BLOCK = 64 << 10
_BEGINNING = b'{"id":"'
"""Of every line: what tells a file of this sink's own from any other one."""


class JSONLines:
    """Appends each event as one line of JSON.

    Args:
        to: a path, or an open stream of text or bytes, which is flushed and never closed.
        sync: whether the lines of a file are on the disk before the cursor moves behind them; without it they
            survive the death of the process, and not a power failure.

    A file is opened for each batch, so it may be renamed at any time to rotate it. A last line that a crash
    tore is cut off, and comes again whole. One process writes a file.

    Raises:
        InvalidArgument: neither a path nor a stream that can be written to.
    """

    def __init__(self, to: str | os.PathLike[str] | IO[str] | IO[bytes], *, sync: bool = True) -> None:
        if isinstance(to, str | os.PathLike):
            self._write = partial(_append_to_file, os.path.abspath(to), sync, OsDisk())  # noqa: PTH100  # symlinks stay
        elif callable(getattr(to, "write", None)):
            self._write = partial(_write_to_stream, to)
        else:
            raise InvalidArgument(f"JSONLines {to!r}: expected a path or a stream that can be written to")
        self._lane = Lane("meowcat-jsonlines")

    async def deliver(self, events: Sequence[LoggedEvent]) -> None:
        lines = b"".join(msgspec.json.encode(event_object(event)) + b"\n" for event in events)
        await self._lane.run(partial(self._write, lines))


def _write_to_stream(stream: IO[Any], lines: bytes) -> None:
    text = hasattr(stream, "encoding")  # as every stream of text has
    if not isinstance(stream, RawIOBase):
        stream.write(lines.decode() if text else lines)
    else:  # it may take a part only, and says how much
        rest = memoryview(lines)
        while rest:
            taken = stream.write(rest)
            if not taken:
                raise SinkError("the stream takes nothing at this moment")
            rest = rest[taken:]
    stream.flush()


def _append_to_file(path: str, sync: bool, disk: Disk, lines: bytes) -> None:
    """Append, all or nothing as far as the disk allows: what was written of a batch that failed is taken
    away, so that an outage does not fill the file with copies."""
    fd = disk.open(path, os.O_RDWR | os.O_CREAT)
    try:
        _lock(disk, fd, path)
        end = _end_of_lines(disk, fd, path)
        try:
            _write_all(disk, fd, lines, end)
            if sync:
                disk.fdatasync(fd)
                if end == 0:  # the file may be new
                    disk.fsync_folder(str(Path(path).parent))
        except OSError:
            disk.ftruncate(fd, end)
            raise
    finally:
        disk.close(fd)


def _lock(disk: Disk, fd: int, path: str) -> None:
    """Keep everybody else out for this batch: another process, or a write that was abandoned while it hung.

    Raises:
        SinkError: somebody else is writing the file.
    """
    try:
        alone = disk.flock(fd)
    except OSError as error:
        if not lacks(error):
            raise
        return  # a file system without locks: there it is the user who sees to one writer
    if not alone:
        raise SinkError(f"{path}: somebody else is writing it at this moment")


def _write_all(disk: Disk, fd: int, lines: bytes, offset: int) -> None:
    rest = memoryview(lines)
    while rest:
        written = disk.pwrite(fd, rest, offset)
        rest, offset = rest[written:], offset + written


def _end_of_lines(disk: Disk, fd: int, path: str) -> int:
    """Where the last whole line ends; what stands behind it was torn by a crash, and is cut off.

    Raises:
        SinkError: the file holds something else than JSON lines, and stays as it is.
    """
    size = disk.fstat(fd).size
    _refuse_alien(disk, fd, 0, path)
    end = size
    while end:
        start = max(0, end - _BLOCK)
        newline = disk.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end != size:
        _refuse_alien(disk, fd, end, path)
        disk.ftruncate(fd, end)
    return end


def _refuse_alien(disk: Disk, fd: int, line: int, path: str) -> None:
    """See that the line at this offset, as far as it goes, is one of ours."""
    found = disk.pread(fd, len(_BEGINNING), line)
    if not _BEGINNING.startswith(found):
        raise SinkError(f"{path}: holds something else than events and is left as it is; choose another path")
