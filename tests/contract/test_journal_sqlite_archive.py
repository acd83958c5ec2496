"""The archive of a SQLite journal: what a compaction moves, how it is read, and what a crash leaves."""

import os
import sqlite3
import subprocess
import sys
import threading

import pytest

from journal_adapters import sqlite_archive
from journal_adapters.sqlite import SQLiteJournal
from meowcat.core.errors import JournalConflict, JournalDamaged, JournalError, NotAJournal
from meowcat.core.values import Position
from meowcat.journal.contract import Compaction, Damage
from meowcat.journal.exchange import export_lines
from meowcat.journal.replay import verify_chain
from meowcat.testing.journal_suite import OWNER, entry, scan_all

TASKS = 40
OPEN = (0, 7, 23)
"""Tasks that are not finished."""


@pytest.fixture
def path(in_memory):
    return in_memory / "journal.db"


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(sqlite_archive, "AT_ONCE", 10)


def opened(path, sync="power"):
    journal = SQLiteJournal(path)
    journal.open(OWNER, sync)
    return journal


def reading(path):
    journal = SQLiteJournal(path)
    journal.open_for_reading()
    return journal


def filled(path):
    """Tasks of three records each, that take turns."""
    journal = opened(path)
    for seq in (1, 2, 3):
        for number in range(TASKS):
            unfinished = seq < 3 or number in OPEN
            journal.append([entry(f"t{number:02}", seq, b"%d" % number * 100, unfinished=unfinished)])
    return journal


def archived(path):
    """A journal of which what has ended is in the archive, closed; all that it holds."""
    journal = filled(path)
    whole = scan_all(journal, 1000)
    journal.compact()
    journal.close()
    return whole


def in_files(path):
    """Positions by file, as they stand there."""
    found = []
    for each in (path, sqlite_archive.place_of(path)):
        connection = sqlite3.connect(each)
        found.append([row[0] for row in connection.execute("SELECT position FROM record ORDER BY position")])
        connection.close()
    return found


@pytest.mark.parametrize("sync", ["power", "process"])
def test_what_leaves_the_journal_is_synced_where_it_comes_to_at_any_level(path, sync):
    archived(path)
    journal = opened(path, sync)
    writer = journal._writer
    sqlite_archive.attach_for_writing(writer, path)
    read = [
        writer.execute(f"PRAGMA archive.{name}").fetchone()[0] for name in ("journal_mode", "synchronous")
    ]
    assert read == ["wal", 2]
    writer.execute("DETACH archive")
    journal.close()


def require_whole(journal, whole):
    assert scan_all(journal, 1000) == whole
    assert scan_all(journal, 7) == whole
    for number in range(TASKS):
        task = f"t{number:02}"
        assert list(journal.read(task)) == [each for each in whole if each.task == task]
        assert list(journal.read(task, 2)) == [each for each in whole if each.task == task and each.seq > 2]
    names = [f"t{number:02}" for number in range(TASKS)]
    assert journal.read_many(names) == [journal.read(each) for each in names]
    assert list(journal.unfinished()) == [f"t{number:02}" for number in OPEN]
    assert journal.last() == len(whole)
    assert list(journal.check()) == []


def test_records_of_finished_tasks_are_moved_as_they_are_and_no_others(path, small_batches):
    journal = filled(path)
    whole = scan_all(journal, 1000)
    found = journal.compact()
    assert found == Compaction(3 * (TASKS - len(OPEN)), found.bytes, f"{path}-archive")
    assert found.bytes > 0
    assert list(journal.check()) == []
    require_whole(journal, whole)
    journal.close()
    left, archived = in_files(path)
    assert left == [each.position for each in whole if int(each.task[1:]) in OPEN]
    assert archived == [each.position for each in whole if int(each.task[1:]) not in OPEN]
    again = opened(path)
    require_whole(again, whole)
    assert again.compact() == Compaction(0, 0, f"{path}-archive")
    assert again.append([entry("t00", 4)]) == len(whole) + 1
    assert list(verify_chain(scan_all(again))) == []
    again.close()
    assert sorted(each.name for each in path.parent.iterdir()) == [
        "journal.db",
        "journal.db-archive",
        "journal.db-lock",
    ]


def test_what_a_cursor_has_not_passed_stays(path, small_batches):
    journal = filled(path)
    whole = scan_all(journal, 1000)
    journal.set_cursor("sink", Position(50))
    journal.compact()
    require_whole(journal, whole)
    assert max(in_files(path)[1]) <= 50
    journal.set_cursor("sink", None)
    journal.compact()
    require_whole(journal, whole)
    journal.close()


def test_a_journal_of_which_nothing_was_archived_stays_readable_by_an_earlier_meowcat(path):
    def layout():
        connection = sqlite3.connect(path)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.close()
        return version

    journal = opened(path)
    journal.append([entry("a", 1)])
    assert journal.compact().records == 0
    assert layout() == 1
    assert not sqlite_archive.place_of(path).exists()
    journal.append([entry("a", 2, unfinished=False)])
    assert journal.compact().records == 2
    assert layout() == 2
    journal.close()


def test_the_file_gives_back_what_most_of_it_was(path):
    journal = opened(path)
    for number in range(200):
        journal.append([entry(f"t{number}", 1, b"x" * 4000, unfinished=False)])
    journal.append([entry("open", 1)])
    journal.compact()
    journal.close()
    assert path.stat().st_size < 100_000 < sqlite_archive.place_of(path).stat().st_size
    again = opened(path)
    assert list(again.unfinished()) == ["open"]
    again.close()


def test_an_archived_task_can_neither_begin_anew_nor_skip_a_record_but_go_on(path):
    whole = archived(path)
    journal = opened(path)
    for seq in (1, 3, 5):
        with pytest.raises(JournalConflict):
            journal.append([entry("t01", seq)])
    assert scan_all(journal, 1000) == whole
    journal.append([entry("t01", 4, b"again")])
    assert [each.seq for each in journal.read("t01")] == [1, 2, 3, 4]
    assert list(journal.unfinished()) == ["t00", "t01", "t07", "t23"]
    assert list(journal.check()) == []
    journal.append([entry("t01", 5, unfinished=False)])
    assert journal.compact().records == 2
    assert [each.seq for each in journal.read("t01")] == [1, 2, 3, 4, 5]
    assert list(journal.check()) == []
    journal.close()


def test_an_import_goes_on_behind_what_is_archived(path):
    source = filled(path.with_name("source.db"))
    records = scan_all(source, 1000)
    source.append([entry("late", 1)])
    late = scan_all(source, 1000)[-1:]
    source.close()
    target = opened(path)
    target.restore(records)
    target.compact()
    assert target.restore(late) == len(records) + 1
    assert scan_all(target, 1000) == [*records, *late]
    target.close()


def test_an_export_of_a_compacted_journal_is_the_same(path):
    journal = filled(path)
    before = list(export_lines(journal))
    journal.compact()
    assert list(export_lines(journal)) == before
    journal.close()


def test_readers_see_all_of_it_at_any_moment_of_a_compaction(path, small_batches):
    journal = filled(path)
    whole = scan_all(journal, 1000)
    readers = [reading(path) for _ in range(2)]
    over, looks, wrong = threading.Event(), [0, 0], []
    at_it = threading.Barrier(1 + len(readers))

    def look(number, reader):
        last = False
        while not last:
            last = over.is_set()  # once more when it is over
            if scan_all(reader, 1000) != whole or list(reader.read("t01")) != [
                each for each in whole if each.task == "t01"
            ]:
                wrong.append(looks[number])
            looks[number] += 1
            if looks[number] == 1:
                at_it.wait(20)

    threads = [threading.Thread(target=look, args=each) for each in enumerate(readers)]
    for each in threads:
        each.start()
    at_it.wait(20)
    journal.compact()
    over.set()
    for each in threads:
        each.join()
    for each in readers:
        require_whole(each, whole)
        each.close()
    journal.close()
    assert wrong == []
    assert min(looks) > 1


def test_where_the_archive_was_taken_away_the_rest_is_read_and_a_check_says_what_is_missing(path):
    whole = archived(path)
    place = sqlite_archive.place_of(path)
    away = place.rename(path.with_name("away"))
    for journal in (reading(path), opened(path)):
        left = [each for each in whole if int(each.task[1:]) in OPEN]
        assert scan_all(journal, 1000) == left
        assert scan_all(journal, 2) == left
        assert list(journal.read("t01")) == []
        assert list(journal.unfinished()) == [f"t{number:02}" for number in OPEN]
        (told,) = journal.check()
        assert str(place) in told.detail
        assert "put it back" in told.detail
        with pytest.raises(JournalDamaged, match="not in the journal"):
            list(export_lines(journal))
        journal.close()
    away.rename(place)
    journal = opened(path)
    require_whole(journal, whole)
    journal.close()


@pytest.mark.parametrize("compactions", [0, 1, 2])
def test_a_journal_that_was_put_back_to_what_it_was_is_whole_beside_its_newer_archive(
    path, small_batches, compactions
):
    journal = filled(path)
    for number in range(3):
        if number == compactions:
            whole = scan_all(journal, 1000)
            journal.close()
            copy = path.read_bytes()
            journal = opened(path)
        late = [entry(f"u{number}", seq, unfinished=seq < 2) for seq in (1, 2)]
        journal.append([*late, entry("t01", 4 + number, unfinished=False)])
        journal.compact()
    journal.close()
    path.write_bytes(copy)
    for journal in (reading(path), opened(path)):
        assert scan_all(journal, 1000) == whole
        assert list(journal.read("t07")) == [each for each in whole if each.task == "t07"]
        journal.close()
    journal = opened(path)
    journal.append([entry("v", 1), entry("v", 2, unfinished=False), entry("t03", 4, unfinished=False)])
    whole = scan_all(journal, 1000)
    journal.compact()
    assert scan_all(journal, 1000) == whole
    for task in ("t01", "t03", "v"):
        assert list(journal.read(task)) == [each for each in whole if each.task == task]
    assert list(journal.check()) == []
    journal.append([entry("t01", 4 + compactions, unfinished=False)])
    journal.close()


def test_the_next_compaction_after_that_begins_another_archive(path):
    whole = archived(path)
    place = sqlite_archive.place_of(path)
    away = place.rename(path.with_name("away"))
    journal = opened(path)
    late = [entry("late", 1), entry("late", 2, unfinished=False), entry("open", 1)]
    journal.append(late)
    assert journal.compact().records == 2
    left = [each for each in whole if int(each.task[1:]) in OPEN]
    for reader in (journal, reading(path)):
        found = scan_all(reader, 1000)
        assert found[: len(left)] == left
        assert [(each.position, each.task) for each in found[len(left) :]] == [
            (len(whole) + 1, "late"),
            (len(whole) + 2, "late"),
            (len(whole) + 3, "open"),
        ]
        assert scan_all(reader, 2) == found
        (told,) = reader.check()
        assert "an earlier archive is not there" in told.detail
        reader.close()
    place.rename(path.with_name("second"))
    away.rename(place)
    reader = reading(path)
    assert scan_all(reader, 1000)[: len(whole)] == whole
    assert [each.position for each in reader.scan(len(whole), 9) if isinstance(each, Damage)] == [
        len(whole) + 1,
        len(whole) + 2,
    ]
    reader.close()


def test_what_is_missing_beside_an_archive_that_is_away_is_told(path):
    journal = filled(path)
    journal.compact()
    last = journal.append([entry("late", 1), entry("late", 2)])
    journal.close()
    sqlite_archive.place_of(path).unlink()
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM record WHERE position = ?", (last - 1,))
    connection.commit()
    connection.close()
    journal = reading(path)
    damage = [each for each in journal.scan(Position(0), 1000) if isinstance(each, Damage)]
    assert [each.position for each in damage] == [last - 1]
    journal.close()


def test_the_archive_of_another_journal_is_refused(path):
    other = filled(path.with_name("other.db"))
    other.compact()
    other.close()
    journal = filled(path)
    journal.close()
    sqlite_archive.place_of(path.with_name("other.db")).rename(sqlite_archive.place_of(path))
    for use in (reading, opened):
        journal = use(path)
        with pytest.raises(NotAJournal, match="move it away"):
            journal.last()
        journal.close()


def test_damage_in_the_archive_stands_in_its_place(path):
    whole = archived(path)
    connection = sqlite3.connect(sqlite_archive.place_of(path))
    connection.execute("UPDATE record SET body = x'00' WHERE position = 2")
    connection.execute("DELETE FROM record WHERE position = 3")
    connection.commit()
    connection.close()
    journal = opened(path)
    found = scan_all(journal, 1000)
    assert [each.position for each in found if isinstance(each, Damage)] == [2, 3]
    assert [each for each in found if each.position > 3] == whole[3:]
    assert isinstance(journal.read("t01")[0], Damage)
    assert list(journal.read("t05")) == [each for each in whole if each.task == "t05"]
    journal.close()


def test_a_changed_count_of_what_was_archived_is_told(path):
    journal = filled(path)
    journal.compact()
    journal.close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE archived SET batch = batch - 1")
    connection.commit()
    connection.close()
    with pytest.raises(JournalDamaged, match="archived"):
        opened(path)
    reader = reading(path)
    assert any(isinstance(each, Damage) for each in reader.scan(Position(0), 1000))
    reader.close()


def test_a_reader_can_not_compact(path):
    filled(path).close()
    reader = reading(path)
    with pytest.raises(JournalError):
        reader.compact()
    reader.close()


DYING = """
import itertools, os, shutil, signal, sys
from pathlib import Path
from journal_adapters import sqlite, sqlite_archive, sqlite_file
from journal_adapters.sqlite import SQLiteJournal
from meowcat.journal.contract import Owner

source, place, sync = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
owner = Owner(os.getpid(), "here")
sqlite_archive.AT_ONCE = 50
connect = sqlite_file.connect_writer


def compact_until(path, statement):
    left = itertools.count(statement, -1)

    def told(_):
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    journal = SQLiteJournal(path)
    journal.open(owner, sync)
    journal._writer.set_trace_callback(told)
    journal.compact()
    journal._writer.set_trace_callback(None)
    journal.close()


def whole(path):
    journal = SQLiteJournal(path)
    journal.open(owner, sync)
    found = journal.scan(0, 1000), list(journal.unfinished()), list(journal.check())
    reader = SQLiteJournal(path)
    reader.open_for_reading()
    assert reader.scan(0, 1000) == found[0]
    reader.close()
    for task in {each.task for each in found[0]}:
        assert list(journal.read(task)) == [each for each in found[0] if each.task == task]
    journal.close()
    return found


expected = whole(source)
for statement in itertools.count():
    path = place / f"{statement}.db"
    shutil.copy(source, path)
    child = os.fork()
    if not child:
        compact_until(path, statement)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    assert whole(path) == expected, statement
    journal = SQLiteJournal(path)  # whoever comes next finishes it
    journal.open(owner, sync)
    moved = journal.compact().records
    assert journal.scan(0, 1000) == expected[0]
    assert journal.compact().records == 0
    journal.close()
    connection = sqlite_file.connect(path, "mode=ro")
    connection.execute("ATTACH ? AS archive", (f"file:{path}-archive",))
    both = "SELECT count(*) FROM main.record m JOIN archive.record a ON a.position = m.position"
    assert connection.execute(both).fetchone() == (0,)
    connection.close()
    if status == 0:
        assert moved == 0
        print(statement)
        break
"""


@pytest.mark.parametrize("sync", ["power", "process"])
def test_a_kill_before_any_statement_of_a_compaction_loses_nothing_and_doubles_nothing(path, sync):
    filled(path).close()
    place = path.parent / "killed"
    place.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", DYING, path, place, sync],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONDEVMODE": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40
