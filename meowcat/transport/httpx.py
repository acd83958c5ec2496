"""The transport over `httpx`: for an application's own client, for trio, and where pyreqwest is not."""

import logging
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path

import anyio
import anyio.lowlevel
import httpx

from meowcat.core.errors import InvalidArgument
from meowcat.core.urls import scrub
from meowcat.core.values import Fault, FaultKind
from meowcat.transport.bodies import let_go
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
from meowcat.transport.faults import describe, unconnected
from meowcat.transport.proxies import Proxies, answered, not_let_through, not_reached
from meowcat.transport.trust import system_context, trust_besides
from meowcat.transport.uploads import HandedOver

LARGEST = 256 << 10
"""Bytes of a body that the client gets at once. It has to get rid of them within the read time-out, and the
slowest line that counts (`SLOWEST_UPLOAD`) takes as many in half a minute."""


_ENDED = re.compile(r"closed connection|disconnected|Terminated|Reset")
"""How the client words that a peer ended the connection, or a stream of HTTP/2. All else that it has to say
of a peer's protocol is that it was broken."""


class _Scrubbed(logging.Filter):
    """Redacts what httpx and httpcore log: whole URLs at INFO, headers at DEBUG."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = scrub(record.getMessage()), ()
        return True


for _name in ("httpx", "httpcore.http11", "httpcore.http2", "httpcore.connection", "httpcore.proxy"):
    logging.getLogger(_name).addFilter(_Scrubbed())


class HttpxTransport:
    """An injected client as it is (proxy, TLS, headers, auth, cookies; never closed here), or one of our own.

    Args:
        client: the application's client; the other arguments but `timeouts` are for our own one only.
        timeouts: seconds, given with each request.
        http2: offer HTTP/2 by ALPN (needs the package `h2`).
        verify: True, False, or a path to (or the bytes of) a PEM bundle of further authorities.
        proxy: the URL of a proxy for everything.
        trust_env: use the proxies that the environment names.

    """

    def __init__(
        self,
        client: httpx.AsyncClient | None = None,
        timeouts: Timeouts | None = None,
        *,
        http2: bool = False,
        verify: bool | str | Path | bytes = True,
        proxy: str | None = None,
        trust_env: bool = True,
    ) -> None:
        self.timeouts = timeouts or Timeouts()
        self._owned = client is None
        self._proxies = Proxies(proxy, trust_env=trust_env) if client is None else Proxies()
        if client is None:
            client = httpx.AsyncClient(
                http1=True,
                http2=http2,
                verify=trust(verify),
                proxy=proxy,
                trust_env=trust_env,
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # keeps none
                headers={"User-Agent": USER_AGENT},
            )
            for name in ("accept", "accept-encoding", "connection"):
                del client.headers[name]
        self._client = client
        limits = self.timeouts
        self._timeout = httpx.Timeout(
            connect=limits.connect, read=limits.read, write=limits.read, pool=limits.pool
        )

    def send(self, request: HttpRequest) -> Exchange:
        """Prepare an exchange: an `HttpxExchange`."""
        return HttpxExchange(self._client, request, self._timeout, self._proxies)

    async def aclose(self) -> None:
        """Close our own client; an injected one stays open."""
        if self._owned:
            await self._client.aclose()


class HttpxReply:
    """The head of a reply, and its body undecoded."""

    def __init__(self, response: httpx.Response, url: str) -> None:
        self._chunks = response.aiter_raw()
        self._rest: Chunk = b""
        self._url = url
        self.status: int = response.status_code
        self.headers: Headers = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw
        ]
        self.version: str = response.http_version

    async def read(self, size: int) -> Chunk:
        """What came in one piece, or the first `size` bytes of it."""
        try:
            while not self._rest:
                self._rest = await anext(self._chunks)
        except StopAsyncIteration:
            return b""
        except httpx.RequestError as error:
            silent = isinstance(error, httpx.TimeoutException)
            fault = describe(FaultKind.TIMEOUT if silent else FaultKind.DISCONNECTED, self._url)
        else:
            chunk, self._rest = self._rest[:size], memoryview(self._rest)[size:]
            return chunk
        # Outside of the handlers: the client's error holds the request with its URL and headers.
        raise TransportFault(fault)

    async def aclose(self) -> None:
        """End the reading.

        A cancellation unwinds httpx's generators from the innermost out. Closing the outermost would leave
        the others to the garbage collector, of which trio warns.
        """
        with anyio.CancelScope() as over:
            over.cancel()
            try:
                async for _ in self._chunks:
                    pass  # what was buffered already
            except (httpx.RequestError, httpx.StreamError):
                pass  # it was to be given up anyway


class Source(httpx.AsyncByteStream):
    """A request's body as httpx takes it, without a generator around it."""

    def __init__(self, body: AsyncIterator[Chunk]) -> None:
        self._body = body
        self._rest: Chunk = b""
        self.handed = HandedOver()
        self.timeouts: dict[str, float] = {}
        """The request's own, which the client looks at anew for each step."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self.handed.asked()
        try:
            while not self._rest:
                self._rest = memoryview(await anext(self._body))
        except StopAsyncIteration:
            # Until the head comes: the last bytes may be on their way for long.
            self.timeouts["read"] += self.handed.on_its_way
            raise
        chunk, self._rest = bytes(self._rest[:LARGEST]), self._rest[LARGEST:]
        self.handed.answered(chunk)
        return chunk

    async def aclose(self) -> None:
        await let_go(self._body)


class HttpxExchange:
    """One exchange. Leaving it closes the socket at once in every phase (over HTTP/2: the stream), so that
    `dead` returns at once after the block; what stood in socket buffers may still arrive, never a complete
    body. An injected client with a transport of its own kind is as good as that transport.
    """

    def __init__(
        self, client: httpx.AsyncClient, request: HttpRequest, timeout: httpx.Timeout, proxies: Proxies
    ) -> None:
        self._client = client
        self._proxies = proxies
        self._request = request
        self._timeout = timeout
        self._response: httpx.Response | None = None
        self._reply: HttpxReply | None = None
        self._source: Source | None = None

    async def __aenter__(self) -> HttpReply:
        try:
            request = self._prepare()
        except (httpx.InvalidURL, ValueError, TypeError):
            request = None
        if request is None:
            raise InvalidArgument(
                f"{self._request.method}: the URL or a header holds characters that can't be sent"
            )
        try:
            self._response = await self._client.send(request, stream=True, follow_redirects=False)
        except httpx.RequestError as error:
            proxy = self._proxies.before(self._request.url)
            fault = judge_proxy(error, self._request.url, proxy) or judge(error, self._request.url)
            await self._close()
        except BaseException:  # raised again: canceled, or the body's source failed
            await self._close()
            raise
        else:
            request.extensions["timeout"]["read"] = self._timeout.read
            self._reply = HttpxReply(self._response, self._request.url)
            return self._reply
        raise TransportFault(fault)

    def _prepare(self) -> httpx.Request:
        headers = dict(self._request.headers)
        named = {name.lower() for name in headers}
        body = None if self._request.body is None else Source(self._request.body())
        if body is not None and self._request.body_length is not None and "content-length" not in named:
            headers["Content-Length"] = str(self._request.body_length)
        # In UTF-8, as they are signed; and without the blanks around a value, which are none of it
        # (RFC 9110 5.5), and which the client refuses.
        fields = [(name.encode(), value.strip(" \t").encode()) for name, value in headers.items()]
        request = self._client.build_request(
            self._request.method, self._request.url, headers=fields, content=body, timeout=self._timeout
        )
        if request.url.scheme not in {"http", "https"} or not request.url.host:
            raise httpx.InvalidURL("not absolute")
        if body is not None:
            request.stream = self._source = body  # and not in a generator of httpx's own
            body.timeouts = request.extensions["timeout"]
        return request

    async def __aexit__(self, *exc: object) -> None:
        await self._close()

    async def _close(self) -> None:
        with anyio.CancelScope(shield=True):
            if self._reply is not None:
                await self._reply.aclose()
            if self._response is not None:
                await self._response.aclose()
            if self._source is not None:
                await self._source.aclose()

    async def dead(self) -> None:
        """See the class: the block's end is the exchange's end."""
        await anyio.lowlevel.checkpoint()


def trust(verify: bool | str | Path | bytes) -> ssl.SSLContext | bool:
    """A TLS context that trusts the authorities of the system where they can be had, or else those that httpx
    brings along, and further ones beside them.

    Raises:
        InvalidArgument: no PEM bundle.

    """
    if verify is False:
        return False
    bundle = None if verify is True else verify
    context = system_context(bundle)
    if context is None:
        context = httpx.create_ssl_context()
        if bundle is not None:
            trust_besides(context, bundle)
    return context


def broken_handshake(error: BaseException) -> bool:
    """Whether an error of `ssl` stands anywhere below: the class and text above differ by event loop."""
    return any(isinstance(each, ssl.SSLError) for each in below(error))


def below(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it was raised for."""
    link: BaseException | None = error
    while link is not None:
        yield link
        if isinstance(link, BaseExceptionGroup):  # one for each address
            link = link.exceptions[0]
        else:
            link = link.__cause__ or link.__context__


def judge_proxy(error: httpx.RequestError, url: str, proxy: str) -> Fault | None:
    """What was wrong with the proxy, as far as it is that; `proxy` is empty where none is known of."""
    if isinstance(error, httpx.ProxyError):
        status = str(error)[:3]  # of the reply, whose words stand behind it
        return not_let_through(proxy, url, answered(int(status)) if status.isdecimal() else "it refused")
    if not proxy or broken_handshake(error):
        return None
    if isinstance(error, httpx.ConnectTimeout):  # of the connection, or of the handshake through it
        return not_let_through(proxy, url, "no answer in time")
    return not_reached(proxy, url) if isinstance(error, httpx.ConnectError) else None


def judge(error: httpx.RequestError, url: str) -> Fault:
    """Tell what happened from httpx's class, and from the errors below it for TLS."""
    if isinstance(error, httpx.ConnectTimeout):
        return describe(FaultKind.UNREACHABLE, url, "it did not answer in time")
    if isinstance(error, httpx.TimeoutException):
        return describe(FaultKind.TIMEOUT, url)
    if isinstance(error, httpx.ConnectError):
        if broken_handshake(error):
            return describe(FaultKind.TLS, url)
        numbers = (each.errno for each in below(error) if isinstance(each, OSError))
        return unconnected(next(filter(None, numbers), None), url)
    if isinstance(error, httpx.LocalProtocolError):
        return describe(FaultKind.INTERNAL, url)
    if isinstance(error, httpx.RemoteProtocolError) and _ENDED.search(str(error)) is None:
        return describe(FaultKind.REPLY, url)
    return describe(FaultKind.DISCONNECTED, url)
