"""Sets of pieces, and the grid that cuts a content into them.

Everything here is linear in the number of *runs* of pieces at worst, never in the number of pieces: a
download that goes on for weeks has a million of them, in a handful of runs.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Self

from msgspec import Struct

from meowcat.core.errors import InvalidArgument

MAX_SIZE = 2**63 - 1
"""Bytes a content can have: what file offsets and every file system's interface can express."""
MAX_PIECES = 1_000_000
DEFAULT_PIECE = 4 << 20
"""Bytes in a piece of a content of a few gigabytes and more, until there would be over `USUAL_PIECES`. Also
where nobody knows the size."""
FEW_PIECES = 1024
LEAST_DEFAULT_PIECE = 256 << 10
"""What is smaller has about `FEW_PIECES`, of no less than these bytes: connections end within a piece of each
other at best, and what breaks off within a piece is lost; both have to be a small part of the whole."""
DEFAULT_PART = 8 << 20
"""Bytes in a part of an upload, unless the provider allows too few of them."""
USUAL_PIECES = 100_000
MIN_PIECE = 64 << 10
MAX_PIECE = 512 << 20

_FEW = 4
"""Runs that are cheaper to add one by one than to merge: a flush seldom has more."""

Pair = tuple[int, int]


class IntervalSet(Struct, frozen=True, gc=False):
    """An immutable set of non-negative integers, kept as half-open runs.

    `pairs` is sorted, disjoint and without neighbours that touch, so that equal sets have equal pairs. The
    constructor takes it on trust (it is what a decoder calls); `of` takes any pairs in any order.
    """

    pairs: tuple[Pair, ...] = ()

    @classmethod
    def of(cls, *pairs: Pair) -> Self:
        """The union of the half-open runs `(start, stop)`; an empty run adds nothing.

        Raises:
            InvalidArgument: a run that is negative or ends before it starts.
        """
        merged: list[Pair] = []
        for start, stop in sorted(pairs):
            _check_run(start, stop)
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
            elif start < stop:
                merged.append((start, stop))
        return cls(tuple(merged))

    def add(self, start: int, stop: int) -> Self:
        """The set with the integers from `start` up to `stop`, which is not one of them."""
        if not 0 <= start < stop:
            _check_run(start, stop)
            return self
        pairs = self.pairs
        if not pairs or pairs[-1][1] < start:
            return type(self)((*pairs, (start, stop)))
        if pairs[-1][1] == start:  # the usual case: what comes next in the file
            return type(self)((*pairs[:-1], (pairs[-1][0], stop)))
        low = bisect_left(pairs, start, key=_stop)
        high = bisect_right(pairs, stop, lo=low, key=_start)
        if low < high:
            start = min(start, pairs[low][0])
            stop = max(stop, pairs[high - 1][1])
        return type(self)((*pairs[:low], (start, stop), *pairs[high:]))

    def __or__(self, other: "IntervalSet") -> Self:
        if len(other.pairs) > _FEW:
            return self.of(*self.pairs, *other.pairs)
        union = self
        for start, stop in other.pairs:
            union = union.add(start, stop)
        return union

    def __sub__(self, other: "IntervalSet") -> Self:
        return type(self)(tuple(gap for run in self.pairs for gap in other.gaps(*run)))

    def __and__(self, other: "IntervalSet") -> Self:
        few, many = (self, other) if len(self.pairs) <= len(other.pairs) else (other, self)
        return type(self)(tuple(part for run in few.pairs for part in many.between(*run)))

    def __contains__(self, number: int) -> bool:
        return self.covers(number, number + 1)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def __bool__(self) -> bool:
        return bool(self.pairs)

    @property
    def numbers(self) -> Iterator[int]:
        """The integers themselves, in order."""
        for start, stop in self.pairs:
            yield from range(start, stop)

    @property
    def total(self) -> int:
        """How many integers are in the set."""
        return sum(stop - start for start, stop in self.pairs)

    def covers(self, start: int, stop: int) -> bool:
        """Whether all of `start` up to `stop` is in the set; true of an empty run."""
        if start >= stop:
            return True
        before = bisect_right(self.pairs, start, key=_start) - 1
        return before >= 0 and stop <= self.pairs[before][1]

    def gaps(self, start: int, stop: int) -> Self:
        """What of `start` up to `stop` is not in the set."""
        gaps: list[Pair] = []
        for first, end in self.between(start, stop):
            if start < first:
                gaps.append((start, first))
            start = end
        if start < stop:
            gaps.append((start, stop))
        return type(self)(tuple(gaps))

    def prefix(self) -> int:
        """Where the run that begins at 0 ends; 0 without one."""
        return self.pairs[0][1] if self.pairs and self.pairs[0][0] == 0 else 0

    def between(self, start: int, stop: int) -> Iterator[Pair]:
        """The runs of the set in order, cut to what lies between `start` and `stop`."""
        for index in range(bisect_right(self.pairs, start, key=_stop), len(self.pairs)):
            first, end = self.pairs[index]
            if first >= stop:
                return
            yield max(first, start), min(end, stop)


def _start(run: Pair) -> int:
    return run[0]


def _stop(run: Pair) -> int:
    return run[1]


def _check_run(start: int, stop: int) -> None:
    if not 0 <= start <= stop:
        raise InvalidArgument(f"run ({start}, {stop}): expected 0 <= start <= stop")


class Grid(Struct, frozen=True, gc=False):
    """A content of `size` bytes cut into pieces of `piece` bytes, the last of which may be shorter."""

    size: int
    piece: int

    def __post_init__(self) -> None:
        """Refuse what no grid can be.

        Raises:
            InvalidArgument: a size outside 0 to 2^63-1, or a piece of no bytes.
        """
        if not 0 <= self.size <= MAX_SIZE or self.piece < 1:
            raise InvalidArgument(
                f"a grid of {self.size} bytes in pieces of {self.piece}: expected 0 to 2^63-1 bytes "
                "and pieces of at least 1 byte"
            )

    @property
    def count(self) -> int:
        """How many pieces there are; none of an empty content."""
        return -(-self.size // self.piece)

    def span(self, index: int) -> Pair:
        """The half-open range of bytes of piece `index`.

        Raises:
            IndexError: no such piece.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"piece {index}: expected 0 to {self.count - 1}")
        return index * self.piece, min((index + 1) * self.piece, self.size)

    def bytes(self, pieces: IntervalSet) -> int:
        """How many bytes `pieces` of this grid have together."""
        last = self.count - 1
        missing = self.count * self.piece - self.size if last in pieces else 0
        return pieces.total * self.piece - missing

    def pieces_within(self, start: int, stop: int) -> IntervalSet:
        """The pieces that lie wholly inside the bytes from `start` up to `stop`."""
        first = -(-start // self.piece)
        end = self.count if stop >= self.size else stop // self.piece
        return IntervalSet.of((first, end)) if first < end else IntervalSet()

    def pieces_touching(self, start: int, stop: int) -> IntervalSet:
        """The pieces that have at least one of the bytes from `start` up to `stop`."""
        stop = min(stop, self.size)
        return (
            IntervalSet.of((start // self.piece, -(-stop // self.piece))) if start < stop else IntervalSet()
        )


def choose_piece_size(size: int | None, wanted: int | None) -> int:
    """Bytes in a piece of a content of `size` bytes (None where nobody knows yet): `wanted`, or the default.

    Raises:
        InvalidArgument: `wanted` is outside its bounds, or makes too many pieces.
    """
    if wanted is None:
        return _default_piece_size(size or 0)
    if not MIN_PIECE <= wanted <= MAX_PIECE:
        raise InvalidArgument(
            f"piece_size {wanted}: expected {MIN_PIECE} to {MAX_PIECE} bytes (64 KiB to 512 MiB); "
            "leave it out to have it chosen"
        )
    count = -(-(size or 0) // wanted)
    if count > MAX_PIECES:
        raise InvalidArgument(
            f"piece_size {wanted}: makes {count} pieces of {size} bytes; at most {MAX_PIECES} are allowed: "
            f"use at least {-(-(size or 0) // MAX_PIECES)}, or leave it out"
        )
    return wanted


def _default_piece_size(size: int) -> int:
    if not size:
        return DEFAULT_PIECE
    piece = LEAST_DEFAULT_PIECE
    while -(-size // piece) > (FEW_PIECES if piece < DEFAULT_PIECE else USUAL_PIECES):
        piece *= 2
    return piece
