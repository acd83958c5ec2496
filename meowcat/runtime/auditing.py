"""Signing the history of a running engine: beside the transfers, and never in their way."""

import inspect
import logging
from collections.abc import Callable
from functools import partial

import anyio

from meowcat.audit.keys import Signer
from meowcat.audit.log import HEAD_SNAPSHOT, Log
from meowcat.audit.settings import Audit
from meowcat.core.errors import AuditError, MeowcatError
from meowcat.core.values import Position, TaskId
from meowcat.journal.contract import Journal
from meowcat.journal.writer import Writer
from meowcat.runtime.bus import Bus
from meowcat.runtime.inside import Inside, inside
from meowcat.runtime.world import Threads
from meowcat.transport.threads import Lane

log = logging.getLogger("meowcat.audit")

CLOSE_WITHIN = 5.0
"""Seconds that a close waits for the last checkpoint to be signed and exported."""
EXPORT = "the function that exports checkpoints"


class Auditor:
    """Signs what the writer has stored: when asked, every so many records, and at the end."""

    def __init__(
        self,
        audit: Audit,
        signer: Signer,
        journal: Journal,
        writer: Writer,
        bus: Bus,
        threads: Threads,
        engine: object,
    ) -> None:
        self._audit = audit
        self._journal = journal
        self._writer = writer
        self._bus = bus
        self._threads = threads
        target = audit.checkpoints
        self._call: Callable[[str], object] | None = target if callable(target) else None
        file = None if callable(target) else target
        self._log = Log(journal, signer, origin=audit.origin, file=file)
        self._exported: str | None = None
        self._lock = anyio.Lock()
        self._lane = Lane("meowcat-checkpoints")
        self._inside = Inside(engine=engine, listener=False, name=EXPORT)

    async def checkpoint(self) -> str:
        """Sign all that is stored now, keep it and export it.

        Raises:
            AuditError: nothing was signed; or what was signed is kept, and could not be exported.
            JournalError: the journal can't be read, or can't keep it.

        """
        async with self._lock:
            return await self._checkpoint()

    async def _checkpoint(self) -> str:
        text = await self._threads.run(partial(self._log.sign, self._writer.last_position))
        await self._writer.run(partial(self._keep, text))  # durable before anybody can see it
        if text != self._exported:
            await self._export(text)
            self._exported = text
        return text

    def _keep(self, text: str) -> None:
        if self._writer.poisoned is not None:
            raise AuditError(f"no checkpoint is kept while the journal is in doubt: {self._writer.poisoned}")
        self._log.keep(text)

    async def _export(self, text: str) -> None:
        if self._call is None:
            await self._threads.run(partial(self._log.export, text))
            return
        try:
            with inside(self._inside):
                if inspect.iscoroutinefunction(self._call):
                    await self._call(text)
                else:
                    await self._lane.run(partial(self._call, text))
        except Exception as error:  # the application's own function: whatever it raises, nothing here is lost
            raise AuditError(
                f"the checkpoint is kept in the journal, but exporting it raised {type(error).__name__}; "
                "the next call tries again"
            ) from error

    async def receipt(self, task: TaskId) -> str:
        """The receipt of a Complete task, under the newest checkpoint or, if that is too old, a new one.

        Raises:
            AuditError, JournalError: as `checkpoint`; and what the task's record says is not what was signed.

        """
        async with self._lock:
            last = self._writer.last_position
            checkpoint = await self._threads.run(partial(self._log.covering, task, last))
            checkpoint = checkpoint or await self._checkpoint()
            return await self._threads.run(partial(self._log.receipt, task, checkpoint))

    async def run(self) -> None:
        """Sign whenever so many records were added, until the engine ends."""
        if self._audit.every is None:
            return
        signed = await self._threads.run(self._last_signed)
        while True:
            try:
                await self._bus.beyond(Position(signed + self._audit.every - 1))
            except MeowcatError:
                return  # the engine is closed, or has lost its journal
            signed = self._bus.position
            await self._try()

    def _last_signed(self) -> Position:
        try:
            kept = self._journal.get_snapshot(HEAD_SNAPSHOT)
        except Exception as error:  # noqa: BLE001  # an adapter may raise anything; then the first turn signs
            log.warning("the newest checkpoint can't be read (%s)", error)
            kept = None
        return Position(0) if kept is None else kept[0]

    async def close(self) -> None:
        """Sign what there is, where that is wanted at the end; an export that hangs is given up."""
        if not self._audit.at_close or not self._writer.last_position:
            return
        with anyio.move_on_after(CLOSE_WITHIN) as patience:
            await self._try()
        if patience.cancelled_caught:
            log.warning("closing: the last checkpoint was not exported within %.0f s", CLOSE_WITHIN)

    async def _try(self) -> None:
        try:
            await self.checkpoint()
        except Exception as error:  # a key store may raise anything, and transfers go on without a signature
            log.error("no checkpoint: %s", error, exc_info=not isinstance(error, MeowcatError))  # noqa: TRY400  # as it says
