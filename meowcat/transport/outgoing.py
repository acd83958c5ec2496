"""A request of HTTP/1.1 as it goes out (RFC 9112), without I/O: where it goes, and its head."""

import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from meowcat.transport.connections import Origin
from meowcat.transport.contract import USER_AGENT, HttpRequest

__all__ = ["Unsuited", "head_of"]

_PORTS = {"http": 80, "https": 443}

_URL = re.compile(r"(https?://[^/?#]+)([^#]*)")
"""Origin and target."""

_LINE = re.compile(r"[A-Za-z]+ [!-~]+ HTTP/1\.1\r\n")
"""Of a request that can be sent (RFC 9112 3) …"""
_FIELDS = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+: [^\0-\x08\n-\x1f\x7f]*\r\n)*")
"""… and fields that can (RFC 9112 5)."""


class Unsuited(Exception):
    """The client can't send the request, and has sent nothing of it."""


def head_of(request: HttpRequest) -> tuple[Origin, bytes]:
    """Where a request goes, and its head, in UTF-8, as it is signed.

    Raises:
        Unsuited: it can't be sent.

    """
    found = _URL.match(request.url)
    if found is None:
        raise Unsuited
    whole, target = found.groups()
    origin, own = _place(whole)
    if request.body_length is not None:
        own = {**own, "content-length": f"Content-Length: {request.body_length}\r\n"}
    names, given = _lines(request.headers)
    if not names.isdisjoint(own):
        own = {name: line for name, line in own.items() if name not in names}
    line = f"{request.method} {target if target[:1] == '/' else f'/{target}'} HTTP/1.1\r\n"
    if not _LINE.fullmatch(line):
        raise Unsuited
    return origin, f"{line}{''.join(own.values())}".encode() + given


def _lines(headers: Mapping[str, str]) -> tuple[set[str], bytes]:
    """The names of fields in lower case, and the end of a head with them.

    Raises:
        Unsuited: it can't be sent.

    """
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if lines.count("\n") == len(headers) and _FIELDS.fullmatch(lines):  # a value must not make two of one
        try:
            return {name.lower() for name in headers}, f"{lines}\r\n".encode()
        except UnicodeEncodeError:
            pass
    raise Unsuited


@lru_cache(256)
def _place(origin: str) -> tuple[Origin, dict[str, str]]:
    """The origin in parts, and the header lines of each request to it that does not say otherwise, by their
    names in lower case.

    `Host` is in lower case, and without the port that its scheme has anyway (RFC 9110 7.2): signatures cover
    it so.
    """
    url = urlsplit(origin)
    usual = _PORTS[url.scheme]
    name, port = url.hostname or "", url.port or usual
    host = f"[{name}]" if ":" in name else name
    if port != usual:
        host = f"{host}:{port}"
    lines = {
        "host": f"Host: {host}\r\n",
        "user-agent": f"User-Agent: {USER_AGENT}\r\n",
        "accept": "Accept: */*\r\n",
    }
    return Origin(name, port, url.scheme == "https"), lines
