"""Who may work: slots per direction and per host, by priority, first come first served within one.

Each host has a line of its own, and only the heads of those lines that could move on are compared. So a grant
costs the logarithm of what is in line, and a host that is full, held back or silent costs the others nothing:
it is set aside, and looked at again when something has changed there.

No I/O and no clock of its own: the reconciler asks, gives back, and says what time it is.
"""

from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush

from msgspec import Struct

from meowcat.core.retry import FREE, HostHold, hold, lift, may_start, probe_over
from meowcat.core.transfers import Direction
from meowcat.core.values import TaskId

LEFT_OVERS = 64
"""Places of those who left that a line may have, beyond as many as are still in it."""


REMEMBERED_MS = 60_000
"""Milliseconds after the end of a hold, or after a host fell silent, until it is forgotten where nobody has
to do with it any more: those that waited for it have come by then."""


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
    """A host that tasks wait for or work on."""

    __slots__ = ("aside", "at_work", "lines", "silent")

    def __init__(self, directions: Mapping[Direction, object]) -> None:
        self.lines: dict[Direction, _Line] = {each: _Line() for each in directions}
        self.at_work: dict[TaskId, Demand] = {}
        self.silent: set[TaskId] = set()
        """Of those at work, the ones to which nothing comes."""
        self.aside = False
        """Whether nobody can be let in now: it is not looked at before something changes."""


class _Held:
    """A host that asked to be left alone, or that could not be reached."""

    __slots__ = ("hold", "look", "probe")

    def __init__(self) -> None:
        self.hold: HostHold = FREE
        self.look: int | None = None
        """When it is next seen whether what it asked for can be forgotten."""
        self.probe: TaskId | None = None
        """The one task that may try first."""


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
        self._held: dict[str, _Held] = {}
        self._in_line: dict[TaskId, Demand] = {}
        self._at_work: dict[TaskId, Demand] = {}
        """A task has a slot, or stands in line, or neither."""
        self._probing: dict[TaskId, str] = {}
        self._untried: list[str] = []
        """See `untried`."""
        self._stalled: dict[str, int] = {}
        """Hosts that let all of their tasks wait when something last came from them, or nothing; and when it
        is next seen whether each can be forgotten."""
        self._busy: dict[Direction, int] = dict.fromkeys(slots, 0)
        self._lent: dict[Direction, int] = dict.fromkeys(slots, 0)
        self._ends: list[tuple[int, str]] = []
        """A heap of when holds end, and when silent hosts are looked at; a hold that was made longer is
        looked at once more."""

    # The line

    def request(self, demand: Demand) -> None:
        """Stand in line; a task that stands there does so once only, at the place of its newest demand, and
        one that has a slot keeps it."""
        at_work = self._at_work.get(demand.task)
        if at_work is not None:
            if at_work.host != demand.host:  # its URL was replaced meanwhile
                self.withdraw(demand.task)
                self._begin(demand, self._host(demand.host))
            return
        known = self._in_line.get(demand.task)
        if known is demand:
            return
        if known is not None:
            self._leave(known)
        host = self._host(demand.host)
        line = host.lines[demand.direction]
        self._in_line[demand.task] = demand
        line.length += 1
        heappush(line.places, demand)
        if not host.aside and (line.listed is None or demand < line.listed):
            self._list(demand.host, line, demand)

    def withdraw(self, task: TaskId) -> None:
        """Leave the line, or give the slot back."""
        if task in self._probing:
            self._end_probe(task)
        demand = self._at_work.get(task)
        if demand is not None:
            self._stop(demand)
            return
        demand = self._in_line.get(task)
        if demand is not None:
            self._leave(demand)

    def _end_probe(self, task: TaskId) -> None:
        """Who was to try a held host does not: somebody else may."""
        probed = self._probing.pop(task)
        held = self._held[probed]  # only what is held is probed
        held.hold, held.probe = probe_over(held.hold, answered=False), None
        self._untried.append(probed)
        self._look_again(probed)

    def _leave(self, demand: Demand) -> None:
        """Out of the line; its place in the heap is passed over when it comes up."""
        del self._in_line[demand.task]
        host = self._hosts[demand.host]
        line = host.lines[demand.direction]
        line.length -= 1
        if len(line.places) > 2 * line.length + LEFT_OVERS:
            line.places = [each for each in line.places if self._in_line.get(each.task) is each]
            heapify(line.places)
        self._forget_if_idle(demand.host, host)

    def _begin(self, demand: Demand, host: _Host) -> None:
        self._at_work[demand.task] = host.at_work[demand.task] = demand
        self._busy[demand.direction] += 1

    def _stop(self, demand: Demand) -> None:
        host = self._hosts[demand.host]
        if demand.task in host.silent:
            self._speak(demand, host)
        del self._at_work[demand.task], host.at_work[demand.task]
        self._busy[demand.direction] -= 1
        if host.aside:
            self._look_again(demand.host)
        self._forget_if_idle(demand.host, host)

    def _host(self, name: str) -> _Host:
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host(self._slots)
        return host

    def _forget_if_idle(self, name: str, host: _Host) -> None:
        if not host.at_work and not any(line.length for line in host.lines.values()):
            del self._hosts[name]

    # Grants

    def grant(self, now: int) -> None:
        """Hand out what is free to who is first in line."""
        while self._ends and self._ends[0][0] <= now:
            self._end_hold(*heappop(self._ends))
        for direction, heads in self._heads.items():
            while heads and self._has_slot(direction):
                listed, name = heappop(heads)
                host = self._hosts.get(name)
                if host is None or host.lines[direction].listed is not listed:
                    continue  # of before
                line = host.lines[direction]
                if self._in_line.get(listed.task) is not listed:  # that one has left
                    self._list_first(name, line)
                elif self._has_room(host, listed, now):
                    del self._in_line[listed.task]
                    line.length -= 1
                    self._begin(listed, host)
                    self._list_first(name, line)
                    self._granted(listed.task)
                else:
                    self._set_aside(host)

    def _end_hold(self, at: int, name: str) -> None:
        """A hold has ended at `at`, or it is to be seen whether anybody still has to do with the host."""
        self._look_again(name)
        if self._stalled.get(name) == at:
            del self._stalled[name]
            if name in self._hosts:
                self._note_stalled(name, at)
        held = self._held.get(name)
        if held is None or at not in (held.hold.until, held.look):
            return  # it was made longer since
        if at == held.look and name not in self._hosts:
            del self._held[name]
        else:
            held.look = at + REMEMBERED_MS
            heappush(self._ends, (held.look, name))

    def _has_slot(self, direction: Direction) -> bool:
        """Whether a slot is free. Those of silent tasks count as free, but at most as many as there are."""
        slots = self._slots[direction]
        return self._busy[direction] - min(self._lent[direction], slots) < slots

    def _list_first(self, name: str, line: _Line) -> None:
        """List the first who is still in line, if there is anybody."""
        places = line.places
        while places and self._in_line.get(places[0].task) is not places[0]:
            heappop(places)
        line.listed = None
        if places:
            self._list(name, line, places[0])

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
        if host is not None and host.aside:
            host.aside = False
            for line in host.lines.values():
                self._list_first(name, line)

    def _has_room(self, host: _Host, demand: Demand, now: int) -> bool:
        count, name = len(host.at_work), demand.host
        if self._per_host is not None and count >= self._per_host:
            return False
        window = self._window(name)
        if window is not None and count >= window:
            return False
        if count and name in self._stalled:
            return False
        return self.may_send(demand.task, name, now)

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
        return self._busy[direction], sum(host.lines[direction].length for host in self._hosts.values())

    # Hosts

    def widened(self, host: str) -> None:
        """The host's window is larger now."""
        self._look_again(host)

    def note_silent(self, task: TaskId, *, silent: bool, now: int) -> None:
        """Whether nothing has come to the task for a while, at `now` (monotonic ms): then somebody else has
        its slot meanwhile.

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
                self._note_stalled(demand.host, now)
        elif not silent and task in host.silent:
            self._speak(demand, host)
            self.brought(demand.host)

    def _note_stalled(self, host: str, now: int) -> None:
        if host not in self._stalled:
            self._stalled[host] = now + REMEMBERED_MS
            heappush(self._ends, (now + REMEMBERED_MS, host))

    def _speak(self, demand: Demand, host: _Host) -> None:
        host.silent.remove(demand.task)
        self._lent[demand.direction] -= 1

    def brought(self, host: str) -> None:
        """Bytes have come from the host, or gone to it."""
        if host in self._stalled:
            del self._stalled[host]
            self._look_again(host)

    def silent(self, host: str) -> int:
        """How many tasks at work on the host nothing comes to."""
        known = self._hosts.get(host)
        return 0 if known is None else len(known.silent)

    @property
    def calm(self) -> bool:
        """Whether there is no host that anything of note is known of: none is held, and none is silent."""
        return not self._held and not self._stalled

    def hold_host(self, name: str, until: int) -> bool:
        """No request to the host before `until` (monotonic ms), and then one task's first.

        Returns:
            Whether it was free, or on trial, until now.
        """
        held = self._held.get(name)
        if held is None:
            held = self._held[name] = _Held()
        before = held.hold
        held.hold = hold(before, until)
        if held.probe is not None:
            del self._probing[held.probe]
            held.probe = None
        if before.until != held.hold.until:
            held.look = None
            heappush(self._ends, (held.hold.until or 0, name))
        return before is FREE or before.probing

    def lift_hold(self, name: str, now: int) -> bool:
        """The host may be tried at once: by one task, as at the end of its hold. Whether it was held."""
        held = self._held.get(name)
        if held is None or now >= (held.hold.until or 0):
            return False
        held.hold, held.look = lift(held.hold, now), None
        heappush(self._ends, (now, name))
        return True

    def release_host(self, name: str, task: TaskId, now: int) -> bool:
        """The host has answered `task`: everybody may, unless that request was from before the hold.

        Returns:
            Whether the host was held and is free now.
        """
        held = self._held.get(name)
        if held is None or (held.probe != task and now < (held.hold.until or 0)):
            return False
        if held.probe is not None:
            del self._probing[held.probe]
        del self._held[name]
        self._look_again(name)
        return True

    def untried(self) -> list[str]:
        """Held hosts whose answer nobody waits for any more, since this was last asked: one of those that are
        at work on it may try."""
        untried, self._untried = self._untried, []
        return untried

    def held_until(self, host: str) -> int | None:
        """Until when no request may go to the host (monotonic ms); None where it is not held."""
        held = self._held.get(host)
        return None if held is None else held.hold.until

    def may_send(self, task: TaskId, name: str, now: int) -> bool:
        """Whether the task may start a request to its host at `now` (monotonic ms)."""
        held = self._held.get(name)
        if held is None or held.probe == task:
            return True
        start = may_start(held.hold, now)
        held.hold = start.hold
        if start.probe:
            held.probe = task
            self._probing[task] = name
        return start.allowed

    def hosts(self) -> tuple[str, ...]:
        """Those that tasks wait for or work on, or that are held."""
        return tuple({**self._hosts, **self._held})
