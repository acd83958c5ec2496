"""The journal in one SQLite file, in WAL mode, owned through a lock file beside it.

One connection writes and checkpoints; a second one, which can't write, serves this process' reads. SQLite
3.7.0 to 3.51.2 can corrupt a log that two connections write or checkpoint at once: hence no automatic
checkpoints, and none by readers.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from msgspec.structs import replace

from journal_adapters import sqlite_file, sqlite_removal
from journal_adapters.ownership import Lock, Unforked, owner_of, refuse_platform, resolved
from journal_adapters.sqlite_archive import (
    Archived,
    archived_of,
    attach_for_writing,
    first_ended,
    move,
    opened,
    place_of,
    shrink,
)
from journal_adapters.sqlite_check import flaws
from journal_adapters.sqlite_file import FAILURES
from journal_adapters.sqlite_reading import SELECT, Reader, record_of
from journal_adapters.sqlite_removal import LOCK
from journal_adapters.sqlite_sums import (
    CURSORS,
    OPEN_TASKS,
    START,
    TAIL,
    Row,
    Sums,
    Tail,
    TaskSum,
    adopt,
    cursors_of,
    insert,
    rebuild,
    store_tail,
    stored,
    sum_up,
    to_find,
    unfinished_of,
)
from meowcat.core.errors import (
    JournalAccess,
    JournalConflict,
    JournalDamaged,
    JournalError,
    JournalFenced,
    JournalRejected,
    JournalUncertain,
    NotAJournal,
)
from meowcat.core.values import Position, TaskId
from meowcat.journal.chain import UNFIT, checksum, crc, mark, require_position, require_sequel, sequel
from meowcat.journal.contract import MAX_RECORD, Compaction, Damage, Entry, Epoch, Owner, Record, Sync

_SUFFIXES = (".db", ".sqlite", ".sqlite3")

_ABANDONED: list[sqlite3.Connection] = []
"""Connections that a fork inherited: SQLite forbids even closing them there."""


@dataclass
class _Change:
    """A transaction that is under way."""

    writer: sqlite3.Connection
    tail: Tail
    """What the tail becomes with it."""


class SQLiteJournal:
    """A journal in a SQLite file."""

    max_record = MAX_RECORD

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Name the file; `open` or `open_for_reading` touches it."""
        self.path = resolved(path)
        self._log = f"{self.path}{sqlite_file.LOGS[0]}"
        self._log_limit = sqlite_file.CHECKPOINT_AFTER
        """Bytes of the log above which it is moved."""
        self._lock: Lock | None = None
        self._writer: sqlite3.Connection | None = None
        self._file: sqlite_file.OneFile
        self._writing = Unforked()
        """Held while SQLite holds a lock to write under. It keeps those in the memory of the process: to a
        child that were forked then, the journal would be locked for good, though the parent is long gone."""
        self._reads = Reader(self.path)
        self._sync: Sync = "power"
        self._tail = START
        self._sums: dict[TaskId, TaskSum] = {}
        self._found: list[TaskSum] | None = None
        """The unfinished tasks that an opening has found: true until something is stored."""
        self._archived = Archived()
        self._in_doubt = False
        self._restored = False

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

    def holds(self, path: str) -> bool:
        """Whether it is the file, or one that stands beside it under its name; see FileJournal."""
        folder, name = os.path.split(path)  # texts: asked for each task
        ours = name == self.path.name or name.startswith(f"{self.path.name}-")
        return ours and os.path.realpath(folder) == str(self.path.parent)

    def open(self, owner: Owner, sync: Sync) -> Epoch:
        self._refuse_second_opening()
        refuse_platform()
        lock_path = Path(f"{self.path}{LOCK}")
        known = owner_of(lock_path) is not None
        sqlite_file.examine(self.path, known=known)  # before a lock file is left beside a foreign one
        self._lock = Lock(lock_path, owner)
        self._sync = sync
        self._reads.begin()
        try:
            sqlite_removal.make_way(self.path)
            if not sqlite_file.examine(self.path, known=known):
                sqlite_file.create(self.path, sqlite_file.write_empty)
            self._file = sqlite_file.OneFile(self.path)
            self._in_doubt = self._restored = False
            self._connect()
            self._raise_epoch()
            self._mend_sums()
        except FAILURES as error:
            self.close()
            raise sqlite_file.explain(error, self.path) from error
        except JournalUncertain as error:  # nothing that anybody would have to look for
            self.close()
            raise sqlite_file.explain(error.__cause__ or error, self.path) from error
        except BaseException:  # raised again: whatever it was, the lock is given back
            self.close()
            raise
        return self._tail.epoch

    def open_for_reading(self) -> None:
        """Open without ownership, also while another process owns the journal; see ReadableJournal."""
        self._refuse_second_opening()
        refuse_platform()
        if not sqlite_file.examine(self.path, known=owner_of(Path(f"{self.path}{LOCK}")) is not None):
            raise NotAJournal(f"{self.path}: there is no journal")
        self._reads.begin()
        try:
            early = sqlite_file.is_early(self._reads.open())
        except FAILURES as error:
            self.close()
            raise sqlite_file.explain(error, self.path) from error
        if early:
            self.close()
            raise JournalAccess(f"{self.path}: laid out by an early meowcat; open it for writing once")

    def remove(self, owner: Owner, when: Callable[[], bool]) -> bool:
        """Delete the file and all that stands beside it; see RemovableJournal."""
        self._refuse_second_opening()
        refuse_platform()
        if not self._stands() and not sqlite_removal.was_cut_off(self.path):
            raise NotAJournal(f"{self.path}: there is no journal")
        lock = Lock(Path(f"{self.path}{LOCK}"), owner)
        try:
            wanted = not self._stands() or self._answer(when)
            if wanted:
                sqlite_removal.remove(self.path, lock)
        finally:
            lock.release()
        return wanted

    def _stands(self) -> bool:
        return sqlite_file.examine(self.path, known=False)

    def _answer(self, when: Callable[[], bool]) -> bool:
        self.open_for_reading()
        try:
            return when()
        finally:
            self.close()

    def append(self, batch: Sequence[Entry]) -> Position:
        writer = self._writable()
        if self._restored:
            raise JournalRejected(f"{self.path}: records were restored; close it and open it again")
        tail = self._tail
        records, rows = [], []
        for record, form in sequel(batch, tail.last, tail.epoch, tail.chain, self.max_record):
            records.append(record)
            rows.append(_row(record, checksum(form, record.chain)))
        if not rows:
            return tail.last
        self._checkpoint_when_due(writer)
        self._store(records, rows, replace(tail, last=record.position, chain=record.chain))
        return record.position

    def restore(self, records: Sequence[Record]) -> Position:
        """Store records of another journal as they are; see RestorableJournal."""
        writer = self._writable()
        tail = self._tail
        rows = self._reads.query("SELECT epoch FROM record WHERE position = ?", tail.last)
        require_sequel(records, tail.last, Epoch(rows[0][0] if rows else 0), tail.chain, self.max_record)
        if not records:
            return tail.last
        self._checkpoint_when_due(writer)
        end = records[-1]
        tail = replace(tail, last=end.position, chain=end.chain, epoch=max(tail.epoch, end.epoch))
        rows = [_row(each, crc(each, each.epoch, each.position, each.chain)) for each in records]
        self._store(records, rows, tail)
        self._restored = True
        return tail.last

    def reopen(self) -> Position:
        self._reads.require_usable()
        self._in_doubt = True  # also where nothing was: until all of this is done
        self._disconnect()
        epoch = self._tail.epoch
        try:
            self._connect()
            self._require_epoch(epoch)
            self._settle_log(self._writer_connection())
        except FAILURES as error:
            raise sqlite_file.explain(error, self.path) from error
        self._in_doubt = False
        return self._tail.last

    def _settle_log(self, writer: sqlite3.Connection) -> None:
        """Make what is visible now durable in the file itself: after a failed sync, the log's pages may have
        been dropped by the kernel although they still read as written.
        """
        with self._writing:
            _, frames, moved = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if frames != moved:
            raise JournalUncertain(f"{self.path}: {frames - moved} pages of the log can't be moved yet")

    def read(self, task: TaskId, after: int = 0) -> Sequence[Record | Damage]:
        return self._reads.read(task, after)

    def read_many(self, tasks: Sequence[TaskId]) -> Sequence[Sequence[Record | Damage]]:
        """The records of many tasks; see BulkJournal."""
        return self._reads.read_many(tasks)

    def scan(self, after: Position, limit: int) -> Sequence[Record | Damage]:
        return self._reads.scan(after, limit)

    def last(self) -> Position:
        return self._reads.last()

    def unfinished(self) -> Iterator[TaskId]:
        self._reads.require_usable()
        found, self._found = self._found, None
        if found is not None:
            self._reads.fresh = {each.task: each for each in found}
            return iter([each.task for each in found])
        try:
            found = unfinished_of(self._reads.query(OPEN_TASKS))
        except JournalDamaged:
            found = None
        if found is None:  # the sums are damaged: the records say it, too, at the price of reading them all
            found = [each for each in sum_up(self._reads.all()) if each.open]
        return iter([each.task for each in found])

    def cursors(self) -> Mapping[str, Position]:
        try:
            return cursors_of(self._reads.query(CURSORS))
        except JournalDamaged as error:
            raise JournalDamaged(f"{self.path}: {error}") from error

    def set_cursor(self, name: str, position: Position | None) -> None:
        self._writable()
        if position is not None:
            require_position(position)
        with self._transaction() as change:
            forgotten = change.writer.execute("DELETE FROM cursor WHERE name = ?", (name,)).rowcount
            if position is not None:
                row = (name, position, mark(name, position))
                change.writer.execute("INSERT INTO cursor VALUES (?, ?, ?)", row)
            cursors = change.tail.cursors - forgotten + (position is not None)
            change.tail = replace(change.tail, cursors=cursors)

    def put_snapshot(self, name: str, position: Position, body: bytes) -> None:
        self._writable()
        require_position(position)
        row = (name, position, body, mark(name, position, body))
        with self._transaction() as change:
            change.writer.execute("INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?, ?)", row)

    def get_snapshot(self, name: str) -> tuple[Position, bytes] | None:
        rows = self._reads.query("SELECT position, body, crc FROM snapshot WHERE name = ?", name)
        try:
            intact = bool(rows) and mark(name, *rows[0][:2]) == rows[0][2]
        except UNFIT:  # a damaged column can come back as another type
            intact = False
        return rows[0][:2] if intact else None  # a snapshot is advisory: a damaged one is as good as none

    def compact(self) -> Compaction:
        """Move the records of finished tasks into the archive; see CompactableJournal."""
        writer = self._writable()
        limit = min([self._tail.last, *self.cursors().values()])
        before, size, place = self._archived, 0, str(place_of(self.path))
        if first_ended(writer, 0, limit) is None:
            return Compaction(0, 0, place)
        try:
            with opened(writer, self.path, self._transaction):
                for archived, moved in move(writer, before, limit, self._transaction):
                    self._archived = archived
                    self._checkpoint(writer)
                    size += moved
            shrink(writer)
        except FAILURES as error:  # outside of the transactions, which tell by themselves what is stored
            self._in_doubt = True  # a sync may have failed: what the file holds must be read anew
            raise sqlite_file.explain(error, self.path) from error
        return Compaction(self._archived.records - before.records, size, place)

    def check(self) -> Iterator[Damage]:
        """Look over the pages, and what sums up the records; see CheckedJournal."""
        self._reads.require_usable()
        gone = self._reads.gone()
        found = list(flaws(self._reads.query, gone))
        if gone:
            which = "an earlier" if self._reads.archive is not None else "its"
            found.append(
                f"records up to {gone} were archived, and {which} archive is not there: put it back as "
                f"{place_of(self.path)}"
            )
        return iter([Damage(each) for each in found])

    def close(self) -> None:
        if self._reads.forked:
            _ABANDONED.extend(c for c in (self._writer, self._reads.let_go()) if c is not None)
            self._writer = None
        else:
            self._disconnect()
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        self._reads.end()

    def _refuse_second_opening(self) -> None:
        if self._reads.opened or self._writer is not None:
            raise JournalError(f"{self.path}: this journal object is open already")

    def _connect(self) -> None:
        self._sums.clear()
        self._log_limit = sqlite_file.CHECKPOINT_AFTER
        self._writer = sqlite_file.connect_writer(self.path, self._sync)
        self._reads.open()
        if sqlite_file.is_early(self._writer):
            self._adopt(self._writer)
        self._archived = archived_of(self._writer, self.path)
        self._tail = self._reads.tail_of(self._writer.execute(TAIL).fetchone())

    def _adopt(self, writer: sqlite3.Connection) -> None:
        """Bring a file of the early layout into that of today."""
        records = [record_of(row) for row in writer.execute(f"{SELECT} ORDER BY position")]
        writer.executescript(f"BEGIN IMMEDIATE; {sqlite_file.EARLY}")
        adopt(writer, records)
        writer.execute("COMMIT")

    def _mend_sums(self) -> None:
        """Make the rows of the tasks anew where they do not add up."""
        writer = self._writer_connection()
        self._found = unfinished_of(writer.execute(OPEN_TASKS))
        if self._found is None:
            sums = sum_up(self._reads.all())
            with self._transaction() as change:
                change.tail = rebuild(change.writer, change.tail, sums)

    def _disconnect(self) -> None:
        """Close both connections, the reader first: the last one to close empties the log."""
        archived = self._reads.close()
        if self._writer is not None:
            writer, self._writer = self._writer, None
            try:
                if archived:  # so that its log goes, too
                    attach_for_writing(writer, self.path)
                writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except (*FAILURES, JournalError):
                pass  # what is in the log is durable there, and the next opening reads it
            writer.close()

    def _raise_epoch(self) -> None:
        with self._transaction() as change:
            change.tail = replace(change.tail, epoch=Epoch(change.tail.epoch + 1))

    def _require_epoch(self, epoch: Epoch) -> None:
        stored = self._reads.tail_of(self._writer_connection().execute(TAIL).fetchone()).epoch
        if stored != epoch:
            raise JournalFenced(f"{self.path}: epoch {stored} owns the journal; this is {epoch}")

    def _store(self, records: Sequence[Record], rows: Sequence[Row], tail: Tail) -> None:
        """Store records, which have these rows, and all that sums them up, in one transaction; `tail` is the
        tail after it but for the number of unfinished tasks."""
        with self._transaction() as change:
            self._found = None
            if self._reads.fresh:
                for record in records:
                    self._reads.fresh.pop(record.task, None)
            found = stored(self._reads.query, to_find(records, self._sums, self._archived.high))
            sums = Sums(change.writer, self._sums, found, records)
            insert(change.writer, "INSERT INTO record", rows)
            change.tail = replace(tail, unfinished=tail.unfinished + sums.store())
        sums.keep()

    @contextmanager
    def _transaction(self) -> Iterator[_Change]:
        """One durable change, all of it or nothing.

        Raises:
            JournalFenced, JournalRejected: nothing is changed.
            JournalUncertain: it may or may not be; and nothing else is until `reopen`.

        """
        writer = self._writer_connection()
        self._file.require()
        change = _Change(writer, self._tail)
        self._in_doubt = True  # until the commit, or a rollback that was verified
        with self._writing:
            try:
                writer.execute("BEGIN IMMEDIATE")
                self._require_epoch(self._tail.epoch)
                yield change
                if change.tail != self._tail:
                    store_tail(writer, change.tail)
                writer.execute("COMMIT")
            except FAILURES as error:
                self._sort_out(writer, error)
            except BaseException:  # raised again: whatever it was, the commit was not reached
                self._in_doubt = not _undone(writer)
                raise
        self._in_doubt = False
        self._tail = change.tail

    def _sort_out(self, writer: sqlite3.Connection, error: Exception) -> NoReturn:
        """Tell a certain failure from an uncertain one: only after a rollback that a reader confirms."""
        code = sqlite_file.code_of(error)
        full = code & 0xFF == sqlite3.SQLITE_FULL
        busy = code & 0xFF == sqlite3.SQLITE_BUSY and not writer.in_transaction
        conflict = code in (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
        if (full or busy or conflict) and self._rolled_back(writer):
            self._in_doubt = False
            if conflict:
                raise JournalConflict(
                    f"{self.path}: a record with that task and seq stands already"
                ) from error
            raise JournalRejected(f"{self.path}: not stored: {error}") from error
        raise JournalUncertain(f"{self.path}: it may or may not be stored: {error}") from error

    def _rolled_back(self, writer: sqlite3.Connection) -> bool:
        """Whether nothing is left of a transaction, as another connection sees it."""
        try:
            if not _undone(writer):
                return False
            rows = self._reads.query(TAIL)
            return self._reads.tail_of(rows[0] if rows else None) == self._tail
        except (*FAILURES, JournalError):
            return False

    def _checkpoint_when_due(self, writer: sqlite3.Connection) -> None:
        """Move the log into the file, once it is large: by its real size, since a record of some bytes takes
        several pages there. Before an append, so that its failure can't put a stored batch in doubt.
        """
        if self._log_size() > self._log_limit:
            self._checkpoint(writer)

    def _checkpoint(self, writer: sqlite3.Connection) -> None:
        """Move the log into the file, by the writing connection."""
        self._log_limit = self._log_size() + sqlite_file.CHECKPOINT_AFTER
        try:
            with self._writing:
                _, frames, moved = writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except FAILURES as error:
            if sqlite_file.code_of(error) & 0xFF not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY):
                self._in_doubt = True  # a failed sync: what the file holds must be read anew
                raise JournalUncertain(f"{self.path}: the log can't be moved: {error}") from error
        else:
            if moved == frames:  # no reader needs what is there: it is written from its beginning again
                self._log_limit = sqlite_file.CHECKPOINT_AFTER

    def _log_size(self) -> int:
        try:
            return os.stat(self._log).st_size  # noqa: PTH116  # asked at each append
        except OSError:
            return 0  # there is none yet; or the next transaction tells what is wrong

    def _owned(self) -> sqlite3.Connection:
        self._reads.require_usable()
        if self._lock is None:
            raise JournalError(f"{self.path}: opened for reading only")
        return self._writer_connection()

    def _writable(self) -> sqlite3.Connection:
        writer = self._owned()
        if self._in_doubt:
            raise JournalUncertain(f"{self.path}: an append is in doubt; reopen first")
        return writer

    def _writer_connection(self) -> sqlite3.Connection:
        if self._writer is None:  # a reopening failed half-way: only another one can mend that
            raise JournalUncertain(f"{self.path}: the journal could not be reopened")
        return self._writer


def _undone(writer: sqlite3.Connection) -> bool:
    """Roll back what is under way; whether that can be relied on."""
    try:
        if writer.in_transaction:
            writer.execute("ROLLBACK")
    except FAILURES:
        return False
    return not writer.in_transaction


def _row(record: Record, checksum: int) -> Row:
    """What is stored of a record, in kinds that sqlite3 binds as they are. Of any other, as bytes and bools
    are, it asks each value whether it is to be adapted: a third of the time of an insertion."""
    return (
        record.position,
        record.task,
        record.seq,
        record.epoch,
        1 if record.open else 0,
        record.type,
        record.version,
        record.at,
        bytearray(record.body),
        bytearray(record.chain),
        checksum,
    )
