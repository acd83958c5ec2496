"""A sink made of a function."""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from threading import Event
from typing import TypeGuard

import anyio

from meowcat.core.errors import InvalidArgument
from meowcat.journal.logged import LoggedEvent
from meowcat.sinks.contract import Sink
from meowcat.sinks.one_by_one import OneByOne
from meowcat.transport.threads import Lane


def callback(function: Callable[[LoggedEvent], object]) -> Sink:
    """A sink that calls `function` with each event, one after the other.

    A coroutine function is awaited on the event loop; a plain function is called in a thread, and may block.
    When it returns, the event is delivered; when it raises, that event comes again later, and those behind it
    wait. What it returns is ignored.

    Raises:
        InvalidArgument: not a function.
    """
    if not callable(function):
        raise InvalidArgument(f"callback {function!r}: expected a function that takes a LoggedEvent")
    return _Coroutine(function) if _is_async(function) else _Plain(function)


def _is_async(
    function: Callable[[LoggedEvent], object],
) -> TypeGuard[Callable[[LoggedEvent], Awaitable[object]]]:
    call = getattr(function, "__call__", None)  # noqa: B004  # of an object that can be called like a function
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


class _Coroutine(OneByOne):
    def __init__(self, function: Callable[[LoggedEvent], Awaitable[object]]) -> None:
        super().__init__()
        self._function = function

    async def take(self, event: LoggedEvent) -> None:
        await self._function(event)


class _Plain:
    """Calls the function for a whole batch in one thread: a hop for each event would cost more than most
    functions do. Otherwise as `OneByOne`."""

    def __init__(self, function: Callable[[LoggedEvent], object]) -> None:
        self._function = function
        self._lane = Lane("meowcat-sink")
        self._taken: set[str] = set()

    async def deliver(self, events: Sequence[LoggedEvent]) -> None:
        abandoned = Event()
        try:
            await self._lane.run(partial(self._take_all, events, abandoned))
        except anyio.get_cancelled_exc_class():
            abandoned.set()
            raise

    def _take_all(self, events: Sequence[LoggedEvent], abandoned: Event) -> None:
        for event in events:
            if abandoned.is_set():
                return
            if event.id not in self._taken:
                self._take(event)
                self._taken.add(event.id)
        self._taken.difference_update(event.id for event in events)

    def _take(self, event: LoggedEvent) -> None:
        outcome = self._function(event)
        if inspect.isawaitable(outcome):
            if inspect.iscoroutine(outcome):
                outcome.close()
            raise InvalidArgument(
                f"callback {self._function!r} returned an awaitable that nobody would await: "
                "make it with 'async def'"
            )
