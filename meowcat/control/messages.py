"""What is said over a control socket: one JSON object a line, in both directions. Pure.

A request names its `command`, a reply its `reply`. Unknown fields are ignored, and what is missing has its
default, so that either side may be the newer one as long as `version` is the same.
"""

from typing import TypeVar

import msgspec
from msgspec import Struct, field

from meowcat.core import errors
from meowcat.core.errors import Code, ControlError, InvalidArgument, MeowcatError
from meowcat.core.info import Orphan, Snapshot, TaskInfo
from meowcat.core.machine import State, Trigger
from meowcat.core.plans import DownloadPlan, UploadPlan
from meowcat.core.transfers import Direction
from meowcat.core.urls import HIDDEN, scrub
from meowcat.core.values import TaskId
from meowcat.journal.contract import Owner

VERSION = 1
"""Of the format. A higher one may change what a command means, and is refused."""

MAX_REQUEST = 8 << 20
"""Bytes of a request's line, its line feed left aside. A plan of ten thousand signed URLs has room."""
MAX_REPLY = 64 << 20
"""Bytes of a reply's line that a client takes."""
TASKS_AT_ONCE = 1000
"""Tasks that one request may name."""
PAGE = 200
"""Tasks in one line of a reply; further ones follow in lines of their own."""

T = TypeVar("T")


# Requests


class Request(Struct, frozen=True, kw_only=True, tag_field="command"):
    version: int = VERSION


class Ping(Request, frozen=True, kw_only=True, tag="ping"):
    """Who are you?"""


class Order(Request, frozen=True, kw_only=True):
    """For the named `tasks`; or with `all` for every task that the command fits, in `states` if any."""

    tasks: tuple[TaskId, ...] = ()
    all: bool = False
    states: tuple[State, ...] = ()
    direction: Direction | None = None


class Pause(Order, frozen=True, kw_only=True, tag="pause"):
    pass


class Resume(Order, frozen=True, kw_only=True, tag="resume"):
    pass


class Cancel(Order, frozen=True, kw_only=True, tag="cancel"):
    pass


class Retry(Order, frozen=True, kw_only=True, tag="retry"):
    pass


class Supply(Request, frozen=True, kw_only=True, tag="supply"):
    """What was never journaled: it stays in the owner's memory, and is in no repr."""

    task: TaskId
    url: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    upload_plan: UploadPlan | None = None
    download_plan: DownloadPlan | None = None

    @property
    def plan(self) -> UploadPlan | DownloadPlan | None:
        return self.upload_plan or self.download_plan

    def __repr__(self) -> str:
        url = None if self.url is None else HIDDEN
        headers = sorted(self.headers)
        return f"Supply(task={self.task!r}, url={url!r}, headers={headers!r}, plan={self.plan!r})"


class Limit(Request, frozen=True, kw_only=True, tag="limit"):
    """Another bandwidth limit from now on: of the named tasks, of a host, or of all tasks together."""

    rate: int | None
    """Bytes a second; null = no limit."""
    host: str | None = None
    """A URL of it."""
    tasks: tuple[TaskId, ...] = ()


class ListTasks(Request, frozen=True, kw_only=True, tag="list"):
    """The tasks that have not ended, or those in `states`."""

    states: tuple[State, ...] = ()
    direction: Direction | None = None


class Watch(Request, frozen=True, kw_only=True, tag="watch"):
    """First the named tasks, or all that have not ended; then, about twice a second, those that changed."""

    tasks: tuple[TaskId, ...] = ()
    direction: Direction | None = None


class Glance(Request, frozen=True, kw_only=True, tag="snapshot"):
    """The engine at a glance."""


class ListOrphans(Request, frozen=True, kw_only=True, tag="orphans"):
    """The sessions at servers that no task at work needs."""


class AbortOrphans(Request, frozen=True, kw_only=True, tag="abort-orphans"):
    """Try again to remove those of them that are proved to be ours and that nothing keeps; answered with the
    tasks that they are of, once each is gone, or refused again, or has to wait."""


AnyRequest = (
    Ping
    | Pause
    | Resume
    | Cancel
    | Retry
    | Supply
    | Limit
    | ListTasks
    | Watch
    | Glance
    | ListOrphans
    | AbortOrphans
)

ORDERS: dict[type[Order], Trigger] = {
    Pause: Trigger.PAUSE,
    Resume: Trigger.RESUME,
    Cancel: Trigger.CANCEL,
    Retry: Trigger.RETRY,
}
"""Which arrow of the lifecycle each command is."""


# Replies


class Reply(Struct, frozen=True, kw_only=True, tag_field="reply"):
    pass


class Pong(Reply, frozen=True, kw_only=True, tag="pong"):
    version: int
    """Of the format."""
    meowcat: str
    """Of the package."""
    owner: Owner


class Failure(Reply, frozen=True, kw_only=True, tag="error"):
    """A refused request, or the part of it that concerns one task."""

    code: int
    name: str
    """Of the code."""
    kind: str
    """The class of the error."""
    message: str


class Outcome(Struct, frozen=True, kw_only=True):
    """What a command did to one task."""

    task: TaskId
    state: State | None = None
    """The state that it led to."""
    error: Failure | None = None
    """Why nothing has changed."""


class Done(Reply, frozen=True, kw_only=True, tag="done"):
    outcomes: tuple[Outcome, ...] = ()
    more: bool = False
    """Whether the next line goes on with this reply."""


class LiveTask(Struct, frozen=True, kw_only=True):
    """A task as its owner sees it now."""

    info: TaskInfo
    rate: float = 0.0
    """Confirmed bytes a second over the last seconds."""
    eta: float | None = None
    """Seconds to go at that rate; None where it can't be told."""
    waits_until: int | None = None
    """Milliseconds since 1970 UTC; None where it does not wait, or for what no clock knows."""


class Tasks(Reply, frozen=True, kw_only=True, tag="tasks"):
    tasks: tuple[LiveTask, ...] = ()
    more: bool = False
    refusal: str = ""
    """Why the journal takes no records now, so that none of its tasks goes on; empty while it does."""


class Glanced(Reply, frozen=True, kw_only=True, tag="snapshot"):
    snapshot: Snapshot


class Orphans(Reply, frozen=True, kw_only=True, tag="orphans"):
    orphans: tuple[Orphan, ...] = ()
    more: bool = False


AnyReply = Pong | Failure | Done | Tasks | Glanced | Orphans


# Lines


class _Versioned(Struct):
    version: int = VERSION


_VERSIONS = msgspec.json.Decoder(_Versioned)
_REQUESTS: msgspec.json.Decoder[AnyRequest] = msgspec.json.Decoder(AnyRequest)
_REPLIES: msgspec.json.Decoder[AnyReply] = msgspec.json.Decoder(AnyReply)


def line_of(message: Request | Reply) -> bytes:
    """The message as it goes over the socket, with its line feed."""
    return msgspec.json.encode(message) + b"\n"


def request_of(line: bytes) -> AnyRequest:
    """Read a request.

    Raises:
        ControlError: a later version of the format. InvalidArgument: anything that is no request; what was
            sent is not quoted, for it may hold a secret.
    """
    try:
        version = _VERSIONS.decode(line).version
        if version != VERSION:
            raise ControlError(f"this owner speaks version {VERSION} of the control format, not {version}")
        request = _REQUESTS.decode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidArgument(f"no request: {_told(error)}") from None
    _check(request)
    return request


def _told(error: Exception) -> str:
    """What was wrong, without the values that msgspec quotes of tags and enums."""
    text = str(error)
    return "an unknown command, or value" if text.startswith("Invalid") else text


def _check(request: AnyRequest) -> None:
    if isinstance(request, Order | Watch | Limit) and len(request.tasks) > TASKS_AT_ONCE:
        raise InvalidArgument(f"tasks: {len(request.tasks)} in one request; at most {TASKS_AT_ONCE}")
    if isinstance(request, Limit) and request.tasks and request.host is not None:
        raise InvalidArgument("host and tasks: a limit is for one of them, or for all tasks together")
    if not isinstance(request, Order):
        return
    if bool(request.tasks) == request.all:
        raise InvalidArgument("tasks: expected ids, or all=true, and not both")
    if request.tasks and (request.states or request.direction):
        raise InvalidArgument("states and direction: only with all=true")


def reply_of(line: bytes) -> AnyReply:
    """Read a reply.

    Raises:
        ControlError: it is none that this version knows.
    """
    try:
        return _REPLIES.decode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ControlError(f"the owner's answer can't be read: {error}") from None


def pages(items: list[T]) -> list[tuple[tuple[T, ...], bool]]:
    """The items in pages, each with whether more follow; one empty page where there are none."""
    starts = range(0, max(len(items), 1), PAGE)
    return [(tuple(items[start : start + PAGE]), start + PAGE < len(items)) for start in starts]


# Errors

_KINDS: dict[str, type[MeowcatError]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, MeowcatError)
}


def failure_of(error: MeowcatError) -> Failure:
    """The error as a reply; whatever it quotes is scrubbed."""
    return Failure(
        code=int(error.code), name=error.code.name, kind=type(error).__name__, message=scrub(str(error))
    )


def error_of(failure: Failure) -> MeowcatError:
    """The error that the owner had, as an error of the same class here."""
    error = _KINDS.get(failure.kind, MeowcatError)(failure.message)
    if error.code != failure.code and failure.code in set(Code):
        error.code = Code(failure.code)  # type: ignore[misc]  # a class constant, narrowed as TransferError does
    return error
