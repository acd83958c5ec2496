"""Looking over what a SQLite journal keeps beside its records. Damaged records are told by a scan."""

from collections.abc import Callable, Iterator
from functools import partial

from journal_adapters.sqlite_sums import CURSORS, TAIL, Row, cursors_of, tail_of, task_of
from meowcat.core.errors import JournalDamaged
from meowcat.journal.chain import UNFIT, mark
from meowcat.journal.contract import GENESIS

Query = Callable[[str], list[Row]]
"""All rows of a statement; JournalDamaged where SQLite can't read them."""

DERIVED = "nothing is lost by it: the records say it, too"

_END = TAIL.replace(
    " FROM",
    ", (SELECT max(position) FROM record), (SELECT chain FROM record ORDER BY position DESC LIMIT 1),"
    " (SELECT count(*) FROM task WHERE open = 1) FROM",
)
_TASKS = (
    "SELECT r.task, r.first, r.seq, e.open, t.id, t.first, t.seq, t.open, t.crc"
    " FROM (SELECT task, min(position) AS first, max(seq) AS seq FROM record GROUP BY task) r"
    " JOIN record e ON e.task = r.task AND e.seq = r.seq LEFT JOIN task t ON t.id = r.task"
)
"""Of each task what its records say and what sums them up, at the same instant."""
_ORPHANS = "SELECT id FROM task t WHERE NOT EXISTS (SELECT 1 FROM record r WHERE r.task = t.id)"
_SNAPSHOTS = "SELECT name, position, body, crc FROM snapshot"


def flaws(query: Query, gone: int) -> Iterator[str]:
    """Whatever is not as it should be, of a journal that somebody may be writing. Up to the position `gone`
    records may not be here, since the archive is not.
    """
    for look in (_pages, partial(_end, gone=gone), _tasks, _cursors, _snapshots):
        try:
            yield from look(query)
        except JournalDamaged as error:
            yield str(error)


def _pages(query: Query) -> Iterator[str]:
    for (said,) in query("PRAGMA integrity_check"):
        if said != "ok":
            yield f"SQLite says: {said}"


def _end(query: Query, gone: int) -> Iterator[str]:
    rows = query(_END)
    tail = tail_of(rows[0] if rows else None)
    last, chain, unfinished = rows[0][-3:]
    if max(last or 0, gone) != tail.last:
        yield f"the records end with {last or 0}, and {tail.last} were stored"
    elif last == tail.last and (chain or GENESIS) != tail.chain:
        yield "the last record's value of the hash chain is not that which was stored last"
    if unfinished != tail.unfinished:
        yield f"{unfinished} tasks are unfinished, and {tail.unfinished} were; {DERIVED}"


def _tasks(query: Query) -> Iterator[str]:
    for name, first, seq, unfinished, *row in query(_TASKS):
        found = None if row[0] is None else task_of(tuple(row))
        if found is None or (found.first, found.seq, found.open) != (first, seq, unfinished == 1):
            yield f"the row of task {name!r} does not say what its records say; if none is missing, {DERIVED}"
    for (name,) in query(_ORPHANS):
        yield f"task {name!r} has a row, and no records"


def _cursors(query: Query) -> Iterator[str]:
    cursors_of(query(CURSORS))
    yield from ()


def _snapshots(query: Query) -> Iterator[str]:
    for name, position, body, checksum in query(_SNAPSHOTS):
        try:
            intact = mark(name, position, body) == checksum
        except UNFIT:  # a damaged column can come back as another type
            intact = False
        if not intact:
            yield f"the snapshot {name!r} is damaged: as good as none"
