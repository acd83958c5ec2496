"""What the signatures of object stores have in common: one form of a URL, and a chain of HMACs.

What is signed is what a server makes of the request after it has decoded it, so a URL may be escaped more
than is needed.
"""

import hashlib
import hmac
from collections.abc import Iterable
from datetime import UTC, datetime
from urllib.parse import quote, unquote_to_bytes, urlsplit

__all__ = ["chained", "escaped", "escaped_pairs", "escaped_path", "escaped_query", "host", "moment"]

_PORTS = {"http": 80, "https": 443}


def escaped(text: str, safe: str = "") -> str:
    """`text` in UTF-8, with all escaped but letters, digits, `-._~` and what is `safe`."""
    return quote(text, safe=safe)


def escaped_query(fields: Iterable[tuple[str, str]]) -> str:
    """A query of these names and values, in the order and the form that are signed."""
    pairs = sorted((escaped(name), escaped(value)) for name, value in fields)
    return "&".join(f"{name}={value}" for name, value in pairs)


def escaped_path(url: str) -> str:
    """The path of `url`, neither normalised nor escaped twice."""
    return quote(unquote_to_bytes(urlsplit(url).path or "/"), safe="/")


def escaped_pairs(query: str) -> list[tuple[str, str]]:
    """In the order of the escaped names, and then of the escaped values; a name alone has an empty value."""
    pairs = (segment.partition("=")[::2] for segment in query.split("&") if segment)
    return sorted(
        (quote(unquote_to_bytes(name), safe=""), quote(unquote_to_bytes(value), safe=""))
        for name, value in pairs
    )


def host(url: str) -> str:
    """As clients send it: in lower case, without the port that the scheme has anyway (RFC 9110 7.2)."""
    parts = urlsplit(url)
    name = parts.hostname or ""
    name = f"[{name}]" if ":" in name else name
    return name if parts.port in (None, _PORTS.get(parts.scheme)) else f"{name}:{parts.port}"


def moment(at: int) -> str:
    """Milliseconds since 1970 UTC, as `20260131T235959Z`."""
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%Y%m%dT%H%M%SZ")


def chained(algorithm: str, seed: str, moment: str, scope: str, request: str) -> str:
    """The signature of a canonical request, in hexadecimal.

    The signing key is derived from `seed`, the secret behind a prefix, by one HMAC for each step of `scope`
    (day/region/service/version), so that a key that leaks is good for one day, region and service.
    """
    digest = hashlib.sha256(request.encode()).hexdigest()
    derived = seed.encode()
    for step in (*scope.split("/"), f"{algorithm}\n{moment}\n{scope}\n{digest}"):
        derived = hmac.digest(derived, step.encode(), "sha256")
    return derived.hex()
