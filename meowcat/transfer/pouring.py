"""What a thread that reads a body does with its bytes: it puts them at their offset and hashes the pieces,
block after block, without the event loop. Where its range ends can be changed meanwhile.
"""

from collections.abc import Callable
from threading import Lock
from time import perf_counter, sleep

from meowcat.transfer.allowance import Allowance
from meowcat.transfer.context import Rest, Throttle
from meowcat.transfer.memory import fresh
from meowcat.transfer.writers import Stream, Writers

__all__ = ["MOST_BLOCK", "Pourer", "Span"]

LEAST_BLOCK = 16 << 10
FIRST_BLOCK = 64 << 10
MOST_BLOCK = 1 << 20
"""Bytes that are read before they are written: few where they come slowly, so that what came is not held
back; many where they come fast, since each block costs two calls and a turn at the interpreter's lock."""

FAR = 4
"""A block of several pieces is no more than such a part of what is left of its range."""

NAP = 0.05
"""Seconds of a rest after which it is looked whether anything is wanted any more, and how long it is now."""

SOON, LATE = 0.02, 0.2
"""Seconds for a block: the next is twice as large if it took less, half as large if it took more."""


class Span:
    """The bytes that one reply is still to bring. Its thread moves `at`, and anybody may move `stop` down."""

    def __init__(self, at: int, stop: int) -> None:
        self._lock = Lock()
        self.at = at
        """All before it has come."""
        self.stop = stop
        self.reading = True
        """Whether its thread waits for the network, and not for the disk."""

    def cut(self, stop: int) -> bool:
        """End it at `stop`; whether it had not come so far yet."""
        with self._lock:
            if stop <= self.at:
                return False
            self.stop = min(self.stop, stop)
            return True

    def claim(self, count: int) -> tuple[int, int]:
        """Of `count` bytes that came: how many are wanted, and where they belong."""
        with self._lock:
            at = self.at
            kept = max(0, min(count, self.stop - at))
            self.at += kept
            return kept, at


class Pourer:
    """The sink of one reply (`transport.contract.Sink`).

    Args:
        writers: what is written goes through them, and they know when to stop.
        stream: which is this thread's alone.
        span: the bytes that are wanted.
        throttle: says how long to rest before more may come.
        waited: told of each wait for the network, and what has come; raises where that is too slow.

    """

    def __init__(
        self,
        writers: Writers,
        stream: Stream,
        span: Span,
        throttle: Throttle,
        waited: Callable[[float, int], None],
    ) -> None:
        self._writers = writers
        self._stream = stream
        self._span = span
        self._throttle = throttle
        self._waited = waited
        self._buffer = memoryview(fresh(min(MOST_BLOCK, span.stop - span.at)))
        self._block = FIRST_BLOCK
        self._asked_at = 0.0
        self._allowance = Allowance(throttle)
        self._room = 0
        """Bytes of the last block where the rate is limited; 0 where it never was."""

    def room(self) -> memoryview | None:
        span = self._span
        left = span.stop - span.at
        if left <= 0 or self._writers.over:
            return None
        size = min(self._block, left, self._within(span.at, left))
        if self._throttle.rate is None:
            self._throttle.spend(size)  # which tells that bytes flow
        else:
            size = self._room = self._allowance.size(size)
            self._rest(self._throttle.spend(self._allowance.asks(size)))
            size = min(size, span.stop - span.at)
            if size <= 0 or self._writers.over:
                return None
        self._asked_at = perf_counter()
        span.reading = True
        return self._buffer[:size]

    def _within(self, at: int, left: int) -> int:
        """Bytes up to the end of a piece: of the one in work, which is never cut off, or of a later one while
        the end of the range is far: from there it is cut off, and what comes could be another part's."""
        piece = self._stream.piece
        done = at % piece
        return max(piece, (done + min(self._block, left // FAR)) // piece * piece) - done

    def came(self, count: int) -> None:
        self._span.reading = False
        if self._room:
            self._allowance.took(self._room, count)
        took = perf_counter() - self._asked_at
        if took < SOON:
            self._block = min(self._block * 2, MOST_BLOCK)
        elif took > LATE:
            self._block = max(self._block // 2, LEAST_BLOCK)
        kept, at = self._span.claim(count)
        if kept:
            self._writers.store(self._stream, at, self._buffer[:kept])
        self._waited(took, count)

    def end(self) -> None:
        """Nothing more comes; the thread is out of it."""
        self._allowance.end()

    def _rest(self, left: Rest) -> None:
        while (seconds := left()) > 0 and not self._writers.over:
            sleep(min(seconds, NAP))
