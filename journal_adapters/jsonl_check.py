"""Looking over what a JSONL journal keeps beside its records: how its files follow on each other, its
commits, and what is derived. Damaged records are told by a scan.
"""
# ruff: noqa: PTH118, PTH120  # paths are texts here, as the system calls take them

import os
from collections.abc import Iterator
from hashlib import sha256

from journal_adapters.jsonl_files import SNAPSHOT, Files, index_name, read_file, segment_name
from journal_adapters.jsonl_folder import list_segments
from journal_adapters.jsonl_index import PackedIndex
from journal_adapters.jsonl_mending import mended_lines_of
from journal_adapters.jsonl_opening import lost_segments
from journal_adapters.jsonl_reading import Reading, index_again
from journal_adapters.jsonl_segments import Header, header_of, is_torn
from journal_adapters.jsonl_state import Listed, Row, Snapshot, read_snapshot
from meowcat.core.values import TaskId
from meowcat.journal.contract import GENESIS, Record, Sync
from meowcat.journal.lines import Commit, Cursor, Opening, Parsed, Segment

DERIVED = "nothing is lost by it: it is made anew"
NOTHING = "0" * 64
"""What a first segment names as the digest of the one before it."""


def flaws(files: Files, folder: str, reading: Reading) -> Iterator[str]:
    """Whatever is not as it should be, of a journal that somebody may be writing. Raises OSError."""
    path = os.path.join(folder, SNAPSHOT)
    content = read_file(files, path) if files.exists(path) else None
    snapshot = None if content is None else read_snapshot(content)
    if content is not None and snapshot is None:
        yield f"{SNAPSHOT} is damaged; {DERIVED}"
    # Only now: the snapshot may be of a segment that was just begun.
    listing = list_segments(files, folder)
    numbers = listing.numbers
    look = _Look(snapshot)
    for number in numbers:
        # The index first: it must not know more than the segment of a while ago.
        there, index = _index(files, reading, number)
        content = reading.content(number)
        yield from look.segment(number, content, last=number == numbers[-1])
        if index is not None:
            yield from _index_flaws(index, number, content)
        elif there:
            yield f"{index_name(number)} is damaged; {DERIVED}"
    lost = lost_segments(reading, listing, numbers[-1], look.journal, snapshot)
    for number in sorted(lost):
        yield f"{segment_name(number)} is missing: the journal had records up to {lost[number]} with it"
    if snapshot is None or snapshot.segment not in lost:
        yield from look.end()


def _index(files: Files, reading: Reading, number: int) -> tuple[bool, PackedIndex | None]:
    """Whether there is an index beside the segment, and it, where it can be trusted."""
    there, index = False, None
    for _ in range(2):  # a compaction moves the segment before its index
        there = files.exists(os.path.join(os.path.dirname(reading.path(number)), index_name(number)))
        index = reading.kept(number)
        if index is not None:
            break
    return there, index


def _index_flaws(index: PackedIndex, number: int, content: bytes) -> Iterator[str]:
    if index.size > len(content):
        yield f"{segment_name(number)} has {len(content)} bytes; it had {index.size} when its index was kept"
        return
    again = index_again(content, index.first, index)
    packed = PackedIndex.of(again.pack(number, len(content)), number)
    if packed is not None and not (
        index.count <= packed.count
        and index.begins_as(again.offsets)
        and packed.hashes()[: index.count] == index.hashes()
    ):
        yield f"{index_name(number)} is not the index of {segment_name(number)}; {DERIVED}"


class _Look:
    """A walk over all segments, one after the other."""

    def __init__(self, snapshot: Snapshot | None) -> None:
        self._snapshot = snapshot
        self.journal = ""
        """The id that the segments have named."""
        self._number = 0
        self._digest = NOTHING
        self._position = 0
        self._chain: bytes | None = GENESIS
        self._epoch = 0
        self._sync: Sync = "power"
        self._rows: dict[TaskId, Row] = {}
        self._open: set[TaskId] = set()
        self._cursors: dict[str, int] = {}
        self._sound = True
        """Whether the walk knows all that the snapshot should say."""

    def segment(self, number: int, content: bytes, *, last: bool) -> Iterator[str]:
        """The next segment; `last` where it may still grow."""
        name = segment_name(number)
        header = header_of(content)
        for flaw in self._header_flaws(number, header):
            yield f"{name}: {flaw}"
        self._number, self._digest = number, sha256(content).hexdigest()
        end = header.end
        self._compare(number, end)
        for flaw, end in self._batches(number, content, header.end):  # noqa: B007  # the last one is asked for below
            if flaw:
                self._sound = False
                yield f"{name}: {flaw}"
        tail = content[end:]
        if tail and not (last and is_torn(tail, self._sync)):
            yield f"{name}: {len(tail)} bytes behind its last commit, from byte {end} on"

    def end(self) -> Iterator[str]:
        """What the snapshot says, compared with the records."""
        snapshot = self._snapshot
        if snapshot is not None and self._sound:
            yield (
                f"{SNAPSHOT} does not say what stands before byte {snapshot.offset} of "
                f"{segment_name(snapshot.segment)}; if the segment has not lost its end, {DERIVED}"
            )

    def _header_flaws(self, number: int, header: Header) -> Iterator[str]:
        said = header.said
        begins = self._number == 0
        if not begins and number != self._number + 1:
            self._sound, self._chain = False, None
            yield f"the segments {self._number + 1} to {number - 1} before it are missing"
        if said is None or not header.exact:
            yield "its first line is damaged"
        if said is None:
            self._sound = False
            return
        if said.number != number:
            yield f"its first line is that of segment {said.number}"
        if self.journal not in ("", said.journal):
            yield f"it is of journal {said.journal}, and those before it of {self.journal}"
        self.journal = said.journal
        if begins and number > 1:  # what was archived is gone
            self._position, self._chain, self._sound = said.first - 1, bytes.fromhex(said.chain), False
        elif number == self._number + 1:
            yield from self._sequel_flaws(said)
        self._position = max(self._position, said.first - 1)

    def _sequel_flaws(self, said: Segment) -> Iterator[str]:
        if said.previous != self._digest:
            before = segment_name(self._number) if self._number else "none"
            yield (
                f"the file before it is not the one that it was written behind: that had the SHA-256 "
                f"{said.previous}, and {before} has {self._digest}"
            )
        if said.first != self._position + 1:
            yield f"it begins with record {said.first}, and the one before it ends with {self._position}"
        if self._chain not in (None, bytes.fromhex(said.chain)):
            yield "it names another value of the hash chain than the one before it ends with"
        if said.epoch < self._epoch:
            yield f"it was begun in epoch {said.epoch}, behind an opening of epoch {self._epoch}"

    def _batches(self, number: int, content: bytes, begin: int) -> Iterator[tuple[str, int]]:
        """What is wrong with each batch, and where it ends; and what is wrong within."""
        end, lines, bad = begin, 0, 0
        for found in mended_lines_of(content, begin):
            said = found.said
            lines += 1
            if said is None:
                bad += 1
            elif not found.exact and not isinstance(said, Record):
                yield f"a changed bit in the {_kind(said)} at byte {found.begin}", end
            if isinstance(said, Record):
                bad -= max(0, min(bad, said.position - self._position - 1))
                self._take(said)
            elif isinstance(said, Commit):
                before, end = end, found.end
                for flaw in self._commit_flaws(said, lines - 1, bad):
                    yield f"bytes {before} to {end}: {flaw}", end
                lines = bad = 0
                self._compare(number, end)
                yield "", end
            elif said is not None:
                for flaw in self._control_flaws(said):
                    yield f"{flaw}, at byte {found.begin}", end

    def _commit_flaws(self, said: Commit, lines: int, bad: int) -> Iterator[str]:
        lost = said.last - self._position
        if lost < 0:
            yield f"a commit of the records up to {said.last} behind record {self._position}"
        if bad > max(0, lost):
            yield f"{bad - max(0, lost)} damaged lines that are no records"
        elif lost > bad:
            yield f"a commit of the records up to {said.last}, and they end with {self._position}"
        elif not bad and said.lines != lines:
            yield f"a commit of {said.lines} lines behind {lines}"
        if not lost and self._chain is not None and said.chain != self._chain.hex():
            yield "a commit with another value of the hash chain than the record before it"
        self._sound = self._sound and not lost and not bad
        self._position, self._chain = said.last, bytes.fromhex(said.chain)

    def _control_flaws(self, said: Parsed) -> Iterator[str]:
        if isinstance(said, Segment):
            yield "a first line of a segment in the middle of one"
        elif isinstance(said, Opening):
            if said.epoch <= self._epoch:
                yield f"an opening of epoch {said.epoch} behind one of {self._epoch}"
            self._epoch, self._sync = said.epoch, said.sync
        elif isinstance(said, Cursor):
            if said.position is None:
                self._cursors.pop(said.name, None)
            else:
                self._cursors[said.name] = said.position

    def _take(self, record: Record) -> None:
        self._sound = self._sound and record.position == self._position + 1
        self._position, self._chain = record.position, record.chain
        self._epoch = max(self._epoch, record.epoch)
        if self._snapshot is None:
            return
        row = self._rows.get(record.task)
        self._rows[record.task] = Row(record.position if row is None else row.first, record.seq)
        (self._open.add if record.open else self._open.discard)(record.task)

    def _compare(self, number: int, end: int) -> None:
        """Forget the snapshot where it says what the segments say."""
        snapshot = self._snapshot
        if snapshot is None or (snapshot.segment, snapshot.offset) != (number, end):
            return
        rows = ((task, self._rows[task]) for task in self._open)
        tasks = {Listed(task, row.first, row.seq) for task, row in rows}
        if not self._sound or (
            snapshot.position == self._position
            and bytes.fromhex(snapshot.chain) == self._chain
            and snapshot.cursors == self._cursors
            and set(snapshot.tasks) == tasks
        ):
            self._snapshot = None
            self._rows.clear()


def _kind(said: Parsed) -> str:
    return {Segment: "first line", Opening: "opening", Cursor: "cursor", Commit: "commit"}[type(said)]
