"""What can have happened to a task. Each event carries the state that it led to: replay only copies it.

An event's tag and version are part of the journal's format for ever. A field is never removed, renamed or
given another meaning: a change makes a new version with an upcaster (`meowcat.journal.codec`), and
`specs/events/` holds the JSON schema of every version; a test refuses a schema that changed without one.
Defaults are always written out, so that a default that changes later rewrites no history.
"""

from typing import ClassVar

from msgspec import Struct, field

from meowcat.core.machine import State
from meowcat.core.sessions import Receipt, Session
from meowcat.core.transfers import Direction, Request
from meowcat.core.values import Checksum, Fault, FileIdentity, Generation, SourceIdentity, TaskId
from meowcat.core.waits import WaitingFor


class Event(Struct, frozen=True, kw_only=True, gc=False, tag_field="type"):
    """The base of all events; `state` is the task's state after it."""

    version: ClassVar[int] = 1
    state: State


class Created(Event, frozen=True, kw_only=True, tag="created"):
    version: ClassVar[int] = 4
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

    version: ClassVar[int] = 3
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

    version: ClassVar[int] = 4
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


class SourcePinned(Event, frozen=True, kw_only=True, tag="source-pinned"):
    """What an upload reads: from here on every byte that is sent is of this source, in this state of it; or,
    again, of another one that was found to have the same bytes."""

    source: SourceIdentity
    digests: tuple[Checksum, ...]
    """Of the whole, where the protocol needs them."""


class SessionIntended(Event, frozen=True, kw_only=True, tag="session-intended"):
    """From here on a session of the task may stand at the server."""


class SessionUnopened(Event, frozen=True, kw_only=True, tag="session-unopened"):
    """No session came of the intent, as far as is known."""

    lost: bool
    """Whether one may stand at the server all the same: its reply did not come."""


class SessionOpened(Event, frozen=True, kw_only=True, tag="session-opened"):
    """The server takes parts."""

    session: Session
    piece_size: int
    """Bytes in a part; the last one may be shorter."""
    held: tuple[tuple[int, int], ...]
    """Half-open ranges of the parts that the server had already and vouches for."""


class Sent(Event, frozen=True, kw_only=True, tag="sent"):
    """The server has confirmed these parts."""

    pieces: tuple[tuple[int, int], ...]
    """Half-open ranges of part numbers, the first of which is 0, in order."""
    digests: bytes
    """The parts' BLAKE3 digests, 32 bytes each, in the order of `pieces`: of exactly the bytes that went."""
    receipts: tuple[Receipt, ...]
    """In the same order."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of the parts, in that order."""
        return tuple(index for first, stop in self.pieces for index in range(first, stop))


class SessionDropped(Event, frozen=True, kw_only=True, tag="session-dropped"):
    """What was sent counts no more, and all begins anew."""

    reason: str
    abort: bool
    """Whether the session, if there is one, is to be removed from the server. It always is, also where the
    server says that it is gone: that may have been so for a moment. Earlier journals believe it."""
    changed: bool
    """Whether it counts against the retries."""
    unpin: bool
    """Whether the source is another one now."""


class CommitIntended(Event, frozen=True, kw_only=True, tag="commit-intended"):
    """All is sent and the source is proved; from here on the object may stand at the server."""

    size: int
    digests: tuple[Checksum, ...]
    """Of the whole: those that the protocol needed, and the one that was asked for."""


class SessionAborted(Event, frozen=True, kw_only=True, tag="session-aborted"):
    """A session that nobody needs was dealt with."""

    session: str
    """Its id."""
    gone: bool
    """Whether the server says that it is no more; otherwise it was given up, and `detail` says why."""
    committed: bool
    """Whether it had become the object before the cancel came: then that was left there, whole."""
    detail: str = ""


class SessionCondemned(Event, frozen=True, kw_only=True, tag="session-condemned"):
    """A session that was given up is to be removed after all: somebody asked for it."""

    session: str
    """Its id."""


class Completed(Event, frozen=True, kw_only=True, tag="completed"):
    """The file stands at its target, or the object at its URL. Says by itself what came from where: it is
    what a receipt proves."""

    version: ClassVar[int] = 3
    path: str
    """The target of a download, the source of an upload."""
    size: int
    digests: tuple[Checksum, ...]
    """As in `PublishIntended` or `CommitIntended`."""
    url: str | None = None
    """As it is stored: without secrets. None in a record of version 1, as are those below."""
    created: int | None = None
    """When the task was recorded: milliseconds since 1970 UTC."""
    client_file_sign: str | None = None
    direction: Direction = "download"
    """Versions 1 and 2 are of downloads."""
    result: dict[str, str] = field(default_factory=dict)
    """What the server said of an uploaded object: `etag`, `version_id`, `file_id` …"""


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
    version: ClassVar[int] = 3
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
