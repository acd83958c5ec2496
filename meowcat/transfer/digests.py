"""Digests of pieces and of whole files.

Everything here blocks. Reading is done in large blocks: hashlib and blake3 let go of the interpreter's lock
while they work on one, so that other threads run meanwhile.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import anycrc
import google_crc32c
from blake3 import blake3

from meowcat.core.errors import InvalidArgument
from meowcat.core.pieces import Grid
from meowcat.core.transfers import DIGEST_LENGTHS
from meowcat.core.values import FaultKind
from meowcat.transfer.disk import Buffer, Disk, FileFault, guarded
from meowcat.transfer.files import PartFile

__all__ = [
    "BLOCK",
    "Hasher",
    "PieceCheck",
    "Span",
    "Stopped",
    "digest_file",
    "new",
    "piece_digest",
    "verify_pieces",
]

BLOCK = 2 << 20
"""Bytes in one read."""

Span = tuple[int, int, int, bytes]
"""A piece: its index, the bytes from start to stop, and its BLAKE3 digest of 32 bytes."""


class Stopped(Exception):
    """What was being read is not wanted any more."""


class Hasher(Protocol):
    """A digest that is fed block by block."""

    def update(self, data: Buffer, /) -> object: ...

    def hexdigest(self) -> str:
        """The digest of what came so far, in lower-case hexadecimal."""


class _Crc32c:
    """CRC-32C (RFC 3720 appendix B.4), most significant byte first, as cloud storages write it."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: Buffer, /) -> None:
        # The package takes `bytes` alone; copying costs less than the reading did.
        block = data if isinstance(data, bytes) else bytes(data)
        self._value = google_crc32c.extend(self._value, block)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


class _Crc64:
    """A CRC of 64 bits, most significant byte first."""

    def __init__(self, model: anycrc.CRC) -> None:
        self._model = model
        self._value: int = model.calc(b"")

    def update(self, data: Buffer, /) -> None:
        self._value = self._model.calc(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:016x}"


_CRC64 = {"crc64nvme": anycrc.Model("CRC64-NVME"), "crc64xz": anycrc.Model("CRC64-XZ")}
"""S3 and Azure have the first, OSS the second."""


def new(algorithm: str) -> Hasher:
    """An empty digest: sha256, sha512, sha1, md5, blake3, crc32c, crc64nvme or crc64xz.

    Raises:
        InvalidArgument: another algorithm.

    """
    if algorithm == "blake3":
        return blake3()
    if algorithm == "crc32c":
        return _Crc32c()
    if algorithm in _CRC64:
        return _Crc64(_CRC64[algorithm])
    if algorithm not in DIGEST_LENGTHS:
        known = ", ".join(DIGEST_LENGTHS)
        raise InvalidArgument(f"digest algorithm {algorithm!r}: expected one of {known}")
    return hashlib.new(algorithm, usedforsecurity=False)  # FIPS builds refuse MD5 and SHA-1 otherwise


def piece_digest(buffers: Iterable[Buffer]) -> bytes:
    """BLAKE3, 32 bytes, of the buffers one after the other."""
    digest = blake3()
    for buffer in buffers:
        digest.update(buffer)
    return digest.digest()


class PieceCheck:
    """Compares all pieces of a file with their digests, as it is read from its beginning to its end."""

    def __init__(self, grid: Grid, digest_of: Callable[[int], bytes]) -> None:
        self.changed: list[int] = []
        """Pieces that have other digests."""
        self._grid = grid
        self._digest_of = digest_of
        self._piece = self._at = 0
        self._hasher = blake3()

    def update(self, data: Buffer) -> None:
        """The next bytes of the file."""
        rest = memoryview(data)
        while rest:
            _, stop = self._grid.span(self._piece)
            taken, rest = rest[: stop - self._at], rest[stop - self._at :]
            self._hasher.update(taken)
            self._at += len(taken)
            if self._at == stop:
                self._compare()

    def _compare(self) -> None:
        if self._hasher.digest() != self._digest_of(self._piece):
            self.changed.append(self._piece)
        self._piece += 1
        self._hasher = blake3()


def digest_file(
    disk: Disk,
    file: str | int,
    algorithms: Sequence[str],
    size: int,
    progress: Callable[[int], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    check: PieceCheck | None = None,
) -> dict[str, str]:
    """Read a whole file once; returns each algorithm's digest in hexadecimal.

    `file` is a path, or a descriptor open for reading, and must have `size` bytes. Between blocks `stop`
    is asked, and `progress` told how many bytes were read so far; `check` sees them all.

    Raises:
        FileFault: LOCAL_REMOVED if the file is absent, or not `size` bytes long; IO.
        Stopped: `stop` said so.

    """
    hashers = {algorithm: new(algorithm) for algorithm in algorithms}
    name = file if isinstance(file, str) else f"file {file}"
    with guarded(name):
        fd = disk.open(file, os.O_RDONLY) if isinstance(file, str) else file
        try:
            if (actual := disk.fstat(fd).size) != size:
                raise FileFault(FaultKind.LOCAL_REMOVED, f"{name} has {actual} bytes; expected {size}")
            fed: list[Hasher | PieceCheck] = [*hashers.values()]
            if check is not None:
                fed.append(check)
            _feed(disk, fd, name, fed, size, progress, stop)
        finally:
            if isinstance(file, str):
                disk.close(fd)
    return {algorithm: hasher.hexdigest() for algorithm, hasher in hashers.items()}


def _feed(
    disk: Disk,
    fd: int,
    name: str,
    hashers: Sequence[Hasher | PieceCheck],
    size: int,
    progress: Callable[[int], None] | None,
    stop: Callable[[], bool],
) -> None:
    block = memoryview(bytearray(min(BLOCK, size)))
    at = 0
    while at < size:
        if stop():
            raise Stopped
        count = disk.preadv(fd, block[: size - at], at)
        if count <= 0:
            raise FileFault(FaultKind.LOCAL_REMOVED, f"{name} was truncated to {at} bytes while it was read")
        for hasher in hashers:
            hasher.update(block[:count])
        at += count
        if progress is not None:
            progress(at)


def verify_pieces(
    part: PartFile, spans: Iterable[Span], stop: Callable[[], bool]
) -> tuple[list[int], list[int]]:
    """Read pieces again and compare them with their digests; returns the indices of the good and of the bad.

    What can't be read is bad: if the disk is broken, writing it anew will say so. `stop` is asked between
    blocks; once it is true, the piece in work and all that follow are in neither list.
    """
    good: list[int] = []
    bad: list[int] = []
    block = memoryview(bytearray(BLOCK))
    for index, begin, end, digest in spans:
        try:
            same = piece_digest(_blocks(part, begin, end, block, stop)) == digest
        except Stopped:
            break
        except FileFault:
            same = False
        (good if same else bad).append(index)
    return good, bad


def _blocks(
    part: PartFile, begin: int, end: int, block: memoryview, stop: Callable[[], bool]
) -> Iterable[memoryview]:
    """The bytes in `block`, again and again; ends early where the file does."""
    while begin < end:
        if stop():
            raise Stopped
        count = part.read_into(begin, block[: end - begin])
        yield block[:count]
        if count == 0:
            return
        begin += count
