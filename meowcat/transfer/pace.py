"""How fast requests are, as far as they have shown. No clock: seconds are given."""

from collections import deque
from collections.abc import Iterable
from statistics import median

from meowcat.core.leases import Usual

__all__ = ["Meter", "Paces"]

WINDOW = 1.0
"""Seconds: a rate is that of the last one or two of them."""

TOO_EARLY = 0.05
"""Seconds of a reply that say nothing about its rate."""

TELLING = 256 << 10
"""Bytes of a reply that say something about its rate, however short it took."""

RECENT = 8
"""Requests by which another one is judged."""


class Meter:
    """Of one request. `at` is where its bytes have come to."""

    def __init__(self, now: float) -> None:
        self.asked = now
        self._began: tuple[float, int] | None = None
        self._marks = (0.0, 0), (0.0, 0)

    def begin(self, now: float, at: int) -> float:
        """The head has come; returns how many seconds it was waited for."""
        self._began = (now, at)
        self._marks = (now, at), (now, at)
        return now - self.asked

    def rate(self, now: float, at: int) -> float | None:
        """Bytes a second, lately; None where it is too early to tell."""
        if self._began is None or now - self._began[0] < TOO_EARLY:
            return None
        earlier, later = self._marks
        if now - later[0] >= WINDOW:
            self._marks = later, (now, at)
        return (at - earlier[1]) / (now - earlier[0])

    def overall(self, now: float, at: int) -> float | None:
        """Bytes a second of all of the reply; None where it was too small to tell."""
        if self._began is None or at - self._began[1] < TELLING or now <= self._began[0]:
            return None
        return (at - self._began[1]) / (now - self._began[0])

    def silent(self, now: float, latency: float) -> bool:
        """Whether its head takes far longer than others did."""
        return self._began is None and now - self.asked > TOO_EARLY + 4 * latency


class Paces:
    """Of the last requests of one download."""

    def __init__(self) -> None:
        self._rates: deque[float] = deque(maxlen=RECENT)
        self._latencies: deque[float] = deque(maxlen=RECENT)

    def waited(self, seconds: float) -> None:
        """The head of a reply has come after so long."""
        self._latencies.append(seconds)

    def ended(self, rate: float | None) -> None:
        """A request is over that had this rate, if it was large enough to have one."""
        if rate:
            self._rates.append(rate)

    @property
    def latency(self) -> float:
        """Seconds that a head is waited for; 0 where nothing is known."""
        return median(self._latencies) if self._latencies else 0.0

    def usual(self, running: Iterable[float | None]) -> Usual | None:
        """What the next request will be like, by these and by those at work, whose rates are given; None
        where nothing is known."""
        rates = [rate for rate in running if rate] + list(self._rates)
        return Usual(median(rates), self.latency) if rates and self._latencies else None
