"""What an opening reads: the snapshot, and the segments behind it; and how a reader goes on from there."""
# ruff: noqa: PTH118  # paths are texts here, as the system calls take them

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from journal_adapters.jsonl_files import SNAPSHOT, Files, explained, read_file, read_from
from journal_adapters.jsonl_folder import Listing, list_segments
from journal_adapters.jsonl_index import GrowingIndex
from journal_adapters.jsonl_reading import Reading, StoredSegment, View
from journal_adapters.jsonl_segments import SnapshotWrong, Walk, header_of, is_torn, lines_of
from journal_adapters.jsonl_state import Ledger, Snapshot, read_snapshot
from meowcat.core.errors import JournalDamaged
from meowcat.journal.contract import GENESIS
from meowcat.journal.lines import Commit, Segment

_HEAD = 4096
"""Bytes within which a segment's first two lines end."""


@dataclass
class Past:
    """What an opening found in the segments."""

    ledger: Ledger
    view: View
    journal: str
    """The journal's id."""
    first_line: bytes
    """Of the last segment."""
    content: bytes
    """Of the last segment, as far as it counts."""
    torn: bytes
    """What stands behind it and was never acknowledged."""
    damaged: bool
    """Whether the last segment is damaged, and must not be written any more."""
    walk: Walk
    """Through the last segment: a reader goes on with it."""
    undecided: int = 0
    """Damaged records of which nobody knows whose they are."""
    foreign: Sequence[int] = ()
    """Segments in whose place another one stands, or one of another journal."""
    lost: Sequence[int] = ()
    """Segments behind the last one of which something knows, and which are gone."""


def load(files: Files, folder: str, reading: Reading) -> Past:
    """Read what an opening has to know: the snapshot, and the segments behind it.

    Raises:
        JournalDamaged: nothing says what the journal is.

    """
    with explained(folder):
        try:
            snapshot = read_snapshot(read_file(files, os.path.join(folder, SNAPSHOT)))
        except OSError:
            snapshot = None  # advisory: the log is replayed
        # Only now: the snapshot may be of a segment that was just begun.
        listing = list_segments(files, folder)
        if snapshot is not None and snapshot.segment in listing.numbers:
            try:
                past = _Loading(files, folder, reading, listing.numbers, snapshot).load()
            except SnapshotWrong:  # advisory: the log is replayed
                past = _Loading(files, folder, reading, listing.numbers, None).load()
        else:
            past = _Loading(files, folder, reading, listing.numbers, None).load()
        _note_lost(past, reading, listing, snapshot)
        return past


def lost_segments(
    reading: Reading, listing: Listing, last: int, journal: str, snapshot: Snapshot | None
) -> dict[int, int]:
    """The segments behind the `last` one that there must have been, since an index or the snapshot is of
    them; and the last position that it says each had.
    """
    found: dict[int, int] = {}
    for number in listing.orphaned:
        index = reading.kept(number)
        if index is not None:
            found[number] = index.first + index.count - 1
    if snapshot is not None and snapshot.journal == journal and snapshot.segment > last:
        found[snapshot.segment] = snapshot.position
    return found


def _note_lost(past: Past, reading: Reading, listing: Listing, snapshot: Snapshot | None) -> None:
    """Where the last segments are gone, their records are damage, as far as somebody still knows of them."""
    found = lost_segments(reading, listing, past.view.current.number, past.journal, snapshot)
    past.lost = sorted(found)
    ledger = past.ledger
    if snapshot is not None and snapshot.segment in found and snapshot.position >= ledger.position:
        snapshot.put_into(ledger)
    ledger.position = max([ledger.position, *found.values()])
    past.view = past.view._replace(last=ledger.position)


class _Loading:
    """One pass over the segments from the snapshot on, or over all."""

    def __init__(
        self, files: Files, folder: str, reading: Reading, numbers: list[int], snapshot: Snapshot | None
    ) -> None:
        self._files, self._folder, self._reading = files, folder, reading
        self._snapshot = snapshot
        self._headers = {number: self._header(number) for number in numbers}
        self._journal = self._id() if snapshot is None else snapshot.journal
        self._foreign = [number for number in numbers if self._is_foreign(number)]
        self._numbers = [number for number in numbers if number not in self._foreign]
        self._sealed: list[StoredSegment] = []
        self._undecided = 0
        self._damaged: list[tuple[int, GrowingIndex, int]] = []
        """Segments in which later ones must tell whose records are damaged: number, index, bytes."""

    def load(self) -> Past:
        if self._snapshot is not None and self._snapshot.segment in self._foreign:
            raise SnapshotWrong
        self._list_sealed()
        ledger = self._first_ledger()
        ledger.whole = self._numbers[0] == 1
        for number in self._numbers[len(self._sealed_numbers()) :]:
            past = self._walk(number, ledger)
        past.undecided, past.foreign = max(0, self._undecided), self._foreign
        past.walk.settle()
        for number, index, size in self._damaged if not past.undecided else ():
            self._reading.keep(number, index.pack(number, size))
        return past

    def _id(self) -> str:
        """The journal's id, as most of its segments say; empty where none says so.

        Raises:
            JournalDamaged: those that say so are all of another number than their name.

        """
        headers = {number: header for number, header in self._headers.items() if header is not None}
        said = Counter(header.journal for number, header in headers.items() if header.number == number)
        if headers and not said:
            raise JournalDamaged(f"{self._folder}: no segment has its own name; bring them back from a copy")
        return said.most_common(1)[0][0] if said else ""

    def _is_foreign(self, number: int) -> bool:
        header = self._headers[number]
        return header is not None and (header.journal, header.number) != (self._journal, number)

    def _sealed_numbers(self) -> list[int]:
        """Those that the snapshot spares reading."""
        if self._snapshot is None:
            return []
        return [number for number in self._numbers if number < self._snapshot.segment]

    def _list_sealed(self) -> None:
        for number in self._sealed_numbers():
            header = self._headers[number]
            self._append_sealed(number, None if header is None else header.first)

    def _append_sealed(self, number: int, first: int | None) -> None:
        """The next sealed segment; one whose header is damaged begins where the one before it ends, and so
        does a hole in the numbers, which is a segment of its own that has no file.
        """
        before = self._sealed[-1] if self._sealed else None
        behind = None
        hole = before is not None and before.number != number - 1
        if before is not None and (first is None or hole):
            behind = before.first + self._reading.count(before)
        if before is not None and hole and behind is not None:
            self._sealed.append(_hole(before.number + 1, behind))
        self._sealed.append(StoredSegment(number, first or behind or 1))

    def _first_ledger(self) -> Ledger:
        if self._snapshot is not None:
            return self._snapshot.ledger()
        header = self._headers[self._numbers[0]]
        if header is None:
            return Ledger(0, GENESIS)
        return Ledger(header.first - 1, bytes.fromhex(header.chain))

    def _walk(self, number: int, ledger: Ledger) -> Past:
        """Read one segment into the ledger."""
        known = self._snapshot.offset if self._snapshot and number == self._snapshot.segment else 0
        last = number == self._numbers[-1]
        # The index first: it must not know more than the segment of a while ago.
        kept = self._reading.kept(number) if last and not known else None
        content = self._reading.content(number)
        header, begin, exact = header_of(content)
        first = self._first_of(header, ledger, known)
        self._pass_over(number, first, ledger, known)
        index = GrowingIndex(first)
        current = StoredSegment(number, first, index)
        find = self._reading.finder(tuple(self._sealed), current)
        walk = Walk(
            ledger,
            index,
            find,
            begin=begin,
            known=known,
            kept=partial(self._reading.kept, number),
            undecided=self._undecided,
        )
        walk.start(bytes.fromhex(header.chain) if header is not None and header.first == first else None)
        taken = begin + walk.good(content[begin:], begin)
        tail = content[taken:]
        if kept is not None and not kept.begins_as(index.offsets):
            kept = None
        stored = known if kept is None else kept.size
        torn = bool(tail) and last and taken >= stored and is_torn(tail, ledger.sync)
        if not exact or (tail and not torn) or taken < stored:
            walk.corrupt(b"" if torn else tail, taken)
        if kept is not None and len(content) < stored:
            walk.lose_to(kept.first + kept.count - 1)
        if header is None and not known:
            ledger.epoch += 1  # an opening may have stood in the same line, and no epoch is given twice
        self._undecided = walk.undecided
        view = View(tuple(self._sealed), current, walk.end, ledger.position)
        if not last:
            self._seal(number, index, len(content))
        return Past(
            ledger=ledger,
            view=view,
            journal=self._journal,
            first_line=content[:begin],
            content=content[: walk.end],
            torn=tail if torn else b"",
            damaged=walk.damaged,
            walk=walk,
        )

    def _pass_over(self, number: int, first: int, ledger: Ledger, known: int) -> None:
        """What is missing before a segment: others, and their records."""
        if self._sealed and self._sealed[-1].number < number - 1:
            self._sealed.append(_hole(self._sealed[-1].number + 1, ledger.position + 1))
        if not known and first > ledger.position + 1:
            self._undecided += first - ledger.position - 1
            ledger.position = first - 1

    def _seal(self, number: int, index: GrowingIndex, size: int) -> None:
        """Another segment follows on this one, of `size` bytes."""
        if index.undecided:
            self._damaged.append((number, index, size))
        else:
            self._reading.keep(number, index.pack(number, size))
        self._sealed.append(StoredSegment(number, index.first))

    def _first_of(self, header: Segment | None, ledger: Ledger, known: int) -> int:
        if not known:  # positions never go back, whatever a first line says
            return max(ledger.position + 1, 0 if header is None else header.first)
        if header is not None:
            return header.first
        before = self._sealed[-1] if self._sealed else None
        return 1 if before is None else before.first + self._reading.count(before)

    def _header(self, number: int) -> Segment | None:
        fd = self._reading.open(number)
        try:
            return header_of(self._files.pread(fd, _HEAD, 0)).said
        finally:
            self._files.close(fd)


def _hole(number: int, first: int) -> StoredSegment:
    """What stands for segments that are not there."""
    return StoredSegment(number, first, GrowingIndex(first))


class Following:
    """A journal that another process may be writing."""

    def __init__(self, files: Files, folder: str, reading: Reading) -> None:
        self._files, self._folder, self._reading = files, folder, reading
        self.past = load(files, folder, reading)

    def refresh(self) -> None:
        """Take in what was appended since."""
        with explained(self._folder):
            while not self._is_there():
                self.past = load(self._files, self._folder, self._reading)

    def _is_there(self) -> bool:
        try:
            return self._go_on()
        except FileNotFoundError:  # a segment whose beginning had failed was removed again
            return False

    def _go_on(self) -> bool:
        """Read on in the current segment, and in those behind it; False where what was read is not there any
        more: a batch that could not be synced is cut off again.
        """
        while True:
            past = self.past
            behind = past.view.current.number + 1
            sealed = behind not in past.foreign and self._files.exists(self._reading.path(behind))
            if not self._read_on(past, sealed=sealed):
                return False
            if not sealed:
                return True
            if not self._next(past, behind):
                return False

    def _read_on(self, past: Past, *, sealed: bool) -> bool:
        walk = past.walk
        fd = self._reading.open(past.view.current.number)
        try:
            if self._files.size(fd) < walk.end:
                return False
            # Of which nothing else was read, the first line may be that of another try.
            first = past.first_line if walk.end == len(past.first_line) else b""
            content = read_from(self._files, fd, walk.end - len(first))
        finally:
            self._files.close(fd)
        if not content.startswith(first):
            return False
        content = content[len(first) :]
        if content:
            begin = walk.end
            taken = walk.good(content, begin)
            tail = content[taken:]
            if tail and not is_torn(tail, past.ledger.sync):
                whole = tail if sealed else tail[: _last_commit(tail)]
                if whole:
                    walk.corrupt(whole, begin + taken)
                    past.undecided = max(0, walk.undecided)
                    walk.settle()
            past.view = past.view._replace(end=walk.end, last=past.ledger.position)
        return True

    def _next(self, past: Past, number: int) -> bool:
        content = self._reading.content(number)
        header, begin, _ = header_of(content)
        first = past.ledger.position + 1
        expected = past.journal, number, first
        if header is not None and (header.journal, header.number, header.first) != expected:
            return False
        sealed = (*past.view.sealed, StoredSegment(past.view.current.number, past.view.current.first))
        index = GrowingIndex(first)
        current = StoredSegment(number, first, index)

        find = self._reading.finder(sealed, current)
        past.walk = Walk(past.ledger, index, find, begin=begin, undecided=past.walk.undecided)
        past.walk.start(None if header is None else bytes.fromhex(header.chain))
        past.view = View(sealed, current, past.walk.end, past.ledger.position)
        past.first_line = content[:begin]
        return True


def _last_commit(tail: bytes) -> int:
    """Where the last whole commit of a tail ends."""
    return max((end for _, end, said in lines_of(tail) if isinstance(said, Commit)), default=0)
