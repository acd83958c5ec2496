"""Makes what runs equal to what is wanted: starts and stops operations, asks for slots, sets timers.

Called for an actor after each durable step, after an operation is over, and when a host is held back or
heard again. It decides nothing: `wanted`, `wants_slot` and `due` do.
"""

import heapq
import logging
from collections.abc import Callable, Sequence

import anyio
from anyio.abc import TaskGroup
from msgspec.structs import replace

from meowcat.core import events as ev
from meowcat.core import messages as msg
from meowcat.core.errors import MeowcatError
from meowcat.core.machine import ACTIVE
from meowcat.core.remedies import remedy
from meowcat.core.state import TaskState
from meowcat.core.urls import host_of
from meowcat.core.values import Fault, FaultKind, TaskId
from meowcat.core.waits import Wait, WaitingFor
from meowcat.core.wanted import (
    Abort,
    AnyOperation,
    Commit,
    Discard,
    Publish,
    Send,
    Settling,
    Wanted,
    due,
    wanted,
    wants_slot,
)
from meowcat.runtime.actor import Actor, Answer, Envelope, Live
from meowcat.runtime.bus import Bus
from meowcat.runtime.dispatcher import Dispatcher
from meowcat.runtime.pool import Pool
from meowcat.runtime.registry import Registry, Row
from meowcat.runtime.scheduler import Scheduler
from meowcat.runtime.traffic import Traffic
from meowcat.runtime.world import Clock
from meowcat.transfer.context import Running
from meowcat.transfer.small import SmallDownload

log = logging.getLogger("meowcat.task")

LOOK_MS = 1000
"""How often it is looked for silent tasks while others wait for their slots, or have them."""

REOPEN, LOOK = -1, -2
"""What a timer that is not a task's is for, in the place of the wait's number: a host's rest is over; silent
tasks are to be looked for."""

AT_ONCE = {"limit_rate", "priority"}
"""Options of a request that byte work need not begin again for."""

ANSWER_WITHIN = 0.15
"""Seconds that a pause or cancel waits for its operation to fall silent, after its event is durable."""

_HEEDED = frozenset({ev.AttemptFailed, ev.Waiting, ev.Supplied})
"""Events that lead to more than what the state demands."""
_ANSWERS = frozenset({ev.Started, ev.Stored, ev.SessionOpened, ev.Sent, ev.SessionAborted, ev.Completed})
"""Events that a host's answer leads to: they do so, too, where it is held or silent."""

_SET_GOING = frozenset({ev.Resumed, ev.Retried})
"""Events of a user's who wants it tried now."""

Start = Callable[[TaskState, Wanted, Callable[[msg.Message], None]], Running]
"""Makes an operation for a task; it runs when `run` is called."""


class Reconciler:
    """Operations, slots and timers of all actors."""

    def __init__(
        self,
        tasks: TaskGroup,
        clock: Clock,
        registry: Registry,
        bus: Bus,
        start: Start,
        missing: Callable[[Row], tuple[str, ...]],
        forget: Callable[[TaskId], None],
        *,
        slots: tuple[int, int],
        per_host: int | None,
        traffic: Traffic,
        max_retry_after: int,
    ) -> None:
        self._tasks = tasks
        self.pool = Pool(tasks)
        self._clock = clock
        self._registry = registry
        self._start_operation = start
        self._missing = missing
        self._forget = forget
        self._bus = bus
        self._traffic = traffic
        self._max_retry_after = max_retry_after
        """Milliseconds."""
        self.scheduler = Scheduler(
            {"download": slots[0], "upload": slots[1]}, per_host, self._granted, traffic.window
        )
        traffic.allowed, traffic.widened = self._allowed, self._widened
        self._looking = False
        self._told: set[tuple[str, ...]] = set()
        """What was lacking, and said to be."""
        self.dispatcher: Dispatcher
        self._timers: list[tuple[int, TaskId, int]] = []
        self._timer_set = anyio.Event()
        self.closing = False

    # What happened

    def applied(self, actor: Actor, events: Sequence[ev.Event], answer: Answer | None) -> None:
        """A message of the actor was dealt with; its events are durable."""
        task, live = actor.task, actor.live
        assert task is not None  # noqa: S101  # the dispatcher loads before it decides
        if events:
            self._bus.publish(task)
            if self._registry.note(task) is None:  # it has ended
                self._forget(task.id)
            if task.state not in ACTIVE:
                actor.feed = None
            elif actor.feed is None and task.intent is None and task.generation is not None:
                actor.feed = self._bus.watch(task)  # bytes are on their way
            if not (self.scheduler.calm and _HEEDED.isdisjoint(map(type, events))):
                self._heed(actor, task, events)
        self.reconcile(actor)
        if not (self.scheduler.calm or _SET_GOING.isdisjoint(map(type, events))):
            self.try_now(task)
        if answer is None:
            return
        if live is not None and live.canceled and not live.is_over:
            self._tasks.start_soon(self._answer_when_silent, live, answer, task)
        else:
            answer.give(task)

    def _heed(self, actor: Actor, task: TaskState, events: Sequence[ev.Event]) -> None:
        """What follows from the events themselves."""
        for event in events:
            if isinstance(event, ev.AttemptFailed):
                self._heed_failure(task, event)
            elif isinstance(event, ev.Waiting):
                self._tell_lack(actor.id, event.names)
            elif isinstance(event, ev.Supplied):
                self._heed_supply(actor, task, event)
            elif type(event) in _ANSWERS:
                self._heed_answer(task, event)

    def _heed_supply(self, actor: Actor, task: TaskState, event: ev.Supplied) -> None:
        self._traffic.limit_task(task.id, task.request.limit_rate)
        row = self._registry.place(task)
        if row is not None and self.scheduler.holds_slot(task.id):
            self.scheduler.request(row)  # it may be another host's
        if event.names and set(event.names) <= AT_ONCE:
            return
        # Byte work begins again with what was supplied; what has ended since then, too, may have failures in
        # the mailbox that are of before.
        for each in (actor.live, *(envelope.source for envelope in actor.mailbox)):
            if each is not None:
                each.cancel()

    def _tell_lack(self, task: TaskId, names: tuple[str, ...]) -> None:
        """Who awaits a result would otherwise wait without a word, for a name that was misspelt, say. A queue
        may lack one thing a thousand times, and is told of it once."""
        if names not in self._told:
            self._told.add(names)
            log.warning(
                "task %s waits, and any that lacks the same, for %s", task, "; ".join(map(remedy, names))
            )

    async def _answer_when_silent(self, live: Live, answer: Answer, task: TaskState) -> None:
        with anyio.move_on_after(ANSWER_WITHIN):
            await live.ended()
        answer.give(task)

    def _heed_failure(self, task: TaskState, event: ev.AttemptFailed) -> None:
        """It may hold a host back for everybody."""
        if event.delay is not None and event.waiting_for in (WaitingFor.SERVER, WaitingFor.HOST):
            self._hold_host(host_of(task.request.url), self._clock.ticks() + event.delay)

    def _heed_answer(self, task: TaskState, event: ev.Event) -> None:
        """An answer of a host lets everybody go on."""
        host = host_of(task.request.url)
        if isinstance(event, ev.Stored | ev.Sent):
            self.scheduler.brought(host)
        if _is_answer(event) and self.scheduler.release_host(host, task.id, self._clock.ticks()):
            self._nudge(host)

    def _hold_host(self, host: str, until: int) -> None:
        before = self.scheduler.held_until(host)
        if self.scheduler.hold_host(host, until):  # otherwise nobody is at it
            self._nudge(host)
        end = self.scheduler.held_until(host)
        if end is not None and end != before:
            self._set_timer(end, TaskId(host), REOPEN)

    def try_now(self, task: TaskState) -> None:
        """A user has set the task going: its host need not wait for the end of its hold to be tried."""
        host = host_of(task.request.url)
        if self.scheduler.lift_hold(host, self._clock.ticks()):
            self._nudge(host)

    def _nudge(self, host: str) -> None:
        """Something has changed for those that work on the host, or wait for it."""
        for task in self.scheduler.at_work(host):
            actor = self.dispatcher.actors.get(task)
            if actor is not None and actor.task is not None:
                self.reconcile(actor)
        self._traffic.reopened(host)
        self.grant()

    def _allowed(self, host: str) -> int | None:
        """Requests at once while the host is held: none before its time, and one to try it."""
        until = self.scheduler.held_until(host)
        return None if until is None else int(self._clock.ticks() >= until)

    def _widened(self, host: str) -> None:
        self.scheduler.widened(host)
        self.grant()

    def journal_accepts(self) -> None:
        """Records are stored again after some were refused: what was kept from starting may start."""
        for actor in tuple(self.dispatcher.actors.values()):
            if actor.task is not None:
                self.reconcile(actor)
        self.grant()

    # What is to be done

    def reconcile(self, actor: Actor) -> None:
        """Start, go on with or stop the actor's operation; ask for a slot or give it back."""
        task = actor.task
        assert task is not None  # noqa: S101  # only loaded actors are reconciled
        want = wanted(task)
        if self.closing and want is not None and not want.settling:
            want = None
        if actor.live is not None:
            self._steer(actor.live, task, want)
        elif want is not None and not actor.mailbox and self._may_start(task, want):
            self._begin(actor, task, want)
        self._claim_slot(actor, task)
        if task.wait is not None:
            self._watch_wait(actor, task, task.wait)
        if actor.live is None and not actor.mailbox and not self.scheduler.holds_slot(task.id):
            self.dispatcher.dismiss(actor)

    def _steer(self, live: Live, task: TaskState, want: Wanted | None) -> None:
        if want is None or not _does(live, want.operation):
            live.cancel()
        elif not live.canceled:
            live.operation = want.operation
            hold = want.hold or not (want.settling or self._may_send(task))
            live.held = live.held or hold
            live.running.update(task, hold=hold)

    def _may_start(self, task: TaskState, want: Wanted) -> bool:
        if want.hold:
            return False
        if want.settling:
            return self.dispatcher.broken is None
        return self.scheduler.holds_slot(task.id) and self._may_send(task)

    def _may_send(self, task: TaskState) -> bool:
        """Whether byte work of the task may start a request now."""
        if self.dispatcher.refused:
            return False
        if self.scheduler.calm:
            return True
        return self.scheduler.may_send(task.id, host_of(task.request.url), self._clock.ticks())

    def _claim_slot(self, actor: Actor, task: TaskState) -> None:
        if actor.live is not None and not isinstance(actor.live.operation, Settling):
            return  # it keeps its slot until it is over
        if wants_slot(task) and not self.closing:
            row = self._registry.get(task.id)
            if row is not None:
                self.scheduler.request(row)
        else:
            self.scheduler.withdraw(task.id)

    def grant(self) -> None:
        """Hand out free slots."""
        if self.closing or self.dispatcher.broken is not None:
            return
        for host in self.scheduler.untried():
            self._nudge(host)
        self.scheduler.grant(self._clock.ticks())
        if not self._looking and (self.scheduler.crowded or self.scheduler.lends):
            self._looking = True
            self._set_timer(self._clock.ticks() + LOOK_MS, TaskId(""), LOOK)

    def _look(self) -> None:
        """Those to whom nothing comes lend their slots to those that wait, for as long as nothing comes."""
        self._looking = False
        now = self._clock.ticks()
        for task in self.scheduler.working:
            self.scheduler.note_silent(task, silent=self._traffic.silent(task), now=now)
        self.grant()

    def _granted(self, task: TaskId) -> None:
        """Tell the actor. It may be a row still, and it may be active already and back from a wait: then the
        message makes no event, and being reconciled starts it."""
        row = self._registry.get(task)
        if row is None:
            self.scheduler.withdraw(task)
        else:
            self.dispatcher.post(task, msg.Admit(missing=self._missing(row)))

    def drop(self, task: TaskId) -> None:
        """Nothing is known any more of a task that rests: its slot, or place in line, is somebody else's."""
        self._registry.drop(task)
        self.scheduler.withdraw(task)
        self.grant()

    # Operations

    def _begin(self, actor: Actor, task: TaskState, want: Wanted) -> None:
        live = Live(actor, want.operation, self)
        try:
            live.running = self._start_operation(task, want, live.report)
        except MeowcatError as refused:
            self.dispatcher.post(task.id, _defect(want.operation, str(refused)))
            return
        except Exception as broke:  # a plugged-in protocol may raise anything when it is made
            log.exception("task %s: %s can't begin", actor.id, type(want.operation).__name__)
            detail = f"{type(broke).__name__} at the beginning of {type(want.operation).__name__}"
            self.dispatcher.post(task.id, _defect(want.operation, detail))
            return
        actor.live = live
        self.pool.start(live)

    def reported(self, actor: Actor, envelope: Envelope) -> None:
        """See `Employer`."""
        fault: Fault | None = getattr(envelope.message, "fault", None)
        if fault is not None and (fault.retry_after or 0) > self._max_retry_after:
            fault = replace(fault, retry_after=self._max_retry_after)
            envelope.message = replace(envelope.message, fault=fault)
        self.dispatcher.put(actor, envelope)

    def ended(self, live: Live) -> None:
        """See `Employer`."""
        actor = live.actor
        if live.defect is not None or not (live.reported or live.canceled or live.held):
            self._tell_defect(live)
        if actor.task is not None and actor.task.state not in ACTIVE:
            self.scheduler.withdraw(actor.id)  # set going again, it stands in line like anybody else
        if actor.mailbox:
            return  # what it has reported leads to the same, once it is durable
        self.reconcile(actor)
        self.grant()
        self._bus.stir()

    def _tell_defect(self, live: Live) -> None:
        operation = type(live.operation).__name__
        detail = f"{operation} ended without a word"
        if live.defect is not None:
            log.error("task %s: %s broke", live.actor.id, operation, exc_info=live.defect)
            detail = f"{type(live.defect).__name__} in {operation}"
        live.report(_defect(live.operation, detail))

    # Time

    def _watch_wait(self, actor: Actor, task: TaskState, wait: Wait) -> None:
        if actor.timer == wait.seq:
            return
        at = due(task, self._clock.ticks())
        if at is not None:
            actor.timer = wait.seq
            self._set_timer(at, task.id, wait.seq)

    def _set_timer(self, at: int, task: TaskId, seq: int) -> None:
        heapq.heappush(self._timers, (at, task, seq))
        self._timer_set.set()

    def wakes(self) -> dict[TaskId, int]:
        """When each task that waits for a time goes on, in ticks of the clock."""
        # Of the newest wait the earliest: an actor that has come back since sets another timer.
        timers = sorted(self._timers, key=lambda timer: (timer[2], -timer[0]))
        return {task: at for at, task, seq in timers if seq > 0}

    async def keep_time(self) -> None:
        """Wake those whose wait is over, until canceled."""
        while True:
            self._timer_set = anyio.Event()
            now = self._clock.ticks()
            while self._timers and self._timers[0][0] <= now:
                _, task, seq = heapq.heappop(self._timers)
                if seq == REOPEN:
                    self._nudge(task)
                elif seq == LOOK:
                    self._look()
                else:
                    self.dispatcher.post(task, msg.Wake(seq=seq))
            pause = (self._timers[0][0] - now) / 1000 if self._timers else None
            if pause is None:
                await self._timer_set.wait()
            else:
                with anyio.move_on_after(pause):
                    await self._timer_set.wait()


def _is_answer(event: ev.Event) -> bool:
    """Whether the host has answered just now. A session of which it need not know is opened here, and of a
    download only the rename is left at its end.
    """
    if isinstance(event, ev.SessionOpened):
        return event.session.capabilities.asks
    return not isinstance(event, ev.Completed) or event.direction == "upload"


def _does(live: Live, operation: AnyOperation) -> bool:
    """Whether what runs is what is wanted, or goes on as that."""
    if operation == live.operation:
        return True
    return isinstance(live.running, SmallDownload) and live.running.goes_on_as(operation)


def _defect(operation: AnyOperation, detail: str) -> msg.Message:
    fault = Fault(kind=FaultKind.INTERNAL, detail=f"{detail}: a defect of meowcat or of a plugged-in part")
    if isinstance(operation, Publish):
        return msg.PublishFailed(fault=fault)
    if isinstance(operation, Discard):
        return msg.DiscardFailed(fault=fault)
    if isinstance(operation, Commit):
        return msg.CommitFailed(fault=fault)
    if isinstance(operation, Abort):
        return msg.AbortFailed(session=operation.session, fault=fault)
    if isinstance(operation, Send):  # it may have broken while a session was asked for
        return msg.Unopened(fault=fault, lost=True)
    return msg.Faulted(run=operation.run, restarts=operation.restarts, fault=fault)
