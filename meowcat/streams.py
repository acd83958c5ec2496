"""Async iterators that may be left at any point.

An async generator that a `break` leaves suspended is closed by the garbage collector, if at all: trio warns
of it, and asyncio runs its clean-up in a task of its own. These hold nothing that needs closing.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Stream(AsyncIterator[T], Generic[T]):
    """Calls `step` for each item; it raises StopAsyncIteration at the end."""

    def __init__(self, step: Callable[[], Awaitable[T]], loaded: list[T] | None = None) -> None:
        """`loaded` is where `step` keeps what it has loaded beyond the item it returns, the next one last."""
        self._step = step
        self._loaded = [] if loaded is None else loaded
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if self._ended:
            raise StopAsyncIteration
        try:
            return await self._step()
        except Exception:  # raised again: a stream that has failed does not go on; one that was canceled may
            self._ended = True
            raise

    def take_loaded(self) -> list[T]:
        """The next items as far as they are loaded: for those to whom each step is dear."""
        taken = self._loaded[::-1]
        self._loaded.clear()
        return taken


def batches(load: Callable[[], Awaitable[list[T]]]) -> Stream[T]:
    """The items of the lists that `load` brings; an empty one is the end."""
    loaded: list[T] = []

    async def step() -> T:
        if not loaded:
            loaded.extend(reversed(await load()))
        if not loaded:
            raise StopAsyncIteration
        return loaded.pop()

    return Stream(step, loaded)
