"""AWS Signature Version 4, as S3 and its kin take it.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html

S3's paths are neither normalised nor encoded twice, unlike those of all other services of AWS.
"""

import hashlib
from collections.abc import Mapping
from urllib.parse import urlsplit

from meowcat.protocols.credentials import AccessKey
from meowcat.protocols.signing.canonical import (
    chained,
    escaped_pairs,
    escaped_path,
    escaped_query,
    host,
    moment,
)

__all__ = ["EMPTY_SHA256", "UNSIGNED", "presign", "sign"]

UNSIGNED = "UNSIGNED-PAYLOAD"
"""In the place of a body's digest: the signature says nothing of the body."""
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()

_ALGORITHM = "AWS4-HMAC-SHA256"
_CHANGED_ON_THE_WAY = frozenset(
    {
        "accept", "accept-encoding", "authorization", "baggage", "connection", "content-length", "expect",
        "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
        "upgrade", "user-agent", "x-amzn-trace-id",
    }
)  # fmt: skip
"""Fields that a client or a proxy may set or rewrite: a signature over them would break on the way."""


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
    now = moment(at)
    added = {"X-Amz-Date": now}
    if service == "s3":
        added["X-Amz-Content-SHA256"] = payload
    if key.token is not None:
        added["X-Amz-Security-Token"] = key.token
    fields = _canonical_fields(url, {**headers, **added})
    names = ";".join(fields)
    request = _canonical_request(method, url, urlsplit(url).query, fields, payload)
    scope = f"{now[:8]}/{region}/{service}/aws4_request"
    signature = _signature(request, key, now, scope)
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
    now = moment(at)
    scope = f"{now[:8]}/{region}/{service}/aws4_request"
    fields = _canonical_fields(url, headers or {})
    added = [
        ("X-Amz-Algorithm", _ALGORITHM),
        ("X-Amz-Credential", f"{key.id}/{scope}"),
        ("X-Amz-Date", now),
        ("X-Amz-Expires", str(expires)),
        ("X-Amz-SignedHeaders", ";".join(fields)),
    ]
    if key.token is not None:
        added.append(("X-Amz-Security-Token", key.token))
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, escaped_query(added))))
    request = _canonical_request(method, url, query, fields, payload)
    signature = _signature(request, key, now, scope)
    return parts._replace(query=f"{query}&X-Amz-Signature={signature}", fragment="").geturl()


def _canonical_request(method: str, url: str, query: str, fields: Mapping[str, str], payload: str) -> str:
    pairs = (f"{name}={value}" for name, value in escaped_pairs(query))
    lines = [method, escaped_path(url), "&".join(pairs)]
    lines += [f"{name}:{value}" for name, value in fields.items()]
    return "\n".join([*lines, "", ";".join(fields), payload])


def _canonical_fields(url: str, headers: Mapping[str, str]) -> dict[str, str]:
    """The fields that are signed, in order: names in lower case, each run of blanks as one."""
    fields = {name.strip().lower(): " ".join(value.split()) for name, value in headers.items()}
    fields.setdefault("host", host(url))
    return {name: fields[name] for name in sorted(fields) if name not in _CHANGED_ON_THE_WAY}


def _signature(request: str, key: AccessKey, now: str, scope: str) -> str:
    return chained(_ALGORITHM, f"AWS4{key.secret}", now, scope, request)
