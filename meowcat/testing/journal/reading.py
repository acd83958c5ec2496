"""Checks of what is read: by task, by position, by name, and while another thread appends."""

# ruff: noqa: PLR2004  # numbers are what checks are made of

import threading

from meowcat.core.values import Position, TaskId
from meowcat.journal.contract import Damage
from meowcat.testing.journal.harness import JournalHarness
from meowcat.testing.journal.records import check_stored, entry, given, opened
from meowcat.testing.journal.registry import check


@check("M20")
def a_task_is_read_behind_the_number_that_is_asked_for(harness: JournalHarness) -> None:
    journal = opened(harness)
    mine = [entry("a", seq, str(seq).encode()) for seq in range(1, 6)]
    for each in mine:
        journal.append([entry("b", each.seq), each])
    assert [given(record) for record in journal.read(TaskId("a"))] == mine
    assert [given(record) for record in journal.read(TaskId("a"), after=3)] == mine[3:]
    assert list(journal.read(TaskId("a"), after=5)) == []
    assert list(journal.read(TaskId("nobody"))) == []


@check("M21")
def a_scan_gives_at_most_its_limit_and_fewer_only_at_the_end(harness: JournalHarness) -> None:
    journal = opened(harness)
    journal.append([entry("a", seq) for seq in range(1, 11)])
    assert [record.position for record in journal.scan(Position(3), 4)] == [4, 5, 6, 7]
    assert [record.position for record in journal.scan(Position(8), 4)] == [9, 10]
    assert list(journal.scan(Position(10), 4)) == []
    assert list(journal.scan(Position(99), 4)) == []
    assert journal.last() == 10


@check("M22")
def unfinished_tasks_are_those_whose_last_record_is_open(harness: JournalHarness) -> None:
    journal = opened(harness)
    journal.append([entry("z", 1), entry("a", 1), entry("m", 1)])
    journal.append([entry("z", 2), entry("a", 2, unfinished=False), entry("b", 1, unfinished=False)])
    assert list(journal.unfinished()) == ["z", "m"]
    journal.append([entry("b", 2), entry("m", 2), entry("m", 3, unfinished=False)])
    assert list(journal.unfinished()) == ["z", "b"]
    journal.close()
    assert list(opened(harness).unfinished()) == ["z", "b"]


@check("M23")
def cursors_are_kept_and_forgotten(harness: JournalHarness) -> None:
    journal = opened(harness)
    journal.set_cursor("sink", Position(3))
    journal.set_cursor("sink", Position(5))
    journal.set_cursor('猫\'s "sink"', Position(0))
    journal.set_cursor("other", Position(1))
    journal.set_cursor("other", None)
    journal.set_cursor("never", None)
    assert dict(journal.cursors()) == {"sink": 5, '猫\'s "sink"': 0}
    journal.close()
    again = opened(harness)
    assert dict(again.cursors()) == {"sink": 5, '猫\'s "sink"': 0}
    again.set_cursor("sink", Position(2))
    assert dict(again.cursors())["sink"] == 2
    check_stored(again, [])


@check("M24")
def the_newest_snapshot_of_a_name_is_kept(harness: JournalHarness) -> None:
    journal = opened(harness)
    journal.put_snapshot("all", Position(1), b"old")
    journal.put_snapshot("all", Position(2), b"new\x00")
    journal.put_snapshot("other", Position(0), b"")
    journal.close()
    again = opened(harness)
    assert again.get_snapshot("all") == (2, b"new\x00")
    assert again.get_snapshot("other") == (0, b"")
    assert again.get_snapshot("none") is None


@check("M25")
def readers_see_whole_batches_while_another_thread_appends(harness: JournalHarness) -> None:
    journal = opened(harness)
    stop = threading.Event()
    seen: list[int] = []
    wrong: list[object] = []

    def read() -> None:
        try:
            while not stop.is_set():
                last = journal.last()
                found = journal.scan(Position(0), 1000)
                seen.append(len(found))
                mine = journal.read(TaskId("a"))
                wrong.extend(each for each in [*found, *mine] if isinstance(each, Damage))
                if not last <= len(found) <= len(mine):
                    wrong.append((last, len(found), len(mine)))
        except Exception as error:  # noqa: BLE001  # told by the check, in the thread that runs it
            wrong.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for first in range(1, 91, 3):
            journal.append([entry("a", first + step) for step in range(3)])
    finally:
        stop.set()
        reader.join()
    assert [count for count in seen if count % 3] == []
    assert wrong == []
    assert seen == sorted(seen)
    check_stored(journal, [entry("a", seq) for seq in range(1, 91)])
