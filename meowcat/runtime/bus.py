"""How those who watch hear of what happened: the newest state of each watched task, and "there is more"."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary

import anyio

from meowcat.core.errors import MeowcatError
from meowcat.core.state import TaskState
from meowcat.core.values import Position, TaskId
from meowcat.runtime.forks import refuse_fork

Observer = Callable[[TaskState], None]

RATE_WINDOW = 5.0
"""Seconds over which a rate is measured."""


class Feed:
    """One task, as its watchers see it. Only tasks that somebody watches have one."""

    def __init__(self, task: TaskState, clock: Callable[[], float]) -> None:
        self.task = task
        self.version = 0
        """Raised with each state: whoever has seen one waits for a later one."""
        self.refusal = ""
        """Why the journal takes no records now; raises the version as a state does."""
        self._clock = clock
        self._changed: anyio.Event | None = None
        """Made by the first who waits: most tasks have no watcher but the engine itself."""
        self._error: MeowcatError | None = None
        self._samples: deque[tuple[float, int]] = deque([(clock(), task.bytes_stored)])
        self._pid = os.getpid()

    def publish(self, task: TaskState) -> None:
        if task.restarts != self.task.restarts or task.run != self.task.run:
            self._samples.clear()
        self.task = task
        now, stored = self._clock(), task.bytes_stored
        if not self._samples or stored != self._samples[-1][1]:
            self._samples.append((now, stored))
        while len(self._samples) > 2 and self._samples[1][0] < now - RATE_WINDOW:  # noqa: PLR2004  # two make a rate
            self._samples.popleft()
        self.version += 1
        self._tell()

    def refuse(self, refusal: str) -> None:
        self.refusal = refusal
        self.version += 1
        self._tell()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def fail(self, error: MeowcatError) -> None:
        """There will be no later state."""
        self._error = error
        self._tell()

    async def beyond(self, version: int) -> None:
        """Wait for a state later than the one that `version` was read with.

        Raises:
            MeowcatError: the engine is closed, has lost its journal, or is that of the parent process.
        """
        refuse_fork(self._pid)
        while self.version <= version:
            if self._error is not None:
                raise self._error
            if self._changed is None:
                self._changed = anyio.Event()
            await self._changed.wait()

    def rate(self) -> float:
        """Confirmed bytes a second over the last seconds; 0 when nothing came for as long."""
        first, last = self._samples[0], self._samples[-1]
        now = self._clock()
        if now - last[0] > RATE_WINDOW or last[1] <= first[1]:
            return 0.0
        return (last[1] - first[1]) / max(last[0] - first[0], 0.001)


class Bus:
    """The feeds, and the end of the journal."""

    def __init__(self, clock: Callable[[], float], position: Position) -> None:
        self._clock = clock
        self._feeds: WeakValueDictionary[TaskId, Feed] = WeakValueDictionary()
        self.position = position
        self.refusal = ""
        """Why the journal takes no records now; empty while it does."""
        self._stirred: anyio.Event | None = None
        """Made by the first who waits: most steps of a busy engine are watched by nobody."""
        self._error: MeowcatError | None = None
        self._pid = os.getpid()
        self._observers: dict[TaskId | None, tuple[Observer, ...]] = {}
        self._observing = threading.Lock()

    def observe(self, observer: Observer, task: TaskId | None = None) -> None:
        """Call `observer` with each state of the task, or of every task. It must neither block nor raise."""
        with self._observing:
            self._observers[task] = (*self._observers.get(task, ()), observer)

    def unobserve(self, observer: Observer, task: TaskId | None = None) -> None:
        """No longer; a second call does nothing. From any thread."""
        with self._observing:
            kept = tuple(each for each in self._observers.get(task, ()) if each != observer)
            if kept:
                self._observers[task] = kept
            else:
                self._observers.pop(task, None)

    def watch(self, task: TaskState) -> Feed:
        """The task's feed, made now where nobody watched it before."""
        feed = self._feeds.get(task.id)
        if feed is None:
            feed = Feed(task, self._clock)
            feed.refusal = self.refusal
            self._feeds[task.id] = feed
        return feed

    def watched(self, task: TaskId) -> Feed | None:
        return self._feeds.get(task)

    def publish(self, task: TaskState) -> None:
        feed = self._feeds.get(task.id)
        if feed is not None:
            feed.publish(task)
        if self._observers:
            self.announce(task)

    def announce(self, task: TaskState) -> None:
        """Publish a task that is new: nobody can have a feed of it yet."""
        if self._observers:
            for observer in (*self._observers.get(None, ()), *self._observers.get(task.id, ())):
                observer(task)
            if not task.open:
                self._observers.pop(task.id, None)  # there is nothing more to be told of it

    @contextmanager
    def collected(self) -> Iterator[dict[TaskId, TaskState]]:
        """The newest state of each task that changes meanwhile; whoever looks empties it."""
        collector: dict[TaskId, TaskState] = {}

        def collect(task: TaskState) -> None:
            collector[task.id] = task

        self.observe(collect)
        try:
            yield collector
        finally:
            self.unobserve(collect)

    def grew(self, position: Position) -> None:
        """The journal has records up to `position`, durably. Who stored them may say so in another order."""
        self.position = max(self.position, position)
        self.stir()

    def refuse(self, refusal: str) -> None:
        """The journal takes no records now, or with "" takes them again: progress stands still meanwhile."""
        if refusal != self.refusal:
            self.refusal = refusal
            for feed in tuple(self._feeds.values()):
                feed.refuse(refusal)

    def stir(self) -> None:
        """Something happened that whoever waits for the engine as a whole may want to look at."""
        stirred, self._stirred = self._stirred, None
        if stirred is not None:
            stirred.set()

    def fail(self, error: MeowcatError) -> None:
        """Nothing will happen any more: everybody who waits is told so."""
        self._error = error
        for feed in tuple(self._feeds.values()):
            feed.fail(error)
        self.stir()

    async def stirred(self) -> None:
        """Wait until something happens.

        Raises:
            MeowcatError: the engine is closed, has lost its journal, or is that of the parent process.
        """
        refuse_fork(self._pid)
        if self._error is None:
            if self._stirred is None:
                self._stirred = anyio.Event()
            await self._stirred.wait()
        if self._error is not None:
            raise self._error

    async def beyond(self, position: Position) -> None:
        """Wait until the journal has more than `position`. Raises as `stirred`."""
        while self.position <= position:
            await self.stirred()
