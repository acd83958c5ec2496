"""Lines over a Unix socket.

The streams of anyio would do, but for one thing: on asyncio a receive that is canceled in the very turn in
which its socket becomes readable leaves an "Exception in callback" in the application's log (4.16), and a
close cancels receives of clients that hang up at that moment. `anyio.wait_readable` does not.
"""

import os
import socket
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import anyio.lowlevel

from meowcat.control.place import fitting

_CHUNK = 64 << 10
_FULL_PAUSE = (0.02, 0.5)
"""Seconds until the next try to connect where too many others wait to be accepted: at first, and at most."""


class LineTooLong(Exception):
    """No end of a line within the bytes that it may have."""


class Wire:
    """One end of a connection. Every method raises OSError where the connection is broken."""

    def __init__(self, raw: socket.socket) -> None:
        raw.setblocking(False)
        self.raw = raw
        self._held = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.raw.close()

    async def line(self, limit: int) -> bytes | None:
        """The next line without its line feed; None where the other end hung up, within a line too.

        Raises:
            LineTooLong: more than `limit` bytes.
        """
        await anyio.lowlevel.checkpoint()  # a flood of lines must not keep everybody else from their turn
        searched = 0
        while (end := self._held.find(b"\n", searched)) < 0:
            searched = len(self._held)
            if searched > limit or not await self._more():
                break
        if end < 0 and searched <= limit:
            return None
        if end < 0 or end > limit:
            raise LineTooLong
        line = bytes(self._held[:end])
        del self._held[: end + 1]
        return line

    async def _more(self) -> bool:
        """Whether anything came before the end."""
        while True:
            await anyio.wait_readable(self.raw)
            try:
                chunk = self.raw.recv(_CHUNK)
            except BlockingIOError:
                continue
            self._held += chunk
            return bool(chunk)

    async def stirs(self) -> None:
        """Wait until the other end says anything, or hangs up."""
        if not self._held:
            await anyio.wait_readable(self.raw)

    async def send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[self.raw.send(left) :]
            except BlockingIOError:
                await anyio.wait_writable(self.raw)


def listen_at(path: Path, backlog: int) -> socket.socket:
    """Listen at `path`, for this user alone; a socket that stands there is taken for a dead one. Blocking.

    It has its mode before it listens, so that nobody can connect in between, whatever the umask.
    """
    raw = socket.socket(socket.AF_UNIX)
    try:
        with fitting(path) as name:
            if path.is_socket():
                path.unlink()
            raw.bind(name)
            os.chmod(name, stat.S_IRUSR | stat.S_IWUSR)  # noqa: PTH101  # the short name, not the path
        raw.listen(backlog)
        raw.setblocking(False)
    except BaseException:  # raised again: whatever it was, the descriptor is given back
        raw.close()
        raise
    return raw


async def connect_to(path: Path) -> Wire:
    """Connect to who listens at `path`."""
    raw = socket.socket(socket.AF_UNIX)
    wire = Wire(raw)
    pause, most = _FULL_PAUSE
    try:
        with fitting(path) as name:
            while True:
                try:
                    raw.connect(name)
                except BlockingIOError:
                    await anyio.sleep(pause)
                    pause = min(2 * pause, most)
                else:
                    return wire
    except BaseException:  # raised again: whatever it was, the descriptor is given back
        raw.close()
        raise
