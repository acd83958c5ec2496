"""Connections that wait for their next request. Used by threads."""

import select
import socket
from collections import deque
from threading import Lock
from time import monotonic

__all__ = ["IdleSockets", "Origin"]

Origin = tuple[str, int]
"""Host and port."""

IDLE_SECONDS = 30.0
"""A connection that was idle for longer is not used again: servers close theirs about then."""

MOST = 64


class IdleSockets:
    """Those of one client whose last body was read to its end."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._waiting: deque[tuple[float, Origin, socket.socket]] = deque()
        self._closed = False

    def take(self, origin: Origin) -> socket.socket | None:
        """One that the server has not closed so far; the latest first, since it is the surest."""
        while (sock := self._pop(origin)) is not None:
            if not _readable(sock):
                return sock
            sock.close()  # its end has come, or something that nobody asked for
        return None

    def _pop(self, origin: Origin) -> socket.socket | None:
        with self._lock:
            while self._waiting and self._waiting[0][0] < monotonic() - IDLE_SECONDS:
                self._waiting.popleft()[2].close()
            for index in reversed(range(len(self._waiting))):
                if self._waiting[index][1] == origin:
                    sock = self._waiting[index][2]
                    del self._waiting[index]
                    return sock
        return None

    def put(self, origin: Origin, sock: socket.socket) -> None:
        with self._lock:
            self._waiting.append((monotonic(), origin, sock))
            while len(self._waiting) > (0 if self._closed else MOST):
                self._waiting.popleft()[2].close()

    def close(self) -> None:
        """Close all of them, and whatever is put here from now on."""
        with self._lock:
            self._closed = True
            while self._waiting:
                self._waiting.popleft()[2].close()


def _readable(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
