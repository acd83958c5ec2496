"""The current of a simulated machine: every call that does I/O is counted, and one of them may be the last.

Disk, journal and network of a machine share one `Power`, so that "the n-th call" means the n-th of all.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Literal

__all__ = ["Power", "PowerLost", "When"]

When = Literal["before", "after"]
"""Whether the power goes before a call has its effect or after it."""


class PowerLost(BaseException):
    """The machine is off: no handler of failures may take part in it, just as in a real crash."""


class Power:
    """Counts calls, and runs out at the one that it is told; from then on every call raises PowerLost."""

    def __init__(self) -> None:
        self.calls = 0
        """How many were made; the first has the number 1."""
        self.trace: list[str] = []
        self.off = False
        self.told: Callable[[], object] = _nobody
        """Called when the power goes, in whatever thread that happens."""
        self.mutex = RLock()
        self._crash: tuple[int, When] | None = None
        self._failures: dict[int, int] = {}

    def crash_at(self, number: int, when: When) -> None:
        """Run out at the call with this number."""
        self._crash = (number, when)

    def fail_at(self, number: int, error: int) -> None:
        """Let the call with this number fail with this errno."""
        self._failures[number] = error

    def cut(self) -> None:
        """Run out now."""
        self.off = True
        self.told()

    @contextmanager
    def call(self, name: str, *details: object) -> Iterator[None]:
        """One call that does I/O.

        Raises:
            PowerLost: it was the last, or the power was gone before. OSError: as `fail_at` says.
        """
        with self.mutex:
            if self.off:
                raise PowerLost
            self.calls += 1
            number = self.calls
            self.trace.append(f"{number} {name} " + " ".join(str(detail) for detail in details))
            self._run_out_at((number, "before"))
            if number in self._failures:
                error = self._failures[number]
                self.trace[-1] += f" -> {errno.errorcode[error]}"
                raise OSError(error, os.strerror(error), str(details[0]) if details else None)
            try:
                yield
            finally:  # also after a call that was refused
                self._run_out_at((number, "after"))

    def _run_out_at(self, now: tuple[int, When]) -> None:
        if self._crash == now:
            self.trace[-1] += f" -> power lost {now[1]} it"
            self.cut()
            raise PowerLost


def _nobody() -> None:
    """Who is told of the power's loss where nobody asked."""
