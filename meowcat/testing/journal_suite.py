"""What every journal must do, as a suite that authors of adapters run.

Subclass `JournalSuite` in a test module, say how a journal is made and harmed, and let pytest collect it:

    class TestMyJournal(JournalSuite):
        def make(self, place): return MyJournal(place / "journal")
        def usurp(self, place): ...
        def flip_bit(self, place, position): ...

`place` is what the `place` fixture gives: a fresh folder, unless the subclass overrides it. The journals of
one place share what is stored there.
"""

# ruff: noqa: PLR2004  # numbers are what tests are made of

import hashlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from meowcat.core.errors import (
    JournalClosed,
    JournalConflict,
    JournalFenced,
    JournalOwned,
    JournalRejected,
)
from meowcat.core.values import Position, TaskId
from meowcat.journal.contract import Damage, Entry, Journal, Owner, Record, Sync
from meowcat.journal.replay import verify_chain

OWNER = Owner(4711, "host.example", "suite")
OTHER = Owner(4712, "host.example", "other")


def entry(task: str, seq: int, body: bytes = b"{}", *, unfinished: bool = True) -> Entry:
    """An entry of no particular event: a journal never looks into a body."""
    return Entry(TaskId(task), seq, unfinished, "created", 1, 1_700_000_000_000, body)


def given(record: Record | Damage) -> Entry:
    """What was appended to make `record`."""
    assert isinstance(record, Record), record
    return Entry(record.task, record.seq, record.open, record.type, record.version, record.at, record.body)


def scan_all(journal: Journal, limit: int = 7) -> list[Record | Damage]:
    """All records, read in small steps."""
    found: list[Record | Damage] = []
    while batch := journal.scan((found[-1].position or Position(0)) if found else Position(0), limit):
        found += batch
    return found


def check_stored(journal: Journal, entries: Sequence[Entry]) -> None:
    """The journal holds `entries` and nothing else, in order, at positions 1, 2, 3 …, in one chain."""
    found = scan_all(journal)
    assert [given(record) for record in found] == list(entries)
    assert [record.position for record in found] == list(range(1, len(entries) + 1))
    assert journal.last() == len(entries)
    assert list(verify_chain(found)) == []


class JournalSuite:
    """The contract, one rule a test."""

    sync: Sync = "power"

    @pytest.fixture
    def place(self, tmp_path: Path) -> object:
        """Where journals of one test are stored."""
        return tmp_path

    def make(self, place: object) -> Journal:
        """A journal at `place`, not yet open; each call makes another object on the same storage."""
        raise NotImplementedError

    def usurp(self, place: object) -> Journal:
        """A journal at `place` that is open although another one owns it: as where a lock was lost."""
        raise NotImplementedError

    def flip_bit(self, place: object, position: int) -> None:
        """Change one bit in the stored body at `position`, behind the journal's back."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _closing(self) -> Iterator[None]:
        self._journals: list[Journal] = []
        yield
        for journal in self._journals:
            journal.close()

    def _close_later(self, journal: Journal) -> Journal:
        self._journals.append(journal)
        return journal

    def _fresh(self, place: object) -> Journal:
        return self._close_later(self.make(place))

    @pytest.fixture
    def journal(self, place: object) -> Journal:
        journal = self._fresh(place)
        journal.open(OWNER, self.sync)
        return journal

    def test_a_new_journal_is_empty(self, journal: Journal) -> None:
        check_stored(journal, [])
        assert list(journal.unfinished()) == []
        assert list(journal.read(TaskId("a"))) == []

    def test_records_come_back_as_they_were_appended_and_in_order(self, journal: Journal) -> None:
        entries = [entry("a", 1), entry("b", 1, b'{"x":1}'), entry("a", 2, b"\x00\xff", unfinished=False)]
        assert journal.append(entries[:1]) == 1
        assert journal.append(entries[1:]) == 3
        check_stored(journal, entries)
        assert [given(record) for record in journal.read(TaskId("a"))] == [entries[0], entries[2]]
        assert [given(record) for record in journal.read(TaskId("a"), after=1)] == [entries[2]]

    def test_a_scan_gives_at_most_its_limit_and_fewer_only_at_the_end(self, journal: Journal) -> None:
        journal.append([entry("a", seq) for seq in range(1, 11)])
        assert [record.position for record in journal.scan(Position(3), 4)] == [4, 5, 6, 7]
        assert [record.position for record in journal.scan(Position(8), 4)] == [9, 10]
        assert list(journal.scan(Position(10), 4)) == []

    def test_a_conflict_rejects_the_whole_batch(self, journal: Journal) -> None:
        journal.append([entry("a", 1)])
        with pytest.raises(JournalConflict):
            journal.append([entry("b", 1), entry("a", 1, b"other"), entry("b", 2)])
        with pytest.raises(JournalConflict):
            journal.append([entry("c", 1), entry("c", 1)])
        check_stored(journal, [entry("a", 1)])
        assert list(journal.unfinished()) == ["a"]
        assert journal.append([entry("b", 1)]) == 2

    def test_a_record_that_is_too_large_rejects_the_whole_batch(self, journal: Journal) -> None:
        with pytest.raises(JournalRejected):
            journal.append([entry("a", 1), entry("a", 2, bytes(journal.max_record + 1))])
        check_stored(journal, [])

    def test_the_largest_record_is_stored(self, journal: Journal) -> None:
        largest = entry("a", 1, hashlib.shake_128(b"largest").digest(journal.max_record))
        journal.append([largest])
        check_stored(journal, [largest])

    def test_any_text_is_a_name(self, journal: Journal) -> None:
        entries = [
            entry(name, 1, name.encode()) for name in ("ünïcödé", "猫", "a'b\"c;--", "\x00", "🐱" * 40)
        ]
        journal.append(entries)
        check_stored(journal, entries)
        assert list(journal.unfinished()) == [each.task for each in entries]

    def test_reopening_after_each_append_keeps_everything(self, place: object) -> None:
        entries = []
        for number in range(1, 9):
            journal = self._fresh(place)
            assert journal.open(OWNER, self.sync) == number
            entries.append(entry("a", number, str(number).encode()))
            assert journal.append(entries[-1:]) == number
            check_stored(journal, entries)
            journal.close()
        journal = self._fresh(place)
        journal.open(OWNER, self.sync)
        check_stored(journal, entries)
        assert [record.epoch for record in scan_all(journal) if isinstance(record, Record)] == list(
            range(1, 9)
        )

    def test_a_fresh_start_keeps_everything(self, journal: Journal) -> None:
        journal.append([entry("a", 1)])
        assert journal.reopen() == 1
        assert journal.append([entry("a", 2)]) == 2
        check_stored(journal, [entry("a", 1), entry("a", 2)])

    def test_a_second_owner_is_refused_and_told_who_owns_it(self, journal: Journal, place: object) -> None:
        other = self._fresh(place)
        with pytest.raises(JournalOwned) as refusal:
            other.open(OTHER, self.sync)
        assert refusal.value.owner == str(OWNER)
        assert "4711" in str(refusal.value)
        journal.append([entry("a", 1)])
        journal.close()
        assert other.open(OTHER, self.sync) == 2
        check_stored(other, [entry("a", 1)])

    def test_an_old_owner_is_fenced(self, journal: Journal, place: object) -> None:
        journal.append([entry("a", 1)])
        usurper = self._close_later(self.usurp(place))
        usurper.append([entry("b", 1)])
        for _ in range(2):
            with pytest.raises(JournalFenced):
                journal.append([entry("a", 2)])
        with pytest.raises(JournalFenced):
            journal.set_cursor("x", Position(1))
        with pytest.raises(JournalFenced):
            journal.reopen()
        check_stored(usurper, [entry("a", 1), entry("b", 1)])

    def test_unfinished_tasks_are_those_whose_last_record_is_open(
        self, journal: Journal, place: object
    ) -> None:
        journal.append([entry("z", 1), entry("a", 1), entry("m", 1)])
        journal.append([entry("z", 2), entry("a", 2, unfinished=False), entry("b", 1, unfinished=False)])
        assert list(journal.unfinished()) == ["z", "m"]
        journal.append([entry("b", 2), entry("m", 2), entry("m", 3, unfinished=False)])
        assert list(journal.unfinished()) == ["z", "b"]
        journal.close()
        again = self._fresh(place)
        again.open(OWNER, self.sync)
        assert list(again.unfinished()) == ["z", "b"]

    def test_cursors_are_kept_and_forgotten(self, journal: Journal, place: object) -> None:
        assert dict(journal.cursors()) == {}
        journal.set_cursor("sink", Position(3))
        journal.set_cursor("sink", Position(5))
        journal.set_cursor("other", Position(1))
        journal.set_cursor("other", None)
        journal.close()
        again = self._fresh(place)
        again.open(OWNER, self.sync)
        assert dict(again.cursors()) == {"sink": 5}
        check_stored(again, [])

    def test_the_newest_snapshot_of_a_name_is_kept(self, journal: Journal, place: object) -> None:
        assert journal.get_snapshot("all") is None
        journal.put_snapshot("all", Position(1), b"old")
        journal.put_snapshot("all", Position(2), b"new\x00")
        journal.close()
        again = self._fresh(place)
        again.open(OWNER, self.sync)
        assert again.get_snapshot("all") == (2, b"new\x00")

    def test_a_closed_journal_refuses_everything_but_another_close(self, journal: Journal) -> None:
        journal.append([entry("a", 1)])
        journal.close()
        journal.close()
        with pytest.raises(JournalClosed):
            journal.append([entry("a", 2)])
        with pytest.raises(JournalClosed):
            journal.scan(Position(0), 1)
        with pytest.raises(JournalClosed):
            journal.read(TaskId("a"))
        with pytest.raises(JournalClosed):
            journal.set_cursor("x", Position(1))
        with pytest.raises(JournalClosed):
            journal.last()
        with pytest.raises(JournalClosed):
            journal.reopen()

    def test_a_flipped_bit_is_damage_at_its_place_and_nowhere_else(self, place: object) -> None:
        journal = self._fresh(place)
        journal.open(OWNER, self.sync)
        journal.append([entry("a", 1, b"first"), entry("b", 1, b"second"), entry("a", 2, b"third")])
        journal.close()
        self.flip_bit(place, 2)
        again = self._fresh(place)
        again.open(OWNER, self.sync)
        found = scan_all(again)
        assert [type(record) for record in found] == [Record, Damage, Record]
        assert found[1].position == 2
        assert [type(record) for record in again.read(TaskId("a"))] == [Record, Record]
        (damage,) = again.read(TaskId("b"))
        assert isinstance(damage, Damage)
        assert damage.task == "b"
        assert again.append([entry("a", 3)]) == 4

    def test_readers_see_whole_batches_while_another_thread_appends(self, journal: Journal) -> None:
        stop = threading.Event()
        seen: list[int] = []
        damage: list[Damage] = []

        def read() -> None:
            while not stop.is_set():
                seen.append(len(journal.scan(Position(0), 1000)))
                damage.extend(each for each in journal.read(TaskId("a")) if isinstance(each, Damage))

        reader = threading.Thread(target=read)
        reader.start()
        for first in range(1, 91, 3):
            journal.append([entry("a", first + step) for step in range(3)])
        stop.set()
        reader.join()
        assert [count for count in seen if count % 3] == []
        assert damage == []
        assert seen == sorted(seen)
        check_stored(journal, [entry("a", seq) for seq in range(1, 91)])
