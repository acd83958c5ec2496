"""Parts of a source, as upload protocols send them: bytes that are hashed before they go out.

All of a part is read and hashed before its last chunk is handed out. So a server never gets a whole part of
bytes that are not those that it was promised (`checksum`), or that an earlier attempt sent or recorded.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Self

from anyio.abc import TaskGroup
from blake3 import blake3

from meowcat.core.values import Fault, FaultKind, SourceIdentity
from meowcat.protocols.contract import Refused
from meowcat.transfer.context import Budget, Throttle
from meowcat.transfer.digests import Hasher, new
from meowcat.transfer.disk import FileFault
from meowcat.transfer.read_ahead import Hold, ReadAhead
from meowcat.transfer.sources import BUFFER, Buffers, Opened, OpenedFile, unmoved
from meowcat.transport.contract import Chunk

__all__ = ["SourcePart", "SourceReader", "next_chunk"]

STEP = 8 << 20
"""Bytes that are read and hashed in one trip to a worker thread, which costs some 100 us."""

KEPT = 16 << 20
"""The largest part, in bytes, that is kept in memory from its checksum to its body; larger ones are read
twice."""

FIRST = 256 << 10
"""Bytes in the first chunk that is handed out …"""
LEAST = 64 << 10
"""… and at least in those that follow, however slow the line is …"""
LIMITED = 4 << 10
"""… but where the rate is limited."""

FAST = 0.1
"""Seconds: a chunk that was taken within them may be followed by one of twice its size …"""
SLOW = 1.0
"""… and one that took longer is followed by one of half of it."""


class SourceReader:
    """What the parts of one upload are read through.

    Args:
        source: closed by the caller, once `group` has ended.
        pinned: the identity that the upload goes by; set anew once another one was proved.
        group: where parts read ahead. Canceling it stops them.
        budget: of the memory that they use.
        throttle: of what they hand out.
    """

    def __init__(
        self,
        source: Opened,
        pinned: SourceIdentity,
        group: TaskGroup,
        budget: Budget,
        throttle: Throttle,
    ) -> None:
        self.source = source
        self.file = source if isinstance(source, OpenedFile) else None
        """The source, where the thread that sends a body can read it."""
        self.pinned = pinned
        self.group = group
        self.budget = budget
        self.throttle = throttle
        self.buffers = Buffers()
        self.chunk = FIRST
        """Bytes in a chunk, as the line takes them."""
        self.asked: set[str] = set()
        """The checksums that the protocol asks for before a body: all of a part is read for them."""
        self.several = False
        """Whether parts are sent side by side, each by a thread that also reads. Where there is but one, some
        bytes are read while those before them are sent."""
        self.drawn: bool | None = None
        """Whether the client draws bodies, so that nothing is to be read ahead; None before the first one."""

    @property
    def draws(self) -> bool:
        """Whether a client that can draws bodies of its parts."""
        return self.several and self.file is not None and self.drawn is not False

    def chunk_size(self) -> int:
        """Small where the rate is limited, so that bytes go out evenly."""
        rate = self.throttle.rate
        return self.chunk if rate is None else max(LIMITED, min(self.chunk, rate // 8))

    def part(
        self, index: int, begin: int, stop: int, *, start: int | None = None, expected: bytes | None = None
    ) -> "SourcePart":
        """Piece `index`, the bytes from `begin` to `stop`, to be sent from `start` on (`begin` by default).

        `expected` is the BLAKE3 of the whole piece, where it was recorded before. Where `start` lies inside,
        the server has what is before it from a request that broke off, and no digest of that is recorded:
        whoever proved a moved source since then, and that not by a digest of all of it, begins anew instead.
        """
        return SourcePart(self, index, begin, stop, begin if start is None else start, expected)


class SourcePart:
    """A `meowcat.protocols.contract.Part`. The end of its `with` block gives back the memory it holds."""

    def __init__(
        self, reader: SourceReader, index: int, begin: int, stop: int, start: int, expected: bytes | None
    ) -> None:
        self.index = index
        self.start = start
        self.size = stop - start
        self.digest: bytes | None = None
        """BLAKE3, 32 bytes, of the whole piece, from its beginning also where `start` lies inside: known when
        `checksum` has returned, or `body` has handed out its last chunk."""
        self.moved = False
        """Whether the source, looked at after the last byte was read, was not as it was pinned when the part
        was made: it has to be proved, this part included, before the commit. Known with `digest`."""
        self.limited = False
        """Whether the rate was limited when any of it was handed out."""
        self._reader = reader
        self._pinned = reader.pinned  # not a later one: the first bytes may have been read before that
        self._begin = begin
        self._stop = stop
        self._expected = expected
        self._hold = Hold(reader.budget)
        self._checksums: dict[str, str] = {}
        self._opened = False
        """Whether a body was asked for its first bytes."""
        self._drawn: list[Chunk] = []
        self._has_room = False
        """Whether memory was taken for what is drawn."""
        self._kept: list[Chunk] | None = None
        self._begun: ReadAhead | None = None
        self._streamed: ReadAhead | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the memory it holds."""
        self._reader.buffers.give(self._drawn)
        self._has_room = False
        if self._kept is not None:
            self._reader.buffers.give(self._kept)
        if self._streamed is not None:
            self._streamed.give_back()
        self._kept = self._begun = self._streamed = None
        self._hold.close()

    def begin(self) -> bool:
        """Begin to read before `checksum` or `body` is asked for, where that helps; returns whether it has
        begun."""
        if self._begun is not None:
            return True
        asked = self._reader.asked
        if self._reader.draws and not asked and self._reader.throttle.rate is None:
            return False
        if self.start != self._begin or (asked and self.size > KEPT):
            return False
        step = self.size if asked else min(STEP, self.size)
        if not self._hold.take_spare(step, beside=KEPT):
            return False
        self._begun = self._reading(blake3(), self._hashers(), step, taken=True)
        return True

    async def checksum(self, algorithm: str) -> str:
        """In hexadecimal, of what `body` yields; `algorithm` is one of `digests.new`.

        Raises:
            Refused: SOURCE_CHANGED where the bytes are not those of before; else as `Opened.read`.
        """
        if not self._opened:
            self._reader.asked.add(algorithm)
        if algorithm not in self._checksums:
            await self._keep_begun()
        if algorithm not in self._checksums:
            hashers = self._hashers(algorithm)
            if self._kept is None:
                await self._read_for(hashers)
            else:
                await self._reader.source.feed(tuple(hashers.values()), self._kept)
                self._note(hashers)
        return self._checksums[algorithm]

    def body(self) -> AsyncIterator[Chunk]:
        """The bytes, in chunks.

        Raises:
            Refused: as `checksum`, in the place of the last chunks.
        """
        return _Body(self, self._reader)

    # For the body

    def can_be_drawn(self) -> bool:
        """Whether a thread can read a body: nothing was read of it yet, nor is to be read before it."""
        reader = self._reader
        if not reader.draws or reader.asked or self.start != self._begin:
            return False
        if self._kept is not None or self._begun is not None:
            return False
        if not self._has_room:
            self._start_over()
            self._has_room = self._hold.take_spare(min(BUFFER, self.size))
        return self._has_room

    def draw(self, at: int, size: int, whole: "blake3") -> Chunk:
        """At most `size` bytes from `at` on, read and hashed in this thread: the last come only if all are
        right.

        Raises:
            Refused: as `body`.
        """
        file, buffers = self._reader.file, self._reader.buffers
        assert file is not None  # noqa: S101  # `can_be_drawn`
        self._opened = True
        buffers.give(self._drawn)
        try:
            chunk = file.draw(at, size, self._stop, buffers)
            self._drawn.append(chunk)
            whole.update(chunk)
            if at + len(chunk) == self._stop:
                self._finish(whole, {}, file.look())
        except FileFault as failure:
            raise Refused(failure.fault) from failure
        return chunk

    async def blocks(self, at: int, whole: "blake3") -> AsyncIterator[Sequence[Chunk]]:
        """Those from `at` on; `whole` has what was drawn before that."""
        self._opened = True
        if self._kept is not None:
            return _Once(self._kept)
        if at == self.start:
            return await self._stream({})
        self._start_over()
        self._streamed = self._reading(whole, {}, STEP, start=at)
        return self._streamed

    def _hashers(self, *algorithms: str) -> dict[str, Hasher]:
        """Those of the checksums asked for that are not known yet. The BLAKE3 of a whole piece is that which
        is computed in any case."""
        wanted = self._reader.asked.union(algorithms).difference(self._checksums)
        if self._begin == self.start:
            wanted.discard("blake3")
        return {algorithm: new(algorithm) for algorithm in wanted}

    def _note(self, hashers: Mapping[str, Hasher]) -> None:
        self._checksums.update((algorithm, hasher.hexdigest()) for algorithm, hasher in hashers.items())

    async def _read_for(self, hashers: Mapping[str, Hasher]) -> None:
        if self.size > KEPT:
            async for _ in await self._stream(hashers):
                pass
            return
        self._start_over()
        whole = await self._pass_over()
        await self._hold.take(self.size)
        where = self.start, self.size, (whole, *hashers.values()), self._reader.buffers
        blocks, now = await self._reader.source.read_last(*where)
        self._finish(whole, hashers, now)
        self._kept = blocks

    async def _keep_begun(self) -> None:
        """Keep what was read for a body that comes later. Where that is not all of the part it is given back:
        a part that holds some memory while it waits for more is in the way of others that do so, too."""
        begun, self._begun = self._begun, None
        if begun is not None:
            self._kept = await begun.keep()

    async def _stream(self, hashers: Mapping[str, Hasher]) -> ReadAhead:
        """The bytes, read anew and fed to `hashers`; the last of them come only if all are right."""
        begun, self._begun = self._begun, None
        if begun is None:
            self._start_over()
        self._streamed = begun or self._reading(await self._pass_over(), hashers, STEP)
        return self._streamed

    def _start_over(self) -> None:
        """Give back what an earlier body holds, which nobody asks any more: what comes in its place would
        wait for that memory for ever."""
        if self._hold.closed:
            return
        self._reader.buffers.give(self._drawn)
        if self._streamed is not None:
            self._streamed.give_back()
        self._hold.close()
        self._hold, self._streamed, self._has_room = Hold(self._reader.budget), None, False

    def _reading(
        self,
        whole: "blake3",
        hashers: Mapping[str, Hasher],
        step: int,
        *,
        start: int | None = None,
        taken: bool = False,
    ) -> ReadAhead:
        return ReadAhead(
            self._reader.source,
            self._reader.group,
            self._hold,
            self._reader.buffers,
            self.start if start is None else start,
            self._stop,
            step,
            hashers=(whole, *hashers.values()),
            last=partial(self._finish, whole, hashers),
            taken=taken,
        )

    async def _pass_over(self) -> "blake3":
        """A digest that has what of the piece lies before `start`: the server has that already."""
        whole = blake3()
        for at in range(self._begin, self.start, STEP):
            size = min(STEP, self.start - at)
            await self._hold.take(size)
            buffers = self._reader.buffers
            buffers.give(await self._reader.source.read(at, size, (whole,), buffers))
            self._hold.give(size)
        return whole

    def _finish(self, whole: "blake3", hashers: Mapping[str, Hasher], now: SourceIdentity) -> None:
        """Judge what was read, and note its checksums. The source is looked at after its last byte only:
        whatever happened before has to show."""
        self.moved = self.moved or not unmoved(self._pinned, now)
        if self._expected not in (None, whole.digest()):
            raise self._refused(
                FaultKind.SOURCE_CHANGED,
                f"its bytes from {self._begin:,} to {self._stop:,} are not those that were read before; "
                "upload it again once nobody writes to it",
            )
        if self.moved and self._begin < self.start:
            raise self._refused(
                FaultKind.CHANGED,  # the session stands, and is to be removed
                f"the server has its bytes from {self._begin:,} to {self.start:,} from before that, and "
                "nothing to compare them with; the upload begins anew",
            )
        self.digest = self._expected = whole.digest()
        self._note(hashers)
        if self._begin == self.start:
            self._checksums["blake3"] = self.digest.hex()

    def _refused(self, kind: FaultKind, what: str) -> Refused:
        detail = f"{self._reader.source.name} was touched during the upload: {what}"
        return Refused(Fault(kind=kind, detail=detail))


class _Body:
    """Not a generator: an HTTP client may drop it in the middle, and there is nothing to finalize. Its chunks
    can be drawn by a thread (`transport.contract.Draws`), where the rate is not limited."""

    def __init__(self, part: SourcePart, reader: SourceReader) -> None:
        self._part = part
        self._reader = reader
        self._at = part.start
        """All before it was drawn …"""
        self._whole = blake3()
        """… and is in this digest."""
        self._blocks: AsyncIterator[Sequence[Chunk]] | None = None
        self._chunks: Iterator[Chunk] = iter(())
        self._handed_at: float | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        self._fit_chunks()
        while (chunk := next(self._chunks, None)) is None:
            if self._blocks is None:
                if self._reader.drawn is None:
                    self._reader.drawn = False
                self._blocks = await self._part.blocks(self._at, self._whole)
            self._chunks = _cut(await anext(self._blocks), self._reader.chunk_size)
        self._part.limited = self._part.limited or self._reader.throttle.rate is not None
        await self._reader.throttle.acquire(len(chunk))
        self._handed_at = monotonic()
        return chunk

    def ready(self) -> bool:
        """See `Draws`."""
        if self._reader.drawn is None:
            self._reader.drawn = True
        return self._is_drawn and self._part.can_be_drawn()

    def draw(self) -> Chunk | None:
        """See `Draws`."""
        if not self._is_drawn:
            return None
        self._fit_chunks()
        left = self._part.start + self._part.size - self._at
        chunk = self._part.draw(self._at, min(self._reader.chunk, left), self._whole)
        self._at += len(chunk)
        self._reader.throttle.spend(len(chunk))  # which tells that bytes flow
        self._handed_at = monotonic()
        return chunk

    @property
    def _is_drawn(self) -> bool:
        over = self._blocks is not None or self._at == self._part.start + self._part.size
        return not over and self._reader.throttle.rate is None

    def _fit_chunks(self) -> None:
        if self._handed_at is not None:
            self._reader.chunk = next_chunk(self._reader.chunk, monotonic() - self._handed_at)


class _Once:
    def __init__(self, blocks: Sequence[Chunk]) -> None:
        self._blocks: Sequence[Chunk] | None = blocks

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Chunk]:
        blocks, self._blocks = self._blocks, None
        if blocks is None:
            raise StopAsyncIteration
        return blocks


def next_chunk(size: int, seconds: float) -> int:
    """The size of the chunk that follows one of `size` bytes which was taken within `seconds`.

    Large chunks cost less. On a slow line they would look like silence: that a server takes what it is sent
    shows only in that the next chunk is asked for.
    """
    if seconds > SLOW:
        return max(LEAST, size // 2)
    return min(BUFFER, size * 2) if seconds < FAST else size


def _cut(blocks: Sequence[Chunk], size: Callable[[], int]) -> Iterator[Chunk]:
    """The blocks as they are, or in chunks of what `size` says each time."""
    for block in blocks:
        at = 0
        while at < len(block):
            chunk = block[at : at + size()]  # no copy where that is all of it
            yield chunk
            at += len(chunk)
