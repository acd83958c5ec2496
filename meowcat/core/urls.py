"""URLs as identities, as text for people, and as something with secrets to be split off.

Three kinds of query parameters (`meowcat.core.harmless` has the lists):

- harmless ones are kept as they are;
- those of a signature, and secrets by name, are dropped from the identity, and their values are never stored;
- of all others the value may be a secret and may also be what tells two resources apart. It is never stored;
  its place is taken by `***` and 32 bits of its SHA-256, together with the host, the path and the name.

Thirty-two bits tell two resources of one path apart, and give nobody a long secret back: of a token of 128
bits, 2^96 are left that fit. A short secret under a name that does not look like one can be guessed and then
confirmed by them; that is the price of telling `?item=1` from `?item=2` after a restart, and the reason why
secrets by name have no digest at all. A path is always stored: a secret does not belong there.
"""

import hashlib
import re
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import SplitResult, quote, unquote_plus, urlsplit

from meowcat.core.errors import InvalidArgument
from meowcat.core.harmless import harmless_header, harmless_parameter, signature_parameter
from meowcat.core.kinds import check_text

__all__ = [
    "HIDDEN",
    "check_url",
    "harmless_header",
    "has_userinfo",
    "host_of",
    "identity",
    "redact",
    "scrub",
    "seal_url",
]

HIDDEN = "***"
"""What stands in the place of a secret."""
_PORTS = {"http": 80, "https": 443}
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\x9f\\]")
"""Control characters, blanks and backslashes: parsers disagree on them, which is how a request comes to go
to another host than the one that was checked."""
_PLAIN = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9][a-z0-9.-]*+(?<=[a-z0-9]))"
    r"(?::(?P<port>[1-5][0-9]{4}|[1-9][0-9]{0,3}))?+"
    r"(?:/[A-Za-z0-9._~!$&'()*+,=:@%/-]*+)?+"
)
"""What most URLs are: without a user, a query or a fragment. Such a one is stored as it is, and needs no
parser, which would take most of the time of a submission. A port above 59,999 may not exist. What a part
has taken it keeps (`+` behind a quantifier): nothing that follows it begins alike."""
_HOSTS = 1 << 10
"""Hosts that are remembered: each task asks for its own at each of its steps."""
_SEPARATORS = re.compile(r"([&;])")
_PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.:$\[\]-]{0,39}")
"""What a parameter's name looks like; a longer or stranger one may be a token without a value."""
_SEALED = re.compile(r"\*\*\*[0-9a-f]{8}")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_URL_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_QUERY_IN_TEXT = re.compile(r"(?<=\?)[^\s?]*=[^\s?]*")
_CREDENTIALS_IN_TEXT = re.compile(
    r"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|x-api-key|x-amz-security-token)(['\"]?\s*[:=,]\s*)[^\r\n]+"
)


def check_url(url: str) -> None:
    """Accept an absolute http or https URL with a host.

    Raises:
        InvalidArgument: anything else; the message has the URL redacted.
    """
    _split(url)


def has_userinfo(url: str) -> bool:
    """Whether `url` has a user or a password before its host."""
    return "@" in urlsplit(url).netloc


def host_of(url: str) -> str:
    """`scheme://host:port`, in lower case and with the port always there: the key of budgets per host.

    What comes behind the host is not looked at: that is `check_url`'s.

    Raises:
        InvalidArgument: not an http or https URL with a host.
    """
    path = url.find("/", len("https://"))
    return _host_key(url if path < 0 else url[:path])


@lru_cache(_HOSTS)
def _host_key(base: str) -> str:
    plain = _PLAIN.fullmatch(base)
    if plain is not None:
        scheme, host, port = plain.groups()
    else:
        parts = _split(base)
        scheme, host, port = parts.scheme, _host(parts), parts.port
    return f"{scheme}://{host}:{port or _PORTS[scheme]}"


def identity(url: str) -> str:
    """What `url` names, the same for every signed URL of one object, before and after sealing.

    Scheme and host in lower case, no default port, escapes normalised (RFC 3986 6.2.2), query parameters in
    order of their names, no userinfo, no fragment, no signature. Holds no secret.

    Raises:
        InvalidArgument: not an http or https URL with a host.
    """
    parts = _split(url)
    base = _base(parts)
    query = "&".join(sorted(kept for kept in _identifying(parts.query, base) if kept))
    return base + (f"?{query}" if query else "")


def seal_url(url: str) -> tuple[str, tuple[str, ...]]:
    """`url` as it may be stored, and the names of what was left out of it, in order.

    Without names the stored URL can be requested as it is (a fragment is never sent, so it is left out
    without a word). Sealing a sealed URL changes nothing.

    Raises:
        InvalidArgument: not an http or https URL with a host.
    """
    if _PLAIN.fullmatch(url) is not None:
        return url, ()
    parts = _split(url)
    names = ["userinfo"] if "@" in parts.netloc else []
    pieces: list[str] = []
    base = _base(parts) if parts.query else ""
    for segment in _SEPARATORS.split(parts.query):
        if segment in ("&", ";", "") or _is_harmless(segment):
            pieces.append(segment)
            continue
        name = _shown_name(segment)
        names.append(f"query:{name}")
        mask = HIDDEN if _is_signature(name) else _digest(segment, name, base)
        pieces.append(_masked(name, mask))
    _, at, host = parts.netloc.rpartition("@")
    stored = _joined(parts, f"{HIDDEN}@{host}" if at else host, "".join(pieces))
    return stored, tuple(dict.fromkeys(names))


def redact(url: object) -> str:
    """`url` for people, with `***` for the userinfo and every query value that is not harmless.

    Never raises: of what is no URL nothing but the scheme is shown.
    """
    if not isinstance(url, str):
        return HIDDEN
    if _PLAIN.fullmatch(url) is not None:
        return url
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises where the "port" is half of a password with a slash in it
    except ValueError:
        return _without_rest(url)
    if _FORBIDDEN.search(parts.netloc) or (parts.scheme and not parts.netloc):
        return _without_rest(url)
    _, at, host = parts.netloc.rpartition("@")
    return _joined(parts, f"{HIDDEN}@{host}" if at else host, _redacted_query(parts.query))


def scrub(text: str) -> str:
    """`text` with every URL in it redacted, every query of a relative one, and the values of credentials.

    For messages of libraries, which quote what they were given. A URL is taken to end at the next blank, so
    that rather too much is hidden than too little.
    """
    text = _CREDENTIALS_IN_TEXT.sub(rf"\1\2{HIDDEN}", text)
    text = _URL_IN_TEXT.sub(lambda match: redact(match[0]), text)
    return _QUERY_IN_TEXT.sub(lambda match: _redacted_query(match[0]), text)


def _without_rest(url: str) -> str:
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]{0,19}(?=:)", url)
    return f"{scheme[0]}://{HIDDEN}" if scheme else HIDDEN


_OBJECTS = {"s3": "S3", "oss": "AliyunOSS", "azure": "AzureBlob"}


def _split(url: str) -> SplitResult:
    check_text("URL", url)
    try:
        parts = urlsplit(url)
        port_ok = parts.port is None or parts.port > 0
    except ValueError:  # a broken host or port; the parser's own text may hold the userinfo
        raise InvalidArgument(f"URL {redact(url)!r}: its host or port can't be read") from None
    if parts.scheme in _OBJECTS:
        raise InvalidArgument(
            f"URL {redact(url)!r}: an object needs the protocol that reaches it, "
            f"as in protocol=meowcat.{_OBJECTS[parts.scheme]}(…)"
        )
    if parts.scheme not in _PORTS or not parts.hostname or not port_ok:
        raise InvalidArgument(f"URL {redact(url)!r}: expected http or https, a host, and a port that exists")
    if _FORBIDDEN.search(url):
        raise InvalidArgument(
            f"URL {redact(url)!r}: has a blank, a backslash or a control character; escape it"
        )
    return parts


def _host(parts: SplitResult) -> str:
    host = (parts.hostname or "").lower()
    return f"[{host}]" if ":" in host else host


def _base(parts: SplitResult) -> str:
    port = "" if parts.port in (None, _PORTS[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{_host(parts)}{port}{_normal_path(parts.path)}"


def _normal_path(path: str) -> str:
    def normal(match: re.Match[str]) -> str:
        char = chr(int(match[1], 16))
        return char if char in _UNRESERVED else match[0].upper()

    return _ESCAPE.sub(normal, path) or "/"


def _joined(parts: SplitResult, netloc: str, query: str) -> str:
    """The URL without its fragment, which may hold a token and is never sent."""
    return SplitResult(parts.scheme, netloc, parts.path, query, "").geturl()


def _decoded(text: str) -> str:
    return unquote_plus(text)


def _is_harmless(segment: str) -> bool:
    name, _, value = segment.partition("=")
    return harmless_parameter(_decoded(name), _decoded(value))


def _is_signature(name: str) -> bool:
    return bool(name) and signature_parameter(_decoded(name))


def _shown_name(segment: str) -> str:
    """The parameter's name; "" where all of the segment may be a value, as in `?TOKEN` and `?dG9rZW4=`."""
    name, _, value = segment.partition("=")
    return name if value.strip("=") and _PLAIN_NAME.fullmatch(name) else ""


def _masked(name: str, mask: str) -> str:
    return f"{name}={mask}" if name else mask


def _digest(segment: str, name: str, base: str) -> str:
    value = segment.partition("=")[2] if name else segment
    if _SEALED.fullmatch(value):
        return value
    text = "\0".join((base, _decoded(name), _decoded(value)))
    return HIDDEN + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _identifying(query: str, base: str) -> Iterator[str]:
    for segment in re.split(r"[&;]", query):
        name = _shown_name(segment)
        if _is_harmless(segment):
            name, equals, value = segment.partition("=")
            yield quote(_decoded(name)) + equals + quote(_decoded(value))
        elif segment and not _is_signature(name):
            yield _masked(name, _digest(segment, name, base))


def _redacted_query(query: str) -> str:
    return "".join(
        segment
        if segment in ("&", ";", "") or _is_harmless(segment)
        else _masked(_shown_name(segment), HIDDEN)
        for segment in _SEPARATORS.split(query)
    )
