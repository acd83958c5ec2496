"""The journal as text: a folder of segments, one JSON object a line, by the rules of docs/journal-format.md.

One owner appends to the last segment; readers of any process see whole batches. What is derived from the
segments (indexes, the snapshot) may be missing or wrong: then they are read instead.
"""
# ruff: noqa: PTH118  # paths are texts here, as the system calls take them

import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec
from msgspec import Struct

from journal_adapters import jsonl_compaction
from journal_adapters.jsonl_check import flaws
from journal_adapters.jsonl_files import (
    CONTROL,
    LOCK,
    SNAPSHOT,
    TORN,
    Files,
    explained,
    read_file,
    replace,
    segment_name,
)
from journal_adapters.jsonl_folder import examine
from journal_adapters.jsonl_index import GrowingIndex
from journal_adapters.jsonl_log import Log
from journal_adapters.jsonl_opening import Following, Past, load
from journal_adapters.jsonl_reading import Reading, StoredSegment, View
from journal_adapters.jsonl_state import Changes, Ledger, snapshot_of
from journal_adapters.ownership import Lock, refuse_platform, resolved
from meowcat.core.errors import (
    InvalidArgument,
    JournalClosed,
    JournalConflict,
    JournalDamaged,
    JournalError,
    JournalForked,
    JournalRejected,
    NotAJournal,
)
from meowcat.core.values import Position, TaskId
from meowcat.journal.chain import require_position, require_sequel, sequel
from meowcat.journal.contract import (
    FORMAT,
    MAX_RECORD,
    Compaction,
    Damage,
    Entry,
    Epoch,
    Owner,
    Record,
    Sync,
)
from meowcat.journal.lines import (
    CRC_LENGTH,
    Commit,
    Cursor,
    Line,
    Opening,
    Segment,
    control_line,
    intact,
    record_lines,
    seal_line,
)

_log = logging.getLogger("meowcat.journal")

SEGMENT_SIZE = 16 << 20
"""Bytes after which another segment is begun."""

MAX_SEGMENT = 64 << 20
"""What `segment_size` may be at most."""

_SUFFIX = ".jsonl"
_KEPT = re.compile(rf"{SNAPSHOT}-[0-9a-f]{{32}}")
"""Names of snapshots that somebody asked for."""

SPARED = 4
"""Times a snapshot's own bytes that must be written until there is another one, since each costs what is
unfinished. With 1, a queue that grows to a million tasks would be written down twenty times, at a fifth of
what it costs; with 4, an opening after a crash replays a fifth of a record for each unfinished task."""


class JSONLJournal:
    """A journal in a folder of text files."""

    max_record = MAX_RECORD

    def __init__(
        self, path: str | os.PathLike[str], *, segment_size: int = SEGMENT_SIZE, files: Files | None = None
    ) -> None:
        """Name the folder; `open` or `open_for_reading` touches it.

        Args:
            path: the folder, `x.jsonl` by custom.
            segment_size: bytes after which another segment is begun; at most 64 MiB. An opening reads at
                most one segment, and a compaction moves whole ones.
            files: the system calls, where a test stands between.

        Raises:
            InvalidArgument: a segment size that can't be.

        """
        if not 0 < segment_size <= MAX_SEGMENT:
            raise InvalidArgument(f"segment_size {segment_size}: expected 1 to {MAX_SEGMENT} bytes")
        self.path = resolved(path)
        self._folder = str(self.path)
        self._segment_size = segment_size
        self._files = Files() if files is None else files
        self._reading = Reading(self._files, self._folder, save=False)
        self._mutex = threading.RLock()
        self._pid = 0
        self._sync: Sync = "power"
        self._epoch = Epoch(0)
        self._id = ""
        self._lock: Lock | None = None
        self._log: Log | None = None
        self._following: Following | None = None
        self._ledger = Ledger()
        self._view: View | None = None
        self._unsaved = self._snapshot_size = 0
        """Bytes of segments since the last snapshot, and that of it."""
        self._restored = False

    @classmethod
    def claims(cls, path: Path) -> bool:
        """Whether this adapter is the one for `path`: by its suffix, or a folder that is such a journal."""
        if path.suffix:
            return path.suffix == _SUFFIX
        try:
            return path.is_dir() and examine(Files(), str(path))
        except NotAJournal:
            return False
        except JournalError:
            return True  # opening it tells what is wrong

    @property
    def control_socket(self) -> Path:
        """Where the owner's control socket stands; see LocalJournal."""
        return self.path / CONTROL

    def holds(self, path: str) -> bool:
        """Whether it is the folder, or in it; see FileJournal."""
        if self.path.name not in path:
            return False
        folder, name = os.path.split(path)
        return Path(os.path.realpath(folder), name).is_relative_to(self.path)

    def open(self, owner: Owner, sync: Sync) -> Epoch:
        self._refuse_second_opening()
        refuse_platform()
        if not examine(self._files, self._folder):
            self._make_folder()
        self._pid, self._sync = os.getpid(), sync
        self._lock = self._take_lock(owner)
        try:
            self._log = Log(self._files, self._folder, self._lock, sync)
            self._reading = Reading(self._files, self._folder, save=True)
            if examine(self._files, self._folder):
                self._take_over(load(self._files, self._folder, self._reading))
            else:
                self._create()
            self._log.keep_reserve()
            self._raise_epoch(owner)
        except BaseException:  # raised again: whatever it was, the lock is given back
            self._let_go()
            raise
        return self._epoch

    def open_for_reading(self) -> None:
        """Open without ownership, also while another process owns the journal; see ReadableJournal."""
        self._refuse_second_opening()
        refuse_platform()
        if not examine(self._files, self._folder):
            raise NotAJournal(f"{self.path}: there is no journal")
        self._pid = os.getpid()
        self._reading = Reading(self._files, self._folder, save=False)
        with explained(self._folder):
            self._following = Following(self._files, self._folder, self._reading)

    def append(self, batch: Sequence[Entry]) -> Position:
        log = self._writable()
        ledger = self._ledger
        if not batch:
            return Position(ledger.position)
        last = Position(ledger.position)
        new = sequel(batch, last, self._epoch, ledger.chain, self.max_record)
        return self._store(log, [record for record, _ in new])

    def restore(self, records: Sequence[Record]) -> Position:
        """Take over another journal's records; see RestorableJournal."""
        log = self._owned()
        ledger = self._ledger
        if not records:
            return Position(ledger.position)
        last = Position(ledger.position)
        require_sequel(records, last, Epoch(ledger.recorded), ledger.chain, self.max_record)
        last = self._store(log, records)
        self._restored = True
        return last

    def reopen(self) -> Position:
        log = self._owned()
        self._begin_segment(log, log.reopen(self._header()))
        return Position(self._ledger.position)

    def read(self, task: TaskId, after: int = 0) -> Sequence[Record | Damage]:
        self._usable()
        with self._mutex:
            view, ledger = self._look()
            row = ledger.rows.get(task)
        with explained(self._folder):
            return self._reading.read(view, task, row, after)

    def read_many(self, tasks: Sequence[TaskId]) -> Sequence[Sequence[Record | Damage]]:
        """The records of many tasks; see BulkJournal."""
        self._usable()
        with self._mutex:
            view, ledger = self._look()
            rows = [ledger.rows.get(task) for task in tasks]
        with explained(self._folder):
            return self._reading.read_many(view, tasks, rows)

    def unfinished(self) -> Iterator[TaskId]:
        self._usable()
        with self._mutex:
            _, ledger = self._look()
            rows = sorted((row.first, task) for task, row in ledger.rows.items())
        return iter([task for _, task in rows])

    def scan(self, after: Position, limit: int) -> Sequence[Record | Damage]:
        view, _ = self._look()
        with explained(self._folder):
            return self._reading.scan(view, after, limit)

    def last(self) -> Position:
        return Position(self._look()[0].last)

    def cursors(self) -> Mapping[str, Position]:
        self._usable()
        with self._mutex:
            return dict(self._look()[1].cursors)

    def set_cursor(self, name: str, position: Position | None) -> None:
        log = self._owned()
        if position is not None:
            require_position(position)
        self._write(log, [control_line(Cursor(name, position))])
        with self._mutex:
            self._ledger.set_cursor(name, position)
        self._publish(log)

    def put_snapshot(self, name: str, position: Position, body: bytes) -> None:
        log = self._owned()
        log.require_ours()
        require_position(position)
        log.settle()
        head = _Named(name, position, sha256(body).hexdigest())
        content = seal_line(msgspec.json.encode({"named": head})) + body
        with explained(self._folder):
            replace(self._files, self._folder, _snapshot_name(name), [content])

    def get_snapshot(self, name: str) -> tuple[Position, bytes] | None:
        self._look()
        return self._snapshot_in(_snapshot_name(name))

    def _snapshot_in(self, name: str) -> tuple[Position, bytes] | None:
        try:
            content = read_file(self._files, os.path.join(self._folder, name))
        except OSError:
            return None  # a snapshot is advisory: one that can't be read is as good as none
        line, body = content[: content.find(b"\n") + 1], content[content.find(b"\n") + 1 :]
        if not intact(line):
            return None
        head = msgspec.json.decode(b"%b}" % line[:-CRC_LENGTH], type=dict[str, _Named])["named"]
        if sha256(body).hexdigest() != head.sha256:
            return None
        return Position(head.position), body

    def compact(self) -> Compaction:
        """Move segments of finished tasks into `archive`; see CompactableJournal."""
        log = self._writable()
        log.require_ours()
        limit = jsonl_compaction.limit(self._ledger)
        view = self._published()
        if view.current.first <= view.last <= limit:
            self._rotate(log)
        self._repeat_cursors(log)
        view = self._published()
        return jsonl_compaction.archive(self._files, self._folder, view, limit)

    def _repeat_cursors(self, log: Log) -> None:
        """Where a cursor was set may be moved, and then taken, away: it is told once more where it stays."""
        cursors = self._ledger.cursors
        if cursors:
            self._write(log, [control_line(Cursor(*each)) for each in cursors.items()], durable=True)
            self._publish(log)

    def check(self) -> Iterator[Damage]:
        """Look over all segments, commits, indexes and snapshots; see CheckedJournal."""
        self._look()
        try:
            found = list(flaws(self._files, self._folder, self._reading))
        except OSError as error:
            found = [f"{error.filename or self._folder}: {error.strerror or error}"]
        with explained(self._folder):
            names = self._files.list_folder(self._folder)
        for name in names:
            if _KEPT.fullmatch(name) and self._snapshot_in(name) is None:
                found.append(f"{name} is damaged: as good as none")
        return iter([Damage(each) for each in found])

    def close(self) -> None:
        log, forked = self._log, self._pid and self._pid != os.getpid()
        if log is not None and self._view is not None and not forked and log.finish():
            self._keep_index(self._view.current, log, log.size)
            self._keep_snapshot(log)
        if forked:
            self._mutex = threading.RLock()  # a thread may have held that when the process was forked
        self._let_go()

    def _take_lock(self, owner: Owner) -> Lock:
        return Lock(self.path / LOCK, owner)

    def _refuse_second_opening(self) -> None:
        if self._lock is not None or self._following is not None:
            raise JournalError(f"{self.path}: this journal object is open already")

    def _let_go(self) -> None:
        if self._log is not None:
            self._log.close()
        if self._lock is not None:
            self._lock.release()
        self._log = self._lock = self._following = self._view = None

    def _make_folder(self) -> None:
        with explained(self._folder):
            if not self._files.exists(self._folder):
                self._files.mkdir(self._folder)
                self._files.fsync_folder(os.path.dirname(self._folder))  # noqa: PTH120  # paths are texts here

    def _create(self) -> None:
        """The first segment of a new journal."""
        self._id, self._ledger, self._restored = secrets.token_hex(16), Ledger(), False
        self._unsaved = self._snapshot_size = 0
        self._begin_first()

    def _begin_first(self) -> None:
        log = self._owned()
        log.begin(self._header())
        self._view = View((), StoredSegment(1, 1, GrowingIndex(1)), log.size, 0)

    def _take_over(self, past: Past) -> None:
        """Go on where the owner before has stopped, after repairs."""
        log = self._owned()
        if not past.journal:
            raise _undecided(self.path, "the journal's only segment has lost its first line")
        if past.foreign:
            raise _undecided(self.path, f"another segment stands in the place of {_names(past.foreign)}")
        if past.lost:
            raise _undecided(self.path, f"it lacks {_names(past.lost)}: put back what you have of that")
        if past.undecided:
            raise _undecided(self.path, f"it can't be told what {past.undecided} damaged lines were")
        self._unsaved = self._snapshot_size = 0
        self._id, self._ledger, self._view, self._restored = past.journal, past.ledger, past.view, False
        number = past.view.current.number
        if past.torn:
            self._set_aside(number, len(past.content), past.torn)
        log.attach(number, past.content)
        log.repair()
        if past.damaged:
            _log.error(
                "%s: %s is damaged, and is left as it is; 'meowcat journal check' tells what it lacks",
                self.path,
                segment_name(number),
            )
            self._rotate(log)

    def _set_aside(self, number: int, offset: int, torn: bytes) -> None:
        """Keep what a crash left of an unfinished batch: the file's name says where it stood."""
        folder = os.path.join(self._folder, TORN)
        with explained(folder):
            if not self._files.exists(folder):
                self._files.mkdir(folder)
                self._files.fsync_folder(self._folder)
            replace(self._files, folder, f"{number:020d}-{offset}", [torn])

    def _raise_epoch(self, owner: Owner) -> None:
        log = self._owned()
        self._ledger.epoch += 1
        self._ledger.sync = self._sync
        self._epoch = Epoch(self._ledger.epoch)
        opening = Opening(self._epoch, time.time_ns() // 1_000_000, owner, self._sync)
        self._write(log, [control_line(opening)], durable=True)
        self._publish(log)

    def _store(self, log: Log, records: Sequence[Record]) -> Position:
        """Write a batch of records; then readers may see it. Returns the position of the last."""
        changes = self._changes(records)
        try:
            lines = record_lines(records)
        except TypeError as error:
            raise JournalRejected(f"no record can hold this: {error}") from error
        last = records[-1]
        offset = self._write(log, lines, last.position, last.chain)
        index = self._published().current.index
        assert index is not None  # noqa: S101  # the current segment grows
        index.extend(offset, records, lines)
        with self._mutex:
            self._ledger.extend(changes, last)
            self._publish(log)
        return last.position

    def _changes(self, records: Sequence[Record]) -> Changes:
        """What a batch changes, of which each record is the next of its task.

        Raises:
            JournalConflict, JournalRejected.

        """
        view = self._published()
        highest: str | None = None
        changes: Changes = {}
        for record in records:
            task, seq = record.task, record.seq
            known = changes.get(task)
            if known is not None:
                first, expected = known[0], known[1].seq + 1
            elif seq == 1:
                if highest is None:
                    highest = self._reading.highest(view)
                is_new = highest is not None and task > highest
                first, expected = (record.position, 1) if is_new else self._place(view, record)
            else:
                first, expected = self._place(view, record)
            if seq != expected:
                raise JournalConflict(
                    f"task {task} goes on with record {expected}, not with {seq}: somebody else wrote it"
                )
            changes[task] = first, record
        return changes

    def _place(self, view: View, record: Record) -> tuple[int, int]:
        """The position of the first record of a record's task, and the `seq` that its next one has."""
        task, seq = record.task, record.seq
        found = self._ledger.rows.get(task)
        if found is None:
            with explained(self._folder, JournalRejected):
                found = self._reading.find(view, task) if seq > 1 or self._reading.has(view, task) else None
        if found is not None:
            return found.first, found.seq + 1
        # What was archived and taken away may have had any number of its records.
        return record.position, 1 if self._ledger.whole else max(1, seq)

    def _write(
        self,
        log: Log,
        lines: list[Line],
        last: int | None = None,
        chain: bytes | None = None,
        *,
        durable: bool = False,
    ) -> int:
        """One batch into the log, in another segment where this one is full; returns where it begins."""
        ledger = self._ledger
        last = ledger.position if last is None else last
        commit = control_line(Commit(len(lines), last, (ledger.chain if chain is None else chain).hex()))
        batch = b"".join([*lines, commit])
        if log.size + len(batch) > self._segment_size and not log.empty:
            self._rotate(log)
        begin = log.write(batch, durable=durable)
        log.restore_reserve()
        return begin

    def _publish(self, log: Log) -> None:
        view = self._published()
        self._view = View(view.sealed, view.current, log.size, self._ledger.position)

    def _rotate(self, log: Log) -> None:
        self._begin_segment(log, log.begin(self._header()))

    def _begin_segment(self, log: Log, before: int) -> None:
        """The log has begun another segment: note where we are, and keep the index of the one before, which
        has so many bytes.
        """
        view = self._published()
        sealed = StoredSegment(view.current.number, view.current.first)
        first = self._ledger.position + 1
        current = StoredSegment(log.number, first, GrowingIndex(first))
        self._keep_index(view.current, log, before)
        self._view = View((*view.sealed, sealed), current, log.size, self._ledger.position)
        self._unsaved += before
        if self._unsaved >= SPARED * self._snapshot_size:
            self._keep_snapshot(log)

    def _header(self) -> Segment:
        ledger = self._ledger
        return Segment(
            FORMAT, self._id, 0, ledger.position + 1, max(self._epoch, ledger.epoch), ledger.chain.hex(), ""
        )

    def _keep_index(self, segment: StoredSegment, log: Log, size: int) -> None:
        """Keep the index of the segment that is written, which has `size` bytes: no line that is damaged from
        then on can hide whose record it was.
        """
        if segment.index is not None and segment.index.count and log.reserved:
            self._reading.keep(segment.number, segment.index.pack(segment.number, size))

    def _keep_snapshot(self, log: Log) -> None:
        if not log.reserved:
            return
        content = snapshot_of(self._ledger, self._id, log.number, log.size)
        self._unsaved = 0
        try:
            self._snapshot_size = replace(self._files, self._folder, SNAPSHOT, content)
        except OSError:
            pass  # advisory: without it the log is replayed

    def _look(self) -> tuple[View, Ledger]:
        """What there is to read now."""
        self._usable()
        if self._following is None:
            return self._published(), self._ledger
        with self._mutex:
            self._following.refresh()
            past = self._following.past
            return past.view, past.ledger

    def _published(self) -> View:
        if self._view is None:  # an opening failed half-way
            raise JournalClosed(f"{self.path}: the journal is closed")
        return self._view

    def _usable(self) -> None:
        if self._pid and self._pid != os.getpid():
            raise JournalForked(f"{self.path}: opened by process {self._pid}, and this is a fork of it")
        if self._log is None and self._following is None:
            raise JournalClosed(f"{self.path}: the journal is closed")

    def _owned(self) -> Log:
        self._usable()
        if self._log is None:
            raise JournalError(f"{self.path}: opened for reading only")
        return self._log

    def _writable(self) -> Log:
        log = self._owned()
        if self._restored:
            raise JournalRejected(f"{self.path}: another journal was taken over: open it again first")
        return log


class _Named(Struct, frozen=True):
    """The head of a snapshot that somebody else asked for: its body stands behind the line."""

    name: str
    position: int
    sha256: str


def _snapshot_name(name: str) -> str:
    return f"{SNAPSHOT}-{sha256(name.encode()).hexdigest()[:32]}"


def _names(numbers: Sequence[int]) -> str:
    return ", ".join(map(segment_name, numbers))


def _undecided(path: Path, detail: str) -> JournalDamaged:
    return JournalDamaged(
        f"{path}: damaged, and {detail}; `meowcat journal salvage {path}` makes a journal of what is whole"
    )
