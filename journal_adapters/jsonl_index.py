"""Where the records of one segment stand: by position, and by task.

The segment that grows has its index in memory. A sealed one has it in a file beside it, which is derived
from the segment and is made anew wherever it is missing or wrong. A close keeps that of the last segment,
too, as far as it has come: should a line be damaged later, the index knows whose record it was.

- a line of JSON with a CRC, as in a segment: `{"index":{"segment":…,"size":…,"first":…,"count":…,"low":…,
  "high":…,"crc":…},"crc":"…"}`;
- for each record its offset in the segment, 4 bytes;
- for each record the hash of its task, 8 bytes, in ascending order;
- in the same order, the record's number in the segment from 0, 4 bytes.

Numbers are little-endian. `low` and `high` are the least and the greatest task, null where not all are
known by name: ids that grow with time, as meowcat's own do, are found or missed without a search. `crc`
within is that of all behind the line.
"""

import sys
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate
from mmap import mmap
from typing import Protocol

import google_crc32c
import msgspec
from msgspec import Struct

from meowcat.core.values import TaskId
from meowcat.journal.contract import Record
from meowcat.journal.lines import CRC_LENGTH, intact, seal_line

_UNKNOWN = 0
"""The hash of a damaged record of which only later records tell whose it was."""
_BYTES = 16
"""Of a record in the file."""
_SHORT = 100
"""Characters that `low` and `high` may have: any text is a task's id, also one of a megabyte."""
_HEAD = 4096
"""Bytes within which the first line ends."""


class Index(Protocol):
    """What a segment's reader asks."""

    first: int
    """The position of the segment's first record."""

    @property
    def count(self) -> int:
        """How many records there are."""

    def offset(self, number: int) -> int:
        """Where the record with this number, from 0, begins."""

    def fit(self, number: int, limit: int) -> int:
        """How many records from `number` on begin before the offset `limit`; at least one."""

    def numbers(self, task: TaskId) -> Sequence[int]:
        """The numbers of the task's records, ascending; another task with the same hash may be among them."""

    @property
    def undecided(self) -> Sequence[int]:
        """The numbers of damaged records that may be anybody's, ascending."""


class GrowingIndex:
    """The index of the segment that is written, or of one that has just been read."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.offsets = array("I")
        self.tasks: dict[TaskId, int | list[int]] = {}
        """The numbers of each task's records; one alone needs no list, and most tasks of a long queue have no
        other."""
        self.high = TaskId("")
        """The greatest task."""
        self.undecided: list[int] = []
        self._nameless: dict[int, list[int]] = {}
        """Of damaged records whose task is known by its hash alone: their numbers."""

    @property
    def count(self) -> int:
        return len(self.offsets)

    def add(self, offset: int, task: TaskId) -> None:
        """The next record."""
        numbers = self.tasks.get(task)
        if numbers is None:
            self.tasks[task] = len(self.offsets)
            self.high = max(self.high, task)
        elif isinstance(numbers, int):
            self.tasks[task] = [numbers, len(self.offsets)]
        else:
            numbers.append(len(self.offsets))
        self.offsets.append(offset)

    def extend(self, offset: int, records: Sequence[Record], lines: Sequence[bytes]) -> None:
        """The next records, whose lines stand one behind the other from `offset` on."""
        first = len(self.offsets)
        self.offsets.extend(accumulate(map(len, lines[:-1]), initial=offset))
        tasks = self.tasks
        for number, record in enumerate(records, first):
            task = record.task
            numbers = tasks.get(task)
            if numbers is None:
                tasks[task] = number
            elif isinstance(numbers, int):
                tasks[task] = [numbers, number]
            else:
                numbers.append(number)
        self.high = max(self.high, *[each.task for each in records])

    def add_damaged(self, offset: int, value: int | None) -> None:
        """The next record, which is damaged: `value` is the hash of its task, or None where it may be
        anybody's.
        """
        if value is None:
            self.undecided.append(len(self.offsets))
        else:
            self._nameless.setdefault(value, []).append(len(self.offsets))
        self.offsets.append(offset)

    def offset(self, number: int) -> int:
        return self.offsets[number]

    def fit(self, number: int, limit: int) -> int:
        return max(1, bisect_left(self.offsets, limit, number, len(self.offsets)) - number)

    def numbers(self, task: TaskId) -> Sequence[int]:
        numbers = _listed(self.tasks.get(task, ()))
        if self._nameless and (nameless := self._nameless.get(hash_of(task))):
            return sorted([*numbers, *nameless])
        return numbers

    @property
    def named(self) -> bool:
        """Whether it is known of each record whose it is."""
        return not self._nameless and not self.undecided

    def pack(self, segment: int, size: int) -> bytes:
        """The file's content, for a segment of `size` bytes."""
        hashes = [_UNKNOWN] * self.count
        for task, numbers in self.tasks.items():
            value = hash_of(task)
            if isinstance(numbers, int):
                hashes[numbers] = value
                continue
            for number in numbers:
                hashes[number] = value
        for value, numbers in self._nameless.items():
            for number in numbers:
                hashes[number] = value
        order = sorted(range(self.count), key=hashes.__getitem__)  # stable: a task's records stay in order
        payload = b"".join(
            _little(column)
            for column in (self.offsets, array("Q", map(hashes.__getitem__, order)), array("I", order))
        )
        head = _Head(
            segment=segment,
            size=size,
            first=self.first,
            count=self.count,
            low=min(self.tasks, default="")[:_SHORT] if self.named else None,
            high=_above(self.high) if self.named else None,
            crc=google_crc32c.value(payload),
        )
        return seal_line(msgspec.json.encode({"index": head})) + payload


class _Head(Struct, frozen=True):
    segment: int
    size: int
    first: int
    count: int
    low: str | None
    high: str | None
    crc: int


_decode = msgspec.json.Decoder(dict[str, _Head]).decode


class PackedIndex:
    """The index of a segment, read from its file."""

    undecided = ()

    def __init__(self, head: _Head, content: memoryview) -> None:
        self.first, self.count = head.first, head.count
        self.range = head.low, head.high
        """Texts between which the tasks are; None where that is not known."""
        self.size = head.size
        """Bytes of the segment that it is about."""
        self._offsets = content[: 4 * head.count].cast("I")
        self._hashes = content[4 * head.count : 12 * head.count].cast("Q")
        self._numbers = content[12 * head.count :].cast("I")

    @classmethod
    def of(cls, content: bytes | mmap, segment: int) -> "PackedIndex | None":
        """The index that `content` holds; None where it is not that of this segment."""
        view = memoryview(content)
        line = bytes(view[:_HEAD])
        line = line[: line.find(b"\n") + 1]
        if sys.byteorder != "little" or not intact(line):
            return None
        try:
            head = _decode(b"%b}" % line[:-CRC_LENGTH])["index"]
        except (msgspec.DecodeError, KeyError):
            return None
        payload = view[len(line) :]
        fits = (head.segment, head.count * _BYTES) == (segment, len(payload))
        if not fits or google_crc32c.value(payload.tobytes()) != head.crc:
            return None
        return cls(head, payload)

    def offset(self, number: int) -> int:
        return self._offsets[number]

    def fit(self, number: int, limit: int) -> int:
        return max(1, bisect_left(self._offsets, limit, number, self.count) - number)

    def numbers(self, task: TaskId) -> Sequence[int]:
        value = hash_of(task)
        begin = end = bisect_left(self._hashes, value)
        while end < self.count and self._hashes[end] == value:
            end += 1
        return self._numbers[begin:end].tolist()

    def hashes(self) -> "array[int]":
        """The hash of each record's task, by the record's number."""
        found = array("Q", bytes(8 * self.count))
        for value, number in zip(self._hashes, self._numbers, strict=True):
            found[number] = value
        return found

    def begins_as(self, offsets: "array[int]") -> bool:
        """Whether records stand where they stand here, as far as both know of them."""
        shared = min(self.count, len(offsets))
        return self._offsets[:shared].tolist() == offsets[:shared].tolist()


_BEGIN = blake2b(digest_size=8)
"""To be copied: that takes half of the time in which one is made."""


def hash_of(task: TaskId) -> int:
    """8 bytes of the task's name, the same on every machine."""
    digest = _BEGIN.copy()
    digest.update(task.encode(errors="surrogatepass"))
    return int.from_bytes(digest.digest(), "little")


def _listed(numbers: int | Sequence[int]) -> Sequence[int]:
    return (numbers,) if isinstance(numbers, int) else numbers


def _above(task: str) -> str:
    """A short text that is not less than `task`."""
    return task if len(task) <= _SHORT else task[:_SHORT] + "\U0010ffff"


def _little(column: "array[int]") -> bytes:
    if sys.byteorder != "little":
        column = array(column.typecode, column)
        column.byteswap()
    return column.tobytes()
