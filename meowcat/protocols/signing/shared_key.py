"""Shared Key, the signature of requests to Azure Storage.

https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key

`Range` is never signed: a range is asked for with `x-ms-range`, which is. The service orders the `x-ms-`
fields as its platform collates words, which no page says: a hyphen counts only where all else is equal,
and an underscore stands before digits. That order is followed for the names that the service takes at all.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import unquote, urlsplit

from meowcat.core.errors import InvalidArgument
from meowcat.protocols.credentials import AzureKey

__all__ = ["VERSION", "bearer", "mac", "sign"]

VERSION = "2023-11-03"
"""Of the service's interface, in each request and in each signature: blocks of 4000 MiB, CRC-64 and all else
that is asked for here came before it."""

_SIGNED = (
    "content-encoding", "content-language", "content-length", "content-md5", "content-type", "date",
    "if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range",
)  # fmt: skip
"""By the service, in this order, an absent one as an empty line."""
_OURS = re.compile(r"x-ms-[a-z0-9_-]+")


def sign(
    method: str, url: str, headers: Mapping[str, str], key: AzureKey, *, at: int, length: int = 0
) -> dict[str, str]:
    """The header fields to be sent beside `headers`, so that the service takes the request.

    Args:
        method: in upper case.
        url: as it is sent.
        headers: of the request; no Authorization, no Range, and no Content-Length.
        key: who signs.
        at: milliseconds since 1970 UTC, by the service's clock: it tolerates 15 minutes.
        length: of the body, in bytes; 0 is signed as none.

    Raises:
        InvalidArgument: an `x-ms-` field whose place in the order is not known.
    """
    added = {"x-ms-date": http_date_of(at), "x-ms-version": VERSION}
    fields = {name.lower(): value.strip() for name, value in {**headers, **added}.items()}
    if "range" in fields:
        raise InvalidArgument("header 'range': is not signed by everybody; expected 'x-ms-range'")
    fields["content-length"] = str(length) if length else ""
    lines = [method, *(fields.get(name, "") for name in _SIGNED)]
    names = sorted((name for name in fields if name.startswith("x-ms-")), key=_place)
    lines += [f"{name}:{fields[name]}" for name in names]
    lines.append(f"/{key.account}{urlsplit(url).path or '/'}")
    lines += _canonical_query(urlsplit(url).query)
    signature = mac(key.key, "\n".join(lines))
    return added | {"Authorization": f"SharedKey {key.account}:{signature}"}


def bearer(token: str, *, at: int) -> dict[str, str]:
    """The same where a token of Entra ID says who asks."""
    return {"x-ms-date": http_date_of(at), "x-ms-version": VERSION, "Authorization": f"Bearer {token}"}


def mac(key: str, text: str) -> str:
    """HMAC-SHA256 in base64, by a key in base64.

    Raises:
        InvalidArgument: the key is no base64.
    """
    try:
        secret = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgument(
            "account key: is no base64; expected one of the account's access keys"
        ) from None
    return base64.b64encode(hmac.digest(secret, text.encode(), hashlib.sha256)).decode()


def http_date_of(at: int) -> str:
    """An instant as header fields have it, in any locale."""
    moment = datetime.fromtimestamp(at // 1000, UTC)
    day = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[moment.weekday()]
    months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    return f"{day}, {moment:%d} {months[moment.month - 1]} {moment:%Y %H:%M:%S} GMT"


def _place(name: str) -> tuple[str, tuple[bool, ...]]:
    """By what a field is ordered: first without its hyphens, then by where they stand."""
    if _OURS.fullmatch(name) is None:
        raise InvalidArgument(
            f"header {name[:80]!r}: Azure takes no such name, and nobody knows where it would stand in the "
            "signature; expected letters, digits, '-' and '_' after 'x-ms-'"
        )
    return name.replace("-", "").replace("_", " "), tuple(char == "-" for char in name)


def _canonical_query(query: str) -> list[str]:
    """In the order of the names, which are in lower case; of several values of one name, in their own."""
    found: dict[str, list[str]] = {}
    for segment in query.split("&"):
        name, _, value = segment.partition("=")
        if name:
            found.setdefault(unquote(name).lower(), []).append(unquote(value))
    return [f"{name}:{','.join(sorted(found[name]))}" for name in sorted(found)]
