"""What is shared and scarce while bytes move: bandwidth, requests and memory."""

from collections.abc import Awaitable, Callable

import anyio

BURST_SECONDS = 0.25
"""How much a token bucket saves up while nothing is taken."""


class Bucket:
    """A token bucket: `acquire` returns when the bytes may be taken. First come, first served."""

    def __init__(
        self, rate: int, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    ) -> None:
        self.rate = rate
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock()

    async def acquire(self, size: int) -> None:
        now = self._clock()
        start = max(self._free_at, now - BURST_SECONDS)
        self._free_at = start + size / self.rate
        if self._free_at > now:
            await self._sleep(self._free_at - now)


class Throttle:
    """The task's own limit and the engine's, one after the other; either may be absent."""

    def __init__(self, *buckets: Bucket | None) -> None:
        self._buckets = tuple(bucket for bucket in buckets if bucket is not None)

    @property
    def rate(self) -> int | None:
        """Bytes a second of the narrowest limit; None where there is none."""
        return min((bucket.rate for bucket in self._buckets), default=None)

    async def acquire(self, size: int) -> None:
        for bucket in self._buckets:
            await bucket.acquire(size)


class Budget:
    """Bounds over all tasks: requests under way, and bytes of bodies in memory."""

    def __init__(self, requests: int, memory: int) -> None:
        self._requests = anyio.Semaphore(requests, max_value=requests, fast_acquire=True)
        self._memory = memory
        self._free = memory
        self._freed: anyio.Event | None = None
        """Made by the first who waits."""

    async def acquire(self) -> None:
        try:
            self._requests.acquire_nowait()
        except anyio.WouldBlock:
            await self._requests.acquire()

    def release(self) -> None:
        self._requests.release()

    async def take(self, size: int) -> None:
        """Wait for room for `size` bytes; what is larger than the whole budget waits for all of it."""
        size = min(size, self._memory)
        while self._free < size:
            self._freed = self._freed or anyio.Event()
            await self._freed.wait()
        self._free -= size

    def take_spare(self, size: int) -> bool:
        """Take `size` bytes if at least half of the budget is free after that: for whoever holds them while
        waiting for something else, so that all that wait never hold what the others need to get on."""
        spare = self._free - size >= self._memory // 2
        self._free -= size if spare else 0
        return spare

    def give(self, size: int) -> None:
        self._free = min(self._memory, self._free + size)
        freed, self._freed = self._freed, None
        if freed is not None:
            freed.set()
