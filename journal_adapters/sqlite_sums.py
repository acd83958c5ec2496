"""What the SQLite journal derives from its records and keeps beside them, each row with its own checksum.

SQLite itself tells a changed bit in a page from a good one only by chance, and a changed number of cells
hides the last rows of a page without a word. Hence two kinds of sums: the *tail* (one row: the last
position, its chain value, how many tasks are unfinished, how many cursors there are) says what must be
there, and one row per task says how far that task has come. The tail is the truth about the end of the
journal; the rows of tasks can be made anew from the records at any time.
"""

import sqlite3
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import google_crc32c
from msgspec import Struct
from msgspec.structs import replace

from meowcat.core.errors import JournalConflict, JournalDamaged
from meowcat.core.values import Position, TaskId
from meowcat.journal.chain import UNFIT, mark
from meowcat.journal.contract import GENESIS, Damage, Epoch, Record

Row = tuple[Any, ...]

_COLUMNS = "j.epoch, j.last, j.chain, j.unfinished, j.cursors, j.crc"
_WIDTH = 6
TAIL = f"SELECT {_COLUMNS} FROM journal j"  # noqa: S608  # our own words, here and below
OPEN_TASKS = (
    "SELECT j.epoch, 0, j.last, j.chain, j.unfinished, j.cursors, j.crc FROM journal j UNION ALL"
    " SELECT t.id, t.first, t.seq, t.open, t.crc, NULL, NULL FROM main.task t WHERE t.open = 1 ORDER BY 2"
)
"""The tail, and then the unfinished tasks as their index has them, at the same instant. A tail that is joined
to each of them has all of them sorted first, in as much time again."""
CURSORS = f"SELECT {_COLUMNS}, c.name, c.position, c.crc FROM journal j LEFT JOIN cursor c"  # noqa: S608
"""The tail, and all cursors at the same instant; the tail alone where there are none."""

SUM = "SELECT id, first, seq, open, crc FROM task WHERE id"
_BY_RECORDS = "SELECT min(position), max(seq) FROM record WHERE task = ?"
_STATE = "SELECT open FROM record WHERE task = ? AND seq = ?"

_pack_tail = struct.Struct(">qqqq").pack


class Tail(Struct, frozen=True):
    """The end of the journal."""

    epoch: Epoch
    last: Position
    chain: bytes
    unfinished: int
    """How many tasks."""
    cursors: int
    """How many cursors."""

    @property
    def crc(self) -> int:
        numbers = _pack_tail(self.epoch, self.last, self.unfinished, self.cursors)
        checksum: int = google_crc32c.value(numbers + self.chain)
        return checksum

    def row(self) -> Row:
        return (self.epoch, self.last, self.chain, self.unfinished, self.cursors, self.crc)


START = Tail(Epoch(0), Position(0), GENESIS, 0, 0)


def tail_of(row: Row | None) -> Tail:
    """The tail that a row of `TAIL` holds.

    Raises:
        JournalDamaged: it is not what was written.

    """
    if row is not None:
        tail = Tail(*row[: _WIDTH - 1])
        try:
            if tail.crc == row[_WIDTH - 1]:
                return tail
        except UNFIT:  # a damaged column can come back as another type
            pass
    raise JournalDamaged("the row that says where the journal ends is damaged")


def store_tail(connection: sqlite3.Connection, tail: Tail) -> None:
    """Write the tail."""
    columns = "epoch = ?, last = ?, chain = ?, unfinished = ?, cursors = ?, crc = ?"
    connection.execute(f"UPDATE journal SET {columns}", tail.row())  # noqa: S608  # our own words


class TaskSum(Struct, frozen=True, gc=False):
    """How far a task has come."""

    task: TaskId
    first: Position
    """Of its first record."""
    seq: int
    """Of its last record."""
    open: bool

    def row(self) -> Row:
        open_ = 1 if self.open else 0  # a number, which sqlite3 binds without asking whether it is adapted
        task, first, seq = self.task, self.first, self.seq
        return (task, first, seq, open_, _mark_of(task, first, seq, open_))


def task_of(row: Row) -> TaskSum | None:
    """The sum that a row holds; None where it is not what was written."""
    task, first, seq, open_, checksum = row
    try:
        intact = open_ in (0, 1) and _mark_of(task, first, seq, open_) == checksum
    except UNFIT:  # a damaged column can come back as another type
        intact = False
    return TaskSum(task, first, seq, open_ == 1) if intact else None


def _mark_of(task: TaskId, first: int, seq: int, open_: int) -> int:
    return mark(task, seq, b"%d %d" % (first, open_))


KEPT = 1 << 14
"""Sums that are kept in memory: those of the tasks that were appended to last."""


_VALUES = 999
"""Values that a statement of any SQLite may have."""


def insert(writer: sqlite3.Connection, verb: str, rows: Sequence[Row]) -> None:
    """Store rows of one table, many with one statement: a fifth of the time less than one by one, and the
    interpreter's lock is let go and taken again for each statement, in whose way a busy event loop is.

    They are as many as one may have, or a power of two, so that few statements have to be remembered.
    """
    first = 0
    while left := len(rows) - first:
        width = len(rows[0])
        many = min(_VALUES // width, 1 << left.bit_length() - 1)
        values = tuple(chain.from_iterable(rows[first : first + many]))
        writer.execute(_statement(verb, width, many), values)
        first += many


@lru_cache
def _statement(verb: str, width: int, rows: int) -> str:
    """That stores so many rows of so many values."""
    one = f"({', '.join('?' * width)})"
    return f"{verb} VALUES {', '.join([one] * rows)}"


def to_find(batch: Iterable[Record], kept: Mapping[TaskId, TaskSum], archived: str) -> list[TaskId]:
    """The tasks in a batch whose sums have to be looked for, once for all of them: what goes on and is not
    `kept`, and what begins with an id that is not above all of those that were archived.
    """
    named = dict.fromkeys(
        [each.task for each in batch if (each.seq != 1 or each.task <= archived) and each.task not in kept]
    )
    return list(named)


class Sums:
    """The sums of the tasks in a batch, as they are before it and will be after it."""

    def __init__(
        self,
        writer: sqlite3.Connection,
        kept: dict[TaskId, TaskSum],
        found: Mapping[TaskId, TaskSum],
        records: Iterable[Record],
    ) -> None:
        """Sum the batch up, with what is known of its tasks already: `keep` adds to `kept`, and `found` has
        those `to_find`.

        Raises:
            JournalConflict: a record does not follow on its task's last one.

        """
        self._writer = writer
        self._kept = kept
        self._before: dict[TaskId, TaskSum | None] = {}
        self._after: dict[TaskId, TaskSum] = {}
        after = self._after
        for record in records:
            task = record.task
            known = after.get(task)
            if known is None:
                known = self._before[task] = kept.get(task) or found.get(task)
            first, expected = (record.position, 1) if known is None else (known.first, known.seq + 1)
            if record.seq != expected:
                raise JournalConflict(
                    f"task {task}: record {record.seq} does not follow on its last; {expected} would"
                )
            after[task] = TaskSum(task, first, expected, record.open)

    def store(self) -> int:
        """Write them; returns by how many there are more unfinished tasks.

        Raises:
            sqlite3.IntegrityError: a task that begins here is there already. It is not asked for beforehand:
                that would be half of what a long queue of new ones costs.
        """
        before = self._before
        new = [each.row() for task, each in self._after.items() if before[task] is None]
        insert(self._writer, "INSERT INTO task", new)
        if len(new) < len(self._after):
            known = [each.row() for task, each in self._after.items() if before[task] is not None]
            insert(self._writer, "INSERT OR REPLACE INTO task", known)
        now = sum([each.open for each in self._after.values()])
        return now - sum([each.open for each in before.values() if each is not None])

    def keep(self) -> None:
        """Remember them, once they are committed."""
        if len(self._kept) > KEPT:
            self._kept.clear()
        self._kept.update(self._after)


Query = Callable[..., Sequence[Row]]
"""All rows of a statement with these values; see `SQLiteJournal`."""

NAMES = 500
"""Tasks that are asked for with one statement, which may have 999 values at least."""


def stored(query: Query, tasks: Sequence[TaskId]) -> dict[TaskId, TaskSum]:
    """The sums of those tasks that have records; from these, where a row is damaged."""
    found: dict[TaskId, TaskSum] = {}
    for first in range(0, len(tasks), NAMES):
        names = tasks[first : first + NAMES]
        for row in query(f"{SUM} IN ({', '.join('?' * len(names))})", *names):
            known = task_of(row) or _by_records(query, row[0])
            if known is not None:
                found[known.task] = known
    return found


def _by_records(query: Query, task: TaskId) -> TaskSum | None:
    ((first, seq),) = query(_BY_RECORDS, task)
    if first is None:
        return None
    return TaskSum(task, first, seq, query(_STATE, task, seq)[0][0] == 1)


def unfinished_of(rows: Iterable[Row]) -> list[TaskSum] | None:
    """The sums in rows of `OPEN_TASKS`; None where the rows contradict the tail or themselves."""
    found: list[TaskSum] = []
    first = 0
    tail: Tail | None = None
    for row in rows:
        if row[-1] is not None:  # a task's is NULL
            tail = tail_of((row[0], *row[2:]))
            continue
        task = task_of(row[:5])
        if task is None or not task.open or task.first <= first:
            return None
        first = task.first
        found.append(task)
    return found if len(found) == (tail or tail_of(None)).unfinished else None


def cursors_of(rows: Iterable[Row]) -> dict[str, Position]:
    """The cursors in rows of `CURSORS`.

    Raises:
        JournalDamaged: one of them is not what was set, or is gone.

    """
    found: dict[str, Position] = {}
    tail = START
    for row in rows:
        tail = tail_of(row)
        name, position, checksum = row[_WIDTH:]
        if name is None and tail.cursors == 0:
            return {}
        try:
            intact = mark(name, position) == checksum
        except UNFIT:  # a damaged column can come back as another type
            intact = False
        if not intact:
            raise JournalDamaged(f"the cursor {name!r} is damaged: forget it, and set it anew")
        found[name] = position
    if len(found) != tail.cursors:
        raise JournalDamaged(f"there are {len(found)} cursors where {tail.cursors} were set")
    return found


def sum_up(records: Iterable[Record | Damage]) -> list[TaskSum]:
    """The sums of all tasks, from all records. A task whose last known record is damaged counts as
    unfinished: so it is read, and found to be damaged.
    """
    sums: dict[TaskId, TaskSum] = {}
    for record in records:
        task = record.task
        if task is None:
            continue
        known = sums.get(task)
        if isinstance(record, Record):
            first = known.first if known else record.position
            sums[task] = TaskSum(task, first, record.seq, record.open)
        elif record.position is not None:
            known = known or TaskSum(task, record.position, 0, open=True)
            sums[task] = replace(known, seq=known.seq + 1, open=True)
    return sorted(sums.values(), key=lambda each: each.first)


def rebuild(writer: sqlite3.Connection, tail: Tail, sums: Iterable[TaskSum]) -> Tail:
    """Write the rows of all tasks anew, and the tail that goes with them, which is returned."""
    sums = list(sums)
    writer.execute("DELETE FROM main.task")
    insert(writer, "INSERT INTO task", [each.row() for each in sums])
    tail = replace(tail, unfinished=sum(each.open for each in sums))
    store_tail(writer, tail)
    return tail


def adopt(writer: sqlite3.Connection, records: Iterable[Record | Damage]) -> None:
    """Fill in the sums of a file whose layout had none: from what stands there."""
    epoch = writer.execute("SELECT epoch FROM journal").fetchone()[0]
    end = writer.execute("SELECT position, chain FROM record ORDER BY position DESC LIMIT 1").fetchone()
    cursors = writer.execute("SELECT name, position FROM cursor").fetchall()
    writer.executemany("UPDATE cursor SET crc = ? WHERE name = ?", [(mark(*row), row[0]) for row in cursors])
    last, chain = end or (START.last, START.chain)
    rebuild(writer, Tail(epoch, last, chain, 0, len(cursors)), sum_up(records))
