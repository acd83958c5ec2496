"""Turns of the dispatcher, with messages that come while it reads."""

import anyio
import pytest
from msgspec.structs import replace

from journal_adapters.memory import MemoryJournal, Store
from meowcat.core import events as ev
from meowcat.core import messages as msg
from meowcat.core.errors import JournalUncertain, TaskNotFound
from meowcat.core.machine import State
from meowcat.core.state import evolve, fold
from meowcat.core.transfers import Download
from meowcat.core.values import FileIdentity, Generation, TaskId
from meowcat.core.wanted import Fetch
from meowcat.journal.replay import fold_task
from meowcat.journal.writer import Writer
from meowcat.runtime.actor import Actor, Answer, Envelope, Live
from meowcat.runtime.dispatcher import Dispatcher, entries_of
from meowcat.runtime.world import Clock
from meowcat.testing.journal_suite import OWNER

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]

TASK = TaskId("T")
REQUEST = Download("https://host.example/x", "/x")
CREATED = ev.Created(state=State.QUEUED, task=TASK, key="/x", at=0, request=REQUEST)
ADMITTED = ev.Admitted(state=State.RUNNING, run=1)
AT_WORK = fold([CREATED, ADMITTED])
PROBED = msg.Probed(run=1, restarts=0, generation=Generation(size=1, ranges=True, etag='"a"', strong=True))
FLUSHED = msg.Flushed(
    run=1, restarts=0, pieces=((0, 1),), digests=b"d" * 32, file=FileIdentity(device=1, inode=1)
)


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def turn_over(finds, first, meanwhile):
    """Put `first` into the mailbox of a task that is at rest, and `meanwhile` while it is read, which `finds`
    what is given.

    Returns:
        The dispatcher after that.
    """
    journal = MemoryJournal(store=Store())
    journal.open(OWNER, "process")
    journal.append(entries_of(None, [CREATED, ADMITTED], 0)[0])

    async def load(tasks):
        if meanwhile:
            dispatcher.put(actor, meanwhile.pop())
        return [finds for _ in tasks]

    def nothing(*_):
        pass

    meanwhile = [meanwhile]
    writer = Writer(journal, "process")
    dispatcher = Dispatcher(writer, Clock(), 1 << 20, load, nothing, nothing, nothing, nothing)
    actor = dispatcher.actors[TASK] = Actor(TASK)
    dispatcher.put(actor, first)
    async with anyio.create_task_group() as group:
        group.start_soon(dispatcher.run)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    await writer.aclose()
    return dispatcher


async def test_a_report_that_comes_while_the_task_is_read_is_taken_with_the_one_before():
    live = Live(Actor(TASK), Fetch(run=1, restarts=0), None)
    dispatcher = await turn_over(AT_WORK, Envelope(PROBED, None, live), Envelope(FLUSHED, None, live))
    actor = dispatcher.actors[TASK]
    assert actor.task.generation == PROBED.generation
    assert actor.task.stored
    assert not actor.mailbox


async def test_a_command_that_comes_while_no_task_is_found_is_refused_with_the_one_before():
    answers = [Answer(), Answer()]
    await turn_over(TaskNotFound("none"), *(Envelope(msg.Pause(), answer) for answer in answers))
    for answer in answers:
        await answer.wait()
        with pytest.raises(TaskNotFound, match="none"):
            answer.outcome()


async def test_each_event_that_is_stored_is_a_line_of_the_log_for_who_asks(caplog):
    caplog.set_level("DEBUG", "meowcat.engine")
    live = Live(Actor(TASK), Fetch(run=1, restarts=0), None)
    await turn_over(AT_WORK, Envelope(PROBED, None, live), Envelope(FLUSHED, None, live))
    told = [each.getMessage() for each in caplog.records if each.name == "meowcat.engine"]
    assert told == [f"task {TASK}: {name}" for name in ("Started", "Stored", "PublishIntended")]


class Counted(MemoryJournal):
    """Knows how many records came at once."""

    def __init__(self):
        super().__init__(store=Store())
        self.batches = []

    def append(self, batch):
        self.batches.append(len(batch))
        return super().append(batch)


async def test_what_a_turn_leads_to_at_once_is_recorded_together_with_what_it_wakes():
    """As the slot that is free once a file is intended to be renamed, and the rename."""
    journal, woken, other = Counted(), anyio.Event(), TaskId("U")
    journal.open(OWNER, "process")
    journal.append(entries_of(None, [CREATED, ADMITTED], 0)[0])
    journal.append(entries_of(None, [replace(CREATED, task=other), ADMITTED], 0)[0])
    told = []

    def note(actor, *_):
        told.append(actor.id)
        if len(told) == 1:
            woken.set()
            dispatcher.post(other, msg.Pause())

    async def answer():
        await woken.wait()
        dispatcher.post(TASK, msg.Resume())

    def nothing(*_):
        pass

    writer = Writer(journal, "process")
    dispatcher = Dispatcher(writer, Clock(), 1 << 20, None, note, nothing, nothing, nothing)
    dispatcher.adopt(AT_WORK)
    dispatcher.adopt(replace(AT_WORK, id=other))
    async with anyio.create_task_group() as group:
        group.start_soon(answer)
        await anyio.wait_all_tasks_blocked()
        dispatcher.post(TASK, msg.Pause())
        group.start_soon(dispatcher.run)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    await writer.aclose()
    assert sorted(told) == [TASK, TASK, other]
    assert journal.batches == [2, 2, 1, 2]


class Doubtful(MemoryJournal):
    """Its first append of a command stores what it is told to, and nobody learns what before `look` was
    called."""

    def __init__(self, stored, look):
        super().__init__(store=Store())
        self.stored, self.look = stored, look

    def append(self, batch):
        position = super().append(self.stored if self.stored and len(batch) == 1 else batch)
        if self.stored and len(batch) == 1:
            self.stored = None
            raise JournalUncertain("the disk did not answer")
        return position

    def reopen(self):
        if self.look is not None:
            look, self.look = self.look, None
            look()
            raise JournalUncertain("the disk does not answer yet")
        return super().reopen()


async def pause_in_doubt(*stored, more=False):
    """Pause a task at work, where these events are in the journal by the time that it can be read again;
    `more`: somebody else says that of some.

    Returns:
        The task as the dispatcher knows it after that, and what was applied: the events of each message.
    """
    journal = Doubtful(entries_of(AT_WORK, stored, 0)[0], lambda: more and dispatcher.outdate(TASK))
    journal.open(OWNER, "process")
    journal.append(entries_of(None, [CREATED, ADMITTED], 0)[0])
    applied, done = [], anyio.Event()

    async def load(tasks):
        return [fold_task(task, journal.read(task), evolve) for task in tasks]

    def nothing(*_):
        pass

    def note(_, events, __):
        applied.append(tuple(events))
        done.set()

    writer = Writer(journal, "process")
    dispatcher = Dispatcher(writer, Clock(), 1 << 20, load, note, nothing, nothing, nothing)
    answer = Answer()
    actor = dispatcher.adopt(AT_WORK)
    dispatcher.post(TASK, msg.Pause(), answer)
    async with anyio.create_task_group() as group:
        group.start_soon(dispatcher.run)
        await done.wait()
        group.cancel_scope.cancel()
    await writer.aclose()
    return actor.task, applied, answer


PAUSED, CANCELED = ev.Paused(state=State.PAUSED, reason="asked to"), ev.Canceled(state=State.CANCELED)


async def test_a_step_in_doubt_that_stands_in_the_journal_was_taken():
    task, applied, _ = await pause_in_doubt(PAUSED)
    assert task.state is State.PAUSED
    assert applied == [(PAUSED,)]


async def test_a_step_in_doubt_in_whose_place_another_one_stands_was_not_taken():
    task, applied, answer = await pause_in_doubt(CANCELED, more=True)
    assert task.state is State.CANCELED
    assert applied == [()]
    with pytest.raises(TaskNotFound, match="it is Canceled"):
        answer.outcome()


async def test_a_step_in_doubt_on_which_another_one_follows_was_taken_and_the_task_is_that_after_both():
    task, applied, _ = await pause_in_doubt(PAUSED, CANCELED, more=True)
    assert task.state is State.CANCELED
    assert applied == [(PAUSED,)]
