"""The world as the engine sees it: clocks, chance, ids and threads. Tests put another one in its place."""

import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import anyio

from meowcat.core.values import Instant, TaskId
from meowcat.transfer.workers import Workers

T = TypeVar("T")

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32, as ULIDs have it."""
_DRAWN = bytes(ord(_ALPHABET[byte & 31]) for byte in range(256))
"""The character that a byte of chance stands for: five bits of it, so that each is as likely as any other."""
_CHANCE = 16
"""Characters of it in an id, and bytes that they are made of."""


def ulids(at: int, chance: bytes) -> list[TaskId]:
    """ULIDs (github.com/ulid/spec) of one moment, in their order: 48 bits of milliseconds, 80 bits of chance,
    26 characters. Sixteen bytes of `chance` make one; three of eight bits are not used, since numbers would
    have to be taken apart otherwise, which takes seven times as long.

    What is appended in the order of its names goes to the end of an index, which is cheaper than in between.
    """
    begin = "".join([_ALPHABET[(at >> shift) & 31] for shift in range(45, -1, -5)])
    drawn = chance.translate(_DRAWN).decode()
    return sorted([TaskId(begin + drawn[n : n + _CHANCE]) for n in range(0, len(drawn), _CHANCE)])


def wall() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Clock:
    """Time and chance. Delays are measured by `monotonic` alone, so a clock that is set hurts nobody."""

    wall: Callable[[], int] = wall
    monotonic: Callable[[], float] = time.monotonic
    """Seconds."""
    roll: Callable[[], float] = field(default=random.random)
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    """Waits so many seconds."""
    entropy: Callable[[int], bytes] = os.urandom
    """So many bytes that nobody can guess: ids are made of them."""

    def now(self) -> Instant:
        return Instant(self.wall(), self.roll())

    def ticks(self) -> int:
        """Monotonic milliseconds."""
        return int(self.monotonic() * 1000)

    def new_id(self) -> TaskId:
        return self.new_ids(1)[0]

    def new_ids(self, count: int) -> list[TaskId]:
        """As many at once, in their order: chance that is asked for in one call costs a fraction."""
        return ulids(self.wall(), self.entropy(_CHANCE * count))


class Threads:
    """Worker threads of the engine's own, so that a busy application never starves the journal."""

    def __init__(self, count: int, workers: Workers) -> None:
        self._limiter = anyio.CapacityLimiter(count)
        self._workers = workers

    async def run(self, call: Callable[[], T]) -> T:
        """Run a blocking call in a thread and wait for it, also when canceled in between."""
        return await self._workers.run(call, self._limiter)
