"""An event loop whose clock stands still while anything can run, and jumps to the next timer otherwise.

Hours of waiting pass in milliseconds, and in the same way each time: what runs next depends on nothing but
what ran before. Threads that the application starts by `asyncio.to_thread` run at once, in the loop;
those of `anyio.to_thread` (with the common limiter) run as threads, and time waits for them.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from itertools import count
from typing import Any, TypeVar, TypeVarTuple

__all__ = ["StoodStill", "TimeIsUp", "VirtualLoop", "VirtualTime"]

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class StoodStill(Exception):  # reads as the fact that it states
    """Nothing can run, and no timer will change that: everybody waits for something that never comes."""


class TimeIsUp(Exception):
    """The simulated time that was allowed is over."""


class VirtualTime:
    """Seconds since the simulation began, over all its restarts."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self.end = float("inf")
        """The second at which a simulation that goes on and on is given up."""
        self.busy: Callable[[], bool] = _never
        """Whether a thread is at work, so that time must wait."""

    def jump(self, seconds: float) -> None:
        self.now += seconds
        if self.now > self.end:
            raise TimeIsUp


def _never() -> bool:
    return False


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module's docstring."""

    def __init__(self, time: VirtualTime) -> None:
        self._virtual = time
        super().__init__(_JumpingSelector(time))
        self._numbers = count()
        self.set_task_factory(self._numbered)  # type: ignore[arg-type]  # a factory's type names no keywords

    def time(self) -> float:
        return self._virtual.now

    def _numbered(
        self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], **options: Any
    ) -> "_NumberedTask[T]":
        task = _NumberedTask(work, loop=loop, **options)
        task.number = next(self._numbers)
        return task

    def run_in_executor(
        self, executor: Any, func: Callable[[*Arguments], T], *args: *Arguments
    ) -> asyncio.Future[T]:
        """Call it now: a thread would come back whenever it likes."""
        del executor
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  # handed on, as a thread's would be
            future.set_exception(error)
        return future


class _NumberedTask(asyncio.Task[T]):
    """A task that sets keep in the order of its creation: by its address, which changes from run to run, the
    tasks of a group would be canceled in another order each time."""

    number = -1

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


class _JumpingSelector(selectors.BaseSelector):
    """A selector that lets time pass instead of waiting."""

    def __init__(self, time: VirtualTime) -> None:
        self._time = time
        self._real = selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = self._real.select(0)
        if events or timeout == 0:
            return events
        if self._time.busy():
            return self._real.select(None)  # the thread wakes the loop when it is done
        if timeout is not None:
            self._time.jump(timeout)
            return []
        if len(self._real.get_map()) > 1:  # more than the loop's own pipe: the application waits for a socket
            return self._real.select(None)
        raise StoodStill

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()
