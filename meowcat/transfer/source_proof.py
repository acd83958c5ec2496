"""Reading a whole source: for its digests, and to prove that it is still what was sent."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial

import anyio
from blake3 import blake3
from msgspec import Struct

from meowcat.core.pieces import Grid, IntervalSet
from meowcat.core.values import Fault, FaultKind, SourceIdentity
from meowcat.protocols.contract import Refused
from meowcat.transfer.context import Budget
from meowcat.transfer.digests import Hasher, new
from meowcat.transfer.read_ahead import Hold, ReadAhead
from meowcat.transfer.sources import Buffers, Opened, unmoved
from meowcat.transport.contract import Chunk

__all__ = ["Digests", "digest_source", "prove"]

STEP = 8 << 20
"""Bytes that are hashed in one trip to a worker thread, while as many are read ahead."""

ROUNDS = 3
"""How often a source is read that is touched while it is read."""

Feed = Callable[[int, Sequence[Chunk]], Awaitable[bool]]
"""Is given bytes and their offset; False where the rest is of no interest."""


class Digests(Struct, frozen=True):
    """Digests of a whole source, and the identity that they hold for."""

    identity: SourceIdentity
    hexes: dict[str, str]
    """By algorithm, in hexadecimal."""


async def digest_source(
    source: Opened,
    budget: Budget,
    algorithms: Sequence[str],
    progress: Callable[[int], None] = lambda _: None,
) -> Digests:
    """Read all of a source once, for digests that `digests.new` knows. Canceling it stops it within a step.
    `progress` is told how many bytes were read so far.

    Raises:
        Refused: SOURCE_CHANGED where it is changed or touched again and again meanwhile; else as
            `Opened.read`.
    """
    hashers: dict[str, Hasher] = {}

    async def feed(at: int, blocks: Sequence[Chunk]) -> bool:
        await source.feed(tuple(hashers.values()), blocks)
        progress(at + sum(map(len, blocks)))
        return True

    for _ in range(ROUNDS):
        before = await source.identity()
        hashers.update((algorithm, new(algorithm)) for algorithm in algorithms)
        if await _read(source, budget, ((0, before.size),), feed) and unmoved(
            before, await source.identity()
        ):
            return Digests(before, {name: hasher.hexdigest() for name, hasher in hashers.items()})
    raise _restless(source)


async def prove(
    source: Opened, budget: Budget, grid: Grid, digests: Mapping[int, bytes], whole: Mapping[str, str]
) -> SourceIdentity | None:
    """Whether a source that moved, or may have, still has the bytes that were sent.

    Reads the pieces of `grid` that `digests` has the BLAKE3 of, and compares them; all of it, where `whole`
    has digests of all (in hexadecimal, by algorithm). Canceling it stops it within a step.

    A piece that was sent in part has no digest: what the server has of it is proved by `whole` alone. Whoever
    asks holds no memory of the budget, for this takes some.

    Returns:
        The identity that it holds for, to go by from now on; None where something differs. Where that is a
        `young` one, it is not the last word.

    Raises:
        Refused: SOURCE_CHANGED where it is touched again and again meanwhile; LOCAL_REMOVED; else as
            `Opened.read`.
    """
    spans = ((0, grid.size),) if whole else _spans(grid, digests)
    for _ in range(ROUNDS):
        before = await source.identity()
        if before.size != grid.size:
            return None
        hashers = {algorithm: new(algorithm) for algorithm in whole}
        compare = _Compare(grid, digests, tuple(hashers.values()))
        same = await _read(source, budget, spans, compare.within(source))
        if not same or any(hashers[name].hexdigest() != expected for name, expected in whole.items()):
            return None
        if unmoved(before, await source.identity()):
            return before
    raise _restless(source)


async def _read(source: Opened, budget: Budget, spans: Sequence[tuple[int, int]], feed: Feed) -> bool:
    """Hand the bytes of all spans to `feed`; whether all came, and it wanted all of them."""
    wanted, failure = True, None
    buffers = Buffers()
    with Hold(budget) as hold:
        async with anyio.create_task_group() as group:
            try:
                for start, stop in spans:
                    ahead = ReadAhead(source, group, hold, buffers, start, stop, STEP)
                    wanted = await _all_of(ahead, start, feed)
                    if not wanted:
                        break
            except Refused as refused:
                failure = refused  # raised outside, where the group makes no ExceptionGroup of it
            group.cancel_scope.cancel()
    if failure is not None and failure.fault.kind is not FaultKind.SOURCE_CHANGED:
        raise failure
    return wanted and failure is None


async def _all_of(ahead: ReadAhead, at: int, feed: Feed) -> bool:
    async for blocks in ahead:
        if not await feed(at, blocks):
            return False
        at += sum(map(len, blocks))
    return True


class _Compare:
    """Feeds digests of all, and compares those of pieces."""

    def __init__(self, grid: Grid, digests: Mapping[int, bytes], hashers: Sequence[Hasher]) -> None:
        self._grid = grid
        self._digests = digests
        self._hashers = hashers
        self._hash = blake3()

    def within(self, source: Opened) -> Feed:
        return lambda at, blocks: source.run(partial(self._compare, at, blocks))

    def _compare(self, at: int, blocks: Sequence[Chunk]) -> bool:
        for block in blocks:
            for hasher in self._hashers:
                hasher.update(block)
            if not self._pieces(at, memoryview(block)):
                return False
            at += len(block)
        return True

    def _pieces(self, at: int, block: memoryview) -> bool:
        """Whether each piece that ends in the block is the one that it was."""
        while block:
            index = at // self._grid.piece
            stop = self._grid.span(index)[1]
            some = block[: stop - at]
            at, block = at + len(some), block[len(some) :]
            expected = self._digests.get(index)
            if expected is None:
                continue
            self._hash.update(some)
            if at == stop:
                if self._hash.digest() != expected:
                    return False
                self._hash = blake3()
        return True


def _spans(grid: Grid, pieces: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """The bytes of these pieces, as few and long spans."""
    runs = IntervalSet.of(*((piece, piece + 1) for piece in pieces))
    return tuple((grid.span(first)[0], grid.span(stop - 1)[1]) for first, stop in runs)


def _restless(source: Opened) -> Refused:
    return Refused(
        Fault(
            kind=FaultKind.SOURCE_CHANGED,
            detail=f"{source.name} was changed each of the {ROUNDS} times that it was read; upload it once "
            "nobody writes to it any more",
        )
    )
