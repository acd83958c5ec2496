"""Keys that sign: in a file that nobody else can read, or in the hands of the application."""

import os
import stat
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meowcat.audit.notes import (
    ED25519,
    KEY_SIZE,
    SIGNATURE_SIZE,
    VerifierKey,
    check_name,
    decode64,
    encode64,
    format_note,
    parse_vkey,
)
from meowcat.core.errors import AuditError

_PREFIX = "PRIVATE+KEY+"
_FIELDS = 3
_MODE = 0o600


@runtime_checkable
class Signer(Protocol):
    """What signs checkpoints: a `Key`, or an object of the application's own (a key store, a smart card)."""

    @property
    def vkey(self) -> str:
        """The verifier key, as text: the name, and an Ed25519 public key."""

    def sign(self, message: bytes) -> bytes:
        """The Ed25519 signature over `message` (RFC 8032): 64 bytes. Called in a worker thread; may block."""


class Key:
    """An Ed25519 key in memory. Its repr shows the public part only."""

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        """Take a private key of the package `cryptography` to sign with under `name`.

        Raises:
            AuditError: a name that no key can have.

        """
        check_name(name)
        self._private = private
        self._public = VerifierKey(name, private.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"Key({self.vkey!r})"

    @classmethod
    def generate(cls, name: str) -> Self:
        """Make a new key. The name says whose log it signs: a URL without a scheme, such as
        `example.com/my-log`.
        """
        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read the key that `save` wrote.

        Raises:
            AuditError: there is none, it can't be read, or others than its owner may read it.

        """
        where = Path(path)
        try:
            with where.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                text = file.read(4096).decode()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no key file"
            raise AuditError(f"key {where}: {reason}; 'meowcat audit keygen' makes one") from error
        if stat.S_IMODE(mode) & ~_MODE:
            raise AuditError(
                f"key {where}: mode {stat.S_IMODE(mode):04o} lets others than its owner at it; "
                f"expected 0600: chmod 600 {where}, and if anybody may have read it, make a new key"
            )
        return cls._parse(text.strip(), where)

    @classmethod
    def _parse(cls, text: str, where: Path) -> Self:
        """From `PRIVATE+KEY+<name>+<id>+<base64(type || seed)>`, as golang.org/x/mod/sumdb/note has it. What
        stands in the file is never shown.
        """
        fields = text.removeprefix(_PREFIX).split("+", _FIELDS - 1)
        if not text.startswith(_PREFIX) or len(fields) != _FIELDS:
            raise AuditError(f"key {where}: expected a file that 'meowcat audit keygen' made")
        name, digits, encoded = fields
        material = decode64(encoded, f"what key {where} holds")
        if len(material) != 1 + KEY_SIZE or material[0] != ED25519:
            raise AuditError(f"key {where}: expected an Ed25519 key")
        key = cls(name, Ed25519PrivateKey.from_private_bytes(material[1:]))
        if digits != key._public.id.hex():
            raise AuditError(f"key {where}: its id does not fit its key: the file is damaged")
        return key

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the key to a new file of mode 0600, durably.

        Raises:
            AuditError: something stands there, or it can't be written.

        """
        where = Path(path)
        seed = encode64(bytes([ED25519]) + self._private.private_bytes_raw())
        text = f"{_PREFIX}{self._public.name}+{self._public.id.hex()}+{seed}\n"
        try:
            descriptor = os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
            try:
                with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123  # a descriptor, not a path
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException:  # raised again: half a key is none
                where.unlink(missing_ok=True)
                raise
        except FileExistsError as error:
            raise AuditError(f"key {where}: a file stands there; keys are never overwritten") from error
        except OSError as error:
            raise AuditError(f"key {where}: {error.strerror}") from error

    @property
    def vkey(self) -> str:
        """The verifier key to hand out: whoever has it can verify, and nobody can sign with it."""
        return str(self._public)

    def sign(self, message: bytes) -> bytes:
        """The signature over `message`: 64 bytes."""
        return self._private.sign(message)


def sign_note(text: str, signer: Signer) -> str:
    """The text as a note signed by `signer`, whose signature is verified before anybody sees it.

    Raises:
        AuditError: the signer's signature is not that of its verifier key.

    """
    key = parse_vkey(signer.vkey)
    signature = signer.sign(text.encode())
    if len(signature) != SIGNATURE_SIZE or not key.verifies(text.encode(), signature):
        raise AuditError(f"the signer gave a signature that is not one of {key}")
    return format_note(text, [(key, signature)])
