"""How a method of the async API becomes one that blocks, with its name, parameters, types and text."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from functools import wraps
from threading import Lock
from typing import Concatenate, Generic, ParamSpec, TypeVar

from meowcat.blocking.loop import LoopThread
from meowcat.streams import Stream

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")


class Blocking(Generic[A]):
    """Stands for an object of the async API, which lives in a loop of its own."""

    def __init__(self, inner: A) -> None:
        self._inner = inner

    def _loop(self) -> LoopThread:
        """Where calls are carried out. Raises EngineClosed where there is no such loop, yet or any more."""
        raise NotImplementedError

    def _run(self, work: Callable[[], Awaitable[T]], timeout: float | None = None) -> T:
        """The one way into the loop: every blocking call comes through here."""
        return self._loop().run(work, timeout)

    def _do(self, call: Callable[[], T]) -> T:
        async def work() -> T:
            return call()

        return self._run(work)


class Items(Iterator[T]):
    """What a stream brings, fetched when it is asked for; any thread may ask."""

    def __init__(self, owner: Blocking[A], stream: Stream[T]) -> None:
        self._owner = owner  # an engine that is iterated over is in use, and must not be collected
        self._stream = stream
        self._items: deque[T] = deque()
        self._asking = Lock()
        self._fetching = asyncio.Lock()

    def __next__(self) -> T:
        self._owner._loop().refuse_deadlock()  # noqa: SLF001  # one class with its items; before any lock
        with self._asking:
            if not self._items:
                self._owner._run(self._fetch)  # noqa: SLF001  # as above
            if not self._items:
                raise StopIteration
            return self._items.popleft()

    async def _fetch(self) -> None:
        """One item at least, and those that come with it. They are kept here and not returned, so that an
        interruption between the loop and the caller loses none."""
        async with self._fetching:  # an interrupted fetch may still be on its way out
            async for item in self._stream:
                self._items.append(item)
                self._items.extend(self._stream.take_loaded())
                return


def awaited(method: Callable[Concatenate[A, P], Awaitable[T]]) -> Callable[Concatenate[Blocking[A], P], T]:
    """A coroutine function, waited for."""

    @wraps(method)
    def call(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(lambda: method(self._inner, *args, **kwargs))

    return call


def called(method: Callable[Concatenate[A, P], T]) -> Callable[Concatenate[Blocking[A], P], T]:
    """A plain function, called where nothing else happens at the same time."""

    @wraps(method)
    def call(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._do(lambda: method(self._inner, *args, **kwargs))

    return call


def iterated(
    method: Callable[Concatenate[A, P], Stream[T]],
) -> Callable[Concatenate[Blocking[A], P], Iterator[T]]:
    """A stream, as a plain iterator."""

    @wraps(method)
    def call(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return Items(self, self._do(lambda: method(self._inner, *args, **kwargs)))

    return call
