"""What a journal is: the contract between meowcat and the adapters that store its records.

An adapter sees bytes and a little metadata; it never looks into a body. Its methods are plain blocking
functions: the writer calls them from one worker thread at a time (or inline, under
`durability="process"`), so an adapter needs no locks of its own between `append`, `set_cursor`,
`put_snapshot` and `reopen`. Reading methods may be called from other threads at the same time.

Appending ends in one of three ways, and an adapter must never blur them:

- it returns the position of the last record: a later `read`, after any crash that `sync` covers, has all of
  the batch;
- it raises `JournalRejected`: certainly nothing of the batch is stored, and the journal goes on;
- it raises anything else: the batch may or may not be stored, as a whole. The caller reopens and reads.

`specs/journal.md` has the contract rule by rule, and `meowcat.testing.journal` checks it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NewType, Protocol, runtime_checkable

from msgspec import Struct

from meowcat.core.values import Position, TaskId

Epoch = NewType("Epoch", int)
"""The number of an ownership: each `open` for writing raises it, and a record of an old one is refused."""

Sync = Literal["power", "process"]
"""What an append must survive: a power failure, or the death of the process only."""

FORMAT = 1
"""The version of the record format, hash chain included."""

MAX_RECORD = 1 << 20
"""Bytes that a record's body may have, unless an adapter says less."""

GENESIS = bytes(32)
"""The chain's value before the first record."""


class Owner(Struct, frozen=True):
    """Who owns a journal, for the message that the next comer gets."""

    pid: int
    host: str
    command: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" + (f" ({self.command})" if self.command else "")


class Entry(Struct, frozen=True, gc=False):
    """A record on its way in: everything but what the journal itself gives it."""

    task: TaskId
    seq: int
    """1, 2, 3 … within the task."""
    open: bool
    """Whether the task still has work after this record: what `unfinished` goes by."""
    type: str
    """The event's tag, as in `specs/events`; never a class name."""
    version: int
    at: int
    """Wall clock in milliseconds since 1970 UTC."""
    body: bytes
    """The event, as JSON."""


class Record(Struct, frozen=True, gc=False):
    """A stored record, byte for byte as it was appended."""

    position: Position
    task: TaskId
    seq: int
    epoch: Epoch
    open: bool
    type: str
    version: int
    at: int
    body: bytes
    chain: bytes
    """SHA-256 over the previous record's chain and this record (`meowcat.journal.chain.link`): 32 bytes."""


class Damage(Struct, frozen=True):
    """A place where stored bytes are not what was written, and the task it hit where that is known. In a scan
    it stands where its record should be."""

    detail: str
    position: Position | None = None
    task: TaskId | None = None


@runtime_checkable
class Journal(Protocol):
    """The contract. `JournalReader` is the part of it that a process without ownership can use."""

    max_record: int

    def open(self, owner: Owner, sync: Sync) -> Epoch:
        """Take the journal over for writing, creating it where there is none.

        Raises:
            JournalOwned: somebody else has it; told within a second, with `owner` named.
            NotAJournal, JournalAccess, JournalTooNew, JournalDamaged: nothing was overwritten.

        """

    def append(self, batch: Sequence[Entry]) -> Position:
        """Store all of `batch`, at consecutive positions, or nothing; durable to the level of `sync` on
        return.

        Raises:
            JournalConflict: a `seq` is not one above its task's last. JournalRejected: certainly not stored.
            JournalFenced: a later epoch owns the journal. Anything else: uncertain.

        """

    def reopen(self) -> Position:
        """After an uncertain append: a fresh start on the same ownership. Returns the last position."""

    def read(self, task: TaskId, after: int = 0) -> Sequence[Record | Damage]:
        """The task's records with a `seq` above `after`, in order."""

    def unfinished(self) -> Iterator[TaskId]:
        """The tasks whose last record is `open`, in order of their first record. Costs what is unfinished."""

    def scan(self, after: Position, limit: int) -> Sequence[Record | Damage]:
        """At most `limit` records of all tasks with a position above `after`, in order; fewer only at the
        end.
        """

    def last(self) -> Position:
        """The position of the last record; 0 in an empty journal."""

    def cursors(self) -> Mapping[str, Position]:
        """How far each named reader has come: the cursors that were set and not forgotten."""

    def set_cursor(self, name: str, position: Position | None) -> None:
        """Remember it durably; None forgets the cursor. After an error it is the old one or the new one."""

    def put_snapshot(self, name: str, position: Position, body: bytes) -> None:
        """Keep an advisory snapshot taken at `position`; the newest of a name is kept."""

    def get_snapshot(self, name: str) -> tuple[Position, bytes] | None: ...

    def close(self) -> None:
        """Give the ownership back. A second call does nothing; every other call after it raises
        JournalClosed.
        """


@runtime_checkable
class ReadableJournal(Protocol):
    """A journal that other processes may read while it is owned (`open_for_reading`)."""

    def open_for_reading(self) -> None:
        """Open without ownership: only `read`, `unfinished`, `scan`, `last`, `cursors` and `close` work."""


@runtime_checkable
class RestorableJournal(Protocol):
    """A journal that can take over another one's records as they are: what an import needs."""

    def restore(self, records: Sequence[Record]) -> Position:
        """Store `records` with their own positions, epochs and chain values, behind what is there; durable on
        return, all of them or none. For a journal that is open for writing.

        The journal's epoch becomes at least theirs, and it takes no `append` until it is opened again.

        Raises:
            JournalRejected: they do not follow on what is stored: a position, an epoch, a chain value
                (`meowcat.journal.chain.require_sequel`), or a task's `seq`.

        """


@runtime_checkable
class BulkJournal(Protocol):
    """A journal that can read many tasks for less than it costs to read them one by one: what an opening
    with a long queue, and a command for all of it, live by. Others are asked task by task."""

    def read_many(self, tasks: Sequence[TaskId]) -> Sequence[Sequence[Record | Damage]]:
        """What `read` gives for each of `tasks`, in their order. Some hundreds are asked for at a time.

        Raises:
            as `read`; then each is read by itself, so that damage keeps nobody else out.

        """


class Compaction(Struct, frozen=True):
    """What a compaction did."""

    records: int
    """Moved out of the way."""
    bytes: int
    """Of the records, roughly: an adapter counts what it has at hand, files or bodies."""
    archive: str
    """Where they are now, for people."""


@runtime_checkable
class CompactableJournal(Protocol):
    """A journal that can move the records of finished tasks out of the way; nothing is ever rewritten."""

    def compact(self) -> Compaction:
        """Archive what belongs to finished tasks alone and lies behind every cursor. Open for writing."""


@runtime_checkable
class RemovableJournal(Protocol):
    """A journal that can be deleted as a whole."""

    def remove(self, owner: Owner, when: Callable[[], bool]) -> bool:
        """Delete the journal, which is not open here, and all that belongs to it; whether it was.

        A crash leaves it whole, or what the next call finishes, and no new journal trips over.

        Args:
            owner: who does it, for those who come meanwhile.
            when: asked once nobody else can open the journal any more, while this object is open for
                reading: False leaves all as it is. Not asked where a removal was cut off.

        Raises:
            JournalOwned: somebody has it open. NotAJournal, JournalAccess: there is none, or it can't be
                deleted.

        """


@runtime_checkable
class CheckedJournal(Protocol):
    """A journal that can look over what it keeps beside the records: its files, indexes and summaries."""

    def check(self) -> Iterator[Damage]:
        """Whatever is not as it should be there; damaged records are told by `scan`. Changes nothing."""


@runtime_checkable
class LocalJournal(Protocol):
    """A journal on this machine's file system, beside which its owner can be reached."""

    @property
    def control_socket(self) -> Path:
        """Where the owner's control socket stands; the same whoever asks, open or not."""


@runtime_checkable
class FileJournal(Protocol):
    """A journal that is kept in files, which no transfer may write over."""

    def holds(self, path: str) -> bool:
        """Whether a file that is put at `path`, absolute, would be one of the journal's own, or stand in the
        place of one; the same whoever asks, open or not. Asked for each new download: look at the disk only
        where the names in `path` do not tell.
        """
