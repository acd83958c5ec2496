"""One short exchange: a request whose reply is read into memory, within a bound."""

import base64

import anyio
from msgspec import Struct

from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.contract import Refused
from meowcat.transport.contract import Headers, HttpRequest, Transport

__all__ = ["Reply", "call"]

MOST = 8 << 20
"""Bytes of a reply: a list of 1,000 parts has about 300 kB."""

READ = 64 << 10

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
        TransportFault: the exchange failed. Refused: REPLY, where the reply is longer than `most` bytes.
    """
    exchange = transport.send(request)
    try:
        async with exchange as reply:
            body = bytearray()
            while chunk := await reply.read(READ):
                body += chunk
                if len(body) > most:
                    raise Refused(Fault(kind=FaultKind.REPLY, detail=f"a reply of more than {most} bytes"))
            return Reply(reply.status, reply.headers, bytes(body))
    except anyio.get_cancelled_exc_class():
        with anyio.move_on_after(DEAD_WITHIN, shield=True):
            await exchange.dead()
        raise
