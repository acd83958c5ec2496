"""Records as lines of text: the form of the JSONL journal, and of every export.

A line is one JSON object in UTF-8 that ends in a CRC32C of all bytes before it:

    {"position":1,"task":"01J…","seq":1,"epoch":1,"open":true,"at":1700000000000,"type":"created","version":1,
     "body":{…},"chain":"8a1f…","crc":"1c2d3e4f"}

(on one line). A reader checks the CRC over the raw bytes first and parses only then; nothing is ever
canonicalised. Lines of five kinds are told apart by their first key: `segment`, `opening`, `position` (a
record), `cursor` and `commit`. `docs/journal-format.md` is the norm.
"""

from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import NewType

import google_crc32c
import msgspec
from msgspec import Raw, Struct

from meowcat.core.errors import JournalDamaged
from meowcat.core.values import Position, TaskId
from meowcat.journal.contract import FORMAT, Epoch, Owner, Record, Sync

Line = NewType("Line", bytes)
"""With its CRC and its line feed."""

_CRC = b',"crc":"%08x"}\n'
"""Ends every line."""

CRC_LENGTH = len(_CRC % 0)
"""Bytes of that."""


class Segment(Struct, frozen=True, omit_defaults=True):
    """The first line of a file: what it is, and what it follows on."""

    format: int
    journal: str
    """The journal's id: 32 hexadecimal digits, chosen at its creation."""
    number: int
    """1, 2, 3 …"""
    first: int
    """The position of the first record in it, or of the first that will be."""
    epoch: int
    chain: str
    """The chain's value before `first`, hexadecimal."""
    previous: str
    """SHA-256 of the whole file before it, hexadecimal; zeros in the first."""
    ends: bool = False
    """Whether the file ends with a commit of no lines, to tell one that was broken off: an export."""


class Opening(Struct, frozen=True):
    """A new owner: from here on records have this epoch."""

    epoch: int
    at: int
    """Milliseconds since 1970 UTC."""
    owner: Owner
    sync: Sync


class Cursor(Struct, frozen=True):
    """How far a named reader has come; a position of null forgets it."""

    name: str
    position: int | None


class Commit(Struct, frozen=True):
    """The end of a batch: what stands since the commit before it is stored together, or not at all."""

    lines: int
    """Of the batch, without this one."""
    last: int
    """The position of the last record of the journal so far: they are numbered without gaps."""
    chain: str
    """The chain's value after it, hexadecimal."""


Parsed = Segment | Opening | Cursor | Commit | Record

_KINDS: dict[bytes, type] = {b"segment": Segment, b"opening": Opening, b"cursor": Cursor, b"commit": Commit}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_DECODERS = {name: msgspec.json.Decoder(dict[str, kind]) for name, kind in _KINDS.items()}  # type: ignore[valid-type]  # made at run time


class _RecordLine(Struct, forbid_unknown_fields=True, gc=False):
    position: Position
    task: TaskId
    seq: int
    epoch: Epoch
    open: bool
    at: int
    type: str
    version: int
    chain: str
    crc: str
    body: Raw | msgspec.UnsetType = msgspec.UNSET
    base64: bytes | msgspec.UnsetType = msgspec.UNSET


class _Written(Struct, gc=False):
    """What is written of a record, in this order; a body or its base64."""

    position: int
    task: str
    seq: int
    epoch: int
    open: bool
    at: int
    type: str
    version: int
    body: Raw | msgspec.UnsetType
    base64: bytes | msgspec.UnsetType
    chain: str


_decode_record = msgspec.json.Decoder(_RecordLine).decode
_encode = msgspec.json.encode
_encode_written = msgspec.json.Encoder().encode
_values_of = msgspec.json.Decoder(list[Raw]).decode
_first_of = itemgetter(slice(1))


def seal_line(body: bytes) -> Line:
    """The line of a JSON object that has at least one field, in one line."""
    head = body[:-1]
    return Line(head + _CRC % google_crc32c.value(head))


def seal_parts(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The line of a JSON object that comes in parts, without the brace that closes it."""
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
        yield part
    yield _CRC % crc


def record_lines(records: Sequence[Record]) -> list[Line]:
    """The lines of records. A body stands in its line byte for byte where it is a JSON object without control
    characters, as every event is; anything else stands as `base64`.

    Raises:
        TypeError: a field of another type, that passes for a number or a text elsewhere.

    """
    lines = []
    for each, raw in zip(records, _standing([each.body for each in records]), strict=True):
        body, base64 = (msgspec.UNSET, each.body) if raw is None else (raw, msgspec.UNSET)
        written = _Written(
            each.position,
            each.task,
            each.seq,
            each.epoch,
            bool(each.open),
            each.at,
            each.type,
            each.version,
            body,
            base64,
            each.chain.hex(),
        )
        lines.append(seal_line(_encode_written(written)))
    return lines


def _standing(bodies: list[bytes]) -> Sequence[Raw | None]:
    """Of each body the JSON object that it is, as it may stand in a line, or None."""
    together = _objects(bodies)
    if together is not None:
        return together
    return [None if (alone := _objects([each])) is None else alone[0] for each in bodies]


def _objects(bodies: list[bytes]) -> list[Raw] | None:
    """All of `bodies`, if each may stand in a line. They are looked at together, in half of the time: as a
    list they must be JSON, and its values be what the bodies are."""
    text = b"[%b]" % b",".join(bodies)
    if b"\n" in text or b"\r" in text or b"\t" in text or set(map(_first_of, bodies)) != {b"{"}:
        return None
    try:
        # The form alone: no value is made, and other control characters are none of JSON's.
        objects = _values_of(text)
        if not text.isascii():
            text.decode()
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None
    return objects if list(map(bytes, objects)) == bodies else None


def control_line(value: Segment | Opening | Cursor | Commit) -> Line:
    """The line of anything but a record."""
    return seal_line(b'{"%b":%b}' % (_NAMES[type(value)], _encode(value)))


def intact(line: bytes) -> bool:
    """Whether the bytes of a line are those that were written."""
    return line.endswith(b',"crc":"%08x"}\n' % google_crc32c.value(line[:-CRC_LENGTH]))


def parse(line: bytes) -> Parsed:
    """What a line says.

    Raises:
        JournalDamaged: its bytes are not those that were written, or no line of this format.

    """
    if not intact(line):
        raise JournalDamaged("wrong CRC")
    try:
        if line.startswith(b'{"position":'):
            return _record(line)
        name = line[2 : line.index(b'"', 2)]
        value: Parsed = _DECODERS[name].decode(b"%b}" % line[:-CRC_LENGTH])[name.decode()]
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, ValueError) as error:
        raise JournalDamaged(f"a line that is none of format {FORMAT}: {error}") from error
    return value


def _record(line: bytes) -> Record:
    found = _decode_record(line)
    if isinstance(found.body, Raw) and found.base64 is msgspec.UNSET:
        body = bytes(found.body)
    elif isinstance(found.base64, bytes) and found.body is msgspec.UNSET:
        body = found.base64
    else:
        raise ValueError("a record has either a body or its base64")
    return Record(
        found.position,
        found.task,
        found.seq,
        found.epoch,
        found.open,
        found.type,
        found.version,
        found.at,
        body,
        bytes.fromhex(found.chain),
    )
