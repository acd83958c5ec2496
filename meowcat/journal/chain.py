"""What proves that stored records are those that were appended: a checksum and a hash chain.

Both go over one unambiguous form of a record: a head of fixed size, with the lengths of the three texts that
follow it. The chain links each record to all before it (format version 1); signatures can be laid over it
later. The CRC stands beside each record so that damage can be pinned to it without reading the others.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from itertools import count

import google_crc32c

from meowcat.core.errors import JournalRejected
from meowcat.core.values import Position, TaskId
from meowcat.journal.contract import FORMAT, Entry, Epoch, Record

_HEAD = struct.Struct(">BqqqqI?III")
_pack = _HEAD.pack
_pack_mark = struct.Struct(">Iq").pack


def canonical(entry: Entry | Record, epoch: Epoch, position: Position) -> bytes:
    """The bytes that are hashed: format, position, epoch, seq, at, version, open, lengths, task, type, body.

    Raises:
        ValueError, TypeError, AttributeError, struct.error: a field that no record can have; see `UNFIT`.

    """
    task, kind, body = entry.task.encode(), entry.type.encode(), entry.body
    head = _pack(
        FORMAT,
        position,
        epoch,
        entry.seq,
        entry.at,
        entry.version,
        entry.open,
        len(task),
        len(kind),
        len(body),
    )
    return b"".join((head, task, kind, body))


def parse(form: bytes) -> Record:
    """The record whose canonical bytes these are; without its chain value, which they do not have.

    Raises:
        ValueError: they are not the canonical bytes of any record of this format.

    """
    try:
        format_, position, epoch, seq, at, version, open_, *lengths = _HEAD.unpack_from(form)
        texts, start = [], _HEAD.size
        for length in lengths:
            texts.append(form[start : start + length])
            start += length
        task, kind = TaskId(texts[0].decode()), texts[1].decode()
        record = Record(Position(position), task, seq, Epoch(epoch), open_, kind, version, at, texts[2], b"")
    except struct.error as error:
        raise ValueError(f"not the canonical bytes of a record: {error}") from error
    # A flag that is neither 0 nor 1, a length beyond the end, bytes left over: none of them comes back.
    if format_ != FORMAT or canonical(record, record.epoch, record.position) != form:
        raise ValueError(f"not the canonical bytes of a record of format {FORMAT}")
    return record


UNFIT = (ValueError, TypeError, AttributeError, struct.error)
"""What `canonical` raises for fields of a wrong type or range, as a damaged file may hold them."""


def link(previous: bytes, entry: Entry | Record, epoch: Epoch, position: Position) -> bytes:
    """The chain's value after `entry`: SHA-256 over the value before it and the record; 32 bytes."""
    return hashlib.sha256(previous + canonical(entry, epoch, position)).digest()


def checksum(form: bytes, chain: bytes) -> int:
    """CRC32C (RFC 3720 B.4) over a record's canonical bytes and its chain value."""
    found: int = google_crc32c.value(form + chain)
    return found


def crc(entry: Entry | Record, epoch: Epoch, position: Position, chain: bytes) -> int:
    """The checksum of a record and its chain value."""
    return checksum(canonical(entry, epoch, position), chain)


def seal(previous: bytes, entry: Entry, epoch: Epoch, position: Position) -> tuple[bytes, int]:
    """`link` and `crc` of a new record, at the price of one."""
    form = canonical(entry, epoch, position)
    chain = hashlib.sha256(previous + form).digest()
    return chain, checksum(form, chain)


def sequel(
    entries: Iterable[Entry], last: Position, epoch: Epoch, chain: bytes, max_record: int
) -> Iterator[tuple[Record, bytes]]:
    """The records that `entries` become in a journal that ends with `last`, each with its canonical bytes.

    Args:
        entries: to be appended.
        last: the position of the last record there; 0 in an empty journal.
        epoch: of the ownership under which they are appended.
        chain: the chain value of the last record, or GENESIS.
        max_record: bytes that a body may have.

    Raises:
        JournalRejected: one of them is no record.

    """
    for entry, position in zip(entries, map(Position, count(last + 1)), strict=False):
        body = entry.body
        try:
            form = canonical(entry, epoch, position)
        except UNFIT as error:
            raise JournalRejected(f"task {entry.task!r}: no record can hold this: {error}") from error
        if len(body) > max_record:
            raise JournalRejected(f"a record of {len(body)} bytes; at most {max_record} fit")
        chain = hashlib.sha256(chain + form).digest()
        record = Record(
            position,
            entry.task,
            entry.seq,
            epoch,
            entry.open,
            entry.type,
            entry.version,
            entry.at,
            body,
            chain,
        )
        yield record, form


def intact(record: Record, checksum: int) -> bool:
    """Whether the record is the one that `checksum` was computed for."""
    try:
        return crc(record, record.epoch, record.position, record.chain) == checksum
    except UNFIT:  # a damaged column can come back as another type
        return False


def mark(name: str, number: int, body: bytes = b"") -> int:
    """CRC32C over a name, a number and some bytes: for what stands beside the records, such as cursors.

    Raises:
        ValueError, TypeError, AttributeError, struct.error: other types, or beyond 64 bits; see `UNFIT`.

    """
    text = name.encode()
    checksum: int = google_crc32c.value(_pack_mark(len(text), number) + text + body)
    return checksum


def require_position(position: object) -> None:
    """See that this is a position that a cursor or a snapshot can have.

    Raises:
        JournalRejected: no whole number, or none from 0 to 2⁶³-1.

    """
    if type(position) is not int or not 0 <= position < 1 << 63:
        raise JournalRejected(f"position {position!r}: expected a whole number from 0 to 2⁶³-1")


def require_sequel(
    records: Iterable[Record], last: Position, epoch: Epoch, chain: bytes, max_record: int
) -> None:
    """See that `records` follow on a journal that ends with `last`: what a restore asks of them.

    Args:
        records: to be restored.
        last: the position of the last record there; 0 in an empty journal.
        epoch: of that record, or 0.
        chain: its chain value, or GENESIS.
        max_record: bytes that a body may have.

    Raises:
        JournalRejected: the first one that does not follow, and why.

    """
    for record in records:
        place = f"record {record.position} can't be restored"
        if record.position != last + 1:
            raise JournalRejected(f"{place}: {last + 1} comes next")
        if record.epoch < epoch:
            raise JournalRejected(f"{place}: its epoch is {record.epoch}, behind one of epoch {epoch}")
        if len(record.body) > max_record:
            raise JournalRejected(f"{place}: a body of {len(record.body)} bytes; at most {max_record} fit")
        try:
            follows = link(chain, record, record.epoch, record.position) == record.chain
        except UNFIT as error:
            raise JournalRejected(f"{place}: no record can hold this: {error}") from error
        if not follows:
            raise JournalRejected(f"{place}: its chain value does not follow on what is stored")
        last, epoch, chain = record.position, record.epoch, record.chain
