"""What an upload reads: files, bytes in memory, and sources of the application's own.

A source is `Opened` for as long as an operation reads it. All reading is positioned, so that any number of
parts read it at once and none moves another's place, and none of it is done on the event loop. Whatever goes
wrong is raised as `Refused`: absent, no permission, shorter than it was, or what an application's source
raised.

A file is followed by its path: where another file was put there, the next look finds it, and reads are of
that one from then on. Which bytes were sent is never judged by a look alone, but by their digests.
"""

import inspect
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from mmap import mmap
from threading import Lock
from time import time_ns
from typing import Protocol, TypeVar

import anyio
from blake3 import blake3
from msgspec import structs

from meowcat.core.errors import InvalidArgument
from meowcat.core.kinds import check_registration, named
from meowcat.core.pieces import MAX_SIZE
from meowcat.core.values import Fault, FaultKind, SourceIdentity
from meowcat.protocols.contract import Refused
from meowcat.transfer.digests import Hasher
from meowcat.transfer.disk import Disk, FileFault, FileStatus, guarded
from meowcat.transfer.memory import fresh
from meowcat.transfer.rounds import Rounds
from meowcat.transfer.workers import Workers
from meowcat.transport.contract import Chunk
from meowcat.transport.faults import EXHAUSTED

__all__ = [
    "BUFFER",
    "TICK_NS",
    "Buffers",
    "BytesSource",
    "Opened",
    "OpenedFile",
    "Source",
    "Sources",
    "is_young",
    "open_file",
    "open_source",
    "truncated",
    "unmoved",
]

T = TypeVar("T")

log = logging.getLogger("meowcat.source")

THREADS = 8
"""Calls of one application's source at once: it may have to ask another machine."""

READERS = min(THREADS, max(2, os.cpu_count() or 2))
"""Reads of one file at once. Most of the time goes into copying and hashing, for which more threads than
processors only take turns with the event loop."""

TICK_NS = 2_000_000_000
"""Nanoseconds: the coarsest clock that files are stamped with (FAT; others have 1 s, and Linux a few ms)."""

MAX_IDENTITY = 1_000
"""Characters of what an application's source calls its version: it stands in the journal."""

BUFFER = 4 << 20
"""Bytes in one system call, and at most in one chunk of a request's body: each chunk costs some 100 us of the
processor on its way through the event loop, however large it is."""

SPARE = 8
"""Buffers that wait to be used again."""

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
"""A pipe that was put there since the look at the path would make an open without O_NONBLOCK wait for ever;
for files the flag means nothing."""


class Source(Protocol):
    """Content of the application's own that can be uploaded: a database's blob, an object of another storage.

    Each method is either a coroutine function, or a plain one, which is then called in a worker thread.
    Several may be under way at once.
    """

    def size(self) -> int | Awaitable[int]:
        """Bytes in all."""

    def identity(self) -> str | Awaitable[str]:
        """Which version of the content it is: another text as soon as a byte is another, the same one after a
        restart. A version number, an ETag, a digest; at most 1,000 characters. It is journaled, so it holds
        no secret.
        """

    def read(self, offset: int, size: int) -> bytes | Awaitable[bytes]:
        """At most `size` bytes from `offset` on; fewer are asked for again, none are the end."""


class BytesSource:
    """Bytes in memory, as a `Source`. Handed in again after a restart they are known by their BLAKE3."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = bytes(data)  # a copy only of what somebody might change
        self._identity: str | None = None

    async def size(self) -> int:
        return len(self._data)

    def identity(self) -> str:
        """Computed once, in a thread: it takes a quarter of a second per GiB."""
        if self._identity is None:
            self._identity = f"blake3:{blake3(self._data).hexdigest()}"
        return self._identity

    async def read(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]


class Sources:
    """The application's sources, by name: names are journaled, so a restart finds them again."""

    def __init__(self, sources: Mapping[str, Source] | None = None) -> None:
        self._sources: dict[str, Source] = {}
        for name, source in named("sources", sources, "sources").items():
            self.register(name, source)

    def register(self, name: str, source: Source) -> None:
        """Add a source, or put another one in the place of the one of that name.

        Raises:
            InvalidArgument: the name is empty, or the source lacks a method.
        """
        check_registration("source", name, source)
        for method in ("size", "identity", "read"):
            if not callable(getattr(source, method, None)):
                raise InvalidArgument(
                    f"source {name!r} is a {type(source).__name__} without {method}(): "
                    "expected the methods of meowcat.Source"
                )
        self._sources[name] = source

    def get(self, name: str) -> Source | None:
        """None where none of that name is registered."""
        return self._sources.get(name)


class Buffers:
    """Memory that is read into again and again: fresh memory costs the system a fault for each of its pages,
    which takes about as long as the reading. Threads may use it as well."""

    def __init__(self) -> None:
        self._spare: list[mmap] = []

    def take(self, size: int) -> memoryview:
        """Room for `size` bytes, at most `BUFFER`."""
        try:
            room = self._spare.pop()
        except IndexError:
            room = fresh(BUFFER)
        return memoryview(room)[:size]

    def give(self, blocks: list[Chunk]) -> None:
        """Use again what these blocks are made of, unless somebody else holds a view of it still. Blocks that
        are no buffers are passed over, and the list is empty afterwards."""
        while blocks:
            block = blocks.pop()
            room = block.obj if isinstance(block, memoryview) else None
            del block
            if isinstance(room, mmap) and len(room) == BUFFER and _unseen(room):
                self._spare.append(room)
        del self._spare[SPARE:]


def _unseen(room: mmap) -> bool:
    """Whether nobody has a view of it: what is looked at can't be resized, not even to the size it has."""
    try:
        room.resize(len(room))
    except BufferError:
        return False
    except SystemError:
        pass  # views are asked after first; only then comes what macOS can't do
    return True


class Opened(ABC):
    """A source that is being read. Its methods may be called by several tasks at once, but for `close`."""

    def __init__(self, workers: Workers, name: str, threads: int) -> None:
        self.name = name
        """For people: the path, or what `open_source` was told."""
        self._workers = workers
        self._limiter = anyio.CapacityLimiter(threads)

    async def run(self, call: Callable[[], T]) -> T:
        """Make a blocking call in a worker thread, also to its end when canceled in between."""
        return await self._workers.run(call, self._limiter)

    async def feed(self, hashers: Sequence[Hasher], blocks: Sequence[Chunk]) -> None:
        """Feed the blocks to each of the hashers."""
        await self.run(partial(_feed, hashers, blocks))

    @abstractmethod
    async def identity(self) -> SourceIdentity:
        """Look at it anew.

        Raises:
            Refused: LOCAL_REMOVED where nothing is there any more; IO; INTERNAL for nonsense of a `Source`.
        """

    @abstractmethod
    async def read(self, offset: int, size: int, hashers: Sequence[Hasher], buffers: Buffers) -> list[Chunk]:
        """Read exactly `size` bytes, in blocks of at most `BUFFER`, and feed them to `hashers` on the way.
        `buffers` may be read into, and be given the blocks when they are done with.

        Raises:
            Refused: SOURCE_CHANGED where it ends before that; as `identity`.
        """

    async def read_last(
        self, offset: int, size: int, hashers: Sequence[Hasher], buffers: Buffers
    ) -> tuple[list[Chunk], SourceIdentity]:
        """Read as `read` does, and look at it anew once the last byte was read."""
        return await self.read(offset, size, hashers, buffers), await self.identity()

    @abstractmethod
    async def close(self) -> None:
        """Let it go; no read is under way."""


async def open_file(
    disk: Disk, workers: Workers, path: str, *, begun: bool = False, rounds: Rounds | None = None
) -> Opened:
    """Open a file to be read, by its absolute path. Symbolic links are followed. `begun` says whether the
    upload has read it before, so that an absent file is one that was removed. With `rounds` it is opened and
    looked at without a trip to a thread, as long as the disk lets that go on.

    Raises:
        Refused: FILE_NOT_FOUND where nothing is there, or LOCAL_REMOVED if `begun`; IO for a folder, a pipe
            or a device, without permission, and for whatever else the disk says.
    """
    absent = FaultKind.LOCAL_REMOVED if begun else FaultKind.FILE_NOT_FOUND
    file = OpenedFile(disk, workers, path, absent, rounds)
    await file.open()
    return file


async def open_source(workers: Workers, name: str, source: Source) -> Opened:
    """Get ready to read a source of the application's own. `name` is for people, as in `Opened.name`."""
    return _OpenedSource(workers, name, source)


def is_young(mtime_ns: int, ctime_ns: int, now_ns: int) -> bool:
    """Whether a file that has these stamps when it is looked at can be changed without its showing later.

    Files are stamped with a clock that ticks slowly. Who writes within the tick in which the file was looked
    at, and keeps the size, leaves the same mtime and ctime behind: the bytes are others, and no look will
    tell (git has the same trouble with its index and calls such entries racily clean). So where a stamp is
    younger than `TICK_NS` at the time of the look, an equal identity proves nothing: only the bytes do. It
    has to be judged at that very time: a minute later the stamps of both versions are old, and still equal.
    A stamp in the future, of another clock, counts as young.

    What no look can see, and this neither: writes through a shared memory mapping to a page that was dirty
    before the look, until the system has written that page back (Linux: some 30 s; never on tmpfs). For such
    sources there is `verify_source="always"`.
    """
    return max(mtime_ns, ctime_ns) + TICK_NS > now_ns


def unmoved(before: SourceIdentity, after: SourceIdentity) -> bool:
    """Whether nothing shows that the source was touched between two looks."""
    return structs.replace(after, young=before.young) == before


def truncated(name: str, at: int, expected: int) -> Refused:
    """What is raised where a source ends too early."""
    return Refused(
        Fault(
            kind=FaultKind.SOURCE_CHANGED,
            detail=f"{name} ends at byte {at:,}; expected {expected:,}: it was truncated during the upload; "
            "upload it again once nobody writes to it",
        )
    )


class OpenedFile(Opened):
    """A file. Any thread may read it by calls of its own (`draw`, `look`), which block."""

    def __init__(
        self, disk: Disk, workers: Workers, path: str, absent: FaultKind, rounds: Rounds | None
    ) -> None:
        if not path or "\0" in path:
            raise InvalidArgument(f"source {path!r}: expected the path of a file")
        super().__init__(workers, path, READERS)
        self._disk = disk
        self._absent = absent
        self._brief = self.run if rounds is None else rounds.do
        """Makes a call of some microseconds."""
        self._lock = Lock()
        """Around looks, which may put another descriptor in the place of the first."""
        self._descriptors: list[int] = []
        """The last one is read; those before it may still be in the middle of a read."""

    async def open(self) -> None:
        """See `open_file`."""
        await self._refusing(self._open, self._brief)
        self._absent = FaultKind.LOCAL_REMOVED

    async def identity(self) -> SourceIdentity:
        return await self._refusing(self.look, self._brief)

    async def read(self, offset: int, size: int, hashers: Sequence[Hasher], buffers: Buffers) -> list[Chunk]:
        return await self._refusing(partial(self._read, offset, size, hashers, buffers), self.run)

    async def read_last(
        self, offset: int, size: int, hashers: Sequence[Hasher], buffers: Buffers
    ) -> tuple[list[Chunk], SourceIdentity]:
        return await self._refusing(
            lambda: (self._read(offset, size, hashers, buffers), self.look()), self.run
        )

    async def close(self) -> None:
        await self._brief(self._close)

    async def _refusing(self, call: Callable[[], T], run: Callable[[Callable[[], T]], Awaitable[T]]) -> T:
        try:
            return await run(call)
        except FileFault as failure:
            raise Refused(failure.fault) from failure

    # In a thread

    def draw(self, offset: int, size: int, stop: int, buffers: Buffers) -> memoryview:
        """Read at most `size` bytes from `offset` on, at least one. `stop` is where the caller expects it to
        end.

        Raises:
            FileFault: Refused: as `read`.
        """
        with self._guarded():  # also where there is no memory
            room = buffers.take(size)
            count = self._disk.preadv(self._descriptors[-1], room, offset)
        if not count:
            raise truncated(self.name, offset, stop)
        return room[:count]

    def _open(self) -> FileStatus:
        path = self.name
        with self._guarded():
            self._check(self._disk.stat(path, follow=True))
            try:
                descriptor = self._disk.open(path, _FLAGS)
            except PermissionError as error:
                what = "no permission to read it; let this user read it, or run as one who may"
                raise FileFault(FaultKind.IO, f"{path}: {what}") from error
            try:
                status = self._check(self._disk.fstat(descriptor))
            except BaseException:  # raised again: whatever it was, the file does not stay open
                self._disk.close(descriptor)
                raise
        self._descriptors.append(descriptor)
        return status

    def _check(self, status: FileStatus | None) -> FileStatus:
        path = self.name
        if status is None:
            what = (
                "there is no such file; name one that exists"
                if self._absent is FaultKind.FILE_NOT_FOUND
                else "the file was removed during the upload; put it back, or cancel the upload"
            )
            raise FileFault(self._absent, f"{path}: {what}")
        if status.is_folder:
            raise FileFault(FaultKind.IO, f"{path} is a folder; upload its files one by one")
        if not status.is_file:
            raise FileFault(
                FaultKind.IO,
                f"{path} is a pipe, socket or device, which can't be read at any place; upload a file",
            )
        return status

    def look(self) -> SourceIdentity:
        """Look at it anew.

        Raises:
            FileFault: as `identity`.
        """
        with self._lock, self._guarded():
            before = time_ns()  # an answer may be long on its way, and what is written meanwhile is not in it
            status = self._check(self._disk.stat(self.name, follow=True))
            if status.identity != self._disk.fstat(self._descriptors[-1]).identity:
                status = self._open()
            young = is_young(status.mtime_ns, status.ctime_ns, before)
        return SourceIdentity(
            size=status.size,
            device=status.identity.device,
            inode=status.identity.inode,
            mtime_ns=status.mtime_ns,
            ctime_ns=status.ctime_ns,
            young=young,
        )

    def _read(self, offset: int, size: int, hashers: Sequence[Hasher], buffers: Buffers) -> list[Chunk]:
        stop = offset + size
        blocks: list[Chunk] = []
        while offset < stop:
            block = self.draw(offset, min(BUFFER, stop - offset), stop, buffers)
            for hasher in hashers:
                hasher.update(block)
            blocks.append(block)
            offset += len(block)
        return blocks

    def _close(self) -> None:
        while self._descriptors:
            self._disk.close(self._descriptors.pop())

    def _guarded(self) -> AbstractContextManager[None]:
        return guarded(self.name, gone=self._absent)


class _OpenedSource(Opened):
    def __init__(self, workers: Workers, name: str, source: Source) -> None:
        super().__init__(workers, name, THREADS)
        self._source = source

    async def identity(self) -> SourceIdentity:
        size = await self._ask("size", self._source.size)
        if not isinstance(size, int) or not 0 <= size <= MAX_SIZE:
            raise self._nonsense("size", f"{size!r}: expected 0 to 2^63-1 bytes")
        tag = await self._ask("identity", self._source.identity)
        if not isinstance(tag, str) or len(tag) > MAX_IDENTITY:
            raise self._nonsense("identity", f"a {type(tag).__name__}: expected at most 1,000 characters")
        return SourceIdentity(size=size, tag=tag)

    async def read(self, offset: int, size: int, hashers: Sequence[Hasher], buffers: Buffers) -> list[Chunk]:
        del buffers  # an application's source has memory of its own
        stop = offset + size
        blocks: list[Chunk] = []
        while offset < stop:
            found = await self._read(offset, min(BUFFER, stop - offset))
            if not found:
                raise truncated(self.name, offset, stop)
            blocks.append(found)
            offset += len(found)
        if hashers and blocks:
            await self.feed(hashers, blocks)
        return blocks

    async def close(self) -> None:
        """Nothing to do: the source is the application's."""

    async def _read(self, offset: int, size: int) -> bytes:
        block = await self._ask("read", lambda: self._source.read(offset, size), like=self._source.read)
        if not isinstance(block, bytes | bytearray | memoryview):
            raise self._nonsense("read", f"a {type(block).__name__}: expected bytes")
        if len(block) > size:
            raise self._nonsense("read", f"{len(block):,} bytes: expected at most {size:,}, as asked for")
        return bytes(block)

    async def _ask(
        self, method: str, call: Callable[[], object], like: Callable[..., object] | None = None
    ) -> object:
        try:
            if inspect.iscoroutinefunction(like or call):
                answer = call()
            else:
                # In a tuple: trio lets no coroutine out of a thread as it is.
                (answer,) = await self.run(lambda: (call(),))
            return await answer if inspect.isawaitable(answer) else answer
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else type(error).__name__
            kind = FaultKind.EXHAUSTED if error.errno in EXHAUSTED else FaultKind.IO
            raise self._refused(kind, f"{method}() failed: {reason}") from error
        except Exception as error:  # whatever an application's source raises ends its upload, not the engine
            log.exception("%s: %s() raised", self.name, method)
            what = f"{method}() raised {type(error).__name__}; the log of meowcat.source has all of it"
            raise self._refused(FaultKind.INTERNAL, what) from error

    def _nonsense(self, method: str, what: str) -> Refused:
        return self._refused(FaultKind.INTERNAL, f"{method}() returned {what}")

    def _refused(self, kind: FaultKind, what: str) -> Refused:
        return Refused(Fault(kind=kind, detail=f"{self.name}: {what}"))


def _feed(hashers: Sequence[Hasher], blocks: Sequence[Chunk]) -> None:
    for hasher in hashers:
        for block in blocks:
            hasher.update(block)
