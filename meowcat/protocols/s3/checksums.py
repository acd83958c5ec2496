"""The checksums that S3 compares parts and objects with, and how it writes them.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html

A multipart object's SHA-256 is that of its parts' SHA-256s one after the other; its CRC-64/NVME is that of
its bytes, and follows from those of its parts and their sizes.
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence

from msgspec import Struct

__all__ = ["CHECKSUMS", "Names", "base64_of", "composite_sha256", "hex_of"]


class Names(Struct, frozen=True):
    """How one checksum is called."""

    header: str
    element: str
    algorithm: str
    type: str
    """What it says of a multipart object."""

    def text(self, digits: str) -> str:
        """Its value as S3 writes it."""
        return base64_of(digits)


CHECKSUMS = {
    "crc64nvme": Names("x-amz-checksum-crc64nvme", "ChecksumCRC64NVME", "CRC64NVME", "FULL_OBJECT"),
    "sha256": Names("x-amz-checksum-sha256", "ChecksumSHA256", "SHA256", "COMPOSITE"),
}


def base64_of(digits: str) -> str:
    return base64.b64encode(bytes.fromhex(digits)).decode()


def hex_of(text: str) -> str:
    """The digits of a value in base64; "" where it is none."""
    try:
        return base64.b64decode(text, validate=True).hex()
    except (binascii.Error, ValueError):
        return ""


def composite_sha256(parts: Sequence[str]) -> str:
    """What S3 gives as the SHA-256 of a multipart object: of the digests, and then their number."""
    digest = hashlib.sha256(b"".join(bytes.fromhex(digits) for digits in parts)).digest()
    return f"{base64.b64encode(digest).decode()}-{len(parts)}"
