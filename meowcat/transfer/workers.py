"""Where blocking calls are made: in worker threads, so that the event loop never waits for a disk."""

from collections.abc import Callable
from typing import TypeVar

import anyio

from meowcat.transfer.threads import in_thread

__all__ = ["Workers"]

T = TypeVar("T")


class Workers:
    """Worker threads. A simulation puts others in their place, which have none."""

    threaded = True
    """Whether there are threads at all; if not, what has a thread of its own runs on the loop as well."""

    async def run(self, call: Callable[[], T], limiter: anyio.CapacityLimiter) -> T:
        """Make a blocking call and wait for it, also when canceled in between.

        `limiter` bounds how many run at once, and is never the common one of anyio: the application may use
        that one up.
        """
        return await in_thread(call, limiter=limiter)
