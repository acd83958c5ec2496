"""What a server says that it has of a part, where the requests are signed by somebody else.

Nothing can be asked of it: a header that names a checksum would not be signed, and where one is, the plan
has it. But most servers tell a digest of what they got. Some do so by a header that means nothing else. An
ETag is an MD5 at S3, at OSS and at what is like them, and only looks like one where a server encrypts with a
key. So it is believed once it was the MD5 of a part: that is chance once in 2^128, and how an upload is
encrypted is one thing for all of its parts.
"""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.contract import Part
from meowcat.protocols.oss.replies import CRC64, crc64_in
from meowcat.protocols.refused import Refused
from meowcat.protocols.s3.checksums import CHECKSUMS, hex_of
from meowcat.protocols.wire import Reply

__all__ = ["PartDigests", "content_of", "md5_of", "md5s_of", "said_of"]

TRIES = 3
"""Parts whose ETag looks like an MD5 and is none, until it is taken for something else in this upload."""


class Said(NamedTuple):
    """A digest that a server tells of what it got."""

    algorithm: str
    digits: str


def said_of(reply: Reply) -> Said | None:
    """The digest that a header tells; None where there is none. An ETag does not count."""
    crc64 = crc64_in(reply.headers)
    if crc64 is not None:
        return Said(CRC64, crc64)
    for algorithm, names in CHECKSUMS.items():
        if digits := hex_of(reply.header(names.header) or ""):
            return Said(algorithm, digits)
    if digits := hex_of(reply.header("x-ms-content-crc64") or ""):
        return Said("crc64nvme", bytes.fromhex(digits)[::-1].hex())  # the low byte first
    # Of any other server it would be that of the reply's own body (RFC 1864).
    azure = reply.header("x-ms-request-id") is not None
    digits = hex_of(reply.header("content-md5") or "") if azure else ""
    return Said("md5", digits) if digits else None


def md5_of(etag: str) -> str | None:
    """The MD5 that an ETag of a part is, at S3 and OSS without an encryption of their own."""
    text = etag.strip('"').lower()
    return text if len(text) == 32 and set(text) <= set("0123456789abcdef") else None  # noqa: PLR2004  # MD5


def md5s_of(etags: Iterable[str]) -> str | None:
    """What S3 calls an object of parts with these ETags: the MD5 of their MD5s, and their number."""
    found = [md5_of(each) for each in etags]
    if None in found:
        return None
    joined = bytes.fromhex("".join(filter(None, found)))
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(found)}"


def content_of(reply: Reply) -> str | None:
    """What the ETag of an object says of its content, where it may be an MD5 or one of MD5s."""
    etag = (reply.header("etag") or "").strip('"').lower()
    likely = md5_of(etag.partition("-")[0]) is not None and not _encrypted(reply)
    return etag if likely else None


class PartDigests:
    """Compares the parts of one upload with what its server says of them."""

    def __init__(self) -> None:
        self._told = ""
        """What the server tells of each part: worth computing while the part is read for its body."""
        self._proven = False
        """Whether an ETag was the MD5 of its part."""
        self._others = 0
        """How many were not, before one was."""

    async def ahead(self, part: Part) -> None:
        """Before the part is sent. Where that is known from another one, its digest is computed here."""
        if self._told:
            await part.checksum(self._told)

    async def compare(self, part: Part, reply: Reply, name: str) -> None:
        """After the server has confirmed it.

        Raises:
            Refused: it has other bytes; or, as `Part.checksum`, the source has.
        """
        said = said_of(reply)
        if said is not None:
            self._told = said.algorithm
            if await part.checksum(said.algorithm) != said.digits:
                raise _damaged(name, said)
            return
        etag = md5_of(reply.header("etag") or "")
        if etag is None or self._others == TRIES or _encrypted(reply):
            self._told = ""
            return
        if await part.checksum("md5") == etag:
            self._told, self._proven = "md5", True
        elif self._proven:
            raise _damaged(name, Said("md5", etag))
        else:
            self._others += 1


def _encrypted(reply: Reply) -> bool:
    """Whether S3 says that it encrypts with a key, of the key service or of the caller's."""
    by_service = "kms" in (reply.header("x-amz-server-side-encryption") or "").lower()
    return by_service or reply.header("x-amz-server-side-encryption-customer-algorithm") is not None


def _damaged(name: str, said: Said) -> Refused:
    detail = (
        f"{name}: the server got other bytes than were sent, by their {said.algorithm}: they were damaged on "
        "their way, and are sent again"
    )
    return Refused(Fault(kind=FaultKind.DISCONNECTED, detail=detail))
