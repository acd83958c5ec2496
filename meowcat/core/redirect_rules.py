"""When a redirect is followed, where to, and what may go along. Pure; the loop is in `transport.redirects`.

Sources: RFC 9110 15.4 (statuses, and that a user agent should detect loops), 10.2.2 (Location is resolved
against the request's URL), 7.4 and RFC 6454 (origins).
"""

from collections.abc import Collection
from urllib.parse import SplitResult, quote, urljoin, urlsplit, urlunsplit

from msgspec import Struct

from meowcat.core.values import Fault, FaultKind

MAX_HOPS = 10
"""Redirects followed for one request unless it says otherwise; the next one is a fault."""

FOLLOWED = frozenset({301, 302, 303, 307, 308})
"""300 and 304 to 306 name no single other place of the same content."""

STALE = frozenset({401, 403, 404, 410})
"""Replies of a final URL that may only mean that the redirect is to be asked for again."""

_PORTS = {"http": 80, "https": 443}

# All that RFC 3986 allows in a URL, and `%`: only what is illegal in a Location is percent-encoded.
_LEGAL = "!#$%&'()*+,/:;=?@[]~"


class Hop(Struct, frozen=True, gc=False):
    """The next request of a redirected one."""

    url: str
    same_origin: bool
    """False: no header that the caller gave may go along, now or on any later hop."""


def is_redirect(method: str, status: int) -> bool:
    """Whether the reply is a redirect that meowcat follows: only for GET and HEAD, whose repetition elsewhere
    changes nothing (RFC 9110 15.4, 9.2.1).
    """
    return method in {"GET", "HEAD"} and status in FOLLOWED


def same_origin(one: str, other: str) -> bool:
    """Whether scheme, host and port are the same (RFC 6454 4).

    Raises:
        ValueError: one of them has no such parts.

    """
    return _origin(urlsplit(one)) == _origin(urlsplit(other))


def next_hop(
    location: str | None, current: str, visited: Collection[str], most: int = MAX_HOPS
) -> Hop | Fault:
    """Judge a redirect reply of `current`. `visited` has every URL asked so far, `current` included; at most
    `most` redirects are followed.

    Faults name origins only: paths and queries of redirects often hold signatures.
    """
    if not location:
        return Fault(kind=FaultKind.REPLY, detail="redirect without a Location; the server must name one")
    if len(visited) > most:
        return _refused(f"more than {most} redirects; the last one came from {shown(current)}")
    try:
        parts = urlsplit(urljoin(current, quote(location, safe=_LEGAL)))
        here, there = _origin(urlsplit(current)), _origin(parts)
    except ValueError:
        return _refused(f"{shown(current)} redirects to something that is no URL")
    if there[0] not in _PORTS or not there[1]:
        return _refused(f"{shown(current)} redirects to a {there[0]!r} URL; only http and https are followed")
    if here[0] == "https" and there[0] == "http":
        return _refused(f"{shown(current)} redirects from https to http, which would give up encryption")
    # A fragment is never sent, and user information of somebody else's making is no credential of ours.
    target = urlunsplit(parts._replace(fragment="", netloc=parts.netloc.rpartition("@")[2]))
    if target in visited:
        return _refused(f"redirects run in a circle at {shown(target)}")
    return Hop(target, here == there)


def shown(url: str) -> str:
    """A URL's origin, for texts: no user information, path or query."""
    try:
        scheme, host, port = _origin(urlsplit(url))
    except ValueError:
        return "(no URL)"
    bracketed = f"[{host}]" if ":" in host else host
    return f"{scheme}://{bracketed}" + ("" if port == _PORTS.get(scheme) else f":{port}")


def _origin(parts: SplitResult) -> tuple[str, str, int | None]:
    scheme = parts.scheme.lower()
    return scheme, parts.hostname or "", parts.port or _PORTS.get(scheme)


def _refused(detail: str) -> Fault:
    return Fault(kind=FaultKind.REDIRECT, detail=detail)
