"""Signed notes and verifier keys (c2sp.org/signed-note). Pure, but for the arithmetic of Ed25519.

A note is a text that ends in a newline, an empty line, and a line for each signature:
`— <key name> base64(key id || signature)`, with U+2014. A signature covers the text with its last newline.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from meowcat.core.errors import AuditError

ED25519 = 0x01
"""The signature type of plain Ed25519: the only one that is made and verified here."""

SIGNATURE_SIZE = 64
KEY_SIZE = 32

MAX_SIGNATURES = 64
"""Verifiers must take at least 16, and should have a limit."""
MAX_NOTE = 1 << 20
"""Bytes of a note that is read at all."""

DASH = "\N{EM DASH} "
_ID_SIZE = 4


def check_name(name: str) -> None:
    """See that `name` can be a key's: not empty, without Unicode spaces, control characters and `+`.

    Raises:
        AuditError: it can't.

    """
    odd = not isinstance(name, str) or not name or "+" in name
    if odd or any(char.isspace() or char < " " for char in name) or not _encodes(name):
        raise AuditError(
            f"key name {name!r}: expected a name without spaces and '+', such as example.com/my-log"
        )


@dataclass(frozen=True)
class VerifierKey:
    """A public key with the name that it signs under; `str()` is its text, the vkey."""

    name: str
    public: bytes
    """32 bytes, as RFC 8032 encodes them."""

    @property
    def id(self) -> bytes:
        """SHA-256(name || 0x0A || type || public key)[:4]: says which key it may be, and proves nothing."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([ED25519]) + self.public).digest()[:_ID_SIZE]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{encode64(bytes([ED25519]) + self.public)}"

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether `signature` is the key's own over `message`."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


def parse_vkey(text: str) -> VerifierKey:
    """Read `<name>+<8 hexadecimal digits>+<base64(type || public key)>`.

    Raises:
        AuditError: it is no verifier key, or one of another type than Ed25519.

    """
    text = text.strip()
    name, _, rest = text.partition("+")
    digits, plus, encoded = rest.partition("+")
    if not plus:
        raise AuditError(f"vkey {text[:80]!r}: expected NAME+ID+KEY, as 'meowcat audit keygen' prints it")
    check_name(name)
    material = decode64(encoded, f"the key of vkey {name}")
    if material[:1] != bytes([ED25519]):
        raise AuditError(f"vkey {name}: signature type {material[:1].hex()}: expected 01, Ed25519")
    if len(material) != 1 + KEY_SIZE:
        raise AuditError(f"vkey {name}: a public key of {len(material) - 1} bytes; expected {KEY_SIZE}")
    key = VerifierKey(name, material[1:])
    if digits != key.id.hex():
        raise AuditError(f"vkey {name}: its id is {digits!r}, but its key has {key.id.hex()}: mistyped?")
    return key


Keys = str | VerifierKey | Iterable[str | VerifierKey]
"""One verifier key or several, as text or parsed."""


def keys_of(given: Keys) -> tuple[VerifierKey, ...]:
    """The verifier keys in what a caller hands in.

    Raises:
        AuditError: none, or something that is none.

    """
    each = [given] if isinstance(given, str | VerifierKey) else list(given)
    keys = tuple(key if isinstance(key, VerifierKey) else parse_vkey(key) for key in each)
    if not keys:
        raise AuditError("no verifier key was given: nothing can be verified without one")
    return keys


@dataclass(frozen=True)
class Signature:
    name: str
    id: bytes
    """4 bytes."""
    blob: bytes


@dataclass(frozen=True)
class Note:
    """A note whose signatures nobody has verified yet."""

    text: str
    signatures: tuple[Signature, ...]

    def signed_by(self, keys: Iterable[VerifierKey]) -> tuple[VerifierKey, ...]:
        """Those of `keys` that signed it. Signatures of other keys are ignored.

        Raises:
            AuditError: a signature under the name and id of one of the keys is wrong, or there is none.

        """
        known = {(key.name, key.id): key for key in keys}
        signers = []
        for signature in self.signatures:
            key = known.get((signature.name, signature.id))
            if key is None:
                continue
            if not key.verifies(self.text.encode(), signature.blob):
                raise AuditError(f"the signature of {key.name} ({key.id.hex()}) is wrong")
            signers.append(key)
        if not signers:
            by = ", ".join(f"{each.name} ({each.id.hex()})" for each in self.signatures)
            wanted = ", ".join(f"{name} ({id_.hex()})" for name, id_ in known)
            raise AuditError(f"signed by {by}, and not by {wanted}")
        return tuple(dict.fromkeys(signers))


def parse_note(text: str) -> Note:
    """Take a note apart, strictly; nothing is verified.

    Raises:
        AuditError: it is no signed note; the message says why.

    """
    if not _encodes(text) or len(text.encode()) > MAX_NOTE:
        raise AuditError(f"no signed note: it is no Unicode text of at most {MAX_NOTE} bytes")
    if any(char < " " and char != "\n" for char in text):
        raise AuditError("no signed note: it has control characters")
    body, empty, lines = text.rpartition("\n\n")
    if not empty or not lines.endswith("\n"):
        raise AuditError("no signed note: expected a text, an empty line, and lines of signatures")
    signatures = lines[:-1].split("\n")
    if len(signatures) > MAX_SIGNATURES:
        raise AuditError(f"a note with {len(signatures)} signatures: at most {MAX_SIGNATURES} are read")
    return Note(body + "\n", tuple(map(_signature, signatures)))


def _signature(line: str) -> Signature:
    name, space, encoded = line.removeprefix(DASH).partition(" ")
    if not line.startswith(DASH) or not space:
        raise AuditError(f"no signature line: {line[:80]!r}; expected '— NAME BASE64'")
    check_name(name)
    blob = decode64(encoded, f"the signature of {name}")
    if len(blob) <= _ID_SIZE:
        raise AuditError(f"the signature of {name} has {len(blob)} bytes; expected more than {_ID_SIZE}")
    return Signature(name, blob[:_ID_SIZE], blob[_ID_SIZE:])


def format_note(text: str, signatures: Iterable[tuple[VerifierKey, bytes]]) -> str:
    """The note that has these signatures; `text` ends in a newline."""
    lines = [f"{DASH}{key.name} {encode64(key.id + signature)}\n" for key, signature in signatures]
    return f"{text}\n{''.join(lines)}"


def encode64(data: bytes) -> str:
    """Standard base64 (RFC 4648 section 4), with padding."""
    return base64.b64encode(data).decode()


def decode64(text: str, what: str) -> bytes:
    """The bytes of standard base64; `what` names them in the error.

    Raises:
        AuditError: anything else, or a form that `encode64` would not give.

    """
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise AuditError(f"{what} is no standard base64") from error
    if encode64(data) != text:  # bits that are thrown away would make two texts of one value
        raise AuditError(f"{what} is no canonical base64")
    return data


def _encodes(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)
