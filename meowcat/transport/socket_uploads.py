"""Large request bodies over HTTP/1.1: the event loop brings each chunk, and a thread sends it from where it
stands.

A client that takes chunks over copies each of them, and sends them by a thread of its own. Here the memory
that a source was read into is what the kernel copies from. See `transport.large` for what goes this way.
"""

import io
import re
import select
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from http.client import HTTPException, HTTPResponse

import anyio

from meowcat.core.values import Fault, FaultKind
from meowcat.transport.contract import Chunk, HttpRequest, TransportFault
from meowcat.transport.faults import describe
from meowcat.transport.sockets import SocketExchange, SocketReply, SocketTransport, judge

__all__ = ["SocketUpload"]

_HEAD = 64 << 10
"""Bytes of a reply that are taken at once while the body is still being sent."""

_INTERIM = re.compile(rb"HTTP/1\.1 1\d\d")

_FINAL = 200
"""The first status of a reply that is not followed by another one (RFC 9110 15.2)."""


class SocketUpload(SocketExchange):
    """A request whose body has a known length. A stop shuts the socket: of a body that was not sent in full
    before, never all arrives. One that was is the server's to act upon.

    A server that answers before it has all of the body is heard, and gets no more of it (RFC 9112 9.3).
    """

    def __init__(self, transport: SocketTransport, request: HttpRequest) -> None:
        super().__init__(transport, request)
        self._read = transport.timeouts.read
        self._begun = False

    async def __aenter__(self) -> SocketReply:
        assert self._request.body is not None  # noqa: S101  # `LargeBodies` chose this class by it
        body = self._request.body()
        try:
            outcome = await self._converse(body)
        except BaseException:  # raised again: canceled, or the body's source failed
            self._stop()
            raise
        finally:
            if isinstance(body, AsyncGenerator):
                with anyio.CancelScope(shield=True):
                    await body.aclose()
        if isinstance(outcome, Fault):
            self._stop()
            raise TransportFault(outcome)
        return outcome

    async def _converse(self, body: AsyncIterator[Chunk]) -> SocketReply | Fault:
        left = self._request.body_length or 0
        outcome: SocketReply | Fault | None = None
        while outcome is None:
            chunk = await anext(body, None)
            if chunk is None or len(chunk) > left:
                detail = f"the body has not the {self._request.body_length:,} bytes that were announced"
                return describe(FaultKind.INTERNAL, self._request.url, detail)
            left -= len(chunk)
            outcome = await self.do(partial(self._send, memoryview(chunk), last=left == 0))
            del chunk  # so that its memory is free by the time that the next one is asked for
        return outcome

    # Of the threads

    def _open(self) -> Fault | None:
        sock = self._transport.idle.take(self._origin)
        try:
            if sock is None:
                sock = self._transport.connect(self._origin, self._hold)
            else:
                self._hold(sock)
        except OSError as error:
            return self._unreachable(error)
        try:
            self._send_head(sock)
        except OSError as error:
            return judge(error, self._request.url)
        return None

    def _send(self, chunk: memoryview, *, last: bool) -> SocketReply | Fault | None:
        if not self._begun:
            self._begun = True
            if (failure := self._open()) is not None:
                return failure
        try:
            return self._send_or_hear(chunk, last=last)
        except (OSError, HTTPException) as error:
            return judge(error, self._request.url)

    def _send_or_hear(self, chunk: memoryview, *, last: bool) -> SocketReply | None:
        sock = self._sock
        if sock is None:
            raise ConnectionAbortedError  # stopped
        try:
            while chunk:
                if (heard := self._hear(sock)) is not None:
                    return self._receive(heard)
                chunk = chunk[sock.send(chunk) :]
        except (BrokenPipeError, ConnectionResetError):
            return self._receive(b"")  # it may have said why before it closed the connection
        return self._receive(None) if last else None

    def _hear(self, sock: socket.socket) -> bytes | None:
        """What the server has said already; None where it listens."""
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        if not poll.poll(0):
            return None
        sock.settimeout(0)
        try:
            heard = sock.recv(_HEAD)
        except BlockingIOError:
            return None
        finally:
            sock.settimeout(self._read)
        if not heard:
            raise ConnectionResetError
        while _INTERIM.match(heard):
            heard = heard.partition(b"\r\n\r\n")[2]
        return heard or None

    def _receive(self, heard: bytes | None) -> SocketReply:
        """The reply. `heard` is what came of it while the body was still being sent, after which the
        connection is of no use any more."""
        assert self._sock is not None  # noqa: S101  # the callers have it
        while True:
            response = HTTPResponse(_Heard(heard or b"", self._sock), method=self._request.method)  # type: ignore[arg-type]  # it only makes a file of it
            response.begin()
            if response.status >= _FINAL:
                break
            heard = response.fp.peek() if isinstance(response.fp, io.BufferedReader) else heard
        if heard is not None:
            response.will_close = True
        self._response = response
        return SocketReply(self, response, self._request.url)


class _Heard(io.RawIOBase):
    """A socket some bytes of which were taken already. Closing it leaves the socket open."""

    def __init__(self, heard: bytes, sock: socket.socket) -> None:
        self._rest = memoryview(heard)
        self._sock = sock

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what a BufferedReader gives
        if not self._rest:
            return self._sock.recv_into(buffer)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
