"""The ids of blocks, which carry all that an upload has to know of a block that stands at Azure.

Uncommitted blocks belong to the blob and not to an upload, and a list of them says their ids and sizes alone.
So an id says whose block it is, which one, and of what content: 8 bytes of the task, 4 of the session, 4 of
the index and the BLAKE3 of the block. All ids of one blob must have one length.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable

from msgspec import Struct

from meowcat.core.sessions import Held, Receipt

__all__ = ["ID_SIZE", "Block", "block_id", "held_of", "nonce_of", "owner_of", "parse"]

_TASK, _SESSION, _INDEX, _DIGEST = 8, 4, 4, 32
NONCE = _TASK + _SESSION
ID_SIZE = NONCE + _INDEX + _DIGEST
"""Bytes before base64; Azure takes 64."""


class Block(Struct, frozen=True):
    """An uncommitted block of an upload."""

    nonce: str
    """Of its session, in hexadecimal."""
    index: int
    digest: str
    """BLAKE3, in hexadecimal."""
    size: int
    """Bytes."""
    id: str


def owner_of(task: str) -> str:
    """What the nonces of all sessions of a task begin with."""
    return hashlib.sha256(task.encode()).hexdigest()[: 2 * _TASK]


def nonce_of(task: str, mark: str) -> str:
    """The nonce of one session of a task, in hexadecimal."""
    return owner_of(task) + hashlib.sha256(mark.encode()).hexdigest()[: 2 * _SESSION]


def block_id(nonce: str, index: int, digest: str) -> str:
    """The id of a block, in base64.

    Args:
        nonce: of the session.
        index: from 0.
        digest: BLAKE3 of its content, in hexadecimal.
    """
    raw = bytes.fromhex(nonce) + index.to_bytes(_INDEX, "big") + bytes.fromhex(digest)
    return base64.b64encode(raw).decode()


def parse(text: str, size: int) -> Block | None:
    """The block of an id; None where no upload of meowcat has made it."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(raw) != ID_SIZE:
        return None
    nonce, index, digest = raw[:NONCE], raw[NONCE : NONCE + _INDEX], raw[NONCE + _INDEX :]
    return Block(nonce.hex(), int.from_bytes(index, "big"), digest.hex(), size, text)


def held_of(blocks: Iterable[Block], nonce: str) -> dict[int, Held]:
    """The parts of a session, by index. Of an index with blocks of two contents nobody can say which one
    counts: neither does, and the part is sent once more."""
    found: dict[int, Held] = {}
    doubtful: set[int] = set()
    for block in blocks:
        if block.nonce == nonce:
            doubtful |= {block.index} & found.keys()
            receipt = Receipt(text=block.id, checksum=f"blake3:{block.digest}")
            found[block.index] = Held(size=block.size, receipt=receipt)
    return {index: held for index, held in found.items() if index not in doubtful}
