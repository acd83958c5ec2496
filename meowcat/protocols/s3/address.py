"""Which server of S3's kind is meant, and how its buckets are addressed."""

import re
from typing import ClassVar
from urllib.parse import urlsplit

from msgspec.structs import replace

from meowcat.core.errors import InvalidArgument
from meowcat.core.transfers import ProtocolSpec
from meowcat.core.urls import check_url, redact
from meowcat.protocols.objects.address import ObjectAddress, check_key, checked_endpoint, decoded
from meowcat.protocols.s3.settings import S3, TAG

__all__ = ["Address", "address_of", "is_aws", "resolve"]

SCHEME = "s3://"
_REGION = "us-east-1"
_MAX_KEY = 1024

_BUCKET = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_AWS = re.compile(r"(?:.*\.)?amazonaws\.com(?:\.cn)?")
_AWS_REGION = re.compile(
    r"(?:.*\.)?s3(?:-fips)?(?:\.dualstack)?[.-]([a-z]{2}(?:-[a-z]+)+-\d+)\.amazonaws\.com(?:\.cn)?"
)
_AWS_VIRTUAL = re.compile(r"(?P<bucket>.+?)\.(?P<host>s3[.-](?:.*\.)?amazonaws\.com(?:\.cn)?)")
_VIRTUAL_ONLY = ("aliyuncs.com", "myqcloud.com", "volces.com")
"""Clones that refuse a bucket in the path."""


class Address(ObjectAddress, frozen=True):
    """One object of one server."""

    scheme: ClassVar[str] = SCHEME


def address_of(spec: ProtocolSpec) -> Address:
    """The address in the fields of a spec that was resolved."""
    return Address.of(spec)


def is_aws(endpoint: str) -> bool:
    return _AWS.fullmatch(urlsplit(endpoint).hostname or "") is not None


def resolve(url: str, spec: ProtocolSpec) -> tuple[str, ProtocolSpec]:
    """The http(s) URL of the object, and a spec whose fields say all that its URLs are made of.

    Args:
        url: `s3://bucket/key`; or the object's http(s) URL, in either style.
        spec: that of `S3.spec()`, or one that was resolved before.

    Raises:
        InvalidArgument: names the part, the value and what is expected.
    """
    fields = {**S3().spec().fields, **spec.fields}
    if "bucket" in fields and "key" in fields:  # resolved before
        known = address_of(spec)
        if known.url != url:
            raise InvalidArgument(
                f"URL {redact(url)!r}: its fields say {known.shown!r}; leave one of them out"
            )
        return url, spec
    from_s3 = url.lower().startswith(SCHEME)
    found = _from_s3(url, fields) if from_s3 else _from_http(url, fields)
    _check_bucket(found)
    check_key(found.key, _MAX_KEY, "s3://bucket/key")
    return found.url, replace(spec, tag=TAG, fields=fields | found.fields)


def _from_s3(url: str, fields: dict[str, str | int | bool]) -> Address:
    bucket, _, key = url[len(SCHEME) :].partition("/")
    region = str(fields.get("region") or "")
    endpoint = str(fields.get("endpoint") or _aws_endpoint(region or _REGION))
    return _address(checked_endpoint(endpoint), region, str(fields["style"]), bucket, key)


def _from_http(url: str, fields: dict[str, str | int | bool]) -> Address:
    """An object's URL taken apart. The bucket is in the path unless something says otherwise."""
    check_url(url)
    parts = urlsplit(url)
    if parts.query or "@" in parts.netloc:
        raise InvalidArgument(
            f"URL {redact(url)!r}: expected an object's URL without query and userinfo; "
            "a signed one needs no credential, and is given to a presigned transfer"
        )
    style, region = str(fields["style"]), str(fields.get("region") or "")
    host, path = parts.netloc.lower(), parts.path.removeprefix("/")
    endpoint = checked_endpoint(str(fields["endpoint"])) if "endpoint" in fields else None
    if endpoint is not None:
        base = endpoint.partition("://")[2]
        within = f"{host}/{path}".removeprefix(f"{base}/")
        before = host.removesuffix(f".{base}")
        if within != f"{host}/{path}":
            bucket, _, path = within.partition("/")
            style = "path"
        elif before != host:
            bucket, style = before, "virtual"
        else:
            raise InvalidArgument(f"URL {redact(url)!r}: expected one of the endpoint {endpoint!r}")
    elif aws := _AWS_VIRTUAL.fullmatch(host):
        bucket, endpoint, style = aws["bucket"], f"{parts.scheme}://{aws['host']}", "virtual"
    elif style == "virtual":
        bucket, _, rest = host.partition(".")
        endpoint = f"{parts.scheme}://{rest}"
    else:
        bucket, _, path = path.partition("/")
        endpoint, style = f"{parts.scheme}://{host}", "path"
    return _address(endpoint, region, style, bucket, decoded(path))


def _address(endpoint: str, region: str, style: str, bucket: str, key: str) -> Address:
    if style == "auto":
        style = "virtual" if _takes_virtual(endpoint, bucket) else "path"
    named = _AWS_REGION.fullmatch(urlsplit(endpoint).hostname or "")
    if named is not None and region not in ("", named[1]):
        raise InvalidArgument(
            f"region {region!r}: the endpoint {endpoint!r} is that of {named[1]!r}; leave one out"
        )
    return Address(endpoint, region or (named[1] if named else _REGION), style, bucket, key)


def _takes_virtual(endpoint: str, bucket: str) -> bool:
    """A name with dots before the host does not fit the wildcard of a certificate."""
    host = urlsplit(endpoint).hostname or ""
    if host.endswith(_VIRTUAL_ONLY):
        return True
    return is_aws(endpoint) and "." not in bucket


def _aws_endpoint(region: str) -> str:
    return f"https://s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"


def _check_bucket(found: Address) -> None:
    if _BUCKET.fullmatch(found.bucket) is None:
        raise InvalidArgument(
            f"bucket {found.bucket!r}: expected 3 to 63 of a-z, 0-9, '.' and '-', no address of a machine; "
            "as in s3://bucket/key"
        )
