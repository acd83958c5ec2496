"""The journal in memory: the executable specification of the contract, for tests and engines without a file.

A `Store` plays the disk: it outlives the journal that writes it, so that crashes, reopening and a second
owner can be played through without files.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from meowcat.core.errors import (
    JournalClosed,
    JournalConflict,
    JournalFenced,
    JournalOwned,
    JournalRejected,
    UnknownJournal,
)
from meowcat.core.values import Position, TaskId
from meowcat.journal.chain import UNFIT, intact, seal
from meowcat.journal.contract import GENESIS, MAX_RECORD, Damage, Entry, Epoch, Owner, Record, Sync


@dataclass
class Store:
    """What is kept when a journal is closed, or its process dies."""

    records: list[tuple[Record, int]] = field(default_factory=list)
    """Each with its CRC, in order of position, from 1."""
    tasks: dict[TaskId, dict[int, int]] = field(default_factory=dict)
    """Of each task, in order of its first record, the place of each `seq` in `records`."""
    cursors: dict[str, Position] = field(default_factory=dict)
    snapshots: dict[str, tuple[Position, bytes]] = field(default_factory=dict)
    epoch: int = 0
    owner: Owner | None = None


class MemoryJournal:
    """A journal that lasts as long as its store."""

    max_record = MAX_RECORD

    def __init__(self, location: str = "", *, store: Store | None = None) -> None:
        """Take the store that an earlier journal wrote, or a fresh one.

        Raises:
            UnknownJournal: a location, which memory has none of.

        """
        if location:
            raise UnknownJournal(f"memory:{location}: a journal in memory has no location; expected memory:")
        self.store = Store() if store is None else store
        self._epoch = Epoch(0)
        self._open = False

    def open(self, owner: Owner, sync: Sync) -> Epoch:  # noqa: ARG002  # memory survives neither
        if self.store.owner is not None:
            raise JournalOwned(f"the journal is owned by {self.store.owner}", owner=str(self.store.owner))
        self.store.owner = owner
        self.store.epoch = self._epoch = Epoch(self.store.epoch + 1)
        self._open = True
        return self._epoch

    def open_for_reading(self) -> None:
        self._open = True

    def append(self, batch: Sequence[Entry]) -> Position:
        store = self._owned()
        records: list[tuple[Record, int]] = []
        chain = store.records[-1][0].chain if store.records else GENESIS
        taken: set[tuple[TaskId, int]] = set()
        for position, entry in enumerate(batch, len(store.records) + 1):
            self._refuse(entry, taken)
            taken.add((entry.task, entry.seq))
            record, checksum = _sealed(chain, entry, self._epoch, Position(position))
            chain = record.chain
            records.append((record, checksum))
        for stored in records:
            store.tasks.setdefault(stored[0].task, {})[stored[0].seq] = len(store.records)
            store.records.append(stored)
        return self.last()

    def _refuse(self, entry: Entry, taken: set[tuple[TaskId, int]]) -> None:
        if len(entry.body) > self.max_record:
            raise JournalRejected(f"a record of {len(entry.body)} bytes; at most {self.max_record} fit")
        if (entry.task, entry.seq) in taken or entry.seq in self.store.tasks.get(entry.task, {}):
            raise JournalConflict(f"task {entry.task} has a record {entry.seq} already")

    def reopen(self) -> Position:
        self._owned()
        return self.last()

    def read(self, task: TaskId, after: int = 0) -> Sequence[Record | Damage]:
        store = self._usable()
        places = sorted(store.tasks.get(task, {}).items())
        return [_checked(*store.records[place]) for seq, place in places if seq > after]

    def unfinished(self) -> Iterator[TaskId]:
        store = self._usable()
        last = ((task, max(places.values())) for task, places in store.tasks.items())
        return iter([task for task, place in last if store.records[place][0].open])

    def scan(self, after: Position, limit: int) -> Sequence[Record | Damage]:
        return [_checked(*stored) for stored in self._usable().records[after : after + limit]]

    def last(self) -> Position:
        return Position(len(self._usable().records))

    def cursors(self) -> Mapping[str, Position]:
        return dict(self._usable().cursors)

    def set_cursor(self, name: str, position: Position | None) -> None:
        cursors = self._owned().cursors
        if position is None:
            cursors.pop(name, None)
        else:
            cursors[name] = position

    def put_snapshot(self, name: str, position: Position, body: bytes) -> None:
        self._owned().snapshots[name] = (position, body)

    def get_snapshot(self, name: str) -> tuple[Position, bytes] | None:
        return self._usable().snapshots.get(name)

    def close(self) -> None:
        if self._open and self._epoch == self.store.epoch:
            self.store.owner = None
        self._open = False

    def _usable(self) -> Store:
        if not self._open:
            raise JournalClosed("the journal is closed")
        return self.store

    def _owned(self) -> Store:
        store = self._usable()
        if self._epoch != store.epoch:
            raise JournalFenced(f"epoch {store.epoch} owns the journal; this is {self._epoch}")
        return store


def _sealed(previous: bytes, entry: Entry, epoch: Epoch, position: Position) -> tuple[Record, int]:
    try:
        chain, checksum = seal(previous, entry, epoch, position)
    except UNFIT as error:
        raise JournalRejected(f"task {entry.task!r}: no record can hold this: {error}") from error
    fields = (entry.task, entry.seq, epoch, entry.open, entry.type, entry.version, entry.at, entry.body)
    return Record(position, *fields, chain), checksum


def _checked(record: Record, checksum: int) -> Record | Damage:
    if intact(record, checksum):
        return record
    return Damage(f"record {record.position} is damaged: wrong CRC", record.position, record.task)
