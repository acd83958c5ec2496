"""Which line a damaged one was, where a single changed bit tells it apart. Pure: bytes in, values out.

CRC32C is linear: what one changed bit does to the sum depends on its distance from the end alone, so the bit
is found in one pass over the line. Damage stays damage: the bytes on the medium are not those that were
written. But whose record it was, or what a lost opening or cursor said, is known from then on, not guessed.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import google_crc32c

from meowcat.core.errors import JournalDamaged
from meowcat.journal.lines import CRC_LENGTH, Parsed, intact, parse

_POLYNOMIAL = 0x82F63B78
"""CRC32C, reflected: RFC 3720, B.4."""


def _table() -> list[int]:
    """What each byte does to the sum (the table of the usual way to compute it)."""
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()
_BY_TOP = {value >> 24: number for number, value in enumerate(_TABLE)}
"""The table the other way round: its values differ in their highest byte."""
_BITS = {_TABLE[1 << bit]: bit for bit in range(8)}
"""What a changed bit of the last byte does to the sum, and which bit it is."""
_END = re.compile(rb',"crc":"[0-9a-f]{8}"}(.)', re.DOTALL)
_TAIL = re.compile(rb',"crc":"([0-9a-f]{8})"}\n')


class Found(NamedTuple):
    """One line of a damaged file."""

    begin: int
    end: int
    said: Parsed | None
    """None where it can't be told."""
    exact: bool
    """Whether all of its bytes are as they were written."""


def mended_lines_of(content: bytes, begin: int = 0) -> Iterator[Found]:
    """Each line from `begin` on, also those that are told by all but one of their bits. Where that bit was a
    line feed, or has become one, the lines are those that were written.
    """
    while begin < len(content):
        end = content.find(b"\n", begin) + 1 or len(content)
        said = _said(content[begin:end])
        if said is not None:
            yield Found(begin, end, said, exact=True)
        else:
            lines = mended(content[begin:end])
            if lines is None and end < len(content):
                both = content.find(b"\n", end) + 1 or len(content)
                lines = _joined(content, begin, end, both)
                end = end if lines is None else both
            for line in lines or [content[begin:end]]:
                yield Found(begin, begin + len(line), _said(line), exact=False)
                begin += len(line)
        begin = end


def mended(line: bytes) -> list[bytes] | None:
    """The lines that `line` was before one of its bits changed: two where that was the line feed between
    them. None where no single bit explains it.
    """
    head, tail = line[:-CRC_LENGTH], line[-CRC_LENGTH:]
    true = google_crc32c.value(head)
    if written := _TAIL.fullmatch(tail):
        place = _changed_bit(true ^ int(written[1], 16), len(head))
        if place is not None:
            at, bit = place
            return [head[:at] + bytes([head[at] ^ 1 << bit]) + line[at + 1 :]]
    expected = b',"crc":"%08x"}\n' % true
    if len(tail) == CRC_LENGTH and _distance(tail, expected) == 1:
        return [head + expected]
    for found in _END.finditer(line):
        middle = found.end()
        if _distance(found[1], b"\n") == 1:
            lines = [line[: middle - 1] + b"\n", line[middle:]]
            if all(map(intact, lines)):
                return lines
    return None


def _joined(content: bytes, begin: int, middle: int, end: int) -> list[bytes] | None:
    """The line that stands before and behind a line feed that it never had."""
    for bit in range(8):
        line = b"%b%c%b" % (content[begin : middle - 1], 0x0A ^ 1 << bit, content[middle:end])
        if intact(line):
            return [line]
    return None


def _changed_bit(difference: int, size: int) -> tuple[int, int] | None:
    """The byte and the bit of it whose change makes this difference between the sums of `size` bytes."""
    for at in range(size - 1, -1, -1):
        bit = _BITS.get(difference)
        if bit is not None:
            return at, bit
        number = _BY_TOP[difference >> 24]
        difference = (difference ^ _TABLE[number]) << 8 | number
    return None


def _distance(one: bytes, other: bytes) -> int:
    """How many bits differ."""
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()


def _said(line: bytes) -> Parsed | None:
    try:
        return parse(line)
    except JournalDamaged:
        return None
