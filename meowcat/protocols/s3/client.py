"""Signed requests to one server, and what costs no attempt: a clock put right, a credential renewed."""

from collections.abc import AsyncIterator, Callable, Mapping

from meowcat.core.retry import http_date
from meowcat.core.transfers import ProtocolSpec
from meowcat.core.urls import host_of
from meowcat.core.values import Fault
from meowcat.protocols.contract import Tools
from meowcat.protocols.credentials import Credential
from meowcat.protocols.s3.address import Address
from meowcat.protocols.s3.replies import classify, error_code
from meowcat.protocols.signing.sigv4 import EMPTY_SHA256, UNSIGNED, sign
from meowcat.protocols.wire import Reply, call
from meowcat.transport.contract import HttpRequest

__all__ = ["Client", "Signer", "needs_of", "sent_with", "whole"]

SKEW_MS = 5 * 60 * 1000
"""A server that refuses a request, and whose clock is so far off, refuses it for that: most tolerate 15
minutes, and not all of them say RequestTimeTooSkewed."""

_STALE = frozenset({"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId"})
"""What a credential that was good before leads to."""
_REFUSALS = frozenset({400, 403})

_OURS = ("authorization", "host", "range", "content-length", "content-md5", "transfer-encoding", "x-amz-date")
_OURS_PREFIXES = ("x-amz-content-sha256", "x-amz-security-token", "x-amz-checksum-", "x-amz-sdk-checksum-")
_OF_OBJECT = frozenset({"cache-control", "expires", "x-amz-acl", "x-amz-storage-class", "x-amz-tagging"})
_OF_OBJECT_PREFIXES = (
    "content-", "x-amz-grant-", "x-amz-meta-", "x-amz-object-lock-", "x-amz-server-side-encryption",
    "x-amz-website-",
)  # fmt: skip
_OF_COMMIT = frozenset({"if-match", "if-none-match"})
_EVERYWHERE_PREFIX = "x-amz-server-side-encryption-customer-"
"""A key that the server forgets after each request."""


def sent_with(headers: Mapping[str, str], *, creates: bool = False, commits: bool = False) -> dict[str, str]:
    """Which of the caller's headers go with a request that `creates` an object's upload, that `commits` it,
    or neither: S3 refuses what has no place. Names in lower case.
    """
    given = {name.lower(): value for name, value in headers.items()}
    return {name: value for name, value in given.items() if _fits(name, creates=creates, commits=commits)}


def _fits(name: str, *, creates: bool, commits: bool) -> bool:
    if name in _OURS or name.startswith(_OURS_PREFIXES):
        return False
    if name in _OF_COMMIT:
        return commits
    if name.startswith(_EVERYWHERE_PREFIX):
        return True
    return creates or not (name in _OF_OBJECT or name.startswith(_OF_OBJECT_PREFIXES))


def needs_of(spec: ProtocolSpec) -> tuple[str, ...]:
    """What must be registered: the credential, where one signs."""
    name = spec.fields.get("credential", "default")
    return (f"credential:{name}",) if name else ()


def whole(content: bytes) -> Callable[[], AsyncIterator[bytes]]:
    """A small body."""

    async def body() -> AsyncIterator[bytes]:
        yield content

    return body


class Signer:
    """Signs requests to one server, and learns from its refusals."""

    def __init__(self, address: Address, credential: str, tools: Tools) -> None:
        self.address = address
        self.credential = credential
        self._tools = tools
        self._host = host_of(address.endpoint)

    async def sign(
        self, method: str, url: str, headers: Mapping[str, str], payload: str = UNSIGNED
    ) -> tuple[dict[str, str], Credential | None]:
        """`headers` and what signs them, and with which credential.

        Raises:
            Refused: CREDENTIAL, EXPIRED.
        """
        if not self.credential:
            return dict(headers), None
        key = await self._tools.credentials.get(self.credential)
        at = self._tools.wall() + self._tools.skew.get(self._host, 0)
        signed = sign(method, url, headers, key, region=self.address.region, at=at, payload=payload)
        return {**headers, **signed}, key

    def learn_clock(self, reply: Reply) -> bool:
        """Whether the reply refuses for a wrong clock, and the next request will have the right one."""
        date = http_date(reply.header("date"))
        if not self.credential or reply.status not in _REFUSALS or date is None:
            return False
        ahead = date - self._tools.wall()
        off = abs(ahead - self._tools.skew.get(self._host, 0))
        if off < SKEW_MS and not (error_code(reply) == "RequestTimeTooSkewed" and off > 1000):  # noqa: PLR2004  # Date has whole seconds
            return False
        self._tools.skew[self._host] = ahead
        return True

    async def renew(self, reply: Reply, method: str, key: Credential | None) -> bool:
        """Whether the reply refuses for a credential that has ended, and there is another one now.

        Raises:
            Refused: CREDENTIAL, EXPIRED: there is none.
        """
        silent = method == "HEAD" and reply.status == 400 and key is not None and key.token is not None  # noqa: PLR2004  # what ExpiredToken comes with
        if key is None or not (silent or error_code(reply) in _STALE):
            return False
        self._tools.credentials.invalidate(self.credential, key)
        return await self._tools.credentials.get(self.credential) != key

    def fault(self, reply: Reply, doing: str) -> Fault:
        """What a reply means that is not the one hoped for."""
        return classify(reply, doing, self.address, self.credential, self._tools.wall())


class Client:
    """Short exchanges with the server of one object."""

    def __init__(self, signer: Signer, tools: Tools) -> None:
        self._signer = signer
        self._tools = tools

    async def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Callable[[], AsyncIterator[bytes]] | None = None,
        length: int | None = None,
        payload: str = UNSIGNED,
    ) -> Reply:
        """Send a request, once more where the server's clock or a fresh credential lets it succeed.

        Args:
            method: in upper case.
            url: in full.
            headers: beside those that sign it.
            body: may be called twice.
            length: of the body, in bytes.
            payload: the SHA-256 of the body in hexadecimal, where it is to be signed; that there is none
                is signed in any case.

        Raises:
            TransportFault: no reply came. Refused: no credential.
        """
        corrected = renewed = False
        payload = EMPTY_SHA256 if body is None else payload
        while True:
            signed, key = await self._signer.sign(method, url, headers, payload)
            request = HttpRequest(method, url, signed, body=body, body_length=length)
            reply = await call(self._tools.transport, request)
            if not corrected and self._signer.learn_clock(reply):
                corrected = True
            elif not renewed and await self._signer.renew(reply, method, key):
                renewed = True
            else:
                return reply
