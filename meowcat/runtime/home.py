"""A task of the engine's own, in which what an engine holds open is entered and left.

Cancel scopes and task groups must be left by the task that entered them. An application opens and closes an
engine from where it likes (a start-up and a shutdown hook, another thread's call), so neither of these
enters anything: the home does, and waits in between.
"""

import asyncio
import contextvars
import logging
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import anyio

from meowcat.runtime.forks import leave_to_parent
from meowcat.transfer.signal import on_trio

log = logging.getLogger("meowcat.engine")


class Home:
    """Runs `enter` with a stack, and leaves the stack when it is closed, both in one task of its own."""

    def __init__(self, enter: Callable[[AsyncExitStack], Awaitable[None]]) -> None:
        self._enter = enter
        self._scope = anyio.CancelScope()
        self._opened = anyio.Event()
        self._closing = anyio.Event()
        self._over = anyio.Event()
        self._failure: Exception | None = None
        self._task: object = None
        """Held: asyncio itself keeps tasks by weak references only."""

    async def open(self) -> None:
        """Return once all is entered. Where that fails, or is canceled, nothing stays open.

        Raises:
            Exception: what `enter` raised.
        """
        self._task = _spawn(self._live)
        leave_to_parent(self)
        try:
            await self._opened.wait()
        except BaseException:  # raised again: whoever gives up an opening leaves nothing behind
            self._scope.cancel()
            await self._see_the_end()
            raise
        self._raise_failure()

    async def close(self) -> None:
        """Leave what was entered, and return once it is over; also for those who call it a second time."""
        self._closing.set()
        await self._see_the_end()
        self._raise_failure()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None  # told once
        if failure is not None:
            raise failure

    async def _see_the_end(self) -> None:
        canceled: BaseException | None = None
        with anyio.CancelScope(shield=True):
            while not self._over.is_set():
                try:
                    await self._over.wait()
                except anyio.get_cancelled_exc_class() as error:
                    canceled = error  # asyncio's own cancel pierces the shield
        if canceled is not None:
            raise canceled

    async def _live(self) -> None:
        try:
            with self._scope:
                await self._enter_and_leave()
        except Exception as error:  # raised again by whoever opens or closes
            if self._opened.is_set() and not self._closing.is_set():
                log.exception("the engine broke; close it, and open a new one")
            self._failure = error
        finally:
            self._opened.set()
            self._over.set()

    async def _enter_and_leave(self) -> None:
        stack = AsyncExitStack()
        try:
            await self._enter(stack)
            self._opened.set()
            await self._closing.wait()
        finally:  # not as a context: a task group would wrap the error of an opening
            await stack.aclose()


def _spawn(live: Callable[[], Awaitable[None]]) -> object:
    """Start a task that belongs to nobody's task group; it ends with the loop at the latest."""
    if on_trio():
        spawn = sys.modules["trio"].lowlevel.spawn_system_task
        return spawn(live, name="meowcat", context=contextvars.copy_context())
    task: asyncio.Task[None] = asyncio.get_running_loop().create_task(live(), name="meowcat")  # type: ignore[arg-type]  # a coroutine
    task.add_done_callback(_heed)
    return task


def _heed(task: "asyncio.Task[None]") -> None:
    """Look at what ended the task. Failures were told to whoever waits; of what is none (a simulated world's
    loss of power), asyncio would complain at some later time, out of the garbage collector."""
    if not task.cancelled():
        task.exception()
