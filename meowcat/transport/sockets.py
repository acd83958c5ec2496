"""Exchanges over plain HTTP/1.1 that have a thread each: GETs of large contents, which it reads from its
socket into the buffers of whoever writes the bytes. `transport.socket_uploads` has those that send.

A client that hands each chunk to an event loop copies it once more and wakes the loop for it, which doubles
the processor time of a large download. Here the bytes of a body never meet the loop (`contract.Pours`). What
is small, encrypted, or goes through a proxy is left to another client: see `transport.large`.

Stopping is simple with a socket of one's own: it is shut down, and the thread that waits for its bytes comes
back at once, also where it waits for a head.
"""

import io
import socket
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPResponse
from threading import Lock
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

import anyio
import anyio.lowlevel
import anyio.to_thread

from meowcat.core.values import Fault, FaultKind
from meowcat.transport.contract import (
    USER_AGENT,
    Headers,
    HttpRequest,
    Sink,
    Timeouts,
    TransportFault,
)
from meowcat.transport.faults import describe
from meowcat.transport.idle import IdleSockets, Origin

__all__ = ["SocketExchange", "SocketReply", "SocketTransport", "Unsuited", "judge", "receive"]

T = TypeVar("T")

MOST_THREADS = 256
"""At once: as many as `Config.max_requests` allows requests."""

_FINAL = 200
"""The first status of a reply that is not followed by another one (RFC 9110 15.2)."""

_HTTP_PORT = 80

NEXT_ADDRESS = 1.0
"""Seconds after which the next address of a host is tried, where it has several: the way to one may be
broken. The one that answered goes first from then on."""


class Unsuited(Exception):
    """The client can't send the request, and has sent nothing of it."""


class SocketTransport:
    """What such exchanges share: idle connections, threads, and which address of a host has answered.

    Args:
        timeouts: seconds; `read` is the longest silence, the head included.

    """

    def __init__(self, timeouts: Timeouts | None = None) -> None:
        self.timeouts = timeouts or Timeouts()
        self.idle = IdleSockets()
        self.threads = anyio.CapacityLimiter(MOST_THREADS)
        self._preferred: dict[Origin, Any] = {}

    async def aclose(self) -> None:
        """Close idle connections. Exchanges under way end by themselves."""
        self.idle.close()

    # Of the threads

    def connect(self, origin: Origin, hold: Callable[[socket.socket], None]) -> socket.socket:
        """A connection to the first of the host's addresses that answers; `hold` is given each socket.

        Raises:
            OSError: there is none.

        """
        host, port = origin
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found.sort(key=lambda each: each[4] != self._preferred.get(origin))
        connect = self.timeouts.connect
        failure: OSError | None = None
        for number, (family, kind, protocol, _, address) in enumerate(found, 1):
            sock = socket.socket(family, kind, protocol)
            hold(sock)
            try:
                sock.settimeout(connect if number == len(found) else min(NEXT_ADDRESS, connect))
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                failure = error
            else:
                sock.settimeout(self.timeouts.read)
                self._preferred[origin] = address
                return sock
        raise failure or OSError("no address")


class SocketExchange:
    """A GET or HEAD. All that blocks is done by one thread after the other.

    Entering it may raise `Unsuited`.
    """

    def __init__(self, transport: SocketTransport, request: HttpRequest) -> None:
        self._transport = transport
        self._request = request
        self._url = urlsplit(request.url)
        self._origin = _origin(self._url)
        self._lock = Lock()
        self._sock: socket.socket | None = None
        self._response: HTTPResponse | None = None
        self._stopped = False
        self._busy = False
        """Whether a thread has the socket in its hands."""
        self._over = anyio.Event()
        """Set once a thread is out of it that was stopped."""

    async def __aenter__(self) -> "SocketReply":
        reply = await self.do(self._begin)
        if isinstance(reply, Fault):
            self._stop()
            raise TransportFault(reply)
        return reply

    async def __aexit__(self, *exc: object) -> None:
        response, sock = self._response, self._sock
        if response is not None and sock is not None and _ended(response) and not response.will_close:
            response.close()
            self._transport.idle.put(self._origin, sock)
            self._sock = None
        self._stop()

    async def dead(self) -> None:
        """At once: a socket that was shut down sends nothing."""

    async def do(self, call: Callable[[], T]) -> T:
        """Have a thread do it. A cancellation shuts the socket down, and waits for the thread if that has
        it; one that still looks for a connection is left alone, and gives up by itself.
        """
        tell = _caller()

        def work() -> T | None:
            with self._lock:
                if self._stopped:
                    return None  # nobody waits for it
                self._busy = True
            try:
                return call()
            finally:
                if self._let_go():
                    try:
                        tell(self._over.set)
                    except RuntimeError:  # the loop has ended, and with it whoever might have waited
                        pass

        try:
            done = await anyio.to_thread.run_sync(
                work, abandon_on_cancel=True, limiter=self._transport.threads
            )
        except BaseException:  # raised again: a cancellation, most of the time
            if self._stop():
                with anyio.CancelScope(shield=True):
                    await self._over.wait()
            raise
        return done  # type: ignore[return-value]  # None only after a stop, and then nobody is here

    def _let_go(self) -> bool:
        """The thread has done its work; whether somebody waits for that, who has stopped it."""
        with self._lock:
            self._busy = False
            if self._stopped:
                self._close()
            return self._stopped

    def _stop(self) -> bool:
        """Send and receive nothing more; whether a thread still has the socket."""
        with self._lock:
            self._stopped = True
            if self._busy:
                if self._sock is not None:
                    _shut(self._sock)
                return self._sock is not None
            self._close()
            return False

    def _close(self) -> None:
        if self._response is not None:
            self._response.close()
        if self._sock is not None:
            _shut(self._sock)  # closing alone would leave it open where a forked child has a copy
            self._sock.close()
            self._sock = None

    # Of the threads

    def _hold(self, sock: socket.socket) -> None:
        with self._lock:
            if self._sock is not None and self._sock is not sock:
                self._sock.close()  # of an address that did not answer, or one that the server had closed
            self._sock = sock
            if self._stopped:
                raise ConnectionAbortedError

    def _begin(self) -> "SocketReply | Fault":
        idle = self._transport.idle.take(self._origin)
        if idle is not None:
            try:
                self._hold(idle)
                return self._ask(idle)
            except (ConnectionError, HTTPException):
                pass  # closed by the server just now, or what comes is left over from an earlier reply (RFC
                # 9112 9.2); the request has no effect, so it is sent again where nothing was before it
            except OSError as error:
                return judge(error, self._request.url)
        try:
            sock = self._transport.connect(self._origin, self._hold)
        except OSError as error:
            return self._unreachable(error)
        try:
            return self._ask(sock)
        except (OSError, HTTPException) as error:
            return judge(error, self._request.url)

    def _unreachable(self, error: OSError) -> Fault:
        reason = "its name can't be resolved" if isinstance(error, socket.gaierror) else _reason(error)
        return describe(FaultKind.UNREACHABLE, self._request.url, reason)

    def _ask(self, sock: socket.socket) -> "SocketReply":
        self._send_head(sock)
        self._response = receive(sock, self._request.method)
        return SocketReply(self, self._response, self._request.url)

    def _send_head(self, sock: socket.socket) -> None:
        connection = HTTPConnection("")
        connection.sock = sock
        target = self._url.path or "/"
        if self._url.query:
            target = f"{target}?{self._url.query}"
        try:
            connection.putrequest(self._request.method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in _complete(self._request, _host(self._url)).items():
                connection.putheader(name, value.encode())  # UTF-8, as it is signed; a str is sent as Latin-1
        except (ValueError, HTTPException):
            raise Unsuited from None  # characters that http.client refuses
        connection.endheaders()


class SocketReply:
    """The head of a reply, and its body, which a thread reads: piece by piece, or all of it (`pour`)."""

    def __init__(self, exchange: SocketExchange, response: HTTPResponse, url: str) -> None:
        self._exchange = exchange
        self._response = response
        self._url = url
        self.status: int = response.status
        self.headers: Headers = response.getheaders()
        self.version = "HTTP/1.0" if response.version == 10 else "HTTP/1.1"  # noqa: PLR2004  # as http.client has it

    async def read(self, size: int) -> bytes:
        """See `HttpReply.read`."""
        return await self._do(lambda: self._read(size))

    async def pour(self, sink: Sink) -> bool:
        """See `Pours`."""
        return await self._do(lambda: self._pour(sink))

    async def _do(self, call: Callable[[], T]) -> T:
        done = await self._exchange.do(lambda: self._judged(call))
        if isinstance(done, Fault):
            raise TransportFault(done)
        return done

    # Of the threads

    def _judged(self, call: Callable[[], T]) -> T | Fault:
        try:
            return call()
        except (OSError, HTTPException) as error:
            return describe(
                FaultKind.TIMEOUT if isinstance(error, TimeoutError) else FaultKind.DISCONNECTED, self._url
            )

    def _read(self, size: int) -> bytes:
        chunk = self._response.read1(size)
        if not chunk and self._response.length:
            raise ConnectionResetError
        return chunk

    def _pour(self, sink: Sink) -> bool:
        response = self._response
        while not _ended(response):
            room = sink.room()
            if room is None:
                return False
            # Fills all of it, so that a write is worth its call; ends early with the body.
            count = response.readinto(room)
            sink.came(count)
            if count < len(room) and response.length:
                raise ConnectionResetError
        return True


def receive(sock: socket.socket, method: str, heard: bytes = b"") -> HTTPResponse:
    """The head of the reply, of which `heard` has come already. Interim replies before it are passed over:
    a server may send any, and http.client knows of 100 alone.
    """
    while True:
        source = _Heard(heard, sock) if heard else sock
        response = HTTPResponse(source, method=method)  # type: ignore[arg-type]  # it only makes a file of it
        response.begin()
        if response.status >= _FINAL:
            return response
        heard = response.fp.peek()


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


def _ended(response: HTTPResponse) -> bool:
    """Whether the body was read to its end; http.client closes the reply only after most ways of doing so."""
    return response.isclosed() or response.length == 0


def _complete(request: HttpRequest, host: str) -> dict[str, str]:
    named = {name.lower() for name in request.headers}
    own = {"Host": host, "User-Agent": USER_AGENT, "Accept": "*/*"}
    if request.body_length is not None:
        own["Content-Length"] = str(request.body_length)
    return {name: value for name, value in own.items() if name.lower() not in named} | dict(request.headers)


def _host(url: SplitResult) -> str:
    """In lower case, and without the port that http has anyway (RFC 9110 7.2): signatures cover it so."""
    name, port = url.hostname or "", url.port
    name = f"[{name}]" if ":" in name else name
    return name if port in (None, _HTTP_PORT) else f"{name}:{port}"


def _origin(url: SplitResult) -> Origin:
    return url.hostname or "", url.port or _HTTP_PORT


def judge(error: OSError | HTTPException, url: str) -> Fault:
    """What a failure between the request and its head means."""
    if isinstance(error, TimeoutError):
        return describe(FaultKind.TIMEOUT, url)
    if isinstance(error, OSError):
        return describe(FaultKind.DISCONNECTED, url, _reason(error))
    return describe(FaultKind.REPLY, url)


def _reason(error: OSError) -> str:
    """The system's own words: those of http.client may quote the peer."""
    plain = error.errno is not None and not isinstance(error, HTTPException)
    return error.strerror or "" if plain else ""


def _shut(sock: socket.socket) -> None:
    """Wake whoever reads from it."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # not connected yet, or not any more


def _caller() -> Callable[[Callable[[], object]], object]:
    """How a thread has something called on this loop without waiting for it, on asyncio and trio."""
    loop: Any = anyio.lowlevel.current_token().native_token
    name = "call_soon_threadsafe" if hasattr(loop, "call_soon_threadsafe") else "run_sync_soon"
    call: Callable[[Callable[[], object]], object] = getattr(loop, name)
    return call
