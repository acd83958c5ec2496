"""Values that more than one part of the core speaks of: ids, instants, faults, generations, digests."""

from enum import StrEnum
from typing import NewType

from msgspec import Struct

from meowcat.core.errors import Code

__all__ = [
    "Checksum",
    "Fault",
    "FaultKind",
    "FileIdentity",
    "Generation",
    "Instant",
    "Position",
    "SourceIdentity",
    "TaskId",
]

TaskId = NewType("TaskId", str)
"""26 characters, sortable by the time of creation; the same for ever."""

Position = NewType("Position", int)
"""A record's place in its journal: 1 for the first; 0 means "before the first"."""


class Instant(Struct, frozen=True, gc=False):
    """Now, as the world hands it to the core, together with the only randomness the core ever sees."""

    at: int
    """Wall clock, milliseconds since 1970 UTC. For people and records only: nothing is decided by it."""
    roll: float = 0.5
    """A fresh number in [0, 1): the jitter of delays."""


class FaultKind(StrEnum):
    """What went wrong, in classes that the retry rules tell apart (`meowcat.core.retry`)."""

    UNREACHABLE = "unreachable"
    """No connection: name not found, refused, no route, connect time-out."""
    TLS = "tls"
    TIMEOUT = "timeout"
    """Connected, then silent for too long."""
    SLOW = "slow"
    """Connected, and slower than is put up with."""
    DISCONNECTED = "disconnected"
    """The connection broke, or the body ended before its length."""
    STATUS = "status"
    """A status that is not the one asked for; `status` has it."""
    REPLY = "reply"
    """A reply that contradicts itself or the request."""
    RANGE = "range"
    """The range asked for is not the range that came, or can't be had."""
    LENGTH = "length"
    CHANGED = "changed"
    """Another generation of the remote content."""
    CHECKSUM = "checksum"
    DISK_FULL = "disk-full"
    LOCAL_REMOVED = "local-removed"
    """A local file of the task was removed, replaced or truncated by somebody else."""
    TARGET_EXISTS = "target-exists"
    TARGET_OWNED = "target-owned"
    FILE_NOT_FOUND = "file-not-found"
    IO = "io"
    EXHAUSTED = "exhausted"
    """A file or a socket can't be opened since too many are open: it may be possible in a moment."""
    REDIRECT = "redirect"
    """A redirect that must not be followed."""
    SOURCE_CHANGED = "source-changed"
    """The source of an upload is not what it was when it was begun."""
    SESSION_LOST = "session-lost"
    """The server does not know the upload any more."""
    CREDENTIAL = "credential"
    """A credential, or a fresh plan, could not be had from where it is registered."""
    EXPIRED = "expired"
    """What was handed in has run out, and nothing is registered that could bring a fresh one."""
    INTERNAL = "internal"
    """A defect of meowcat or of a plugged-in part; never retried."""


_CODES = {
    FaultKind.UNREACHABLE: Code.HTTP,
    FaultKind.TLS: Code.HTTP,
    FaultKind.TIMEOUT: Code.HTTP,
    FaultKind.SLOW: Code.HTTP,
    FaultKind.DISCONNECTED: Code.HTTP,
    FaultKind.STATUS: Code.STATUS,
    FaultKind.REPLY: Code.REPLY,
    FaultKind.RANGE: Code.RANGE,
    FaultKind.LENGTH: Code.LENGTH,
    FaultKind.CHANGED: Code.CHANGED,
    FaultKind.CHECKSUM: Code.CHECKSUM,
    FaultKind.DISK_FULL: Code.DISK_FULL,
    FaultKind.LOCAL_REMOVED: Code.LOCAL_FILE_REMOVED,
    FaultKind.TARGET_EXISTS: Code.TARGET_EXISTS,
    FaultKind.TARGET_OWNED: Code.TARGET_OWNED,
    FaultKind.FILE_NOT_FOUND: Code.FILE_NOT_FOUND,
    FaultKind.IO: Code.IO,
    FaultKind.EXHAUSTED: Code.IO,
    FaultKind.REDIRECT: Code.REPLY,
    FaultKind.SOURCE_CHANGED: Code.SOURCE_CHANGED,
    FaultKind.SESSION_LOST: Code.SESSION_LOST,
    FaultKind.CREDENTIAL: Code.CREDENTIAL,
    FaultKind.EXPIRED: Code.CREDENTIAL,
    FaultKind.INTERNAL: Code.UNKNOWN,
}


class Fault(Struct, frozen=True, kw_only=True):
    """A failure as a value: what operations report, events record and users read. Holds no secret."""

    kind: FaultKind
    detail: str
    """For people: what happened, what was expected, what to do."""
    status: int | None = None
    """The HTTP status, where one came."""
    retry_after: int | None = None
    """Milliseconds the server asked to wait, already turned into a duration (RFC 9110 10.2.3)."""

    @property
    def code(self) -> Code:
        return _CODES[self.kind]


class FileIdentity(Struct, frozen=True, gc=False):
    """Which file a path led to: proof that a rename did happen, or that somebody replaced the file."""

    device: int
    inode: int


class SourceIdentity(Struct, frozen=True, kw_only=True):
    """Which source an upload reads, and in which state: equal ones have, as far as a look can tell, the same
    bytes. `os.stat` of a file; of an application's own source only the size, and its `version` as `tag`."""

    size: int
    """Bytes."""
    device: int = 0
    inode: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    tag: str = ""
    young: bool = False
    """Whether the file had been touched so shortly before this look that a further change may leave both
    stamps as they are (`meowcat.transfer.sources`). That nothing moved since then proves nothing. What an
    upload goes by keeps this for ever: it can be judged at the time of the look alone."""


class Checksum(Struct, frozen=True, gc=False):
    """A digest of a whole content: `algorithm` in lower case (`sha256`), `hex` in lower case."""

    algorithm: str
    hex: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


class Generation(Struct, frozen=True, kw_only=True, gc=False):
    """One version of a remote content, pinned by what the server said of it in the first reply."""

    size: int | None
    """Bytes in all; None where the server did not say."""
    ranges: bool
    """Whether the server answers ranges of this content: without it one request brings all of it."""
    etag: str | None = None
    """The ETag as sent, with its quotes and a `W/` where it is weak."""
    last_modified: str | None = None
    """Last-Modified as sent."""
    strong: bool = False
    """Whether bytes of two replies may be mixed: a strong ETag, or a Last-Modified that is strong by
    RFC 9110 8.8.2.2."""
    digests: tuple[Checksum, ...] = ()
    """Digests of the whole that the server offered (RFC 9530 Repr-Digest, RFC 3230 Digest)."""
