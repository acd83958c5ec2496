"""One short exchange: a request whose reply is read into memory, within a bound."""

import base64

import anyio
from msgspec import Struct

from meowcat.core.urls import host_of
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.contract import Refused
from meowcat.transport.contract import Headers, HttpReply, HttpRequest, Transport, TransportFault

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
        TransportFault: the exchange failed; TIMEOUT, where the reply takes longer than `WHOLE_WITHIN`.
        Refused: REPLY, where it is longer than `most` bytes.
    """
    exchange = transport.send(request)
    try:
        async with exchange as reply:
            with anyio.move_on_after(WHOLE_WITHIN):
                return Reply(reply.status, reply.headers, await _whole(reply, most))
        detail = f"{host_of(request.url)} did not come to an end of its reply within {WHOLE_WITHIN:.0f} s"
        raise TransportFault(Fault(kind=FaultKind.TIMEOUT, detail=detail))
    except anyio.get_cancelled_exc_class():
        with anyio.move_on_after(DEAD_WITHIN, shield=True):
            await exchange.dead()
        raise


async def _whole(reply: HttpReply, most: int) -> bytes:
    body = bytearray()
    while chunk := await reply.read(READ):
        body += chunk
        if len(body) > most:
            raise Refused(Fault(kind=FaultKind.REPLY, detail=f"a reply of more than {most} bytes"))
    return bytes(body)
