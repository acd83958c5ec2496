"""Request bodies that a client takes over: how to stop them, and what may still be on its way of them."""

import asyncio
from collections.abc import AsyncIterator
from time import monotonic
from typing import Self

from meowcat.transport.bodies import let_go
from meowcat.transport.contract import Chunk

SLOWEST_UPLOAD = 8 * 1024
"""Bytes per second. What goes out slower on average is taken for what does not go out."""

BUFFERED = 12 << 20
"""Bytes of a body that may wait in the memory of the client, the systems and whoever is between them when all
of it was handed over: Linux alone has room for 4 MiB here and 6 MiB there. How many do, and whether the
server still takes them, nobody sees from here."""

UNMEASURED = 64 * 1024
"""Bytes per second at which they are taken to move where no more than those were handed over."""


class HandedOver:
    """How much of a body a client has taken, and when."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes."""
        self._began: float | None = None
        self._moved = monotonic()

    @property
    def begun(self) -> bool:
        """Whether the client has asked for the first chunk: it is connected then."""
        return self._began is not None

    @property
    def silent(self) -> float:
        """Seconds since the last chunk was handed over."""
        return monotonic() - self._moved

    @property
    def on_its_way(self) -> float:
        """Seconds that the last bytes may need to arrive, at the pace of those that have left."""
        left, seconds = self.size - BUFFERED, self._moved - (self._began or 0.0)
        pace = left / max(seconds, 1e-9) if left > 0 else UNMEASURED
        return min(self.size, BUFFERED) / max(SLOWEST_UPLOAD, pace)

    def asked(self) -> None:
        """For a chunk."""
        if self._began is None:
            self._began = monotonic()

    def answered(self, chunk: Chunk = b"") -> None:
        self.size += len(chunk)
        self._moved = monotonic()


class UploadStopped(Exception):  # an order, no error; only the client below ever sees it
    """The sender has left; the connection is to be dropped in mid-body."""


class Body:
    """Hands the chunks of `source` on until `stop`, and raises from then on. For asyncio."""

    def __init__(self, source: AsyncIterator[Chunk]) -> None:
        self._source = source
        self._stopped = False
        self._puller: asyncio.Task[object] | None = None
        self.handed = HandedOver()
        self.error: Exception | None = None
        """What the source raised, if it did: the caller's own error, to be raised as it is."""

    @property
    def pulling(self) -> bool:
        """Whether the source is being waited for: a slow source is not a silent server."""
        return self._puller is not None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        if self._stopped:
            raise UploadStopped
        self.handed.asked()
        self._puller = asyncio.current_task()
        chunk: Chunk = b""
        try:
            chunk = await anext(self._source)
        except (StopAsyncIteration, asyncio.CancelledError):
            raise
        except Exception as error:  # raised again, whatever an application's source raises
            self.error = error  # the client would hide it in an error of its own
            raise
        finally:
            self._puller = None
            self.handed.answered(chunk)
        if self._stopped:
            raise UploadStopped
        return chunk

    async def stop(self) -> None:
        """No further chunk from now on; the source is closed."""
        self._stopped = True
        if self._puller is not None:
            self._puller.cancel()  # the client's task for this chunk: it would wait for the source for ever
        else:
            await let_go(self._source)
