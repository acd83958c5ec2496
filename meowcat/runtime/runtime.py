"""The parts of a running engine, put together: journal, actors, operations and what they share."""

import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

import anyio
from anyio.abc import TaskGroup
from msgspec.structs import replace

from meowcat.audit.keys import Signer
from meowcat.audit.settings import Audit
from meowcat.config import Config
from meowcat.core import messages as msg
from meowcat.core.crowd import Crowds
from meowcat.core.decide import decide
from meowcat.core.errors import (
    EngineClosed,
    InvalidArgument,
    InvalidTaskState,
    JournalConflict,
    JournalDamaged,
    TaskNotFound,
    TaskQuarantined,
)
from meowcat.core.events import Event
from meowcat.core.info import HostInfo, Orphan
from meowcat.core.machine import ACTIVE, State
from meowcat.core.seal import Secrets, missing
from meowcat.core.state import TaskState, evolve
from meowcat.core.transfers import Download, Request
from meowcat.core.urls import host_of
from meowcat.core.values import Position, TaskId
from meowcat.core.wanted import Wanted, wanted, wants_slot
from meowcat.journal.checkup import IMPORTING, UNFINISHED
from meowcat.journal.codec import decode
from meowcat.journal.contract import Damage, FileJournal, Journal, Owner, Record
from meowcat.journal.histories import AT_ONCE
from meowcat.journal.replay import Quarantined, fold_all
from meowcat.journal.writer import Writer
from meowcat.protocols.contract import UploadProtocol
from meowcat.runtime.actor import Answer
from meowcat.runtime.appends import Appends
from meowcat.runtime.auditing import Auditor
from meowcat.runtime.bus import Bus, Feed
from meowcat.runtime.delivery import Deliveries
from meowcat.runtime.dispatcher import Dispatcher, entries_of
from meowcat.runtime.fetches import Fetches
from meowcat.runtime.hosts import host_infos
from meowcat.runtime.limits import Budget
from meowcat.runtime.listeners import Listener, Listeners, Subscription
from meowcat.runtime.orphans import orphans_of, stands
from meowcat.runtime.reconcile import Reconciler
from meowcat.runtime.recovery import OnRestart, read_tasks, recover
from meowcat.runtime.registry import Registry, Row
from meowcat.runtime.traffic import Traffic
from meowcat.runtime.world import Clock, Threads
from meowcat.transfer.context import Errand, Running, World
from meowcat.transfer.operations import operation_for
from meowcat.transfer.plugged import upload_protocol_for, whole_digests

T = TypeVar("T")

log = logging.getLogger("meowcat.engine")

CLOSE_WITHIN = 10.0
"""Seconds that a close waits for operations to end and to be recorded."""

NO_SECRETS = Secrets()

PAGE = 1000
"""Records read from the journal at once."""


_AGAIN = 0.01
"""Seconds until a task is looked at again whose state and whose row say different things."""


class Runtime:
    """Everything between the public API and the journal. One per opened engine."""

    def __init__(
        self,
        journal: Journal,
        config: Config,
        world: World,
        clock: Clock,
        tasks: TaskGroup,
        audit: Audit | None = None,
    ) -> None:
        self.journal = journal
        self._holds = journal.holds if isinstance(journal, FileJournal) else None
        self._audit = audit
        self.auditor: Auditor | None = None
        self.config = config
        self.clock = clock
        self._world = world
        self._tasks = tasks
        self._threads = Threads(4, world.workers)
        self.registry = Registry()
        self.bus = Bus(clock.monotonic, Position(0))
        self.listeners = Listeners(self.bus, self)
        self.deliveries = Deliveries(self, clock, tasks)
        self.fetches = Fetches(world, config.max_fetches, config.fetch_capacity)
        self.secrets: dict[TaskId, Secrets] = {}
        self.quarantined: dict[TaskId, str] = {}
        self._crowds = Crowds()
        self.traffic = Traffic(
            world.budget, config.max_requests, clock.monotonic, config.limit_rate, config.limit_rate_per_host
        )
        command = os.path.basename(sys.argv[0] or "python")  # noqa: PTH119  # a name, not a path
        self.owner = Owner(os.getpid(), socket.gethostname(), command)
        self._stop = anyio.CancelScope()
        self._leaves = False
        """Whether the past stays as it is until a command names a task of it (`on_restart="leave"`)."""
        self._ended = anyio.Event()
        self._writer: Writer | None = None
        self.room = anyio.Semaphore(config.queue_capacity, fast_acquire=True)
        """Places for commands that wait."""

    # Opening and closing

    async def open(self, on_restart: OnRestart) -> None:
        """Take the journal, recover what it has, and start."""
        try:
            await self._open(on_restart)
        except BaseException:  # raised again: a journal that stays open would be owned by nobody who uses it
            with anyio.CancelScope(shield=True):
                if self._writer is not None:
                    await self._writer.aclose()
                await self._threads.run(self.journal.close)
            raise

    async def _open(self, on_restart: OnRestart) -> None:
        signer = None if self._audit is None else await self._threads.run(self._audit.signer)
        await self._threads.run(partial(self.journal.open, self.owner, self.config.durability))
        if IMPORTING in await self._threads.run(self.journal.cursors):
            raise JournalDamaged(UNFINISHED)
        self._leaves = on_restart == "leave"
        self._assemble(signer)
        await self._recover(on_restart)

    def _assemble(self, signer: Signer | None) -> None:
        """Make the parts that need an open journal."""
        threaded = None if self._world.workers.threaded else False
        self.writer = self._writer = Writer(self.journal, self.config.durability, threaded=threaded)
        if self._audit is not None and signer is not None:
            self.auditor = Auditor(
                self._audit, signer, self.journal, self.writer, self.bus, self._threads, engine=self
            )
        self.reconciler = Reconciler(
            self._tasks,
            self.clock,
            self.registry,
            self.bus,
            self._start,
            self.missing,
            self._forget,
            slots=(0, 0) if self._leaves else (self.config.max_downloads, self.config.max_uploads),
            per_host=self.config.max_per_host,
            traffic=self.traffic,
            max_retry_after=int(self.config.max_retry_after * 1000),
        )
        self.dispatcher = Dispatcher(
            self.writer,
            self.clock,
            self.journal.max_record,
            self.load_all,
            self.reconciler.applied,
            self._turned,
            self._refuses,
            self.bus.fail,
        )
        self.reconciler.dispatcher = self.dispatcher
        self._appends = Appends(self.writer, self.bus, self._tasks, lambda: self.dispatcher.broken)

    async def _recover(self, on_restart: OnRestart) -> None:
        """Take up what the journal has, and start."""
        owing: list[TaskState] = []

        def take(tasks: Sequence[TaskState]) -> None:
            for task in tasks:
                if self._leaves:  # no timer and no settling work either: it is the next opening's
                    self.registry.note(task)
                elif not self._line_up(task):
                    owing.append(task)

        has = self._world.plugins.has
        self.quarantined = await recover(
            self.journal, self.writer, on_restart, self.clock, self._threads, has, take
        )
        self.bus.position = await self._threads.run(self.journal.last)
        self._tasks.start_soon(self._run)
        for task in owing:
            self._take_up(task)
        self.reconciler.grant()

    async def _run(self) -> None:
        try:
            with self._stop:
                async with anyio.create_task_group() as loops:
                    loops.start_soon(self.reconciler.keep_time)
                    if self.auditor is not None:
                        loops.start_soon(self.auditor.run)
                    await self.dispatcher.run()
                    loops.cancel_scope.cancel()
        finally:
            if self.dispatcher.broken is None:
                self.dispatcher.give_up(EngineClosed("the engine is closed; open a new one"))
            self._ended.set()

    def _take_up(self, task: TaskState) -> None:
        """A task from the past: a row, and an actor where something is owed or a time is waited for."""
        if self._line_up(task):
            return
        row = self.registry.note(task)
        self.reconciler.reconcile(self.dispatcher.adopt(task))
        if row is not None:
            self._tell_if_met(row)

    def _line_up(self, task: TaskState) -> bool:
        """Give a task its row, and its place in line, where that is all that it needs. Whether it is."""
        if wanted(task) is not None or (task.wait is not None and task.wait.delay is not None):
            return False
        row = self.registry.note(task)
        if row is not None and task.wait is not None:
            self._tell_if_met(row)
        elif row is not None and wants_slot(task):
            self.reconciler.scheduler.request(row)
        return True

    def _tell_if_met(self, row: Row) -> None:
        """What the task waited for may be registered now."""
        if row.lack.helpless and row.lack.needs and not self.missing(row):
            self.dispatcher.post(row.id, msg.Supply(names=row.lack.needs))

    def attend(self, task: TaskState) -> None:
        """Somebody waits for what the task owes: where the past was left as it is, it is taken up now."""
        if self._leaves and self.registry.get(task.id) and task.id not in self.dispatcher.actors:
            self._take_up(task)

    async def close(self) -> None:
        """Stop what runs, record that it was stopped in good order, and give the journal back."""
        with anyio.move_on_after(CLOSE_WITHIN, shield=True) as patience:
            await self.fetches.close()
            await self._stop_operations()
        self.reconciler.pool.close()
        if patience.cancelled_caught:
            log.warning("closing: not everything ended within %.0f s", CLOSE_WITHIN)
        await self.deliveries.close()
        with anyio.CancelScope(shield=True):
            await self.listeners.close(self._threads)
            self._stop.cancel()
            await self._ended.wait()
            if self.auditor is not None:  # now that nothing more is recorded
                await self.auditor.close()
            await self.writer.aclose()
            await self._threads.run(self.journal.close)

    async def _stop_operations(self) -> None:
        self.reconciler.closing = True
        self.traffic.close()
        actors = self.dispatcher.actors
        for actor in tuple(actors.values()):
            if actor.task is not None:
                self.reconciler.reconcile(actor)
        for actor in tuple(actors.values()):
            if actor.live is not None:
                await actor.live.ended()
        rows = [row for row in self.registry if self._owes_a_record(row)]
        # Who waits comes last: a host that is down may let ten thousands wait, and to the next opening an end
        # without a record is no crash of theirs.
        owing = [row.id for row in sorted(rows, key=lambda row: row.lack.waits)]
        for first in range(0, len(owing), AT_ONCE):
            tasks = owing[first : first + AT_ONCE]
            try:
                await self.command_many(tasks, partial(msg.Requeue, reason="the engine was closed"))
            except Exception as error:  # noqa: BLE001  # an adapter may raise anything; then they are found as after a crash
                log.warning("tasks %s … were not requeued: %s", tasks[0], error)

    def _owes_a_record(self, row: Row) -> bool:
        """Whether a close has to wait for the task: it was at work here, or settling work has reported.

        What was left as it was never ran here: to the next opening it is a crash, and has to stay one.
        """
        if row.state in ACTIVE:
            return not self._leaves
        actor = self.dispatcher.actors.get(row.id)
        return actor is not None and bool(actor.mailbox)

    # Commands

    def refuse_own_file(self, request: Request) -> None:
        """Refuse a download that would write over the journal.

        Raises:
            InvalidArgument: its target is a file of the journal.
        """
        if self._holds is not None and isinstance(request, Download) and self._holds(request.to):
            raise InvalidArgument(f"to {request.to!r}: a file of the journal itself; choose another path")

    async def command(self, task: TaskId, message: msg.Message) -> TaskState:
        """Send a message and wait until what it caused is durable."""
        if task in self.quarantined:
            raise TaskQuarantined(f"task {task} is quarantined: {self.quarantined[task]}")
        if self.registry.get(task) is None:
            raise TaskNotFound(f"task {task} has ended, or is unknown to this journal")
        answer = Answer()
        self.dispatcher.post(task, message, answer)
        await answer.wait()
        return answer.outcome()

    async def command_in_turn(self, task: TaskId, message: msg.Message) -> None:
        """`command`, once there is room for one more that waits."""
        async with self.room:
            await self.command(task, message)

    async def supply(self, task: TaskId, secrets: Secrets | None, message: msg.Supply) -> None:
        """Send what was supplied; its secrets are held from before that: work begins with them at once."""
        if secrets is not None:
            self.secrets[task] = secrets
        try:
            await self.command(task, message)
        except (TaskNotFound, TaskQuarantined):
            self._forget(task)
            raise

    async def limit_task(self, task: TaskState, rate: int | None) -> None:
        """Record another limit of the task's own, which holds at once."""
        request = replace(task.request, limit_rate=rate)
        await self.command(task.id, msg.Supply(names=("limit_rate",), request=request))

    def hosts(self) -> dict[str, HostInfo]:
        """What there is to say of hosts."""
        return host_infos(self.reconciler.scheduler, self.traffic, self.clock)

    def _forget(self, task: TaskId) -> None:
        """Nothing more is done for the task here."""
        self.secrets.pop(task, None)
        self._world.plugins.tools.refreshers.forget(task)

    async def create(self, creations: Sequence[msg.Create]) -> list[TaskState]:
        """Record new tasks with one append and put them in line; their keys are nobody's.

        Once begun it is seen through, also when canceled: what is recorded must be known.
        """
        keys = {creation.key: creation.task for creation in creations}
        self.registry.claim(keys)

        async def claimed() -> list[TaskState]:
            try:
                return await self._create(creations)
            except BaseException:  # raised again: the keys of what was not created are nobody's
                self.registry.unclaim(keys)
                raise
            finally:
                self.bus.stir()

        return await self._appends.see_through(claimed)

    async def _create(self, creations: Sequence[msg.Create]) -> list[TaskState]:
        entries, tasks = [], []
        now = self.clock.now()
        for creation in creations:
            added, task = entries_of(None, decide(None, creation, now).events, now.at)
            entries += added
            tasks.append(task)
        await self._appends.append(entries)
        scheduler, rest = self.reconciler.scheduler, self.dispatcher.rest
        for task in tasks:
            row = self.registry.add(task)
            self.bus.announce(task)
            if wants_slot(task):
                rest(task)
                scheduler.request(row)
        self.reconciler.grant()
        return tasks

    async def command_many(self, tasks: Sequence[TaskId], make: Callable[[], msg.Message]) -> list[TaskId]:
        """Send a message to many tasks; those that have no actor are dealt with in one append."""
        at_rest = [each for each in tasks if each not in self.dispatcher.actors]
        try:
            done = await self._appends.see_through(partial(self._command_at_rest, at_rest, make))
        except JournalConflict:
            done = []  # some of them came alive meanwhile: then all go the long way
        answers = []
        passed = set(done)
        for each in tasks:
            if each not in passed and self.registry.get(each) is not None:
                answers.append((each, Answer()))
                self.dispatcher.post(each, make(), answers[-1][1])
        for each, answer in answers:
            await answer.wait()
            try:
                answer.outcome()
            except (TaskNotFound, InvalidTaskState, TaskQuarantined):
                continue  # it ended by itself first, somebody else was faster, or it can't be read any more
            done.append(each)
        return done

    async def _command_at_rest(
        self, tasks: Sequence[TaskId], make: Callable[[], msg.Message]
    ) -> list[TaskId]:
        loaded = await self._load_there(tasks)
        entries, after, set_going = [], [], []
        now = self.clock.now()
        for task in loaded:
            if task.id in self.dispatcher.actors:
                continue  # it came alive while the others were read
            message = make()
            events = decide(task, message, now).events
            if events:
                added, moved = entries_of(task, events, now.at)
                entries += added
                after.append(moved)
                if isinstance(message, msg.Resume | msg.Retry):
                    set_going.append(moved)
        if not after:
            return []
        if await self._appends.append(entries):
            moved_on = partial(self._load_there, [task.id for task in after])
            after = await self._appends.once_readable(moved_on)
        for task in after:
            self._took_step(task)
        for task in set_going:
            self.reconciler.try_now(task)
        self.reconciler.grant()  # to those that were set going
        return [task.id for task in after]

    def _took_step(self, task: TaskState) -> None:
        if not task.open:
            self._forget(task.id)
        self.reconciler.scheduler.withdraw(task.id)
        self.bus.publish(task)
        self.dispatcher.outdate(task.id)
        self.registry.place(task)
        self._take_up(task)

    # What actors need

    def _refuses(self, refusal: str) -> None:
        self.bus.refuse(refusal)
        if not refusal:
            self.reconciler.journal_accepts()

    def _turned(self) -> None:
        """Messages were dealt with; also those that came to nothing are waited for, until nothing moves."""
        self.bus.grew(self.writer.last_position)
        self.reconciler.grant()

    async def load(self, task: TaskId) -> TaskState:
        """The task's state from its records.

        Raises:
            TaskNotFound: it has none. TaskQuarantined: they are damaged.
        """
        (found,) = await self.load_all([task])
        if isinstance(found, Exception):
            raise found
        return found

    async def state_of(self, task: TaskId) -> TaskState:
        """The task's state from memory, or else from its records. Raises as `load`."""
        known = self.dispatcher.state_of(task)
        if known is not None:
            return known
        read = await self.load(task)
        return self.dispatcher.state_of(task) or read  # which a step may have made old meanwhile

    async def load_all(self, tasks: Sequence[TaskId]) -> list[TaskState | Exception]:
        """The states of many tasks with one hop to a thread, or of each why not."""
        found = await self._threads.run(partial(read_tasks, self.journal, tasks))
        return [self._set_aside(each) if isinstance(each, Quarantined) else each for each in found]

    async def feed_of(self, task: TaskId) -> Feed:
        """The task's feed, ended or not. Raises as `load`."""
        while True:
            state = await self.state_of(task)
            row = self.registry.get(state.id)
            # Until both say the same: it took a step while its records were read.
            if state.state == (row.state if row is not None else state.state) and state.open == (
                row is not None
            ):
                return self.bus.watch(state)
            # The row is the older one while it is not known what became of a command for many, which takes
            # time where the journal can't be read now; and the loop must go on meanwhile.
            await anyio.sleep(_AGAIN)

    async def _load_there(self, tasks: Sequence[TaskId]) -> list[TaskState]:
        return _there(await self.load_all(tasks))

    def _set_aside(self, damaged: Quarantined) -> TaskQuarantined:
        """A task whose records were damaged while the journal was open is kept out, as at an opening; but not
        one that has an actor which knows it from before."""
        task, error = damaged.task, TaskQuarantined(f"task {damaged.task} is quarantined: {damaged.detail}")
        actor = self.dispatcher.actors.get(task)
        if self.registry.get(task) is None or (actor is not None and actor.task is not None):
            return error
        log.error("%s", error)
        self.quarantined[task] = damaged.detail
        self._forget(task)
        self.dispatcher.outdate(task)
        self.reconciler.drop(task)
        feed = self.bus.watched(task)
        if feed is not None:
            feed.fail(error)
        self.bus.stir()
        return error

    async def states_of(self, tasks: Sequence[TaskId]) -> list[TaskState]:
        """The states of many tasks with one visit to the journal, but for those that it has not got yet."""
        actors = self.dispatcher.actors
        known = {each: self.dispatcher.state_of(each) for each in tasks if each in actors}
        rest = [each for each in tasks if known.get(each) is None]
        found = known | dict(zip(rest, await self.load_all(rest), strict=True))
        return _there([state for each in tasks if (state := found[each]) is not None])

    def missing(self, row: Row) -> tuple[str, ...]:
        """What the task needs and nobody has supplied since the journal was opened."""
        if not row.lack.needs:
            return ()
        plugins = self._world.plugins
        return tuple(
            name for name in missing(row.lack.needs, self.secrets.get(row.id)) if not plugins.has(name)
        )

    async def registered(self, need: str) -> None:
        """Something is registered that tasks may wait for."""
        for row in self.registry:
            if row.lack.helpless and need in row.lack.needs:
                self.dispatcher.post(row.id, msg.Supply(names=(need,)))

    async def orphans(self) -> list[Orphan]:
        """See `Engine.orphans`."""
        return await orphans_of(await self.all_tasks(), self._upload_protocol)

    def _upload_protocol(self, task: TaskState) -> UploadProtocol:
        size = task.generation.size if task.generation else None
        errand = self._errand(task, lambda _: None)
        return upload_protocol_for(self._world, errand, size or 0, whole_digests(task))

    async def stands(self, task: TaskState) -> bool:
        """See `Engine.stands`."""
        return await stands(task, self._upload_protocol)

    async def reap(self) -> list[TaskId]:
        """See `Engine.abort_orphans`."""
        tasks = [each.id for each in await self.all_tasks() if each.left or each.condemned]
        feeds = []
        async with self.room:
            await self.command_many(tasks, msg.Reap)
        for task in tasks:
            state = await self.state_of(task)
            feeds.append(self.bus.watch(state))
            self.attend(state)
        for feed in feeds:
            while feed.task.condemned and feed.task.wait is None:
                await feed.beyond(feed.version)
        return tasks

    def _start(self, task: TaskState, want: Wanted, report: Callable[[msg.Message], None]) -> Running:
        if self._leaves:  # no opening has recorded a crash of it: what was intended may have been done since
            task = replace(task, intended=0)
        return operation_for(self._world, self._errand(task, report), want.operation)

    def _errand(self, task: TaskState, report: Callable[[msg.Message], None]) -> Errand:
        host = host_of(task.request.url)
        share = self.traffic.share(task.id, host, task.request.limit_rate)
        return Errand(
            task=task,
            secrets=self.secrets.get(task.id, NO_SECRETS),
            report=report,
            histories=self,
            throttle=share,
            requests=share,
            crowd=self._crowds.of(f"{task.request.direction} {host}", self.clock.monotonic()),
        )

    # Reading

    async def events_of(self, task: TaskId) -> AsyncIterator[Event]:
        """The task's events from the first to the newest durable one."""
        for record in await self.records_of(task):
            yield decode(record.type, record.version, record.body)

    async def records_of(self, task: TaskId, after: int = 0) -> list[Record]:
        """The task's records with a `seq` above `after`.

        Raises:
            JournalDamaged: one is not what was written. TaskNotFound: it has none.
        """
        found = await self._threads.run(partial(self.journal.read, task, after))
        if not found and not after:
            raise TaskNotFound(f"task {task}: the journal has no such task")
        return [_sound(each) for each in found]

    async def records_after(self, position: Position, limit: int = PAGE) -> tuple[list[Record], Position]:
        """The next records of all tasks, at most `limit` of them, and how far they reach.

        What is damaged is left out: it is its task's alone, and is told by `history` and `quarantined`.
        """
        found = await self._threads.run(partial(self.journal.scan, position, limit))
        for each in found:
            if isinstance(each, Damage):
                log.error("events: passed over a damaged record: %s", each.detail)
        reached = max((each.position or position for each in found), default=position)
        return [each for each in found if isinstance(each, Record)], Position(max(reached, position))

    # What deliveries need

    def newest(self) -> Position:
        return self.bus.position

    async def grown(self, position: Position) -> None:
        await self.bus.beyond(position)

    async def last(self) -> Position:
        return await self._threads.run(self.journal.last)

    async def cursors(self) -> Mapping[str, Position]:
        return await self._threads.run(self.journal.cursors)

    async def set_cursor(self, name: str, position: Position | None) -> None:
        """Between two appends, as the contract asks for."""
        await self.writer.run(partial(self.journal.set_cursor, name, position))

    # Listening

    def listen(self, function: Listener, task: TaskId | None) -> Subscription:
        """Tell `function` of all tasks from now on; or of one, beginning with its present state.

        Raises:
            TaskNotFound: there is no such task, or it has ended and nobody holds a handle of it.
        """
        if task is None:
            return self.listeners.add(function, None)
        feed, actor = self.bus.watched(task), self.dispatcher.actors.get(task)
        present = feed.task if feed is not None else actor.task if actor is not None else None
        if present is None and self.registry.get(task) is None:
            raise TaskNotFound(f"task {task} has ended, or is unknown; ask for its handle first")
        subscription = self.listeners.add(function, task)
        if present is not None:
            subscription.offer(present)
        else:
            self._tasks.start_soon(self._tell_present, subscription, task)
        return subscription

    async def _tell_present(self, subscription: Subscription, task: TaskId) -> None:
        try:
            present = await self.load(task)
        except Exception as error:  # noqa: BLE001  # an adapter may raise anything; the next step is told
            log.warning("task %s: its state can't be told to a new listener: %s", task, error)
        else:
            if not subscription.told:  # what came since is newer
                subscription.offer(present)

    async def all_tasks(self) -> list[TaskState]:
        """Every task of the journal that is not quarantined, ended or not. Reads all of it."""
        return list((await fold_all(self.journal, evolve)).tasks.values())

    async def drained(self) -> None:
        """Wait until nothing can happen any more without help from outside."""
        looked_at: Iterator[Row] = iter(())
        while True:
            # On from where the last look ended: beginning anew each time costs the square of a long queue.
            row = next(filter(self._moves, looked_at), None)
            if row is None:
                looked_at = iter(tuple(self.registry))
                row = next(filter(self._moves, looked_at), None)
            if row is None:
                return
            while self._moves(row):
                await self.bus.stirred()

    def _moves(self, row: Row) -> bool:
        if self.registry.get(row.id) is not row:
            return False  # it has ended
        actor = self.dispatcher.actors.get(row.id)
        told = actor is not None and bool(actor.mailbox)  # of what it waits for, perhaps
        if row.state in (State.PAUSED, State.FAILED):
            return told or (actor is not None and actor.live is not None)
        return told or not (row.lack.waits and row.lack.helpless)


def _there(found: Sequence[TaskState | Exception]) -> list[TaskState]:
    """Of what `load_all` found, the tasks; those that the journal has not got, or not whole, are left out.

    Raises:
        Exception: what reading one of them raised, if it could not be read at this moment.
    """
    for each in found:
        if isinstance(each, Exception) and not isinstance(each, TaskNotFound | TaskQuarantined):
            raise each
    return [each for each in found if isinstance(each, TaskState)]


def _sound(record: Record | Damage) -> Record:
    if isinstance(record, Damage):
        raise JournalDamaged(record.detail)
    return record


def budget(config: Config) -> Budget:
    return Budget(config.max_requests, config.max_in_flight)
