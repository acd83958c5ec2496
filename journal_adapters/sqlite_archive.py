"""The archive of a SQLite journal: what a compaction has moved out of its file, as it was.

The archive is a SQLite file beside the journal's. Records of finished tasks are moved some thousands at a
time: first they are stored in the archive, durably; then one transaction takes them out of the journal, and
counts them in its row of `archived`. What stands in the archive counts only as far as that row says. So a
crash leaves each record in one of the two, or in both, of which one counts. A reader sees the journal first
and the archive as of then or later, and so finds each record once.

Readers see the two as one journal: in their connections, views stand before the tables of the same names.
"""
# ruff: noqa: S608  # names of tables and columns are our own words, and every value is bound

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from msgspec import Struct

from journal_adapters.sqlite_file import LAYOUT, RECORD, TASK, Still, code_of, connect, create, uri_of
from journal_adapters.sqlite_sums import Row, TaskSum
from meowcat.core.errors import JournalDamaged, NotAJournal
from meowcat.core.values import Position
from meowcat.journal.chain import UNFIT, mark

APPLICATION = 0x4D656F61
"""`Meoa`: the application_id of an archive, which is no journal by itself."""

AT_ONCE = 10_000
"""Positions that are looked over for one batch: some megabytes of log in each of the two files."""

_RECORD = "position, task, seq, epoch, open, type, version, at, body, chain, crc"
_TASK = "id, first, seq, open, crc"

_SCHEMA = f"""
PRAGMA application_id = {APPLICATION};
BEGIN;
CREATE TABLE archive (
    journal TEXT NOT NULL,
    batch INTEGER NOT NULL,
    low INTEGER NOT NULL,
    high INTEGER NOT NULL,
    gone INTEGER NOT NULL
);
CREATE TABLE record (
{RECORD}
    batch INTEGER NOT NULL,
    UNIQUE (task, seq)
);
CREATE TABLE task (
{TASK}
) WITHOUT ROWID;
"""
"""`archive` says whose it is, the number and the positions of the newest batch, and up to which position
records are in an earlier archive that somebody has taken away."""

_VIEWS = f"""
CREATE TEMP VIEW record AS
    SELECT {_RECORD} FROM main.record
    UNION ALL
    SELECT {_RECORD} FROM archive.record WHERE batch <= (SELECT batch FROM main.archived);
CREATE TEMP VIEW task AS
    SELECT {_TASK} FROM main.task
    UNION ALL
    SELECT {_TASK} FROM archive.task a WHERE NOT EXISTS (SELECT 1 FROM main.task m WHERE m.id = a.id);
"""
"""A task that has gone on after it was archived has a row in both; that of the journal is the newer one."""

_TABLE = """
CREATE TABLE archived (
    batch INTEGER NOT NULL,
    records INTEGER NOT NULL,
    last INTEGER NOT NULL,
    high TEXT NOT NULL,
    crc INTEGER NOT NULL
)
"""
ARCHIVE = "-archive"
"""What an archive's name ends with, behind that of its journal."""

_STATE = "SELECT batch, records, last, high, crc FROM main.archived"
_HAS_STATE = "SELECT 1 FROM main.sqlite_master WHERE name = 'archived'"

_ENDED = "EXISTS (SELECT 1 FROM main.task t WHERE t.id = r.task AND t.open = 0)"
"""Looked up for each record: with `IN`, each statement would first collect all tasks that have ended."""
_NEXT = (
    f"SELECT position FROM main.record r WHERE position BETWEEN ? AND ? AND {_ENDED}"
    " ORDER BY position LIMIT 1"
)
_LEFT_OVER = "DELETE FROM archive.record WHERE batch > ?"
_STALE = (
    "SELECT id FROM archive.task t WHERE NOT EXISTS"
    " (SELECT 1 FROM archive.record r WHERE r.task = t.id AND r.seq = t.seq)"
)
_SUMMED_UP = (
    "SELECT task, min(position), max(seq) FROM archive.record r WHERE task = ?"
    " AND NOT EXISTS (SELECT 1 FROM main.task m WHERE m.id = r.task) GROUP BY task"
)
_NOTE = "UPDATE archive.archive SET batch = :batch, low = :low, high = :high"
_STORE = (
    f"INSERT INTO archive.record SELECT {_RECORD}, :batch FROM main.record r"
    f" WHERE position BETWEEN :low AND :high AND {_ENDED}"
)
_BATCH = "archive.record WHERE position BETWEEN :low AND :high AND batch = :batch"
_WHOLE = (
    f"SELECT t.id FROM main.task t JOIN (SELECT task, seq FROM {_BATCH}) r ON r.task = t.id AND r.seq = t.seq"
)
"""The tasks whose last records are in the batch; all before these were in it or in an earlier one."""
_STORE_TASKS = f"INSERT OR REPLACE INTO archive.task SELECT {_TASK} FROM main.task WHERE id IN ({_WHOLE})"
_SUMMARY = f"SELECT count(*), sum(length(body)), max(position), max(task) FROM {_BATCH}"
_TAKE_TASKS_OUT = f"DELETE FROM main.task WHERE id IN ({_WHOLE})"
_TAKE_OUT = f"DELETE FROM main.record WHERE position IN (SELECT position FROM {_BATCH})"


class Archived(Struct, frozen=True):
    """How much of a journal is in its archive."""

    batch: int = 0
    """The number of the newest batch that counts."""
    records: int = 0
    last: Position = Position(0)
    """No record behind this position was archived."""
    high: str = ""
    """No task with an id above this one was."""

    @property
    def crc(self) -> int:
        return mark(self.high, self.last, b"%d %d" % (self.batch, self.records))

    def row(self) -> Row:
        return (self.batch, self.records, self.last, self.high, self.crc)


def place_of(path: Path) -> Path:
    """Where the archive of the journal at `path` is, if it has one."""
    return Path(f"{path}{ARCHIVE}")


def archived_of(connection: sqlite3.Connection, path: Path) -> Archived:
    """What a journal says of its archive.

    Raises:
        JournalDamaged: the row is not what was written.

    """
    if connection.execute(_HAS_STATE).fetchone() is None:
        return Archived()
    row = connection.execute(_STATE).fetchone()
    if row is not None:
        found = Archived(*row[:-1])
        try:
            if found.crc == row[-1]:
                return found
        except UNFIT:  # a damaged column can come back as another type
            pass
    raise JournalDamaged(f"{path}: the row that says what was archived is damaged")


def attach(reader: sqlite3.Connection, path: Path, still: Still) -> int | None:
    """Let a connection that reads see the archive as part of the journal, if there is one: the position up
    to which records may be in an earlier one.

    Raises:
        NotAJournal: what stands there is not the archive of this journal.

    """
    place = place_of(path)
    if not os.path.exists(place):  # noqa: PTH110  # asked for at each reading: a third of what a Path takes
        return None
    try:
        _attach(reader, place, "mode=ro")
    except sqlite3.OperationalError:
        if not still.take(place):
            raise
        _attach(reader, place, "mode=ro&immutable=1")
    _require_ours(reader, place)
    if reader.execute(_HAS_STATE).fetchone() is None:
        # The journal was put back to what it was before it had an archive: it has all by itself, until the
        # next compaction.
        reader.execute("DETACH archive")
        return None
    reader.executescript(_VIEWS)
    gone: int = reader.execute("SELECT gone FROM archive.archive").fetchone()[0]
    return gone


def attach_for_writing(writer: sqlite3.Connection, path: Path) -> None:
    """Let a connection that writes change the archive that is there. It is synced at each commit, whatever
    the journal is: what leaves that must be durable here.

    Raises:
        as `attach`.

    """
    place = place_of(path)
    _attach(writer, place, "mode=rw")
    _require_ours(writer, place)
    for pragma in ("journal_mode = wal", "synchronous = 2", "fullfsync = 1", "mmap_size = 0"):
        writer.execute(f"PRAGMA archive.{pragma}").fetchall()


def _attach(connection: sqlite3.Connection, place: Path, query: str) -> None:
    connection.execute("ATTACH ? AS archive", (uri_of(place, query),))
    try:
        connection.execute("SELECT batch FROM archive.archive").fetchone()
    except BaseException:  # raised again: whatever it was, what can't be read is not part of anything
        connection.execute("DETACH archive")
        raise


def _require_ours(connection: sqlite3.Connection, place: Path) -> None:
    (application,) = connection.execute("PRAGMA archive.application_id").fetchone()
    (ours,) = connection.execute("SELECT id FROM main.journal").fetchone()
    row = connection.execute("SELECT journal FROM archive.archive").fetchone()
    if application != APPLICATION or row is None or row[0] != ours:
        connection.execute("DETACH archive")
        raise NotAJournal(f"{place}: not the archive of the journal beside it; move it away")


Transaction = Callable[[], AbstractContextManager[object]]
"""One durable change of the journal, and of its archive; see `SQLiteJournal`."""


def first_ended(writer: sqlite3.Connection, after: int, limit: int) -> int | None:
    """The position of the first record behind `after`, and not behind `limit`, that can be archived."""
    row = writer.execute(_NEXT, (after + 1, limit)).fetchone()
    return None if row is None else row[0]


@contextmanager
def opened(writer: sqlite3.Connection, path: Path, transaction: Transaction) -> Iterator[Path]:
    """The archive, for a compaction by a connection that writes; made where there is none."""
    place = place_of(path)
    if writer.execute(_HAS_STATE).fetchone() is None:
        with transaction():
            writer.execute(f"PRAGMA user_version = {LAYOUT}")
            writer.execute(_TABLE)
            writer.execute("INSERT INTO archived VALUES (?, ?, ?, ?, ?)", Archived().row())
    if not place.exists():
        (ours,) = writer.execute("SELECT id FROM journal").fetchone()
        create(place, partial(_write_empty, ours, archived_of(writer, path).last))
    attach_for_writing(writer, path)
    try:
        yield place
        writer.execute("PRAGMA archive.wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        if not writer.in_transaction:  # one that could not be rolled back ends with its connection
            writer.execute("DETACH archive")


def _write_empty(journal: str, gone: int, path: Path) -> None:
    connection = connect(path, "mode=rwc")
    try:
        connection.executescript(_SCHEMA)
        connection.execute("INSERT INTO archive VALUES (?, 0, 0, 0, ?)", (journal, gone))
        connection.execute("COMMIT")
    finally:
        connection.close()


def move(
    writer: sqlite3.Connection, archived: Archived, limit: int, transaction: Transaction
) -> Iterator[tuple[Archived, int]]:
    """Move what has ended and is not behind `limit` into the archive that is open. After each batch: what is
    archived, and how many bytes the bodies in the batch had.
    """
    if writer.execute("SELECT batch FROM archive.archive").fetchone()[0] > archived.batch:
        with transaction():
            _forget_behind(writer, archived.batch)
    end = 0
    while (low := first_ended(writer, end, limit)) is not None:
        end = min(low + AT_ONCE - 1, limit)
        batch = {"batch": archived.batch + 1, "low": low, "high": end}
        with transaction():
            writer.execute(_STORE, batch)
            writer.execute(_STORE_TASKS, batch)
            writer.execute(_NOTE, batch)
        archived, size = _take_out(writer, archived, batch, transaction)
        yield archived, size


def _forget_behind(writer: sqlite3.Connection, batch: int) -> None:
    """Take out of the archive what does not count: of a compaction that was cut off; or of many, where the
    journal was put back to what it was before them, and has the records itself."""
    writer.execute(_LEFT_OVER, (batch,))
    for (task,) in writer.execute(_STALE).fetchall():
        writer.execute("DELETE FROM archive.task WHERE id = ?", (task,))
        for name, first, seq in writer.execute(_SUMMED_UP, (task,)).fetchall():
            row = TaskSum(name, first, seq, open=False).row()
            writer.execute("INSERT INTO archive.task VALUES (?, ?, ?, ?, ?)", row)


def _take_out(
    writer: sqlite3.Connection, archived: Archived, batch: Mapping[str, int], transaction: Transaction
) -> tuple[Archived, int]:
    """What is durable in the archive leaves the journal."""
    with transaction():
        count, size, last, high = writer.execute(_SUMMARY, batch).fetchone()
        writer.execute(_TAKE_TASKS_OUT, batch)
        writer.execute(_TAKE_OUT, batch)
        archived = Archived(
            batch["batch"],
            archived.records + count,
            Position(max(archived.last, last)),
            max(archived.high, high),
        )
        columns = "batch = ?, records = ?, last = ?, high = ?, crc = ?"
        writer.execute(f"UPDATE archived SET {columns}", archived.row())
    return archived, size


def shrink(writer: sqlite3.Connection) -> None:
    """Give back what a compaction has freed, where it is most of the file; nothing of it is needed."""
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    (free,) = writer.execute("PRAGMA freelist_count").fetchone()
    if 2 * free <= pages:
        return
    try:
        writer.execute("PRAGMA temp_store = 1")  # what is left may be much, too
        writer.execute("VACUUM main")
        writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        if code_of(error) & 0xFF not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise
        # There is no room for a copy of what is left, or somebody reads: later records fill what is free.
    finally:
        writer.execute("PRAGMA temp_store = 2")
