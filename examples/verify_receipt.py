"""Verify a receipt without meowcat, by the formats in docs/discussion/audit.md.

python examples/verify_receipt.py RECEIPT VKEY    prints what the receipt proves, or why it proves nothing
"""

import base64
import hashlib
import json
import struct
import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

HEAD = struct.Struct(">BqqqqI?III")


def need(fact: object, otherwise: str) -> None:
    if not fact:
        raise ValueError(otherwise)


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def decoded(text: str) -> bytes:
    data = base64.b64decode(text, validate=True)
    need(base64.b64encode(data).decode() == text, "base64 with loose bits")
    return data


def signed_head(note: str, vkey: str) -> tuple[int, bytes]:
    """Size and root of the checkpoint, once the key's signature is verified."""
    name, key_id, material = vkey.strip().split("+", 2)
    public = decoded(material)
    need(public[:1] == b"\1" and sha256(name.encode(), b"\n", public)[:4].hex() == key_id, "no Ed25519 vkey")
    text, _, lines = note.rpartition("\n\n")
    need(lines.endswith("\n") and not any(char < " " for char in note if char != "\n"), "no signed note")
    signatures = [line.split(" ") for line in lines[:-1].split("\n")]
    need(all(each[0] == "\u2014" and all(each) for each in signatures), "no signed note")
    blobs = [decoded(each[2]) for each in signatures if each[1] == name]
    mine = [each for each in blobs if each[:4].hex() == key_id]
    need(mine, f"not signed by {name} ({key_id})")
    for each in mine:
        Ed25519PublicKey.from_public_bytes(public[1:]).verify(each[4:], f"{text}\n".encode())
    origin, size, root, *_ = text.split("\n")
    need(origin == name and str(int(size)) == size, f"a checkpoint of {origin!r}, and not of {name!r}")
    return int(size), decoded(root)


def verified(receipt: str, vkey: str) -> dict[str, object]:
    """What the receipt proves; raises ValueError or InvalidSignature where it proves nothing."""
    head, extra, index, *path = receipt.partition("\n\n")[0].split("\n")
    need((head, extra[:6], index[:6]) == ("c2sp.org/tlog-proof@v1", "extra ", "index "), "no receipt")
    leaf, at = decoded(extra[6:]), int(index[6:])
    size, root = signed_head(receipt.partition("\n\n")[2], vkey)
    need(str(at) == index[6:] and 0 <= at < size, f"no record {at} among {size}")
    node, number, last = sha256(b"\0", leaf), at, size - 1
    for beside in map(decoded, path):  # RFC 9162 2.1.3.2
        need(last > 0, "more nodes than the tree has levels")
        left = number & 1 or number == last
        node = sha256(b"\1", beside, node) if left else sha256(b"\1", node, beside)
        while left and number and not number & 1:
            number, last = number >> 1, last >> 1
        number, last = number >> 1, last >> 1
    need((last, node) == (0, root), "the record is not the one that was signed")
    form, position, _, _, time, _, _, *sizes = HEAD.unpack_from(leaf)
    task, kind, body = (leaf[HEAD.size + sum(sizes[:each]) :][: sizes[each]] for each in range(3))
    whole = HEAD.size + sum(sizes)
    need((form, position, kind, len(leaf)) == (1, at + 1, b"completed", whole), "no completion")
    return {"task": task.decode(), "completed": time, **json.loads(body)}


if __name__ == "__main__":
    try:
        print(json.dumps(verified(Path(sys.argv[1]).read_bytes().decode(), sys.argv[2]), indent=2))
    except (ValueError, struct.error, InvalidSignature) as error:
        sys.exit(f"NOT PROVED: {error or 'the signature is wrong'}")
