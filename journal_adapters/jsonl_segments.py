"""Reading a segment: what counts in it, and what is damaged. Pure: bytes in, values out.

A segment is read batch by batch. As long as every line of a batch is as it was written, and the batch ends
in a commit that fits, it counts. What follows the last such batch is one of three things:

- nothing;
- a torn tail: the last batch, of which bytes are missing or zero. It was never acknowledged, and does not
  count. Pages of one unsynced batch reach the disk in any order, so valid lines may stand behind a hole, its
  commit too. Without syncs (`process`) the same holds for all batches since the last sync;
- corruption: anything else. All lines that are as they were written count; the others are damage. Positions
  come from the neighbours of a damaged line. The task that it hit is never what the line still says: it is
  what the line was, where one changed bit explains it (`jsonl_mending`) and the chain proves it; what the
  index says that a close has kept; or what later records of that task miss. Otherwise it may be anybody's.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct

from journal_adapters.jsonl_index import GrowingIndex, PackedIndex, hash_of
from journal_adapters.jsonl_mending import mended_lines_of
from journal_adapters.jsonl_state import Ledger, Row
from meowcat.core.errors import JournalDamaged
from meowcat.core.values import TaskId
from meowcat.journal.chain import UNFIT, link
from meowcat.journal.contract import Record, Sync
from meowcat.journal.lines import (
    Commit,
    Cursor,
    Opening,
    Parsed,
    Segment,
    control_line,
    intact,
    parse,
)

_HINT = re.compile(rb'"position":(\d{1,19}),"task":("(?:[^"\\]|\\.)*"),"seq":(\d{1,19}),')
_SIMILAR = 8
"""Bytes in which a damaged line may differ from the commit that is expected, to be taken for it."""


_FARTHEST = 1 << 20
"""Records that may be lost at one place. A line that says there are more is of another journal."""


class Hint(Struct, frozen=True):
    """What a damaged line says that it is."""

    position: int
    task: TaskId
    seq: int


class Bad(Struct, frozen=True):
    """A line that is not as it was written."""

    offset: int
    content: bytes


class SnapshotWrong(Exception):  # a signal between two functions
    """The snapshot is not that of this log: replay without it."""


class Header(NamedTuple):
    """The first line of a segment."""

    said: Segment | None
    """None where that can't be told, or it is none of ours."""
    end: int
    exact: bool
    """Whether all of its bytes are as they were written."""


def header_of(content: bytes) -> Header:
    """The first line of a segment.

    Args:
        content: the begin of the file, at least its first two lines.

    """
    for _, end, said, exact in mended_lines_of(content):
        if isinstance(said, Segment):
            return Header(said, end, exact)
        break
    return Header(None, content.find(b"\n") + 1, exact=False)


def format_of(content: bytes) -> int | None:
    """The format version that a segment's first line names, also one of a later format."""
    line = content[: content.find(b"\n") + 1]
    if not intact(line):
        return None
    try:
        return _decode_format(line).segment.format
    except msgspec.DecodeError:
        return None


class _Format(Struct):
    format: int


class _AnyHeader(Struct):
    segment: _Format


_decode_format = msgspec.json.Decoder(_AnyHeader).decode


def lines_of(content: bytes, begin: int = 0) -> Iterator[tuple[int, int, Parsed | None]]:
    """Each line from `begin` on: where it begins and ends, and what it says; None for a damaged one, and for
    one without a line feed, which ends the file.
    """
    while begin < len(content):
        end = content.find(b"\n", begin) + 1 or len(content)
        try:
            said: Parsed | None = parse(content[begin:end])
        except JournalDamaged:
            said = None
        yield begin, end, said
        begin = end


def is_torn(tail: bytes, sync: Sync) -> bool:
    """Whether what follows the last good batch was being written when the power or the process was lost.

    Args:
        tail: from the end of the last good batch to the end of the file.
        sync: the level that the last good opening names.

    """
    commits, bad, openings = 0, None, 0
    for begin, end, said in lines_of(tail):
        if said is None and bad is None:
            bad = tail[begin:end]
        if commits and isinstance(said, Opening):
            openings += 1
        if isinstance(said, Commit):
            commits += 1
            if end != len(tail) and sync == "power":
                return False  # batches behind it were written, and so it had been synced
    if openings:
        return False  # an opening syncs what stands before it
    if bad is None:
        return commits == 0  # cut between two lines
    return _unfinished(tail if sync == "power" else bad)


def _unfinished(content: bytes) -> bool:
    """Whether bytes are missing or zero. One changed bit makes neither two zeros nor one in the place of the
    first `{`; and a last line that is whole but for its line feed has lost nothing.
    """
    if not content.endswith(b"\n"):
        last = content[content.rfind(b"\n") + 1 :]
        if not intact(last[:-1] + b"\n") or last.endswith(b"\0"):
            return True
    return b"\0\0" in content or content.startswith(b"\0")


def hints_of(line: bytes) -> list[Hint]:
    """What a damaged line says that it is: two records where the line feed between them is damaged."""
    hints = []
    for found in _HINT.finditer(line):
        try:
            task = msgspec.json.decode(found[2], type=str)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        hints.append(Hint(int(found[1]), TaskId(task), int(found[3])))
    return hints


FindBefore = Callable[[TaskId, int], Row | None]
"""The row of a task that is not among the unfinished, from what stands before an offset in the segment."""


class Walk:
    """One segment, read from its first batch on; it keeps the ledger and the index of what it has read."""

    def __init__(
        self,
        ledger: Ledger,
        index: GrowingIndex,
        find: FindBefore,
        *,
        begin: int,
        known: int = 0,
        kept: Callable[[], PackedIndex | None] = lambda: None,
        undecided: int = 0,
    ) -> None:
        """Begin behind the segment's header.

        Args:
            ledger: the state at the segment's begin, or at the offset `known` of it.
            index: of this segment, empty.
            find: the row of a finished task before an offset, from this segment's index and those before.
            begin: bytes that the header takes.
            known: what stands before this offset is in the ledger.
            kept: loads the index that was kept of this segment, should anything be damaged.
            undecided: as it stood at the end of the segment before.

        """
        self.ledger, self.index = ledger, index
        self.end = begin
        """The end of what counts."""
        self.damaged = False
        self.undecided = undecided
        """Damaged lines of which nobody knows whose they are, less the records that tasks' sequences miss."""
        self._find_before = find
        self._at = begin
        """Where the line begins that is being taken."""
        self._known = known
        self._load_kept = kept
        self._hashes: Sequence[int] | None = None
        self._position = index.first - 1
        self._chain: bytes | None = None
        """None behind damage, where the next record's own value is taken."""

    def start(self, chain: bytes | None) -> None:
        """Say what the chain's value is at the begin; None where that is not known."""
        self._chain = chain
        self._compare()

    def good(self, content: bytes, base: int) -> int:
        """Take all good batches from the begin of `content`, which stands at `base` in the segment.

        Returns:
            How many bytes they are.

        """
        begin = taken = 0
        batch: list[tuple[int, Parsed]] = []
        while end := content.find(b"\n", begin) + 1:
            try:
                said = parse(content[begin:end])
            except JournalDamaged:
                break
            if not isinstance(said, Commit):
                batch.append((base + begin, said))
            elif self._fits(batch, said):
                self._commit(batch, base + end)
                batch, taken = [], end
            else:
                break
            begin = end
        return taken

    def corrupt(self, tail: bytes, base: int) -> None:
        """Take whatever is as it was written from a tail that is damaged, to its end."""
        self.damaged = True
        bad: list[Bad] = []
        for begin, end, said, exact in mended_lines_of(tail):
            if said is None or not self._is_ours(said, exact=exact):
                bad.append(Bad(base + begin, tail[begin:end] if said is None or not exact else b""))
            elif isinstance(said, Record):
                self._lose(said.position - self._position - 1, bad, base + begin)
                bad = []
                self._take(base + begin, said)
            elif isinstance(said, Commit):
                self._lose(said.last - self._position, bad, base + begin)
                bad = []
            else:
                self._control(said, base + begin)
        self._end_of_tail(bad)
        self.end = base + len(tail)
        if self._known:
            self._catch_up()

    def lose_to(self, position: int) -> None:
        """The segment has lost its end, with the records up to `position`, and with lines of which nothing is
        known: cursors and openings may have been among them.
        """
        self._lose(position - self._position, [], self.end)
        self.undecided += 1

    def settle(self) -> None:
        """At the end: where as many records are missing in the sequences of tasks as nobody was known for,
        these are they.
        """
        if self.undecided <= 0:
            self.index.undecided.clear()

    def _is_ours(self, said: Parsed, *, exact: bool) -> bool:
        """Whether a line belongs here; a record that was told by all but one of its bits must also go into
        the chain.
        """
        if isinstance(said, Commit):
            return said.last <= self._position + _FARTHEST
        if not isinstance(said, Record):
            return True
        follows = said.position == self._position + 1
        if not exact and follows and not _follows(self._chain, said):
            return False
        return self._position < said.position <= self._position + _FARTHEST

    def _fits(self, batch: Sequence[tuple[int, Parsed]], commit: Commit) -> bool:
        position, chain, epoch = self._position, self._chain, 0
        for _, said in batch:
            if isinstance(said, Segment):
                return False
            if not isinstance(said, Record):
                continue
            position += 1
            if said.position != position or said.epoch < epoch or not _follows(chain, said):
                return False
            chain, epoch = said.chain, said.epoch
        if chain is not None and chain.hex() != commit.chain:
            return False
        return commit.lines == len(batch) and commit.last == position

    def _commit(self, batch: Sequence[tuple[int, Parsed]], end: int) -> None:
        for offset, said in batch:
            if isinstance(said, Record):
                self._take(offset, said)
            else:
                self._control(said, offset)
        self.end = end
        if self._known and end >= self._known:
            self._compare()

    def _compare(self) -> None:
        """At the end of what is in the ledger already: this must be what the ledger is of."""
        if self.end < self._known:
            return
        if not self._known:  # the ledger was read from the segments before, which may have lost their end
            self._follow()
            return
        self._known = 0
        if self.ledger.position != self._position or self._chain not in (None, self.ledger.chain):
            raise SnapshotWrong

    def _follow(self) -> None:
        """At the begin of a segment: its first line says what the chain's value is, where that is missing."""
        if self._chain is not None and self.ledger.position == self._position:
            self.ledger.chain = self._chain

    def _take(self, offset: int, record: Record) -> None:
        self._position, self._chain = record.position, record.chain
        if offset >= self._known:
            self._at = offset
            self.undecided -= self.ledger.take(record, self._find)
        self.index.add(offset, record.task)

    def _find(self, task: TaskId) -> Row | None:
        # Up to here and no further: what is asked for stands before, and a line has no more bytes than that.
        return self._find_before(task, self._at)

    def _control(self, said: Parsed, offset: int) -> None:
        if offset < self._known:
            return
        if isinstance(said, Opening):
            self.ledger.epoch = max(self.ledger.epoch, said.epoch)
            self.ledger.sync = said.sync
        elif isinstance(said, Cursor):
            self.ledger.set_cursor(said.name, said.position)

    def _lose(self, count: int, bad: Sequence[Bad], offset: int) -> None:
        """So many records are missing at the place of the lines `bad`, which end at `offset`."""
        unknown = [each for each in bad if each.offset >= self._known]
        # Each may have been an opening, and no epoch is given twice; or a cursor.
        self.ledger.epoch += len(unknown)
        lines = sum(1 for each in unknown if each.content and not self._is_commit(each.content))
        self.undecided += max(0, lines - max(0, count))
        if count <= 0:
            return
        self._chain = None
        hints = {hint.position: (each.offset, hint) for each in bad for hint in hints_of(each.content)}
        place = bad[0].offset if bad else offset
        for position in range(self._position + 1, self._position + count + 1):
            at, hint = hints.get(position, (place, None))
            place = max(place, at)
            self._lose_one(position, place, hint)
        self._position += count

    def _lose_one(self, position: int, offset: int, hint: Hint | None) -> None:
        """A record is missing. What is in the ledger already needs the hash of its task alone. Elsewhere the
        line must also tell the record's `seq`, and the index must prove what it says.
        """
        value = self._hash_of(position - self.index.first)
        if offset >= self._known:
            self.ledger.position = position
            if hint is None or value != hash_of(hint.task) or not self._is_next(hint, offset, position):
                value = None
        if value is None:
            self.undecided += 1
        self.index.add_damaged(offset, value)

    def _is_next(self, hint: Hint, offset: int, position: int) -> bool:
        """Whether a task goes on as the line says; if so, it is taken into the ledger as unfinished, so that
        somebody looks at it.
        """
        self._at = offset
        row = self.ledger.rows.get(hint.task) or self._find(hint.task)
        if hint.seq != (1 if row is None else row.seq + 1):
            return False
        self.ledger.place(position, hint.task, hint.seq, row, open_=True)
        return True

    def _hash_of(self, number: int) -> int | None:
        """The hash of a record's task, as the index has it that was kept; None where it knows nothing."""
        if self._hashes is None:
            kept = self._load_kept()
            trusted = kept is not None and kept.begins_as(self.index.offsets)
            self._hashes = kept.hashes() if kept is not None and trusted else ()
        return self._hashes[number] if number < len(self._hashes) else None

    def _end_of_tail(self, bad: Sequence[Bad]) -> None:
        """The lines behind the last good one. Every write ends in a commit: the last line is that."""
        for number, each in enumerate(bad):
            last = number == len(bad) - 1
            following = [hint for hint in hints_of(each.content) if hint.position > self._position]
            if following and following[0].position == self._position + 1:
                self._lose(len(following), [each], each.offset)
            elif last and self._is_commit(each.content):
                self._lose(0, [each], each.offset)
            elif each.content:
                self.ledger.epoch += 1
                self.undecided += each.offset >= self._known

    def _is_commit(self, line: bytes) -> bool:
        """Whether a line is the commit of all that was read, but for some damaged bytes."""
        chain = self._chain if self._chain is not None else self.ledger.chain
        for lines in range(1, 4):  # as many digits as the number of lines may have
            expected = control_line(Commit(10**lines - 1, self._position, chain.hex()))
            if len(line) == len(expected):
                head = b'"last":'
                begin, end = expected.index(head), expected.index(b',"crc"')
                differing = sum(a != b for a, b in zip(line[begin:end], expected[begin:end], strict=True))
                return differing <= _SIMILAR
        return False

    def _catch_up(self) -> None:
        """The file is shorter than what is known of it: the positions to there are lost."""
        self._known = 0
        while self._position < self.ledger.position:
            self._position += 1
            value = self._hash_of(self._position - self.index.first)
            self.undecided += value is None
            self.index.add_damaged(self.end, value)


def _follows(chain: bytes | None, record: Record) -> bool:
    try:
        return chain is None or link(chain, record, record.epoch, record.position) == record.chain
    except UNFIT:  # a number that no record has
        return False
