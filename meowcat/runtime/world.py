"""The world as the engine sees it: clocks, chance, ids and threads. Tests put another one in its place."""

import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import anyio

from meowcat.core.values import Instant, TaskId
from meowcat.transfer.workers import Workers

T = TypeVar("T")

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32, as ULIDs have it."""
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_TIME, _CHANCE_SHIFTS = range(40, -1, -10), range(70, -1, -10)
"""Where the pairs of an id's two parts stand."""
_CHANCE = 10
"""Bytes of it in an id."""


def ulid(at: int, chance: bytes) -> TaskId:
    """A ULID (github.com/ulid/spec): 48 bits of milliseconds, 80 bits of chance, 26 characters."""
    return TaskId(_text(at, _TIME) + _text(int.from_bytes(chance), _CHANCE_SHIFTS))


def _text(number: int, shifts: Sequence[int]) -> str:
    return "".join([_PAIRS[(number >> shift) & 1023] for shift in shifts])


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
        return ulid(self.wall(), self.entropy(_CHANCE))

    def new_ids(self, count: int) -> list[TaskId]:
        """As many at once: where asking the system for chance is dear, that is most of what an id costs."""
        begin, chance = _text(self.wall(), _TIME), self.entropy(_CHANCE * count)
        numbers = (int.from_bytes(chance[n : n + _CHANCE]) for n in range(0, len(chance), _CHANCE))
        return [TaskId(begin + _text(each, _CHANCE_SHIFTS)) for each in numbers]


class Threads:
    """Worker threads of the engine's own, so that a busy application never starves the journal."""

    def __init__(self, count: int, workers: Workers) -> None:
        self._limiter = anyio.CapacityLimiter(count)
        self._workers = workers

    async def run(self, call: Callable[[], T]) -> T:
        """Run a blocking call in a thread and wait for it, also when canceled in between."""
        return await self._workers.run(call, self._limiter)
