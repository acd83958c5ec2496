"""Exchanges over HTTP/1.1 on sockets of one's own: requests that have no body, and what they share with
those that have one (`transport.socket_uploads`).

What is small the event loop sends and reads by itself. A large body is read by a thread, from its socket into
the buffers of whoever writes the bytes (`contract.Pours`): a client that hands each chunk to an event loop
copies it once more and wakes the loop for it, which doubles the processor time of a large download.

Stopping is simple with a socket of one's own: it is closed, or shut down where a thread has it, which comes
back at once.
"""

import os
import socket
import ssl
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from meowcat.core.values import Fault, FaultKind
from meowcat.transport.connections import MOST_AT_ONCE, Connection, IdleConnections, Origin, connection_over
from meowcat.transport.contract import Chunk, Headers, HttpRequest, Sink, Timeouts, TransportFault
from meowcat.transport.faults import describe, unconnected
from meowcat.transport.incoming import Incoming, NotHTTP
from meowcat.transport.outgoing import head_of
from meowcat.transport.tls import LONGEST_FILL, can_be_named, client_context, secure, why_insecure

__all__ = ["PouredReply", "SocketExchange", "SocketReply", "SocketTransport", "judge"]

T = TypeVar("T")

MOST_THREADS = 256
"""At once: as many as `Config.max_requests` allows requests."""

KEEP_ALIVE = 15
"""Seconds between two signs of life on a connection on which nothing comes, as the other client has it."""

NEXT_ADDRESS = 1.0
"""Seconds after which the next address of a host is tried, where it has several: the way to one may be
broken. The one that answered goes first from then on."""

_KEEP_ALIVE = [getattr(socket, name) for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL") if hasattr(socket, name)]


class SocketTransport:
    """What such exchanges share: idle connections, threads, and which address of a host has answered.

    Args:
        timeouts: seconds; `read` is the longest silence, the head included; `connect` is for a connection,
            and once more for a handshake over it.
        verify: a path to (or the bytes of) a PEM bundle of authorities that are trusted, too.

    Raises:
        InvalidArgument: the bundle can't be read, or is none.

    """

    def __init__(self, timeouts: Timeouts | None = None, *, verify: str | Path | bytes | None = None) -> None:
        self.timeouts = timeouts or Timeouts()
        if verify is not None:
            self._tls = client_context(verify)
        self.idle = IdleConnections()
        self.threads = anyio.CapacityLimiter(MOST_THREADS)
        self._preferred: dict[Origin, Any] = {}

    async def aclose(self) -> None:
        """Close idle connections. Exchanges under way end by themselves."""
        self.idle.close()

    @cached_property
    def _tls(self) -> ssl.SSLContext | None:
        """Made when it is needed: to read authorities takes 20 ms."""
        return client_context(None)

    def can_speak_tls_to(self, host: str) -> bool:
        """Whether that is possible at all."""
        return self._tls is not None and can_be_named(host)

    async def connect(self, origin: Origin) -> Connection:
        """One to the first of the host's addresses that answers.

        Raises:
            OSError: there is none. ssl.SSLError, which is one, too: it is not trusted, or speaks no TLS.

        """
        sock = await self._connect(origin)
        if origin.secure:
            assert self._tls is not None  # noqa: S101  # `can_speak_tls_to`
            sock = await secure(sock, origin.host, self._tls, self.timeouts.connect)
        return connection_over(sock, self.timeouts.read)

    async def _connect(self, origin: Origin) -> socket.socket:
        longest = self.timeouts.connect
        found = await _addresses(origin, longest)
        found.sort(key=lambda each: each[4] != self._preferred.get(origin))
        several = len(found)
        failure: OSError | None = None
        for number, place in enumerate(found, 1):
            try:
                sock = await _connect(place, longest if number >= several else min(NEXT_ADDRESS, longest))
            except OSError as error:
                failure = error
                if number == 1 < several and isinstance(error, TimeoutError):
                    found.append(place)  # it may be slow, and gets its time once no other has answered
            else:
                self._preferred[origin] = place[4]
                return sock
        raise failure or OSError("no address")


class SocketExchange:
    """A GET or HEAD.

    Raises:
        Unsuited: at once, where it can't be sent.

    """

    def __init__(self, transport: SocketTransport, request: HttpRequest) -> None:
        self._transport = transport
        self._request = request
        self._origin, self._head = head_of(request)
        self._lock = Lock()
        self.connection: Connection | None = None
        self._incoming: Incoming | None = None
        self._stopped = False
        self._busy = False
        """Whether a thread has the socket in its hands."""
        self._over: anyio.Event | None = None
        """Set once a thread is out of it that was stopped, where somebody waits for that."""

    async def __aenter__(self) -> "SocketReply":
        try:
            reply = await self._begin()
        except BaseException:  # raised again: a cancellation
            self._stop()
            raise
        if isinstance(reply, Fault):
            self._stop()
            raise TransportFault(reply)
        return reply

    async def __aexit__(self, *exc: object) -> None:
        incoming, connection = self._incoming, self.connection
        if connection is not None and incoming is not None and incoming.ended and incoming.reusable:
            self.connection = None
            self._transport.idle.put(self._origin, connection)
        else:
            self._stop()

    async def dead(self) -> None:
        """At once: a socket that was closed sends nothing."""

    async def _begin(self) -> "SocketReply | Fault":
        idle = self._transport.idle.take(self._origin)
        if idle is not None:
            self.connection = idle
            try:
                return await self._ask(idle)
            except (ConnectionError, NotHTTP):
                idle.close()
                # Closed by the server just now, or what comes is left over from an earlier reply (RFC 9112
                # 9.2). The request has no effect, so it is sent again where nothing was before it.
            except OSError as error:
                return judge(error, self._request.url)
        try:
            connection = await self._connect()
        except OSError as error:
            return self._unreachable(error)
        try:
            return await self._ask(connection)
        except (OSError, NotHTTP) as error:
            return judge(error, self._request.url)

    async def _connect(self) -> Connection:
        connection = self.connection = await self._transport.connect(self._origin)
        return connection

    def _unreachable(self, error: OSError) -> Fault:
        if isinstance(error, ssl.SSLError):
            return describe(FaultKind.TLS, self._request.url, why_insecure(error))
        reason = "its name can't be resolved" if isinstance(error, socket.gaierror) else _reason(error)
        return unconnected(error.errno, self._request.url, reason)

    async def _ask(self, connection: Connection) -> "SocketReply":
        await connection.send(self._head)
        incoming = self._incoming = Incoming(self._request.method)
        while not incoming.begun:
            incoming.feed(await connection.receive())
        return PouredReply(self, connection, incoming, self._request.url)

    # Threads

    async def do(self, call: Callable[[socket.socket], T]) -> T:
        """Have a thread do it, which may block. A cancellation shuts the socket down, and waits for it."""
        connection = self.connection
        if connection is None:
            raise ConnectionAbortedError
        sock = connection.lend()
        tell = _caller()

        def work() -> T | OSError | NotHTTP | None:
            with self._lock:
                if self._stopped:
                    return None  # nobody waits for it
                self._busy = True
            try:
                return call(sock)
            except (OSError, NotHTTP) as error:
                return error
            finally:
                over = self._let_go()
                if over is not None:
                    try:
                        tell(over.set)
                    except RuntimeError:  # the loop has ended, and with it whoever might have waited
                        pass

        try:
            done = await anyio.to_thread.run_sync(
                work, abandon_on_cancel=True, limiter=self._transport.threads
            )
        except BaseException:  # raised again: a cancellation
            if self._stop():
                with anyio.CancelScope(shield=True):
                    await self._wait_for_thread()
            raise
        connection.give_back()
        if isinstance(done, OSError | NotHTTP):
            raise done
        return done  # type: ignore[return-value]  # None only after a stop, and then nobody is here

    async def _wait_for_thread(self) -> None:
        with self._lock:
            if not self._busy:
                return
            over = self._over = self._over or anyio.Event()
        await over.wait()

    def _let_go(self) -> anyio.Event | None:
        """The thread has done its work; who waits for that."""
        with self._lock:
            self._busy = False
            if self._stopped:
                self._close()
            return self._over

    def _stop(self) -> bool:
        """Send and receive nothing more; whether a thread still has the socket."""
        with self._lock:
            self._stopped = True
            if self._busy and self.connection is not None:
                self.connection.shut()
                return True
            self._close()
            return False

    def _close(self) -> None:
        if self.connection is not None:
            self.connection.abort()
            self.connection = None


class SocketReply:
    """The head of a reply, and its body, which the event loop reads."""

    def __init__(self, connection: Connection, incoming: Incoming, url: str) -> None:
        self._connection = connection
        self._incoming = incoming
        self._url = url
        self.status = incoming.status
        self.headers: Headers = incoming.headers
        self.version = incoming.version

    async def read(self, size: int) -> Chunk:
        """See `HttpReply.read`."""
        incoming = self._incoming
        try:
            while not (chunk := incoming.take(size)) and not incoming.ended:
                incoming.feed(await self._connection.receive())
        except (OSError, NotHTTP) as error:
            fault = _broken(error, self._url)
        else:
            return chunk
        raise TransportFault(fault)


class PouredReply(SocketReply):
    """One whose body a thread can read as well."""

    def __init__(
        self, exchange: SocketExchange, connection: Connection, incoming: Incoming, url: str
    ) -> None:
        super().__init__(connection, incoming, url)
        self._exchange = exchange

    async def pour(self, sink: Sink) -> bool:
        """See `Pours`."""
        try:
            came = self._connection.came()
            if came is not None:
                self._incoming.feed(came)
            return await self._exchange.do(lambda sock: self._pour(sock, sink))
        except (OSError, NotHTTP) as error:
            fault = _broken(error, self._url)
        raise TransportFault(fault)

    # Of the thread

    def _pour(self, sock: socket.socket, sink: Sink) -> bool:
        incoming = self._incoming
        while incoming.holds or not incoming.ended:
            room = sink.room()
            if room is None:
                return False
            count, until = 0, perf_counter() + LONGEST_FILL
            try:
                # Fills all of it, so that a write is worth its call, unless that would take long.
                while count < len(room) and (came := self._fill(sock, room[count:])):
                    count += came
                    if perf_counter() > until:
                        break
            finally:
                if count:
                    sink.came(count)
        return True

    def _fill(self, sock: socket.socket, room: memoryview) -> int:
        """Put some of the body at the beginning of `room`; how much, none at its end."""
        incoming = self._incoming
        while not (chunk := incoming.take(len(room))) and not incoming.ended:
            if incoming.left is None:
                incoming.feed(sock.recv(MOST_AT_ONCE))
            else:
                count = sock.recv_into(room[: incoming.left])
                incoming.count(count)
                return count
        room[: len(chunk)] = chunk
        return len(chunk)


def judge(error: OSError | NotHTTP, url: str) -> Fault:
    """What a failure between the request and its head means."""
    if isinstance(error, TimeoutError):
        return describe(FaultKind.TIMEOUT, url)
    if isinstance(error, OSError):
        return describe(FaultKind.DISCONNECTED, url, _reason(error))
    return describe(FaultKind.REPLY, url)


def _broken(error: OSError | NotHTTP, url: str) -> Fault:
    """What a failure after the head means."""
    silent = isinstance(error, TimeoutError)
    return describe(FaultKind.TIMEOUT if silent else FaultKind.DISCONNECTED, url)


def _reason(error: OSError) -> str:
    return error.strerror or "" if error.errno is not None else ""


async def _addresses(origin: Origin, seconds: float) -> list[Any]:
    host, port, _ = origin
    try:  # no name: nobody has to be asked for it
        number = host.encode("ascii")  # for a text Python loads its tables of names first, which takes 3 ms
        return socket.getaddrinfo(number, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        with anyio.fail_after(seconds):
            return list(await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM))


async def _connect(place: Any, seconds: float) -> socket.socket:
    family, kind, protocol, _, address = place
    sock = socket.socket(family, kind, protocol)
    try:
        await _connect_to(sock, address, seconds)
    except BaseException:  # raised again: a cancellation, perhaps
        sock.close()
        raise
    return sock


async def _connect_to(sock: socket.socket, address: Any, seconds: float) -> None:
    sock.setblocking(False)
    try:
        sock.connect(address)
    except BlockingIOError:
        with anyio.move_on_after(seconds) as scope:
            await anyio.wait_writable(sock)
        failed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if scope.cancelled_caught or failed:
            error = OSError(failed, os.strerror(failed)) if failed else TimeoutError()
            raise error from None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # what forgets silent connections keeps them
    for option in _KEEP_ALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, KEEP_ALIVE)


def _caller() -> Callable[[Callable[[], object]], object]:
    """How a thread has something called on this loop without waiting for it, on asyncio and trio."""
    loop: Any = anyio.lowlevel.current_token().native_token
    name = "call_soon_threadsafe" if hasattr(loop, "call_soon_threadsafe") else "run_sync_soon"
    call: Callable[[Callable[[], object]], object] = getattr(loop, name)
    return call
