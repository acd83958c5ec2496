"""Receipts: that a transfer was completed, as a proof file (c2sp.org/tlog-proof) that needs nothing else.

The leaf is the canonical form of the task's `completed` record, and stands in the file as its `extra` data.
On its own `extra` proves nothing; it counts because the proof leads from its hash to the checkpoint's root.
"""

import re
from dataclasses import dataclass

from msgspec import Struct

from meowcat.audit.checkpoints import MAX_SIZE, Checkpoint, verify_checkpoint
from meowcat.audit.merkle import HASH_SIZE, leaf_hash, verify_inclusion
from meowcat.audit.notes import MAX_NOTE, Keys, decode64, encode64
from meowcat.core.errors import AuditError, JournalDamaged, UnknownEvent
from meowcat.core.events import Completed
from meowcat.core.kinds import kind_of
from meowcat.core.transfers import Direction
from meowcat.core.values import Checksum, Position, TaskId
from meowcat.journal.chain import canonical, parse
from meowcat.journal.codec import decode
from meowcat.journal.contract import Record

HEAD = "c2sp.org/tlog-proof@v1"

_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})", re.ASCII)
_MAX_HASHES = 63
"""Nodes on the way up in a tree of 2**63 leaves."""


class Receipt(Struct, frozen=True, kw_only=True):
    """What a receipt proves: that the log with this origin had this record when the checkpoint was signed."""

    task: TaskId
    direction: Direction
    url: str | None
    """As it was stored: without secrets. None of a record that an early meowcat wrote; so are `created` and
    `client_file_sign`."""
    path: str
    """The target of a download, or the source of an upload, on the machine that ran it; of an upload that
    read no file, the name of what it read."""
    size: int
    """Bytes."""
    digests: tuple[Checksum, ...]
    """Of the whole content, as it was read on that machine; without any, the receipt says nothing about it
    but the size."""
    remote: dict[str, str]
    """What the server said of an uploaded object: `etag`, `version_id` …"""
    created: int | None
    """When the task was recorded: milliseconds since 1970 UTC, by the clock of that machine."""
    completed: int
    """When it was recorded that the file stood at its target, or the object at its URL, likewise."""
    client_file_sign: str | None
    """The application's own text."""
    origin: str
    """The log, by the name that its checkpoints have."""
    position: Position
    """The record's place in the journal."""
    checkpoint: Checkpoint


@dataclass(frozen=True)
class Proof:
    """A proof file, taken apart and not verified."""

    leaf: bytes
    index: int
    hashes: tuple[bytes, ...]
    checkpoint: str

    def __str__(self) -> str:
        lines = [HEAD, f"extra {encode64(self.leaf)}", f"index {self.index}", *map(encode64, self.hashes)]
        return "\n".join(lines) + f"\n\n{self.checkpoint}"


def parse_proof(text: str) -> Proof:
    """Take a proof file apart, strictly.

    Raises:
        AuditError: it is none, or one without the record that it proves.

    """
    if not isinstance(text, str):
        raise AuditError(f"no receipt: expected its text, got {kind_of(text)}")
    if len(text) > 4 * MAX_NOTE:
        raise AuditError(f"no receipt: a file of {len(text)} characters; expected at most {4 * MAX_NOTE}")
    head, empty, checkpoint = text.partition("\n\n")
    first, *lines = head.split("\n")
    if first != HEAD or not empty:
        raise AuditError(f"no receipt: expected a file whose first line is {HEAD!r}")
    if not lines or not lines[0].startswith("extra "):
        raise AuditError("no receipt of a transfer: the record that it proves is missing ('extra')")
    index = _INDEX.fullmatch(lines[1]) if len(lines) > 1 else None
    if index is None or int(index[1]) > MAX_SIZE:
        raise AuditError("no receipt: expected 'index' and a decimal number in the third line")
    hashes = tuple(decode64(line, "a node of the receipt's proof") for line in lines[2:])
    if len(hashes) > _MAX_HASHES or any(len(each) != HASH_SIZE for each in hashes):
        raise AuditError(f"no receipt: expected at most {_MAX_HASHES} nodes of {HASH_SIZE} bytes")
    leaf = decode64(lines[0].removeprefix("extra "), "the receipt's record")
    return Proof(leaf, int(index[1]), hashes, checkpoint)


def verify_receipt(text: str, vkey: Keys, *, origin: str | None = None) -> Receipt:
    """Verify a receipt offline: nothing is needed but its text and the log's public key.

    Args:
        text: the proof file.
        vkey: the verifier key, or several where keys were rotated: one of them must have signed.
        origin: the log that it must be of; by default the one that has the name of the key that signed.

    Raises:
        AuditError: not proved; the message says which check failed.

    """
    proof = parse_proof(text)
    checkpoint = verify_checkpoint(proof.checkpoint, vkey, origin=origin)
    if not verify_inclusion(
        proof.index, checkpoint.size, leaf_hash(proof.leaf), proof.hashes, checkpoint.root
    ):
        raise AuditError(
            f"the record is not number {proof.index} of the {checkpoint.size} that {checkpoint.origin} signed"
        )
    return _receipt(proof, checkpoint)


def _receipt(proof: Proof, checkpoint: Checkpoint) -> Receipt:
    """What a proven leaf says."""
    try:
        record = parse(proof.leaf)
        event = decode(record.type, record.version, record.body)
    except (ValueError, JournalDamaged, UnknownEvent) as error:
        raise AuditError(f"the receipt's record can't be read: {error}") from error
    if not isinstance(event, Completed) or record.position != proof.index + 1:
        raise AuditError(
            f"the receipt's record is {record.type!r} at position {record.position}; "
            f"expected 'completed' at {proof.index + 1}"
        )
    return Receipt(
        task=record.task,
        direction=event.direction,
        url=event.url,
        path=event.path,
        size=event.size,
        digests=event.digests,
        remote=event.result,
        created=event.created,
        completed=record.at,
        client_file_sign=event.client_file_sign,
        origin=checkpoint.origin,
        position=record.position,
        checkpoint=checkpoint,
    )


def leaf_of(record: Record) -> bytes:
    """A record's leaf: its canonical bytes, whatever adapter holds it. Entry i is the record at i + 1."""
    return canonical(record, record.epoch, record.position)
