"""What one coroutine waits for: an event of anyio, which any number may wait for, costs five times that."""

import asyncio
import sys

import anyio

__all__ = ["Signal", "on_trio"]


class Signal:
    """Set once, waited for by one."""

    __slots__ = ("_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | anyio.Event | None = None

    def set(self) -> None:
        self._is_set = True
        waiter = self._waiter
        if isinstance(waiter, anyio.Event):
            waiter.set()
        elif waiter is not None and not waiter.done():  # done: canceled
            waiter.set_result(None)

    async def wait(self) -> None:
        """Until it is set; at once where it is."""
        if self._is_set:
            return
        if on_trio():
            self._waiter = event = anyio.Event()
            await event.wait()
        else:
            self._waiter = future = asyncio.get_running_loop().create_future()
            await future


def on_trio() -> bool:
    """Whether it is trio that runs here, and not asyncio."""
    trio = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_run()
