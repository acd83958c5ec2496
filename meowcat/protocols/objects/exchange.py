"""Signed requests to one server, and what costs no attempt: a clock put right, a credential renewed."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from typing import ClassVar

from msgspec import Struct

from meowcat.core.retry import http_date
from meowcat.core.transfers import ProtocolSpec
from meowcat.core.urls import host_of
from meowcat.core.values import Fault
from meowcat.protocols.contract import Tools
from meowcat.protocols.credentials import AccessKey, Credential
from meowcat.protocols.wire import Reply, call
from meowcat.transport.contract import Chunk, HttpRequest

__all__ = ["Client", "Signer", "Trials", "Unsigned", "needs_of", "whole"]

SKEW_MS = 5 * 60 * 1000
"""A server that refuses a request, and whose clock is so far off, refuses it for that: most tolerate 15
minutes, and not all of them say so."""

_REFUSALS = frozenset({400, 403})


class Unsigned(Struct, frozen=True):
    """A request as it is before it is signed."""

    method: str
    """In upper case."""
    url: str
    headers: Mapping[str, str]
    length: int = 0
    """Of the body, in bytes."""
    payload: str | None = None
    """The SHA-256 of the body in hexadecimal, where it is known and to be signed."""


class Signer(ABC):
    """Signs requests to one server, and learns from its refusals.

    Args:
        endpoint: whose clock it is that counts.
        credential: the name of the one that signs; "" signs nothing.
        tools: of the engine.
    """

    kinds: ClassVar[tuple[type[Credential], ...]] = (AccessKey,)
    """Of the credentials that sign such requests."""

    def __init__(self, endpoint: str, credential: str, tools: Tools) -> None:
        self.credential = credential
        self._tools = tools
        self._host = host_of(endpoint)

    @abstractmethod
    def signed(self, request: Unsigned, key: Credential, at: int) -> tuple[str, Mapping[str, str]]:
        """The URL to ask, and the header fields that are sent beside those of the request.

        Args:
            request: what is signed.
            key: who signs.
            at: milliseconds since 1970 UTC, by the server's clock.

        Raises:
            Refused: the request can't be signed as it is.
        """

    @abstractmethod
    def is_clock(self, reply: Reply) -> bool:
        """Whether the reply says that the request's clock is wrong."""

    @abstractmethod
    def is_stale(self, reply: Reply, method: str, key: Credential) -> bool:
        """Whether the reply says that the credential, good before, has ended."""

    @abstractmethod
    def fault(self, reply: Reply, doing: str) -> Fault:
        """What a reply means that is not the one hoped for; `doing` is a noun phrase: `part 3 of`."""

    async def sign(self, request: Unsigned) -> tuple[str, dict[str, str], Credential | None]:
        """The URL and the headers to send, and the credential that signed them.

        Raises:
            Refused: CREDENTIAL, EXPIRED.
        """
        if not self.credential:
            return request.url, dict(request.headers), None
        key = await self._tools.credentials.get(self.credential, *self.kinds)
        at = self._tools.wall() + self._tools.skew.get(self._host, 0)
        url, added = self.signed(request, key, at)
        return url, {**request.headers, **added}, key

    def learn_clock(self, reply: Reply) -> bool:
        """Whether the reply refuses for a wrong clock, and the next request will have the right one."""
        date = http_date(reply.header("date"))
        if not self.credential or reply.status not in _REFUSALS or date is None:
            return False
        ahead = date - self._tools.wall()
        off = abs(ahead - self._tools.skew.get(self._host, 0))
        if off < SKEW_MS and not (self.is_clock(reply) and off > 1000):  # noqa: PLR2004  # Date has whole seconds
            return False
        self._tools.skew[self._host] = ahead
        return True

    async def renew(self, reply: Reply, method: str, key: Credential | None) -> bool:
        """Whether the reply refuses for a credential that has ended, and there is another one now.

        Raises:
            Refused: CREDENTIAL, EXPIRED: there is none.
        """
        if key is None or not self.is_stale(reply, method, key):
            return False
        self._tools.credentials.invalidate(self.credential, key)
        return await self._tools.credentials.get(self.credential, *self.kinds) != key


class Trials:
    """For what one request may be sent once more: its clock, and its credential, each put right once."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._corrected = self._renewed = False

    async def again(self, reply: Reply, method: str, key: Credential | None) -> bool:
        """Whether the request, signed anew, may succeed after this reply.

        Raises:
            Refused: as `Signer.renew`.
        """
        if not self._corrected and self._signer.learn_clock(reply):
            self._corrected = True
        elif not self._renewed and await self._signer.renew(reply, method, key):
            self._renewed = True
        else:
            return False
        return True


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
        body: Callable[[], AsyncIterator[Chunk]] | None = None,
        length: int | None = None,
        payload: str | None = None,
    ) -> Reply:
        """Send a request, once more where the server's clock or a fresh credential lets it succeed.

        Args:
            method: in upper case.
            url: in full.
            headers: beside those that sign it.
            body: may be called twice.
            length: of the body, in bytes.
            payload: the SHA-256 of the body in hexadecimal, where it is to be signed.

        Raises:
            TransportFault: no reply came. Refused: no credential.
        """
        trials = Trials(self._signer)
        unsigned = Unsigned(method, url, headers, length or 0, payload)
        while True:
            signed_url, fields, key = await self._signer.sign(unsigned)
            request = HttpRequest(method, signed_url, fields, body=body, body_length=length)
            reply = await call(self._tools.transport, request)
            if not await trials.again(reply, method, key):
                return reply


def needs_of(spec: ProtocolSpec) -> tuple[str, ...]:
    """What must be registered: the credential, where one signs."""
    name = spec.fields.get("credential", "default")
    return (f"credential:{name}",) if name else ()


def whole(content: bytes) -> Callable[[], AsyncIterator[bytes]]:
    """A small body."""

    async def body() -> AsyncIterator[bytes]:
        yield content

    return body
