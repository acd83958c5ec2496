"""Receiving: the bytes of one reply on their way from the network to the writers.

A body comes by the event loop, chunk by chunk, or by a thread that reads, writes and hashes it on its own
where the transport has one (`transport.contract.Pours`). Either way it may be cut short while it comes: what
lies behind the cut is another part's by then.
"""

from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.contract import Answer, Refused
from meowcat.transfer.allowance import Allowance
from meowcat.transfer.board import Board, Part
from meowcat.transfer.context import Throttle, World
from meowcat.transfer.pouring import MOST_BLOCK, Pourer, Span
from meowcat.transfer.slowness import Pace
from meowcat.transfer.writers import Writers
from meowcat.transport.contract import LARGE, Chunk, Pours

__all__ = ["READ", "Receiver"]

READ = 1 << 20
"""Bytes asked for in one read of a body."""


class Receiver:
    """Of all replies of one download.

    Args:
        world: has the memory of all transfers, and says what is too slow.
        board: knows what each part still wants, and is told what has come.
        writers: write and hash what has come.
        throttle: the limits of bandwidth.
        threads: whether threads may read bodies.

    """

    def __init__(
        self, world: World, board: Board, writers: Writers, throttle: Throttle, *, threads: bool
    ) -> None:
        self._world = world
        self._board = board
        self._writers = writers
        self._budget = world.budget
        self._throttle = throttle
        self._threads = threads

    async def receive(self, part: Part, answer: Answer, stop: int | None, piece: int) -> None:
        """Take the body as far as the part is concerned.

        Args:
            part: what it is read for.
            answer: the reply, from whose body nothing was read yet.
            stop: where the reply says that it ends; None where it does not.
            piece: bytes of a piece.

        Raises:
            Refused: the body is not what its head says.
            TransportFault: it broke off.
            WriteFailed: it can't be written.

        """
        if part.stream is None:
            limit = self._board.stop_of(part)
            part.stream = self._writers.stream(
                piece,
                None if self._board.grid is None else self._board.grid.size,
                None if limit is None else limit - part.at,
            )
        digest = None if part.whole else answer.digest  # that of a whole is compared with the file
        if digest is not None:
            part.checked = part.firm = True
            self._writers.expect(part.stream, digest)
        pours = None if digest is not None or stop is None else self._pours(part, answer)
        held = 0 if stop is None else min(MOST_BLOCK, stop - part.at)
        # It is held until the reply ends, however slow it is: where others might need it, the loop reads.
        if pours is not None and stop is not None and self._budget.take_spare(held):
            await self._pour(part, pours, stop, held)
        elif await self._drain_body(part, answer, stop) and digest is not None:
            if not await self._writers.confirm(part.stream):
                detail = f"the body from the server has not the {digest.algorithm} that its head says"
                raise Refused(_fault(FaultKind.CHECKSUM, detail))
            self._board.confirm(part)
        if self._board.grid is None:
            self._writers.end(part.stream)

    def _pours(self, part: Part, answer: Answer) -> Pours | None:
        """The reply, if a thread can read it: it brings what is missing without a gap. That is not worth its
        while for what the loop reads in a turn or two."""
        grid = self._board.grid
        if not self._threads or part.whole or grid is None or len(part.claims.pairs) != 1:
            return None
        if grid.size < LARGE:
            return None
        pours: Pours | None = getattr(answer, "pours", None)  # as a `Pouring` has it
        return pours

    async def _pour(self, part: Part, reply: Pours, stop: int, held: int) -> None:
        """Have a thread read, write and hash; `held` bytes of memory are taken for it."""
        assert part.stream is not None  # noqa: S101  # made before anything is read
        try:
            part.waits = True
            await self._writers.hand_over(part.stream)
            await self._writers.room()
            part.waits = False
            # Only now, when nothing is waited for before it is taken away again: a request that was given up
            # in between must leave no span, by which the part would go on from where the next reply is not.
            limit = self._board.stop_of(part)
            part.span = Span(part.at, stop if limit is None else min(limit, stop))
            pourer = Pourer(self._writers, part.stream, part.span, self._throttle, Pace(self._world).waited)
            try:
                ended = await reply.pour(pourer)
            finally:
                pourer.end()
        finally:
            part.waits = False
            self._budget.give(held)
            self._board.catch_up()
            part.span = None
        if ended:
            self._check_end(part, stop)
        await self._writers.room()

    async def _have_room(self, part: Part, size: int) -> None:
        """Wait until `size` bytes more may be on their way to the disk."""
        part.waits = True
        try:
            await self._writers.room()
            await self._budget.take(size)
        finally:
            part.waits = False

    async def _drain_body(self, part: Part, answer: Answer, stop: int | None) -> bool:
        """Read until the part has what it is for; whether the body was read to its end."""
        throttle = self._throttle
        allowance, pace = Allowance(throttle), Pace(self._world)
        try:
            while True:
                limit = self._board.stop_of(part)
                if limit is not None and part.at >= limit and limit != stop:
                    return False  # split off, or nothing behind it is missing: the rest is left unread
                size, limited = READ, throttle.rate is not None
                if limited:
                    # Where the body should be over, one byte is enough to tell.
                    size = allowance.size(READ if stop is None else min(READ, max(1, stop - part.at)))
                    await throttle.acquire(allowance.asks(size))
                chunk = await pace.read(answer, size)
                if limited:
                    allowance.took(size, len(chunk))
                else:
                    await throttle.acquire(len(chunk))  # which tells that bytes flow
                if not chunk:
                    self._check_end(part, stop)
                    return True
                if stop is not None and part.at + len(chunk) > stop:
                    detail = f"more bytes than up to {stop}, where the reply should end"
                    raise Refused(_fault(FaultKind.REPLY, detail))
                await self._place(part, chunk)
        finally:
            allowance.end()

    def _check_end(self, part: Part, stop: int | None) -> None:
        grid = self._board.grid
        if stop is not None and part.at < stop:
            detail = f"the body ended at byte {part.at}; expected {stop}"
            raise Refused(_fault(FaultKind.DISCONNECTED, detail))
        if part.whole and grid is not None and part.at != grid.size:
            detail = f"the content ended at byte {part.at}; expected {grid.size}"
            raise Refused(_fault(FaultKind.LENGTH, detail))

    async def _place(self, part: Part, chunk: Chunk) -> None:
        assert part.stream is not None  # noqa: S101  # made before anything is read
        await self._have_room(part, len(chunk))
        # From here on nothing may wait: a split would give bytes of this chunk to another part.
        limit = self._board.stop_of(part)
        kept = chunk if limit is None or part.whole else chunk[: max(0, limit - part.at)]
        unused = len(chunk)
        for offset, some in self._board.wanted(part, kept):
            self._writers.put(part.stream, offset, some)
            unused -= len(some)
        if unused:
            self._budget.give(unused)
        self._board.came(part, len(kept))


def _fault(kind: FaultKind, detail: str) -> Fault:
    return Fault(kind=kind, detail=detail)
