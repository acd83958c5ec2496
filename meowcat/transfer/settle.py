"""Settling: the part file becomes the target, or is removed. Both may be done again after a crash."""

from collections.abc import Callable

import anyio

from meowcat.core.downloads import time_of
from meowcat.core.events import CommitIntended, PublishIntended
from meowcat.core.messages import Discarded, DiscardFailed, Message, Published, PublishFailed
from meowcat.core.state import TaskState
from meowcat.core.transfers import Download
from meowcat.core.values import Checksum, Fault, FaultKind
from meowcat.transfer.context import Errand, World
from meowcat.transfer.digests import digest_file
from meowcat.transfer.disk import FileFault
from meowcat.transfer.files import part_path
from meowcat.transfer.publish import Proof, discard, publish

__all__ = ["DiscardOperation", "PublishOperation"]


class SettlingOperation:
    """One short blocking call in a thread, whose report is owed whatever happens meanwhile."""

    def __init__(self, world: World, errand: Errand) -> None:
        assert isinstance(errand.task.request, Download)  # noqa: S101  # only a download has a part file
        self._world = world
        self._task = errand.task
        self._request: Download = errand.task.request
        self._report = errand.report
        self._over = False

    def update(self, task: TaskState, *, hold: bool) -> None:
        """Nothing that happens to the task changes what is owed."""

    @property
    def quiet(self) -> bool:
        return self._over

    async def run(self) -> None:
        limiter = anyio.CapacityLimiter(1)
        with anyio.CancelScope(shield=True):  # the outcome is known in a moment, and is worth its report
            self._report(await self._world.workers.run(self._settle, limiter))
        self._over = True

    def _settle(self) -> Message:
        raise NotImplementedError


class PublishOperation(SettlingOperation):
    """`wanted.Publish` at work; see `context.Running`."""

    def _settle(self) -> Message:
        intent = self._task.intent
        assert isinstance(intent, PublishIntended)  # noqa: S101  # publishing is wanted because of it
        time = time_of(self._task)
        if time is not None:  # before the sync and the rename: who is killed after those has it, too
            self._world.disk.set_time(part_path(self._request.to, self._task.id), time)
        fault = _fault_in(
            lambda: publish(
                self._world.disk,
                self._request.to,
                self._task.id,
                intent.file,
                intent.size,
                self._request.overwrite,
                self._world.durability,
                self._proof(intent.digests, intent.size),
            )
        )
        return Published() if fault is None else PublishFailed(fault=fault)

    def _proof(self, digests: tuple[Checksum, ...], size: int) -> Proof | None:
        """Whether a file that has the identity of ours has its content as well, where a digest can tell."""
        if not digests:
            return None
        expected = {each.algorithm: each.hex for each in digests}
        return lambda fd: digest_file(self._world.disk, fd, list(expected), size) == expected


class DiscardOperation(SettlingOperation):
    """`wanted.Discard` at work; see `context.Running`."""

    def _settle(self) -> Message:
        intent, published = self._task.intent, False
        assert not isinstance(intent, CommitIntended)  # noqa: S101  # that of an upload, which has no part file

        def remove() -> None:
            nonlocal published
            published = discard(
                self._world.disk,
                self._request.to,
                self._task.id,
                None if intent is None else intent.file,
            )

        fault = _fault_in(remove)
        return Discarded(published=published) if fault is None else DiscardFailed(fault=fault)


def _fault_in(call: Callable[[], object]) -> Fault | None:
    try:
        call()
    except FileFault as failure:
        return failure.fault
    except OSError as error:  # one that no guard of the file layer saw
        return Fault(kind=FaultKind.IO, detail=f"{error.strerror or type(error).__name__}")
    return None
