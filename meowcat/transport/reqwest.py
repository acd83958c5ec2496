"""`pyreqwest`, the HTTP stack of Rust, on asyncio: for what does not go straight (`transport.direct`).

What is peculiar to it, and what is done about it:

- Cancelling a coroutine does not stop its request. Replies are streamed with a read buffer of nothing, which
  makes leaving the block close the socket within milliseconds; a GET that waits for its head is closed by
  the client's read time-out only; an upload stops because its body stream raises.
- The client's read time-out also limits the time from sending to the head of the reply, so that a longer
  upload would end in it. Larger bodies therefore go through a client without it, watched from here.
- Its thread wakes the event loop by `call_soon_threadsafe`, and aborts the process where the interpreter is
  finalized before it has come back from there (PyO3 up to Python 3.13): the end of the program waits for it.
- Its error classes do not say what happened (a silent server is a `ConnectTimeoutError`, a reset before the
  head a `ConnectError`): the chain of causes does. Its texts hold the whole URL and are never shown.

Beyond the contract's fields the client adds `Accept: */*` unless one is given, which means the same.
"""

import asyncio
import atexit
import sys
import time
from collections.abc import Awaitable, Iterator
from datetime import timedelta
from os import strerror
from pathlib import Path
from types import FrameType
from typing import TypeVar

import anyio
import anyio.lowlevel
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import DecodeError, PyreqwestError, RequestTimeoutError
from pyreqwest.proxy import ProxyBuilder
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response

from meowcat.core.errors import InvalidArgument
from meowcat.core.values import Fault, FaultKind
from meowcat.transport.contract import (
    USER_AGENT,
    Chunk,
    Exchange,
    Headers,
    HttpReply,
    HttpRequest,
    Timeouts,
    TransportFault,
)
from meowcat.transport.faults import describe, os_number, unconnected
from meowcat.transport.proxies import Proxies, answered, not_let_through, not_reached
from meowcat.transport.trust import read_certificates
from meowcat.transport.uploads import SLOWEST_UPLOAD, Body

T = TypeVar("T")

SMALL_BODY = 64 * 1024
"""Bytes of a body that are sent well within any read time-out."""

UNKNOWN_UPLOAD = 24 * 3600.0
"""Seconds for a body of unknown length. Others have the time that `SLOWEST_UPLOAD` allows: the client has no
other means to close a socket whose peer took the whole body and never answers."""

COMES_BACK_WITHIN = 5.0
"""Seconds that the end of the program waits for the client's thread at the most."""

_TLS = ("certificate", "tls", "handshake", "corrupt message", "fatal alert", "invalidcontenttype")


class ReqwestTransport:
    """A client for one event loop of asyncio.

    Args:
        timeouts: seconds; `read` is also the time after which unacknowledged data ends a connection.
        http2: offer HTTP/2 by ALPN; over it all requests to a host share one connection.
        verify: True for the usual authorities, a path to (or the bytes of) a PEM bundle of
            further ones, False for no verification at all.
        proxy: the URL of a proxy for everything.
        trust_env: use the proxies that the environment names (HTTPS_PROXY and so on).

    """

    def __init__(
        self,
        timeouts: Timeouts | None = None,
        *,
        http2: bool = False,
        verify: bool | str | Path | bytes = True,
        proxy: str | None = None,
        trust_env: bool = True,
    ) -> None:
        self.timeouts = timeouts or Timeouts()
        self._http2 = http2
        self._verify = verify
        self._proxy = proxy
        self._trust_env = trust_env
        self._proxies = Proxies(proxy, trust_env=trust_env)
        build = self._build().read_timeout(timedelta(seconds=self.timeouts.read))
        self._client: Client | None = build.build()
        self._uploads: Client | None = None

    def _build(self) -> ClientBuilder:
        limits = self.timeouts
        builder = ClientBuilder().follow_redirects(False).referer(False).default_cookie_store(False)
        builder = builder.gzip(False).brotli(False).zstd(False).deflate(False).http2(self._http2)
        builder = builder.connect_timeout(timedelta(seconds=limits.connect)).user_agent(USER_AGENT)
        builder = builder.pool_timeout(timedelta(seconds=limits.pool))
        builder = builder.tcp_user_timeout(timedelta(seconds=limits.read))
        if self._http2:
            # 64 KiB in flight per round trip otherwise, whatever the line could carry.
            builder = builder.http2_adaptive_window(True)
        if not self._trust_env:
            builder = builder.no_proxy()
        if self._proxy is not None:
            builder = builder.proxy(ProxyBuilder.all(self._proxy))
        if self._verify is False:
            return builder.danger_accept_invalid_certs(True)
        if self._verify is not True:
            for certificate in read_certificates(self._verify):
                builder = builder.add_root_certificate_pem(certificate)
        return builder

    def send(self, request: HttpRequest) -> Exchange:
        """Prepare an exchange. A `ReqwestExchange` for a request without a body, else a `ReqwestUpload`."""
        if self._client is None:
            raise RuntimeError("the client is closed")
        if request.body is None:
            return ReqwestExchange(self._client, request, self.timeouts, self._proxies)
        if request.body_length is not None and request.body_length <= SMALL_BODY:
            return ReqwestUpload(self._client, request, self.timeouts, None, self._proxies)
        if self._uploads is None:
            self._uploads = self._build().build()
        sending = UNKNOWN_UPLOAD if request.body_length is None else request.body_length / SLOWEST_UPLOAD
        deadline = self.timeouts.connect + self.timeouts.read + sending
        return ReqwestUpload(self._uploads, request, self.timeouts, deadline, self._proxies)

    async def aclose(self) -> None:
        """Close idle connections. Sockets in flight end as `dead` of their exchanges says."""
        clients = [each for each in (self._client, self._uploads) if each is not None]
        self._client = self._uploads = None  # their sockets are closed with the last reference, not before
        while clients:
            await clients.pop().close()


class ReqwestReply:
    """The head of a reply, and its body as it comes."""

    def __init__(self, response: Response, request: HttpRequest, timeout: float | None) -> None:
        self._response = response
        self._reader = response.body_reader
        self._url = request.url
        self._timeout = timeout
        self.status: int = response.status
        self.headers: Headers = list(response.headers.items())
        self.ended = False
        self._rest: Chunk = b""
        """What came and was not asked for yet."""

    @property
    def version(self) -> str:
        return self._response.version.removesuffix(".0")

    async def read(self, size: int) -> Chunk:
        """A view of the client's own memory: no copy is made."""
        if self.ended:
            return b""
        try:
            if self._timeout is not None:
                return await self._read_some(size, self._timeout)
            whole = await cancelable(self._reader.read(size))
        except PyreqwestError as error:
            fault = judge(error, self._url)
        except TimeoutError:
            fault = describe(FaultKind.TIMEOUT, self._url)
        else:
            # It waits for all of it, and a body that breaks off raises: who gets less has come to the end.
            self.ended = whole is None or len(whole) < size
            return b"" if whole is None else memoryview(whole)
        # Outside of the handlers, so that the client's error with its URL is not even the context.
        raise TransportFault(fault)

    async def _read_some(self, size: int, silence: float) -> Chunk:
        """Piece by piece where silence is judged here. A read of some size waits for all of it, and would
        take a server for silent that sends a blank now and then while it is at work, as S3 does during a
        commit."""
        while not self._rest:
            async with asyncio.timeout(silence):
                piece = await cancelable(self._reader.read_chunk())
            if piece is None:
                self.ended = True
                return b""
            self._rest = memoryview(piece)
        chunk, self._rest = self._rest[:size], self._rest[size:]
        return chunk


class ReqwestExchange:
    """A request without a body, and how it ends after a stop.


    - the head had come: nothing can be sent any more; the socket closes within milliseconds by itself;
    - waiting for the head (or connecting): the client goes on until the read time-out since sending, and
      `dead` waits until that moment.
    """

    def __init__(self, client: Client, request: HttpRequest, timeouts: Timeouts, proxies: Proxies) -> None:
        self._request = request
        self._proxies = proxies
        self._read = timeouts.read
        self._client = client
        self._streamed: StreamRequest | None = None
        self._reply: ReqwestReply | None = None
        self._closed_by: float | None = None

    async def __aenter__(self) -> HttpReply:
        streamed = self._streamed = prepare(self._client, self._request)
        self._closed_by = time.monotonic() + self._read
        try:
            response = await cancelable(streamed.__aenter__())
        except PyreqwestError as error:
            fault = judge_request(error, self._request.url, self._proxies)
        else:
            self._closed_by = None
            reply = self._reply = ReqwestReply(response, self._request, None)
            return reply
        self._closed_by = None
        raise TransportFault(fault)

    async def __aexit__(self, *exc: object) -> None:
        if self._streamed is not None and self._reply is not None:
            await close(self._streamed, ended=self._reply.ended)

    async def dead(self) -> None:
        """See the class."""
        if self._closed_by is not None:
            await asyncio.sleep(self._closed_by + 0.1 - time.monotonic())


class ReqwestUpload:
    """A request with a body.

    After a stop the body's stream raises at the next chunk, the client drops the
    connection, and what stood in socket buffers may still arrive (never a complete body). `dead` waits for
    the client's own task to end:

    - body not yet sent in full: milliseconds; where the peer does not read, `tcp_user_timeout`, which is the
      read time-out;
    - body sent, waiting for the head: until the reply comes, or the request's deadline (`SLOWEST_UPLOAD`;
      the read time-out for small bodies). A server may act on such a request all that time.
    """

    def __init__(
        self,
        client: Client,
        request: HttpRequest,
        timeouts: Timeouts,
        deadline: float | None,
        proxies: Proxies,
    ) -> None:
        self._client = client
        self._proxies = proxies
        self._request = request
        self._timeouts = timeouts
        self._deadline = deadline
        self._streamed: StreamRequest | None = None
        self._body: Body | None = None
        self._task: asyncio.Task[ReqwestReply | Fault] | None = None
        self._left = False

    async def __aenter__(self) -> HttpReply:
        assert self._request.body is not None  # noqa: S101  # ReqwestTransport.send chose this class by it
        self._body = Body(self._request.body())
        self._streamed = prepare(self._client, self._request, self._body, self._deadline)
        self._task = asyncio.create_task(self._converse(self._streamed))
        try:
            outcome = await self._await_head(self._task, self._body)
        except BaseException:  # raised again: canceled, or the body's source failed
            await self._stop()
            raise
        if isinstance(outcome, Fault):
            await self._stop()
            raise self._body.error or TransportFault(outcome)
        return outcome

    async def _converse(self, streamed: StreamRequest) -> ReqwestReply | Fault:
        """Outlives the block, so that `dead` can tell the end of the request; never raises for its sake."""
        try:
            response = await streamed.__aenter__()
        except PyreqwestError as error:
            return judge_request(error, self._request.url, self._proxies)
        except Exception:  # noqa: BLE001  # of the body: UploadStopped, or the source's own, kept as Body.error
            return describe(FaultKind.DISCONNECTED, self._request.url, "stopped from here")
        reply = ReqwestReply(response, self._request, self._timeouts.read)
        if self._left:
            await close(streamed, ended=False)
        return reply

    async def _await_head(
        self, task: "asyncio.Task[ReqwestReply | Fault]", body: Body
    ) -> ReqwestReply | Fault:
        """The reply; or TIMEOUT once what was taken of the body must have arrived, and since then neither
        more was taken nor a head came for the read time-out. Where nothing arrives the system ends it before.
        """
        handed = body.handed
        while not task.done():
            limit = self._timeouts.read + (handed.on_its_way if handed.begun else self._timeouts.connect)
            silent = 0.0 if body.pulling else handed.silent
            if silent >= limit:
                return describe(FaultKind.TIMEOUT, self._request.url)
            await asyncio.wait({task}, timeout=min(limit - silent, self._timeouts.read))
        return task.result()

    async def _stop(self) -> None:
        self._left = True
        if self._body is not None:
            await self._body.stop()

    async def __aexit__(self, *exc: object) -> None:
        await self._stop()
        if self._streamed is None or self._task is None or not self._task.done() or self._task.cancelled():
            return
        outcome = self._task.result()
        await close(self._streamed, ended=isinstance(outcome, ReqwestReply) and outcome.ended)

    async def dead(self) -> None:
        """See the class."""
        if self._task is not None and not self._task.done():
            await asyncio.wait({self._task})


async def cancelable(work: Awaitable[T]) -> T:
    """Wait for the client. A cancellation comes out as that of whoever has canceled: the client raises one of
    its own instead, which no cancel scope takes for its own, so that it would end more than was canceled."""
    try:
        return await work
    except asyncio.CancelledError:
        await anyio.lowlevel.checkpoint_if_cancelled()
        raise


def prepare(
    client: Client, request: HttpRequest, body: Body | None = None, deadline: float | None = None
) -> StreamRequest:
    """The client's form of a request.

    Raises:
        InvalidArgument: the method, URL or a header can't be sent.

    """
    try:
        builder = client.request(request.method, request.url).headers(dict(request.headers))
        length = request.body_length
        if body is not None:
            builder = builder.body_stream(body)  # type: ignore[arg-type]  # it takes each chunk by itself
        else:
            length = 0 if request.method in {"POST", "PUT", "PATCH"} else None  # RFC 9110 8.6
        if length is not None and "content-length" not in {name.lower() for name in request.headers}:
            builder = builder.header("Content-Length", str(length))
        if deadline is not None:
            builder = builder.timeout(timedelta(seconds=deadline))
        return builder.streamed_read_buffer_limit(0).build_streamed()
    except (ValueError, TypeError):
        pass
    raise InvalidArgument(f"{request.method}: the URL or a header holds characters that can't be sent")


async def close(streamed: StreamRequest, *, ended: bool) -> None:
    """Leave the client's own block; shielded where that has something to stop."""
    if ended:
        await streamed.__aexit__(None, None, None)
        return
    with anyio.CancelScope(shield=True):
        await streamed.__aexit__(None, None, None)


def judge(error: PyreqwestError, url: str) -> Fault:
    """Tell what happened once the head of the reply had come."""
    kind = FaultKind.TIMEOUT if isinstance(error, RequestTimeoutError) else FaultKind.DISCONNECTED
    return describe(kind, url, _reason(_chain(error)))


def judge_request(error: PyreqwestError, url: str, proxies: Proxies) -> Fault:
    """Tell what happened before the head of a reply came."""
    chain = _chain(error)
    reason = _reason(chain)
    if "client error (connect)" in chain:
        if any(word in text for text in chain for word in _TLS):
            return describe(FaultKind.TLS, url, reason)
        number = next(_os_numbers(chain), None)
        return _judge_proxy(chain, url, proxies.before(url)) or unconnected(number, url, reason)
    kind = FaultKind.DISCONNECTED
    if isinstance(error, RequestTimeoutError):
        kind = FaultKind.TIMEOUT
    elif isinstance(error, DecodeError):
        kind = FaultKind.REPLY
    return describe(kind, url, reason)


def _judge_proxy(chain: list[str], url: str, proxy: str) -> Fault | None:
    """What was wrong with the proxy where no connection was made; None where there is none, as it seems."""
    told = next((text for text in chain if text.startswith(("tunnel error: ", "socks error: "))), "")
    if "failed to create underlying connection" in told or (proxy and not told):
        return not_reached(proxy, url, _reason(chain))
    if not told:
        return None
    if "authorization" in told:
        return not_let_through(proxy, url, answered(407))
    return not_let_through(proxy, url, "it hung up" if "end of file" in told else "it refused")


def _chain(error: PyreqwestError) -> list[str]:
    """The texts of the causes. The first one names the URL, whose text must not decide anything."""
    details = getattr(error, "details", None)
    causes = (details.get("causes") or []) if isinstance(details, dict) else []
    return [cause["message"].lower() for cause in causes if " for url (" not in cause["message"]]


def _reason(chain: list[str]) -> str:
    if "dns error" in chain:
        return "its name can't be resolved"
    return next(map(strerror, _os_numbers(chain)), "")


def _os_numbers(chain: list[str]) -> Iterator[int]:
    return (number for text in chain if (number := os_number(text)) is not None)


def _await_its_thread() -> None:
    """Let go of the GIL until the client's thread is out of Python. On a machine that gives it no time just
    then, a program that ends with its last reply would be killed by SIGABRT after all was done."""
    patience = time.monotonic() + COMES_BACK_WITHIN
    while any(map(_wakes_a_loop, sys._current_frames().values())) and time.monotonic() < patience:  # noqa: SLF001  # documented
        time.sleep(0.001)


def _wakes_a_loop(frame: FrameType) -> bool:
    """Whether the thread of this frame is not Python's own, and wakes an event loop."""
    while frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code.co_name == "call_soon_threadsafe"


atexit.register(_await_its_thread)
