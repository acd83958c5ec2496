"""The journal in one SQLite file, in WAL mode, owned through a lock file beside it.

One connection writes and checkpoints; a second one, which can't write, serves this process' reads, so that
they see committed records only. SQLite 3.7.0 to 3.51.2 can corrupt a log that two connections write or
checkpoint at once: hence no automatic checkpoints, and none by readers.
"""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import google_crc32c

from journal_adapters import sqlite_file
from journal_adapters.ownership import Lock, owner_of, refuse_platform
from meowcat.core.errors import (
    JournalClosed,
    JournalConflict,
    JournalDamaged,
    JournalError,
    JournalFenced,
    JournalForked,
    JournalRejected,
    JournalUncertain,
    NotAJournal,
)
from meowcat.core.values import Position, TaskId
from meowcat.journal.chain import UNFIT, intact, seal
from meowcat.journal.contract import GENESIS, MAX_RECORD, Damage, Entry, Epoch, Owner, Record, Sync

CHECKPOINT_AFTER = 8 << 20
"""Bytes of bodies after which the log is moved into the file."""

_OVERHEAD = 256
"""Bytes that a record takes in the log beside its body, roughly: what checkpoints reckon with."""

_SELECT = "SELECT position, task, seq, epoch, open, type, version, at, body, chain, crc FROM record"
_INSERT = "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SUM_UP = (
    "INSERT INTO task (id, first, seq, open) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, open = excluded.open"
)

_SUFFIXES = (".db", ".sqlite", ".sqlite3")

_ABANDONED: list[sqlite3.Connection] = []
"""Connections that a fork inherited: SQLite forbids even closing them there."""

Row = tuple[Any, ...]
T = TypeVar("T")


class SQLiteJournal:
    """A journal in a SQLite file."""

    max_record = MAX_RECORD

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Name the file; `open` or `open_for_reading` touches it."""
        self.path = Path(path).resolve()  # one lock file, by whatever links the journal is reached
        self._lock: Lock | None = None
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._reading = threading.Lock()
        self._pid = 0
        self._sync: Sync = "power"
        self._epoch = Epoch(0)
        self._last = Position(0)
        self._chain = GENESIS
        self._unchecked = 0
        self._in_doubt = False

    @classmethod
    def claims(cls, path: Path) -> bool:
        """Whether this adapter is the one for `path`: by its suffix, or a SQLite file without one."""
        if path.suffix:
            return path.suffix in _SUFFIXES
        try:
            return path.is_file() and sqlite_file.examine(path, known=False)
        except NotAJournal:
            return False
        except JournalError:
            return True  # opening it tells what is wrong

    @property
    def control_socket(self) -> Path:
        """See LocalJournal."""
        return Path(f"{self.path}-control")

    def open(self, owner: Owner, sync: Sync) -> Epoch:
        self._refuse_second_opening()
        refuse_platform()
        lock_path = Path(f"{self.path}-lock")
        known = owner_of(lock_path) is not None
        sqlite_file.examine(self.path, known=known)  # before a lock file is left beside a foreign one
        self._lock = Lock(lock_path, owner)
        self._pid, self._sync = os.getpid(), sync
        try:
            if not sqlite_file.examine(self.path, known=known):
                sqlite_file.create(self.path)
            self._connect()
            self._raise_epoch()
        except sqlite3.Error as error:
            self.close()
            raise sqlite_file.explain(error, self.path) from error
        except BaseException:  # raised again: whatever it was, the lock is given back
            self.close()
            raise
        return self._epoch

    def open_for_reading(self) -> None:
        """Open without ownership, also while another process owns the journal; see ReadableJournal."""
        self._refuse_second_opening()
        refuse_platform()
        if not sqlite_file.examine(self.path, known=owner_of(Path(f"{self.path}-lock")) is not None):
            raise NotAJournal(f"{self.path}: there is no journal")
        self._pid = os.getpid()
        try:
            self._reader = sqlite_file.connect_reader(self.path)
        except sqlite3.Error as error:
            raise sqlite_file.explain(error, self.path) from error

    def append(self, batch: Sequence[Entry]) -> Position:
        writer = self._owned()
        if self._in_doubt:
            raise JournalUncertain(f"{self.path}: an append is in doubt; reopen first")
        rows, chain = self._rows(batch)
        if not rows:
            return self._last
        self._checkpoint_when_due(writer)
        self._in_doubt = True  # until the commit, or a rollback that was verified
        try:
            self._store(writer, rows)
        except sqlite3.Error as error:
            self._sort_out(writer, error)
        self._in_doubt = False
        self._last, self._chain = Position(rows[-1][0]), chain
        self._unchecked += sum(len(entry.body) for entry in batch) + _OVERHEAD * len(rows)
        return self._last

    def reopen(self) -> Position:
        self._usable()
        self._disconnect()
        try:
            self._connect()
            self._require_epoch(self._writer_connection())
            self._settle_log(self._writer_connection())
        except sqlite3.Error as error:
            raise sqlite_file.explain(error, self.path) from error
        self._in_doubt = False
        return self._last

    def _settle_log(self, writer: sqlite3.Connection) -> None:
        """Make what is visible now durable in the file itself: after a failed sync, the log's pages may have
        been dropped by the kernel although they still read as written.
        """
        _, frames, moved = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if frames != moved:
            raise JournalUncertain(f"{self.path}: {frames - moved} pages of the log can't be moved yet")

    def read(self, task: TaskId, after: int = 0) -> Sequence[Record | Damage]:
        rows = f"{_SELECT} WHERE task = ? AND seq > ? ORDER BY seq"
        try:
            # The summary first: an append between the two reads must not make records look missing.
            summary = self._query("SELECT seq FROM task WHERE id = ?", task)
            found = self._query_as(_record, rows, task, after)
        except JournalDamaged as error:
            return [Damage(str(error), task=task)]
        last = found[-1].seq if found and isinstance(found[-1], Record) else after
        if summary and summary[0][0] > last and not (found and isinstance(found[-1], Damage)):
            found.append(Damage(f"the records after {last} of {summary[0][0]} are missing", task=task))
        return found

    def unfinished(self) -> Iterator[TaskId]:
        rows = self._query("SELECT id FROM task WHERE open = 1 ORDER BY first")
        return iter([TaskId(task) for (task,) in rows])

    def scan(self, after: Position, limit: int) -> Sequence[Record | Damage]:
        rows = f"{_SELECT} WHERE position > ? ORDER BY position LIMIT ?"
        try:
            return self._query_as(_record, rows, after, limit)
        except JournalDamaged:
            return self._scan_one_by_one(after, limit)

    def _scan_one_by_one(self, after: int, limit: int) -> Sequence[Record | Damage]:
        """What can be read where a page or a text is damaged: the rest is damage at its position."""
        found: list[Record | Damage] = []
        for position in range(after + 1, min(after + limit, self.last()) + 1):
            try:
                rows = self._query(f"{_SELECT} WHERE position = ?", position)
            except JournalDamaged as error:
                found.append(Damage(str(error), Position(position)))
            else:
                missing = Damage(f"record {position} is missing", Position(position))
                found.append(_record(rows[0]) if rows else missing)
        return found

    def last(self) -> Position:
        return Position(self._query("SELECT max(position) FROM record")[0][0] or 0)

    def cursors(self) -> Mapping[str, Position]:
        return {
            name: Position(position) for name, position in self._query("SELECT name, position FROM cursor")
        }

    def set_cursor(self, name: str, position: Position | None) -> None:
        if position is None:
            self._write("DELETE FROM cursor WHERE name = ?", name)
        else:
            self._write("INSERT OR REPLACE INTO cursor VALUES (?, ?)", name, position)

    def put_snapshot(self, name: str, position: Position, body: bytes) -> None:
        checksum = google_crc32c.value(body)
        self._write("INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?, ?)", name, position, body, checksum)

    def get_snapshot(self, name: str) -> tuple[Position, bytes] | None:
        rows = self._query("SELECT position, body, crc FROM snapshot WHERE name = ?", name)
        if not rows or google_crc32c.value(rows[0][1]) != rows[0][2]:
            return None  # a snapshot is advisory: a damaged one is as good as none
        return Position(rows[0][0]), rows[0][1]

    def close(self) -> None:
        if self._pid and self._pid != os.getpid():
            _ABANDONED.extend(c for c in (self._writer, self._reader) if c is not None)
            self._writer = self._reader = None
        self._disconnect()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _refuse_second_opening(self) -> None:
        if self._reader is not None or self._writer is not None:
            raise JournalError(f"{self.path}: this journal object is open already")

    def _connect(self) -> None:
        self._writer = sqlite_file.connect_writer(self.path, self._sync)
        self._reader = sqlite_file.connect_reader(self.path)
        row = self._writer.execute(
            "SELECT position, chain FROM record ORDER BY position DESC LIMIT 1"
        ).fetchone()
        self._last, self._chain = (Position(row[0]), row[1]) if row else (Position(0), GENESIS)

    def _disconnect(self) -> None:
        """Close both connections, the reader first: the last one to close empties the log."""
        with self._reading:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
        if self._writer is not None:
            writer, self._writer = self._writer, None
            try:
                writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.Error:
                pass  # what is in the log is durable there, and the next opening reads it
            writer.close()

    def _raise_epoch(self) -> None:
        writer = self._writer_connection()
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE journal SET epoch = epoch + 1")
        self._epoch = Epoch(self._stored_epoch(writer))
        writer.execute("COMMIT")

    def _stored_epoch(self, connection: sqlite3.Connection) -> int:
        row = connection.execute("SELECT epoch FROM journal").fetchone()
        if row is None:
            raise JournalDamaged(f"{self.path}: the journal has lost its epoch")
        return int(row[0])

    def _require_epoch(self, writer: sqlite3.Connection) -> None:
        stored = self._stored_epoch(writer)
        if stored != self._epoch:
            raise JournalFenced(f"{self.path}: epoch {stored} owns the journal; this is {self._epoch}")

    def _rows(self, batch: Sequence[Entry]) -> tuple[list[Row], bytes]:
        """The batch as rows, and the chain after it.

        Raises:
            JournalRejected: an entry that no record can hold.

        """
        rows: list[Row] = []
        chain, epoch = self._chain, self._epoch
        for position, entry in enumerate(batch, self._last + 1):
            if len(entry.body) > self.max_record:
                raise JournalRejected(f"a record of {len(entry.body)} bytes; at most {self.max_record} fit")
            try:
                chain, checksum = seal(chain, entry, epoch, Position(position))
            except UNFIT as error:
                raise JournalRejected(f"task {entry.task!r}: no record can hold this: {error}") from error
            head = (position, entry.task, entry.seq, epoch, entry.open, entry.type, entry.version, entry.at)
            rows.append((*head, entry.body, chain, checksum))
        return rows, chain

    def _store(self, writer: sqlite3.Connection, rows: list[Row]) -> None:
        writer.execute("BEGIN IMMEDIATE")
        try:
            self._require_epoch(writer)
        except JournalFenced:
            writer.execute("ROLLBACK")
            self._in_doubt = False
            raise
        writer.executemany(_INSERT, rows)
        last = {row[1]: (row[1], row[0], row[2], row[4]) for row in rows}
        firsts = {row[1]: row[0] for row in reversed(rows)}
        writer.executemany(
            _SUM_UP, [(task, firsts[task], seq, open_) for task, _, seq, open_ in last.values()]
        )
        writer.execute("COMMIT")

    def _sort_out(self, writer: sqlite3.Connection, error: sqlite3.Error) -> NoReturn:
        """Tell a certain failure from an uncertain one: only after a rollback that a reader confirms."""
        code = sqlite_file.code_of(error)
        full = code & 0xFF == sqlite3.SQLITE_FULL
        busy = code & 0xFF == sqlite3.SQLITE_BUSY and not writer.in_transaction
        conflict = code == sqlite3.SQLITE_CONSTRAINT_UNIQUE
        if (full or busy or conflict) and self._rolled_back(writer):
            self._in_doubt = False
            if conflict:
                raise JournalConflict(
                    f"{self.path}: a record with that task and seq stands already"
                ) from error
            raise JournalRejected(f"{self.path}: not stored: {error}") from error
        raise JournalUncertain(f"{self.path}: the append may or may not be stored: {error}") from error

    def _rolled_back(self, writer: sqlite3.Connection) -> bool:
        try:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
            return not writer.in_transaction and self.last() == self._last
        except (sqlite3.Error, JournalError):
            return False

    def _checkpoint_when_due(self, writer: sqlite3.Connection) -> None:
        """Move the log into the file, by the writing connection; before an append, so that its failure
        can't put a stored batch in doubt.
        """
        if self._unchecked < CHECKPOINT_AFTER:
            return
        self._unchecked = 0
        try:
            writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            if sqlite_file.code_of(error) & 0xFF not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY):
                self._in_doubt = True  # a failed sync: what the file holds must be read anew
                raise JournalUncertain(f"{self.path}: the log can't be moved: {error}") from error

    def _write(self, statement: str, *values: object) -> None:
        writer = self._owned()
        try:
            writer.execute("BEGIN IMMEDIATE")
            self._require_epoch(writer)
            writer.execute(statement, values)
            writer.execute("COMMIT")
        except sqlite3.Error as error:
            raise sqlite_file.explain(error, self.path) from error
        finally:
            if writer.in_transaction:
                writer.execute("ROLLBACK")

    def _query(self, statement: str, *values: object) -> list[Row]:
        return self._query_as(tuple, statement, *values)

    def _query_as(self, make: Callable[[Row], T], statement: str, *values: object) -> list[T]:
        """All rows of a query, each as `make` has it. Row by row: a list of rows would keep the garbage
        collector busy for as long as the reading takes."""
        self._usable()
        with self._reading:
            if self._reader is None:  # a reopening failed half-way
                raise JournalUncertain(f"{self.path}: the journal could not be reopened")
            try:
                return list(map(make, self._reader.execute(statement, values)))
            except sqlite3.Error as error:
                raise sqlite_file.explain(error, self.path) from error

    def _usable(self) -> None:
        if self._pid and self._pid != os.getpid():
            raise JournalForked(f"{self.path}: opened by process {self._pid}, and this is a fork of it")
        if self._reader is None and self._lock is None:
            raise JournalClosed(f"{self.path}: the journal is closed")

    def _owned(self) -> sqlite3.Connection:
        self._usable()
        if self._lock is None:
            raise JournalError(f"{self.path}: opened for reading only")
        return self._writer_connection()

    def _writer_connection(self) -> sqlite3.Connection:
        if self._writer is None:  # a reopening failed half-way: only another one can mend that
            raise JournalUncertain(f"{self.path}: the journal could not be reopened")
        return self._writer


def _record(row: Row) -> Record | Damage:
    position, task, seq, epoch, open_, kind, version, at, body, chain, checksum = row
    record = Record(position, task, seq, epoch, open_ == 1, kind, version, at, body, chain)
    if intact(record, checksum):
        return record
    name = TaskId(task) if isinstance(task, str) else None
    return Damage(f"record {position} is damaged: wrong CRC", position, name)
