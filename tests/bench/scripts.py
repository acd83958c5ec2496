"""Runs one client that is written in Python, in a process of its own.

    python -m tests.bench.scripts MODULE:FUNCTION JOB

The function gets its job and a `Clock`; it imports and opens what it needs, and does the work inside
`with clock:`. What it leaves in `clock.figures` is printed as one line of JSON.
"""

import importlib
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from .stopwatch import make_durable


class Clock:
    """Seconds and CPU seconds, children's included, of what is done inside; with a sync of what the job says,
    where a client by itself syncs nothing and is compared with one that does."""

    def __init__(self, sync: str | None) -> None:
        self.figures: dict[str, Any] = {}
        self._sync = sync

    def __enter__(self) -> Self:
        self._began, self._cpu = time.perf_counter(), cpu_seconds()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._sync:
            make_durable(self._sync)
        self.figures |= {"seconds": time.perf_counter() - self._began, "cpu_s": cpu_seconds() - self._cpu}


def in_threads(count: int, call: Callable[[], None]) -> None:
    """Call it in so many threads at once, and wait for all of them."""
    threads = [threading.Thread(target=call) for _ in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def cpu_seconds() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in spent)


def main() -> None:
    where, job = sys.argv[1], json.loads(sys.argv[2])
    module, _, function = where.partition(":")
    clock = Clock(job.get("sync"))
    getattr(importlib.import_module(f"tests.bench.{module}"), function)(job, clock)
    print(json.dumps(clock.figures), flush=True)
    os._exit(0)  # threads of a client that still let go of something abort a process that ends at that moment


if __name__ == "__main__":
    main()
