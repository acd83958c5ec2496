"""Who may work: slots per direction and per host, by priority, first come first served within one.

Each host has a line of its own, and only the heads of those lines that could move on are compared. So a grant
costs the logarithm of what is in line, and a host that is full, held back or silent costs the others nothing:
it is set aside, and looked at again when something has changed there.

No I/O and no clock of its own: the reconciler asks, gives back, and says what time it is.
"""

from collections.abc import Callable, Iterator, Mapping
from heapq import heapify, heappop, heappush

from msgspec import Struct

from meowcat.core.retry import FREE, HostHold, hold, may_start, probe_over
from meowcat.core.transfers import Direction
from meowcat.core.values import TaskId

LEFT_OVERS = 64
"""Places of those who left that a line may have, beyond as many as are still in it."""


REMEMBERED_MS = 60_000
"""Milliseconds after the end of a hold until a host is forgotten that nobody has to do with any more: those
that waited for it have come by then."""


class Demand(Struct, order=True, gc=False):
    """What the scheduler needs to know of a task that wants a slot: its place in a line, which never changes.

    The lesser of two goes first. So a demand is its own place in a heap, for the sake of memory.
    """

    rank: int
    """The priority, negated: the higher one goes first."""
    order: int
    """First come, first served: no two tasks have the same one."""
    task: TaskId
    direction: Direction
    host: str


class _Line:
    """The tasks of one direction that wait for one host."""

    __slots__ = ("length", "listed", "places")

    def __init__(self) -> None:
        self.places: list[Demand] = []
        """A heap; who has left is passed over when it comes up."""
        self.length = 0
        """How many are really in it."""
        self.listed: Demand | None = None
        """Whose rank stands for the line among the other hosts' lines; None while the host is set aside."""


class _Host:
    """Everything that is known of a host that tasks wait for or work on, or that asked to be left alone."""

    __slots__ = ("aside", "at_work", "hold", "lines", "look", "probe", "silent")

    def __init__(self, directions: Mapping[Direction, object]) -> None:
        self.lines: dict[Direction, _Line] = {each: _Line() for each in directions}
        self.at_work: dict[TaskId, Demand] = {}
        self.silent: set[TaskId] = set()
        """Of those at work, the ones to which nothing comes."""
        self.hold: HostHold | None = None
        """What it asked for, or what not reaching it has led to."""
        self.look: int | None = None
        """When it is next seen whether what it asked for can be forgotten."""
        self.probe: TaskId | None = None
        """The one task that may try first."""
        self.aside = False
        """Whether nobody can be let in now: it is not looked at before something changes."""

    @property
    def forgotten(self) -> bool:
        """Whether there is nothing to remember of it."""
        return self.hold is None and not self.busy

    @property
    def busy(self) -> bool:
        """Whether tasks work on it, or are in line for it."""
        return bool(self.at_work) or any(line.length for line in self.lines.values())


class Scheduler:
    """Slots. `granted` is called for each grant, never from inside `request`.

    Args:
        slots: tasks at work at once, by direction.
        per_host: tasks at work at once on one host; None = no bound.
        granted: told of each grant.
        window: how many tasks may be at work on a host for now, besides; None = no bound.
    """

    def __init__(
        self,
        slots: Mapping[Direction, int],
        per_host: int | None,
        granted: Callable[[TaskId], None],
        window: Callable[[str], int | None] = lambda _: None,
    ) -> None:
        self._slots = slots
        self._per_host = per_host
        self._granted = granted
        self._window = window
        self._heads: dict[Direction, list[tuple[Demand, str]]] = {each: [] for each in slots}
        """A heap of the first of each line; one that its line has not `listed` is passed over."""
        self._hosts: dict[str, _Host] = {}
        self._in_line: dict[TaskId, Demand] = {}
        self._at_work: dict[TaskId, Demand] = {}
        self._probing: dict[TaskId, str] = {}
        self._untried: list[str] = []
        """See `untried`."""
        self._stalled: set[str] = set()
        """Hosts that let all of their tasks wait when something last came from them, or nothing."""
        self._lengths: dict[Direction, int] = dict.fromkeys(slots, 0)
        self._busy: dict[Direction, int] = dict.fromkeys(slots, 0)
        self._lent: dict[Direction, int] = dict.fromkeys(slots, 0)
        self._ends: list[tuple[int, str]] = []
        """A heap of when holds end; one that was made longer is looked at once more."""

    # The line

    def request(self, demand: Demand) -> None:
        """Stand in line; a task that stands there does so once only, at the place of its newest demand, and
        one that has a slot keeps it."""
        at_work = self._at_work.get(demand.task)
        if at_work is not None:
            if at_work.host != demand.host:  # its URL was replaced meanwhile
                self._end_probe(demand.task)
                self._stop(at_work)
                self._begin(demand)
            return
        known = self._in_line.get(demand.task)
        if known is demand:
            return
        if known is not None:
            self._leave(known)
        host = self._host(demand.host)
        line = host.lines[demand.direction]
        self._in_line[demand.task] = demand
        self._lengths[demand.direction] += 1
        line.length += 1
        heappush(line.places, demand)
        if not host.aside and (line.listed is None or demand < line.listed):
            self._list(demand.host, line, demand)

    def withdraw(self, task: TaskId) -> None:
        """Leave the line, or give the slot back."""
        self._end_probe(task)
        waiting = self._in_line.get(task)
        if waiting is not None:
            self._leave(waiting)
        at_work = self._at_work.get(task)
        if at_work is not None:
            self._stop(at_work)

    def _end_probe(self, task: TaskId) -> None:
        """Where the task was to try a held host, somebody else may."""
        probed = self._probing.pop(task, None)
        if probed is not None:
            host = self._hosts[probed]
            assert host.hold is not None  # noqa: S101  # only what is held is probed
            host.hold, host.probe = probe_over(host.hold, answered=False), None
            self._untried.append(probed)
            self._look_again(probed)

    def _leave(self, demand: Demand) -> None:
        """Out of the line; its place in the heap is passed over when it comes up."""
        del self._in_line[demand.task]
        self._lengths[demand.direction] -= 1
        host = self._hosts[demand.host]
        line = host.lines[demand.direction]
        line.length -= 1
        if len(line.places) > 2 * line.length + LEFT_OVERS:
            line.places = [each for each in line.places if self._in_line.get(each.task) is each]
            heapify(line.places)
        self._forget(demand.host, host)

    def _begin(self, demand: Demand) -> None:
        self._at_work[demand.task] = self._host(demand.host).at_work[demand.task] = demand
        self._busy[demand.direction] += 1

    def _stop(self, demand: Demand) -> None:
        host = self._hosts[demand.host]
        if demand.task in host.silent:
            self._speak(demand, host)
        del self._at_work[demand.task], host.at_work[demand.task]
        self._busy[demand.direction] -= 1
        self._look_again(demand.host)
        self._forget(demand.host, host)

    def _host(self, name: str) -> _Host:
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host(self._slots)
        return host

    def _forget(self, name: str, host: _Host) -> None:
        if host.forgotten:
            del self._hosts[name]

    # Grants

    def grant(self, now: int) -> None:
        """Hand out what is free to who is first in line."""
        while self._ends and self._ends[0][0] <= now:
            self._end_hold(*heappop(self._ends))
        for direction, heads in self._heads.items():
            if heads:
                for demand in list(self._eligible(direction, now)):
                    self._granted(demand.task)

    def _end_hold(self, at: int, name: str) -> None:
        """A hold has ended at `at`, or it is to be seen whether anybody still has to do with the host."""
        self._look_again(name)
        host = self._hosts.get(name)
        if host is None or host.hold is None or at not in (host.hold.until, host.look):
            return  # it was made longer since
        if at == host.look and not host.busy:
            host.hold = None
            self._forget(name, host)
        else:
            host.look = at + REMEMBERED_MS
            heappush(self._ends, (host.look, name))

    def _eligible(self, direction: Direction, now: int) -> Iterator[Demand]:
        """Take from the lines whom a slot can be given to."""
        heads = self._heads[direction]
        while heads and self._has_slot(direction):
            first, name = heappop(heads)
            host = self._hosts.get(name)
            if host is None or host.lines[direction].listed is not first:
                continue  # of before
            line = host.lines[direction]
            line.listed = None
            demand = self._first(line)
            if demand is None:
                continue
            if demand is not first:  # that one has left
                self._list(name, line, demand)
                continue
            if not self._has_room(host, demand, now):
                self._set_aside(host)
                continue
            heappop(line.places)
            self._begin(demand)
            self._leave(demand)
            following = self._first(line)
            if following is not None:
                self._list(name, line, following)
            yield demand

    def _has_slot(self, direction: Direction) -> bool:
        """Whether a slot is free. Those of silent tasks count as free, but at most as many as there are."""
        slots = self._slots[direction]
        return self._busy[direction] - min(self._lent[direction], slots) < slots

    def _first(self, line: _Line) -> Demand | None:
        """The first who is still in line."""
        places = line.places
        while places and self._in_line.get(places[0].task) is not places[0]:
            heappop(places)
        return places[0] if places else None

    def _list(self, name: str, line: _Line, demand: Demand) -> None:
        line.listed = demand
        heappush(self._heads[demand.direction], (demand, name))

    def _set_aside(self, host: _Host) -> None:
        host.aside = True
        for line in host.lines.values():
            line.listed = None

    def _look_again(self, name: str) -> None:
        """Something has changed at the host: somebody may be let in."""
        host = self._hosts.get(name)
        if host is None or not host.aside:
            return
        host.aside = False
        for line in host.lines.values():
            first = self._first(line)
            if first is not None:
                self._list(name, line, first)

    def _has_room(self, host: _Host, demand: Demand, now: int) -> bool:
        count, window = len(host.at_work), self._window(demand.host)
        full = (
            (self._per_host is not None and count >= self._per_host)
            or (window is not None and count >= window)
            or (count >= 1 and demand.host in self._stalled)
        )
        return not full and (host.hold is None or self.may_send(demand.task, demand.host, now))

    def holds_slot(self, task: TaskId) -> bool:
        return task in self._at_work

    def at_work(self, host: str) -> tuple[TaskId, ...]:
        """The tasks that have a slot and work on the host."""
        known = self._hosts.get(host)
        return () if known is None else tuple(known.at_work)

    @property
    def working(self) -> tuple[TaskId, ...]:
        """The tasks that have a slot."""
        return tuple(self._at_work)

    @property
    def crowded(self) -> bool:
        """Whether anybody waits for a slot while others have one."""
        return bool(self._in_line) and bool(self._at_work)

    @property
    def lends(self) -> bool:
        """Whether any slot counts as free because nothing comes to who has it."""
        return any(self._lent.values())

    def counts(self, direction: Direction) -> tuple[int, int]:
        """Tasks with a slot, and tasks in line."""
        return self._busy[direction], self._lengths[direction]

    # Hosts

    def widened(self, host: str) -> None:
        """The host's window is larger now."""
        self._look_again(host)

    def note_silent(self, task: TaskId, *, silent: bool) -> None:
        """Whether nothing has come to the task for a while: then somebody else has its slot meanwhile.

        A host from which nothing comes to any task gets one at a time from then on, until `brought`.
        """
        demand = self._at_work.get(task)
        if demand is None:
            return
        host = self._hosts[demand.host]
        if silent and task not in host.silent:
            host.silent.add(task)
            self._lent[demand.direction] += 1
            if len(host.silent) == len(host.at_work):
                self._stalled.add(demand.host)
        elif not silent and task in host.silent:
            self._speak(demand, host)
            self.brought(demand.host)

    def _speak(self, demand: Demand, host: _Host) -> None:
        host.silent.remove(demand.task)
        self._lent[demand.direction] -= 1

    def brought(self, host: str) -> None:
        """Bytes have come from the host, or gone to it."""
        if host in self._stalled:
            self._stalled.remove(host)
            self._look_again(host)

    def silent(self, host: str) -> int:
        """How many tasks at work on the host nothing comes to."""
        known = self._hosts.get(host)
        return 0 if known is None else len(known.silent)

    def hold_host(self, name: str, until: int) -> bool:
        """No request to the host before `until` (monotonic ms), and then one task's first.

        Returns:
            Whether it was free, or on trial, until now.
        """
        host = self._host(name)
        before = host.hold
        host.hold = hold(before or FREE, until)
        if host.probe is not None:
            del self._probing[host.probe]
            host.probe = None
        if before is None or before.until != host.hold.until:
            host.look = None
            heappush(self._ends, (host.hold.until or 0, name))
        return before is None or before.probing

    def release_host(self, name: str, task: TaskId, now: int) -> bool:
        """The host has answered `task`: everybody may, unless that request was from before the hold.

        Returns:
            Whether the host was held and is free now.
        """
        host = self._hosts.get(name)
        if host is None or host.hold is None:
            return False
        if host.probe != task and now < (host.hold.until or 0):
            return False
        if host.probe is not None:
            del self._probing[host.probe]
        host.hold = host.probe = None
        self._look_again(name)
        self._forget(name, host)
        return True

    def untried(self) -> list[str]:
        """Held hosts whose answer nobody waits for any more, since this was last asked: one of those that are
        at work on it may try."""
        untried, self._untried = self._untried, []
        return untried

    def is_held(self, host: str) -> bool:
        """Whether the host is left alone, or tried by one task only."""
        known = self._hosts.get(host)
        return known is not None and known.hold is not None

    def held_until(self, host: str) -> int | None:
        """Until when no request may go to the host (monotonic ms); None where it is not held."""
        known = self._hosts.get(host)
        return None if known is None or known.hold is None else known.hold.until

    def may_send(self, task: TaskId, name: str, now: int) -> bool:
        """Whether the task may start a request to its host at `now` (monotonic ms)."""
        host = self._hosts.get(name)
        if host is None or host.hold is None or host.probe == task:
            return True
        start = may_start(host.hold, now)
        host.hold = start.hold
        if start.probe:
            host.probe = task
            self._probing[task] = name
        return start.allowed

    def hosts(self) -> tuple[str, ...]:
        """Those that tasks wait for or work on, or that are held."""
        return tuple(self._hosts)
