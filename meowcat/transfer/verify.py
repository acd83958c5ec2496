"""Verifying: the whole part file is read once, its pieces are compared with what was stored, and its digests
are reported.
"""

from functools import partial

import anyio

from meowcat.core.downloads import digest_algorithms
from meowcat.core.messages import Digested, Faulted, Message
from meowcat.core.pieces import IntervalSet
from meowcat.core.state import TaskState
from meowcat.core.transfers import Download
from meowcat.core.values import Checksum, FaultKind
from meowcat.core.wanted import Verify
from meowcat.transfer.context import Errand, World
from meowcat.transfer.digests import PieceCheck, Stopped, digest_file
from meowcat.transfer.disk import FileFault
from meowcat.transfer.files import PartFile
from meowcat.transfer.recheck import StoredDigests

__all__ = ["VerifyOperation"]


class VerifyOperation:
    """`wanted.Verify` at work; see `context.Running`."""

    def __init__(self, world: World, errand: Errand, operation: Verify) -> None:
        self._world = world
        self._errand = errand
        self._operation = operation
        self._stopped = False

    def update(self, task: TaskState, *, hold: bool) -> None:
        """A delay changes nothing here: no request is sent."""

    @property
    def quiet(self) -> bool:
        return True  # it only reads

    async def run(self) -> None:
        over = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(self._work, over)
            try:
                await over.wait()
            finally:
                self._stopped = True  # the thread looks for it every few megabytes

    async def _work(self, over: anyio.Event) -> None:
        limiter = anyio.CapacityLimiter(1)
        task = self._errand.task
        assert task.grid is not None  # noqa: S101  # nothing is verified before all is stored
        stored = StoredDigests(IntervalSet.of((0, task.grid.count)))
        await stored.learn(self._errand.histories.events_of(task.id))
        check = PieceCheck(task.grid, stored.of)
        report = await self._world.workers.run(partial(self._verify, check, task.grid.size), limiter)
        if report is not None:
            self._errand.report(report)
        over.set()

    def _verify(self, check: PieceCheck, size: int) -> Message | None:
        run, restarts = self._operation.run, self._operation.restarts
        try:
            digests = self._digests(check, size)
            changed = IntervalSet.of(*((piece, piece + 1) for piece in check.changed))
            return Digested(run=run, restarts=restarts, digests=digests, changed=changed.pairs)
        except FileFault as failure:
            return Faulted(run=run, restarts=restarts, fault=failure.fault)
        except Stopped:
            return None

    def _digests(self, check: PieceCheck, size: int) -> tuple[Checksum, ...]:
        task, disk = self._errand.task, self._world.disk
        assert isinstance(task.request, Download)  # noqa: S101  # only a download is verified
        part = PartFile.open(disk, task.request.to, task.id, self._world.durability, fresh=False, size=size)
        try:
            if part.identity != task.file:
                raise FileFault(FaultKind.LOCAL_REMOVED, f"{part.path} was removed or replaced")
            part.check(size)
            algorithms = digest_algorithms(task)
            found = digest_file(disk, part.path, algorithms, size, stop=lambda: self._stopped, check=check)
            return tuple(Checksum(name, digits) for name, digits in found.items())
        finally:
            part.close()
