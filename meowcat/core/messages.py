"""What an actor is told: commands from outside, and reports of its operations.

A report of byte work carries the `run` and the `restarts` that its operation was started under, and is
dropped when the task has moved on. A report of settling work is never dropped.
"""

from typing import ClassVar

from msgspec import Struct

from meowcat.core.sessions import Receipt, Session
from meowcat.core.transfers import Request
from meowcat.core.values import Checksum, Fault, FileIdentity, Generation, SourceIdentity, TaskId


class Message(Struct, frozen=True, kw_only=True, gc=False):
    """The base of all messages."""


# Commands


class Create(Message, frozen=True, kw_only=True, tag="create"):
    task: TaskId
    key: str
    request: Request
    paused: bool = False


class Admit(Message, frozen=True, kw_only=True, tag="admit"):
    """The scheduler has a slot for the task."""

    missing: tuple[str, ...] = ()
    """What the task needs and nobody has supplied since the journal was opened."""


class Pause(Message, frozen=True, kw_only=True, tag="pause"):
    reason: str = "asked to"


class Resume(Message, frozen=True, kw_only=True, tag="resume"):
    pass


class Cancel(Message, frozen=True, kw_only=True, tag="cancel"):
    pass


class Retry(Message, frozen=True, kw_only=True, tag="retry"):
    pass


class Supply(Message, frozen=True, kw_only=True, tag="supply"):
    names: tuple[str, ...]
    request: Request | None = None
    """With its new URL, sealed, where a URL was supplied."""


class Reap(Message, frozen=True, kw_only=True, tag="reap"):
    """Try again to remove the sessions that were given up."""


class Requeue(Message, frozen=True, kw_only=True, tag="requeue"):
    reason: str


class Recover(Message, frozen=True, kw_only=True, tag="recover"):
    """The journal was opened, and `on_restart` has answered for this task."""

    resume: bool
    reason: str = "asked to"


class Wake(Message, frozen=True, kw_only=True, tag="wake"):
    """The delay of a wait is over."""

    seq: int
    """The wait that is meant (`Wait.seq`)."""


# Reports


class Report(Message, frozen=True, kw_only=True):
    """From byte work."""

    run: int
    restarts: int


class Probed(Report, frozen=True, kw_only=True, tag="probed"):
    """The head of a first valid reply: this is the content."""

    generation: Generation


class Flushed(Report, frozen=True, kw_only=True, tag="flushed"):
    """Pieces are written, hashed and flushed. Fields as in `events.Stored`."""

    pieces: tuple[tuple[int, int], ...]
    digests: bytes
    file: FileIdentity
    size: int | None = None


class Brought(Flushed, frozen=True, kw_only=True, tag="brought"):
    """`Probed` and `Flushed` at once: all of a content of which nothing was known has come, and is stored."""

    generation: Generation
    whole: tuple[Checksum, ...] = ()
    """Its digests, of all `downloads.algorithms`: then the file need not be read for them, as for `Digested`.
    """


class Proved(Report, frozen=True, kw_only=True, tag="proved"):
    """Pieces of earlier runs were read again. Fields as in `events.Rechecked`."""

    kept: tuple[tuple[int, int], ...]
    lost: tuple[tuple[int, int], ...]


class Digested(Report, frozen=True, kw_only=True, tag="digested"):
    """The whole part file was read and hashed."""

    digests: tuple[Checksum, ...]
    changed: tuple[tuple[int, int], ...] = ()
    """Runs of pieces that are not what was stored there."""


class Pinned(Report, frozen=True, kw_only=True, tag="pinned"):
    """The source of an upload was looked at, or found to have the same bytes. As `events.SourcePinned`."""

    source: SourceIdentity
    digests: tuple[Checksum, ...]


class Opening(Report, frozen=True, kw_only=True, tag="opening"):
    """A session is about to be asked for, as soon as that is recorded."""


class Confirmed(Report, frozen=True, kw_only=True, tag="confirmed"):
    """The server has these parts. Fields as in `events.Sent`."""

    pieces: tuple[tuple[int, int], ...]
    digests: bytes
    receipts: tuple[Receipt, ...]


class Ready(Report, frozen=True, kw_only=True, tag="ready"):
    """All is sent but what the commit sends, and the source is still what was sent of it."""

    digests: tuple[Checksum, ...]
    """Of the whole."""


class Faulted(Report, frozen=True, kw_only=True, tag="faulted"):
    fault: Fault


class Settled(Message, frozen=True, kw_only=True):
    """From settling work: never stale."""

    settling: ClassVar[bool] = True


class Published(Settled, frozen=True, kw_only=True, tag="published"):
    """The target is the verified file, durably."""


class PublishFailed(Settled, frozen=True, kw_only=True, tag="publish-failed"):
    """The part file is certainly not the target; why."""

    fault: Fault


class Discarded(Settled, frozen=True, kw_only=True, tag="discarded"):
    """The part file is gone, durably."""

    published: bool = False


class DiscardFailed(Settled, frozen=True, kw_only=True, tag="discard-failed"):
    """The part file is still there; why."""

    fault: Fault


class Opened(Settled, frozen=True, kw_only=True, tag="opened"):
    """The server takes parts. Fields as in `events.SessionOpened`."""

    session: Session
    piece_size: int
    held: tuple[tuple[int, int], ...] = ()
    result: dict[str, str] | None = None
    """What the server says of the object, where it has all of it already."""


class Unopened(Settled, frozen=True, kw_only=True, tag="unopened"):
    """No session came of an intent."""

    fault: Fault | None = None
    """Why not; None where nothing was asked for."""
    lost: bool = False
    """Whether one may stand at the server all the same."""


class Committed(Settled, frozen=True, kw_only=True, tag="committed"):
    """The object stands at the server."""

    result: dict[str, str]


class CommitFailed(Settled, frozen=True, kw_only=True, tag="commit-failed"):
    """The commit has not succeeded, as far as is known; why."""

    fault: Fault


class Aborted(Settled, frozen=True, kw_only=True, tag="aborted"):
    """The server knows no such session any more. Fields as in `events.SessionAborted`."""

    session: str
    committed: bool = False


class AbortFailed(Settled, frozen=True, kw_only=True, tag="abort-failed"):
    """The session may still stand at the server; why."""

    session: str
    fault: Fault


COMMANDS = (Create, Admit, Pause, Resume, Cancel, Retry, Supply, Reap, Requeue, Recover, Wake)
REPORTS = (
    *(Probed, Flushed, Brought, Proved, Digested, Faulted),
    *(Published, PublishFailed, Discarded, DiscardFailed),
    *(Pinned, Opening, Opened, Unopened, Confirmed, Ready, Committed, CommitFailed, Aborted, AbortFailed),
)
MESSAGE_TYPES: dict[str, type[Message]] = {str(m.__struct_config__.tag): m for m in (*COMMANDS, *REPORTS)}
"""Every message by its tag, for specs."""
