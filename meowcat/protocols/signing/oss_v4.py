"""Version 4 of Aliyun OSS's signatures, in header fields and in a query.

https://help.aliyun.com/en/oss/developer-reference/recommend-to-use-signature-version-4
https://help.aliyun.com/en/oss/developer-reference/add-signatures-to-urls

It looks like that of AWS and differs in what it covers: the path always begins with the bucket, also where
the host names it; a parameter without a value has no `=`; `x-oss-*`, Content-Type and Content-MD5 are signed
wherever they are present, Host and all others only where they are asked for; and no signature covers a body,
as the service takes no other digest than `UNSIGNED-PAYLOAD`.
"""

from collections.abc import Iterable, Mapping
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

__all__ = ["presign", "sign"]

_ALGORITHM = "OSS4-HMAC-SHA256"
_UNSIGNED = "UNSIGNED-PAYLOAD"
_ALWAYS_SIGNED = frozenset({"content-md5", "content-type"})


def sign(
    method: str,
    url: str,
    headers: Mapping[str, str],
    key: AccessKey,
    *,
    region: str,
    at: int,
    bucket: str | None = None,
    additional_headers: Iterable[str] = (),
) -> dict[str, str]:
    """The header fields to be sent beside `headers`, so that the server takes the request.

    Args:
        method: in upper case.
        url: as it is sent. A bucket's own path ends in a slash: `https://host/bucket/?uploads=`.
        headers: of the request; no Authorization.
        key: who signs.
        region: of the bucket, without the prefix `oss-`: `cn-hangzhou`.
        at: milliseconds since 1970 UTC, by the server's clock: it tolerates 15 minutes.
        bucket: where the host names it (`bucket.oss-...`, or a domain of one's own); None = the path does.
        additional_headers: names that are signed, too, where the request has them: `range`, `host`.
    """
    now = moment(at)
    added = {"x-oss-content-sha256": _UNSIGNED, "x-oss-date": now}
    if key.token is not None:
        added["x-oss-security-token"] = key.token
    fields, additional = _canonical_fields(url, {**headers, **added}, additional_headers)
    scope = _scope(now, region)
    request = _canonical_request(method, url, urlsplit(url).query, fields, additional, bucket)
    terms = [f"Credential={key.id}/{scope}"]
    if additional:
        terms.append(f"AdditionalHeaders={additional}")
    terms.append(f"Signature={_signature(key, now, scope, request)}")
    added["Authorization"] = f"{_ALGORITHM} {','.join(terms)}"
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
    bucket: str | None = None,
    additional_headers: Iterable[str] = (),
) -> str:
    """`url` with a signature in its query, good for `expires` seconds from `at` (at most seven days).

    What is signed of `headers` has to be sent as it is by whoever uses it. The other arguments are those of
    `sign`. With a session's token, the URL ends with that session, too.
    """
    now = moment(at)
    scope = _scope(now, region)
    fields, additional = _canonical_fields(url, headers or {}, additional_headers)
    added = [
        ("x-oss-credential", f"{key.id}/{scope}"),
        ("x-oss-date", now),
        ("x-oss-expires", str(expires)),
        ("x-oss-signature-version", _ALGORITHM),
    ]
    if key.token is not None:
        added.append(("x-oss-security-token", key.token))
    if additional:
        added.append(("x-oss-additional-headers", additional))
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, escaped_query(added))))
    request = _canonical_request(method, url, query, fields, additional, bucket)
    signature = _signature(key, now, scope, request)
    return parts._replace(query=f"{query}&x-oss-signature={signature}", fragment="").geturl()


def _scope(now: str, region: str) -> str:
    return f"{now[:8]}/{region}/oss/aliyun_v4_request"


def _signature(key: AccessKey, now: str, scope: str, request: str) -> str:
    return chained(_ALGORITHM, f"aliyun_v4{key.secret}", now, scope, request)


def _canonical_request(
    method: str, url: str, query: str, fields: Mapping[str, str], additional: str, bucket: str | None
) -> str:
    """The last line is the digest that the request names, as the service does not look at the body."""
    path = escaped_path(url) if bucket is None else f"/{bucket}{escaped_path(url)}"
    pairs = (f"{name}={value}" if value else name for name, value in escaped_pairs(query))
    lines = [method, path, "&".join(pairs)]
    lines += [f"{name}:{value}" for name, value in fields.items()]
    return "\n".join([*lines, "", additional, fields.get("x-oss-content-sha256", _UNSIGNED)])


def _canonical_fields(
    url: str, headers: Mapping[str, str], additional: Iterable[str]
) -> tuple[dict[str, str], str]:
    """The fields that are signed, in order, and the names of those that would not be without being asked for.

    A field that is asked for and absent, or empty, is not named: the service refuses empty names, and one set
    of names serves all requests.
    """
    present = {name.strip().lower(): value.strip() for name, value in headers.items()}
    present.setdefault("host", host(url))
    asked = {name.strip().lower() for name in additional}
    extra = sorted(name for name in asked if present.get(name) and not _always_signed(name))
    fields = {name: present[name] for name in sorted(present) if _always_signed(name) or name in extra}
    return fields, ";".join(extra)


def _always_signed(name: str) -> bool:
    return name.startswith("x-oss-") or name in _ALWAYS_SIGNED
