"""Checks of what an append stores, and of what it refuses."""

# ruff: noqa: PLR2004  # numbers are what checks are made of

import hashlib
import threading

import anyio

from meowcat.core.errors import JournalConflict, JournalRejected
from meowcat.core.values import TaskId
from meowcat.journal.contract import Entry, Journal, Record
from meowcat.journal.writer import Writer
from meowcat.testing.journal.harness import JournalHarness
from meowcat.testing.journal.records import check_stored, entry, given, opened, refused, scan_all
from meowcat.testing.journal.registry import check


@check("M1")
def a_new_journal_is_empty(harness: JournalHarness) -> None:
    journal = opened(harness)
    check_stored(journal, [])
    assert list(journal.unfinished()) == []
    assert list(journal.read(TaskId("a"))) == []
    assert dict(journal.cursors()) == {}
    assert journal.get_snapshot("all") is None


@check("M2", "M3")
def records_come_back_as_they_were_appended_and_in_order(harness: JournalHarness) -> None:
    journal = opened(harness)
    entries = [
        entry("a", 1),
        entry("b", 1, b'{"x":1}'),
        Entry(TaskId("a"), 2, False, "a-type", 7, 0, b"\x00\xff"),
        Entry(TaskId("c"), 1, True, "", 0, (1 << 62), b""),
    ]
    assert journal.append(entries[:1]) == 1
    assert journal.append(entries[1:]) == 4
    check_stored(journal, entries)
    assert [given(record) for record in journal.read(TaskId("a"))] == [entries[0], entries[2]]


@check("M2")
def an_empty_batch_stores_nothing(harness: JournalHarness) -> None:
    journal = opened(harness)
    assert journal.append([]) == 0
    journal.append([entry("a", 1)])
    assert journal.append([]) == 1
    check_stored(journal, [entry("a", 1)])


@check("M4", "M5", "M10")
def a_conflict_rejects_the_whole_batch_and_the_journal_goes_on(harness: JournalHarness) -> None:
    journal = opened(harness)
    journal.append([entry("a", 1), entry("a", 2)])
    wrong = {
        "a record that stands already": [entry("b", 1), entry("a", 1, b"other"), entry("b", 2)],
        "the last record again": [entry("b", 1), entry("a", 2), entry("b", 2)],
        "a gap behind the task's last record": [entry("b", 1), entry("a", 4)],
        "a new task that does not begin with 1": [entry("b", 1), entry("c", 2)],
        "one number twice in a batch": [entry("c", 1), entry("c", 1)],
        "a gap within a batch": [entry("c", 1), entry("c", 3)],
        "numbers in the wrong order": [entry("c", 2), entry("c", 1)],
        "a number below 1": [entry("c", 0)],
    }
    for what, batch in wrong.items():
        try:
            journal.append(batch)
        except JournalConflict:
            check_stored(journal, [entry("a", 1), entry("a", 2)])
        else:
            raise AssertionError(f"{what} was stored")
    assert list(journal.unfinished()) == ["a"]
    assert journal.append([entry("b", 1), entry("a", 3), entry("b", 2)]) == 5


@check("M4", "M6", "M10")
def a_record_that_is_too_large_rejects_the_whole_batch(harness: JournalHarness) -> None:
    journal = opened(harness)
    with refused(JournalRejected) as refusal:
        journal.append([entry("a", 1), entry("a", 2, bytes(journal.max_record + 1))])
    assert not isinstance(refusal.error, JournalConflict)
    check_stored(journal, [])
    assert journal.append([entry("a", 1)]) == 1


@check("M6")
def the_largest_record_is_stored(harness: JournalHarness) -> None:
    """1 MiB of noise, or what the adapter says is its largest; and one that looks like text."""
    journal = opened(harness)
    largest = [
        entry("a", 1, hashlib.shake_128(b"largest").digest(journal.max_record)),
        entry("a", 2, b'{"x":"' + b"y" * (journal.max_record - 8) + b'"}'),
    ]
    journal.append(largest)
    check_stored(journal, largest)


@check("M7")
def any_text_is_a_name(harness: JournalHarness) -> None:
    journal = opened(harness)
    # composed and decomposed, upper and lower case: four names and not one
    names = [
        "ünïcödé",
        "u\u0308",
        "\u00fc",
        "A",
        "a",
        "猫",
        "a'b\"c;--\\",
        "a\nb\x01",
        "🐱" * 40,
        " ",
        "%",
        "",
    ]
    entries = [entry(name, 1, name.encode(), kind=name) for name in names]
    journal.append(entries)
    check_stored(journal, entries)
    assert list(journal.unfinished()) == names
    for each in entries:
        assert [given(record) for record in journal.read(each.task)] == [each]


@check("M4", "M8", "M10")
def what_no_record_can_hold_is_rejected(harness: JournalHarness) -> None:
    journal = opened(harness)
    large = 1 << 63
    impossible = {
        "a lone surrogate as a name": entry("\ud800", 1),
        "a time beyond 64 bits": Entry(TaskId("b"), 1, True, "created", 1, large, b""),
        "a version beyond 32 bits": Entry(TaskId("b"), 1, True, "created", 1 << 32, 1, b""),
    }
    for what, each in impossible.items():
        with refused(JournalRejected) as refusal:
            journal.append([entry("a", 1), each])
        assert isinstance(refusal.error, JournalRejected), what
    check_stored(journal, [])
    assert journal.append([entry("a", 1)]) == 1


@check("M9")
def reopening_after_each_append_keeps_everything(harness: JournalHarness) -> None:
    entries: list[Entry] = []
    for number in range(1, 9):
        journal = opened(harness)
        entries.append(entry("a", number, str(number).encode()))
        assert journal.append(entries[-1:]) == number
        check_stored(journal, entries)
        journal.close()
    check_stored(opened(harness), entries)


@check("M9", "M13")
def a_crash_after_each_append_keeps_everything(harness: JournalHarness) -> None:
    entries: list[Entry] = []
    for number in range(1, 6):
        journal = opened(harness)
        check_stored(journal, entries)
        batch = [entry("a", 2 * number - 1, b"x" * number), entry("a", 2 * number)]
        journal.append(batch)
        entries += batch
        journal.set_cursor("sink", journal.last())
        harness.crash(journal)
    again = opened(harness)
    check_stored(again, entries)
    assert dict(again.cursors()) == {"sink": 10}
    assert again.append([entry("a", 11)]) == 11


@check("M11")
def a_fresh_start_keeps_everything(harness: JournalHarness) -> None:
    journal = opened(harness)
    journal.append([entry("a", 1)])
    assert journal.reopen() == 1
    assert journal.append([entry("a", 2)]) == 2
    check_stored(journal, [entry("a", 1), entry("a", 2)])
    assert len({record.epoch for record in scan_all(journal) if isinstance(record, Record)}) == 1


class _Gate:
    """A journal whose append waits inside, so that it can be cancelled in the middle."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.entered, self.leave = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._journal, name)

    def append(self, batch: list[Entry]) -> int:
        self.entered.set()
        assert self.leave.wait(30)
        return self._journal.append(batch)


@check("M4", "M9")
def cancellation_in_mid_append_is_all_or_nothing(harness: JournalHarness) -> None:
    """Through the writer: an append that has begun is seen through, one that has not is taken back."""
    journal = opened(harness)
    gate = _Gate(journal)

    async def scenario() -> None:
        writer = Writer(gate, harness.sync, threaded=True)  # type: ignore[arg-type]  # as a journal but for one method
        async with anyio.create_task_group() as group:
            group.start_soon(writer.append, [entry("a", 1), entry("a", 2)])
            await anyio.to_thread.run_sync(gate.entered.wait)
            group.start_soon(writer.append, [entry("b", 1), entry("b", 2)])
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
            gate.leave.set()
        assert await writer.append([entry("c", 1)]) == 3
        await writer.aclose()

    anyio.run(scenario)
    check_stored(journal, [entry("a", 1), entry("a", 2), entry("c", 1)])
    journal.close()
    check_stored(opened(harness), [entry("a", 1), entry("a", 2), entry("c", 1)])
