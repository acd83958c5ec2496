"""Coroutines that do one job after the other: to spawn one costs as much as a small operation takes, and so
does a cancel scope, which lasts until it is canceled.
"""

from abc import ABC, abstractmethod

import anyio
from anyio.abc import TaskGroup

from meowcat.transfer.signal import Signal

IDLE = 64
"""Coroutines that are kept for later while there is nothing to do."""


class Job(ABC):
    """Something to do that can be canceled until it is over."""

    __slots__ = ("_scope", "canceled")

    def __init__(self) -> None:
        self.canceled = False
        self._scope: anyio.CancelScope | None = None

    @abstractmethod
    async def run(self) -> None:
        """Do it; must not raise."""

    @abstractmethod
    def end(self) -> None:
        """Called when `run` is over, whatever came of it; also without a run where none is possible."""

    @abstractmethod
    def follow(self) -> None:
        """Called after `end`, unless everything around was canceled."""

    def cancel(self) -> None:
        """End it at its next wait; nothing once it is over."""
        self.canceled = True
        if self._scope is not None:
            self._scope.cancel()

    def enter(self, scope: anyio.CancelScope) -> None:
        """It runs in this scope, which is its own until `leave`."""
        self._scope = scope
        if self.canceled:
            scope.cancel()

    def leave(self) -> None:
        self._scope = None
        self.end()


class _Idle(Signal):
    """One that waits for a job, or for the end."""

    __slots__ = ("job",)

    def __init__(self) -> None:
        super().__init__()
        self.job: Job | None = None


class Pool:
    """Runs jobs at once, each in a coroutine of its own; as many as there are jobs."""

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._idle: list[_Idle] = []
        self._closed = False

    def start(self, job: Job) -> None:
        if self._idle:
            idle = self._idle.pop()
            idle.job = job
            idle.set()
        else:
            self._tasks.start_soon(self._work, job)

    async def _work(self, first: Job) -> None:
        job: Job | None = first
        while job is not None:
            with anyio.CancelScope() as scope:
                while job is not None:
                    job.enter(scope)
                    try:
                        await job.run()
                    finally:
                        job.leave()
                    if job.canceled:  # the scope has served
                        break
                    job.follow()
                    job = await self._next()
            if job is not None:
                job.follow()
                job = await self._next()

    async def _next(self) -> Job | None:
        """The next job; None where there is to be none."""
        if self._closed or len(self._idle) >= IDLE:
            return None
        idle = _Idle()
        self._idle.append(idle)
        try:
            await idle.wait()
        except anyio.get_cancelled_exc_class():
            if idle.job is not None:  # it was started, so it has to end: those who wait for it hear of it
                idle.job.leave()
            raise
        return idle.job

    def close(self) -> None:
        """Keep no coroutine any longer; jobs that run go on."""
        self._closed = True
        while self._idle:
            self._idle.pop().set()
