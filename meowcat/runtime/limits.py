"""What is shared and scarce while bytes move: bandwidth, requests and memory."""

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from threading import Lock

import anyio

from meowcat.transfer.context import Rest

BURST_SECONDS = 0.1
"""How much a token bucket saves up while nothing is taken: what a late wake-up loses is made up for, and what
a limit is exceeded by after a rest is 1 % of what it allows in 10 s."""

SLACK = 1e-6
"""Seconds that are not worth waiting for."""


def no_rest() -> float:
    """No limit, or nothing owed."""
    return 0.0


def longest(rests: Iterable[Rest]) -> Rest:
    """Until all of them are over."""
    some = [rest for rest in rests if rest is not no_rest]
    return (lambda: max(rest() for rest in some)) if some else no_rest


class Bucket:
    """A token bucket: `acquire` returns when the bytes may be taken. First come, first served.

    A thread is told how long to rest (`spend`): both stand in the same line. Who gets fewer bytes than it has
    asked for gives the rest back.

    Args:
        rate: bytes a second; None = no limit.
        clock: monotonic seconds.
    """

    def __init__(self, rate: int | None, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._lock = Lock()
        self._asked = 0.0
        """Bytes asked for so far, by everybody: whoever asks may go once so many are allowed."""
        self._allowed = 0.0
        self._at = clock()
        self._changed: anyio.Event | None = None

    @property
    def rate(self) -> int | None:
        return self._rate

    def set_rate(self, rate: int | None) -> None:
        """Another rate from now on, also for those that wait already."""
        with self._lock:
            self._advance()
            self._rate = rate
            if rate is None:
                self._allowed = self._asked  # nobody owes anything
        self._tell()

    def _tell(self) -> None:
        """Those that wait look again."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def acquire(self, size: int) -> None:
        """Wait until `size` bytes may be taken."""
        if self._rate is None or not size:
            return
        mine = self._ask(size)
        try:
            while (wait := self._until(mine)) > SLACK:
                if self._changed is None:
                    self._changed = anyio.Event()
                with anyio.move_on_after(wait):
                    await self._changed.wait()
        except BaseException:  # raised again: who was canceled takes nothing, and the others wait less
            self.give_back(size)
            self._tell()
            raise

    def spend(self, size: int) -> Rest:
        """How long to rest before `size` bytes are taken. From any thread."""
        return no_rest if self._rate is None or not size else partial(self._until, self._ask(size))

    def give_back(self, size: int) -> None:
        """Of what was asked for, `size` bytes have not come: others may take them. From any thread."""
        with self._lock:  # not less asked for: those in line have their marks in that
            self._allowed += size
            self._advance()

    def _ask(self, size: int) -> float:
        with self._lock:
            self._advance()
            self._asked += size
            return self._asked

    def _until(self, mine: float) -> float:
        """Seconds until so many bytes are allowed."""
        with self._lock:
            self._advance()
            return 0.0 if self._rate is None else max(0.0, (mine - self._allowed) / self._rate)

    def _advance(self) -> None:
        now = self._clock()
        if self._rate is not None:
            most = self._asked + BURST_SECONDS * self._rate
            self._allowed = min(self._allowed + (now - self._at) * self._rate, most)
        self._at = now


class Throttle:
    """Several limits, one after the other: the narrowest rules. See `context.Throttle`."""

    __slots__ = ("_buckets",)

    def __init__(self, *buckets: Bucket) -> None:
        self._buckets = buckets

    @property
    def rate(self) -> int | None:
        """Bytes a second of the narrowest limit; None where there is none."""
        narrowest = None
        for bucket in self._buckets:
            rate = bucket.rate
            if rate is not None and (narrowest is None or rate < narrowest):
                narrowest = rate
        return narrowest

    async def acquire(self, size: int) -> None:
        """Wait until `size` bytes may be taken from the network."""
        for bucket in self._buckets:
            await bucket.acquire(size)

    def spend(self, size: int) -> Rest:
        """How long to rest before `size` bytes are taken. From any thread."""
        return longest(bucket.spend(size) for bucket in self._buckets)

    def give_back(self, size: int) -> None:
        """Of what was asked for, so many bytes have not come. From any thread."""
        for bucket in self._buckets:
            if bucket.rate is not None:
                bucket.give_back(size)


class _Place:
    """Of somebody who waits for memory."""

    __slots__ = ("given", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.given = anyio.Event()


class Budget:
    """Bounds over all tasks: requests under way, and bytes of bodies in memory."""

    def __init__(self, requests: int, memory: int) -> None:
        self._requests = anyio.Semaphore(requests, max_value=requests, fast_acquire=True)
        self._memory = memory
        self._free = memory
        self._line: deque[_Place] = deque()

    async def acquire(self) -> None:
        try:
            self._requests.acquire_nowait()
        except anyio.WouldBlock:
            await self._requests.acquire()

    def release(self) -> None:
        self._requests.release()

    async def take(self, size: int) -> None:
        """Wait for room for `size` bytes; what is larger than the whole budget waits for all of it.

        First come, first served: what is large is not passed by what is small for ever.
        """
        size = min(size, self._memory)
        if not self._line and self._free >= size:
            self._free -= size
            return
        place = _Place(size)
        self._line.append(place)
        try:
            await place.given.wait()
        except BaseException:  # raised again: nobody is there to give it back later
            if place.given.is_set():
                self.give(size)
            else:
                self._line.remove(place)
                self._serve()
            raise

    def take_spare(self, size: int, beside: int = 0) -> bool:
        spare = not self._line and self._free - size >= max(self._memory // 2, min(beside, self._memory))
        self._free -= size if spare else 0
        return spare

    def give(self, size: int) -> None:
        self._free = min(self._memory, self._free + size)
        self._serve()

    def _serve(self) -> None:
        while self._line and self._line[0].size <= self._free:
            place = self._line.popleft()
            self._free -= place.size
            place.given.set()
