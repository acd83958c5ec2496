"""Requests as Azure takes them: signed with an account's key, a SAS or a token, and with those headers that
have a place there."""

import ipaddress
from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import urlsplit

from meowcat.core.errors import InvalidArgument
from meowcat.core.retry import http_date
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.azure.address import Address
from meowcat.protocols.azure.replies import classify, error_code, has_ended
from meowcat.protocols.contract import Refused, Tools
from meowcat.protocols.credentials import AzureKey, AzureSas, BearerToken, Credential
from meowcat.protocols.objects.exchange import Signer, Unsigned
from meowcat.protocols.objects.headers import Placement
from meowcat.protocols.signing.shared_key import VERSION, bearer, sign
from meowcat.protocols.wire import Reply

__all__ = ["DESCRIBING", "PLACES", "AzureSigner"]

_STALE = frozenset({"AuthenticationFailed", "InvalidAuthenticationInfo", "ExpiredAuthenticationToken"})
"""What a credential that was good before leads to: it has ended, or its key was changed."""
_UNAUTHORIZED = 401
_REFUSALS = frozenset({401, 403})
_OPEN = (
    "a token would stand in the open on its way to {}: give an endpoint with https://, or another credential"
)

DESCRIBING = ("cache-control", "content-disposition", "content-encoding", "content-language", "content-type")
"""Of a caller's headers those that Azure takes for the blob under a name of its own: `x-ms-blob-…`."""

PLACES = Placement(
    ours=(
        "authorization", "host", "range", "x-ms-range", "content-length", "content-md5", *DESCRIBING,
        "transfer-encoding", "x-ms-date", "x-ms-version", "x-ms-content-crc64", "x-ms-blob-type",
        "if-match", "if-none-match", "if-modified-since", "if-unmodified-since",
    ),
    of_object=(
        "x-ms-blob-*", "x-ms-meta-*", "x-ms-tags", "x-ms-access-tier", "x-ms-immutability-policy-*",
        "x-ms-legal-hold",
    ),
    of_commit=(),
)  # fmt: skip


class AzureSigner(Signer):
    """Signs requests about one blob."""

    kinds: ClassVar[tuple[type[Credential], ...]] = (AzureKey, AzureSas, BearerToken)

    def __init__(self, address: Address, credential: str, tools: Tools) -> None:
        super().__init__(address.endpoint, credential, tools)
        self._address = address
        self._last: Credential | None = None
        """Which signed last: what a refusal is of."""

    def signed(self, request: Unsigned, key: Credential, at: int) -> tuple[str, Mapping[str, str]]:
        self._last = key
        if isinstance(key, AzureSas):
            mark = "&" if "?" in request.url else "?"
            return f"{request.url}{mark}{key.query}", {"x-ms-version": VERSION}
        if isinstance(key, BearerToken):
            if _is_open(request.url):
                raise Refused(Fault(kind=FaultKind.STATUS, detail=_OPEN.format(self._address.endpoint)))
            return request.url, bearer(key.token, at=at)
        assert isinstance(key, AzureKey)  # noqa: S101  # `kinds` says so
        try:
            added = sign(request.method, request.url, request.headers, key, at=at, length=request.length)
        except InvalidArgument as impossible:
            raise Refused(Fault(kind=FaultKind.STATUS, detail=str(impossible))) from None
        return request.url, added

    def is_clock(self, reply: Reply) -> bool:  # noqa: ARG002  # the contract's
        """Azure has no word for it: its Date tells."""
        return False

    def is_stale(self, reply: Reply, method: str, key: Credential) -> bool:  # noqa: ARG002  # the contract's
        unauthorized = reply.status == _UNAUTHORIZED or error_code(reply) in _STALE
        return unauthorized or has_ended(reply) or _is_over(reply, key)

    def fault(self, reply: Reply, doing: str) -> Fault:
        over = self._last is not None and _is_over(reply, self._last)
        return classify(reply, doing, self._address, self.credential, self._tools.wall(), over=over)


def _is_over(reply: Reply, key: Credential) -> bool:
    """Whether a refusal comes after the end of the credential, by the clock of the server."""
    date = http_date(reply.header("date"))
    return reply.status in _REFUSALS and None not in (date, key.ends) and (date or 0) >= (key.ends or 0)


def _is_open(url: str) -> bool:
    """Whether others may read what is sent there: plain HTTP that leaves the machine. A key signs, and a SAS
    says by itself where it may go; but a token is all that whoever has read it needs."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    return parts.scheme != "https" and not local
