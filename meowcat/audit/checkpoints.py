"""Checkpoints: the root of a log's tree at a size, as a signed note (c2sp.org/tlog-checkpoint)."""

import re

from msgspec import Struct

from meowcat.audit.merkle import EMPTY, HASH_SIZE
from meowcat.audit.notes import DASH, Keys, Note, decode64, encode64, keys_of, parse_note
from meowcat.core.errors import AuditError

MAX_SIZE = (1 << 63) - 1
"""Leaves that a tree may have: a journal's positions end there."""

_LINES = 3


class Checkpoint(Struct, frozen=True, kw_only=True):
    """The head of a log's tree. The first `size` records of the journal have this root, and no others."""

    origin: str
    """Which log it is of."""
    size: int
    """Records that it covers: those at positions 1 to `size`."""
    root: bytes
    """32 bytes."""

    def __str__(self) -> str:
        return f"{self.origin}\n{self.size}\n{encode64(self.root)}\n"


def parse_checkpoint(text: str) -> tuple[Checkpoint, Note]:
    """Take a signed checkpoint apart; its signatures are not verified.

    Raises:
        AuditError: it is none; the message says why.

    """
    note = parse_note(text)
    lines = note.text.split("\n")[:-1]
    if len(lines) < _LINES or not all(lines):
        raise AuditError("no checkpoint: expected three lines that are not empty: origin, size, root")
    origin, size, root = lines[:_LINES]
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", size, re.ASCII) or int(size) > MAX_SIZE:
        raise AuditError(f"no checkpoint: size {size[:40]!r}; expected a decimal number")
    digest = decode64(root, "the checkpoint's root")
    if len(digest) != HASH_SIZE:
        raise AuditError(f"no checkpoint: a root of {len(digest)} bytes; expected {HASH_SIZE}")
    if size == "0" and digest != EMPTY:
        raise AuditError("no checkpoint: the root of an empty tree is another one")
    return Checkpoint(origin=origin, size=int(size), root=digest), note


def verify_checkpoint(text: str, vkey: Keys, *, origin: str | None = None) -> Checkpoint:
    """Verify a checkpoint offline, with a public key alone.

    Args:
        text: the signed note.
        vkey: the verifier key, or several where keys were rotated: one of them must have signed.
        origin: the log that it must be of; by default the one that has the name of the key that signed.

    Raises:
        AuditError: not proved; the message says which check failed.

    """
    checkpoint, note = parse_checkpoint(text)
    names = {key.name for key in note.signed_by(keys_of(vkey))}
    wanted = names if origin is None else {origin}
    if checkpoint.origin not in wanted:
        raise AuditError(
            f"the checkpoint is of {checkpoint.origin!r}; expected {' or '.join(map(repr, sorted(wanted)))}: "
            "name the origin if the log has another one than its key"
        )
    return checkpoint


def split_checkpoints(text: str) -> list[str]:
    """The checkpoints in a file that has any number of them: each ends with its last line of a signature."""
    texts: list[list[str]] = [[]]
    for line in text.split("\n"):
        lines = texts[-1]
        if lines and lines[-1].startswith(DASH) and not line.startswith(DASH):
            texts.append([])
        if line or texts[-1]:
            texts[-1].append(line)
    return ["\n".join(lines) + "\n" for lines in texts if lines]
