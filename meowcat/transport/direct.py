"""Which requests go straight to their server over sockets of one's own, and which through the ordinary
client."""

import re
from pathlib import Path
from urllib.parse import urlsplit

from meowcat.transport.contract import LARGE, Exchange, HttpRequest, Timeouts, Transport
from meowcat.transport.outgoing import Unsuited
from meowcat.transport.proxies import Proxies
from meowcat.transport.socket_uploads import SocketUpload
from meowcat.transport.sockets import SocketExchange, SocketTransport

__all__ = ["DirectHttp"]

_URL = re.compile(
    r"(https?://[A-Za-z0-9.\-\[\]:]+)(?:/[A-Za-z0-9\-._~!$&'()*+,;=:@/%]*)?(?:\?[!$-&(-;=?-~]*)?"
)
"""One that every client sends as it stands: no name or password, nothing to be encoded, and no fragment,
which is not sent."""

_READS = frozenset({"GET", "HEAD"})

_DOTS = re.compile(r"/(\.|%2e){1,2}(/|\?|$)", re.IGNORECASE)
"""Parts of a path that some clients resolve and others don't: another file, perhaps."""


MOST_KNOWN = 1024
"""Origins that are remembered."""


class DirectHttp:
    """A transport that sends over sockets what it can: GETs and HEADs, and large bodies over plain HTTP. All
    else is left to `rest`.

    Args:
        rest: the client for everything else. It is closed along with this.
        timeouts: seconds.
        verify: a path to (or the bytes of) a PEM bundle of authorities that are trusted, too.

    Raises:
        InvalidArgument: the bundle can't be read, or is none.

    """

    def __init__(
        self, rest: Transport, timeouts: Timeouts, *, verify: str | Path | bytes | None = None
    ) -> None:
        self._rest = rest
        self._sockets = SocketTransport(timeouts, verify=verify)
        self._proxies = Proxies(trust_env=True)
        self._direct: dict[str, bool] = {}
        """By origin: whether nothing stands in the way there."""

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
        found = _URL.fullmatch(url)
        if found is None or _DOTS.search(url):
            return False
        origin = found[1]
        if origin not in self._direct:
            if len(self._direct) == MOST_KNOWN:
                self._direct.clear()
            self._direct[origin] = self._goes_straight_to(origin)
        return self._direct[origin]

    def _goes_straight_to(self, origin: str) -> bool:
        try:
            parts = urlsplit(origin)
            named = bool(parts.hostname) and parts.port != 0
        except ValueError:
            return False
        if parts.scheme == "https" and not self._sockets.can_speak_tls_to(parts.hostname or ""):
            return False
        return named and not self._proxies.before(origin)

    async def aclose(self) -> None:
        """Close idle connections. Exchanges under way end by themselves."""
        await self._sockets.aclose()
        await self._rest.aclose()


def _is_read(request: HttpRequest) -> bool:
    return request.body is None and request.method in _READS


def _is_large(request: HttpRequest) -> bool:
    """Whether its body is, and a thread's to send: over TLS Python sends each 16 KiB with a call of its own,
    and takes a quarter longer than the other client."""
    length = request.body_length
    large = request.body is not None and length is not None and length >= LARGE
    return large and request.url.startswith("http:")
