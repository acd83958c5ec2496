"""What a JSONL journal knows while it is open, and its advisory snapshot: a row for each unfinished task.

Finished tasks cost nothing here. What is asked about one of them is looked up in the indexes of the segments.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import msgspec
from msgspec import Struct, field

from meowcat.core.values import Position, TaskId
from meowcat.journal.contract import FORMAT, GENESIS, Record, Sync
from meowcat.journal.lines import CRC_LENGTH, intact, seal_parts


class Row(Struct, frozen=True, gc=False):
    """A task's place in the journal; there is one of each unfinished task in memory."""

    first: int
    """The position of its first record."""
    seq: int
    """Of its last record."""


_SEQ = 20
"""Bits of a packed row that are the `seq`."""
_MASK = (1 << _SEQ) - 1

_AT_ONCE = 4096
"""Rows that are put into a snapshot at once."""


class Listed(Struct, frozen=True, gc=False, array_like=True):
    """An unfinished task in a snapshot. Not a tuple: the collector of cycles would look at each of a hundred
    thousand that are made at once, again and again."""

    task: TaskId
    first: int
    """The position of its first record."""
    seq: int
    """Of its last record."""


class Rows:
    """The rows of the unfinished tasks. Most are held as one number, which takes 32 bytes and not 64."""

    def __init__(self, rows: Iterable[Listed] = ()) -> None:
        self._packed: dict[TaskId, int | Row] = {
            row.task: row.first << _SEQ | row.seq if row.seq <= _MASK else Row(row.first, row.seq)
            for row in rows
        }

    def get(self, task: TaskId) -> Row | None:
        packed = self._packed.get(task)
        return None if packed is None else _unpacked(packed)

    def put(self, task: TaskId, first: int, seq: int) -> None:
        """The row of the task is this."""
        self._packed[task] = first << _SEQ | seq if seq <= _MASK else Row(first, seq)

    def change(self, changes: "Changes") -> None:
        """Take in what a batch has changed: a finished task has no row."""
        packed = self._packed
        for task, (first, record) in changes.items():
            if record.open:
                seq = record.seq
                packed[task] = first << _SEQ | seq if seq <= _MASK else Row(first, seq)
            else:
                packed.pop(task, None)

    def drop(self, task: TaskId) -> None:
        """Know nothing of the task, which may not be among them."""
        self._packed.pop(task, None)

    def items(self) -> Iterator[tuple[TaskId, Row]]:
        return ((task, _unpacked(packed)) for task, packed in self._packed.items())

    def values(self) -> Iterator[Row]:
        return map(_unpacked, self._packed.values())

    def listed(self) -> Iterator[list[Listed]]:
        """What a snapshot has of them, some at a time: a million at once would leave holes in memory."""
        items = iter(self._packed.items())
        while some := [
            Listed(task, row >> _SEQ, row & _MASK)
            if isinstance(row, int)
            else Listed(task, row.first, row.seq)
            for task, row in islice(items, _AT_ONCE)
        ]:
            yield some


def _unpacked(packed: int | Row) -> Row:
    return packed if isinstance(packed, Row) else Row(packed >> _SEQ, packed & _MASK)


Find = Callable[[TaskId], Row | None]
"""The row of a task that is not among the unfinished; None for a task without records."""


Changes = dict[TaskId, tuple[int, Record]]
"""Of each task that a batch is about, the position of its first record, and its last record."""


class Ledger:
    """The state of a journal up to one position."""

    def __init__(self, position: int = 0, chain: bytes = GENESIS) -> None:
        self.position = position
        self.chain = chain
        self.epoch = 0
        """The greatest so far."""
        self.recorded = 0
        """The epoch of the last record: an import may bring older ones than the journal's own."""
        self.sync: Sync = "power"
        """As the last opening said."""
        self.rows = Rows()
        self.cursors: dict[str, Position] = {}
        self.whole = True
        """Whether the journal is there from its first record on, and not what was archived taken away."""

    def take(self, record: Record, find: Find) -> int:
        """The next record. Returns how many records of its task are missing before it."""
        task, seq = record.task, record.seq
        row = self.rows.get(task)
        if row is None and seq > 1:
            row = find(task)
        before = row.seq if row is not None else 0 if self.whole else seq - 1
        self.place(record.position, task, seq, row, open_=record.open)
        self.chain, self.recorded = record.chain, record.epoch
        self.epoch = max(self.epoch, record.epoch)
        return max(0, seq - before - 1)

    def place(self, position: int, task: TaskId, seq: int, row: Row | None, *, open_: bool) -> None:
        """A record of the task at `position`, which had `row` before it."""
        if open_:
            self.rows.put(task, position if row is None else row.first, seq)
        elif row is not None:
            self.rows.drop(task)
        self.position = position

    def extend(self, changes: Changes, last: Record) -> None:
        """A batch of records, of which `last` is the last."""
        self.rows.change(changes)
        self.position, self.chain, self.recorded = last.position, last.chain, last.epoch
        self.epoch = max(self.epoch, last.epoch)

    def set_cursor(self, name: str, position: int | None) -> None:
        if position is None:
            self.cursors.pop(name, None)
        else:
            self.cursors[name] = Position(position)


class Snapshot(Struct, frozen=True):
    """A ledger as it stood behind `offset` bytes of a segment."""

    format: int
    journal: str
    """The journal's id."""
    segment: int
    offset: int
    position: int
    chain: str
    epoch: int
    recorded: int
    sync: Sync
    cursors: dict[str, int] = field(default_factory=dict)
    tasks: list[Listed] = field(default_factory=list)

    def ledger(self) -> Ledger:
        ledger = Ledger()
        self.put_into(ledger)
        return ledger

    def put_into(self, ledger: Ledger) -> None:
        """Make a ledger say what this says."""
        ledger.position, ledger.chain = self.position, bytes.fromhex(self.chain)
        ledger.epoch, ledger.recorded, ledger.sync = self.epoch, self.recorded, self.sync
        ledger.cursors = {name: Position(position) for name, position in self.cursors.items()}
        ledger.rows = Rows(self.tasks)


def snapshot_of(ledger: Ledger, journal: str, segment: int, offset: int) -> Iterator[bytes]:
    """The line that a snapshot file holds, in parts: as a whole it takes as much memory as the rows, and the
    process keeps that.
    """
    snapshot = Snapshot(
        format=FORMAT,
        journal=journal,
        segment=segment,
        offset=offset,
        position=ledger.position,
        chain=ledger.chain.hex(),
        epoch=ledger.epoch,
        recorded=ledger.recorded,
        sync=ledger.sync,
        cursors=dict(ledger.cursors),
    )
    return seal_parts(_parts(snapshot, ledger.rows))


def _parts(snapshot: Snapshot, rows: Rows) -> Iterator[bytes]:
    """Its tasks come last."""
    yield msgspec.json.encode({"snapshot": snapshot}).removesuffix(b"]}}")
    comma = b""
    for some in rows.listed():
        yield comma + msgspec.json.encode(some)[1:-1]
        comma = b","
    yield b"]}"


_decode = msgspec.json.Decoder(dict[str, Snapshot]).decode


def read_snapshot(content: bytes) -> Snapshot | None:
    """The snapshot of a file; None where it is damaged, or of another version: then the log is replayed."""
    if not intact(content):
        return None
    try:
        snapshot = _decode(b"%b}" % content[:-CRC_LENGTH])["snapshot"]
    except (msgspec.DecodeError, KeyError, ValueError):
        return None
    return snapshot if snapshot.format == FORMAT else None
