"""The journal in memory: the executable specification of the contract, for tests and engines without a file.

A `Store` plays the disk: it outlives the journal that writes it, so that crashes, reopening and a second
owner can be played through without files.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from meowcat.core.errors import (
    JournalClosed,
    JournalConflict,
    JournalDamaged,
    JournalError,
    JournalFenced,
    JournalForked,
    JournalOwned,
    JournalRejected,
    NotAJournal,
    UnknownJournal,
)
from meowcat.core.values import Position, TaskId
from meowcat.journal.chain import checksum, crc, intact, mark, require_position, require_sequel, sequel
from meowcat.journal.contract import GENESIS, MAX_RECORD, Damage, Entry, Epoch, Owner, Record, Sync


@dataclass
class Store:
    """What is kept when a journal is closed, or its process dies."""

    records: list[tuple[Record, int]] = field(default_factory=list)
    """Each with its CRC, in order of position, from 1."""
    tasks: dict[TaskId, dict[int, int]] = field(default_factory=dict)
    """Of each task, in order of its first record, the place of each `seq` in `records`."""
    cursors: dict[str, tuple[Position, int]] = field(default_factory=dict)
    """Each with its CRC."""
    snapshots: dict[str, tuple[Position, bytes, int]] = field(default_factory=dict)
    """Each with its CRC."""
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
        self._open = self._owner = self._restored = False
        self._pid = 0

    def open(self, owner: Owner, sync: Sync) -> Epoch:  # noqa: ARG002  # memory survives neither
        if self._open:
            raise JournalError("this journal object is open already")
        if self.store.owner is not None:
            raise JournalOwned(f"the journal is owned by {self.store.owner}", owner=str(self.store.owner))
        self.store.owner = owner
        self.store.epoch = self._epoch = Epoch(self.store.epoch + 1)
        self._open, self._owner, self._restored, self._pid = True, True, False, os.getpid()
        return self._epoch

    def open_for_reading(self) -> None:
        if self._open:
            raise JournalError("this journal object is open already")
        if not self.store.epoch:
            raise NotAJournal("there is no journal: nobody has opened this store for writing")
        self._open, self._pid = True, os.getpid()

    def append(self, batch: Sequence[Entry]) -> Position:
        store = self._owned()
        if self._restored:
            raise JournalRejected("records were restored; close the journal and open it again")
        last, chain = Position(len(store.records)), store.records[-1][0].chain if store.records else GENESIS
        new = sequel(batch, last, self._epoch, chain, self.max_record)
        return self._store([(record, checksum(form, record.chain)) for record, form in new])

    def restore(self, records: Sequence[Record]) -> Position:
        """Store records of another journal as they are; see RestorableJournal."""
        store = self._owned()
        end = store.records[-1][0] if store.records else None
        last, epoch, chain = (end.position, end.epoch, end.chain) if end else (Position(0), Epoch(0), GENESIS)
        require_sequel(records, last, epoch, chain, self.max_record)
        self._store([(each, crc(each, each.epoch, each.position, each.chain)) for each in records])
        if records:
            store.epoch = self._epoch = max(self._epoch, records[-1].epoch)
            self._restored = True
        return self.last()

    def _store(self, records: Sequence[tuple[Record, int]]) -> Position:
        store = self.store
        seqs: dict[TaskId, int] = {}
        for record, _ in records:
            seq = seqs.get(record.task) or max(store.tasks.get(record.task, {}), default=0)
            if record.seq != seq + 1:
                raise JournalConflict(
                    f"task {record.task}: record {record.seq} does not follow on its last; {seq + 1} would"
                )
            seqs[record.task] = record.seq
        for stored in records:
            store.tasks.setdefault(stored[0].task, {})[stored[0].seq] = len(store.records)
            store.records.append(stored)
        return self.last()

    def reopen(self) -> Position:
        self._owned()
        return self.last()

    def read(self, task: TaskId, after: int = 0) -> Sequence[Record | Damage]:
        store = self._usable()
        places = sorted(store.tasks.get(task, {}).items())
        found = [_checked(*store.records[place], place) for seq, place in places if seq > after]
        return [replace(each, task=task) if isinstance(each, Damage) else each for each in found]

    def unfinished(self) -> Iterator[TaskId]:
        store = self._usable()
        last = ((task, max(places.values())) for task, places in store.tasks.items())
        return iter([task for task, place in last if store.records[place][0].open])

    def scan(self, after: Position, limit: int) -> Sequence[Record | Damage]:
        records = self._usable().records[after : after + limit]
        return [_checked(*stored, place) for place, stored in enumerate(records, after)]

    def last(self) -> Position:
        return Position(len(self._usable().records))

    def cursors(self) -> Mapping[str, Position]:
        cursors = self._usable().cursors
        for name, (position, written) in cursors.items():
            if mark(name, position) != written:
                raise JournalDamaged(f"the cursor {name!r} is damaged: forget it, and set it anew")
        return {name: position for name, (position, _) in cursors.items()}

    def set_cursor(self, name: str, position: Position | None) -> None:
        cursors = self._owned().cursors
        if position is None:
            cursors.pop(name, None)
        else:
            require_position(position)
            cursors[name] = position, mark(name, position)

    def put_snapshot(self, name: str, position: Position, body: bytes) -> None:
        snapshots = self._owned().snapshots
        require_position(position)
        snapshots[name] = position, body, mark(name, position, body)

    def get_snapshot(self, name: str) -> tuple[Position, bytes] | None:
        position, body, written = self._usable().snapshots.get(name, (Position(0), b"", None))
        return (position, body) if mark(name, position, body) == written else None

    def close(self) -> None:
        if self._owner and self._epoch == self.store.epoch and self._pid == os.getpid():
            self.store.owner = None
        self._open = self._owner = False

    def _usable(self) -> Store:
        if not self._open:
            raise JournalClosed("the journal is closed")
        if self._pid != os.getpid():
            raise JournalForked(f"opened by process {self._pid}, and this is a fork of it")
        return self.store

    def _owned(self) -> Store:
        store = self._usable()
        if not self._owner:
            raise JournalError("opened for reading only")
        if self._epoch != store.epoch:
            raise JournalFenced(f"epoch {store.epoch} owns the journal; this is {self._epoch}")
        return store


def _checked(record: Record, written: int, place: int) -> Record | Damage:
    """The record, or the damage where it should be: a scan must be able to go on behind it."""
    position = Position(place + 1)
    if intact(record, written) and record.position == position:
        return record
    return Damage(f"record {position} is damaged: wrong CRC", position, record.task)
