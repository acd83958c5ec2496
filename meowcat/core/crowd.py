"""How many connections a transfer takes where nobody says: as many as make it faster."""

from collections.abc import Mapping
from itertools import count
from typing import Protocol

__all__ = ["FEWEST", "MOST", "Crowd", "Crowds", "Flow"]

FEWEST, MOST = 4, 16
"""Connections to begin with, and those never exceeded: more would be a burden to a server."""

LOOK = 0.25
"""Seconds over which a rate is measured at least."""

SLOW_START = 6
"""Latencies that a new connection takes until it is up to speed."""

WORTH = 0.5
"""Of what twice as many connections would bring on top, if each was as fast as before: so much must have come
for them to be kept."""

SLOWEST = 15.0
"""Seconds that a part may take for more of them to be tried: if the line is full, each takes twice as long
then, and a break loses twice as much."""

CHANCES = 2
"""Measurements that must speak against them: one may have met a hiccup."""

PARTS = 3
"""Times as long as the longest part takes, for which parts count: by then each transfer that goes on has
brought as many as it has connections, and what is left is of those that have ended."""

SETTLES = 2.0
"""Seconds until the next trial after one that said nothing, since others began or ended meanwhile."""

FILLS = 10.0
"""Seconds in which all connections must be at work once in a trial."""

REST = 5.0
"""Seconds until more are tried again; twice as long each time …"""

TRIALS = 4
"""… and at least so many times as long as it took to find out that they were not worth it."""

REFUSED, LONGEST = 60.0, 3600.0
"""Seconds until more are tried again than a server has refused; twice as long each time, up to an hour."""

LASTS = 600.0
"""Seconds for which what was found out holds for those that begin."""

KNOWN = 256
"""Hosts that are remembered."""

_NUMBERS = count()
"""Of flows: none is another one's later."""


class Flow(Protocol):
    """A download at work."""

    @property
    def came(self) -> int:
        """Bytes, in all."""

    @property
    def hungry(self) -> bool:
        """Whether all of its connections are at work, and nothing but them bounds its rate."""

    @property
    def latency(self) -> float:
        """Seconds until a head comes."""


class Crowd:
    """The connections of each transfer with one host. Doubles them as long as that is worth it, and goes one
    step back where it was not.

    What comes is counted by the byte, while all connections are at work, and over all downloads: where the
    line is full, those of this host only take what others would have had. What is sent is counted by the
    part, once that has been answered: how much of it has arrived before nobody knows, since it may wait in
    the memory of any machine on its way.

    Args:
        now: seconds, as for all that follows.
        flows: all downloads at work, and whose number of connections they have.

    """

    def __init__(self, now: float = 0.0, flows: "dict[int, tuple[Flow, Crowd | None]] | None" = None) -> None:
        self.connections = FEWEST
        self._made = now
        self._flows = {} if flows is None else flows
        self._back = FEWEST
        self._fewer: tuple[float, float] | None = None
        """Bytes a second with as few connections as before, over all and of this host; None where these are
        not on trial."""
        self._crew: frozenset[int | str] = frozenset()
        """Whose they were: nobody may begin or end in a trial."""
        self._failures = 0
        self._rest = REST
        self._refused = REFUSED
        self._refused_at = 0.0
        """When the server has said last that it is too much."""
        self._tried = 0.0
        """Since when these are."""
        self._not_before = 0.0
        """When the next measurement may begin."""
        self._looked = -LOOK
        self._began: tuple[float, dict[int, int]] | None = None
        """The instant, and the bytes of each by then."""
        self._sent: list[tuple[str, int, float, float]] = []
        """Transfer, bytes and seconds of parts since then, and when they were answered."""

    def holds(self, now: float) -> bool:
        """Whether what was found out is of use for a transfer that begins now."""
        refused = self._refused > REFUSED and now < self._not_before
        return refused or now < self._made + LASTS

    def join(self, flow: Flow, *, follows: bool = True) -> int:
        """A download is at work from now on; a number for `leave`. `follows`: it has as many connections as
        is said here."""
        number = next(_NUMBERS)
        self._flows[number] = flow, self if follows else None
        return number

    def leave(self, number: int) -> None:
        del self._flows[number]

    def look(self, now: float) -> None:
        """Measure what comes."""
        if now - self._looked < LOOK / 2:
            return  # for another download, just now
        self._looked = now
        hungry = {number: flow for number, (flow, _) in self._flows.items() if flow.hungry}
        mine = [flow for number, flow in hungry.items() if self._flows[number][1] is self]
        if self._fewer is not None and hungry.keys() != self._crew:
            self._began = None
            filling = hungry.keys() <= self._crew <= self._flows.keys() and now - self._tried < FILLS
            if not filling:
                self._call_off(now)
        elif not mine or now < self._not_before:
            self._began = None
        elif self._began is None or self._began[1].keys() != hungry.keys():
            self._began = now, {number: flow.came for number, flow in hungry.items()}
        else:
            seconds, latency = now - self._began[0], max(flow.latency for flow in mine)
            if seconds >= max(LOOK, 2 * latency):
                self._conclude(self._began[1], hungry, seconds, now, latency)

    def _conclude(
        self, before: Mapping[int, int], flows: Mapping[int, Flow], seconds: float, now: float, latency: float
    ) -> None:
        rates = {number: (flow.came - before[number]) / seconds for number, flow in flows.items()}
        own = sum(rate for number, rate in rates.items() if self._flows[number][1] is self)
        self._began, self._crew = None, frozenset(flows)
        self._judge(sum(rates.values()), own, now, latency)

    def sent(self, task: str, began: float, now: float, size: int, *, limited: bool) -> None:
        """A part of `size` bytes, whose turn it was from the second `began` on, has been answered `now`.
        `limited`: by a rate, which says nothing of the connections.
        """
        if limited:
            self._not_before = max(now, self._not_before)
            return
        if began < self._not_before:
            return
        if self._fewer is not None and task not in self._crew:
            self._call_off(now)
            return
        self._sent.append((task, size, now - began, now))
        since = now - PARTS * max(seconds for _, _, seconds, _ in self._sent)
        self._sent = [each for each in self._sent if each[3] >= since]
        crew = frozenset(task for task, *_ in self._sent)
        if len(self._sent) < self.connections * len(crew):
            return
        parts, self._sent = self._sent, []
        seconds = sum(seconds for _, _, seconds, _ in parts)
        if self._fewer is not None and crew != self._crew:
            self._call_off(now)
        elif self._fewer is not None or seconds <= SLOWEST * len(parts):
            self._crew = crew
            rate = self.connections * sum(size for _, size, *_ in parts) / max(seconds, 1e-9)
            self._judge(rate, rate, now, 0)

    def _judge(self, rate: float, own: float, now: float, latency: float) -> None:
        if self._fewer is None or rate - self._fewer[0] >= WORTH * self._fewer[1]:
            self._failures, self._fewer = 0, None
            if self.connections < MOST:
                self._back, self._fewer, self._tried = self.connections, (rate, own), now
                self.connections = min(MOST, self.connections * 2)
                self._not_before = now + SLOW_START * latency
            return
        self._failures += 1
        if self._failures == CHANCES:
            self._go_back()
            self._not_before = now + max(self._rest, TRIALS * (now - self._tried))
            self._rest *= 2

    def _call_off(self, now: float) -> None:
        self._go_back()
        self._not_before = now + SETTLES

    def _go_back(self) -> None:
        self.connections, self._failures, self._fewer = self._back, 0, None
        self._began, self._sent = None, []

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
    """Those of all hosts: what one transfer has found out is there for the next one."""

    def __init__(self) -> None:
        self._crowds: dict[str, Crowd] = {}
        self._flows: dict[int, tuple[Flow, Crowd | None]] = {}

    def of(self, host: str, now: float) -> Crowd:
        """That of a host, for a transfer that begins."""
        known = self._crowds.pop(host, None)
        if known is None or not known.holds(now):
            known = Crowd(now, self._flows)
        self._crowds[host] = known  # behind those that were asked for before
        if len(self._crowds) > KNOWN:
            del self._crowds[next(iter(self._crowds))]
        return known
