"""What goes over the network, by host: how many requests at once, how fast, and where nothing comes.

An operation has a `Share` of it. A host's requests wait in one line, first come first served: while the host
is held, while one request tries it, and while its window is full. The bounds of the whole engine come after
that, so that what waits for one host takes nothing from the others.
"""
# ruff: noqa: SLF001  # a turn is a part of its share

from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from weakref import WeakValueDictionary

import anyio

from meowcat.core.pacing import Window, answered, narrowed, too_many
from meowcat.core.values import Fault, TaskId
from meowcat.runtime.limits import Bucket, Throttle, no_rest
from meowcat.transfer.context import Budget, Rest

SILENCE = 5.0
"""Seconds without a byte after which a task's slot is lent to another one. Nothing of it is stopped: that is
what `read_timeout` is for."""

MOST_KEPT = 1000
"""Hosts whose windows are kept whatever their age, and …"""
REMEMBERED_MS = 600_000
"""… the milliseconds from when a window was last changed until it may be forgotten, where there are more."""


class _Gate:
    """One host: its limit, its window, and who waits for a request to it."""

    __slots__ = ("__weakref__", "buckets", "host", "line", "narrowings", "under_way", "window")

    def __init__(self, host: str, buckets: tuple[Bucket, Bucket]) -> None:
        self.host = host
        self.buckets = buckets
        """The limits of whoever works on it: its own, and that of all hosts."""
        self.window: Window | None = None
        """None while it has never said that it gets too much, or takes all that there may be again."""
        self.narrowings = 0
        self.under_way = 0
        self.line: deque[anyio.Event] = deque()


class Traffic:
    """The network's share of everybody.

    Args:
        budget: bounds the requests over all hosts …
        most: … to so many at once.
        clock: monotonic seconds.
        limit_rate: bytes a second over all hosts; None = no limit.
        limit_rate_per_host: bytes a second of each host that has no limit of its own.
    """

    def __init__(
        self,
        budget: Budget,
        most: int,
        clock: Callable[[], float],
        limit_rate: int | None = None,
        limit_rate_per_host: int | None = None,
    ) -> None:
        self._budget = budget
        self._most = most
        self._clock = clock
        self._bucket = Bucket(limit_rate, clock)
        self._per_host = limit_rate_per_host
        self._gates: WeakValueDictionary[str, _Gate] = WeakValueDictionary()
        self._kept: dict[str, _Gate] = {}
        """Those of which something has to be remembered while nobody works on them."""
        self._most_kept = MOST_KEPT
        self._own_rates: dict[str, int | None] = {}
        self._shares: WeakValueDictionary[TaskId, Share] = WeakValueDictionary()
        self._closing = False
        self.allowed: Callable[[str], int | None] = lambda _: None
        """Requests at once while a host is held: 0 before its time, 1 while it is tried; None = not held."""
        self.widened: Callable[[str], None] = lambda _: None
        """Told that a host takes more than before."""

    # Whose it is

    def share(self, task: TaskId, host: str, rate: int | None) -> "Share":
        """What an operation of the task gets; `rate` is its own limit in bytes a second."""
        share = self._shares[task] = Share(self, self._gate(host), self._clock)
        if rate is not None:
            share.limit(rate)
        return share

    def silent(self, task: TaskId) -> bool:
        """Whether nothing has come to the task for `SILENCE`, though it asks its host for something."""
        share = self._shares.get(task)
        return share is not None and share.silent(self._clock())

    def window(self, host: str) -> int | None:
        """Requests at once that the host is given for now; None = no bound of its own."""
        gate = self._kept.get(host)  # whoever has a window is kept
        return None if gate is None or gate.window is None else gate.window.most

    def under_way(self, host: str) -> int:
        gate = self._gates.get(host)
        return 0 if gate is None else gate.under_way

    def narrow(self) -> tuple[str, ...]:
        """The hosts that have a window."""
        return tuple(name for name, gate in self._kept.items() if gate.window is not None)

    def _gate(self, host: str) -> _Gate:
        gate = self._gates.get(host)
        if gate is None:
            rate = self._own_rates.get(host, self._per_host)
            gate = self._gates[host] = _Gate(host, (Bucket(rate, self._clock), self._bucket))
        return gate

    # Limits

    @property
    def limit_rate(self) -> int | None:
        return self._bucket.rate

    def limit(self, rate: int | None) -> None:
        """Bytes a second over all hosts from now on."""
        self._bucket.set_rate(rate)

    def limit_host(self, host: str, rate: int | None) -> None:
        """Bytes a second of one host from now on, whatever the limit of each host is."""
        self._own_rates[host] = rate
        gate = self._gates.get(host)
        if gate is not None:
            gate.buckets[0].set_rate(rate)

    def limit_task(self, task: TaskId, rate: int | None) -> None:
        """Bytes a second of a task that is at work, from now on."""
        share = self._shares.get(task)
        if share is not None:
            share.limit(rate)

    # Requests

    def enter(self, gate: _Gate) -> bool:
        """Whether one more request may go to the host at once; otherwise its turn is waited for in line. What
        follows is `begin`."""
        free = not gate.line and self._has_room(gate)
        gate.under_way += free
        return free

    async def begin(self, gate: _Gate) -> None:
        """Wait until one more request may be under way at all."""
        try:
            await self._budget.acquire()
        except BaseException:  # raised again: somebody else's turn
            self._leave(gate)
            raise

    async def stand_in_line(self, gate: _Gate) -> None:
        turn = anyio.Event()
        gate.line.append(turn)
        try:
            await turn.wait()
        except BaseException:  # raised again: somebody else's turn
            if turn.is_set():
                self._leave(gate)
            else:
                gate.line.remove(turn)
            raise

    def exit(self, gate: _Gate, narrowings: int, error: BaseException | None) -> None:
        """A request is over, by what was raised through it, if anything. `narrowings`: what the gate's count
        was when it began."""
        if error is None:
            if gate.window is not None:
                self._widen(gate, answered(gate.window, gate.under_way, self._now()))
        elif gate.narrowings == narrowings:
            fault: Fault | None = getattr(error, "fault", None)
            if fault is not None and too_many(fault):
                self._narrow(gate)
        self._budget.release()
        self._leave(gate)

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _narrow(self, gate: _Gate) -> None:
        now = self._now()
        gate.window = narrowed(gate.window, gate.under_way, now)
        gate.narrowings += 1
        self._kept[gate.host] = gate
        if len(self._kept) > self._most_kept:
            self._forget_windows(now)

    def _widen(self, gate: _Gate, window: Window) -> None:
        wider = gate.window is None or window.most > gate.window.most
        gate.window = window
        if window.most >= self._most:
            gate.window = None
            self._kept.pop(gate.host, None)
        if wider:
            self._serve(gate)
            self.widened(gate.host)

    def _forget_windows(self, now: int) -> None:
        """Of hosts that nobody has asked for anything for a while."""
        for gate in tuple(self._kept.values()):
            idle = not gate.under_way and not gate.line
            if idle and gate.window is not None and now - gate.window.since > REMEMBERED_MS:
                gate.window = None
                del self._kept[gate.host]
        self._most_kept = max(MOST_KEPT, 2 * len(self._kept))  # each look costs as much as has come since

    def _leave(self, gate: _Gate) -> None:
        gate.under_way -= 1
        if gate.line:
            self._serve(gate)

    def _serve(self, gate: _Gate) -> None:
        while gate.line and self._has_room(gate):
            gate.under_way += 1
            gate.line.popleft().set()

    def _has_room(self, gate: _Gate) -> bool:
        if self._closing:
            return True
        allowed = self.allowed(gate.host)
        if gate.window is not None and (allowed is None or gate.window.most < allowed):
            allowed = gate.window.most
        return allowed is None or gate.under_way < allowed

    def reopened(self, host: str) -> None:
        """The host's rest is over, or it has answered."""
        gate = self._gates.get(host)
        if gate is not None:
            self._serve(gate)

    def close(self) -> None:
        """Nobody waits for a host any more: what still has to be asked for is asked for at once."""
        self._closing = True
        for gate in tuple(self._gates.values()):
            self._serve(gate)


class Share(Throttle):
    """What one operation of a task has of the network: a `context.Throttle`, and `context.Requests`."""

    __slots__ = (
        "__weakref__",
        "_clock",
        "_flowed",
        "_gate",
        "_moved",
        "_ours",
        "_own",
        "_rest",
        "_traffic",
        "_turns",
    )

    def __init__(self, traffic: Traffic, gate: _Gate, clock: Callable[[], float]) -> None:
        super().__init__(*gate.buckets)
        self._traffic = traffic
        self._gate = gate
        self._clock = clock
        self._own: Bucket | None = None
        """Made when there is a limit first: most tasks have none."""
        self._moved = 0.0
        """When the last byte came or went, or the first of its requests began."""
        self._flowed = False
        """Whether something has come since it was looked at."""
        self._turns = 0
        """Requests under way or in the host's line."""
        self._ours = 0
        """How many of them wait for a bound of this engine: that is no silence of the host."""
        self._rest: Rest = no_rest
        """Of its threads, the one that began last: the limits are first come, first served."""

    def limit(self, rate: int | None) -> None:
        """Another limit of the task's own."""
        if self._own is not None:
            self._own.set_rate(rate)
        elif rate is not None:
            self._own = Bucket(rate, self._clock)
            self._buckets = (self._own, *self._buckets)

    async def acquire(self, size: int) -> None:
        """Wait until `size` bytes may be taken from the network."""
        for bucket in self._buckets:
            if bucket.rate is not None:
                self._ours += 1
                try:
                    await bucket.acquire(size)
                finally:
                    self._ours -= 1
        self._moved = self._clock()

    @property
    def most(self) -> int | None:
        """Requests at once that the host is given for now, over all tasks; None = no bound of its own."""
        return self._traffic.window(self._gate.host)

    def spend(self, size: int) -> Rest:
        """How long to rest before `size` bytes are taken. From any thread."""
        self._flowed = True
        rest = super().spend(size)
        if rest is not no_rest:
            self._rest = rest
        return rest

    def turn(self) -> AbstractAsyncContextManager[None]:
        """One request: entered when its turn has come. What is raised through it is how the host took it."""
        return _Turn(self)

    def silent(self, now: float) -> bool:
        """Whether the host lets it wait."""
        if self._flowed:
            self._flowed, self._moved = False, now
        waits = self._ours or self._rest() > 0
        return bool(self._turns) and not waits and now - self._moved >= SILENCE


class _Turn(AbstractAsyncContextManager[None]):
    """Not a generator: there is one for each request of each small file."""

    __slots__ = ("_narrowings", "_share")

    def __init__(self, share: Share) -> None:
        self._share = share
        self._narrowings = 0

    async def __aenter__(self) -> None:
        share = self._share
        traffic, gate = share._traffic, share._gate
        if not share._turns:
            share._moved = share._clock()
        share._turns += 1
        try:
            if not traffic.enter(gate):
                await traffic.stand_in_line(gate)
            share._ours += 1
            try:
                await traffic.begin(gate)
            finally:
                share._ours -= 1
        except BaseException:  # raised again: there is no request
            share._turns -= 1
            raise
        self._narrowings = gate.narrowings

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        share = self._share
        share._turns -= 1
        share._traffic.exit(share._gate, self._narrowings, error)
