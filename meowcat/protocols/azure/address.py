"""Which blob is meant, and the URLs that its requests go to.

A name is any text, `?`, `#` and `%` included, so what follows `azure://container/` is taken as it is.
"""

import re
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from meowcat.core.errors import InvalidArgument
from meowcat.core.transfers import ProtocolSpec
from meowcat.core.urls import check_url, redact
from meowcat.protocols.azure.settings import TAG, AzureBlob
from meowcat.protocols.objects.address import check_key, checked_endpoint, decoded
from meowcat.protocols.signing.canonical import escaped, escaped_query
from meowcat.transport.hosts import is_address

__all__ = ["SCHEME", "Address", "address_of", "resolve"]

SCHEME = "azure://"
_MAX_NAME = 1024
"""Characters; each has up to 4 bytes."""
_CONTAINER = re.compile(r"(?=.{3,63}$)[a-z0-9]+(?:-[a-z0-9]+)*|\$(?:root|web|logs)")


class Address(Struct, frozen=True):
    """One blob of one account."""

    endpoint: str
    """Of the account, without a slash at the end."""
    container: str
    blob: str

    @property
    def url(self) -> str:
        return f"{self.endpoint}/{escaped(self.container, safe='$')}/{escaped(self.blob, safe='/')}"

    def with_query(self, *fields: tuple[str, str]) -> str:
        """The blob's URL with a query."""
        return f"{self.url}?{escaped_query(fields)}" if fields else self.url

    @property
    def shown(self) -> str:
        return f"{SCHEME}{self.container}/{self.blob}"


def address_of(spec: ProtocolSpec) -> Address:
    """The address in the fields of a spec that was resolved."""
    return Address(*(str(spec.fields[name]) for name in Address.__struct_fields__))


def resolve(url: str, spec: ProtocolSpec) -> tuple[str, ProtocolSpec]:
    """The http(s) URL of the blob, and a spec whose fields say all that its URLs are made of.

    Args:
        url: `azure://container/blob`; or the blob's http(s) URL.
        spec: that of `AzureBlob.spec()`, or one that was resolved before.

    Raises:
        InvalidArgument: names the part, the value and what is expected.
    """
    fields = {**AzureBlob().spec().fields, **spec.fields}
    if "container" in fields and "blob" in fields:  # resolved before
        known = address_of(spec)
        if known.url != url:
            raise InvalidArgument(
                f"URL {redact(url)!r}: its fields say {known.shown!r}; leave one of them out"
            )
        return url, spec
    endpoint = str(fields["endpoint"]) if "endpoint" in fields else None
    account = str(fields["account"]) if "account" in fields else None
    if url.lower().startswith(SCHEME):
        container, _, blob = url[len(SCHEME) :].partition("/")
        address = Address(_endpoint(endpoint, account), container, blob)
    else:
        address = _from_http(url, endpoint or (_of_account(account) if account else None))
    _check(address)
    found = {name: getattr(address, name) for name in Address.__struct_fields__}
    return address.url, replace(spec, tag=TAG, fields=fields | found)


def _endpoint(endpoint: str | None, account: str | None) -> str:
    if endpoint is not None:
        return checked_endpoint(endpoint)
    if account is None:
        raise InvalidArgument(
            "account: an azure:// URL does not say whose container it is; give AzureBlob(account=…), or "
            "endpoint=…, or the blob's https:// URL"
        )
    return _of_account(account)


def _of_account(account: str) -> str:
    return f"https://{account}.blob.core.windows.net"


def _from_http(url: str, endpoint: str | None) -> Address:
    """A blob's URL taken apart. The account is in the host; in the path only where the host is an address."""
    check_url(url)
    parts = urlsplit(url)
    if parts.query or "@" in parts.netloc:
        raise InvalidArgument(
            f"URL {redact(url)!r}: expected a blob's URL without query and userinfo; a SAS is a credential "
            "(AzureSas), or its URL is given to a presigned transfer"
        )
    path = parts.path.removeprefix("/")
    if endpoint is None:
        endpoint = f"{parts.scheme}://{parts.netloc.lower()}"
        if parts.hostname == "localhost" or is_address(parts.hostname or ""):
            account, _, path = path.partition("/")
            endpoint = f"{endpoint}/{account}"
    else:
        endpoint = checked_endpoint(endpoint)
        base = endpoint.partition("://")[2]
        within = f"{parts.netloc.lower()}/{path}".removeprefix(f"{base}/")
        if within == f"{parts.netloc.lower()}/{path}":
            raise InvalidArgument(f"URL {redact(url)!r}: expected one of the endpoint {endpoint!r}")
        path = within
    container, _, blob = path.partition("/")
    return Address(endpoint, decoded(container), decoded(blob))


def _check(address: Address) -> None:
    container, blob = address.container, address.blob
    if _CONTAINER.fullmatch(container) is None:
        raise InvalidArgument(
            f"container {container!r}: expected 3 to 63 of a-z, 0-9 and single '-' between them, or $root; "
            "as in azure://container/blob"
        )
    check_key(blob, 4 * _MAX_NAME, "azure://container/blob")
    if len(blob) > _MAX_NAME:
        raise InvalidArgument(f"blob of {len(blob)} characters: expected at most {_MAX_NAME}")
    if blob.endswith(("/", ".")) or "\\" in blob:
        raise InvalidArgument(
            f"blob {blob!r}: Azure drops a '.' or '/' at the end of a name, and makes a slash of a "
            "backslash: it would be another blob; name it otherwise"
        )
