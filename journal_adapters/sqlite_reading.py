"""Reading a SQLite journal: by a connection of its own that can't write, from any thread, and what is damaged
in its place.
"""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from journal_adapters import sqlite_file
from journal_adapters.sqlite_archive import archived_of, attach
from journal_adapters.sqlite_file import FAILURES, Still
from journal_adapters.sqlite_sums import NAMES, SUM, TAIL, Row, Tail, TaskSum, tail_of, task_of
from meowcat.core.errors import JournalClosed, JournalDamaged, JournalError, JournalForked, JournalUncertain
from meowcat.core.values import Position, TaskId
from meowcat.journal.chain import intact
from meowcat.journal.contract import Damage, Record

__all__ = ["SELECT", "Reader", "record_of"]

SELECT = "SELECT position, task, seq, epoch, open, type, version, at, body, chain, crc FROM record"
"""Of each record all that `record_of` takes."""

_AT_ONCE = 1000
"""Records per read where all are read."""

T = TypeVar("T")


class Reader:
    """The connection that serves this process' reads, so that they see committed records only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pid = 0
        self._ended = True
        """Whether the journal is closed; while it is opened again there is no connection, either."""
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._still = Still()
        self.fresh: dict[TaskId, TaskSum] = {}
        """Sums of tasks that an opening has read: true until something is stored of them."""
        self.archive: int | None = None
        """Of the archive that is seen: the position up to which records may be in an earlier one."""

    def begin(self) -> None:
        """The journal is this process' now."""
        self._pid, self._ended = os.getpid(), False

    def end(self) -> None:
        """The journal is closed."""
        self._ended = True

    @property
    def forked(self) -> bool:
        return self._pid not in (0, os.getpid())

    def require_usable(self) -> None:
        """Raises:
        JournalForked, JournalClosed: it can't be used, or not any more.
        """
        if self.forked:
            raise JournalForked(f"{self._path}: opened by process {self._pid}, and this is a fork of it")
        if self._ended:
            raise JournalClosed(f"{self._path}: the journal is closed")

    @property
    def opened(self) -> bool:
        return self._connection is not None

    def open(self) -> sqlite3.Connection:
        self.fresh.clear()
        still = Still()
        self._connection = sqlite_file.connect_reader(self._path, still)
        self._still = still
        return self._connection

    def close(self) -> bool:
        """Close the connection; whether it saw an archive."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            archive, self.archive = self.archive, None
        return archive is not None

    def let_go(self) -> sqlite3.Connection | None:
        """The connection, which a fork inherited: it is used no more."""
        connection, self._connection = self._connection, None
        self._lock = threading.Lock()  # a thread may have held that when the process was forked
        return connection

    def query(self, statement: str, *values: object) -> list[Row]:
        return self.query_as(tuple, statement, *values)

    def query_as(self, make: Callable[[Row], T], statement: str, *values: object) -> list[T]:
        """All rows of a query, each as `make` has it. Row by row: a list of rows would keep the garbage
        collector busy for as long as the reading takes."""

        def rows(reader: sqlite3.Connection) -> list[T]:
            found = list(map(make, reader.execute(statement, values)))
            if self.archive is None and self._attached(reader) is not None:
                # It was made since the last look, and perhaps before this one.
                found = list(map(make, reader.execute(statement, values)))
            return found

        self.require_usable()
        with self._lock:
            if self._connection is None:  # a reopening failed half-way
                raise JournalUncertain(f"{self._path}: the journal could not be reopened")
            try:
                return self._look(self._connection, rows)
            except FAILURES as error:
                raise sqlite_file.explain(error, self._path) from error

    def _look(self, reader: sqlite3.Connection, look: Callable[[sqlite3.Connection], T]) -> T:
        """What `look` finds; by a connection of now where `reader` takes the file for one of before."""
        try:
            found = look(reader)
        except (*FAILURES, JournalError):
            if not self._still.changed():
                raise
        else:
            if not self._still.changed():
                return found
        renewed = self.open()  # or `reader` stays, and with it that it is of no use
        self.archive = None
        reader.close()
        return self._look(renewed, look)

    def read(self, task: TaskId, after: int = 0) -> Sequence[Record | Damage]:
        rows = f"{SELECT} WHERE task = ? AND seq > ? ORDER BY seq"
        try:
            # The sum first: an append between the two reads must not make records look missing.
            stored = self.query(f"{SUM} = ?", task)
            found = self.query_as(record_of, rows, task, after)
        except JournalDamaged as error:
            return [Damage(str(error), task=task)]
        _note_missing(found, task_of(stored[0]) if stored else None, task, after)
        return found

    def read_many(self, tasks: Sequence[TaskId]) -> Sequence[Sequence[Record | Damage]]:
        """The records of many tasks; see BulkJournal."""
        fresh = self.fresh
        # The sums first, as in `read`; those of an opening are older still.
        sums: dict[TaskId, TaskSum | None] = {
            each: known for each in tasks if (known := fresh.pop(each, None)) is not None
        }
        unknown = [each for each in tasks if each not in sums]
        for names in _by_names(unknown):
            sums |= {row[0]: task_of(row) for row in self.query(f"{SUM} {_in(names)}", *names)}
        found: dict[TaskId, list[Record | Damage]] = {each: [] for each in tasks}
        for names in _by_names(tasks):
            for each in self.query_as(
                record_of, f"{SELECT} WHERE task {_in(names)} ORDER BY task, seq", *names
            ):
                if each.task not in found:  # an index that says otherwise than its table
                    raise JournalDamaged(
                        f"{self._path}: record {each.position} is not the task's that it should be"
                    )
                found[each.task].append(each)
        for task, records in found.items():
            _note_missing(records, sums.get(task), task, 0)
        # What is damaged is looked at once more: by itself it may be reached by another way.
        return [self.read(each) if _is_damaged(found[each]) else found[each] for each in tasks]

    def scan(self, after: Position, limit: int) -> Sequence[Record | Damage]:
        rows = f"{SELECT} WHERE position > ? ORDER BY position LIMIT ?"
        try:
            last = self.last()  # before the records: an append in between must not make any look missing
            found = self.query_as(record_of, rows, after, limit)
        except JournalDamaged:
            return self._scan_one_by_one(after, limit)
        if len(found) >= min(limit, last - after) and (not found or found[-1].position == after + len(found)):
            return found
        gone = self.gone()
        if gone and _none_missing(found, max(after, gone), last, whole=len(found) < limit):
            return found
        return self._scan_one_by_one(after, limit)

    def _scan_one_by_one(self, after: int, limit: int) -> Sequence[Record | Damage]:
        """What can be read where a page, a text or the tail is damaged; the rest is damage in its place."""
        found: list[Record | Damage] = []
        gone = self.gone()
        try:
            last, end = self.last(), None
        except JournalDamaged as error:
            last = Position(self.query("SELECT max(position) FROM record")[0][0] or 0)
            end = Damage(f"{error}; records may be missing behind this one", Position(last + 1))
        position = after
        while len(found) < limit and position < last:
            position += 1
            try:
                rows = self.query(f"{SELECT} WHERE position = ?", position)
            except JournalDamaged as error:
                found.append(Damage(str(error), Position(position)))
            else:
                if rows:
                    found.append(record_of(rows[0]))
                elif position > gone:
                    found.append(Damage(f"record {position} is missing", Position(position)))
        if end is not None and len(found) < limit and after <= last:
            found.append(end)
        return found

    def gone(self) -> Position:
        """The position up to which records may not be here, since an archive is not; 0 where all are."""
        with self._lock:
            if self._connection is None:
                return Position(0)
            try:
                return self._look(self._connection, self._gone)
            except (*FAILURES, JournalDamaged):
                return Position(0)  # nothing counts as archived, so whatever is not here is told

    def _gone(self, reader: sqlite3.Connection) -> Position:
        gone = self._attached(reader)
        return archived_of(reader, self._path).last if gone is None else Position(gone)

    def _attached(self, reader: sqlite3.Connection) -> int | None:
        """See the archive if it is there; see `attach`."""
        if self.archive is None:
            self.archive = attach(reader, self._path, self._still)
        return self.archive

    def all(self) -> Iterator[Record | Damage]:
        after = Position(0)
        while found := self.scan(after, _AT_ONCE):
            yield from found
            after = Position(after + len(found))

    def last(self) -> Position:
        rows = self.query(TAIL)
        return self.tail_of(rows[0] if rows else None).last

    def tail_of(self, row: Row | None) -> Tail:
        try:
            return tail_of(row)
        except JournalDamaged as error:
            raise JournalDamaged(f"{self._path}: {error}") from error


def _note_missing(found: list[Record | Damage], stored: TaskSum | None, task: TaskId, after: int) -> None:
    """See that the task's records behind `after` are as many as its sum says."""
    end = found[-1] if found else None
    if stored is None or isinstance(end, Damage):
        return
    last = after if end is None else end.seq
    if stored.seq > last:
        found.append(Damage(f"the records after {last} of {stored.seq} are missing", task=task))


def _none_missing(found: Sequence[Record | Damage], begin: int, last: int, *, whole: bool) -> bool:
    """Whether `found` has all that stands behind `begin`, up to its own end or, if `whole`, to the `last`."""
    end = last if whole or not found else found[-1].position or 0
    return sum((each.position or 0) > begin for each in found) == max(0, end - begin)


def _by_names(tasks: Sequence[TaskId]) -> Iterator[Sequence[TaskId]]:
    """As many as one statement may have."""
    return (tasks[first : first + NAMES] for first in range(0, len(tasks), NAMES))


def _in(names: Sequence[TaskId]) -> str:
    return f"IN ({', '.join('?' * len(names))})"


def _is_damaged(found: Sequence[Record | Damage]) -> bool:
    return Damage in map(type, found)  # asked of each task at an opening


def record_of(row: Row) -> Record | Damage:
    position, task, seq, epoch, open_, kind, version, at, body, chain, checksum = row
    record = Record(position, task, seq, epoch, open_ == 1, kind, version, at, body, chain)
    if intact(record, checksum):
        return record
    name = TaskId(task) if isinstance(task, str) else None
    return Damage(f"record {position} is damaged: wrong CRC", position, name)
