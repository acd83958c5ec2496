"""The one way into a journal: appends of many callers at once, grouped into one durable write each.

A group is what waits when the write before it is over. Under `power` it is written in a thread of the
writer's own, so that the loop never waits for a disk; under `process`, where a write takes some
microseconds, on the loop itself. Nothing but callbacks drives the groups: no caller's cancellation can
disturb another's append.
"""

import asyncio
import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar

import anyio

from meowcat.core.errors import (
    JournalClosed,
    JournalFenced,
    JournalForked,
)
from meowcat.core.values import Position
from meowcat.journal.commit import Batch, Committer
from meowcat.journal.contract import Entry, Journal, Sync

T = TypeVar("T")

MAX_RECORDS = 1024
MAX_BYTES = 4 << 20

_FINAL = (JournalFenced, JournalForked, JournalClosed)


class _Call(Generic[T]):
    """Another piece of work for the journal, between two groups."""

    __slots__ = ("outcome", "over", "waiter", "work")

    def __init__(self, work: Callable[[], T]) -> None:
        self.work = work
        self.over = False
        self.waiter: object = None
        self.outcome: T | Exception | None = None

    def run(self, heed: Callable[[BaseException], Exception]) -> None:
        try:
            self.outcome = self.work()
        except BaseException as error:  # noqa: BLE001  # handed to the caller, who waits on the loop
            self.outcome = heed(error)


class Writer:
    """Appends to an open journal, on asyncio or trio. It neither opens nor closes the journal."""

    def __init__(
        self,
        journal: Journal,
        sync: Sync,
        *,
        threaded: bool | None = None,
        max_records: int = MAX_RECORDS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Write to `journal`, which is open.

        Args:
            journal: used by nobody else for writing until `aclose`.
            sync: as the journal was opened.
            threaded: whether to write in a thread; by default under `power` only.
            max_records: records in a group, unless one caller's batch alone has more.
            max_bytes: bytes of bodies in a group, likewise.

        """
        self._committer = Committer(journal)
        self._journal = journal
        self._max_records, self._max_bytes = max_records, max_bytes
        self._waiting: deque[Batch | _Call[object]] = deque()
        self._busy = False
        self._closed = False
        self._pid = os.getpid()
        self._thread = _Worker() if (sync == "power" if threaded is None else threaded) else None
        self._loop: _Loop | None = None

    @property
    def last_position(self) -> Position:
        """The position of the last record that is known to be stored."""
        return self._committer.last

    @property
    def poisoned(self) -> Exception | None:
        """Why nothing is written at present: an append in doubt (see `recover`), or a lost ownership."""
        return self._committer.poison

    async def append(self, entries: Sequence[Entry]) -> Position:
        """Store `entries` together, one behind the other, or none of them; durable on return.

        A cancelled append is over when the cancellation comes out, stored as a whole or not at all.

        Returns:
            The position of the last of them.

        Raises:
            JournalConflict, JournalRejected: certainly not stored.
            JournalUncertain: may or may not be stored; nothing is written until `recover` has succeeded.
            JournalFenced: another owner has the journal, for good.
            JournalClosed: the writer is closed. JournalForked: it belongs to the parent process.

        """
        self._refuse_use()
        batch = Batch(entries)
        await self._go_through(batch)
        outcome = batch.outcome
        if isinstance(outcome, Exception):
            raise outcome
        assert outcome is not None  # noqa: S101  # a batch that is done has an outcome
        return outcome

    @property
    def idle(self) -> bool:
        """Whether `append_now` may be called: writes are made on the loop, and nobody waits for one."""
        return self._thread is None and not self._busy

    def append_now(self, entries: Sequence[Entry]) -> Position:
        """`append` without waiting, for who has gathered a group already. While the writer is `idle`."""
        self._refuse_use()
        batch = Batch(entries)
        self._committer.commit([batch])
        self._raise_interruption()
        if isinstance(batch.outcome, Exception):
            raise batch.outcome
        assert batch.outcome is not None  # noqa: S101  # as above
        return batch.outcome

    async def run(self, work: Callable[[], T]) -> T:
        """Call `work` between two groups: for the journal's `set_cursor`, `put_snapshot` and the like."""
        self._refuse_use()
        call = _Call(work)
        await self._go_through(call)  # type: ignore[arg-type]  # the queue does not look at what it returns
        if isinstance(call.outcome, Exception):
            raise call.outcome
        return call.outcome  # type: ignore[return-value]  # done without an error: it is what `work` returned

    async def recover(self) -> Position:
        """After an uncertain append: reopen the journal, and write again. Returns its last position.

        Raises:
            JournalFenced: ownership is lost, for good. Anything else: still in doubt; try again later.

        """
        return await self.run(self._committer.recover)

    async def find_out(self, entries: Sequence[Entry]) -> Position:
        """After an uncertain append of `entries`: `recover`, and look whether they are stored.

        Returns:
            The position of the last of them.

        Raises:
            JournalConflict, JournalRejected: they are not. Anything else: still in doubt, as for `recover`.

        """
        return await self.run(partial(self._committer.find_out, Batch(entries)))

    async def aclose(self) -> None:
        """Wait for what was asked for so far and end the thread. A second call does nothing."""
        if self._closed:
            return
        self._closed = True  # first: what came behind the last call would be written while the journal closes
        with anyio.CancelScope(shield=True):
            await self._go_through(_Call(_nothing))
        if self._thread is not None:
            self._thread.stop()
            self._thread = None

    async def _go_through(self, job: Batch | _Call[object]) -> None:
        self._waiting.append(job)
        loop = self._loop
        if loop is None:
            loop = self._loop = _running_loop()
        if not self._busy:
            self._busy = True
            loop.soon(self._start)  # a turn later, so that all who are ready come into the group
        try:
            await loop.wait(job)
        except anyio.get_cancelled_exc_class():
            await self._withdraw(job, loop)
            raise

    async def _withdraw(self, job: Batch | _Call[object], loop: "_Loop") -> None:
        """Take a cancelled job back, or see it through where it has begun."""
        if job in self._waiting:
            self._waiting.remove(job)
            return
        with anyio.CancelScope(shield=True):
            while not job.over:
                try:
                    await loop.wait(job)
                except anyio.get_cancelled_exc_class():
                    continue  # asyncio's own cancel pierces the shield; the first one is raised by the caller

    def _refuse_use(self) -> None:
        if self._closed:
            raise JournalClosed("the journal's writer is closed")
        if self._pid != os.getpid():
            raise JournalForked(f"the writer belongs to process {self._pid}, and this is a fork of it")

    def _start(self) -> None:
        """Take the next group and have it written."""
        group = self._next_group()
        if not group:
            self._busy = False
        elif self._thread is not None:
            self._thread.put(lambda: self._write_in_thread(group))
        else:
            self._write(group)
            self._finish(group)

    def _next_group(self) -> list[Batch | _Call[object]]:
        if len(self._waiting) == 1:  # as a rule: what goes alone is not measured
            return [self._waiting.popleft()]
        group: list[Batch | _Call[object]] = []
        records = size = 0
        while self._waiting:
            job = self._waiting[0]
            if isinstance(job, _Call):
                return group or [self._waiting.popleft()]
            records += len(job.entries)
            size += sum([len(entry.body) for entry in job.entries])
            if group and (records > self._max_records or size > self._max_bytes):
                break
            group.append(self._waiting.popleft())
        return group

    def _write_in_thread(self, group: list[Batch | _Call[object]]) -> None:
        self._write(group)
        try:
            self._running().soon_from_thread(lambda: self._finish(group))
        except RuntimeError:
            pass  # the loop is gone, and with it everybody who waited

    def _write(self, group: list[Batch | _Call[object]]) -> None:
        if isinstance(group[0], _Call):
            group[0].run(self._committer.heed)
        else:
            self._committer.commit([job for job in group if isinstance(job, Batch)])

    def _finish(self, group: list[Batch | _Call[object]]) -> None:
        loop = self._running()
        for job in group:
            job.over = True
            loop.wake(job)
        if self._waiting:
            loop.soon(self._start)
        else:
            self._busy = False
        self._raise_interruption()

    def _raise_interruption(self) -> None:
        """On the loop, and once all have heard of it: in the thread it would end the thread alone."""
        interruption, self._committer.interruption = self._committer.interruption, None
        if interruption is not None:
            raise interruption

    def _running(self) -> "_Loop":
        assert self._loop is not None  # noqa: S101  # whoever waits has found it
        return self._loop


def _nothing() -> None:
    """What a last call in the queue has to do."""


class _Worker:
    """One long-lived thread: a hop to it costs half of one to a pool."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="meowcat-journal", daemon=True)
        self._thread.start()

    def put(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)

    def stop(self) -> None:
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


class _Loop(Protocol):
    """What the writer needs of the event loop. One future a wait: anyio's events cost three times that."""

    def soon(self, callback: Callable[[], object]) -> object:
        """Run it on the loop's next turn."""

    def soon_from_thread(self, callback: Callable[[], object]) -> object:
        """The same, asked for by another thread, which has to wake the loop."""

    async def wait(self, job: Batch | _Call[object]) -> None:
        """Until `wake`, on the loop."""

    def wake(self, job: Batch | _Call[object]) -> None:
        """Let go on who waits for the job, if anybody does."""


class _Asyncio:
    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.soon: Callable[[Callable[[], object]], object] = loop.call_soon
        self.soon_from_thread: Callable[[Callable[[], object]], object] = loop.call_soon_threadsafe
        self._future = loop.create_future

    async def wait(self, job: Batch | _Call[object]) -> None:
        job.waiter = future = self._future()
        await future

    def wake(self, job: Batch | _Call[object]) -> None:
        future = job.waiter
        if isinstance(future, asyncio.Future) and not future.done():  # done: cancelled
            future.set_result(None)


class _Trio:
    def __init__(self) -> None:
        token = sys.modules["trio"].lowlevel.current_trio_token()
        self.soon: Callable[[Callable[[], object]], object] = token.run_sync_soon
        self.soon_from_thread = self.soon

    async def wait(self, job: Batch | _Call[object]) -> None:
        job.waiter = event = anyio.Event()
        await event.wait()

    def wake(self, job: Batch | _Call[object]) -> None:
        if isinstance(job.waiter, anyio.Event):
            job.waiter.set()


def _running_loop() -> _Loop:
    trio = sys.modules.get("trio")
    return _Trio() if trio is not None and trio.lowlevel.in_trio_run() else _Asyncio()
