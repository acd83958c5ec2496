"""Which bucket of OSS is meant, and how its objects are addressed.

https://www.alibabacloud.com/help/en/oss/regions-and-endpoints
"""

import re
from typing import ClassVar
from urllib.parse import urlsplit

from msgspec.structs import replace

from meowcat.core.errors import InvalidArgument
from meowcat.core.transfers import ProtocolSpec
from meowcat.core.urls import check_url, redact
from meowcat.protocols.objects.address import ObjectAddress, check_key, checked_endpoint, decoded
from meowcat.protocols.oss.settings import TAG, AliyunOSS
from meowcat.transport.hosts import is_address

__all__ = ["Address", "resolve"]

SCHEME = "oss://"
_EXAMPLE = "oss://bucket/key"
_MAX_KEY = 1023

_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_REGION = re.compile(r"[a-z]{2,}(?:-[a-z0-9]+)+")
_ACCELERATED = r"(?!accelerate)"
_HOST = re.compile(
    rf"oss-{_ACCELERATED}(?P<region>[a-z0-9-]+?)(?:-internal)?\.aliyuncs\.com"
    r"|(?P<dual>[a-z0-9-]+?)(?:-internal)?\.oss\.aliyuncs\.com"
)
"""An endpoint that names its region: the public one, that of Aliyun's own network, that of IPv6."""


class Address(ObjectAddress, frozen=True):
    """One object of one bucket."""

    scheme: ClassVar[str] = SCHEME

    def with_bucket_query(self, *fields: tuple[str, str]) -> str:
        """The bucket's URL with a query. Its path ends in a slash in any style: that is what is signed."""
        query = super().with_bucket_query(*fields)
        return query.replace("?", "/?", 1) if self.style == "path" else query


def resolve(url: str, spec: ProtocolSpec) -> tuple[str, ProtocolSpec]:
    """The http(s) URL of the object, and a spec whose fields say all that its URLs are made of.

    Args:
        url: `oss://bucket/key`; or the object's http(s) URL, in any style but `cname`.
        spec: that of `AliyunOSS.spec()`, or one that was resolved before.

    Raises:
        InvalidArgument: names the part, the value and what is expected.
    """
    fields = {**AliyunOSS().spec().fields, **spec.fields}
    if "bucket" in fields and "key" in fields:  # resolved before
        known = Address.of(spec)
        if known.url != url:
            raise InvalidArgument(
                f"URL {redact(url)!r}: its fields say {known.shown!r}; leave one of them out"
            )
        return url, spec
    from_oss = url.lower().startswith(SCHEME)
    found = _from_oss(url, fields) if from_oss else _from_http(url, fields)
    if _BUCKET.fullmatch(found.bucket) is None:
        raise InvalidArgument(
            f"bucket {found.bucket!r}: expected 3 to 63 of a-z, 0-9 and '-', as in {_EXAMPLE}"
        )
    check_key(found.key, _MAX_KEY, _EXAMPLE)
    if found.key[0] in "/\\":
        raise InvalidArgument(f"key {found.key!r}: OSS takes none that begins with {found.key[0]!r}")
    return found.url, replace(spec, tag=TAG, fields=fields | found.fields)


def _from_oss(url: str, fields: dict[str, str | int | bool]) -> Address:
    bucket, _, key = url[len(SCHEME) :].partition("/")
    region = _region(fields)
    if "endpoint" not in fields and not region:
        raise InvalidArgument(
            f"URL {redact(url)!r}: in which region is the bucket? set AliyunOSS(region='cn-hangzhou'), say, "
            "or endpoint"
        )
    endpoint = str(fields.get("endpoint") or f"https://oss-{region}.aliyuncs.com")
    return _address(_checked(endpoint), region, str(fields["style"]), bucket, key)


def _from_http(url: str, fields: dict[str, str | int | bool]) -> Address:
    """An object's URL taken apart."""
    check_url(url)
    parts = urlsplit(url)
    if parts.query or "@" in parts.netloc:
        raise InvalidArgument(
            f"URL {redact(url)!r}: expected an object's URL without query and userinfo; "
            "a signed one needs no credential, and is given to a presigned transfer"
        )
    style, region = str(fields["style"]), _region(fields)
    if style == "cname":
        raise InvalidArgument(f"URL {redact(url)!r}: which bucket is it? say {_EXAMPLE}, and the endpoint")
    host, path = parts.netloc.lower(), parts.path.removeprefix("/")
    endpoint = _checked(str(fields["endpoint"])) if "endpoint" in fields else None
    if endpoint is not None:
        base = endpoint.partition("://")[2]
        if host not in (base, host.removesuffix(f".{base}") + f".{base}"):
            raise InvalidArgument(f"URL {redact(url)!r}: expected one of the endpoint {endpoint!r}")
        style = "path" if host == base else "virtual"
    elif style == "auto":
        style = "path" if _is_machine(f"{parts.scheme}://{host}") else "virtual"
    if style == "path":
        bucket, _, path = path.partition("/")
        endpoint = endpoint or f"{parts.scheme}://{host}"
    else:
        bucket, _, rest = host.partition(".")
        endpoint = endpoint or f"{parts.scheme}://{rest}"
    return _address(endpoint, region, style, bucket, decoded(path))


def _address(endpoint: str, region: str, style: str, bucket: str, key: str) -> Address:
    if style == "auto":
        style = "path" if _is_machine(endpoint) else "virtual"
    host = _HOST.fullmatch(urlsplit(endpoint).hostname or "")
    named = (host["region"] or host["dual"]) if host is not None else ""
    if named and region not in ("", named):
        raise InvalidArgument(
            f"region {region!r}: the endpoint {endpoint!r} is that of {named!r}; leave one out"
        )
    if not (region or named):
        raise InvalidArgument(
            f"endpoint {endpoint!r}: names no region, and the signature needs one; set "
            "AliyunOSS(region='cn-hangzhou'), say"
        )
    return Address(endpoint, region or named, style, bucket, key)


def _region(fields: dict[str, str | int | bool]) -> str:
    """`oss-cn-hangzhou` is what the consoles call it, and `cn-hangzhou` what is signed."""
    region = str(fields.get("region") or "").removeprefix("oss-")
    if region and _REGION.fullmatch(region) is None:
        raise InvalidArgument(f"region {region!r}: expected one as in 'cn-hangzhou'")
    return region


def _checked(endpoint: str) -> str:
    """Aliyun's pages name endpoints without a scheme."""
    return checked_endpoint(endpoint if "://" in endpoint else f"https://{endpoint}")


def _is_machine(endpoint: str) -> bool:
    """Whether nothing can stand before the host."""
    host = urlsplit(endpoint).hostname or ""
    return host == "localhost" or is_address(host)
