"""Delivery of durable events to sinks: each at least once, in the journal's order, from a durable cursor.

One pump a sink. It holds one page of events and nothing else, so an outage of days costs no memory; a page
that was not delivered is read again. It waits for nobody and nobody waits for it: what it can't deliver is
tried again with growing delays, and everything else goes on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from meowcat.core.errors import (
    EngineClosed,
    InvalidArgument,
    JournalClosed,
    JournalDamaged,
    JournalFenced,
    JournalForked,
    RetryLater,
    SinkError,
)
from meowcat.core.info import SinkInfo
from meowcat.core.retry import DAY_MS, probe_delay
from meowcat.core.urls import scrub
from meowcat.core.values import Position
from meowcat.journal.contract import Record
from meowcat.journal.logged import LoggedEvent, readable
from meowcat.runtime.inside import Inside, inside
from meowcat.runtime.world import Clock
from meowcat.sinks.contract import Sink

log = logging.getLogger("meowcat.sink")

PAGE = 500
"""Events handed to a sink at once, at the most."""
PAGE_BYTES = 1 << 20
"""Bytes of records that a page is meant to have at the most."""
_FIRST_PAGE = 64
LINGER = 0.2
"""Seconds that a pump which has caught up waits for more before it looks again: what comes in the meantime is
one batch, and one write of the cursor."""
CLOSE_WITHIN = 5.0
"""Seconds that a close waits for deliveries that are under way."""
ACLOSE_WITHIN = 2.0
_LEAST_DELAY = 0.1
_ERROR_SHOWN = 300
_LOST = (JournalFenced, JournalForked, JournalClosed, EngineClosed)
"""After these the journal will not be readable again."""


class Source(Protocol):
    """The journal, as deliveries see it."""

    def newest(self) -> Position:
        """The newest record that is known to be durable."""

    async def grown(self, position: Position) -> None:
        """Wait until there is more than `position`."""

    async def records_after(self, position: Position, limit: int) -> tuple[list[Record], Position]:
        """At most `limit` records behind `position`, without damaged ones, and how far they reach."""

    async def last(self) -> Position: ...

    async def cursors(self) -> Mapping[str, Position]: ...

    async def set_cursor(self, name: str, position: Position | None) -> None: ...


def page_limit(largest: int) -> int:
    """How many records make a page, where the largest of the page before had so many bytes."""
    return max(1, min(PAGE, PAGE_BYTES // max(largest, 1)))


def delay_after(error: Exception, failures: int, roll: float) -> float:
    """Seconds to wait after failure number `failures` in a row: what the sink asked for, or 1 s and more, up
    to 5 minutes."""
    if isinstance(error, RetryLater):
        return min(max(error.seconds, _LEAST_DELAY), DAY_MS / 1000)
    return probe_delay(failures, roll) / 1000


def shown(error: Exception) -> str:
    """An error for people: one short line without secrets."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return scrub(text[:_ERROR_SHOWN]).removesuffix(": ")


class Delivery:
    """One sink and its cursor."""

    def __init__(self, name: str, sink: Sink, source: Source, clock: Clock, timeout: float | None) -> None:
        self.name = name
        self.position = Position(0)
        self._sink = sink
        self._source = source
        self._clock = clock
        self._timeout = timeout
        self._inside = Inside(engine=source, listener=False, name=f"sink {name!r}")
        self._kept: Position | None = None
        self._limit = _FIRST_PAGE
        self._failures = 0
        self._error = ""
        self._next_try: int | None = None
        self._stopping = self._finished = False
        self._resting = anyio.CancelScope()
        self._scope = anyio.CancelScope()
        self._over = anyio.Event()
        self._running = self._sink_closed = False
        self.changing = anyio.Lock()
        """Held while it is added or removed: a removal within a beginning would end what starts only then."""

    def info(self) -> SinkInfo:
        return SinkInfo(
            name=self.name,
            position=self.position,
            lag=max(0, self._source.newest() - self.position),
            attached=True,
            failures=self._failures,
            error=self._error,
            next_try=self._next_try,
        )

    async def begin(self, after: Position | None) -> None:
        """Find where to go on, and hold that place: an archive of old records must not go past it.

        Raises:
            InvalidArgument: `after` is no position of the journal.
        """
        last = await self._source.last()
        self._kept = (await self._source.cursors()).get(self.name)
        self.position = (after or Position(0)) if self._kept is None else self._kept
        if self._kept is None and not 0 <= self.position <= last:
            raise InvalidArgument(f"after {after!r}: expected a position of the journal, 0 to {last}")
        if self.position > last:
            log.error(
                "sink %r: its cursor is at %d, but the journal ends at %d: it was put back to an older state;"
                " going on from its end",
                self.name,
                self.position,
                last,
            )
            self.position = last
        await self.keep()

    def start(self, tasks: TaskGroup) -> None:
        """Deliver until stopped or canceled."""
        self._running = True
        tasks.start_soon(self._run)

    async def _run(self) -> None:
        try:
            with self._scope:
                while not self._finished:
                    await self._turn()
        finally:
            self._over.set()

    async def _turn(self) -> None:
        try:
            await self._rest(partial(self._source.grown, self.position))
            if self._stopping and self._source.newest() <= self.position:
                self._finished = True
                return
            records, reached = await self._page()
        except _LOST as lost:
            self._error = shown(lost)
            self._finished = True
            return
        except Exception as error:  # noqa: BLE001  # an adapter may raise anything; it is read again later
            await self._back_off(error, "the journal can't be read")
            return
        events = [event for record in records if (event := readable(record)) is not None]
        if not await self._delivered(events):
            # Of a sink that fails now and then a smaller page is taken, and its cursor moves.
            self._limit = max(1, len(records) // 2)
            return
        largest = max((len(record.body) for record in records), default=0)
        self._limit = min(2 * self._limit, page_limit(largest))
        self.position = reached
        await self.keep()
        await self._pause_or_stop()

    async def _page(self) -> tuple[list[Record], Position]:
        records, reached = await self._source.records_after(self.position, self._limit)
        if reached <= self.position:
            raise JournalDamaged(f"nothing behind record {self.position} can be read")
        return records, reached

    async def _delivered(self, events: Sequence[LoggedEvent]) -> bool:
        if not events:
            return True
        try:
            with anyio.move_on_after(self._timeout) as patience, inside(self._inside):
                await self._sink.deliver(events)
        except Exception as error:  # noqa: BLE001  # the application's own code: whatever it raises
            await self._back_off(error, "delivery failed")
            return False
        except anyio.get_cancelled_exc_class() as canceled:
            if not _is_stray(canceled):
                raise
            await self._back_off(RuntimeError("the sink was canceled from within"), "delivery failed")
            return False
        if patience.cancelled_caught:
            await self._back_off(SinkError(f"no answer within {self._timeout:g} s"), "delivery failed")
            return False
        if self._failures:
            log.info("sink %r delivers again, after %d failures", self.name, self._failures)
        self._failures, self._error = 0, ""
        return True

    async def _back_off(self, error: Exception, what: str) -> None:
        self._failures += 1
        self._error = shown(error)
        delay = delay_after(error, self._failures, self._clock.roll())
        log.warning("sink %r: %s (%s); trying again in %.1f s", self.name, what, self._error, delay)
        self._next_try = self._clock.wall() + int(delay * 1000)
        await self._rest(partial(self._clock.sleep, delay))
        self._next_try = None
        self._finished = self._stopping

    async def _pause_or_stop(self) -> None:
        behind = self._source.newest() - self.position
        if self._stopping:
            self._finished = behind <= 0 or behind > self._limit
        elif behind <= 0:
            await self._rest(partial(self._clock.sleep, LINGER))

    async def _rest(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Wait, unless a stop ends it."""
        if not self._stopping:
            with anyio.CancelScope() as self._resting:
                await wait()

    async def keep(self) -> None:
        """Store the cursor. Where that fails it is stored with the next batch: until then a crash makes the
        same events come again, and nothing else."""
        if self._kept == self.position:
            return
        try:
            await self._source.set_cursor(self.name, self.position)
        except Exception as error:  # noqa: BLE001  # an adapter may raise anything; no sink is held up by it
            log.warning("sink %r: its cursor was not stored (%s)", self.name, shown(error))
        else:
            self._kept = self.position

    async def end(self, within: float) -> None:
        """Finish the delivery under way, and where one page is all that is left, that page as well; at most
        `within` seconds. Then close the sink. May be called again, also after a call that was canceled."""
        self._stopping = True
        self._resting.cancel()
        if self._running:
            with anyio.move_on_after(within) as patience:
                await self._over.wait()
            if patience.cancelled_caught:
                log.warning("sink %r did not finish within %.0f s; it is canceled", self.name, within)
                self._scope.cancel()
                await self._over.wait()
            await self.keep()
        if not self._sink_closed:
            self._sink_closed = True
            await self._close_sink()

    async def _close_sink(self) -> None:
        aclose = getattr(self._sink, "aclose", None)
        if aclose is None:
            return
        try:
            with anyio.fail_after(ACLOSE_WITHIN):
                await aclose()
        except Exception as error:  # noqa: BLE001  # the application's own code; the rest closes all the same
            log.warning("sink %r: closing it failed (%s)", self.name, shown(error))


def _is_stray(canceled: BaseException) -> bool:
    """Whether a cancellation came from within the sink, by a future of its own, and not from outside."""
    if not isinstance(canceled, asyncio.CancelledError):
        return False  # trio has none that are not its own
    task = asyncio.current_task()
    return task is not None and not task.cancelling()


class Deliveries:
    """All sinks of an engine."""

    def __init__(self, source: Source, clock: Clock, tasks: TaskGroup) -> None:
        self._source = source
        self._clock = clock
        self._tasks = tasks
        self._attached: dict[str, Delivery] = {}
        self._closed = False

    async def add(
        self,
        name: str,
        sink: Sink,
        after: Position | None,
        timeout: float | None,  # noqa: ASYNC109  # of each delivery, not of this call
    ) -> None:
        """Attach a sink.

        Raises:
            InvalidArgument: the name is taken in this engine, or `after` is no position.
        """
        if name in self._attached:
            raise InvalidArgument(f"sink {name!r}: there is one of that name; remove it first")
        delivery = Delivery(name, sink, self._source, self._clock, timeout)
        self._attached[name] = delivery
        async with delivery.changing:
            try:
                await delivery.begin(after)
            except BaseException:  # raised again: a sink that was not added holds no name
                self._attached.pop(name, None)
                raise
            if self._closed:
                raise EngineClosed("the engine is closed; open a new one")
            delivery.start(self._tasks)

    async def remove(self, name: str) -> None:
        """End the sink and forget its cursor, which may be all that is left of it.

        Raises:
            InvalidArgument: there is neither. JournalError: the cursor is still there.
        """
        while (delivery := self._attached.get(name)) is not None:
            async with delivery.changing:
                if self._attached.get(name) is delivery:  # else it was not added, or was removed meanwhile
                    await self._end(delivery)
                    return
        if name not in (known := await self._source.cursors()):
            names = ", ".join(sorted({*known, *self._attached})) or "none"
            raise InvalidArgument(f"sink {name!r}: no such sink or cursor; there are: {names}")
        await self._source.set_cursor(name, None)

    async def _end(self, delivery: Delivery) -> None:
        await delivery.end(CLOSE_WITHIN)
        try:
            await self._source.set_cursor(delivery.name, None)
        finally:
            del self._attached[delivery.name]

    async def infos(self) -> dict[str, SinkInfo]:
        """Every sink, and every cursor of one that is not attached."""
        infos = {name: delivery.info() for name, delivery in self._attached.items()}
        try:
            cursors = await self._source.cursors()
        except Exception as error:  # noqa: BLE001  # an adapter may raise anything; the rest is worth telling
            log.warning("the journal's cursors can't be read now (%s)", shown(error))
            return infos
        for name, position in sorted(cursors.items()):
            lag = max(0, self._source.newest() - position)
            infos.setdefault(name, SinkInfo(name=name, position=position, lag=lag))
        return infos

    async def close(self) -> None:
        """End all of them, side by side, within a bounded time; the cursors stay."""
        self._closed = True
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as group:
                for delivery in self._attached.values():
                    group.start_soon(delivery.end, CLOSE_WITHIN)
