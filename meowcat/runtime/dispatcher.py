"""The loop of all actors: take a message, decide, append, evolve, publish, reconcile.

Each turn steps every actor that has a message by one, and appends all that happened in one batch: group
commit without a second queue. What one operation has reported in a row is one step: nobody could have come
between. Nothing is answered, published or started before its events are durable. A rejected append leaves
every message at the head of its mailbox; an uncertain one is resolved by reading what is stored before
anything else happens.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Protocol

import anyio
import anyio.lowlevel
from msgspec import Struct

from meowcat.core.decide import decide
from meowcat.core.errors import (
    EngineClosed,
    JournalClosed,
    JournalConflict,
    JournalError,
    JournalFenced,
    JournalRejected,
    MeowcatError,
    TaskNotFound,
    TaskQuarantined,
)
from meowcat.core.events import Event
from meowcat.core.machine import MACHINE_NAME
from meowcat.core.messages import Faulted, Message
from meowcat.core.state import TaskState, evolve
from meowcat.core.values import Instant, TaskId
from meowcat.journal.codec import encode
from meowcat.journal.contract import Entry
from meowcat.journal.writer import Writer
from meowcat.runtime.actor import Actor, Answer, Envelope, as_error
from meowcat.runtime.world import Clock
from meowcat.transfer.signal import Signal

log = logging.getLogger("meowcat.journal")


def _of_another_machine(record: logging.LogRecord) -> bool:
    return not (isinstance(record.args, tuple) and record.args[:1] == (f"{MACHINE_NAME}: ",))


# It would tell each step to whatever log an application has at INFO. Other machines may go on telling theirs.
logging.getLogger("transitions.core").addFilter(_of_another_machine)
events_log = logging.getLogger("meowcat.engine")

REFUSED_PAUSE = (0.1, 5.0)
"""Seconds until a rejected append is tried again: at first, and at most."""

Applied = Callable[[Actor, Sequence[Event], Answer | None], None]


RESTED = 1 << 14
"""States that are remembered of tasks that have no actor now: a command soon after, or a new task's slot,
needs no reading. As a rule each has less than a kilobyte."""


class LoadTasks(Protocol):
    """Reads the states of tasks from the journal, or says of each why not: TaskNotFound, TaskQuarantined, or
    whatever reading it raised, after which it is worth another try.
    """

    async def __call__(self, tasks: Sequence[TaskId]) -> Sequence[TaskState | Exception]: ...


class _Step(Struct, eq=False):
    """One actor's part of a turn."""

    actor: Actor
    messages: int
    """How many of its mailbox are dealt with."""
    events: Sequence[Event]
    after: TaskState


_body_of = attrgetter("body")


def entries_of(
    task: TaskState | None, events: Sequence[Event], at: int, folded: Sequence[TaskState] = ()
) -> tuple[list[Entry], TaskState]:
    """The journal entries of events that follow on `task`, and the task after them. `folded` is the task
    after each of them, where whoever decided has it."""
    entries = []
    for number, event in enumerate(events):
        task = folded[number] if folded else evolve(task, event)
        kind, version, body = encode(event)
        entries.append(Entry(task.id, task.seq, task.open, kind, version, at, body))
    assert task is not None  # noqa: S101  # there is at least one event
    return entries, task


class Dispatcher:
    """Steps the actors.

    `load` reads a task from the journal, `applied` is told of each message that was dealt with, `turned` when
    that was all for now, `refuses` why the journal takes no records now, or by "" that it takes them again,
    and `lost` that it never will.
    """

    def __init__(
        self,
        writer: Writer,
        clock: Clock,
        max_record: int,
        load: LoadTasks,
        applied: Applied,
        turned: Callable[[], None],
        refuses: Callable[[str], None],
        lost: Callable[[MeowcatError], None],
    ) -> None:
        self._writer = writer
        self._clock = clock
        self._max_record = max_record
        self._load = load
        self._applied = applied
        self._turned = turned
        self._refuses = refuses
        self._lost = lost
        self.actors: dict[TaskId, Actor] = {}
        self._rested: OrderedDict[TaskId, TaskState] = OrderedDict()
        self._ready: list[Actor] = []
        """Those with messages, but for those whose first message is being looked at: they come back to it
        after that, if there is another one."""
        self._wake = Signal()
        self._refusals = 0
        self.broken: MeowcatError | None = None
        """Why nothing can be journaled any more: another owner has the journal, or it is closed."""

    @property
    def refused(self) -> bool:
        """Whether the journal takes no records now: no byte work may start."""
        return self._refusals > 0 or self.broken is not None

    def post(self, task: TaskId, message: Message, answer: Answer | None = None) -> None:
        """Put a message into a task's mailbox."""
        if self.broken is None:
            actor = self.actors.get(task)
            if actor is None:
                actor = self.actors[task] = Actor(task, self._rested.pop(task, None))
            self.put(actor, Envelope(message, answer))
        elif answer is not None:
            answer.refuse(self.broken)

    def put(self, actor: Actor, envelope: Envelope) -> None:
        """Put a message into the mailbox of an actor that is at work."""
        if self.broken is None:
            if not actor.mailbox:
                self._list(actor)
            actor.mailbox.append(envelope)

    def adopt(self, task: TaskState) -> Actor:
        """An actor whose state is in hand and need not be read."""
        actor = self.actors.setdefault(task.id, Actor(task.id))
        if actor.task is None or actor.stale:
            actor.task = task  # where it was stale it is read anew all the same: there may be more
        self._rested.pop(task.id, None)
        return actor

    def rest(self, task: TaskState) -> None:
        """Remember the state of a new task, which may get its slot soon, as long as there is room."""
        if len(self._rested) < RESTED:
            self._rested[task.id] = task

    def state_of(self, task: TaskId) -> TaskState | None:
        """The task's newest state where it is in memory."""
        actor = self.actors.get(task)
        if actor is None:
            return self._rested.get(task)
        return None if actor.stale else actor.task

    def outdate(self, task: TaskId) -> None:
        """Somebody else has recorded a step of the task: its state is read anew."""
        self._rested.pop(task, None)
        actor = self.actors.get(task)
        if actor is not None:
            actor.stale = True

    def dismiss(self, actor: Actor) -> None:
        """Drop an actor that has no message and nothing at work; its row and the journal know the rest."""
        if self.actors.pop(actor.id, None) is None:
            return
        if actor.task is not None and actor.task.open and not actor.stale:
            self._rested[actor.id] = actor.task
            if len(self._rested) > RESTED:
                self._rested.popitem(last=False)

    def _list(self, actor: Actor) -> None:
        if not self._ready:
            self._wake.set()
        self._ready.append(actor)

    async def run(self) -> None:
        """Turn until canceled or broken."""
        while self.broken is None:
            if self._ready:
                # Whom the turn before has let go on comes first, and what it says goes along with the rest:
                # renames of some small files are recorded with the beginnings of the next, in one append.
                await anyio.lowlevel.checkpoint()
            else:
                self._wake = Signal()
                await self._wake.wait()
            await self._turn()

    async def _turn(self) -> None:
        ready, self._ready = self._ready, []
        unknown = [actor for actor in ready if actor.task is None or actor.stale]
        if unknown:
            failed = await self._load_all(unknown)
            ready = [actor for actor in ready if actor.id not in failed]
        now = self._clock.now()
        entries: list[Entry] = []
        steps = [step for actor in ready if (step := self._consider(actor, now, entries)) is not None]
        if steps:
            await self._commit(steps, entries)
        self._turned()

    async def _load_all(self, actors: Sequence[Actor]) -> set[TaskId]:
        """Read the states of actors, all with one call. Returns those that have none to work with now."""
        for actor in actors:
            actor.stale = False  # whoever records a step while they are read raises it again
        failed: set[TaskId] = set()
        unreadable: list[Actor] = []
        for actor, found in zip(actors, await self._load([each.id for each in actors]), strict=True):
            if isinstance(found, TaskState):
                actor.task = found
                if not actor.stale:
                    continue
                self._list(actor)
            elif isinstance(found, TaskNotFound | TaskQuarantined):
                self._refuse_all(actor, found)
            else:
                log.warning("task %s can't be read now (%s); trying again", actor.id, found)
                unreadable.append(actor)
            failed.add(actor.id)
        if unreadable:
            await anyio.sleep(REFUSED_PAUSE[0])
            for actor in unreadable:
                self._list(actor)
        return failed

    def _refuse_all(self, actor: Actor, error: MeowcatError) -> None:
        while actor.mailbox:
            answer = actor.mailbox.popleft().answer
            if answer is not None:
                answer.refuse(error)
        if actor.live is None:
            self.dismiss(actor)

    def _consider(self, actor: Actor, now: Instant, entries: list[Entry]) -> _Step | None:
        """Decide on the first message, and on what the same operation has reported behind it, as far as that
        makes events, too. Adds to `entries`. A first message that makes no event is answered at once."""
        task, source = actor.task, actor.mailbox[0].source
        step, error = None, None
        for envelope in actor.mailbox:
            message = envelope.message
            if envelope.source is not source or (
                # Of an operation that was stopped since: what it lacked may be there now.
                source is not None and source.canceled and isinstance(message, Faulted)
            ):
                break
            try:
                decision = decide(task, message, now)
            except Exception as defect:  # a defect in a rule must not end the loop of all other tasks
                if step is None:
                    log.exception("task %s: no decision on %s", actor.id, type(message).__name__)
                error = MeowcatError(f"no decision on {type(message).__name__}: {defect!r}")
                break
            if not decision.events:
                error = as_error(decision.refusal) if decision.refusal else None
                break
            added, task = entries_of(task, decision.events, now.at, decision.tasks)
            if not self._fit(added):
                error = JournalRejected("a record of the command is larger than the journal takes")
                break
            entries += added
            if step is None:
                step = _Step(actor, 1, decision.events, task)
            else:
                step.messages += 1
                step.events = (*step.events, *decision.events)
                step.after = task
            if source is None:
                break
        if step is None:
            self._came_to_nothing(actor, error)
        return step

    def _fit(self, entries: Sequence[Entry]) -> bool:
        return max(map(len, map(_body_of, entries))) <= self._max_record

    def _took(self, steps: Sequence[_Step]) -> None:
        """The events of the steps are durable."""
        if events_log.isEnabledFor(logging.DEBUG):
            for step in steps:
                for event in step.events:
                    events_log.debug("task %s: %s", step.actor.id, type(event).__name__)
        for step in steps:
            actor = step.actor
            actor.task = step.after
            answer = actor.mailbox.popleft().answer
            for _ in range(step.messages - 1):  # reports of an operation, which wait for no answer
                actor.mailbox.popleft()
            if actor.mailbox:
                self._list(actor)
            self._applied(actor, step.events, answer)

    def _came_to_nothing(self, actor: Actor, error: MeowcatError | None) -> None:
        """The first message leads to no event."""
        answer = actor.mailbox.popleft().answer
        if answer is not None and error is not None:
            answer.refuse(error)
            answer = None
        if actor.mailbox:
            self._list(actor)
        self._applied(actor, (), answer)

    async def _commit(self, steps: Sequence[_Step], entries: Sequence[Entry]) -> None:
        """`entries` are those of the steps."""
        try:
            if self._writer.idle:
                self._writer.append_now(entries)
            else:
                await self._writer.append(entries)
        except JournalFenced as lost:
            self.give_up(lost)
        except JournalClosed:
            self.give_up(EngineClosed("the engine is closed; open a new one"))
        except JournalConflict:  # a step that was recorded beside the actors came first
            for step in steps:
                step.actor.stale = True
                self._list(step.actor)
        except JournalRejected as rejected:
            await self._put_back(steps, rejected)
        except JournalError as uncertain:
            await self._resolve(steps, entries, uncertain)
        else:
            self._took(steps)
            self._accepted()

    async def _put_back(self, steps: Sequence[_Step], rejected: JournalRejected) -> None:
        """Nothing was stored: the messages wait at the head of their mailboxes until something can be."""
        self._refusals += 1
        least, most = REFUSED_PAUSE
        delay = min(most, least * 2 ** min(self._refusals, 10))
        self._refuses(str(rejected))
        log.warning("the journal takes no records now (%s); trying again in %.1f s", rejected, delay)
        await anyio.sleep(delay)
        if self._writer.poisoned is not None:
            try:
                await self._writer.recover()
            except JournalFenced as fenced:
                self.give_up(fenced)
                return
            except Exception as error:  # noqa: BLE001  # an adapter may raise anything; it is read again later
                log.warning("the journal can't be read again yet: %s", error)
        for step in steps:
            self._list(step.actor)

    async def _resolve(
        self, steps: Sequence[_Step], entries: Sequence[Entry], uncertain: JournalError
    ) -> None:
        """Stored or not? Reopen, read, and go on from what is true."""
        self._refusals += 1
        self._refuses(str(uncertain))
        log.warning("an append has no certain outcome (%s); reading the journal again", uncertain)
        while True:
            try:
                await self._writer.find_out(entries)
                await self._catch_up([step for step in steps if step.actor.stale])
            except JournalFenced as fenced:
                self.give_up(fenced)
                return
            except (JournalConflict, JournalRejected):  # nothing of it is there: all is decided anew
                for step in steps:
                    self._list(step.actor)
                break
            except Exception as error:  # noqa: BLE001  # an adapter may raise anything; it is read again later
                log.warning("the journal can't be read again yet: %s", error)
                await anyio.sleep(REFUSED_PAUSE[1])
            else:
                self._took(steps)
                break
        self._accepted()

    async def _catch_up(self, steps: Sequence[_Step]) -> None:
        """Somebody else has recorded more since these steps: the tasks are those after all of it."""
        for step, found in zip(steps, await self._load([each.actor.id for each in steps]), strict=True):
            if isinstance(found, TaskState):
                step.after = found
            elif not isinstance(
                found, TaskNotFound | TaskQuarantined
            ):  # the next look at the task says which
                raise found

    def _accepted(self) -> None:
        if self._refusals:
            self._refusals = 0
            self._refuses("")

    def give_up(self, error: MeowcatError) -> None:
        """Nothing can be recorded any more, so nothing may happen any more."""
        self.broken = error
        self._lost(error)
        for actor in tuple(self.actors.values()):
            if actor.live is not None:
                actor.live.cancel()
            self._refuse_all(actor, error)
        self._wake.set()
