"""Which requests go over sockets of one's own, and which through the ordinary client."""

import re
from urllib.parse import urlsplit

from meowcat.core.http_rules import LARGE
from meowcat.transport.contract import Exchange, HttpRequest, Timeouts, Transport
from meowcat.transport.proxies import Proxies
from meowcat.transport.socket_uploads import SocketUpload
from meowcat.transport.sockets import SocketExchange, SocketTransport, Unsuited

__all__ = ["PlainHttp"]

_PLAIN_URL = re.compile(
    r"http://([A-Za-z0-9.\-\[\]:]+)(?:/[A-Za-z0-9\-._~!$&'()*+,;=:@/%]*)?(?:\?[!$-&(-;=?-~]*)?"
)
"""One that every client sends as it stands: no name or password, nothing to be encoded, and no fragment,
which is not sent. What is encrypted is the other client's: Python sees each record of 16 KiB, which costs
more than a thread saves."""

_READS = frozenset({"GET", "HEAD"})

_DOTS = re.compile(r"/(\.|%2e){1,2}(/|\?|$)", re.IGNORECASE)
"""Parts of a path that some clients resolve and others don't: another file, perhaps."""


MOST_KNOWN = 1024
"""Authorities that are remembered."""


class PlainHttp:
    """A transport that sends over sockets what it can: GETs, HEADs and large bodies over plain HTTP. All else
    is left to `rest`.

    Args:
        rest: the client for everything else. It is closed along with this.
        timeouts: seconds.

    """

    def __init__(self, rest: Transport, timeouts: Timeouts) -> None:
        self._rest = rest
        self._sockets = SocketTransport(timeouts)
        self._proxies = Proxies(trust_env=True)
        self._straight: dict[str, bool] = {}
        """By authority: whether nothing stands in the way there."""

    def send(self, request: HttpRequest) -> Exchange:
        """Prepare an exchange."""
        if _is_read(request) or _is_large(request):
            try:
                if self._suits(request.url):
                    return (SocketExchange if request.body is None else SocketUpload)(self._sockets, request)
            except Unsuited:
                pass
        return self._rest.send(request)

    def _suits(self, url: str) -> bool:
        found = _PLAIN_URL.fullmatch(url)
        if found is None or _DOTS.search(url):
            return False
        authority = found[1]
        if authority not in self._straight:
            if len(self._straight) == MOST_KNOWN:
                self._straight.clear()
            self._straight[authority] = self._goes_straight_to(authority)
        return self._straight[authority]

    def _goes_straight_to(self, authority: str) -> bool:
        try:
            parts = urlsplit(f"http://{authority}")
            named = bool(parts.hostname) and parts.port != 0
        except ValueError:
            return False
        return named and not self._proxies.before(f"http://{authority}")

    async def aclose(self) -> None:
        """Close idle connections. Exchanges under way end by themselves."""
        await self._sockets.aclose()
        await self._rest.aclose()


def _is_read(request: HttpRequest) -> bool:
    return request.body is None and request.method in _READS


def _is_large(request: HttpRequest) -> bool:
    return request.body is not None and request.body_length is not None and request.body_length >= LARGE
