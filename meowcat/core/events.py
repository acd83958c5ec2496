"""What can have happened to a task. Each event carries the state that it led to: replay only copies it.

An event's tag and version are part of the journal's format for ever. A field is never removed, renamed or
given another meaning: a change makes a new version with an upcaster (`meowcat.journal.codec`), and
`specs/events/` holds the JSON schema of every version; a test refuses a schema that changed without one.
Defaults are always written out, so that a default that changes later rewrites no history.
"""

from typing import ClassVar

from msgspec import Struct

from meowcat.core.machine import State
from meowcat.core.transfers import Request
from meowcat.core.values import Checksum, Fault, FileIdentity, Generation, TaskId
from meowcat.core.waits import WaitingFor


class Event(Struct, frozen=True, kw_only=True, gc=False, tag_field="type"):
    """The base of all events; `state` is the task's state after it."""

    version: ClassVar[int] = 1
    state: State


class Created(Event, frozen=True, kw_only=True, tag="created"):
    version: ClassVar[int] = 2
    task: TaskId
    key: str
    """The name that no other live task has: the target's path, unless the user chose one."""
    at: int
    """Milliseconds since 1970 UTC."""
    request: Request
    """Without secrets; `request.needs` names what was left out."""


class Admitted(Event, frozen=True, kw_only=True, tag="admitted"):
    """A slot was granted: a new run begins, and what earlier runs stored must prove itself again."""

    run: int


class Started(Event, frozen=True, kw_only=True, tag="started"):
    """The content is known: from here on every byte must be of this generation."""

    generation: Generation
    piece_size: int
    """Bytes in a piece of the grid; the last piece may be shorter."""


class Stored(Event, frozen=True, kw_only=True, tag="stored"):
    """One flush: these pieces are written, and synced to the level of `durability`."""

    pieces: tuple[tuple[int, int], ...]
    """Half-open ranges of piece numbers, in order."""
    digests: bytes
    """The pieces' BLAKE3 digests, 32 bytes each, in the order of `pieces`."""
    file: FileIdentity
    size: int | None = None
    """The content's size in bytes, where only the end of the stream told it."""


class Rechecked(Event, frozen=True, kw_only=True, tag="rechecked"):
    """Pieces of earlier runs were read again and compared with their digests."""

    kept: tuple[tuple[int, int], ...]
    lost: tuple[tuple[int, int], ...]
    """Not what was stored: to be fetched again."""


class AttemptFailed(Event, frozen=True, kw_only=True, tag="attempt-failed"):
    """Something failed and will be tried again. No new request starts before `delay` is over."""

    fault: Fault
    attempt: int
    """1 for the first failure in a row; failures of requests that began before the last one repeat it."""
    waiting_for: WaitingFor
    delay: int | None
    """Milliseconds, measured monotonically and begun again at an opening; None lengthens no delay."""


class Restarted(Event, frozen=True, kw_only=True, tag="restarted"):
    """What was stored is dropped, and the content is asked for anew."""

    reason: str
    changed: bool
    """Whether the remote content was another one: this counts against the retries."""


class Waiting(Event, frozen=True, kw_only=True, tag="waiting"):
    """The task can't go on before something is supplied from outside."""

    waiting_for: WaitingFor
    names: tuple[str, ...] = ()
    """What is missing, by name."""


class WaitEnded(Event, frozen=True, kw_only=True, tag="wait-ended"):
    """The delay is over."""


class Supplied(Event, frozen=True, kw_only=True, tag="supplied"):
    """What a restart can't know was handed in again."""

    version: ClassVar[int] = 2
    names: tuple[str, ...]
    """Of headers (`header:cookie`) and of the URL (`url`); never a value that may be secret."""
    request: Request | None = None
    """The request with its new URL, without secrets, where the URL was supplied."""


class PublishIntended(Event, frozen=True, kw_only=True, tag="publish-intended"):
    """All bytes are verified; from here on the part file may have become the target at any instant."""

    file: FileIdentity
    size: int
    digests: tuple[Checksum, ...]
    """Of the whole content: those that were expected, each compared, and the one that was asked for."""


class Completed(Event, frozen=True, kw_only=True, tag="completed"):
    """The file stands at its target. Says by itself what came from where: it is what a receipt proves."""

    version: ClassVar[int] = 2
    path: str
    size: int
    digests: tuple[Checksum, ...]
    """As in `PublishIntended`."""
    url: str | None = None
    """As it is stored: without secrets. None in a record of version 1, as are those below."""
    created: int | None = None
    """When the task was recorded: milliseconds since 1970 UTC."""
    client_file_sign: str | None = None


class Paused(Event, frozen=True, kw_only=True, tag="paused"):
    reason: str


class Resumed(Event, frozen=True, kw_only=True, tag="resumed"):
    pass


class Requeued(Event, frozen=True, kw_only=True, tag="requeued"):
    """Gave its slot back, in good order."""

    reason: str


class Recovered(Event, frozen=True, kw_only=True, tag="recovered"):
    """What was decided for the task when its journal was opened again."""

    crashed: bool
    """Whether the task was at work when its process died."""
    reason: str


class Failed(Event, frozen=True, kw_only=True, tag="failed"):
    fault: Fault


class Canceled(Event, frozen=True, kw_only=True, tag="canceled"):
    pass


class PartDiscarded(Event, frozen=True, kw_only=True, tag="part-discarded"):
    """A canceled task's part file is gone."""

    published: bool
    """Whether it had become the target before the cancel came: then it was left there, whole."""


class Retried(Event, frozen=True, kw_only=True, tag="retried"):
    pass


def _tag(event: type[Event]) -> str:
    tag = event.__struct_config__.tag
    assert isinstance(tag, str)  # noqa: S101  # every event has an explicit tag; the import must fail without
    return tag


EVENT_TYPES: dict[str, type[Event]] = {_tag(event): event for event in Event.__subclasses__()}
"""Every event by its tag."""
TAGS: dict[type[Event], str] = {event: tag for tag, event in EVENT_TYPES.items()}
