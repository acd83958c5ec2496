"""AWS Signature Version 4, as S3 and its kin take it.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html

S3's paths are neither normalised nor encoded twice, unlike those of all other services of AWS. What is signed
is what a server makes of the request after it has decoded it, so a URL may be escaped more than is needed.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from urllib.parse import quote, unquote_to_bytes, urlsplit

from meowcat.protocols.credentials import AccessKey

__all__ = ["EMPTY_SHA256", "UNSIGNED", "escaped", "escaped_query", "presign", "sign"]

UNSIGNED = "UNSIGNED-PAYLOAD"
"""In the place of a body's digest: the signature says nothing of the body."""
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()

_ALGORITHM = "AWS4-HMAC-SHA256"
_PORTS = {"http": 80, "https": 443}
_CHANGED_ON_THE_WAY = frozenset(
    {
        "accept", "accept-encoding", "authorization", "baggage", "connection", "content-length", "expect",
        "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
        "upgrade", "user-agent", "x-amzn-trace-id",
    }
)  # fmt: skip
"""Fields that a client or a proxy may set or rewrite: a signature over them would break on the way."""


def escaped(text: str, safe: str = "") -> str:
    """`text` in UTF-8, with all escaped but letters, digits, `-._~` and what is `safe`."""
    return quote(text, safe=safe)


def escaped_query(fields: Iterable[tuple[str, str]]) -> str:
    """A query of these names and values, in the order and the form that are signed."""
    pairs = sorted((escaped(name), escaped(value)) for name, value in fields)
    return "&".join(f"{name}={value}" for name, value in pairs)


def sign(
    method: str,
    url: str,
    headers: Mapping[str, str],
    key: AccessKey,
    *,
    region: str,
    at: int,
    payload: str = UNSIGNED,
    service: str = "s3",
) -> dict[str, str]:
    """The header fields to be sent beside `headers`, so that the server takes the request.

    Args:
        method: in upper case.
        url: as it is sent.
        headers: of the request; no Authorization.
        key: who signs.
        region: of the bucket.
        at: milliseconds since 1970 UTC, by the server's clock: it tolerates 15 minutes.
        payload: the SHA-256 of the body in hexadecimal, or `UNSIGNED`.
        service: `s3`, or another one of AWS, whose fields have no digest of the body.
    """
    moment = _moment(at)
    added = {"X-Amz-Date": moment}
    if service == "s3":
        added["X-Amz-Content-SHA256"] = payload
    if key.token is not None:
        added["X-Amz-Security-Token"] = key.token
    fields = _canonical_fields(url, {**headers, **added})
    names = ";".join(fields)
    request = _canonical_request(method, url, urlsplit(url).query, fields, payload)
    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    signature = _signature(request, key, moment, scope)
    added["Authorization"] = (
        f"{_ALGORITHM} Credential={key.id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return added


def presign(
    method: str,
    url: str,
    key: AccessKey,
    *,
    region: str,
    at: int,
    expires: int,
    headers: Mapping[str, str] | None = None,
    payload: str = UNSIGNED,
    service: str = "s3",
) -> str:
    """`url` with a signature in its query, good for `expires` seconds from `at` (at most seven days).

    `headers` have to be sent as they are by whoever uses it. The other arguments are those of `sign`.
    """
    moment = _moment(at)
    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    fields = _canonical_fields(url, headers or {})
    added = [
        ("X-Amz-Algorithm", _ALGORITHM),
        ("X-Amz-Credential", f"{key.id}/{scope}"),
        ("X-Amz-Date", moment),
        ("X-Amz-Expires", str(expires)),
        ("X-Amz-SignedHeaders", ";".join(fields)),
    ]
    if key.token is not None:
        added.append(("X-Amz-Security-Token", key.token))
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, escaped_query(added))))
    request = _canonical_request(method, url, query, fields, payload)
    signature = _signature(request, key, moment, scope)
    return parts._replace(query=f"{query}&X-Amz-Signature={signature}", fragment="").geturl()


def _moment(at: int) -> str:
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%Y%m%dT%H%M%SZ")


def _canonical_request(method: str, url: str, query: str, fields: Mapping[str, str], payload: str) -> str:
    path = quote(unquote_to_bytes(urlsplit(url).path or "/"), safe="/")
    lines = [method, path, _canonical_query(query)]
    lines += [f"{name}:{value}" for name, value in fields.items()]
    return "\n".join([*lines, "", ";".join(fields), payload])


def _canonical_query(query: str) -> str:
    """In the order of the escaped names, and then of the escaped values; a name alone has an empty value."""
    pairs = (segment.partition("=")[::2] for segment in query.split("&") if segment)
    escaped_pairs = sorted(
        (quote(unquote_to_bytes(name), safe=""), quote(unquote_to_bytes(value), safe=""))
        for name, value in pairs
    )
    return "&".join(f"{name}={value}" for name, value in escaped_pairs)


def _canonical_fields(url: str, headers: Mapping[str, str]) -> dict[str, str]:
    """The fields that are signed, in order: names in lower case, each run of blanks as one."""
    fields = {name.strip().lower(): " ".join(value.split()) for name, value in headers.items()}
    fields.setdefault("host", _host(url))
    return {name: fields[name] for name in sorted(fields) if name not in _CHANGED_ON_THE_WAY}


def _host(url: str) -> str:
    """As clients send it: in lower case, without the port that the scheme has anyway (RFC 9110 7.2)."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return host if parts.port in (None, _PORTS.get(parts.scheme)) else f"{host}:{parts.port}"


def _signature(request: str, key: AccessKey, moment: str, scope: str) -> str:
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = f"{_ALGORITHM}\n{moment}\n{scope}\n{digest}"
    derived = f"AWS4{key.secret}".encode()
    for step in scope.split("/"):
        derived = _hmac(derived, step)
    return _hmac(derived, text).hex()


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
