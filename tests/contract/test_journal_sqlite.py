"""What is SQLite's own: bad input, forks, readers in other processes, damage in the file."""

import json
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
from elsewhere import as_child, as_nobody, fork, held

from journal_adapters import sqlite_archive, sqlite_file
from journal_adapters.sqlite import SQLiteJournal
from journal_adapters.sqlite_sums import insert
from meowcat.core.errors import (
    JournalAccess,
    JournalClosed,
    JournalDamaged,
    JournalError,
    JournalFenced,
    JournalForked,
    JournalOwned,
    JournalRejected,
    JournalTooNew,
    JournalUncertain,
    NotAJournal,
)
from meowcat.core.values import Position
from meowcat.journal.contract import Damage, LocalJournal, Owner
from meowcat.journal.replay import verify_chain
from meowcat.testing.journal_suite import OWNER, check_stored, entry, scan_all


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.db"


def filled(path, count=5):
    journal = SQLiteJournal(path)
    journal.open(OWNER, "power")
    journal.append([entry(f"t{number}", 1, f"body {number}".encode() * 20) for number in range(count)])
    return journal


@contextmanager
def being_read(path):
    """Somebody is in the middle of a query, so that pages of the log can't be moved."""
    with (
        closing(sqlite_file.connect(path, "mode=ro")) as reader,
        closing(reader.execute("SELECT * FROM record")) as rows,
    ):
        assert rows.fetchone()
        yield


def image(folder):
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()}


def told(path):
    reader = SQLiteJournal(path)
    reader.open_for_reading()
    found = [damage.detail for damage in reader.check()]
    reader.close()
    return found


OTHER_INDEX = """
PRAGMA writable_schema = 1;
UPDATE sqlite_schema SET sql = replace(sql, '(first)', '(seq)') WHERE name = 'unfinished'
"""


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE task SET seq = 2 WHERE id = 't3'", "the row of task 't3' does not say what its records say"),
        ("DELETE FROM task WHERE id = 't3'", "the row of task 't3' does not say"),
        ("INSERT INTO task VALUES ('none', 9, 1, 0, 1)", "task 'none' has a row, and no records"),
        ("DELETE FROM record WHERE position = 5", "the records end with 4, and 5 were stored"),
        ("UPDATE record SET chain = zeroblob(32) WHERE position = 5", "value of the hash chain is not that"),
        ("UPDATE task SET open = 0 WHERE id = 't3'", "4 tasks are unfinished, and 5 were"),
        ("UPDATE journal SET last = 4", "the row that says where the journal ends is damaged"),
        ("UPDATE cursor SET position = 1", "the cursor 'sink' is damaged"),
        ("UPDATE snapshot SET body = 'other'", "the snapshot 'all' is damaged"),
        (OTHER_INDEX, "SQLite says: "),
    ],
)
def test_what_does_not_fit_the_records_is_told(path, statement, says):
    journal = filled(path)
    journal.set_cursor("sink", 3)
    journal.put_snapshot("all", 3, b"body")
    journal.close()
    assert told(path) == []
    connection = sqlite3.connect(path)
    connection.executescript(statement)
    connection.commit()
    connection.close()
    found = told(path)
    assert any(says in each for each in found), found


def text_file(path):
    path.write_text("my notes, which are worth more than any journal\n" * 100)


def folder(path):
    path.mkdir()


def fifo(path):
    os.mkfifo(path)


def foreign_database(path):
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA journal_mode=wal; CREATE TABLE x (y); INSERT INTO x VALUES (1)")
    connection.close()


def foreign_application(path):
    foreign_database(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA application_id = 7")
    connection.close()


def newer(path):
    filled(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 3")
    connection.close()


def smashed_header(path):
    filled(path).close()
    path.write_bytes(b"x" * 100 + path.read_bytes()[100:])


def emptied(path):
    filled(path).close()
    path.write_bytes(b"")


def smashed_schema(path):
    filled(path).close()
    path.write_bytes(path.read_bytes()[:100] + b"\xff" * 3996 + path.read_bytes()[4096:])


def cut_short(path):
    filled(path, 500).close()
    path.write_bytes(path.read_bytes()[:4096])


@pytest.mark.parametrize("reading", [False, True])
@pytest.mark.parametrize(
    ("stands", "error"),
    [
        (text_file, NotAJournal),
        (folder, NotAJournal),
        (fifo, NotAJournal),
        (foreign_database, NotAJournal),
        (foreign_application, NotAJournal),
        (newer, JournalTooNew),
        (smashed_header, JournalDamaged),
        (emptied, JournalDamaged),
        (smashed_schema, JournalDamaged),
        (cut_short, JournalDamaged),
    ],
)
def test_bad_input_is_told_within_a_second_and_nothing_is_overwritten(path, stands, error, reading):
    stands(path)
    before = image(path.parent) if stands is not fifo else None
    journal = SQLiteJournal(path)
    begin = time.monotonic()
    with pytest.raises(error) as told:
        journal.open_for_reading() if reading else journal.open(Owner(1, "x"), "power")
    assert time.monotonic() - begin < 1
    assert type(told.value) is error
    assert str(path) in str(told.value)
    if before is not None:
        after = image(path.parent)
        for name in set(before) - {"journal.db-lock"}:
            assert after[name] == before[name]
        assert set(after) - set(before) <= {"journal.db-shm", "journal.db-wal"}  # SQLite's, for readers
        assert after.get("journal.db-wal", b"") == b""
    journal.close()


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(JournalAccess, match="does not exist"):
        SQLiteJournal(tmp_path / "no" / "a.db").open(OWNER, "power")
    with pytest.raises(NotAJournal, match="there is no journal"):
        SQLiteJournal(tmp_path / "a.db").open_for_reading()


def opening(path):
    def attempt():
        try:
            return SQLiteJournal(path).open(OWNER, "power")
        except JournalError as error:
            return type(error).__name__

    return attempt


def test_no_permission(public):
    path = public / "a.db"
    public.chmod(0o555)
    assert as_nobody(opening(path)) == "JournalAccess"
    public.chmod(0o777)
    filled(path).close()
    (public / "a.db-lock").chmod(0o666)
    path.chmod(0o444)
    assert as_nobody(opening(path)) == "JournalAccess"
    path.chmod(0o000)
    assert as_nobody(opening(path)) == "JournalAccess"


def reading(path):
    def attempt():
        journal = SQLiteJournal(path)
        journal.open_for_reading()
        return journal.last()

    return attempt


def test_a_journal_in_a_read_only_folder_can_be_read(public):
    path = public / "a.db"
    journal = filled(path)
    public.chmod(0o555)
    assert as_nobody(reading(path)) == "5"
    journal.close()
    assert [each.name for each in public.iterdir() if "-wal" in each.name] == []
    assert as_nobody(reading(path)) == "5"


def appending(journal):
    journal.append([entry("new", 1), entry("t0", 2, unfinished=False)])


def appending_and_closing(journal):
    appending(journal)
    journal.close()


def compacting(journal):
    appending(journal)
    assert journal.compact().records == 2
    journal.append([entry(f"more{number}", 1, b"x" * 5000) for number in range(20)])


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("owns", [appending, appending_and_closing, compacting])
def test_a_reader_in_a_read_only_folder_sees_what_an_owner_writes_who_comes_later(public, archived, owns):
    """Where nobody writes, and the folder can't be written, it reads the file as one that never changes."""
    path = public / "a.db"
    journal = filled(path)
    if archived:
        journal.append([entry("t1", 2, unfinished=False)])
        assert journal.compact().records == 2
    journal.close()
    public.chmod(0o555)
    (reader_waits, tell_owner), (owner_is_done, tell_reader) = os.pipe(), os.pipe()
    owners = []

    def own():
        os.read(reader_waits, 1)
        public.chmod(0o755)
        owners.append(SQLiteJournal(path))
        owners[0].open(OWNER, "power")
        owns(owners[0])
        os.write(tell_reader, b".")

    def read():
        reader = SQLiteJournal(path)
        reader.open_for_reading()
        before = reader.last()
        os.write(tell_owner, b".")
        os.read(owner_is_done, 1)
        tasks = [each.task for each in scan_all(reader)]
        return before, reader.last(), tasks, list(reader.unfinished()), list(reader.check())

    owner = threading.Thread(target=own)
    owner.start()
    told = as_nobody(read)
    owner.join()
    (journal,) = owners
    if owns is appending_and_closing:
        journal.open_for_reading()
    tasks = [each.task for each in scan_all(journal)]
    assert told == str((5 + archived, journal.last(), tasks, list(journal.unfinished()), []))
    journal.close()
    for each in (reader_waits, tell_owner, owner_is_done, tell_reader):
        os.close(each)


READ = """
import json, sys
from journal_adapters.sqlite import SQLiteJournal
from meowcat.core.errors import JournalOwned
from meowcat.journal.contract import Owner
journal = SQLiteJournal(sys.argv[1])
try:
    journal.open(Owner(1, "x"), "power")
except JournalOwned as error:
    owner = error.owner
journal.open_for_reading()
print(json.dumps([owner, journal.last(), list(journal.unfinished()), len(journal.scan(0, 10))]))
"""


def test_another_process_reads_a_journal_that_is_owned_and_is_told_by_whom(path):
    journal = filled(path, 3)
    told = subprocess.run(
        [sys.executable, "-c", READ, path], capture_output=True, check=True, text=True
    ).stdout
    assert json.loads(told) == [str(OWNER), 3, ["t0", "t1", "t2"], 3]
    journal.append([entry("t0", 2)])
    journal.close()


def test_a_reader_sees_what_is_appended_later_and_can_not_write(path):
    journal = filled(path, 1)
    reader = SQLiteJournal(path)
    reader.open_for_reading()
    journal.append([entry("later", 1)])
    assert reader.last() == 2
    with pytest.raises(JournalError, match="reading only"):
        reader.append([entry("mine", 1)])
    journal.close()
    assert reader.last() == 2
    reader.close()
    with pytest.raises(JournalClosed):
        reader.last()


def test_a_forked_child_refuses_and_leaves_the_lock_to_its_parent(path):
    journal = filled(path)

    def in_child():
        told = []
        for use in (journal.last, journal.reopen, lambda: journal.append([entry("child", 1)])):
            try:
                told.append(use())
            except JournalForked:
                told.append("forked")
        journal.close()
        return told

    assert as_nobody(in_child) == "['forked', 'forked', 'forked']"
    with pytest.raises(JournalOwned):
        SQLiteJournal(path).open(OWNER, "power")
    journal.append([entry("parent", 1)])
    assert journal.last() == 6
    journal.close()


def test_a_child_that_was_forked_while_a_thread_was_reading_can_close(path):
    journal = filled(path)

    def in_child():
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(5)  # a child that waits is killed, and has told nothing
        journal.close()
        journal.open_for_reading()
        return journal.last()

    with held(journal._reads._lock):
        assert as_child(in_child) == "5"
    assert journal.last() == 5
    journal.close()


def test_the_lock_is_free_when_its_owner_has_closed_although_a_fork_of_it_lives(path):
    journal = filled(path)
    receive, send = os.pipe()
    child = fork()
    if child == 0:
        os.read(receive, 1)
        os._exit(0)
    try:
        journal.close()
        again = SQLiteJournal(path)
        assert again.open(OWNER, "power") == 2
        again.close()
    finally:
        os.write(send, b"x")
        os.waitpid(child, 0)
        os.close(receive)
        os.close(send)


def test_the_settings_are_those_of_the_rules(path):
    for sync, level in (("power", 2), ("process", 1)):
        journal = SQLiteJournal(path)
        journal.open(OWNER, sync)
        read = {
            name: journal._writer.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "wal_autocheckpoint", "mmap_size", "foreign_keys")
        }
        wanted = {"journal_mode": "wal", "synchronous": level, "wal_autocheckpoint": 0}
        assert read == {**wanted, "mmap_size": 0, "foreign_keys": 1}
        journal.close()


class Failing:
    """The connection that writes, of which a statement fails as SQLite says it: instead of being done, or
    after it."""

    def __init__(self, connection, statement, code, *, done=False):
        self._connection, self._statement, self._code, self._done = connection, statement, code, done

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def execute(self, statement, *values):
        fails = statement.startswith(self._statement)
        found = self._connection.execute(statement, *values) if self._done or not fails else None
        if fails:
            error = sqlite3.OperationalError("no luck")
            error.sqlite_errorcode = self._code
            raise error
        return found


def test_a_rejection_that_another_connection_does_not_confirm_is_a_doubt(path):
    journal = filled(path)
    journal._writer = Failing(journal._writer, "COMMIT", sqlite3.SQLITE_FULL)
    with pytest.raises(JournalRejected, match="no luck"):
        journal.append([entry("new", 1)])
    journal._writer = Failing(journal._writer._connection, "COMMIT", sqlite3.SQLITE_FULL, done=True)
    for _ in range(2):
        with pytest.raises(JournalUncertain):
            journal.append([entry("new", 1)])
    assert journal.reopen() == 6
    assert journal.append([entry("new", 2)]) == 7
    journal.close()


@pytest.mark.parametrize(
    ("statement", "error"),
    [("PRAGMA wal_checkpoint", JournalUncertain), ("PRAGMA archive.wal_checkpoint", JournalAccess)],
)
def test_after_a_log_that_could_not_be_synced_all_is_in_doubt(path, monkeypatch, statement, error):
    """What the kernel has dropped of it reads as if it were written."""
    monkeypatch.setattr(sqlite_file, "CHECKPOINT_AFTER", 0)
    journal = filled(path)
    journal.append([entry("t0", 2, unfinished=False)])
    writer = journal._writer
    journal._writer = Failing(writer, statement, sqlite3.SQLITE_IOERR_FSYNC)
    with pytest.raises(error, match="no luck"):
        journal.compact()
    journal._writer = writer
    for write in (lambda: journal.append([entry("new", 1)]), lambda: journal.set_cursor("x", Position(1))):
        with pytest.raises(JournalUncertain, match="reopen first"):
            write()
    assert journal.reopen() == 6
    assert journal.append([entry("new", 1)]) == 7
    journal.close()


def test_a_reopening_is_over_once_all_of_the_log_is_in_the_file(path, monkeypatch):
    """What is visible then may stand in pages of the log that a failed sync has dropped."""
    monkeypatch.setattr(sqlite_file, "BUSY", 0.01)
    journal = filled(path)
    with being_read(path):
        journal.append([entry("new", 1)])
        with pytest.raises(JournalUncertain, match="pages of the log can't be moved yet"):
            journal.reopen()
        with pytest.raises(JournalUncertain):
            journal.append([entry("new", 2)])
    assert journal.reopen() == 6
    assert path.with_name("journal.db-wal").stat().st_size == 0
    assert journal.append([entry("new", 2)]) == 7
    journal.close()


@pytest.mark.parametrize("write", [sqlite_file.write_empty, partial(sqlite_archive._write_empty, "id", 0)])
def test_a_new_file_is_never_in_a_mode_whose_crashes_keep_readers_out(path, write):
    """Killed while it was changed to another one, SQLite leaves what only a writer can take back."""
    sqlite_file.create(path, write)
    assert path.read_bytes()[18:20] == b"\x02\x02", "WAL: sqlite.org/fileformat.html, 1.3.3"
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    reader = sqlite_file.connect(path, "mode=ro")
    assert reader.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] > 0
    reader.close()


def test_a_crash_while_a_journal_is_created_leaves_nothing_in_the_way(path):
    sqlite_file.create(path, sqlite_file.write_empty)
    path.rename(f"{path}-creating")
    journal = filled(path)
    check_stored(journal, [entry(f"t{n}", 1, f"body {n}".encode() * 20) for n in range(5)])
    journal.close()
    assert sorted(each.name for each in path.parent.iterdir()) == ["journal.db", "journal.db-lock"]


def test_the_log_of_a_file_that_was_moved_away_is_not_removed_for_a_new_one(path):
    """What its owner was promised before it was killed may stand there alone."""
    owner = filled(path)
    killed = image(path.parent)
    owner.close()
    for name in (path.name, f"{path.name}-wal"):
        path.with_name(name).write_bytes(killed[name])
    away = path.rename(path.with_name("away.db"))
    journal = SQLiteJournal(path)
    with pytest.raises(JournalAccess, match=r"journal\.db-wal: the log of a file .* Put that file back"):
        journal.open(OWNER, "power")
    away.rename(path)
    journal.open(OWNER, "power")
    assert journal.last() == 5
    journal.close()
    path.rename(away)
    path.with_name(f"{path.name}-wal").touch()
    journal.open(OWNER, "power")
    assert journal.last() == 0, "an empty log has nothing"
    journal.close()


def test_the_place_of_the_control_socket_is_the_same_by_whatever_link_and_whether_open_or_not(path):
    link = path.with_name("link.db")
    link.symlink_to(path)
    closed = SQLiteJournal(link)
    assert isinstance(closed, LocalJournal)
    journal = filled(path)
    assert closed.control_socket == journal.control_socket == path.with_name("journal.db-control").resolve()
    journal.close()


TRY_LOCK = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)  # SHARED_FIRST, SHARED_SIZE
"""


def is_locked(path):
    done = subprocess.run([sys.executable, "-c", TRY_LOCK, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "BlockingIOError" in done.stderr, done.stderr
    return done.returncode != 0


def test_a_look_at_the_file_leaves_the_locks_of_this_process_alone(path):
    journal = filled(path)
    assert is_locked(path)
    for _ in range(2):
        assert told(path) == []
        with pytest.raises(JournalOwned):
            SQLiteJournal(path).open(OWNER, "power")
    assert is_locked(path)
    journal.close()
    assert not is_locked(path)


def test_a_log_that_is_being_moved_into_the_file_is_no_damage(path, tmp_path):
    journal = filled(path)
    journal.append([entry("large", 1, b"z" * 100_000)])
    moving = tmp_path / "moving.db"
    for each in ("", "-wal"):
        shutil.copy(f"{path}{each}", f"{moving}{each}")
    journal.close()
    # A checkpoint writes the first page first: for a moment it counts pages that are not there yet.
    frame = struct.Struct(">I20x4096s")  # sqlite.org/fileformat2.html, 4.1
    log = Path(f"{moving}-wal").read_bytes()[32:]
    first = [page for number, page in frame.iter_unpack(log) if number == 1][-1]
    assert int.from_bytes(first[28:32], "big") * 4096 > moving.stat().st_size
    with moving.open("r+b") as file:
        file.write(first)
    assert sqlite_file.examine(moving, known=True)
    journal = SQLiteJournal(moving)
    journal.open(OWNER, "power")
    assert [each.task for each in scan_all(journal)] == ["t0", "t1", "t2", "t3", "t4", "large"]
    journal.close()


@pytest.mark.parametrize("what", ["removed", "replaced", "renamed"])
def test_a_file_that_is_taken_away_under_its_owner_is_written_to_no_more(path, what):
    journal = filled(path)
    before = journal.last()
    if what == "removed":
        path.unlink()
    elif what == "replaced":
        shutil.copy(path, path.with_name("copy"))
        path.with_name("copy").rename(path)
    else:
        path.rename(path.with_name("other.db"))
    with pytest.raises(JournalFenced, match="replaced" if what == "replaced" else "removed"):
        journal.append([entry("new", 1)])
    assert journal.last() == before
    journal.close()


def test_a_file_of_several_names_has_no_owner(path):
    filled(path).close()
    other = path.with_name("other.db")
    other.hardlink_to(path)
    for each in (path, other):
        with pytest.raises(JournalAccess, match=r"2 names .* make a copy"):
            SQLiteJournal(each).open(Owner(1, "x"), "process")
        reader = SQLiteJournal(each)
        reader.open_for_reading()
        assert reader.last() == 5
        reader.close()
    other.unlink()
    journal = SQLiteJournal(path)
    journal.open(Owner(1, "x"), "process")
    journal.append([entry("new", 1)])
    journal.close()


def test_one_journal_by_two_links_has_one_owner(path):
    journal = filled(path)
    link = path.with_name("link.db")
    link.symlink_to(path)
    with pytest.raises(JournalOwned):
        SQLiteJournal(link).open(OWNER, "power")
    journal.close()


def alter(path, statement, *values):
    connection = sqlite3.connect(path)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "change",
    [
        *("task = 'x'", "seq = 9", "epoch = 9", "type = 'x'", "version = 9", "at = 9", "open = 0", "crc = 9"),
        *("chain = zeroblob(32)", "body = 'text'", "body = 7", "at = 'soon'", "task = CAST(x'ff' AS TEXT)"),
    ],
)
def test_every_column_is_guarded(path, change):
    filled(path).close()
    alter(path, f"UPDATE record SET {change} WHERE position = 3")  # noqa: S608  # our own text
    journal = SQLiteJournal(path)
    journal.open_for_reading()
    found = scan_all(journal)
    assert [each.position for each in found if isinstance(each, Damage)] == [3]
    assert len(found) == 5
    journal.close()


def test_records_that_are_gone_are_missed(path):
    journal = filled(path)
    journal.append([entry("t2", 2)])
    journal.close()
    alter(path, "DELETE FROM record WHERE position = 6")
    journal = SQLiteJournal(path)
    journal.open_for_reading()
    assert isinstance(journal.read("t2")[-1], Damage)
    assert not isinstance(journal.read("t1")[-1], Damage)
    assert [each.position for each in scan_all(journal) if isinstance(each, Damage)] == [6]
    journal.close()
    alter(path, "DELETE FROM record WHERE position = 2")
    journal = SQLiteJournal(path)
    journal.open(OWNER, "power")
    assert journal.append([entry("t7", 1)]) == 7
    assert [each.position for each in scan_all(journal) if isinstance(each, Damage)] == [2, 6]
    assert [damage.position for damage in verify_chain(scan_all(journal))] == [2, 6]
    journal.close()


def test_a_page_that_is_garbage_hits_its_records_and_no_others(path):
    filled(path, 400).close()
    connection = sqlite3.connect(path)
    (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'record'").fetchone()
    connection.close()
    raw = bytearray(path.read_bytes())
    interior = raw[(root - 1) * 4096 : root * 4096]
    cell = int.from_bytes(interior[12 + 2 * 5 : 12 + 2 * 5 + 2], "big")
    leaf = int.from_bytes(interior[cell : cell + 4], "big")
    raw[(leaf - 1) * 4096 : leaf * 4096] = b"\xaa" * 4096
    path.write_bytes(raw)
    journal = SQLiteJournal(path)
    journal.open(OWNER, "power")
    found = scan_all(journal, 50)
    assert [each.position for each in found] == list(range(1, 401))
    bad = [each for each in found if isinstance(each, Damage)]
    assert 1 < len(bad) < 30
    task = f"t{bad[0].position - 1}"
    assert all(isinstance(each, Damage) and each.task == task for each in journal.read(task))
    assert not isinstance(journal.read("t399")[0], Damage)
    journal.close()


def test_the_lock_dies_with_its_owner_although_a_fork_of_it_lives(path):
    receive, send = os.pipe()
    lives, tell = os.pipe()
    owner = fork()
    if owner == 0:
        filled(path)
        if fork() == 0:
            os.close(send)
            os.write(tell, b".")  # what closes inherited locks has run before `fork` returned
            os.read(receive, 1)  # until the test closes its end
        os._exit(0)
    os.close(receive)
    os.waitpid(owner, 0)
    os.read(lives, 1)
    os.close(lives)
    os.close(tell)
    journal = SQLiteJournal(path)
    assert journal.open(OWNER, "power") == 2
    assert journal.last() == 5
    journal.close()
    os.close(send)


def test_no_space_is_a_certain_no_and_the_journal_goes_on_without_reopening(path):
    journal = filled(path)
    journal._writer.execute("PRAGMA max_page_count = 1")  # SQLite takes the present size for less than it
    with pytest.raises(JournalRejected, match="full"):
        journal.append([entry("small", 1), entry("large", 1, bytes(500_000))])
    journal._writer.execute("PRAGMA max_page_count = 1000000")
    assert journal.append([entry("large", 1, bytes(500_000))]) == 6
    assert list(verify_chain(scan_all(journal))) == []
    journal.close()


@pytest.mark.parametrize("size", [20_000, 10])
def test_the_log_is_moved_into_the_file_before_it_grows_without_end(path, monkeypatch, size):
    """Also where a record is small: each commit writes whole pages."""
    monkeypatch.setattr(sqlite_file, "CHECKPOINT_AFTER", 50_000)
    journal = filled(path)
    moved = []
    journal._writer.set_trace_callback(lambda said: moved.append("wal_checkpoint" in said))
    for seq in range(2, 102):
        journal.append([entry("t0", seq, bytes(size))])
    assert path.with_name("journal.db-wal").stat().st_size < 150_000
    assert len(scan_all(journal)) == 105
    assert sum(moved) < 70, "far from once for each record that is smaller than what the log may have"
    journal.close()


def test_a_log_that_a_reader_holds_up_is_not_tried_to_be_moved_at_each_append(path, monkeypatch):
    monkeypatch.setattr(sqlite_file, "CHECKPOINT_AFTER", 50_000)
    journal = filled(path)
    moved = []
    journal._writer.set_trace_callback(lambda said: moved.append("wal_checkpoint" in said))
    log = path.with_name("journal.db-wal")
    with being_read(path):
        for seq in range(2, 52):
            journal.append([entry("t0", seq)])
        assert 2 <= sum(moved) <= log.stat().st_size / 50_000
    size = log.stat().st_size
    for seq in range(52, 102):
        journal.append([entry("t0", seq)])
    assert log.stat().st_size < size + 100_000
    journal.close()


def test_closing_leaves_one_file_and_the_lock(path):
    filled(path).close()
    assert sorted(each.name for each in path.parent.iterdir()) == ["journal.db", "journal.db-lock"]


@pytest.mark.parametrize(("free", "told"), [(0, True), (1 << 30, False)])
def test_an_io_error_on_a_full_disk_names_the_disk(path, monkeypatch, free, told):
    """SQLite says only `disk I/O error` where there is no room for its -shm."""
    monkeypatch.setattr(
        sqlite_file.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 30, 0, free)
    )
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    assert ("its disk is full" in str(sqlite_file.explain(error, path))) is told


FORKED_WITHIN = """
import os, sys, threading
from pathlib import Path
from journal_adapters import sqlite
from meowcat.testing.journal_suite import OWNER, entry

parent, path = os.getpid(), Path(sys.argv[1])
within, forking, forked = (threading.Event() for _ in range(3))
os.register_at_fork(before=forking.set, after_in_parent=forked.set)  # before what was registered before

def slowly(writer, tail, store=sqlite.store_tail):
    within.set()
    forking.wait()
    forked.wait(0.5)  # which waits for this
    store(writer, tail)

journal = sqlite.SQLiteJournal(path)
journal.open(OWNER, "power")
sqlite.store_tail = slowly
append = threading.Thread(target=journal.append, args=([entry("parent", 1)],))
append.start()
within.wait()
if os.fork():
    append.join()
    os._exit(0)
sqlite.store_tail = slowly.__defaults__[0]
while os.getppid() == parent:
    threading.Event().wait(0.001)
heir = sqlite.SQLiteJournal(path)
heir.open(OWNER, "power")
heir.append([entry("child", 1)])
print([record.task for record in heir.scan(0, 10)], flush=True)
os._exit(0)
"""


def test_a_child_that_was_forked_in_the_middle_of_an_append_may_inherit_the_journal(path):
    """SQLite would take the locks of the parent's transaction for the child's own, for ever."""
    command = [sys.executable, "-W", "ignore", "-c", FORKED_WITHIN, path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("['parent', 'child']\n", "")


@pytest.mark.parametrize("count", [0, 1, 2, 63, 98, 99, 100, 250])
def test_rows_go_in_as_they_are_and_with_few_statements(count):
    """Each statement has to wait for the interpreter's lock, behind a busy event loop."""
    rows = [(f"{number}", number, b"x", *range(7)) for number in range(count)]
    writer = sqlite3.connect(":memory:", isolation_level=None)
    writer.execute("CREATE TABLE record (a, b, c, d, e, f, g, h, i, j)")
    statements = []
    writer.set_trace_callback(statements.append)
    insert(writer, "INSERT INTO record", rows)
    writer.set_trace_callback(None)
    assert writer.execute("SELECT * FROM record ORDER BY rowid").fetchall() == rows
    assert len(statements) <= count // 99 + 6
    writer.close()
