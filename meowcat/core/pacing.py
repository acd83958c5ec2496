"""How many requests a host is given at once, by how it answers: halved when it says that they are too many,
one more each time that it has answered as many well.

Additive increase, multiplicative decrease, as in TCP (RFC 5681, 3.1): the one rule of its kind under which
those that share a server come to equal shares. Only what was really used counts as proof that more would be
taken (RFC 7661, 4.2).
"""

from msgspec import Struct

from meowcat.core.values import Fault, FaultKind

TOO_MANY = frozenset({429, 503})
"""Too Many Requests (RFC 6585, 4) and Service Unavailable (RFC 9110, 15.6.4), which S3, OSS and Azure answer
to clients that are too fast."""

WIDEN_MS = 1000
"""The least time from one step to the next: servers that bound requests count them by the second, and answers
to small requests would prove too much too soon."""


class Window(Struct, frozen=True):
    """What a host is given for now. Instants are monotonic milliseconds."""

    most: int
    """Requests at once."""
    since: int
    """When that began."""
    answers: int = 0
    """Good answers since then."""


def too_many(fault: Fault) -> bool:
    """Whether the host says that it gets more than it takes."""
    return fault.kind is FaultKind.STATUS and fault.status in TOO_MANY


def narrowed(window: Window | None, under_way: int, now: int) -> Window:
    """After an answer that said so, to one of `under_way` requests: half of them, and never none.

    Once for all that were under way: the answers to those that started before say nothing new.
    """
    used = under_way if window is None else min(under_way, window.most)
    return Window(max(1, used // 2), now)


def answered(window: Window, under_way: int, now: int) -> Window:
    """After a good answer, to one of `under_way` requests. It counts where at least half of the window is in
    use; as many as the window is wide, and a second, make it wider by one."""
    if 2 * under_way < window.most:
        return window
    answers = window.answers + 1
    if answers >= window.most and now - window.since >= WIDEN_MS:
        return Window(window.most + 1, now)
    return Window(window.most, window.since, answers)
