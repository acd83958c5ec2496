"""Pieces that earlier runs stored have to prove themselves: they are read again and compared."""

from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial

import anyio

from meowcat.core.events import Event, Restarted, Stored
from meowcat.core.pieces import Grid, IntervalSet
from meowcat.transfer.digests import verify_pieces
from meowcat.transfer.files import PartFile
from meowcat.transfer.workers import Workers

__all__ = ["Rechecker", "StoredDigests"]

DIGEST = 32
"""Bytes of a BLAKE3 digest."""

AT_ONCE = 1 << 30
"""Bytes that are compared between two reports."""


class StoredDigests:
    """The digests that the events of `pieces` have. Holds 32 bytes for each of these, and nothing else of the
    history.
    """

    def __init__(self, pieces: IntervalSet) -> None:
        self._pieces = pieces
        self._ranks = [0]
        for first, stop in pieces:
            self._ranks.append(self._ranks[-1] + stop - first)
        self._digests = bytearray(DIGEST * pieces.total)

    async def learn(self, history: AsyncIterator[Event]) -> None:
        """Take them out of the events; the latest of a piece counts."""
        async for event in history:
            if isinstance(event, Restarted):
                self._digests = bytearray(len(self._digests))
            elif isinstance(event, Stored):
                self._note(event)

    def _note(self, event: Stored) -> None:
        begin = 0
        for first, stop in event.pieces:
            for low, high in self._pieces.between(first, stop):
                source = begin + (low - first) * DIGEST
                target = self._rank(low) * DIGEST
                count = (high - low) * DIGEST
                self._digests[target : target + count] = event.digests[source : source + count]
            begin += (stop - first) * DIGEST

    def _rank(self, piece: int) -> int:
        """How many pieces of the set come before `piece`."""
        run = bisect_right(self._pieces.pairs, piece, key=_first) - 1
        return self._ranks[run] + piece - self._pieces.pairs[run][0]

    def of(self, piece: int) -> bytes:
        start = self._rank(piece) * DIGEST
        return bytes(self._digests[start : start + DIGEST])


class Rechecker:
    """Compares `pieces` of the part file with the digests that their events have."""

    def __init__(self, part: PartFile, grid: Grid, pieces: IntervalSet, stopped: Callable[[], bool]) -> None:
        self._part = part
        self._grid = grid
        self._pieces = pieces
        self._stopped = stopped
        self.digests = StoredDigests(pieces)

    async def run(
        self, workers: Workers, limiter: anyio.CapacityLimiter
    ) -> AsyncIterator[tuple[IntervalSet, IntervalSet]]:
        """What was kept and what is lost, batch by batch; ends early when stopped."""
        for batch in self._batches(max(1, AT_ONCE // self._grid.piece)):
            kept = await workers.run(partial(self._compare, batch), limiter)
            if self._stopped():
                return
            yield kept, batch - kept

    def _batches(self, size: int) -> Iterator[IntervalSet]:
        """The pieces in order, `size` of them at a time, however scattered they are."""
        taken: list[tuple[int, int]] = []
        room = size
        for begin, stop in self._pieces:
            first = begin
            while first < stop:
                step = min(stop - first, room)
                taken.append((first, first + step))
                first, room = first + step, room - step
                if not room:
                    yield IntervalSet.of(*taken)
                    taken, room = [], size
        if taken:
            yield IntervalSet.of(*taken)

    def _compare(self, batch: IntervalSet) -> IntervalSet:
        spans = [
            (piece, *self._grid.span(piece), self.digests.of(piece))
            for first, stop in batch
            for piece in range(first, stop)
        ]
        good, _ = verify_pieces(self._part, spans, self._stopped)
        return IntervalSet.of(*((piece, piece + 1) for piece in good))


def _first(run: tuple[int, int]) -> int:
    return run[0]
