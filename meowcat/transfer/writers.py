"""Writer threads: they put bytes at their offset and hash the pieces, away from the event loop.

A `Stream` is what one lease brings, in order; all of it goes through one thread, so that a piece is hashed
while its bytes are still in the processor's cache. Threads never wait for the loop: what they finished is
told by one coalesced call into it. Everything public is for the loop's thread.
"""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock
from time import perf_counter
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup
from blake3 import blake3
from msgspec import Struct

from meowcat.core.values import Checksum
from meowcat.transfer.digests import Hasher, new
from meowcat.transfer.threads import serve_in_thread
from meowcat.transport.contract import Chunk

__all__ = ["Finished", "Stream", "WriteFailed", "Writers"]

INLINE = 256 * 1024
"""Bytes of a body that are written on the loop itself: a hop to a thread costs as much as writing them."""

INLINE_STALL = 0.005
"""Seconds. A disk that once made the loop wait so long gets nothing inline any more."""

Write = Callable[[int, Chunk], object]
"""Puts bytes at an offset of the part file, and raises where that fails."""

Job = tuple[Callable[..., None], tuple[Any, ...]]


class WriteFailed(Exception):
    """A write failed; nothing is written any more."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class Finished(Struct, frozen=True):
    """A piece that is written in full."""

    index: int
    digest: bytes
    """BLAKE3, 32 bytes."""
    start: int
    stop: int
    """Its bytes: from `start` up to `stop`."""


class Stream:
    """The bytes of one lease on their way. Fields are the writer thread's, but for `lane`."""

    __slots__ = ("at", "begun", "body", "expected", "hash", "held", "lane", "piece", "size")

    def __init__(self, piece: int, size: int | None) -> None:
        self.piece = piece
        self.size = size
        """Bytes of the whole content; None: the last piece ends with the stream."""
        self.lane = -1
        """The number of its thread; -1: inline."""
        self.at = -1
        """The offset that follows what was hashed."""
        self.begun = 0
        """Where the piece in work begins."""
        self.hash = blake3()
        self.body: Hasher | None = None
        """Of the reply's body, where it came with a digest."""
        self.expected: Checksum | None = None
        self.held: list[Finished] = []
        """Pieces that count only once the reply's digest was right."""

    def stop(self) -> int:
        """Where the piece in work ends, as far as that is known."""
        stop = self.begun + self.piece
        return stop if self.size is None else min(stop, self.size)


class Writers:
    """At most `threads` threads for one part file, started when something larger than `INLINE` comes.

    Args:
        group: where the threads are waited for.
        write: called in the threads, never after `stop`.
        window: bytes that may be on their way at once; `put` waits for room.
        threads: how many; without any all is written on the loop, whatever its size.
        released: called on the loop with the number of bytes that are held in memory no more.
        finished: called on the loop when pieces were finished, or writing failed. Threads that read a body
            have it called for the first piece since `take`, and once there are `enough` bytes of them.
        enough: see there.

    """

    def __init__(
        self,
        group: TaskGroup,
        write: Write,
        window: int,
        threads: int,
        released: Callable[[int], None],
        finished: Callable[[], None],
        enough: int = 1 << 62,
    ) -> None:
        self._group = group
        self._write = write
        self._window = window
        self._released = released
        self._finished = finished
        self._enough = enough
        self._call_soon = _caller()
        self._lock = Lock()
        self._lanes: list[SimpleQueue[Job | None]] = [SimpleQueue() for _ in range(threads)]
        self._busy = [False] * threads
        self._running = 0
        self._next_lane = 0
        self._stopped = False
        self._inline = True
        self._held = 0
        self._moved = anyio.Event()
        # Shared with the threads, under the lock:
        self._done: list[Finished] = []
        self._done_bytes = 0
        self._last: list[Finished] = []
        """The last piece of a content whose size nobody knew, which counts once that is recorded with it."""
        self._due = False
        """Whether the loop should look at what was finished."""
        self._written = 0
        self._told = False
        self._failure: BaseException | None = None

    # Of the loop

    def stream(self, piece: int, size: int | None, expect: int | None) -> Stream:
        """A new stream of about `expect` bytes; None where nobody knows."""
        stream = Stream(piece, size)
        small = expect is not None and expect <= INLINE and self._inline
        if self._lanes and not small:
            stream.lane = self._next_lane
            self._next_lane = (self._next_lane + 1) % len(self._lanes)
        return stream

    async def room(self) -> None:
        """Wait until something more may be put.

        Raises:
            WriteFailed: there will be none.

        """
        while self._held >= self._window:
            self._check()
            await self._moved.wait()
        self._check()

    def put(self, stream: Stream, offset: int, chunk: Chunk) -> None:
        """Hand over bytes, whose memory is given back with `released`."""
        self._held += len(chunk)
        self._do(stream, self._store, (stream, offset, chunk))

    def expect(self, stream: Stream, digest: Checksum) -> None:
        """A reply with this digest of its body begins."""
        self._do(stream, _expect, (stream, digest))

    async def confirm(self, stream: Stream) -> bool:
        """The reply has come in full: wait for its bytes, and say whether they have the digest."""
        answer: list[bool] = []
        self._do(stream, self._confirm, (stream, answer))
        while not answer:
            self._check()
            await self._moved.wait()
        return answer[0]

    async def hand_over(self, stream: Stream) -> None:
        """Wait until all that was put is written: another thread may have the stream then."""
        if 0 <= stream.lane < self._running:
            mark = anyio.Event()
            self._lanes[stream.lane].put((self._wake, (mark,)))
            await mark.wait()
            self._check()

    def end(self, stream: Stream) -> None:
        """A stream of unknown size is over: what there is of its last piece is a piece."""
        self._do(stream, self._close_last, (stream,))

    async def drain(self) -> None:
        """Wait until all that was put is written, and raise WriteFailed if it is not."""
        marks = [anyio.Event() for _ in range(self._running)]
        for lane, mark in zip(self._lanes, marks, strict=False):
            lane.put((self._wake, (mark,)))
        for mark in marks:
            await mark.wait()
        self._settle()
        self._check()

    def take(self, *, last: bool = False) -> list[Finished]:
        """The pieces that were finished since the last call; the one of `end` only as the `last`."""
        with self._lock:
            done, self._done, self._done_bytes = self._done, [], 0
            if last:
                done, self._last = done + self._last, []
        return done

    @property
    def finished_bytes(self) -> int:
        """Bytes of the pieces that `take` would return."""
        return self._done_bytes

    @property
    def quiet(self) -> bool:
        """Whether `stop` was called and the last write is over."""
        return self._stopped and not any(self._busy)

    def stop(self) -> None:
        """Write nothing more, from this instant; the threads end. What they hold is released."""
        self._stopped = True
        for lane in self._lanes[: self._running]:
            lane.put(None)

    def give_back(self) -> None:
        """After the threads have ended: release what was still on its way."""
        for lane in self._lanes:
            while not lane.empty():
                job = lane.get()
                if job is not None and job[0] == self._store:  # its thread never started
                    self._written += len(job[1][2])
        self._settle()

    def _check(self) -> None:
        if self._failure is not None:
            raise WriteFailed(self._failure)

    def _do(self, stream: Stream, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if stream.lane < 0:
            started = perf_counter()
            self._perform(function, arguments)
            self._inline = self._inline and perf_counter() - started < INLINE_STALL
            self._settle()
            return
        while self._running <= stream.lane:
            self._group.start_soon(self._serve, self._running)
            self._running += 1
        self._lanes[stream.lane].put((function, arguments))

    async def _serve(self, lane: int) -> None:
        await serve_in_thread(self._work, lane)

    def _settle(self) -> None:
        with self._lock:
            self._told = self._due = False
            written, self._written = self._written, 0
        self._held -= written
        if written:
            self._released(written)
        self._moved.set()
        self._moved = anyio.Event()
        if self._done or self._failure is not None:
            self._finished()

    # Of the threads, its own and those that read a body

    @property
    def over(self) -> bool:
        """Whether nothing more will be written."""
        return self._stopped or self._failure is not None

    def store(self, stream: Stream, offset: int, chunk: memoryview) -> None:
        """Write and hash at once, for a thread that was handed the stream. The memory stays the caller's."""
        self._perform(self._place, (stream, offset, chunk))
        if self._due or self._failure is not None:
            self._tell()

    def _work(self, lane: int) -> None:
        jobs = self._lanes[lane]
        while (job := jobs.get()) is not None:
            self._busy[lane] = True  # before the look at `_stopped`: else `quiet` could be true too early
            self._perform(*job)
            self._busy[lane] = False
            self._tell()

    def _wake(self, mark: anyio.Event) -> None:
        self._call_soon(mark.set)

    def _tell(self) -> None:
        with self._lock:
            if self._told:
                return
            self._told = True
        self._call_soon(self._settle)

    def _perform(self, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        try:
            function(*arguments)
        except Exception as error:  # noqa: BLE001  # whatever a write raises, the loop must hear of it
            self._failure = self._failure or error

    def _store(self, stream: Stream, offset: int, chunk: Chunk) -> None:
        try:
            self._place(stream, offset, memoryview(chunk))
        finally:
            with self._lock:
                self._written += len(chunk)

    def _place(self, stream: Stream, offset: int, chunk: memoryview) -> None:
        if not self.over:
            self._write(offset, chunk)
            self._hash(stream, offset, chunk)

    def _hash(self, stream: Stream, offset: int, chunk: memoryview) -> None:
        if stream.body is not None:
            stream.body.update(chunk)
        if offset != stream.at:  # pieces were passed over: a new one begins
            stream.begun, stream.hash = offset, blake3()
        while chunk:
            part = chunk[: stream.stop() - offset]
            stream.hash.update(part)
            offset += len(part)
            chunk = chunk[len(part) :]
            stream.at = offset
            if offset == stream.stop():
                self._close_piece(stream)

    def _close_piece(self, stream: Stream) -> None:
        done = _finish(stream)
        if self.over:
            return
        if stream.body is not None:
            stream.held.append(done)
            return
        self._count([done])

    def _close_last(self, stream: Stream) -> None:
        if stream.at > stream.begun and not self.over:
            with self._lock:
                self._last.append(_finish(stream))

    def _count(self, done: list[Finished]) -> None:
        with self._lock:
            first = not self._done
            self._done += done
            self._done_bytes += sum(each.stop - each.start for each in done)
            self._due = self._due or first or self._done_bytes >= self._enough

    def _confirm(self, stream: Stream, answer: list[bool]) -> None:
        assert stream.body is not None and stream.expected is not None  # noqa: S101, PT018  # set by `expect`
        right = stream.body.hexdigest() == stream.expected.hex
        self._count(stream.held if right else [])
        stream.held, stream.body, stream.expected = [], None, None
        answer.append(right)


def _finish(stream: Stream) -> Finished:
    """The piece in work, which ends where the stream has come to. Hashing goes on from there, if at all."""
    done = Finished(stream.begun // stream.piece, stream.hash.digest(), stream.begun, stream.at)
    stream.begun, stream.hash = stream.at, blake3()
    return done


def _expect(stream: Stream, digest: Checksum) -> None:
    stream.expected, stream.body = digest, new(digest.algorithm)


def _caller() -> Callable[[Callable[[], object]], object]:
    """How another thread has something called on this loop without waiting for it, on asyncio and trio."""
    loop: Any = anyio.lowlevel.current_token().native_token
    name = "call_soon_threadsafe" if hasattr(loop, "call_soon_threadsafe") else "run_sync_soon"
    call: Callable[[Callable[[], object]], object] = getattr(loop, name)
    return call
