"""Coroutines that do one job after the other: to spawn one costs as much as a small operation takes."""

from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup

from meowcat.transfer.signal import Signal

IDLE = 64
"""Coroutines that are kept for later while there is nothing to do."""


class _Idle:
    """One that waits for a job."""

    __slots__ = ("called", "job")

    def __init__(self) -> None:
        self.called = Signal()
        self.job: Callable[[], Awaitable[None]] | None = None


class Pool:
    """Runs jobs at once, each in a coroutine of its own; as many as there are jobs."""

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._idle: list[_Idle] = []
        self._closed = False

    def start(self, job: Callable[[], Awaitable[None]]) -> None:
        """Run `job`, which must not raise."""
        if self._idle:
            idle = self._idle.pop()
            idle.job = job
            idle.called.set()
        else:
            self._tasks.start_soon(self._work, job)

    async def _work(self, job: Callable[[], Awaitable[None]]) -> None:
        while True:
            await job()
            if self._closed or len(self._idle) >= IDLE:
                return
            idle = _Idle()
            self._idle.append(idle)
            try:
                await idle.called.wait()
            except anyio.get_cancelled_exc_class():
                if idle.job is not None:  # it was started, so it has to end: those who wait for it hear of it
                    await idle.job()
                raise
            if idle.job is None:
                return
            job = idle.job

    def close(self) -> None:
        """Keep no coroutine any longer; jobs that run go on."""
        self._closed = True
        while self._idle:
            self._idle.pop().called.set()
