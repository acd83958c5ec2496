"""Large request bodies over HTTP/1.1: a thread sends each chunk from where it stands. It gets them by itself
where the body can be read by a thread (`contract.Draws`), and from the event loop otherwise.

A client that takes chunks over copies each of them, and sends them by a thread of its own. Here the memory
that a source was read into is what the kernel copies from. See `transport.direct` for what goes this way.
"""

import select
import socket
from collections.abc import AsyncIterator
from time import monotonic

import anyio

from meowcat.core.values import Fault, FaultKind
from meowcat.transport.bodies import let_go
from meowcat.transport.connections import MOST_AT_ONCE, unacknowledged
from meowcat.transport.contract import Chunk, Draws, HttpRequest, TransportFault, draws
from meowcat.transport.faults import describe
from meowcat.transport.incoming import Incoming, NotHTTP
from meowcat.transport.sockets import SocketExchange, SocketReply, SocketTransport, judge
from meowcat.transport.uploads import HandedOver

__all__ = ["SocketUpload"]

Outcome = SocketReply | Fault | None
"""None while there is more to send."""

LOOKS, LOOK = 8, 0.25
"""So often in a read time-out it is looked at what the system holds for a server, and whether anybody still
wants it; and seconds after which at the latest."""


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
        self._left = request.body_length or 0
        """Bytes of the body that are not in a chunk yet."""
        self._last = False
        """Whether the last chunk is being sent, or was."""
        self._draws: Draws | None = None
        """The body, where the next chunk can be drawn."""
        self._chunk: Chunk | None = None
        """The one that is sent, and nobody else's: its memory is free by the time that the next one is asked
        for."""
        self._first = True
        """Whether it is the first one."""
        self._handed = HandedOver()

    async def __aenter__(self) -> SocketReply:
        assert self._request.body is not None  # noqa: S101  # `DirectHttp` chose this class by it
        body = self._request.body()
        try:
            outcome = await self._converse(body)
        except BaseException:  # raised again: canceled, or the body's source failed
            self._stop()
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await let_go(body)
        if isinstance(outcome, Fault):
            self._stop()
            raise TransportFault(outcome)
        return outcome

    async def dead(self) -> None:
        """See the class."""
        await self._wait_for_thread()

    def _stop(self) -> bool:
        with self._lock:
            if self._busy and self._last:
                self._stopped = True  # the thread closes the socket
                return False
        return super()._stop()

    async def _converse(self, body: AsyncIterator[Chunk]) -> SocketReply | Fault:
        drawn = body if draws(body) else None
        send = self._begin_sending
        while True:
            self._draws = drawn if drawn is not None and drawn.ready() else None
            if self._draws is None:
                self._chunk = await anext(body, None)
                if self._chunk is None:
                    return self._other_length()
            try:
                outcome = await send()
            except (OSError, NotHTTP) as error:
                outcome = judge(error, self._request.url)
            if outcome is not None:
                return outcome
            send = self._go_on

    def _other_length(self) -> Fault:
        detail = f"the body has not the {self._request.body_length:,} bytes that were announced"
        return describe(FaultKind.INTERNAL, self._request.url, detail)

    async def _begin_sending(self) -> Outcome:
        """Send the head and the first chunk, by a connection that waits for that if there is one."""
        idle = self._transport.idle.take(self._origin)
        if idle is not None:
            self.connection = idle
            try:
                return await self.do(self._send_first)
            except ConnectionError:
                if self._last or not self._first:
                    raise
                idle.close()
                # Closed by the server just now: what it has of the body is not all, and means nothing.
        try:
            await self._connect()
        except OSError as error:
            return self._unreachable(error)
        return await self.do(self._send_first)

    async def _go_on(self) -> Outcome:
        return await self.do(self._send)

    # Of the threads

    def _send_first(self, sock: socket.socket) -> Outcome:
        self._left = self._request.body_length or 0  # it may be sent twice
        self._incoming = Incoming(self._request.method)
        self._handed.asked()
        if self._chunk is None:
            self._draw()
        sock.sendall(self._head)
        return self._send(sock)

    def _draw(self) -> None:
        self._chunk = None if self._draws is None else self._draws.draw()

    def _send(self, sock: socket.socket) -> Outcome:
        """Send the chunk, and those that can be drawn."""
        if self._chunk is None:
            self._draw()
        while self._chunk is not None:
            if len(self._chunk) > self._left:
                return self._other_length()
            self._left -= len(self._chunk)
            self._last = self._left == 0
            outcome = self._send_one(memoryview(self._chunk), sock)
            self._chunk, self._first = None, False
            if outcome is not None:
                return outcome
            self._draw()
        return None

    def _send_one(self, whole: memoryview, sock: socket.socket) -> Outcome:
        chunk = whole
        try:
            while chunk:
                answered = self._is_answered(sock)
                if self._stopped:
                    raise ConnectionAbortedError  # so that never all of it arrives
                if answered:
                    return self._receive_early(sock)
                chunk = chunk[sock.send(chunk) :]
            self._handed.answered(whole)
        except (BrokenPipeError, ConnectionResetError):
            return self._receive_early(sock)  # it may have said why before it closed the connection
        return self._receive(sock) if self._last else None

    def _receive(self, sock: socket.socket) -> SocketReply:
        incoming, connection = self._incoming, self.connection
        assert incoming is not None  # noqa: S101  # of the first chunk
        assert connection is not None  # noqa: S101  # likewise
        while not incoming.begun:
            self._wait(sock, select.POLLIN)
            incoming.feed(sock.recv(MOST_AT_ONCE))
        return SocketReply(connection, incoming, self._request.url)

    def _receive_early(self, sock: socket.socket) -> SocketReply | Fault:
        """A reply to a body that has no end. The connection is of no use after it."""
        reply = self._receive(sock)
        assert self._incoming is not None  # noqa: S101  # as above
        self._incoming.reusable = False
        if 200 <= reply.status < 300:  # noqa: PLR2004  # the class of success
            reason = f"it answered {reply.status} before it had all of the body"
            return describe(FaultKind.DISCONNECTED, self._request.url, reason)
        return reply

    def _is_answered(self, sock: socket.socket) -> bool:
        """Wait until more can be sent; whether the server has answered instead. One that takes no more of a
        body that it has refused may never let more be sent."""
        while True:
            events = self._wait(sock, select.POLLIN | select.POLLOUT)
            if events & ~select.POLLOUT and self._hears(sock):
                return True
            if events & select.POLLOUT:
                return False

    def _wait(self, sock: socket.socket, events: int) -> int:
        """Which of `events` come. A server that still takes what the system holds for it is not silent, nor
        is one that may be busy with what has arrived: megabytes, for which a slow one needs minutes.

        After a stop nobody has such patience: what is not sent yet never goes out, and a reply is awaited for
        the read time-out.

        Raises:
            TimeoutError: it is. ConnectionAbortedError: stopped.
        """
        poll = select.poll()
        poll.register(sock, events)
        held, since = unacknowledged(sock), monotonic()
        stopped: float | None = None
        while not (ready := poll.poll(min(LOOK, self._read / LOOKS) * 1000)):
            if self._stopped:
                if events & select.POLLOUT:
                    raise ConnectionAbortedError  # so that never all of it arrives
                stopped = stopped or monotonic()
                if monotonic() - stopped >= self._read:
                    raise TimeoutError
                continue
            left = unacknowledged(sock)
            if left < held:
                held, since = left, monotonic()
            patience = self._read if left else self._read + self._handed.on_its_way
            if monotonic() - since >= patience:
                raise TimeoutError
        return ready[0][1]

    def _hears(self, sock: socket.socket) -> bool:
        """Whether the server has answered already: what it says in between is no answer.

        Raises:
            ConnectionResetError: it has hung up.
        """
        incoming = self._incoming
        assert incoming is not None  # noqa: S101  # as above
        sock.settimeout(0)
        try:
            incoming.feed(sock.recv(MOST_AT_ONCE))
        except BlockingIOError:
            pass
        finally:
            sock.settimeout(self._read)
        return incoming.begun
