"""Appends beside the actors: of new tasks, and of commands to many tasks that have no actor.

Who records here has a caller that may be canceled and nobody who would find out later what became of it. So
an append that was begun is seen through, and one whose outcome is in doubt is waited for.
"""

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import anyio
from anyio.abc import TaskGroup

from meowcat.core.errors import (
    EngineClosed,
    JournalClosed,
    JournalDamaged,
    JournalFenced,
    JournalForked,
    JournalRejected,
    JournalUncertain,
)
from meowcat.journal.contract import Entry
from meowcat.journal.writer import Writer
from meowcat.runtime.bus import Bus
from meowcat.runtime.dispatcher import REFUSED_PAUSE
from meowcat.transfer.signal import Signal

__all__ = ["Appends"]

T = TypeVar("T")

log = logging.getLogger("meowcat.engine")

_ANSWERED = (JournalRejected, JournalDamaged, JournalFenced, JournalForked, JournalClosed)
"""After these an append is no longer in doubt, or never will be out of it."""


class Appends:
    """Records what no actor records."""

    def __init__(
        self, writer: Writer, bus: Bus, tasks: TaskGroup, broken: Callable[[], Exception | None]
    ) -> None:
        """`tasks`: of the engine. `broken`: why nothing is recorded any more, if so."""
        self._writer = writer
        self._bus = bus
        self._tasks = tasks
        self._broken = broken

    async def see_through(self, call: Callable[[], Awaitable[T]]) -> T:
        """Do it in a task of the engine's own, which no cancellation of the caller reaches.

        A shielded scope would not do: asyncio's own `Task.cancel` goes through it.
        """
        done = Signal()
        outcome: list[T] = []
        failure: list[Exception] = [EngineClosed("the engine was closed before this was done")]

        async def work() -> None:
            try:
                outcome.append(await call())
            except Exception as error:  # noqa: BLE001  # raised again where it is waited for
                failure[0] = error
            finally:
                done.set()

        broken = self._broken()
        if broken is not None:  # so the task group may be closed, too
            raise broken
        self._tasks.start_soon(work)
        await done.wait()
        if outcome:
            return outcome[0]
        closed = self._broken()
        raise closed if isinstance(closed, EngineClosed) else failure[0]  # whatever a closed journal says

    async def append(self, entries: list[Entry]) -> bool:
        """Append; the actors recover the journal by themselves when it is in doubt.

        What is recorded must be known, so an append in doubt is waited for until the journal can be read; and
        so is one of before.

        Returns:
            Whether it was in doubt: then the actors may have gone on from it already.
        """
        if self._writer.poisoned is not None:
            await self.once_readable(self._writer.recover)
        try:
            self._bus.grew(await self._writer.append(entries))
        except JournalUncertain as uncertain:
            log.warning("an append has no certain outcome (%s); reading the journal again", uncertain)
            self._bus.grew(await self.once_readable(partial(self._writer.find_out, entries)))
            return True
        return False

    async def once_readable(self, call: Callable[[], Awaitable[T]]) -> T:
        """What `call` says of the journal, as soon as that can be read."""
        while True:
            try:
                return await call()
            except _ANSWERED:
                raise
            except Exception as error:  # noqa: BLE001  # an adapter may raise anything; it is read again later
                log.warning("the journal can't be read again yet: %s", error)
                await anyio.sleep(REFUSED_PAUSE[1])
