"""Large request bodies over HTTP/1.1: the event loop brings each chunk, and a thread sends it from where it
stands.

A client that takes chunks over copies each of them, and sends them by a thread of its own. Here the memory
that a source was read into is what the kernel copies from. See `transport.large` for what goes this way.
"""

import re
import select
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from http.client import HTTPException

import anyio

from meowcat.core.values import Fault, FaultKind
from meowcat.transport.contract import Chunk, HttpRequest, TransportFault
from meowcat.transport.faults import describe
from meowcat.transport.sockets import SocketExchange, SocketReply, SocketTransport, judge, receive

__all__ = ["SocketUpload"]

Outcome = SocketReply | Fault | None
"""None while there is more to send."""

_HEAD = 64 << 10
"""Bytes of a reply that are taken at once while the body is still being sent."""

_INTERIM = re.compile(rb"HTTP/1\.1 1\d\d")
_STATUS = len(b"HTTP/1.1 100")
"""Bytes of a reply that tell whether it is an interim one."""


class SocketUpload(SocketExchange):
    """A request whose body has a known length.

    After a stop the connection ends before all of the body has arrived. Once the last chunk is being sent it
    may be too late for that: then the thread goes on, to the first piece of the chunk that is not sent, or to
    the reply or the read time-out, and `dead` waits for it. A server may act on such a request all that time.

    A server that answers before it has all of the body is heard, and gets no more of it (RFC 9112 9.3). Then
    no success that it tells of can be that of this request: it is DISCONNECTED.
    """

    def __init__(self, transport: SocketTransport, request: HttpRequest) -> None:
        super().__init__(transport, request)
        self._read = transport.timeouts.read
        self._heard = b""
        """What came of a reply while the body was being sent."""
        self._last = False
        """Whether the last chunk is being sent, or was."""

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

    async def dead(self) -> None:
        """See the class."""
        if self._busy:
            await self._over.wait()

    def _stop(self) -> bool:
        with self._lock:
            if self._busy and self._last:
                self._stopped = True  # the thread closes the socket
                return False
        return super()._stop()

    async def _converse(self, body: AsyncIterator[Chunk]) -> SocketReply | Fault:
        left = self._request.body_length or 0
        send = self._begin_with
        while True:
            chunk = await anext(body, None)
            if chunk is None or len(chunk) > left:
                detail = f"the body has not the {self._request.body_length:,} bytes that were announced"
                return describe(FaultKind.INTERNAL, self._request.url, detail)
            left -= len(chunk)
            self._last = left == 0
            outcome = await self.do(partial(self._judged, send, memoryview(chunk)))
            if outcome is not None:
                return outcome
            send = self._send
            del chunk  # so that its memory is free by the time that the next one is asked for

    # Of the threads

    def _judged(self, send: Callable[[memoryview], Outcome], chunk: memoryview) -> Outcome:
        try:
            return send(chunk)
        except (OSError, HTTPException) as error:
            return judge(error, self._request.url)

    def _begin_with(self, chunk: memoryview) -> Outcome:
        """Send the head and the first chunk, by a connection that waits for that if there is one."""
        idle = self._transport.idle.take(self._origin)
        if idle is not None:
            try:
                self._hold(idle)
                self._send_head(idle)
                return self._send(chunk)
            except ConnectionError:
                if self._last or self._stopped:
                    raise
                # Closed by the server just now: what it has of the body is not all, and means nothing.
        try:
            sock = self._transport.connect(self._origin, self._hold)
        except OSError as error:
            return self._unreachable(error)
        self._send_head(sock)
        return self._send(chunk)

    def _send(self, chunk: memoryview) -> Outcome:
        sock = self._sock
        assert sock is not None  # noqa: S101  # held since the first chunk
        try:
            while chunk:
                answered = self._is_answered(sock)
                if self._stopped:
                    raise ConnectionAbortedError  # so that never all of it arrives
                if answered:
                    return self._receive_early(sock)
                chunk = chunk[sock.send(chunk) :]
        except (BrokenPipeError, ConnectionResetError):
            return self._receive_early(sock)  # it may have said why before it closed the connection
        return self._receive(sock) if self._last else None

    def _receive(self, sock: socket.socket) -> SocketReply:
        heard, self._heard = self._heard, b""
        self._response = receive(sock, self._request.method, heard)
        return SocketReply(self, self._response, self._request.url)

    def _receive_early(self, sock: socket.socket) -> SocketReply | Fault:
        """A reply to a body that has no end. The connection is of no use after it."""
        reply = self._receive(sock)
        assert self._response is not None  # noqa: S101  # it has just come
        self._response.will_close = True
        if 200 <= reply.status < 300:  # noqa: PLR2004  # the class of success
            reason = f"it answered {reply.status} before it had all of the body"
            return describe(FaultKind.DISCONNECTED, self._request.url, reason)
        return reply

    def _is_answered(self, sock: socket.socket) -> bool:
        """Wait until more can be sent; whether the server has answered instead. One that takes no more of a
        body that it has refused may never let more be sent."""
        poll = select.poll()
        poll.register(sock, select.POLLIN | select.POLLOUT)
        while ready := poll.poll(self._read * 1000):
            _, events = ready[0]
            if events & ~select.POLLOUT and self._hears(sock):
                return True
            if events & select.POLLOUT:
                return False
        raise TimeoutError

    def _hears(self, sock: socket.socket) -> bool:
        """Whether the server has answered already: what it says in between is no answer.

        Raises:
            ConnectionResetError: it has hung up.
        """
        sock.settimeout(0)
        try:
            came = sock.recv(_HEAD)
        except BlockingIOError:
            return False
        finally:
            sock.settimeout(self._read)
        if not came:
            raise ConnectionResetError
        self._heard += came
        while _INTERIM.match(self._heard):
            _, blank, rest = self._heard.partition(b"\r\n\r\n")
            if not blank:
                return False  # the rest of it is still to come
            self._heard = rest
        return len(self._heard) >= _STATUS
