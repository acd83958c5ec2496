"""The one place that follows redirects, above any transport.

A `Route` belongs to one task and one URL. It remembers, in memory only (a redirect's target is often a
signed URL), where the redirects led, so that the later parts of the task ask there at once; when that place
answers 401, 403, 404 or 410 the way is asked for again from the original URL.
"""

from collections.abc import Awaitable, Mapping

from meowcat.core.redirect_rules import MAX_HOPS, STALE, Hop, is_redirect, next_hop
from meowcat.core.values import Fault
from meowcat.transport.contract import Exchange, HttpReply, HttpRequest, Transport, TransportFault

_CONTENT = range(200, 300)
"""Statuses that prove a place: only such a one is worth remembering."""

_DRAIN = 16 * 1024
"""Bytes of a redirect's own body that are read so that its connection can be used again."""


class Route:
    """The way to one content: the URL as given, and where its redirects led.

    `headers` are the caller's. They are sent to the origin of `url` and dropped, all of them, for good, as
    soon as a redirect leaves it; what the protocol itself adds (Range, If-Match) is given to `open` and goes
    along everywhere.
    """

    def __init__(
        self,
        transport: Transport,
        url: str,
        headers: Mapping[str, str] | None = None,
        max_hops: int = MAX_HOPS,
    ) -> None:
        self.transport = transport
        self.url = url
        self.headers = dict(headers or {})
        self.max_hops = max_hops
        self.begin = Hop(url, same_origin=True)
        self.pinned: Hop | None = None

    def open(self, method: str = "GET", headers: Mapping[str, str] | None = None) -> "Following":
        """An exchange with the place that the redirects lead to."""
        return Following(self, method, headers or {})


def open_following(
    transport: Transport,
    request: HttpRequest,
    caller_headers: Mapping[str, str] | None = None,
    max_hops: int = MAX_HOPS,
) -> "Following":
    """Follow the redirects of one request, without remembering them. Bodies are not sent along: only GET and
    HEAD are followed, and other methods go through `Transport.send`.
    """
    return Route(transport, request.url, caller_headers, max_hops).open(request.method, request.headers)


class Following:
    """An exchange that ends at the last hop. After entering, `url` is the final URL: a secret, not to be
    journaled or shown.
    """

    def __init__(self, route: Route, method: str, headers: Mapping[str, str]) -> None:
        self._route = route
        self._method = method
        self._headers = headers
        self._exchange: Exchange | None = None
        self.url = route.url

    async def __aenter__(self) -> HttpReply:
        """Raises TransportFault: REDIRECT, REPLY, or what the transport raises."""
        route = self._route
        pinned = route.pinned
        if pinned is not None:
            reply = await self._enter(pinned)
            if reply.status not in STALE and not is_redirect(self._method, reply.status):
                return reply
            await self._leave(reply)
            if route.pinned is pinned:  # another part may have found the new way already
                route.pinned = None
        reply = await self._enter(route.begin)
        return await self._follow(reply) if is_redirect(self._method, reply.status) else reply

    async def _follow(self, reply: HttpReply) -> HttpReply:
        hop = self._route.begin
        visited: list[str] = []
        while is_redirect(self._method, reply.status):
            visited.append(hop.url)
            try:
                location = next((value for name, value in reply.headers if name.lower() == "location"), None)
                verdict = next_hop(location, hop.url, visited, self._route.max_hops)
            finally:
                await self._leave(reply)
            if isinstance(verdict, Fault):
                raise TransportFault(verdict)
            hop = Hop(verdict.url, hop.same_origin and verdict.same_origin)
            reply = await self._enter(hop)
        if reply.status in _CONTENT:
            self._route.pinned = hop
        return reply

    def _enter(self, hop: Hop) -> Awaitable[HttpReply]:
        route = self._route
        headers = {**route.headers, **self._headers} if hop.same_origin else self._headers
        self.url = hop.url
        request = HttpRequest(self._method, hop.url, headers)
        exchange = self._exchange = route.transport.send(request)
        return exchange.__aenter__()

    async def _leave(self, reply: HttpReply) -> None:
        assert self._exchange is not None  # noqa: S101  # entered just before
        drained = 0
        try:
            while drained < _DRAIN and (chunk := await reply.read(_DRAIN)):
                drained += len(chunk)
        except TransportFault:
            pass  # the redirect itself has come in full; its text is of no use
        finally:
            await self._exchange.__aexit__(None, None, None)

    async def __aexit__(self, *exc: object) -> None:
        if self._exchange is not None:
            await self._exchange.__aexit__(*exc)

    async def dead(self) -> None:
        """As the last hop's exchange says: the earlier ones were answered."""
        if self._exchange is not None:
            await self._exchange.dead()
