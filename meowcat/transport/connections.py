"""Connections of one's own to servers, on the event loop; and those that wait for their next request."""

import asyncio
import socket
import struct
import sys
from collections import deque
from time import monotonic
from typing import NamedTuple

import anyio
import anyio.lowlevel

from meowcat.transport.tls import SecureSocket

if sys.platform != "win32":
    import fcntl
    import termios

__all__ = [
    "MOST_AT_ONCE",
    "Connection",
    "IdleConnections",
    "Origin",
    "connection_over",
    "on_trio",
    "unacknowledged",
]


class Origin(NamedTuple):
    """Where connections lead to."""

    host: str
    port: int
    secure: bool = False
    """Whether TLS is spoken there."""


MOST_AT_ONCE = 64 << 10
"""Bytes that are taken from a socket at once where nobody says where they belong."""

IDLE_SECONDS = 30.0
"""A connection that was idle for longer is not used again: servers close theirs about then."""

_RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""Of SO_LINGER: whoever closes waits for nothing that is under way, and resets the connection."""

_NWRITE = 0x1024
"""SO_NWRITE of macOS's sys/socket.h, which Python has no name for."""

MOST_IDLE = 256
"""As many as `Config.max_requests` allows requests."""


class Connection:
    """A connected socket. But for `shut` and `close` it is the event loop's, or the thread's that borrows it.

    Args:
        sock: is closed along with this.
        silence: seconds without a byte that end it.

    """

    def __init__(self, sock: socket.socket, silence: float) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.silence = silence

    async def send(self, data: bytes) -> None:
        """Send all of it.

        Raises:
            TimeoutError: the server takes none. OSError: the connection has broken.
        """
        while data:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                with anyio.move_on_after(self.silence) as scope:
                    await anyio.wait_writable(self.sock)
                if scope.cancelled_caught:
                    raise TimeoutError from None

    async def receive(self) -> bytes:
        """Some of what has come, or comes next; b"" once the server has ended the connection.

        Raises:
            TimeoutError: nothing comes. OSError: the connection has broken.
        """
        await anyio.lowlevel.checkpoint()  # a fast server would leave the loop no time for anything else
        while True:
            try:
                came: bytes = self.sock.recv(MOST_AT_ONCE)
            except BlockingIOError:
                with anyio.move_on_after(self.silence) as scope:
                    await anyio.wait_readable(self.sock)
                if scope.cancelled_caught:
                    raise TimeoutError from None
            else:
                return came

    def came(self) -> bytes | None:
        """What was taken from the socket and not received, which it is with this; b"" is the end of it.

        Raises:
            OSError: the connection has broken.
        """
        return None

    def rest(self) -> bool:
        """Nobody expects anything of it until its next request; whether it can be used for one."""
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False  # its end has come, or something that nobody asked for

    def lend(self) -> socket.socket:
        """The socket for a thread, which may block; what `came` is its to take first."""
        self.sock.settimeout(self.silence)
        return self.sock

    def give_back(self) -> None:
        """The thread is out of it."""
        self.sock.settimeout(0)

    def shut(self) -> None:
        """Wake whoever waits for it."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended already

    def abort(self) -> None:
        """Close it in the middle of something. Of a mere end a peer that has no room to go on sending would
        not hear for a minute."""
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError:
            pass  # it has ended already
        self.close()

    def close(self) -> None:
        self.shut()  # closing alone would leave it open where a forked child has a copy
        self.sock.close()


class _Watched(Connection):
    """One that an event loop of asyncio watches as long as it lasts. To ask the loop for each wait anew, with
    a scope for its end, costs as much as all else that a small request does."""

    def __init__(self, sock: socket.socket, silence: float) -> None:
        super().__init__(sock, silence)
        self._loop = asyncio.get_running_loop()
        self._told_again = isinstance(self._loop, asyncio.SelectorEventLoop)
        """Whether the loop tells of a socket until it is empty. uvloop tells of one that has broken once,
        whatever is left in it."""
        self._watched = False
        self._waiting: asyncio.Future[bytes] | None = None
        self._came: bytes | OSError | None = None
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def receive(self) -> bytes:
        came = self.came()
        if came is None and isinstance(self.sock, SecureSocket) and self.sock.holds:
            came = self.sock.recv(MOST_AT_ONCE)  # the loop does not tell of what TLS holds
        if came is not None:
            return came
        if not self._watched:
            self._watch()
        waiting: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting = waiting
        self._due = self._loop.time() + self.silence
        if self._timer is None:
            self._timer = self._loop.call_at(self._due, self._look)
        try:
            return await waiting
        finally:
            self._waiting = None

    def came(self) -> bytes | None:
        came = self._came
        if isinstance(came, OSError):
            raise came
        if came:
            self._came = None
        return came

    def rest(self) -> bool:
        return self._came is None and super().rest()  # the loop may not have told yet what has come

    def lend(self) -> socket.socket:
        self._leave()
        return super().lend()

    def close(self) -> None:
        self._leave()
        super().close()
        self._came = ConnectionAbortedError()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(self._came)

    def _watch(self) -> None:
        self._watched = True
        self._loop.add_reader(self.sock.fileno(), self._wake)

    def _unwatch(self) -> None:
        self._watched = False
        self._loop.remove_reader(self.sock.fileno())

    def _leave(self) -> None:
        if self._watched:
            self._unwatch()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        """Something has come, or the end. What nobody waits for is taken once, and the next is left where it
        is until somebody waits for it. Then the socket is watched anew."""
        waiting = self._waiting
        while self._came is None:
            try:
                came: bytes | OSError = self.sock.recv(MOST_AT_ONCE)
            except BlockingIOError:
                return
            except OSError as error:
                came = error
            if waiting is None or waiting.done():
                self._came = came
            elif isinstance(came, OSError):
                self._came = came  # told once: after it the socket says that its end has come
                waiting.set_exception(came)
            else:
                waiting.set_result(came)
                if self._told_again:
                    return
        self._unwatch()

    def _look(self) -> None:
        """Whether something comes: one timer for many waits."""
        self._timer = None
        waiting = self._waiting
        if waiting is None or waiting.done():
            return
        if self._loop.time() < self._due:
            self._timer = self._loop.call_at(self._due, self._look)
        else:
            waiting.set_exception(TimeoutError())


def connection_over(sock: socket.socket, silence: float) -> Connection:
    """The one for this event loop."""
    return (Connection if on_trio() else _Watched)(sock, silence)


def on_trio() -> bool:
    """Whether the event loop that runs this is trio's."""
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())


def unacknowledged(sock: socket.socket) -> int:
    """Bytes that were sent and that the system still holds, since the peer may need them once more or has no
    room for them (tcp(7), SIOCOUTQ; getsockopt(2) of macOS). Where no system tells, none."""
    if sys.platform == "darwin":
        return sock.getsockopt(socket.SOL_SOCKET, _NWRITE)
    if sys.platform == "win32":
        return 0
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


class IdleConnections:
    """Those of one client whose last body was read to its end."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, Origin, Connection]] = deque()
        self._closed = False

    def take(self, origin: Origin) -> Connection | None:
        """One that the server has not closed so far; the latest first, since it is the surest."""
        while (found := self._pop(origin)) is not None:
            if found.rest():
                return found
            found.close()
        return None

    def _pop(self, origin: Origin) -> Connection | None:
        waiting = self._waiting
        if not waiting:
            return None
        while waiting and waiting[0][0] < monotonic() - IDLE_SECONDS:
            waiting.popleft()[2].close()
        for index in reversed(range(len(waiting))):
            if waiting[index][1] == origin:
                found = waiting[index][2]
                del waiting[index]
                return found
        return None

    def put(self, origin: Origin, connection: Connection) -> None:
        self._waiting.append((monotonic(), origin, connection))
        while len(self._waiting) > (0 if self._closed else MOST_IDLE):
            self._waiting.popleft()[2].close()

    def close(self) -> None:
        """Close all of them, and whatever is put here from now on."""
        self._closed = True
        while self._waiting:
            self._waiting.popleft()[2].close()
