"""Listeners: functions of the application that are told of each task's newest state, on threads of their own.

A listener has a thread while it has something to be told, and nothing of it can reach the event loop: it may
raise, block, or never return. What it has not been told yet is kept as little as possible: of a task that
goes on while its listener is busy, the newest state, and a terminal one that came before it.
"""

import heapq
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from types import TracebackType
from typing import Self
from weakref import WeakSet

from meowcat.core.info import TaskInfo, info_of
from meowcat.core.machine import TERMINAL, State
from meowcat.core.state import TaskState
from meowcat.core.values import TaskId
from meowcat.runtime.bus import Bus
from meowcat.runtime.inside import Inside, inside, refuse_inside_listener
from meowcat.runtime.world import Threads

__all__ = ["Listener", "Listeners", "Pending", "Subscription", "refuse_inside_listener"]

log = logging.getLogger("meowcat.listener")

PROGRESS_INTERVAL = 0.1
"""Seconds at least between two calls for one task whose state is the same."""
IDLE = 0.5
"""Seconds that a listener's thread waits for more before it ends."""
DRAIN_WITHIN = 2.0
"""Seconds that a close waits for calls that are pending; then they are abandoned."""

Listener = Callable[[TaskInfo], object]


class _Waiting:
    """What a listener is still to be told of one task."""

    __slots__ = ("due", "states")

    def __init__(self, due: float, task: TaskState) -> None:
        self.due = due
        self.states = deque([task])


class Pending:
    """What a listener is still to be told, and when. Pure: instants are monotonic seconds, given with each
    call."""

    def __init__(self) -> None:
        self._waiting: dict[TaskId, _Waiting] = {}
        self._due: list[tuple[float, int, TaskId]] = []
        self._order = count()
        self._told: dict[TaskId, tuple[float, State]] = {}

    def __len__(self) -> int:
        """States that wait."""
        return sum(len(each.states) for each in self._waiting.values())

    def offer(self, task: TaskState, now: float, *, busy: bool) -> None:
        """The task is in this state now; `busy` where the listener is being called at this moment."""
        waiting = self._waiting.get(task.id)
        if waiting is None:
            at, state = self._told.get(task.id, (-math.inf, None))
            due = now if state is not task.state else max(now, at + PROGRESS_INTERVAL)
            self._wait(_Waiting(due, task), task.id)
            return
        newest = waiting.states[-1]
        if newest.state is task.state:
            waiting.states[-1] = task
            return
        if busy:
            ends = [] if task.state in TERMINAL else [s for s in waiting.states if s.state in TERMINAL]
            waiting.states = deque(ends[-1:])
        waiting.states.append(task)
        if waiting.due > now:
            waiting.due = now
            self._wait(waiting, task.id)

    def _wait(self, waiting: _Waiting, task: TaskId) -> None:
        self._waiting[task] = waiting
        heapq.heappush(self._due, (waiting.due, next(self._order), task))

    def take(self, now: float) -> TaskState | None:
        """The next state that is due; None where there is none."""
        while self._due and self._due[0][0] <= now:
            due, _, task = heapq.heappop(self._due)
            waiting = self._waiting.get(task)
            if waiting is None or waiting.due != due:
                continue  # it was told in the meantime, or became due earlier
            state = waiting.states.popleft()
            if waiting.states:
                self._wait(waiting, task)
            else:
                del self._waiting[task]
            self._note(state, now)
            return state
        return None

    def _note(self, task: TaskState, now: float) -> None:
        if len(self._told) > 2 * len(self._waiting) + 64:
            since = now - PROGRESS_INTERVAL
            self._told = {task: told for task, told in self._told.items() if told[0] > since}
        self._told[task.id] = (now, task.state)

    def pause(self, now: float) -> float | None:
        """Seconds until something is due; None where nothing waits."""
        return max(0.0, self._due[0][0] - now) if self._waiting else None

    def clear(self) -> None:
        self._waiting.clear()
        self._due.clear()


class Subscription:
    """A listener that was added. `close` ends it; so does leaving a `with` block."""

    def __init__(self, function: Listener, engine: object, leave: Callable[["Subscription"], None]) -> None:
        self._function = function
        self._inside = Inside(engine=engine, listener=True, name="a listener")
        self._leave = leave
        self._changed = threading.Condition()
        self._pending = Pending()
        self._thread: threading.Thread | None = None
        self._busy = self._draining = self._closed = False
        self.told = False
        """Whether it was offered anything."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """No further call begins; one that is under way is not waited for. A second close does nothing."""
        with self._changed:
            self._closed = True
            self._pending.clear()
            self._changed.notify_all()
        self._leave(self)

    def offer(self, task: TaskState) -> None:
        """The task is in this state now. On the event loop: never blocks."""
        self.told = True
        with self._changed:
            if self._closed:
                return
            self._pending.offer(task, time.monotonic(), busy=self._busy)
            if self._thread is None:
                self._start()
            else:
                self._changed.notify_all()

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name="meowcat-listener", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            log.warning("no thread for a listener now (%s); it is told with the next state", error)
        else:
            self._thread = thread

    def drain(self, until: float) -> bool:
        """Wait (blocking, to the monotonic instant `until`) for all that is pending; whether it was told."""
        with self._changed:
            self._draining = True
            if self._thread is None and not self._closed and not self._is_idle():
                self._start()  # there was no thread to be had, and this may be the task's last state
            self._changed.notify_all()
            return self._changed.wait_for(self._is_idle, max(0.0, until - time.monotonic()))

    def _is_idle(self) -> bool:
        return not self._busy and self._pending.pause(0.0) is None

    def _work(self) -> None:
        with inside(self._inside):
            while (task := self._next()) is not None:
                self._call(task)

    def _next(self) -> TaskState | None:
        """What to tell next, when it is due; None where the thread is to end."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            while True:
                now = time.monotonic()
                task = self._pending.take(math.inf if self._draining else now)
                if task is not None:
                    self._busy = True
                    return task
                pause = self._pending.pause(now)
                waited = not self._closed and self._changed.wait(IDLE if pause is None else pause)
                if self._closed or (not waited and self._pending.pause(now) is None):
                    self._thread = None
                    return None

    def _call(self, task: TaskState) -> None:
        try:
            self._function(info_of(task))
        except BaseException:  # the application's own: even a SystemExit ends this call and nothing else
            log.exception("a listener raised for task %s; it goes on with the next state", task.id)


class Listeners:
    """The listeners of an engine."""

    def __init__(self, bus: Bus, engine: object) -> None:
        self._bus = bus
        self._engine = engine
        self._subscriptions: WeakSet[Subscription] = WeakSet()
        self._leaving = threading.Lock()

    def add(self, function: Listener, task: TaskId | None) -> Subscription:
        """Tell `function` of all tasks, or of one."""

        def leave(subscription: Subscription) -> None:
            self._bus.unobserve(subscription.offer, task)
            with self._leaving:  # from any thread
                self._subscriptions.discard(subscription)

        subscription = Subscription(function, self._engine, leave)
        with self._leaving:
            self._subscriptions.add(subscription)
        self._bus.observe(subscription.offer, task)
        return subscription

    async def close(self, threads: Threads) -> None:
        """Tell what is pending, for a while; then end all of them."""
        with self._leaving:
            subscriptions = tuple(self._subscriptions)
        if not subscriptions:
            return

        def drain() -> int:
            until = time.monotonic() + DRAIN_WITHIN
            return sum(not each.drain(until) for each in subscriptions)

        late = await threads.run(drain)
        if late:
            log.warning("closing: %d listeners did not return within %.0f s", late, DRAIN_WITHIN)
        for each in subscriptions:
            each.close()
