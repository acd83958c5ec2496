"""A server in memory that answers so many at a time, and nobody before as many have asked: so many tasks
transfer at once."""

import anyio

from meowcat.transport.contract import Headers, HttpRequest

BODY = b"x" * 1000


class Reply:
    """1,000 bytes, as the answer to a request of all of them."""

    status = 206
    version = "HTTP/1.1"
    headers: Headers = (
        ("content-length", str(len(BODY))),
        ("content-range", f"bytes 0-{len(BODY) - 1}/{len(BODY)}"),
        ("etag", '"1"'),
    )

    def __init__(self) -> None:
        self._left = BODY

    async def read(self, size: int) -> bytes:
        """All of the body, and then its end."""
        came, self._left = self._left[:size], self._left[size:]
        return came


class Exchange:
    def __init__(self, gate: "Gate") -> None:
        self._gate = gate

    async def __aenter__(self) -> Reply:
        await self._gate.pass_through()
        return Reply()

    async def __aexit__(self, *exc: object) -> None: ...

    async def dead(self) -> None: ...


class Gate:
    """The transport: each `count` requests that have come are answered together."""

    def __init__(self, count: int) -> None:
        self._count = self._missing = count
        self._open = anyio.Event()

    def send(self, request: HttpRequest) -> Exchange:
        """Whatever is asked for."""
        return Exchange(self)

    async def pass_through(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            self._missing = self._count
            self._open.set()
            self._open = anyio.Event()
        else:
            await self._open.wait()

    async def aclose(self) -> None: ...
