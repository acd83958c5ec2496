"""What one reply may take of a limited network."""

from meowcat.transfer.context import Throttle

__all__ = ["Allowance"]

FIRST, LEAST = 16 << 10, 4 << 10
"""Bytes that are asked for at first, and at least."""


class Allowance:
    """Bytes are asked for before they come: many connections that asked afterwards would have taken each its
    share first. What has not come of them is kept for the next read, and given back at the end.

    Used by one coroutine or thread, but for `end`.
    """

    def __init__(self, throttle: Throttle) -> None:
        self._throttle = throttle
        self._size = FIRST
        """Bytes to read at once: little more than what came last, so that little is asked for in vain."""
        self._held = 0

    def size(self, most: int) -> int:
        """How many bytes to read next, of at most `most`; fewer where the rate is limited, so that they come
        evenly."""
        rate = self._throttle.rate
        return most if rate is None else min(most, self._size, max(LEAST, rate // 8))

    def asks(self, size: int) -> int:
        """How many bytes have to be asked for, so that `size` may come."""
        missing = max(0, size - self._held)
        if self._throttle.rate is not None:
            self._held += missing
        return missing

    def took(self, size: int, count: int) -> None:
        """Of `size` bytes, `count` have come."""
        self._held = max(0, self._held - count)
        self._size = self._size * 5 // 4 if count >= size else max(LEAST, min(self._size, count))

    def end(self) -> None:
        """No more is read."""
        held, self._held = self._held, 0
        if held:
            self._throttle.give_back(held)
