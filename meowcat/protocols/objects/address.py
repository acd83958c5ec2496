"""Which object is meant, and the URLs that its requests go to.

A key is any text, `?`, `#` and `%` included, so what follows `scheme://bucket/` is taken as it is. What it
can't be here is a path with `.` or `..` for a name: HTTP clients resolve those before they send it.
"""

from typing import ClassVar, Self
from urllib.parse import unquote_to_bytes, urlsplit

from msgspec import Struct

from meowcat.core.errors import InvalidArgument
from meowcat.core.transfers import ProtocolSpec
from meowcat.core.urls import check_url, redact
from meowcat.protocols.signing.canonical import escaped, escaped_query

__all__ = ["ObjectAddress", "check_key", "checked_endpoint", "decoded"]


class ObjectAddress(Struct, frozen=True):
    """One object of one server."""

    scheme: ClassVar[str]
    """What the URLs of people begin with: `s3://`."""

    endpoint: str
    """`scheme://host[:port]`, and a path where the server has one, without a slash at the end."""
    region: str
    style: str
    """Where the bucket stands: `virtual`, before the host; `path`; or `cname`, nowhere: the host is its
    own."""
    bucket: str
    key: str

    @classmethod
    def of(cls, spec: ProtocolSpec) -> Self:
        """The address in the fields of a spec that was resolved."""
        return cls(*(str(spec.fields[name]) for name in ObjectAddress.__struct_fields__))

    @property
    def fields(self) -> dict[str, str]:
        """As a spec has them."""
        return {name: getattr(self, name) for name in ObjectAddress.__struct_fields__}

    @property
    def bucket_url(self) -> str:
        if self.style == "path":
            return f"{self.endpoint}/{self.bucket}"
        if self.style == "cname":
            return self.endpoint
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
        return f"{self.scheme}{self.bucket}/{self.key}"


def checked_endpoint(endpoint: str) -> str:
    """A server's address, in one form.

    Raises:
        InvalidArgument: it is none, or has what belongs elsewhere.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https"):
        raise InvalidArgument(f"endpoint {redact(endpoint)!r}: expected 'https://host' or 'http://host:port'")
    check_url(endpoint)
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise InvalidArgument(f"endpoint {redact(endpoint)!r}: expected no userinfo, query or fragment")
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def check_key(key: str, longest: int, example: str) -> None:
    """See that a key can be asked for.

    Args:
        key: the object's.
        longest: in bytes of UTF-8.
        example: how an object is named.

    Raises:
        InvalidArgument: says what is wrong with it.
    """
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(
            "key: has half of a character (a lone surrogate), which nothing can store"
        ) from None
    if not 0 < size <= longest:
        raise InvalidArgument(f"key of {size} bytes: expected 1 to {longest}, as in {example}")
    if any(segment in (".", "..") for segment in key.split("/")):
        raise InvalidArgument(f"key {key!r}: has '.' or '..' between slashes, which no HTTP client sends")
    if any(ord(char) < ord(" ") or ord(char) == 0x7F for char in key):  # noqa: PLR2004  # DEL
        raise InvalidArgument(f"key {key!r}: has a control character, which no list of a server can show")


def decoded(path: str) -> str:
    """The key that a URL's path holds.

    Raises:
        InvalidArgument: it is no text.
    """
    try:
        return unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        raise InvalidArgument("URL: the key in its path is no UTF-8") from None
