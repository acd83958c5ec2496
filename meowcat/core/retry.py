"""Which failures are worth another attempt, and when it may begin.

All delays are durations in milliseconds. The randomness comes in as `roll`, a number in [0, 1).
"""

from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum

from msgspec import Struct

from meowcat.core.values import Fault, FaultKind

DAY_MS = 24 * 60 * 60 * 1000
HOST_PROBE_CAP_MS = 5 * 60 * 1000
"""The longest wait between two looks at a host that can't be reached, or at a sink that fails."""
DISK_PROBE_CAP_MS = 30 * 1000
"""The longest wait between two looks at a full disk: looking is cheap, and space often comes back soon."""
_PROBE_BASE_MS = 1000
_MAX_DOUBLINGS = 32
"""Far beyond any cap; keeps the power of two small however often something failed."""
_MAX_DIGITS = 19


class Class(StrEnum):
    """What to do about a fault."""

    TRANSIENT = "transient"
    """Try again after a backoff; uses up one of the task's retries."""
    UNREACHABLE = "unreachable"
    """Wait for the host with growing probes; uses up no retry."""
    DISK = "disk"
    """Wait for space with growing probes; uses up no retry."""
    CHANGED = "changed"
    """Another generation: what is stored must be dropped, and the content begun anew."""
    SUPPLY = "supply"
    """Wait until it is supplied anew; uses up no retry."""
    PERMANENT = "permanent"
    """Another attempt would end the same way."""


_CLASSES = {
    FaultKind.UNREACHABLE: Class.UNREACHABLE,
    FaultKind.TIMEOUT: Class.TRANSIENT,
    FaultKind.SLOW: Class.TRANSIENT,
    FaultKind.DISCONNECTED: Class.TRANSIENT,
    FaultKind.CHANGED: Class.CHANGED,
    FaultKind.DISK_FULL: Class.DISK,
    FaultKind.EXHAUSTED: Class.TRANSIENT,
    FaultKind.SESSION_LOST: Class.CHANGED,
    FaultKind.CREDENTIAL: Class.TRANSIENT,
    FaultKind.EXPIRED: Class.SUPPLY,
}
"""Kinds that are not here are permanent: certificates, contradicting replies and wrong digests do not get
better by asking again, and an endless loop over them would look like work."""

_TRANSIENT_STATUSES = frozenset({408, 425, 429})
_PERMANENT_5XX = frozenset({501, 505})
"""Not Implemented and HTTP Version Not Supported (RFC 9110 15.6.2, 15.6.6): the server never will."""


def classify(fault: Fault) -> Class:
    """The class of `fault`: by its kind, and for a STATUS by its number (RFC 9110 15, RFC 8470 5.2)."""
    if fault.kind is not FaultKind.STATUS:
        return _CLASSES.get(fault.kind, Class.PERMANENT)
    status = fault.status or 0
    transient = status in _TRANSIENT_STATUSES or (500 <= status <= 599 and status not in _PERMANENT_5XX)  # noqa: PLR2004  # the 5xx class
    return Class.TRANSIENT if transient else Class.PERMANENT


def backoff(attempt: int, roll: float, base_ms: int = 500, cap_ms: int = 30_000) -> int:
    """The delay after failure number `attempt` (1 for the first): full jitter, so that clients that failed
    together do not come back together.

    Anything from 0 up to `base_ms` doubled for each failure after the first, at most `cap_ms`. That it may
    be 0 spins nothing, since each failure uses up a retry.
    """
    return int(roll * _doubled(base_ms, attempt, cap_ms))


def probe_delay(attempt: int, roll: float, cap_ms: int = HOST_PROBE_CAP_MS) -> int:
    """The delay before look number `attempt` (1 for the first) at a host, a disk or a sink.

    Grows from about a second to `cap_ms`. Only half of it is jitter: these looks are not counted, so a delay
    of next to nothing would spin.
    """
    whole = _doubled(_PROBE_BASE_MS, attempt, cap_ms)
    return whole // 2 + int(roll * (whole - whole // 2))


def _doubled(base_ms: int, attempt: int, cap_ms: int) -> int:
    doublings = min(max(attempt - 1, 0), _MAX_DOUBLINGS)
    return min(cap_ms, base_ms << doublings)


def http_date(value: str | None) -> int | None:
    """Milliseconds since 1970 UTC of an HTTP-date in any of its three forms (RFC 9110 5.6.7)."""
    if value is None:
        return None
    try:
        moment = parsedate_to_datetime(value.strip())
        if moment.tzinfo is None:  # asctime has no zone, and `-0000` means none: both are UTC here
            moment = moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1000)
    except (ValueError, TypeError, IndexError, OverflowError):  # what the standard parser raises on garbage
        return None


def parse_retry_after(value: str | None, date_header: str | None, now_ms: int | None) -> int | None:
    """How long Retry-After asks to wait, in milliseconds from now (RFC 9110 10.2.3); None for garbage.

    An HTTP-date is measured against the reply's own Date, so that a wrong clock on this side does not
    matter, and against `now_ms` (since 1970 UTC) only where the reply has no Date that can be read. A moment
    that has passed is 0; nothing is longer than a day.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return min(int(text[:_MAX_DIGITS]) * 1000, DAY_MS)
    until = http_date(text)
    since = http_date(date_header)
    if since is None:
        since = now_ms
    if until is None or since is None:
        return None
    return min(max(until - since, 0), DAY_MS)


class HostHold(Struct, frozen=True):
    """What a host asked for with Retry-After, for all requests to it. Instants are monotonic milliseconds."""

    until: int | None = None
    """No request before this; None where the host is free."""
    probing: bool = False
    """Whether the one request that may go first after `until` is under way."""


class Start(Struct, frozen=True):
    """Whether a request may start, and the hold after that answer."""

    allowed: bool
    hold: HostHold
    again_at: int | None = None
    """When to ask again; None where it was allowed, or where the probe's end will tell."""
    probe: bool = False
    """Whether this request is the one that goes first: its end is told with `probe_over`."""


FREE = HostHold()


def hold(state: HostHold, until: int) -> HostHold:
    """After a reply that asked to wait until `until`. An earlier end never shortens a hold."""
    return HostHold(max(until, state.until or 0))


def lift(state: HostHold, now: int) -> HostHold:
    """After a user has asked for it to be tried at once: its time is over, so one request may go first."""
    return state if state.until is None else HostHold(min(now, state.until), state.probing)


def may_start(state: HostHold, now: int) -> Start:
    """Whether a request may start at `now`. After a hold exactly one may, until `probe_over` or `hold`."""
    if state.until is None:
        return Start(allowed=True, hold=state)
    if state.probing:
        return Start(allowed=False, hold=state)
    if now < state.until:
        return Start(allowed=False, hold=state, again_at=state.until)
    return Start(allowed=True, hold=HostHold(state.until, probing=True), probe=True)


def probe_over(state: HostHold, *, answered: bool) -> HostHold:
    """After the request whose `Start` was a probe ended without being told to wait again.

    An answer reopens the host. Without one (stopped, disconnected) the next request is the probe.
    """
    return FREE if answered else HostHold(state.until)
