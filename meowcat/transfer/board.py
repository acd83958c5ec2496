"""Which pieces are missing, which request brings which, and how far each has come. No I/O, no clock: seconds
are given."""

from collections.abc import Iterator

from anyio import CancelScope

from meowcat.core.http_rules import Asked
from meowcat.core.leases import Lease, Leased, Split, lost_patience, next_lease, split
from meowcat.core.pieces import Grid, IntervalSet
from meowcat.core.values import Generation
from meowcat.transfer.pace import Meter, Paces
from meowcat.transfer.pouring import Span
from meowcat.transfer.writers import Stream
from meowcat.transport.contract import Chunk

__all__ = ["Board", "Part"]

FIRST_PIECES = 2
"""Pieces that the first request asks for while the size is unknown. Two are never split, so that whatever is
no larger takes one request; all else goes on in parallel as soon as this reply's head has come."""

FIRST_BYTES = 8 << 20
"""Bytes that the first request asks for at most."""

WORTH = 64 << 10
"""Bytes for which a request was worth it, though no piece is done by it."""


class Part:
    """A lease at work: one request after the other, as the server's replies may be shorter than asked."""

    def __init__(self, lease: Lease, start: int) -> None:
        self.lease = lease
        self.claims = IntervalSet.of((lease.first, lease.stop))
        """The pieces that it writes; others that its reply brings are passed over."""
        self.at = start
        """The next byte to come."""
        self.stream: Stream | None = None
        self.span: Span | None = None
        """What a thread is reading, without telling of each chunk: `Board.catch_up` asks."""
        self.whole = False
        """Whether its reply brings all of the content from byte 0, whatever was asked for."""
        self.withheld = IntervalSet()
        """Pieces that came in a reply whose own digest is still to be compared."""
        self.checked = False
        """Whether its reply has a digest of its own, so that its pieces count at the end only."""
        self.firm = False
        """Whether it may not be split: its reply has to be read to the end."""
        self.waits = False
        """Whether it waits for room for what comes, which is no fault of its connection."""
        self.meter: Meter | None = None
        """Of its request, if one is under way."""
        self.scope: CancelScope | None = None
        """Of that request."""
        self.renewed = 0
        """How often in a row it was asked for again, since it was too slow."""

    def give_up(self) -> None:
        """End its request, so that another one is made for the rest."""
        if self.scope is not None:
            self.scope.cancel()


class Board:
    """The pieces of one content, once its size is known.

    Args:
        connections: requests at once.

    """

    def __init__(self, connections: int) -> None:
        self.connections = connections
        self.parts: list[Part] = []
        self.grid: Grid | None = None
        self.missing = IntervalSet()
        """Pieces that have not come in full. Those on their way to the disk are not missing."""
        self._brought = 0
        self.paces = Paces()

    def lay(self, grid: Grid, stored: IntervalSet) -> None:
        """The size is known, and so is what an earlier operation stored."""
        self.grid = grid
        self.missing = IntervalSet.of((0, grid.count)) - stored

    def lose(self, pieces: IntervalSet) -> None:
        """What was stored is not there any more."""
        self.missing |= pieces

    @property
    def streaming(self) -> bool:
        """Whether a reply brings all there is, so that no further request is of use."""
        return any(part.whole for part in self.parts)

    def next(self, now: float) -> Part | None:
        """The next part to ask for; None while nothing more can be given out. The grid is laid."""
        assert self.grid is not None  # noqa: S101  # the caller's order
        free = self.connections - len(self.parts)
        if free < 1 or self.streaming:
            return None
        self.catch_up()
        leased = [self._leased(part, now) for part in self.parts]
        usual = self.paces.usual(running.rate for running in leased)
        lease = next_lease(self.missing, leased, free, usual, self.grid.piece)
        if lease is None:
            cut = split(leased, usual, self.grid.piece)
            lease = cut.given if cut is not None and self._split(cut) else None
        return None if lease is None else self.add(lease)

    def laggards(self, now: float) -> list[Part]:
        """Parts whose requests should be given up and made again: they are far slower than others."""
        self.catch_up()
        leased = [self._leased(part, now) for part in self.parts]
        usual = self.paces.usual(running.rate for running in leased)
        return [
            part
            for part, running in zip(self.parts, leased, strict=True)
            if part.meter is not None
            and not part.firm
            and not part.waits
            and (part.span is None or part.span.reading)  # a slow disk is no fault of the connection
            and lost_patience(running, usual, now - part.meter.asked, part.renewed)
        ]

    def trim(self, now: float) -> None:
        """Where more parts are at work than there are to be, the latest end with the piece in work."""
        lasting = [(part, leased) for part in self.parts if (leased := self._leased(part, now)).spare]
        for part, leased in lasting[self.connections :]:
            self._shorten(part, leased.at + 1)

    def ask(self, part: Part, now: float) -> None:
        """A request for it goes out."""
        part.meter = Meter(now)

    def answer(self, part: Part, now: float) -> None:
        """The head of its reply has come."""
        if part.meter is not None:
            self.paces.waited(part.meter.begin(now, part.at))

    def end(self, part: Part, now: float) -> None:
        """Its request is over."""
        if part.meter is not None:
            self.paces.ended(part.meter.overall(now, part.at))
            part.meter = None

    def add(self, lease: Lease) -> Part:
        part = Part(lease, lease.first * self.grid.piece if self.grid else 0)
        self.parts.append(part)
        return part

    def _leased(self, part: Part, now: float) -> Leased:
        assert self.grid is not None  # noqa: S101  # the caller's order
        at = part.lease.stop if part.firm else part.at // self.grid.piece
        left = (self.stop_of(part) or 0) - part.at
        rate = None
        if part.meter is not None:
            rate = 0.0 if part.meter.silent(now, self.paces.latency) else part.meter.rate(now, part.at)
        return Leased(part.lease, at, left, rate)

    def _split(self, split: Split) -> bool:
        return self._shorten(next(part for part in self.parts if part.lease == split.running), split.at)

    def _shorten(self, part: Part, stop: int) -> bool:
        """Cut the running part short; False if its thread has got beyond that by now."""
        assert self.grid is not None  # noqa: S101  # as in `next`
        if part.span is not None and not part.span.cut(stop * self.grid.piece):
            return False
        part.lease = Lease(part.lease.first, stop)
        part.claims = IntervalSet.of((part.lease.first, part.lease.stop))
        return True

    @property
    def brought(self) -> int:
        """Bytes that have come by now, whatever became of them."""
        self.catch_up()
        return self._brought

    def catch_up(self) -> None:
        """Take in what threads have brought."""
        for part in self.parts:
            if part.span is not None:
                self.came(part, part.span.at - part.at)

    def widen(self, part: Part) -> None:
        """Its reply brings everything from byte 0: it takes whatever is missing and not another part's."""
        part.whole, part.at, part.firm = True, 0, True
        if self.grid is None:
            return
        others = IntervalSet.of(*(each for other in self.parts if other is not part for each in other.claims))
        part.claims = self.missing - others
        part.lease = Lease(0, self.grid.count)

    def stop_of(self, part: Part) -> int | None:
        """The byte at which it has all that it is for; None where only the end of the content will tell."""
        if self.grid is None:
            return None
        pieces = part.claims.pairs[-1][1] if part.claims else 0
        return min(pieces * self.grid.piece, self.grid.size)

    def asked(self, part: Part, pinned: Generation | None) -> Asked:
        """What its next request asks for."""
        return Asked(part.at, self.stop_of(part), pinned)

    def wanted(self, part: Part, chunk: Chunk) -> Iterator[tuple[int, Chunk]]:
        """What of the bytes that came at `part.at` is to be written, with offsets."""
        if self.grid is None:
            yield part.at, chunk
            return
        piece, begin, end = self.grid.piece, part.at, part.at + len(chunk)
        for first, stop in part.claims.between(begin // piece, -(-end // piece)):
            low, high = max(begin, first * piece), min(end, stop * piece)
            yield low, chunk[low - begin : high - begin]

    def came(self, part: Part, count: int) -> None:
        """`count` bytes more have come, and what of them is wanted is on its way to the disk."""
        before, part.at = part.at, part.at + count
        self._brought += count
        if self.grid is None:
            return
        start = before // self.grid.piece * self.grid.piece
        done = self.grid.pieces_within(start, part.at) & part.claims
        self.missing -= done
        if part.checked:
            part.withheld |= done

    def began(self, part: Part, at: int) -> bool:
        """Whether a request from `at` on has brought something worth having of a piece that is not done, and
        nothing more; and another request may go on with it."""
        if self.grid is None or part.whole or part.checked or part.stream is None:
            return False
        piece = self.grid.piece
        return part.at - at >= WORTH and part.at // piece == at // piece

    def confirm(self, part: Part) -> None:
        """The reply came in full, and has the digest that it says."""
        part.checked, part.firm, part.withheld = False, False, IntervalSet()

    def drop(self, part: Part) -> None:
        """The part is over; what it did not bring is missing again."""
        self.parts.remove(part)
        self.missing |= part.withheld
