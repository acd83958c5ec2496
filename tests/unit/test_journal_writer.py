"""The writer: groups, cancellation, rejection, doubt. On real adapters; doubt is injected by a subclass."""

import asyncio
import threading
from functools import partial

import anyio
import pytest

from journal_adapters.memory import MemoryJournal, Store
from journal_adapters.sqlite import SQLiteJournal
from meowcat.core.errors import (
    JournalClosed,
    JournalConflict,
    JournalError,
    JournalFenced,
    JournalRejected,
    JournalUncertain,
)
from meowcat.journal.commit import Batch, Committer
from meowcat.journal.writer import Writer
from meowcat.testing.journal_suite import OWNER, check_stored, entry, given, scan_all

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture(params=["power", "process"])
def sync(request):
    return request.param


class Trying(MemoryJournal):
    """Counts its appends, waits where it is told, and fails like a disk."""

    def __init__(self):
        super().__init__(store=Store())
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.fail = None
        self.stores = False
        self.reopens = 0
        self.reopening_fails = 0
        self.reopening_error = OSError(5, "I/O error")
        self.reading_error = None
        self.open(OWNER, "power")

    def append(self, batch):
        self.entered.set()
        assert self.gate.wait(10)
        self.batches.append(len(batch))
        if self.fail is None:
            return super().append(batch)
        failure, self.fail = self.fail, None
        if self.stores:
            super().append(batch)
        raise failure

    def reopen(self):
        self.reopens += 1
        if self.reopening_fails:
            self.reopening_fails -= 1
            raise self.reopening_error
        return super().reopen()

    def read(self, task, after=0):
        failure, self.reading_error = self.reading_error, None
        if failure is not None:
            raise failure
        return super().read(task, after)


@pytest.fixture
def journal():
    return Trying()


async def gather(writer, *batches):
    """What becomes of appends that begin at once."""
    outcomes = [None] * len(batches)

    async def one(number, batch):
        try:
            outcomes[number] = await writer.append(batch)
        except Exception as error:  # noqa: BLE001  # the outcome, whichever
            outcomes[number] = error

    async with anyio.create_task_group() as group:
        for number, batch in enumerate(batches):
            group.start_soon(one, number, batch)
    return outcomes


async def test_callers_at_once_share_one_append_and_stay_whole(journal, sync):
    writer = Writer(journal, sync)
    batches = [[entry(f"t{n}", 1), entry(f"t{n}", 2)] for n in range(20)]
    outcomes = await gather(writer, *batches)
    await writer.aclose()
    assert journal.batches == [40]
    assert sorted(outcomes) == list(range(2, 41, 2))
    for batch, last in zip(batches, outcomes, strict=True):
        assert [given(record) for record in scan_all(journal)[last - 2 : last]] == batch
    assert writer.last_position == 40


async def test_groups_are_bounded_by_records_and_bytes(journal, sync):
    writer = Writer(journal, sync, max_records=3, max_bytes=100)
    await gather(writer, *[[entry(f"t{n}", 1)] for n in range(7)])
    await gather(writer, *[[entry(f"u{n}", 1, bytes(60))] for n in range(3)])
    await writer.append([entry("v", seq) for seq in range(1, 9)])
    await writer.aclose()
    assert journal.batches == [3, 3, 1, 1, 1, 1, 8]


async def test_only_the_guilty_is_rejected(journal, sync):
    writer = Writer(journal, sync)
    await writer.append([entry("a", 1)])
    large = [entry("c", 1, bytes(journal.max_record + 1))]
    outcomes = await gather(writer, [entry("b", 1)], [entry("a", 1)], large, [entry("d", 1)])
    assert sorted([outcomes[0], outcomes[3]]) == [2, 3]
    assert isinstance(outcomes[1], JournalConflict)
    assert isinstance(outcomes[2], JournalRejected)
    await writer.append([entry("a", 2)])
    await writer.aclose()
    assert journal.last() == 4


@pytest.mark.parametrize("stored", [True, False])
async def test_after_a_doubtful_append_each_caller_hears_what_is_true(journal, sync, stored):
    writer = Writer(journal, sync)
    await writer.append([entry("a", 1)])
    journal.fail, journal.stores = OSError(5, "I/O error"), stored
    outcomes = await gather(writer, [entry("a", 2)], [entry("b", 1), entry("b", 2)])
    assert journal.reopens == 1
    if stored:
        assert sorted(outcomes) in ([2, 4], [3, 4])
    else:
        assert {type(outcome) for outcome in outcomes} == {JournalRejected}
    following = await writer.append([entry("c", 1)])
    assert following == journal.last() == (5 if stored else 2)
    await writer.aclose()


async def test_an_older_record_of_the_same_text_is_not_taken_for_this_append(journal):
    writer = Writer(journal, "process")
    await writer.append([entry("a", 1)])
    journal.fail, journal.stores = OSError(5, "I/O error"), False
    with pytest.raises(JournalConflict):
        await writer.append([entry("a", 1)])
    await writer.aclose()


async def test_while_in_doubt_nothing_is_written_until_it_recovers(journal, sync):
    writer = Writer(journal, sync)
    journal.fail, journal.stores, journal.reopening_fails = OSError(5, "I/O error"), True, 2
    with pytest.raises(JournalUncertain):
        await writer.append([entry("a", 1)])
    with pytest.raises(JournalRejected):
        await writer.append([entry("b", 1)])
    with pytest.raises(OSError, match="I/O error"):
        await writer.recover()
    assert writer.poisoned is not None
    assert await writer.recover() == 1
    assert writer.poisoned is None
    assert await writer.append([entry("b", 1)]) == 2
    await writer.aclose()


class Panic(BaseException):
    """As pyo3's PanicException: no Exception."""


@pytest.mark.parametrize("raised", [Panic("panicked"), asyncio.CancelledError()], ids=["panic", "cancelled"])
async def test_what_is_no_exception_is_a_failure_like_others(journal, sync, raised):
    writer = Writer(journal, sync)
    journal.fail, journal.stores = raised, False
    with anyio.fail_after(10), pytest.raises(JournalRejected, match=r"panicked|CancelledError"):
        await writer.append([entry("a", 1)])
    journal.fail, journal.stores, journal.reopening_fails = raised, True, 1
    journal.reopening_error = raised
    with anyio.fail_after(10), pytest.raises(JournalUncertain):
        await writer.append([entry("b", 1)])
    journal.reopening_fails = 1
    with anyio.fail_after(10), pytest.raises(JournalUncertain):
        await writer.recover()
    assert isinstance(writer.poisoned, JournalUncertain)
    assert await writer.recover() == 1
    with anyio.fail_after(10), pytest.raises(JournalUncertain):
        await writer.run(partial(raises, raised))
    assert await writer.append([entry("c", 1)]) == 2
    with anyio.fail_after(10):
        await writer.aclose()


def test_a_commit_raises_nothing_whatever_the_adapter_does(journal):
    committer, batch = Committer(journal), Batch([entry("a", 1)])
    journal.fail, journal.reopening_fails = SystemExit(), 1
    journal.reopening_error = Panic("panicked")
    committer.commit([batch])
    assert isinstance(batch.outcome, JournalUncertain)
    assert isinstance(committer.interruption, SystemExit)


async def test_a_record_whose_reading_panics_is_in_doubt(journal, sync):
    writer = Writer(journal, sync)
    journal.fail, journal.stores, journal.reading_error = OSError(5, "I/O error"), True, Panic("panicked")
    with anyio.fail_after(10), pytest.raises(JournalUncertain, match="panicked"):
        await writer.append([entry("a", 1)])
    assert writer.poisoned is not None
    assert await writer.recover() == 1
    await writer.aclose()


def raises(error):
    raise error


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_ends_the_loop_once_all_have_heard(journal, sync, interruption):
    outcomes = []

    async def main():
        writer = Writer(journal, sync)
        journal.fail, journal.stores = interruption(), False
        try:
            outcomes.append(await gather(writer, [entry("a", 1)], [entry("b", 1)]))
        finally:
            with anyio.CancelScope(shield=True):
                outcomes.append(await writer.append([entry("c", 1)]))
                await writer.aclose()

    with pytest.raises(interruption):
        asyncio.run(main())
    assert outcomes[-1] == 1


async def test_a_fenced_writer_stays_so(journal, sync):
    writer = Writer(journal, sync)
    journal.store.epoch += 1
    for _ in range(2):
        with pytest.raises(JournalFenced):
            await writer.append([entry("a", 1)])
    with pytest.raises(JournalFenced):
        await writer.recover()
    assert (len(journal.batches), journal.reopens) == (1, 0), "the adapter is asked once"
    await writer.aclose()


async def test_a_cancelled_append_is_stored_whole_and_disturbs_nobody(journal):
    writer = Writer(journal, "power")
    journal.gate.clear()
    outcomes = []
    ended = []

    async def keep():
        outcomes.append(await writer.append([entry("keep", 1), entry("keep", 2)]))

    async def give_up(scope):
        with scope:
            try:
                await writer.append([entry("gone", 1), entry("gone", 2)])
            finally:
                ended.append(journal.gate.is_set())

    async with anyio.create_task_group() as group:
        scope = anyio.CancelScope()
        group.start_soon(keep)
        group.start_soon(give_up, scope)
        await anyio.to_thread.run_sync(journal.entered.wait, 10)
        scope.cancel()
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        assert ended == []  # still under way
        journal.gate.set()
    assert len(outcomes) == 1
    assert scope.cancelled_caught
    assert ended == [True]
    check = [given(record) for record in scan_all(journal)]
    assert sorted(check, key=lambda each: (each.task, each.seq)) == [
        entry("gone", 1),
        entry("gone", 2),
        entry("keep", 1),
        entry("keep", 2),
    ]
    await writer.aclose()


async def test_an_append_cancelled_before_its_turn_is_not_stored(journal):
    writer = Writer(journal, "power")
    journal.gate.clear()
    async with anyio.create_task_group() as group:
        group.start_soon(writer.append, [entry("first", 1)])
        await anyio.to_thread.run_sync(journal.entered.wait, 10)
        with anyio.move_on_after(0):
            await writer.append([entry("second", 1)])
        journal.gate.set()
    await writer.append([entry("third", 1)])
    check_stored(journal, [entry("first", 1), entry("third", 1)])
    await writer.aclose()


async def test_other_work_goes_between_the_groups(journal, sync):
    writer = Writer(journal, sync)
    async with anyio.create_task_group() as group:
        group.start_soon(writer.append, [entry("a", 1)])
        group.start_soon(writer.run, lambda: journal.set_cursor("sink", journal.last()))
        group.start_soon(writer.append, [entry("b", 1)])
    assert journal.last() == 2
    assert journal.cursors().get("sink", 0) in (0, 1, 2)
    with pytest.raises(ZeroDivisionError):
        await writer.run(lambda: 1 // 0)
    await writer.aclose()


async def test_a_closed_writer_refuses_and_closing_waits_for_what_was_asked(journal, sync):
    writer = Writer(journal, sync)
    async with anyio.create_task_group() as group:
        group.start_soon(writer.append, [entry("a", 1)])
        await anyio.lowlevel.checkpoint()
        group.start_soon(writer.aclose)
    await writer.aclose()
    check_stored(journal, [entry("a", 1)])
    with pytest.raises(JournalClosed):
        await writer.append([entry("a", 2)])


async def test_nothing_is_written_behind_the_close(journal):
    writer = Writer(journal, "power")
    journal.gate.clear()
    async with anyio.create_task_group() as group:
        group.start_soon(writer.append, [entry("a", 1)])
        assert await anyio.to_thread.run_sync(journal.entered.wait, 10)
        group.start_soon(writer.aclose)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(JournalClosed):  # whoever closes the writer closes the journal next
            await writer.append([entry("a", 2)])
        journal.gate.set()
    check_stored(journal, [entry("a", 1)])


async def test_a_full_disk_rejects_and_the_journal_goes_on(tmp_path, sync):
    journal = SQLiteJournal(tmp_path / "a.db")
    journal.open(OWNER, sync)
    writer = Writer(journal, sync)
    await writer.append([entry("a", 1)])
    (pages,) = journal._writer.execute("PRAGMA page_count").fetchone()
    journal._writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(JournalRejected, match="full"):
        await writer.append([entry("a", 2, bytes(100_000))])
    assert writer.poisoned is None
    journal._writer.execute("PRAGMA max_page_count = 100000")
    assert await writer.append([entry("a", 2, b"small")]) == 2
    check_stored(journal, [entry("a", 1), entry("a", 2, b"small")])
    await writer.aclose()
    journal.close()


class Saying(MemoryJournal):
    """Returns something else than a position."""

    def __init__(self, method, said):
        super().__init__(store=Store())
        self.open(OWNER, "power")
        self.append([entry("before", 1)])
        setattr(self, method, lambda *args: getattr(type(self), method)(self, *args) and said)


@pytest.mark.parametrize("said", [0, None, "2", True, 3])
def test_an_append_that_returns_another_position_is_told_and_in_doubt(said):
    committer = Committer(Saying("append", said))
    batch = Batch([entry("t", 1)])
    committer.commit([batch])
    assert isinstance(batch.outcome, JournalUncertain)
    assert committer.poison is batch.outcome
    assert str(batch.outcome) == f"Saying.append returned {said!r}: expected 2, the last record's position"
    assert committer.find_out(batch) == 2, "it is stored all the same"


@pytest.mark.parametrize("said", [-1, None, "2", True])
def test_an_end_that_is_no_position_is_told(said):
    expected = rf"returned {said!r}: expected the last record's position"
    with pytest.raises(JournalError, match=f"Saying.last {expected}"):
        Committer(Saying("last", said))
    committer = Committer(Saying("reopen", said))
    with pytest.raises(JournalError, match=f"Saying.reopen {expected}"):
        committer.recover()
    assert committer.poison is not None
