"""Who may work: slots per direction and per host, by priority, first come first served within one.

No I/O and no clock of its own: the dispatcher asks, gives back, and says what time it is.
"""

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count

from msgspec import Struct

from meowcat.core.retry import FREE, HostHold, hold, may_start, probe_over
from meowcat.core.transfers import Direction
from meowcat.core.values import TaskId


class Demand(Struct, frozen=True, gc=False):
    """What the scheduler needs to know of a task that wants a slot."""

    task: TaskId
    direction: Direction
    host: str
    priority: int
    order: int
    """First come, first served: the position of the task's first record."""

    @property
    def rank(self) -> tuple[int, int]:
        return (-self.priority, self.order)


class _Held(Struct):
    """A host that asked to be left alone, or can't be reached."""

    hold: HostHold
    probe: TaskId | None = None
    """The one task that may try first."""


class Scheduler:
    """Slots. `granted` is called for each grant, never from inside `request`."""

    def __init__(
        self, slots: dict[Direction, int], per_host: int | None, granted: Callable[[TaskId], None]
    ) -> None:
        self._slots = slots
        self._per_host = per_host
        self._granted = granted
        self._waiting: dict[Direction, list[tuple[tuple[int, int], int, Demand]]] = {
            each: [] for each in slots
        }
        self._serial = count()
        self._wanting: dict[TaskId, Demand] = {}
        self._holding: dict[TaskId, Demand] = {}
        self._busy: dict[Direction, int] = dict.fromkeys(slots, 0)
        self._hosts: dict[str, int] = {}
        self._holds: dict[str, _Held] = {}

    def request(self, demand: Demand) -> None:
        """Stand in line; a task that stands there, or has a slot, does so once only."""
        if demand.task in self._wanting or demand.task in self._holding:
            return
        self._wanting[demand.task] = demand
        heappush(self._waiting[demand.direction], (demand.rank, next(self._serial), demand))

    def withdraw(self, task: TaskId) -> None:
        """Leave the line, or give the slot back."""
        self._wanting.pop(task, None)  # its place in the heap is passed over when it comes up
        for held in self._holds.values():
            if held.probe == task:
                held.hold, held.probe = probe_over(held.hold, answered=False), None
        demand = self._holding.pop(task, None)
        if demand is None:
            return
        self._busy[demand.direction] -= 1
        self._hosts[demand.host] -= 1
        if not self._hosts[demand.host]:
            del self._hosts[demand.host]

    def holds_slot(self, task: TaskId) -> bool:
        return task in self._holding

    def hold_host(self, host: str, until: int) -> None:
        """No request to `host` before `until` (monotonic ms), and then one task's first."""
        known = self._holds.get(host)
        self._holds[host] = _Held(hold(known.hold if known else FREE, until))

    def release_host(self, host: str, task: TaskId, now: int) -> bool:
        """The host has answered `task`: everybody may, unless that request was from before the hold.

        Returns:
            Whether the host was held and is free now.
        """
        held = self._holds.get(host)
        if held is None or (held.probe != task and now < (held.hold.until or 0)):
            return False
        del self._holds[host]
        return True

    def is_held(self, host: str) -> bool:
        """Whether the host is left alone, or tried by one task only."""
        return host in self._holds

    def may_send(self, task: TaskId, host: str, now: int) -> bool:
        """Whether the task may start a request to its host at `now` (monotonic ms)."""
        held = self._holds.get(host)
        if held is None or held.probe == task:
            return True
        start = may_start(held.hold, now)
        held.hold = start.hold
        if start.probe:
            held.probe = task
        return start.allowed

    def grant(self, now: int) -> None:
        """Hand out what is free to who is first in line."""
        for direction in self._slots:
            for demand in list(self._eligible(direction, now)):
                self._granted(demand.task)

    def _eligible(self, direction: Direction, now: int) -> Iterator[Demand]:
        """Take from the line whom a slot can be given to; who must wait for a host keeps its place."""
        line, kept = self._waiting[direction], []
        while line and self._busy[direction] < self._slots[direction]:
            place = heappop(line)
            demand = place[2]
            if self._wanting.get(demand.task) is not demand:
                continue  # withdrawn
            if not self._has_room(demand, now):
                kept.append(place)
                continue
            del self._wanting[demand.task]
            self._holding[demand.task] = demand
            self._busy[direction] += 1
            self._hosts[demand.host] = self._hosts.get(demand.host, 0) + 1
            yield demand
        if kept:
            line.extend(kept)
            heapify(line)

    def _has_room(self, demand: Demand, now: int) -> bool:
        if self._per_host is not None and self._hosts.get(demand.host, 0) >= self._per_host:
            return False
        return self.may_send(demand.task, demand.host, now)

    def counts(self, direction: Direction) -> tuple[int, int]:
        """Tasks with a slot, and tasks in line."""
        return self._busy[direction], sum(d.direction == direction for d in self._wanting.values())
