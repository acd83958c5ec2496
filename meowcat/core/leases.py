"""Who fetches which pieces: shares, splits, and what is given up as too slow. No clock: rates are measured
elsewhere, and seconds are given.
"""

from collections.abc import Iterable, Sequence
from math import ceil

from msgspec import Struct

from meowcat.core.pieces import IntervalSet

__all__ = ["Lease", "Leased", "Split", "Usual", "lost_patience", "next_lease", "split"]

LEASE_BYTES = 64 << 20
"""Bytes that one request asks for at most, as long as a request costs little: a connection is used again only
after its body was read to the end, and what was asked for and not begun is free for everybody."""

REQUESTS_SHARE = 50
"""A request lasts so many times as long as its head is waited for, or a connection would mostly wait."""

LEAST_SECONDS = 0.02
"""What a request costs besides its latency. None is made for less work than that …"""

SPLIT_SECONDS = 0.03
"""… and none is cut short, which costs its connection, if all is over sooner by less than that."""

PATIENCE = 1.0
"""Seconds that a request is given before its rate counts against it."""

GIVEN_UP_SECONDS = 0.5
"""What must be gained at least by asking again for what a slow reply still owes."""

HEADS = 3
"""Heads to wait for until the bytes of a request on a new connection come: TCP, TLS, HTTP."""


class Lease(Struct, frozen=True):
    """Consecutive pieces that one request covers: `first` up to `stop`, which is not one of them."""

    first: int
    stop: int


class Leased(Struct, frozen=True):
    """A lease at work. `at` is the piece whose bytes are coming in: all before it have come."""

    lease: Lease
    at: int
    left: int = 0
    """Bytes of the lease that have not come."""
    rate: float | None = None
    """Bytes a second, lately; None where it is too early to tell."""

    @property
    def spare(self) -> int:
        """How many pieces there are beyond the one in work: what can be given to another connection."""
        return max(0, self.lease.stop - self.at - 1)


class Split(Struct, frozen=True):
    """Cut a running lease: its request ends at piece `at`, and what lies beyond goes to a new one."""

    running: Lease
    at: int

    @property
    def given(self) -> Lease:
        return Lease(self.at, self.running.stop)


class Usual(Struct, frozen=True):
    """What the requests of the last seconds were like, so that another will be, too."""

    rate: float
    """Bytes a second of one connection."""
    latency: float
    """Seconds from asking to the head of the reply."""


def next_lease(
    missing: IntervalSet, leased: Sequence[Leased], free: int, usual: Usual | None, piece: int
) -> Lease | None:
    """What a free connection should fetch next of what nobody fetches; None where all is given out.

    The front of the file goes first. A share is what one connection brings until all is done if all have
    something to do until then, so that nobody waits for a further head: where that turns out wrong, a split
    makes up for it.

    Args:
        missing: pieces that have not come yet. Those that came and are on their way to the disk are not
            missing, or they would be fetched twice.
        leased: the requests at work; what they cover is not given out again.
        free: how many connections may still be opened.
        usual: what another request will be like; None where nothing is known.
        piece: bytes of one.
    """
    if free < 1:
        return None
    unleased = missing - _covered(running.lease for running in leased)
    if not unleased:
        return None
    share = min(_share(unleased.total * piece, leased, free, usual) / piece, unleased.total / free)
    least, most = _bounds(usual)
    pieces = max(1, min(max(ceil(share), int(least / piece)), int(most / piece)))
    first, stop = unleased.pairs[0]
    return Lease(first, min(stop, first + pieces))


def _share(unleased: int, leased: Sequence[Leased], free: int, usual: Usual | None) -> float:
    """Bytes that one free connection brings until all is done."""
    left = unleased + sum(running.left for running in leased)
    rate = 1.0 if usual is None else usual.rate
    rates = (rate if usual is None or running.rate is None else running.rate for running in leased)
    return rate * left / (sum(rates) + free * rate)


def _bounds(usual: Usual | None) -> tuple[float, float]:
    """Bytes that one request asks for, at least (if there are so many) and at most."""
    if usual is None:
        return 0, LEASE_BYTES
    least = usual.rate * max(LEAST_SECONDS, usual.latency)
    return least, max(LEASE_BYTES, usual.rate * usual.latency * REQUESTS_SHARE)


def split(leased: Sequence[Leased], usual: Usual | None, piece: int) -> Split | None:
    """Which running request a free connection should relieve, now that all is given out; None where that
    would gain too little, or nothing is known yet.

    Both parts are to end at the same time: a slow request keeps little. Its piece in work stays with it.
    """
    if usual is None:
        return None
    best, gained = None, SPLIT_SECONDS + 2 * usual.latency
    for running in leased:
        given, gain = _relief(running, usual, piece)
        if gain > gained:
            best, gained = Split(running.lease, running.lease.stop - given), gain
    return best


def _relief(running: Leased, usual: Usual, piece: int) -> tuple[int, float]:
    """How many pieces to take from a request, and how many seconds earlier all of it has come then."""
    if not running.spare:
        return 0, 0.0
    rate = max(1.0, usual.rate if running.rate is None else running.rate)
    given = max(1, min(running.spare, round(running.spare * usual.rate / (usual.rate + rate))))
    rest, taken = running.left - given * piece, given * piece
    return given, running.left / rate - max(rest / rate, usual.latency + taken / usual.rate)


def lost_patience(running: Leased, usual: Usual | None, age: float, before: int) -> bool:
    """Whether to give a request up and to ask again, over another connection, for what it still owes.

    Args:
        running: the request.
        usual: what another one would be like.
        age: seconds since it was asked.
        before: how often that was done in a row; patience doubles each time.
    """
    if usual is None or running.rate is None or age < PATIENCE * 2**before:
        return False
    anew = HEADS * usual.latency + running.left / usual.rate
    return running.left / max(1.0, running.rate) > 2 * anew + GIVEN_UP_SECONDS


def _covered(leases: Iterable[Lease]) -> IntervalSet:
    return IntervalSet.of(*((lease.first, lease.stop) for lease in leases))
