"""A task as users see it: a frozen view, without secrets, that stays true to the moment it was made."""

from msgspec import Struct

from meowcat.core.downloads import expected_digests
from meowcat.core.machine import State
from meowcat.core.state import Phase, TaskState
from meowcat.core.transfers import Direction, Download
from meowcat.core.urls import redact
from meowcat.core.values import Checksum, Fault, Position, TaskId
from meowcat.core.waits import WaitingFor


class TaskInfo(Struct, frozen=True, kw_only=True):
    """What `Engine.tasks`, `on_restart` and the command line show of a task."""

    id: TaskId
    key: str
    state: State
    phase: Phase
    direction: Direction
    url: str
    """Redacted."""
    path: str
    """The target of a download, or the source of an upload."""
    priority: int
    created: int
    """Milliseconds since 1970 UTC."""
    size: int | None
    """Bytes; None while it is not known."""
    bytes_done: int
    """Confirmed bytes: stored and flushed, or acknowledged by the server."""
    attempts: int
    """Failures in a row without progress."""
    crashes: int
    waiting_for: WaitingFor | None
    needs: tuple[str, ...]
    """What has to be supplied before the task can go on, by name."""
    reason: str
    """Why it is Paused."""
    fault: Fault | None
    """The last failure; of a Failed task, why it failed."""
    digests: tuple[Checksum, ...]
    """Of the whole content."""
    client_file_sign: str | None
    remote: dict[str, str] = {}
    """What the server said of an uploaded object: `etag`, `version_id` …"""
    compared: tuple[Checksum, ...] = ()
    """Those of `digests` that there was something to compare with: the caller's, and the server's."""

    @property
    def fraction(self) -> float:
        """Confirmed bytes of all bytes, 0 to 1; 0 while the size is not known."""
        return fraction_of(self.state, self.bytes_done, self.size)


class Orphan(Struct, frozen=True, kw_only=True):
    """A session of an upload that stands at a server, and that no task at work needs."""

    task: TaskId
    """Whose it is, or in whose place it was found."""
    url: str
    """Of the object; redacted."""
    session: str
    """The server's name of it."""
    ours: bool
    """Whether the journal proves that this task opened it. Others are never removed."""
    kept: bool
    """Whether a Failed task keeps it for a retry: canceling that removes it."""
    detail: str
    """Why it stands there, or could not be removed."""
    begun: int | None = None
    """Milliseconds since 1970 UTC, where the server says so."""
    removable: bool = True
    """Whether it can be removed; otherwise the server drops it in its own time, and `detail` says when."""


class SinkInfo(Struct, frozen=True, kw_only=True):
    """How far a sink has come. Of a cursor whose sink is not attached now, only the first three are known."""

    name: str
    position: Position
    """The last record that was delivered."""
    lag: int
    """Records that are still to be delivered."""
    attached: bool = False
    """Whether a sink of this engine delivers from it."""
    failures: int = 0
    """Deliveries that failed in a row."""
    error: str = ""
    """Why the last one failed; without secrets."""
    next_try: int | None = None
    """When it is tried again, in milliseconds since 1970 UTC; None while it is not waiting for that."""


class HostInfo(Struct, frozen=True, kw_only=True):
    """A host that tasks work on, or that is held, or given fewer requests than there could be."""

    active: int
    """Tasks at work on it."""
    silent: int
    """Of those, how many it lets wait: nothing has come for some seconds, and others have their slots."""
    requests: int
    """Requests under way to it."""
    most: int | None
    """Requests at once that it is given for now, since it has answered 429 or 503; None = no bound of its
    own."""
    held_until: int | None
    """When it may be asked again, first by one task, in milliseconds since 1970 UTC; None where it is not
    held."""


class Snapshot(Struct, frozen=True, kw_only=True):
    """The engine at a glance."""

    states: dict[str, int]
    """How many tasks that have not ended are in which state."""
    waiting: int
    """Of those, how many wait for a delay, space, a host or a supply."""
    active_downloads: int
    """Slots in use."""
    queued_downloads: int
    active_uploads: int
    queued_uploads: int
    quarantined: int
    position: Position
    """The newest durable record."""
    sinks: dict[str, SinkInfo]
    """Every cursor of the journal, by the name of its sink."""
    hosts: dict[str, HostInfo] = {}
    """By scheme, name and port, what there is to say of hosts."""
    limit_rate: int | None = None
    """Bytes a second of all tasks together, as they are limited now; None = no limit."""
    refusal: str = ""
    """Why the journal takes no records now, as where its disk is full: nothing moves on until it does again,
    which is tried all the time. Empty while all is well."""


def fraction_of(state: State, done: int, size: int | None) -> float:
    """How much of a transfer is done, 0 to 1; 0 while the size is not known."""
    if state is State.COMPLETE:
        return 1.0
    return done / size if size else 0.0


def eta_of(size: int | None, done: int, rate: float) -> float | None:
    """Seconds to go at `rate` bytes a second; None where it can't be told."""
    return (size - done) / rate if rate > 0 and size is not None else None


def info_of(task: TaskState) -> TaskInfo:
    """The view of a task."""
    request = task.request
    return TaskInfo(
        id=task.id,
        key=task.key,
        state=task.state,
        phase=task.phase,
        direction=request.direction,
        url=redact(request.url),
        path=request.to if isinstance(request, Download) else request.source,
        priority=request.priority,
        created=task.created,
        size=task.generation.size if task.generation else None,
        bytes_done=task.bytes_stored,
        attempts=task.attempts,
        crashes=task.crashes,
        waiting_for=task.wait.waiting_for if task.wait else None,
        needs=task.wait.names if task.wait else (),
        reason=task.reason,
        fault=task.fault,
        digests=task.digests,
        client_file_sign=request.client_file_sign,
        remote=task.result,
        compared=_compared(task),
    )


def _compared(task: TaskState) -> tuple[Checksum, ...]:
    if not task.digests or not isinstance(task.request, Download):
        return ()
    expected = expected_digests(task)
    return tuple(each for each in task.digests if each in expected)
