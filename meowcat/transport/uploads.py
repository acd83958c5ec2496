"""A request body that can be stopped: the one way to end an upload that a client took over."""

import asyncio
from collections.abc import AsyncIterator
from typing import Self

from meowcat.transport.bodies import let_go
from meowcat.transport.contract import Chunk


class UploadStopped(Exception):  # an order, no error; only the client below ever sees it
    """The sender has left; the connection is to be dropped in mid-body."""


class Body:
    """Hands the chunks of `source` on until `stop`, and raises from then on. For asyncio."""

    def __init__(self, source: AsyncIterator[Chunk]) -> None:
        self._source = source
        self._stopped = False
        self._puller: asyncio.Task[object] | None = None
        self.begun = False
        """Whether the client has asked for the first chunk: it is connected then."""
        self.moved = asyncio.get_running_loop().time()
        """The loop's time when the last chunk was handed over."""
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
        self.begun = True
        self._puller = asyncio.current_task()
        try:
            chunk = await anext(self._source)
        except (StopAsyncIteration, asyncio.CancelledError):
            raise
        except Exception as error:  # raised again, whatever an application's source raises
            self.error = error  # the client would hide it in an error of its own
            raise
        finally:
            self._puller = None
            self.moved = asyncio.get_running_loop().time()
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
