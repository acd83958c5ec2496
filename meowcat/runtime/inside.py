"""Who is inside whose code: the calls that would wait for the very function that makes them.

A context variable says it, and goes along wherever a call is carried: into worker threads, and through
`asyncio.run_coroutine_threadsafe` and `anyio.from_thread` back to the event loop.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from msgspec import Struct

from meowcat.core.errors import WouldDeadlock


class Inside(Struct, frozen=True):
    """The function of the application that is being called."""

    engine: object
    """Whose: another engine may be used as one likes."""
    listener: bool
    name: str
    """For people: `a listener`, `sink 'audit'`."""


_INSIDE: ContextVar[Inside | None] = ContextVar("meowcat_inside", default=None)


@contextmanager
def inside(what: Inside) -> Iterator[None]:
    """The body is code of the application's own that meowcat calls."""
    token = _INSIDE.set(what)
    try:
        yield
    finally:
        _INSIDE.reset(token)


def refuse_inside_listener(call: str = "a blocking call", engine: object | None = None) -> None:
    """Refuse a call that waits, from inside a listener (of `engine`, where one is given).

    Raises:
        WouldDeadlock: at once, instead of a wait that nothing would end.
    """
    now = _INSIDE.get()
    if now is not None and now.listener and engine in (None, now.engine):
        raise WouldDeadlock(_refusal(call, now))


def refuse_inside_callback(call: str, engine: object, only: str | None = None) -> None:
    """Refuse a call that waits for the engine's listeners and sinks from inside one of them, or from inside
    the one that is named `only`.

    Raises:
        WouldDeadlock: at once.
    """
    now = _INSIDE.get()
    if now is not None and now.engine is engine and only in (None, now.name):
        raise WouldDeadlock(_refusal(call, now))


def _refusal(call: str, now: Inside) -> str:
    return (
        f"{call} from inside {now.name} would wait for {now.name} to return: "
        "set an event there, and let the code outside that waits for it make the call"
    )
