"""Coroutines that do one job after the other: to spawn one costs as much as a small operation takes, and so
does a cancel scope, which lasts until it is canceled.
"""

import asyncio
import contextvars
from abc import ABC, abstractmethod
from collections.abc import Awaitable

import anyio
from anyio.abc import TaskGroup

from meowcat.transfer.signal import Signal, on_trio

IDLE = 64
"""Coroutines that are kept for later while there is nothing to do."""


class Job(ABC):
    """Something to do that can be canceled until it is over."""

    __slots__ = ("_scope", "canceled")

    def __init__(self) -> None:
        self.canceled = False
        self._scope: anyio.CancelScope | None = None

    @abstractmethod
    def run(self) -> Awaitable[None]:
        """Do it."""

    @abstractmethod
    def broke(self, defect: Exception) -> None:
        """Called with what `run` raised, which it should not."""

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
    """Runs jobs at once, each in a coroutine of its own; as many as there are jobs.

    On asyncio these are no tasks of the group's: anyio makes a dozen objects for each, which takes as long as
    a small file does, and again whenever the collector of cycles goes over them. One task of the group's
    stands for all: it waits for them, and is canceled for them.
    """

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._idle: list[_Idle] = []
        self._closed = False
        self._canceled = False
        """Whether all of them were, on asyncio."""
        self._crew: dict[asyncio.Task[None], anyio.CancelScope] = {}
        self._context = contextvars.copy_context()
        self._guarded = False
        self._moved = anyio.Event()
        self._failure: BaseException | None = None

    def start(self, job: Job) -> None:
        if self._idle:
            idle = self._idle.pop()
            idle.job = job
            idle.set()
        elif on_trio():
            self._tasks.start_soon(self._work, job, anyio.CancelScope())
        else:
            self._enlist(job)

    async def _work(self, first: Job, scope: anyio.CancelScope) -> None:
        job: Job | None = first
        with scope:
            while job is not None:
                job.enter(scope)
                try:
                    await job.run()
                except Exception as defect:  # noqa: BLE001  # that of one job must not hurt the others
                    job.broke(defect)
                finally:
                    job.leave()
                if job.canceled:  # the scope has served, and so has the coroutine
                    break
                job.follow()
                job = await self._next()
        if job is not None and not self._canceled:
            job.follow()

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

    # On asyncio

    def _enlist(self, job: Job) -> None:
        if not self._guarded:
            self._guarded = True
            self._tasks.start_soon(self._guard)
        scope = anyio.CancelScope()
        if self._canceled:
            scope.cancel()
        # Not by `create_task`: with an application's eager task factory it would begin in the middle of this.
        task = asyncio.Task(self._work(job, scope), loop=asyncio.get_running_loop(), name="meowcat")
        self._crew[task] = scope
        task.add_done_callback(self._discharge, context=self._context)

    def _discharge(self, task: "asyncio.Task[None]") -> None:
        del self._crew[task]
        if not task.cancelled():
            self._failure = self._failure or task.exception()
        if not self._crew or self._failure is not None:
            self._moved.set()

    async def _guard(self) -> None:
        """Stands for them in the group."""
        try:
            while self._crew and self._failure is None:
                await self._wait()
        finally:
            if self._crew:  # canceled, or one of them broke
                self._canceled = True
                for scope in self._crew.values():
                    scope.cancel()
                with anyio.CancelScope(shield=True):
                    while self._crew:
                        await self._wait()
            self._guarded = False
        if self._failure is not None:
            raise self._failure

    async def _wait(self) -> None:
        self._moved = anyio.Event()
        await self._moved.wait()
