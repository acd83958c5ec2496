"""Which requests go through sockets and threads of one's own, and which through the ordinary client."""

import re
from urllib.parse import urlsplit

from meowcat.core.http_rules import LARGE
from meowcat.transport.contract import Exchange, HttpReply, HttpRequest, Timeouts, Transport
from meowcat.transport.proxies import Proxies
from meowcat.transport.socket_uploads import SocketUpload
from meowcat.transport.sockets import SocketExchange, SocketTransport, Unsuited

__all__ = ["LargeBodies"]

_PLAIN_URL = re.compile(r"http://[A-Za-z0-9.\-\[\]:]+(/[A-Za-z0-9\-._~!$&'()*+,;=:@/%]*)?(\?[!-~]*)?")
"""One that every client sends as it stands: no name or password, nothing to be encoded. What comes after `#`
is not sent. What is encrypted is the other client's: Python sees each record of 16 KiB, which costs more than
a thread saves."""

_READS = frozenset({"GET", "HEAD"})

_DOTS = re.compile(r"/(\.|%2e){1,2}(/|\?|$)", re.IGNORECASE)
"""Parts of a path that some clients resolve and others don't: another file, perhaps."""


class LargeBodies:
    """A transport that has threads read and send large bodies, where it can, and leaves all else to `rest`.

    Args:
        rest: the client for everything else. It is closed along with this.
        timeouts: seconds.

    """

    def __init__(self, rest: Transport, timeouts: Timeouts) -> None:
        self._rest = rest
        self._sockets = SocketTransport(timeouts)
        self._proxies = Proxies(trust_env=True)

    def send(self, request: HttpRequest) -> Exchange:
        """Prepare an exchange."""
        if not _is_large(request) or not self._suits(request.url):
            return self._rest.send(request)
        exchange = SocketExchange if request.body is None else SocketUpload
        return _Exchange(self._rest, request, exchange(self._sockets, request))

    def _suits(self, url: str) -> bool:
        if not _PLAIN_URL.fullmatch(url) or "#" in url or _DOTS.search(url):
            return False
        try:
            parts = urlsplit(url)
            named = bool(parts.hostname) and parts.port != 0
        except ValueError:
            return False
        if not named:
            return False
        return not self._proxies.before(url)

    async def aclose(self) -> None:
        """Close idle connections. Exchanges under way end by themselves."""
        await self._sockets.aclose()
        await self._rest.aclose()


def _is_large(request: HttpRequest) -> bool:
    if request.body is None:
        return request.large and request.method in _READS
    return request.body_length is not None and request.body_length >= LARGE


class _Exchange:
    def __init__(self, rest: Transport, request: HttpRequest, exchange: SocketExchange) -> None:
        self._rest = rest
        self._request = request
        self._exchange: Exchange = exchange

    async def __aenter__(self) -> HttpReply:
        try:
            return await self._exchange.__aenter__()
        except Unsuited:
            self._exchange = self._rest.send(self._request)
        return await self._exchange.__aenter__()

    async def __aexit__(self, *exc: object) -> None:
        await self._exchange.__aexit__(*exc)

    async def dead(self) -> None:
        await self._exchange.dead()
