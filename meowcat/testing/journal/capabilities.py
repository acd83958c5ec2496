"""Checks of what a journal may do beside the contract. Each is skipped where the journal does not do it."""

# ruff: noqa: PLR2004  # numbers are what checks are made of

import threading
from collections.abc import Sequence

import msgspec

from meowcat.core.errors import JournalError, JournalFenced, JournalOwned, JournalRejected
from meowcat.core.values import Position, TaskId
from meowcat.journal.contract import (
    BulkJournal,
    CheckedJournal,
    CompactableJournal,
    Damage,
    FileJournal,
    Journal,
    LocalJournal,
    ReadableJournal,
    Record,
    RemovableJournal,
    RestorableJournal,
)
from meowcat.journal.replay import verify_chain
from meowcat.testing.journal.harness import OWNER, JournalHarness, Lacking
from meowcat.testing.journal.records import (
    check_stored,
    contents,
    entry,
    given,
    opened,
    reader_of,
    refused,
    scan_all,
)
from meowcat.testing.journal.registry import check


@check("R1")
def a_journal_that_is_owned_can_be_read(harness: JournalHarness) -> None:
    journal = opened(harness)
    entries = [entry("a", 1), entry("b", 1, unfinished=False)]
    journal.append(entries)
    journal.set_cursor("sink", Position(1))
    journal.put_snapshot("all", Position(2), b"body")
    reader, readable = reader_of(harness)
    readable.open_for_reading()
    assert contents(reader, ["a", "b"]) == contents(journal, ["a", "b"])
    journal.append([entry("a", 2)])
    check_stored(reader, [*entries, entry("a", 2)])
    reader.close()
    assert journal.append([entry("a", 3)]) == 4
    journal.close()
    alone, readable = reader_of(harness)
    readable.open_for_reading()
    check_stored(alone, [*entries, entry("a", 2), entry("a", 3)])
    opened(harness).append([entry("a", 4)])  # a reader is not in the way of the next owner
    assert alone.last() == 5


@check("R2")
def a_reader_can_not_write(harness: JournalHarness) -> None:
    opened(harness).append([entry("a", 1)])
    reader, readable = reader_of(harness)
    readable.open_for_reading()
    with refused(JournalError):
        reader.append([entry("a", 2)])
    with refused(JournalError):
        reader.set_cursor("x", Position(1))
    with refused(JournalError):
        reader.put_snapshot("x", Position(1), b"")
    check_stored(reader, [entry("a", 1)])


@check("R3")
def reading_where_there_is_no_journal_is_refused_and_creates_none(harness: JournalHarness) -> None:
    for _ in range(2):  # what the first one created, the second one would open
        _, readable = reader_of(harness)
        with refused(JournalError):
            readable.open_for_reading()


@check("B1")
def many_tasks_read_at_once_have_what_each_has_by_itself(harness: JournalHarness) -> None:
    """Of short and of long histories, which stand in each other's way; asked for in any order, and twice."""
    journal = opened(harness)
    if not isinstance(journal, BulkJournal):
        raise Lacking("BulkJournal: no read_many")
    tasks = [f"task{number}" for number in range(40)]
    for seq in range(1, 9):
        journal.append([entry(each, seq, b"%s-%d" % (each.encode(), seq)) for each in tasks[seq:]])
    journal.append([entry(tasks[39], 9, unfinished=False), entry(tasks[0], 1, unfinished=False)])
    journal.close()
    harness.corrupt(b"task20-3")
    owner = opened(harness)
    reader, readable = reader_of(harness)
    readable.open_for_reading()
    asked = [TaskId(each) for each in ["unknown", *reversed(tasks), tasks[7]]]
    for each in (owner, reader):
        assert isinstance(each, BulkJournal)
        alone = [list(each.read(task)) for task in asked]
        assert [list(found) for found in each.read_many(asked)] == alone
        assert [len(found) for found in alone[:2]] == [0, 9]
        damaged = {task for task, found in zip(asked, alone, strict=True) if _has_damage(found)}
        assert damaged == {"task20"}
        assert list(each.read_many([])) == []


def _has_damage(found: Sequence[Record | Damage]) -> bool:
    return any(isinstance(each, Damage) for each in found)


def _restorable(harness: JournalHarness) -> tuple[Journal, RestorableJournal]:
    journal = opened(harness)
    if not isinstance(journal, RestorableJournal):
        raise Lacking("RestorableJournal: no restore")
    return journal, journal


def _history(harness: JournalHarness) -> Sequence[Record]:
    """Records of two owners, of a journal at this place that is emptied again."""
    for number, entries in enumerate(
        ([entry("a", 1, b"1"), entry("b", 1, b"\xff")], [entry("a", 2, unfinished=False), entry("c", 1)])
    ):
        journal = opened(harness)
        journal.append(entries)
        found = [record for record in scan_all(journal) if isinstance(record, Record)]
        journal.close()
        assert len(found) == 2 * number + 2
    harness.raw_write({})
    return found


@check("S1")
def restored_records_are_the_same_in_everything(harness: JournalHarness) -> None:
    """Positions, epochs and chain values too, in one call or in several."""
    _restorable(harness)[0].close()
    history = _history(harness)
    journal, restorable = _restorable(harness)
    assert restorable.restore(history[:1]) == 1
    assert restorable.restore([]) == 1
    assert restorable.restore(history[1:]) == 4
    for each in (journal, None):
        now = opened(harness) if each is None else each
        assert scan_all(now) == history
        assert now.last() == 4
        assert list(now.unfinished()) == ["b", "c"]
        assert [given(record).seq for record in now.read(TaskId("a"))] == [1, 2]
        now.close()
    again = opened(harness)
    again.set_cursor("sink", Position(3))
    assert dict(again.cursors()) == {"sink": 3}


@check("S2")
def what_does_not_follow_is_not_restored(harness: JournalHarness) -> None:
    _restorable(harness)[0].close()
    history = _history(harness)
    journal, restorable = _restorable(harness)
    replace = msgspec.structs.replace
    restorable.restore(history[:1])
    wrong = {
        "a record that is there": history[:2],
        "a gap in the positions": history[2:],
        "an earlier epoch": [replace(history[1], epoch=history[0].epoch - 1)],
        "another chain value": [history[1], replace(history[2], chain=bytes(32))],
        "another body": [history[1], replace(history[2], body=b"other")],
        "positions in the wrong order": [history[2], history[1]],
    }
    for what, records in wrong.items():
        try:
            restorable.restore(records)
        except JournalRejected:
            assert scan_all(journal) == history[:1], what
        else:
            raise AssertionError(f"{what} was restored")
    assert restorable.restore(history[1:]) == 4
    assert scan_all(journal) == history


@check("S3")
def after_a_restore_nothing_is_appended_until_the_journal_is_opened_again(harness: JournalHarness) -> None:
    """A record of this owner would have an epoch below those before it."""
    _restorable(harness)[0].close()
    history = _history(harness)
    journal, restorable = _restorable(harness)
    restorable.restore(history)
    with refused(JournalError) as refusal:
        journal.append([entry("d", 1)])
    assert not isinstance(refusal.error, JournalFenced)
    assert scan_all(journal) == history
    journal.close()
    again = harness.close_later(harness.make())
    assert again.open(OWNER, harness.sync) > history[-1].epoch
    assert again.append([entry("a", 3)]) == 5
    found = scan_all(again)
    assert found[:4] == history
    assert list(verify_chain(found)) == []


@check("C1", "C2")
def a_compaction_takes_only_what_is_finished_and_behind_every_cursor(harness: JournalHarness) -> None:
    journal = opened(harness)
    if not isinstance(journal, CompactableJournal):
        raise Lacking("CompactableJournal: no compact")
    for number in range(1, 40):
        journal.append([entry(f"done{number}", seq, b"x" * 500, unfinished=seq < 3) for seq in (1, 2, 3)])
        if number == 20:
            journal.append([entry("open", 1, b"open")])
    journal.set_cursor("sink", Position(50))
    whole = scan_all(journal, 1000)
    compaction = journal.compact()
    assert 0 <= compaction.records <= 50
    for each in (journal, None):
        now = opened(harness) if each is None else each
        found = scan_all(now, 1000)
        assert found == whole[-len(found) :]
        assert (found[0].position or 0) <= 51
        assert now.last() == 118
        assert list(now.unfinished()) == ["open"]
        assert [given(record).body for record in now.read(TaskId("open"))] == [b"open"]
        assert dict(now.cursors()) == {"sink": 50}
        if each is not None:
            each.close()
    assert now.append([entry("open", 2)]) == 119


def _flaws(journal: Journal) -> list[str]:
    if not isinstance(journal, CheckedJournal):
        raise Lacking("CheckedJournal: no check")
    return [damage.detail for damage in journal.check()]


@check("K1")
def a_check_finds_nothing_in_a_journal_that_is_as_it_was_written(harness: JournalHarness) -> None:
    journal = opened(harness)
    assert _flaws(journal) == []
    for number in range(1, 20):
        journal.append([entry("open", number, b"x" * 300), entry(f"done{number}", 1, unfinished=False)])
    journal.set_cursor("sink", Position(3))
    journal.put_snapshot("all", Position(3), b"{}")
    assert _flaws(journal) == []
    journal.reopen()
    journal.append([entry("open", 20, unfinished=False), entry("late", 1)])
    assert _flaws(journal) == []
    if isinstance(journal, CompactableJournal):
        journal.set_cursor("sink", None)
        journal.compact()
        assert _flaws(journal) == []
    journal.close()
    again = opened(harness)
    again.append([entry("late", 2)])
    assert _flaws(again) == []
    harness.crash(again)
    assert _flaws(opened(harness)) == []


@check("K1")
def a_check_while_the_owner_appends_finds_nothing(harness: JournalHarness) -> None:
    journal = opened(harness)
    reader, readable = reader_of(harness)
    readable.open_for_reading()
    _flaws(journal)
    looked = threading.Event()
    found: list[str] = []

    def look() -> None:
        try:
            for _ in range(10):
                found.extend(_flaws(reader))
        except Exception as error:  # noqa: BLE001  # told by the check, in the thread that runs it
            found.append(repr(error))
        finally:
            looked.set()

    thread = threading.Thread(target=look)
    thread.start()
    number = 0
    while not looked.is_set():
        number += 1
        journal.append([entry("a", number), entry(f"done{number}", 1, unfinished=False)])
    thread.join()
    assert found == []


@check("D1")
def a_removed_journal_is_gone_and_an_owned_one_stays(harness: JournalHarness) -> None:
    owned = opened(harness)
    owned.append([entry("a", 1)])
    journal = harness.make()
    if not isinstance(journal, RemovableJournal) or not isinstance(journal, ReadableJournal):
        raise Lacking("RemovableJournal: no remove, or not readable from outside")
    with refused(JournalOwned):
        journal.remove(OWNER, lambda: True)
    owned.close()
    assert journal.remove(OWNER, lambda: journal.last() > 1) is False
    again = opened(harness)
    check_stored(again, [entry("a", 1)])
    again.close()
    journal = harness.make()
    assert isinstance(journal, RemovableJournal)
    assert journal.remove(OWNER, lambda: True) is True
    fresh = opened(harness)
    assert not list(fresh.read(TaskId("a")))
    fresh.append([entry("b", 1)])
    fresh.close()


@check("L1")
def the_control_socket_is_the_same_whoever_asks(harness: JournalHarness) -> None:
    journal = harness.close_later(harness.make())
    if not isinstance(journal, LocalJournal):
        raise Lacking("LocalJournal: no control_socket")
    place = journal.control_socket
    assert place.is_absolute()
    journal.open(OWNER, harness.sync)
    assert place.parent.is_dir()
    assert journal.control_socket == place
    other = harness.make()
    assert isinstance(other, LocalJournal)
    assert other.control_socket == place


@check("F1")
def each_file_of_a_journal_is_its_own_and_no_other(harness: JournalHarness) -> None:
    journal = harness.close_later(harness.make())
    if not isinstance(journal, FileJournal):
        raise Lacking("FileJournal: no holds")
    closed = harness.make()
    assert isinstance(closed, FileJournal)
    journal.open(OWNER, harness.sync)
    journal.append([entry("a", 1)])
    journal.put_snapshot("s", Position(1), b"{}")
    files = [each.resolve() for each in harness.folder.rglob("*") if not each.is_dir()]
    assert files
    for asked in (journal, closed):
        assert [each for each in files if not asked.holds(str(each))] == []
        assert [each for each in files if asked.holds(f"{harness.folder}/other/{each.name}")] == []
        assert not asked.holds(f"{harness.folder}/other")
