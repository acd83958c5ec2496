"""A transport between a protocol and its server that loses, refuses and counts exchanges when told."""

from dataclasses import dataclass, field
from typing import Literal

from meowcat.core.values import Fault, FaultKind
from meowcat.transport.contract import (
    Chunk,
    Exchange,
    Headers,
    HttpReply,
    HttpRequest,
    Transport,
    TransportFault,
)

__all__ = ["Harm", "TroubledTransport"]


@dataclass(frozen=True)
class Harm:
    """What becomes of an exchange: its request does not get there, or its reply does not come back, or
    another one comes in its place."""

    kind: Literal["fail", "lose", "answer"]
    status: int = 500
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


def _broken(what: str) -> TransportFault:
    return TransportFault(Fault(kind=FaultKind.DISCONNECTED, detail=f"the check {what}"))


@dataclass
class TroubledTransport:
    """Hands exchanges on to `inner`, which it does not close."""

    inner: Transport
    requests: list[HttpRequest] = field(default_factory=list)
    """All so far, in the order in which they were begun."""
    harms: dict[int, Harm] = field(default_factory=dict)
    """By the number of an exchange, 0 for the next one; see `arm`."""
    every: Harm | None = None
    """Comes upon every exchange."""

    def arm(self, number: int, harm: Harm) -> None:
        """Let `harm` come upon the exchange that is number `number` from now on, 0 for the next one."""
        self.harms[len(self.requests) + number] = harm

    def send(self, request: HttpRequest) -> Exchange:
        return _Troubled(self, request)

    async def aclose(self) -> None:
        """It is whoever made `inner` that closes it."""


class _Troubled:
    """One exchange."""

    def __init__(self, transport: TroubledTransport, request: HttpRequest) -> None:
        self._transport = transport
        self._request = request
        self._inner: Exchange | None = None
        self._left = False

    async def __aenter__(self) -> HttpReply:
        transport = self._transport
        number = len(transport.requests)
        transport.requests.append(self._request)
        harm = transport.harms.pop(number, transport.every)
        if harm is not None and harm.kind == "fail":
            raise _broken("did not let the request through")
        if harm is not None and harm.kind == "answer":
            return _Answer(harm)
        self._inner = transport.inner.send(self._request)
        reply = await self._inner.__aenter__()
        if harm is not None:
            await self._lose(reply)
        return reply

    async def _lose(self, reply: HttpReply) -> None:
        """The server has acted, and nobody hears of it."""
        try:
            while await reply.read(1 << 16):
                pass
        finally:
            await self.__aexit__(None, None, None)
        raise _broken("lost the reply")

    async def __aexit__(self, *exc: object) -> None:
        if self._inner is not None and not self._left:
            self._left = True
            await self._inner.__aexit__(*exc)

    async def dead(self) -> None:
        if self._inner is not None:
            await self._inner.dead()


class _Answer:
    """A reply that no server has given."""

    version = "HTTP/1.1"

    def __init__(self, harm: Harm) -> None:
        self.status = harm.status
        self.headers: Headers = harm.headers
        self._body = harm.body

    async def read(self, size: int) -> Chunk:
        chunk, self._body = self._body[:size], self._body[size:]
        return chunk
