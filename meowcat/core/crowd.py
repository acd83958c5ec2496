"""How many connections one transfer takes where nobody says: as many as make it faster."""

from collections.abc import Hashable

__all__ = ["FEWEST", "MOST", "Crowd", "Crowds"]

FEWEST, MOST = 4, 16
"""Connections to begin with, and those never exceeded: more would be a burden to a server."""

LOOK = 0.25
"""Seconds over which a rate is measured at least."""

SLOW_START = 6
"""Latencies that a new connection takes until it is up to speed."""

WORTH = 0.5
"""Of what twice as many connections would bring on top, if each was as fast as before: so much must have come
for them to be kept. Of a link that is full they bring a third on top where another transfer has the rest."""

SLOWEST = 15.0
"""Seconds that a part may take for more of them to be tried: if the line is full, each takes twice as long
then, and a break loses twice as much."""

CHANCES = 2
"""Measurements that must speak against them: one may have met a hiccup."""

REST = 5.0
"""Seconds until more are tried again; twice as long each time …"""

TRIALS = 4
"""… and at least so many times as long as it took to find out that they were not worth it."""

REFUSED, LONGEST = 60.0, 3600.0
"""Seconds until more are tried again than a server has refused; twice as long each time, up to an hour."""


class Crowd:
    """Doubles the connections as long as that is worth it, and goes one step back where it was not.

    What comes is counted by the byte, while all connections are at work. What is sent is counted by the part,
    once that has been answered: how much of it has arrived before nobody knows, since it may wait in the
    memory of any machine on its way.
    """

    def __init__(self) -> None:
        self.connections = FEWEST
        self._back = FEWEST
        self._fewer: float | None = None
        """Bytes a second with as few connections as before; None where these are not on trial."""
        self._failures = 0
        self._rest = REST
        self._refused = REFUSED
        self._refused_at = 0.0
        """When the server has said last that it is too much."""
        self._tried = 0.0
        """Since when these are."""
        self._not_before = 0.0
        """When the next measurement may begin."""
        self._began: tuple[float, int] | None = None
        """The instant, and the bytes by then."""
        self._sent: list[tuple[int, float]] = []
        """Bytes and seconds of parts since then."""

    def came(self, now: float, came: int, *, busy: int, latency: float) -> None:
        """At the second `now`, `came` bytes have come in all, and `busy` requests are at work; a head is
        waited for `latency` seconds.
        """
        if busy < self.connections:
            self._began = None
        elif self._began is None:
            self._began = (now, came) if now >= self._not_before else None
        elif now - self._began[0] >= max(LOOK, 2 * latency):
            rate = (came - self._began[1]) / (now - self._began[0])
            self._began = None
            self._judge(rate, now, latency)

    def sent(self, began: float, now: float, size: int, *, limited: bool) -> None:
        """A part of `size` bytes, whose turn it was from the second `began` on, has been answered `now`.
        `limited`: by a rate, which says nothing of the connections.
        """
        if limited:
            self._not_before = max(now, self._not_before)
        elif began >= self._not_before:
            self._sent.append((size, now - began))
            if len(self._sent) >= self.connections:
                sizes, seconds = map(sum, zip(*self._sent, strict=True))
                count, self._sent = len(self._sent), []
                if self._fewer is not None or seconds <= SLOWEST * count:
                    self._judge(self.connections * sizes / max(seconds, 1e-9), now, 0)

    def _judge(self, rate: float, now: float, latency: float) -> None:
        if self._fewer is None or rate >= self._fewer * (1 + WORTH):
            self._failures, self._fewer = 0, None
            if self.connections < MOST:
                self._back, self._fewer, self._tried = self.connections, rate, now
                self.connections = min(MOST, self.connections * 2)
                self._not_before = now + SLOW_START * latency
            return
        self._failures += 1
        if self._failures == CHANCES:
            self.connections, self._failures, self._fewer = self._back, 0, None
            self._not_before = now + max(self._rest, TRIALS * (now - self._tried))
            self._rest *= 2

    def refuse(self, began: float, now: float) -> None:
        """To a request that began at the second `began` the server says `now` that it is too much: which says
        nothing new where it has said so since then."""
        if began < self._refused_at:
            return
        self._refused_at = now
        self.connections = max(1, self.connections // 2)
        self._fewer, self._began, self._sent = None, None, []
        self._not_before = now + self._refused
        self._refused = min(LONGEST, self._refused * 2)


class Crowds:
    """Those of tasks, from one of their operations to the next: one that has to wait for a server that
    refuses may end, and another goes on for it."""

    def __init__(self) -> None:
        self._crowds: dict[str, tuple[Hashable, Crowd]] = {}

    def of(self, task: str, stamp: Hashable) -> Crowd:
        """That of the task, as long as the `stamp` of its work is the same: whoever goes on after a pause may
        do so in another place."""
        known = self._crowds.get(task)
        if known is None or known[0] != stamp:
            known = self._crowds[task] = stamp, Crowd()
        return known[1]

    def forget(self, task: str) -> None:
        self._crowds.pop(task, None)
