"""Records read from segments, each through its index, sealed or growing, archived or not."""
# ruff: noqa: PTH118, PTH120  # paths are texts here, as the system calls take them

import os
import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import attrgetter
from typing import NamedTuple

from journal_adapters.jsonl_files import (
    ARCHIVE,
    Files,
    index_name,
    read_from,
    replace,
    segment_name,
)
from journal_adapters.jsonl_index import GrowingIndex, Index, PackedIndex
from journal_adapters.jsonl_segments import FindBefore, Walk, header_of, hints_of
from journal_adapters.jsonl_state import Ledger, Row
from meowcat.core.errors import JournalDamaged
from meowcat.core.values import Position, TaskId
from meowcat.journal.contract import Damage, Record
from meowcat.journal.lines import parse

BLOCK = 4 << 20
"""Bytes that are read at once."""

_NEAR = 16 << 10
"""Bytes between the beginnings of two lines that are still read with one call."""

_ALL = 1 << 62
"""More than any offset."""

MAPPED = 128
"""Indexes that are open at a time."""


class StoredSegment:
    """One segment in its folder, or in the archive."""

    def __init__(self, number: int, first: int, index: GrowingIndex | None = None) -> None:
        self.number = number
        self.first = first
        """The position of its first record."""
        self.index = index
        """Of a segment that grows. A sealed one has its own in a file."""


class View(NamedTuple):
    """What readers see: replaced as a whole at each commit."""

    sealed: tuple[StoredSegment, ...]
    current: StoredSegment
    end: int
    """Bytes of the current segment that are committed."""
    last: int
    """The position of the last record."""

    @property
    def first(self) -> int:
        """The position of the first record that is there."""
        return self.sealed[0].first if self.sealed else self.current.first

    def sealed_at(self, position: int) -> int:
        """The place in `sealed` of the segment with the position; behind all for the current one."""
        if position >= self.current.first:
            return len(self.sealed)
        return max(0, bisect_right(self.sealed, position, key=attrgetter("first")) - 1)

    def holding(self, position: int) -> tuple[StoredSegment, int]:
        """The segment that holds the position, and the last position in it."""
        place = self.sealed_at(position)
        if place == len(self.sealed):
            return self.current, self.last
        return self.sealed[place], self.behind(place) - 1

    def place(self, position: int) -> tuple[StoredSegment, list[int]]:
        """The segment that holds the position, and the number of the record there."""
        place = self.sealed_at(position)
        segment = self.current if place == len(self.sealed) else self.sealed[place]
        return segment, [position - segment.first]

    def behind(self, place: int) -> int:
        """The first position behind the sealed segment at `place`."""
        return self.sealed[place + 1].first if place + 1 < len(self.sealed) else self.current.first


class Reading:
    """Reads records for any thread."""

    def __init__(self, files: Files, folder: str, *, save: bool) -> None:
        """Read segments in `folder`; indexes that have to be made anew are kept there if `save`."""
        self._files, self._folder, self._save = files, folder, save
        self._indexes: OrderedDict[int, Index] = OrderedDict()
        self._ranges: dict[int, tuple[str, str | None]] = {}
        self._highest: tuple[tuple[StoredSegment, ...], str | None] = ((), "")
        """What `_high_of` has said of which segments."""
        self._mutex = threading.Lock()

    def path(self, number: int) -> str:
        """Where the segment stands now."""
        here = os.path.join(self._folder, segment_name(number))
        archived = os.path.join(self._folder, ARCHIVE, segment_name(number))
        return archived if not self._files.exists(here) and self._files.exists(archived) else here

    def open(self, number: int) -> int:
        """A descriptor of the segment, also while a compaction moves it. Raises OSError."""
        try:
            return self._files.open(os.path.join(self._folder, segment_name(number)), os.O_RDONLY)
        except FileNotFoundError:
            return self._files.open(os.path.join(self._folder, ARCHIVE, segment_name(number)), os.O_RDONLY)

    def content(self, number: int) -> bytes:
        """All of a segment. Raises OSError."""
        fd = self.open(number)
        try:
            return read_from(self._files, fd)
        finally:
            self._files.close(fd)

    def scan(self, view: View, after: int, limit: int) -> list[Record | Damage]:
        """At most `limit` records behind the position `after`."""
        found: list[Record | Damage] = []
        position = max(after + 1, view.first)
        stop = min(position + limit - 1, view.last)
        while position <= stop:
            segment, last = view.holding(position)
            end = min(stop, last)
            found += self._records(view, segment, position, end)
            position = end + 1
        return found

    def read(self, view: View, task: TaskId, row: Row | None, after: int) -> list[Record | Damage]:
        """The records of the task with a `seq` above `after`; `row` is its row where it is unfinished."""
        lines = (
            (segment, each)
            for segment, numbers in self._places_of(view, task, row)
            for each in self._lines(view, segment, numbers)
        )
        return self._history(view, task, row, after, lines)

    def read_many(
        self, view: View, tasks: Sequence[TaskId], rows: Sequence[Row | None]
    ) -> list[list[Record | Damage]]:
        """The records of each of `tasks`, every segment being visited once."""
        sure = self._is_sure(view, min([row.first for row in rows if row is not None], default=0))
        places = [
            [view.place(row.first)]
            if sure and row is not None and row.seq == 1
            else list(self._places_of(view, task, row))
            for task, row in zip(tasks, rows, strict=True)
        ]
        wanted: dict[StoredSegment, set[int]] = {}
        for segment, numbers in chain.from_iterable(places):
            wanted.setdefault(segment, set()).update(numbers)
        found: dict[StoredSegment, dict[int, Record | Damage]] = {}
        for segment, chosen in wanted.items():
            ordered = sorted(chosen)
            found[segment] = dict(zip(ordered, self._lines(view, segment, ordered), strict=True))
        return [
            self._history(
                view, task, row, 0, ((segment, found[segment][n]) for segment, numbers in of for n in numbers)
            )
            for task, row, of in zip(tasks, rows, places, strict=True)
        ]

    def _is_sure(self, view: View, begin: int) -> bool:
        """Whether it is known of each record from position `begin` on whose it is. Then the only record of a
        task is where its row says, and nowhere else."""
        segments = (*view.sealed[view.sealed_at(begin) :], view.current)
        return view.first <= begin and not any(
            self._index(each).undecided for each in segments if each.number not in self._ranges
        )

    def _places_of(
        self, view: View, task: TaskId, row: Row | None
    ) -> Iterator[tuple[StoredSegment, list[int]]]:
        return self._places(view, task, 0 if row is None else row.first, undecided=True)

    def _history(
        self,
        view: View,
        task: TaskId,
        row: Row | None,
        after: int,
        lines: Iterable[tuple[StoredSegment, Record | Damage]],
    ) -> list[Record | Damage]:
        """Of what stands where the task's records may be, those that are the task's, and what is missing."""
        found: list[Record | Damage] = []
        seq = 0
        for segment, each in lines:
            if isinstance(each, Record):
                if each.task != task:
                    continue  # another one with the same hash
                gap = each.seq > seq + 1 and (seq or view.first == 1)
                if gap and not (found and isinstance(found[-1], Damage)):
                    found.append(_missing(task, seq + 1, each.seq - 1))
                seq = each.seq
                if seq > after:
                    found.append(each)
            elif self._is_undecided(segment, each):
                found.append(each)
            elif each.task is None or each.task == task:
                found.append(Damage(each.detail, each.position, task))
        if row is not None and seq < row.seq and not (found and isinstance(found[-1], Damage)):
            found.append(_missing(task, seq + 1, row.seq))
        return found

    def _is_undecided(self, segment: StoredSegment, damage: Damage) -> bool:
        return (damage.position or 0) - segment.first in self._index(segment).undecided

    def find(self, view: View, task: TaskId) -> Row | None:
        """The place of a task in what `view` shows; None where it has no record."""
        first = seq = damaged = 0
        for segment, numbers in self._places(view, task, 0):
            for number, each in zip(numbers, self._lines(view, segment, numbers), strict=True):
                if each.task == task or (isinstance(each, Damage) and each.task is None):
                    first = first or segment.first + number
                    damaged = damaged + 1 if isinstance(each, Damage) else 0
                    seq = each.seq if isinstance(each, Record) else seq
        return Row(first, seq + damaged) if first else None

    def kept(self, number: int) -> PackedIndex | None:
        """The index that stands beside a segment, of the whole or only of its beginning; None where there is
        none to trust.
        """
        path = os.path.join(os.path.dirname(self.path(number)), index_name(number))
        try:
            return PackedIndex.of(self._files.map(path), number)
        except OSError:
            return None

    def finder(self, sealed: tuple[StoredSegment, ...], current: StoredSegment) -> FindBefore:
        """How a walk through `current`, whose index is growing, finds what stands before an offset in it."""
        index = current.index
        assert index is not None  # noqa: S101  # a walk makes one

        def find(task: TaskId, end: int) -> Row | None:
            return self.find(View(sealed, current, end, current.first + index.count - 1), task)

        return find

    def highest(self, view: View) -> str | None:
        """A text that no task with a record is above; None where that is not known. A new task's id is above
        it, as a rule, and then it needs no search."""
        index = view.current.index
        if index is None or not index.named:
            return None
        if self._highest[0] is not view.sealed:
            self._highest = view.sealed, self._high_of(view.sealed)
        high = self._highest[1]
        if high is None:
            self._highest = (), ""
            return None
        return max(high, index.high)

    def _high_of(self, sealed: tuple[StoredSegment, ...]) -> str | None:
        """A text that no task in these segments is above; None where that is not known of one."""
        highest = ""
        for segment in sealed:
            if segment.number not in self._ranges:  # more indexes than are open at a time are not opened anew
                try:
                    self._index(segment)
                except OSError:
                    return None  # who looks further is told
            _, high = self._ranges.get(segment.number, ("", None))
            if high is None:
                return None
            highest = max(highest, high)
        return highest

    def has(self, view: View, task: TaskId) -> bool:
        """Whether the task has a record; quick where its id is above all others, as a new one's is."""
        return any(True for _ in self._places(view, task, 0)) and self.find(view, task) is not None

    def _places(
        self, view: View, task: TaskId, begin: int, *, undecided: bool = False
    ) -> Iterator[tuple[StoredSegment, list[int]]]:
        """Each segment, from the one with position `begin` on, and the numbers of the task's records; with
        those that may be anybody's, if `undecided`.
        """
        current = view.current
        for segment in view.sealed[view.sealed_at(begin) :]:
            low, high = self._ranges.get(segment.number, ("", None))
            if task < low or (high is not None and task > high):
                continue
            numbers = _numbers(self._index(segment), task, undecided=undecided)
            if numbers:
                yield segment, numbers
        numbers = _numbers(self._index(current), task, undecided=undecided)
        count = view.last - current.first + 1
        while numbers and numbers[-1] >= count:  # what has been written since
            numbers.pop()
        if numbers:
            yield current, numbers

    def _records(self, view: View, segment: StoredSegment, first: int, last: int) -> list[Record | Damage]:
        index = self._index(segment)
        number, stop = first - segment.first, last - segment.first + 1
        there = min(stop, index.count)
        found: list[Record | Damage] = []
        try:
            fd = self.open(segment.number)
        except FileNotFoundError:
            return [_gone(segment, position) for position in range(first, last + 1)]
        try:
            while number < there:
                begin = index.offset(number)
                end = min(number + index.fit(number, begin + BLOCK), there)
                content = self._files.pread(fd, self._end(view, segment, fd, index, end) - begin, begin)
                found += self._parsed(segment, index, content, begin, range(number, end))
                number = end
        finally:
            self._files.close(fd)
        # Of a segment that has lost its end.
        found += [self._damage(segment, index, each, b"", "it is missing") for each in range(number, stop)]
        return found

    def _parsed(
        self, segment: StoredSegment, index: Index, content: bytes, base: int, numbers: Sequence[int]
    ) -> Iterator[Record | Damage]:
        offset, first, line_end = index.offset, segment.first, content.find
        for number in numbers:
            begin = offset(number) - base
            line = content[begin : line_end(b"\n", begin) + 1]
            try:
                record = parse(line)
            except JournalDamaged as error:
                yield self._damage(segment, index, number, line, str(error) if line else "it is missing")
            else:
                if isinstance(record, Record) and record.position == first + number:
                    yield record
                else:
                    yield self._damage(segment, index, number, b"", "it is missing")

    def _lines(self, view: View, segment: StoredSegment, numbers: list[int]) -> Iterator[Record | Damage]:
        """The records with these numbers, ascending; those that stand side by side are read with one call."""
        index = self._index(segment)
        there = bisect_left(numbers, index.count)
        try:
            fd = self.open(segment.number)
        except FileNotFoundError:
            yield from (_gone(segment, segment.first + number) for number in numbers)
            return
        try:
            for run in _runs(numbers[:there], index):
                begin = index.offset(run[0])
                following = run[-1] + 1
                while following < index.count and index.offset(following) == index.offset(run[-1]):
                    following += 1
                end = self._end(view, segment, fd, index, following)
                content = self._files.pread(fd, end - begin, begin)
                yield from self._parsed(segment, index, content, begin, run)
        finally:
            self._files.close(fd)
        for number in numbers[there:]:  # of a segment that has lost its end
            yield self._damage(segment, index, number, b"", "it is missing")

    def _end(self, view: View, segment: StoredSegment, fd: int, index: Index, number: int) -> int:
        """Where the lines before the record with this number end."""
        if number < index.count:
            return index.offset(number)
        return view.end if segment is view.current else self._files.size(fd)

    def _damage(self, segment: StoredSegment, index: Index, number: int, line: bytes, detail: str) -> Damage:
        position = Position(segment.first + number)
        hints = [each.task for each in hints_of(line) if number in index.numbers(each.task)]
        return Damage(f"record {position} is damaged: {detail}", position, hints[0] if hints else None)

    def _index(self, segment: StoredSegment) -> Index:
        if segment.index is not None:
            return segment.index
        with self._mutex:
            index = self._indexes.get(segment.number)
            if index is None:
                index = self._indexes[segment.number] = self._load(segment)
                if len(self._indexes) > MAPPED:
                    self._indexes.popitem(last=False)
            else:
                self._indexes.move_to_end(segment.number)
        return index

    def count(self, segment: StoredSegment) -> int:
        """How many records a segment has."""
        return self._index(segment).count

    def _load(self, segment: StoredSegment) -> Index:
        """The index of a sealed segment, from its file or made anew."""
        try:
            size = self._size(segment.number)
        except FileNotFoundError:
            return GrowingIndex(segment.first)
        index = self.kept(segment.number)
        if index is None or index.size != size:
            again = index_again(self.content(segment.number), segment.first, index)
            if again.undecided:
                return again  # not kept: a file would say that somebody has found out whose they are
            content = again.pack(segment.number, size)
            index = PackedIndex.of(content, segment.number)
            if index is None:
                return again  # on a machine that counts the other way round
            self.keep(segment.number, content)
        low, high = index.range
        self._ranges[segment.number] = low or "", high
        return index

    def _size(self, number: int) -> int:
        fd = self.open(number)
        try:
            return self._files.size(fd)
        finally:
            self._files.close(fd)

    def keep(self, number: int, content: bytes) -> None:
        """Store the index of a segment beside it. It is derived: where that fails, it is made anew."""
        if not self._save:
            return
        try:
            replace(self._files, os.path.dirname(self.path(number)), index_name(number), [content])
        except OSError:
            pass  # derived: it is made anew


def index_again(content: bytes, first: int, before: PackedIndex | None) -> GrowingIndex:
    """The index of a segment, made from its bytes, and from that of its beginning where there is one."""
    index = GrowingIndex(first)
    header, begin, _ = header_of(content)
    walk = Walk(Ledger(first - 1), index, _nowhere, begin=begin, known=_ALL, kept=lambda: before)
    walk.start(None if header is None else bytes.fromhex(header.chain))
    taken = begin + walk.good(content[begin:], begin)
    if taken < len(content):
        walk.corrupt(content[taken:], taken)
    if before is not None and before.begins_as(index.offsets):  # the segment has lost its end
        for value in before.hashes()[index.count :]:
            index.add_damaged(len(content), value)
    return index


def _numbers(index: Index, task: TaskId, *, undecided: bool) -> list[int]:
    numbers = index.numbers(task)
    return sorted([*numbers, *index.undecided]) if undecided and index.undecided else list(numbers)


def _runs(numbers: Sequence[int], index: Index) -> Iterator[list[int]]:
    """Numbers whose lines stand near each other, so that reading what is between costs less than a call."""
    run: list[int] = []
    for number in numbers:
        if run:
            offset = index.offset(number)
            far = offset - index.offset(run[-1]) > _NEAR or offset - index.offset(run[0]) > BLOCK
            if far:
                yield run
                run = []
        run.append(number)
    if run:
        yield run


def _nowhere(task: TaskId, end: int) -> Row | None:
    raise AssertionError(f"an index needs no rows, and that of {task} before {end} was asked for")


def _gone(segment: StoredSegment, position: int) -> Damage:
    return Damage(f"record {position} is missing with its segment {segment.number}", Position(position))


def _missing(task: TaskId, first: int, last: int) -> Damage:
    which = f"record {first} is" if first == last else f"records {first} to {last} are"
    return Damage(f"{which} missing", task=task)
