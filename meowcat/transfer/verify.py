"""Verifying: the whole part file is read once and its digests are reported."""

import anyio

from meowcat.core.downloads import digest_algorithms
from meowcat.core.messages import Digested, Faulted, Message
from meowcat.core.state import TaskState
from meowcat.core.transfers import Download
from meowcat.core.values import Checksum, FaultKind
from meowcat.core.wanted import Verify
from meowcat.transfer.context import Errand, World
from meowcat.transfer.digests import Stopped, digest_file
from meowcat.transfer.disk import FileFault
from meowcat.transfer.files import PartFile

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
        report = await self._world.workers.run(self._verify, limiter)
        if report is not None:
            self._errand.report(report)
        over.set()

    def _verify(self) -> Message | None:
        run, restarts = self._operation.run, self._operation.restarts
        try:
            return Digested(run=run, restarts=restarts, digests=self._digests())
        except FileFault as failure:
            return Faulted(run=run, restarts=restarts, fault=failure.fault)
        except Stopped:
            return None

    def _digests(self) -> tuple[Checksum, ...]:
        task, disk = self._errand.task, self._world.disk
        assert isinstance(task.request, Download)  # noqa: S101  # only a download is verified
        grid = task.grid
        assert grid is not None  # noqa: S101  # nothing is verified before all is stored
        durability, size = self._world.durability, grid.size
        part = PartFile.open(disk, task.request.to, task.id, durability, fresh=False, size=size)
        try:
            if part.identity != task.file:
                raise FileFault(FaultKind.LOCAL_REMOVED, f"{part.path} was removed or replaced")
            part.check(size)
            algorithms = digest_algorithms(task)
            found = digest_file(disk, part.path, algorithms, size, stop=lambda: self._stopped)
            return tuple(Checksum(name, digits) for name, digits in found.items())
        finally:
            part.close()
