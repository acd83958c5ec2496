"""Blocking calls in threads, also while the interpreter ends and starts no threads any more.

An engine that was never closed is closed at the interpreter's exit, by exit handlers, when Python 3.12 and
later may refuse to start a thread. What is being closed must not fail for that: a task would be recorded as
Failed because its program came to an end.
"""

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import anyio
import anyio.to_thread

A = TypeVarTuple("A")
T = TypeVar("T")


async def in_thread(
    call: Callable[[*A], T], *arguments: *A, limiter: anyio.CapacityLimiter | None = None
) -> T:
    """Call it in a thread and wait for it, also when canceled in between. While the interpreter ends, call it
    here: the loop has nothing better to do then."""
    begun = False

    def begin() -> T:
        nonlocal begun
        begun = True
        return call(*arguments)

    try:
        return await anyio.to_thread.run_sync(begin, limiter=limiter)
    except RuntimeError as error:
        if begun or not _is_the_end(error):
            raise
    return call(*arguments)


async def serve_in_thread(call: Callable[[*A], None], *arguments: *A) -> None:
    """Give `call`, which goes on until it is told to end, a thread besides those that the application shares.
    While the interpreter ends it never begins, and this waits to be canceled: a close follows."""
    begun = False

    def begin() -> None:
        nonlocal begun
        begun = True
        call(*arguments)

    try:
        await anyio.to_thread.run_sync(begin, limiter=anyio.CapacityLimiter(1))
    except RuntimeError as error:
        if begun or not _is_the_end(error):
            raise
        await anyio.sleep_forever()


def _is_the_end(error: RuntimeError) -> bool:
    """Whether threading says so: a PythonFinalizationError where there is one, and by its words before."""
    return "interpreter shutdown" in str(error)
