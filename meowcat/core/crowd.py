"""How many connections one download takes where nobody says: as many as make it faster."""

__all__ = ["FEWEST", "MOST", "Crowd"]

FEWEST, MOST = 4, 16
"""Connections to begin with, and those never exceeded: more would be a burden to a server."""

LOOK = 0.25
"""Seconds over which a rate is measured at least."""

SLOW_START = 6
"""Latencies that a new connection takes until it is up to speed."""

WORTH = 0.3
"""Of what twice as many connections would bring on top, if each was as fast as before: so much must have come
for them to be kept."""

CHANCES = 2
"""Measurements that must speak against them: one may have met a hiccup."""

REST = 5.0
"""Seconds until more are tried again; twice as long each time."""


class Crowd:
    """Doubles the connections as long as that is worth it, and goes one step back where it was not.

    Only times count in which all connections were at work.
    """

    def __init__(self) -> None:
        self.connections = FEWEST
        self._most = MOST
        self._back = FEWEST
        self._fewer: float | None = None
        """Bytes a second with as few connections as before; None where these are not on trial."""
        self._failures = 0
        self._rest = REST
        self._not_before = 0.0
        """When the next measurement may begin."""
        self._began: tuple[float, int] | None = None
        """The instant, and the bytes by then."""

    def note(self, now: float, came: int, *, busy: int, latency: float) -> None:
        """At the second `now`, `came` bytes have come in all, and `busy` requests are at work; a head is
        waited for `latency` seconds.
        """
        if busy < self.connections:
            self._began = None
        elif self._began is None:
            self._began = (now, came) if now >= self._not_before else None
        elif now - self._began[0] >= max(LOOK, 2 * latency):
            rate = (came - self._began[1]) / (now - self._began[0])
            self._began, self._not_before = None, now
            self._judge(rate, now, latency)

    def _judge(self, rate: float, now: float, latency: float) -> None:
        if self._fewer is None or rate >= self._fewer * (1 + WORTH):
            self._failures, self._fewer = 0, None
            if self.connections < self._most:
                self._back, self._fewer = self.connections, rate
                self.connections = min(self._most, self.connections * 2)
                self._not_before = now + SLOW_START * latency
            else:
                self._not_before = float("inf")
            return
        self._failures += 1
        if self._failures == CHANCES:
            self.connections, self._failures, self._fewer = self._back, 0, None
            self._not_before, self._rest = now + self._rest, self._rest * 2

    def refuse(self) -> None:
        """The server said that it is too much: fewer from now on, for good."""
        self.connections = self._most = max(1, self.connections // 2)
        self._failures, self._fewer = 0, None
