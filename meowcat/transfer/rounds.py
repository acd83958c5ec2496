"""Small files go to the disk in rounds: what is ready together takes one trip to a thread, and few syncs.

A sync costs a small file more than all else, and many files that are synced together cost little more than
one. So under `power` a round syncs what all jobs that wait have written (the file system as a whole, where
there are several and it can be), then each other folder that got or lost a name, and only then are the jobs
done. The calls themselves take some microseconds, and are made on the loop as long as the disk lets that go
on: a thread would ask for the interpreter's lock behind each of them, in the way of all others. Under
`process` nothing is synced, and that is all.
"""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Generic, TypeVar

import anyio
import anyio.lowlevel

from meowcat.core.values import FaultKind
from meowcat.transfer.disk import Disk, FileFault, guarded, lacks
from meowcat.transfer.files import Durability, PartFile, check_folder
from meowcat.transfer.signal import Signal
from meowcat.transfer.workers import Workers

__all__ = ["Rounds"]

T = TypeVar("T")

TOGETHER = 4
"""Files from which on their file system is synced in place of each of them."""

STALL = 0.002
"""Seconds that a job may take on the loop, by the average of the last dozen or so. After that, jobs go to a
thread …"""
RESPITE = 1.0
"""… for so many seconds."""
LOOK_LASTS = 0.25
"""Seconds for which a folder that was fine is taken to be fine; the creation of a file has the last word."""
FOLDERS = 256
"""Folders that are remembered so."""
_WEIGHT = 1 / 16
"""Of the newest job in the average."""
_LONGEST = 0.9 * STALL / _WEIGHT
"""Seconds that count of one job: where all was fast, two of them tell of a slow disk. The collector of
cycles stops the loop for a tenth of a second where there are many tasks, wherever it is."""


class _Job(Generic[T]):
    """One call, and what is to be durable after it."""

    def __init__(self, call: Callable[[], T], folder: str, *, holds_bytes: bool) -> None:
        self._call = call
        self.folder = folder
        self._holds_bytes = holds_bytes
        self.outcome: T | Exception | None = None
        self.leads = False
        self.turn = Signal()
        """Set when it is done, or when it is to lead the next round."""

    def attempt(self) -> None:
        """Make the call, unless that was done."""
        if self.outcome is not None:
            return
        try:
            self.outcome = self._call()
        except Exception as error:  # noqa: BLE001  # raised again where the job is waited for
            self.outcome = error

    @property
    def failed(self) -> bool:
        return isinstance(self.outcome, Exception)

    @property
    def part(self) -> PartFile | None:
        """The file whose bytes are to be durable."""
        return self.outcome if self._holds_bytes and isinstance(self.outcome, PartFile) else None

    def result(self) -> T:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        assert self.outcome is not None  # noqa: S101  # whoever is done has an outcome
        return self.outcome


class Rounds:
    """Rounds of one engine, one after the other."""

    def __init__(self, disk: Disk, workers: Workers, durability: Durability) -> None:
        self._disk = disk
        self._workers = workers
        self._syncs = durability == "power"
        self._limiter = anyio.CapacityLimiter(1)
        self._several = anyio.CapacityLimiter(4)
        self._waiting: list[_Job[object]] = []
        self._busy = False
        self._looked_at: dict[str, float] = {}
        """Folders that were fine, and until when no other look is needed, by `perf_counter`."""
        self._average = 0.0
        """Seconds that a job takes on the loop."""
        self._inline_from = 0.0
        """When jobs may be done on the loop again, by `perf_counter`."""

    async def do(self, call: Callable[[], T], folder: str | None = None, *, holds_bytes: bool = False) -> T:
        """Make a blocking call of some microseconds. Once begun it is seen through, also when canceled.

        Args:
            call: must not return None where it changes names.
            folder: an absolute path, where it changes names in one: they are durable on return as far as
                `durability` asks for that.
            holds_bytes: whether it returns a PartFile whose bytes have to be durable as well.

        Raises:
            FileFault: a sync failed: nothing may be relied on. And whatever `call` raises.
        """
        inline = self._workers.threaded and perf_counter() >= self._inline_from
        if folder is not None and self._syncs:
            job = _Job(call, folder, holds_bytes=holds_bytes)
            if inline:
                self._here(job.attempt)
            if not job.failed:
                with anyio.CancelScope(shield=True):
                    await self._join(job)
            return job.result()
        if not inline:
            with anyio.CancelScope(shield=True):
                return await self._workers.run(call, self._several)
        return self._here(call)

    def _here(self, call: Callable[[], T]) -> T:
        """Make a call on the loop, and see how long that keeps it."""
        began = perf_counter()
        try:
            return call()
        finally:
            ended = perf_counter()
            self._average += (min(ended - began, _LONGEST) - self._average) * _WEIGHT
            if self._average > STALL:
                self._average, self._inline_from = STALL / 2, ended + RESPITE

    def check_folder(self, folder: str) -> None:
        """See that files can be made in the folder, unless it was looked at a moment ago.

        Raises:
            FileFault: they can't.

        """
        now = perf_counter()
        if now < self._looked_at.get(folder, 0.0) and self._workers.threaded:
            return
        check_folder(self._disk, folder)
        if len(self._looked_at) >= FOLDERS:
            self._looked_at.clear()
        self._looked_at[folder] = now + LOOK_LASTS

    async def _join(self, job: _Job[T]) -> None:
        self._waiting.append(job)  # type: ignore[arg-type]  # a round does not look at results
        if self._busy:
            await job.turn.wait()
            if not job.leads:
                return
        else:
            self._busy = True
            await anyio.lowlevel.checkpoint()  # so that all who are ready come into the round
        await self._lead()

    async def _lead(self) -> None:
        jobs, self._waiting = self._waiting, []
        try:
            await self._workers.run(lambda: self._round(jobs), self._limiter)
        except Exception as error:  # noqa: BLE001  # no thread, or a sync broke: each job raises it again
            _fail(jobs, error)
        finally:
            for job in jobs:
                job.leads = False
                job.turn.set()
            if self._waiting:
                self._waiting[0].leads = True
                self._waiting[0].turn.set()
            else:
                self._busy = False

    # Of the thread

    def _round(self, jobs: Sequence[_Job[object]]) -> None:
        for job in jobs:
            job.attempt()
        covered = self._sync_bytes([(job, part) for job in jobs if (part := job.part) is not None])
        for folder in dict.fromkeys(job.folder for job in jobs if not job.failed):
            if folder in covered:
                continue
            try:
                with guarded(folder, gone=FaultKind.FILE_NOT_FOUND):
                    self._disk.fsync_folder(folder)
            except FileFault as fault:
                _fail([job for job in jobs if job.folder == folder], fault)

    def _sync_bytes(self, jobs: Sequence[tuple[_Job[object], PartFile]]) -> set[str]:
        """Returns the folders whose names are durable along with it: a sync of their whole file system came
        behind the calls of all jobs, and takes the names as well (syncfs(2), sync(2)).
        """
        covered: set[str] = set()
        systems: dict[int, list[tuple[_Job[object], PartFile]]] = {}
        for job, part in jobs:
            systems.setdefault(part.identity.device, []).append((job, part))
        for some in systems.values():
            if len(some) >= TOGETHER and self._sync_system(some):
                covered.update(job.folder for job, _ in some if not job.failed)
                continue
            for job, part in some:
                try:
                    part.flush()
                except FileFault as fault:
                    _fail([job], fault)
        return covered

    def _sync_system(self, jobs: Sequence[tuple[_Job[object], PartFile]]) -> bool:
        """Sync the file system that all of them are on; whether that is possible."""
        part = jobs[0][1]
        try:
            with guarded(part.path):
                part.flush_system()
        except FileFault as fault:
            if isinstance(fault.__cause__, OSError) and lacks(fault.__cause__):
                return False
            _fail([job for job, _ in jobs], fault)
        return True


def _fail(jobs: Sequence[_Job[object]], error: Exception) -> None:
    for job in jobs:
        if not job.failed:
            job.outcome = error
