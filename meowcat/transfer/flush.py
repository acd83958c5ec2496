"""Flushes: what is written is made durable, and only then reported."""

from collections.abc import Callable, Iterator, Sequence

import anyio

from meowcat.core.pieces import IntervalSet
from meowcat.transfer.context import World
from meowcat.transfer.files import PartFile
from meowcat.transfer.writers import Finished, Writers

__all__ = ["Flusher", "batches"]

MOST_PIECES = 8192
"""Pieces in one report: their digests stay far below the megabyte that a journal record may have."""

Tell = Callable[[tuple[tuple[int, int], ...], bytes, int | None], None]
"""Reports runs of pieces, their digests one after the other, and the content's size where the end told it."""


class Flusher:
    """Flushes by volume, by time, and on demand; one flush at a time, while writing goes on.

    A flush takes the pieces that are finished when it begins. After a failure it reports nothing any more:
    the kernel forgets which pages it could not write, so a later sync through the same descriptor may
    succeed and mean nothing.
    """

    def __init__(
        self, world: World, part: PartFile, writers: Writers, limiter: anyio.CapacityLimiter, tell: Tell
    ) -> None:
        self._world = world
        self._part = part
        self._writers = writers
        self._limiter = limiter
        self._tell = tell
        self._turn = anyio.Lock()
        self._news = anyio.Event()
        self._nap: anyio.CancelScope | None = None
        self._reach = 0
        """How long the file must be by what was flushed."""
        self.broken = False

    def look(self) -> None:
        """Something was finished: begin the next flush at once if there is enough."""
        self._news.set()
        if self._nap is not None and self._writers.finished_bytes >= self._world.flush_bytes:
            self._nap.cancel()

    async def run(self) -> None:
        """Flush until canceled.

        Raises:
            FileFault: what `flush` raises.

        """
        began = self._world.clock() - self._world.flush_seconds
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            await self._rest(began + self._world.flush_seconds - self._world.clock())
            began = self._world.clock()
            await self.flush()

    async def _rest(self, seconds: float) -> None:
        if seconds <= 0 or self._writers.finished_bytes >= self._world.flush_bytes:
            return
        with anyio.CancelScope() as self._nap:
            await self._world.sleep(seconds)
        self._nap = None

    async def flush(self, size: int | None = None, *, last: bool = False) -> None:
        """Make durable what is finished, and report it. `last`: report also if there is nothing.

        Raises:
            FileFault: nothing of it may be reported, now or later; LOCAL_REMOVED tells of a part file that
                somebody removed, replaced or truncated.

        """
        with anyio.CancelScope(shield=True):  # what is written is worth its report, also after a stop
            async with self._turn:
                if self.broken:
                    return
                done = self._writers.take(last=last)
                if not done and not last:
                    return
                self._reach = max(self._reach, *(piece.stop for piece in done), 0)
                try:
                    await self._world.workers.run(self._settle, self._limiter)
                except BaseException:  # raised again: after any failed sync nothing more is reported
                    self.broken = True
                    raise
                reports = list(batches(done)) or [((), b"")]
                for pieces, digests in reports[:-1]:
                    self._tell(pieces, digests, None)
                self._tell(*reports[-1], size)

    def _settle(self) -> None:
        self._part.check(self._reach)
        self._part.flush()


def batches(done: Sequence[Finished]) -> Iterator[tuple[tuple[tuple[int, int], ...], bytes]]:
    """Runs of piece numbers with their digests, at most `MOST_PIECES` pieces each."""
    ordered = sorted({piece.index: piece for piece in done}.values(), key=lambda piece: piece.index)
    for start in range(0, len(ordered), MOST_PIECES):
        some = ordered[start : start + MOST_PIECES]
        runs = IntervalSet.of(*((piece.index, piece.index + 1) for piece in some))
        yield runs.pairs, b"".join(piece.digest for piece in some)
