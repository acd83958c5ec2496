"""Which object is meant, and the URLs that its requests go to.

A key is any text to S3, `?`, `#` and `%` included, so what follows `s3://bucket/` is taken as it is. What it
can't be here is a path with `.` or `..` for a name: HTTP clients resolve those before they send it.
"""

import re
from urllib.parse import unquote_to_bytes, urlsplit

from msgspec import Struct
from msgspec.structs import replace

from meowcat.core.errors import InvalidArgument
from meowcat.core.transfers import ProtocolSpec
from meowcat.core.urls import check_url, redact
from meowcat.protocols.s3.settings import S3, TAG
from meowcat.protocols.signing.sigv4 import escaped, escaped_query

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


class Address(Struct, frozen=True):
    """One object of one server."""

    endpoint: str
    """`scheme://host[:port]`, and a path where the server has one, without a slash at the end."""
    region: str
    style: str
    bucket: str
    key: str

    @property
    def bucket_url(self) -> str:
        if self.style == "path":
            return f"{self.endpoint}/{self.bucket}"
        scheme, _, rest = self.endpoint.partition("://")
        return f"{scheme}://{self.bucket}.{rest}"

    @property
    def url(self) -> str:
        return f"{self.bucket_url}/{escaped(self.key, safe='/')}"

    def with_query(self, *fields: tuple[str, str]) -> str:
        """The object's URL with a query."""
        return f"{self.url}?{escaped_query(fields)}" if fields else self.url

    def with_bucket_query(self, *fields: tuple[str, str]) -> str:
        """The bucket's URL with a query."""
        slash = "" if self.style == "path" else "/"
        return f"{self.bucket_url}{slash}?{escaped_query(fields)}"

    @property
    def shown(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}"


def address_of(spec: ProtocolSpec) -> Address:
    """The address in the fields of a spec that was resolved."""
    return Address(*(str(spec.fields[name]) for name in Address.__struct_fields__))


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
    address = _from_s3(url, fields) if from_s3 else _from_http(url, fields)
    _check_bucket(address)
    _check_key(address.key)
    known_fields = {name: getattr(address, name) for name in Address.__struct_fields__}
    return address.url, replace(spec, tag=TAG, fields=fields | known_fields)


def _from_s3(url: str, fields: dict[str, str | int | bool]) -> Address:
    bucket, _, key = url[len(SCHEME) :].partition("/")
    region = str(fields.get("region") or "")
    endpoint = str(fields.get("endpoint") or _aws_endpoint(region or _REGION))
    return _address(_checked_endpoint(endpoint), region, str(fields["style"]), bucket, key)


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
    endpoint = _checked_endpoint(str(fields["endpoint"])) if "endpoint" in fields else None
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
    return _address(endpoint, region, style, bucket, _decoded(path))


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


def _checked_endpoint(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https"):
        raise InvalidArgument(f"endpoint {redact(endpoint)!r}: expected 'https://host' or 'http://host:port'")
    check_url(endpoint)
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise InvalidArgument(f"endpoint {redact(endpoint)!r}: expected no userinfo, query or fragment")
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def _check_bucket(address: Address) -> None:
    if _BUCKET.fullmatch(address.bucket) is None:
        raise InvalidArgument(
            f"bucket {address.bucket!r}: expected 3 to 63 of a-z, 0-9, '.' and '-', no address of a machine; "
            "as in s3://bucket/key"
        )


def _check_key(key: str) -> None:
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(
            "key: has half of a character (a lone surrogate), which nothing can store"
        ) from None
    if not 0 < size <= _MAX_KEY:
        raise InvalidArgument(f"key of {size} bytes: expected 1 to {_MAX_KEY}, as in s3://bucket/key")
    if any(segment in (".", "..") for segment in key.split("/")):
        raise InvalidArgument(f"key {key!r}: has '.' or '..' between slashes, which no HTTP client sends")
    if any(ord(char) < ord(" ") or ord(char) == 0x7F for char in key):  # noqa: PLR2004  # DEL
        raise InvalidArgument(f"key {key!r}: has a control character, which no list of a server can show")


def _decoded(path: str) -> str:
    try:
        return unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        raise InvalidArgument("URL: the key in its path is no UTF-8") from None
