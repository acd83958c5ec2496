"""One short exchange: a request whose reply is read into memory, within a bound."""

import base64
from collections.abc import AsyncIterator, Callable
from typing import Self

import anyio
from msgspec import Struct
from msgspec.structs import replace

from meowcat.core.urls import host_of
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.contract import Refused
from meowcat.transport.bodies import let_go
from meowcat.transport.contract import (
    Chunk,
    Headers,
    HttpReply,
    HttpRequest,
    Transport,
    TransportFault,
    draws,
)

__all__ = ["Reply", "call"]

MOST = 8 << 20
"""Bytes of a reply: a list of 1,000 parts has about 300 kB."""

READ = 64 << 10

WHOLE_WITHIN = 600.0
"""Seconds from the head of a reply to its end. S3 sends blanks for minutes while it puts a large object
together; a server that never comes to an end would hold its task, and an engine that closes, for ever."""

DEAD_WITHIN = 1.0
"""Seconds that whoever stops an exchange waits for it to be dead."""


class Reply(Struct, frozen=True):
    """A reply in full."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: str) -> str | None:
        """The first field of that name, in any case."""
        name = name.lower()
        return next((value for each, value in self.headers if each.lower() == name), None)

    @property
    def error(self) -> bytes:
        """What tells an error apart: the body; where OSS answers a HEAD, the same in a header, in Base64."""
        if self.body:
            return self.body
        try:
            return base64.b64decode(self.header("x-oss-err") or "", validate=True)
        except ValueError:
            return b""

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


async def call(transport: Transport, request: HttpRequest, most: int = MOST) -> Reply:
    """Send a request, and read all of its reply.

    Raises:
        TransportFault: the exchange failed; TIMEOUT, where the reply takes longer than `WHOLE_WITHIN`;
            DISCONNECTED, where it tells of a success before all of the body was asked for.
        Refused: REPLY, where it is longer than `most` bytes.
    """
    sending = None if request.body is None else _Sending(request.body, request.body_length)
    exchange = transport.send(request if sending is None else replace(request, body=sending.body))
    try:
        async with exchange as reply:
            if sending is not None and _is_success(reply.status) and not sending.whole:
                detail = (
                    f"{host_of(request.url)} answered {reply.status} before it had all of the request's body"
                )
                raise TransportFault(Fault(kind=FaultKind.DISCONNECTED, detail=detail))
            with anyio.move_on_after(WHOLE_WITHIN):
                return Reply(reply.status, reply.headers, await _whole(reply, most))
        detail = f"{host_of(request.url)} did not come to an end of its reply within {WHOLE_WITHIN:.0f} s"
        raise TransportFault(Fault(kind=FaultKind.TIMEOUT, detail=detail))
    except anyio.get_cancelled_exc_class():
        with anyio.move_on_after(DEAD_WITHIN, shield=True):
            await exchange.dead()
        raise


class _Sending:
    """A body, and how much of it was asked for: what comes of a request says nothing of what never went out,
    and a client that has its answer sends no more (RFC 9112 9.3)."""

    def __init__(self, body: Callable[[], AsyncIterator[Chunk]], length: int | None) -> None:
        self._body = body
        self._length = self._left = length
        self.whole = length == 0

    def body(self) -> AsyncIterator[Chunk]:
        self._left, self.whole = self._length, self._length == 0
        return _Counted(self._body(), self)

    def asked(self, chunk: Chunk) -> Chunk:
        """The next chunk that is sent; returns it."""
        if self._left is not None:
            self._left -= len(chunk)
            self.whole = self._left <= 0
        return chunk


class _Counted:
    """An attempt to send such a body. It holds no chunk itself; of what can be drawn, this can be drawn."""

    def __init__(self, chunks: AsyncIterator[Chunk], sending: _Sending) -> None:
        self._chunks = chunks
        self._draws = chunks if draws(chunks) else None
        self._sending = sending

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        try:
            return self._sending.asked(await anext(self._chunks))
        except StopAsyncIteration:
            self._sending.whole = True
            raise

    def ready(self) -> bool:
        """See `Draws`."""
        return self._draws is not None and self._draws.ready()

    def draw(self) -> Chunk | None:
        """See `Draws`."""
        chunk = None if self._draws is None else self._draws.draw()
        return None if chunk is None else self._sending.asked(chunk)

    async def aclose(self) -> None:
        """Let go of what it comes from."""
        await let_go(self._chunks)


def _is_success(status: int) -> bool:
    return 200 <= status < 300  # noqa: PLR2004  # the class of success


async def _whole(reply: HttpReply, most: int) -> bytes:
    body = bytearray()
    while chunk := await reply.read(READ):
        body += chunk
        if len(body) > most:
            raise Refused(Fault(kind=FaultKind.REPLY, detail=f"a reply of more than {most} bytes"))
    return bytes(body)
