"""Which operations a state demands, and when to look again although no message came.

At most one operation of a task is wanted at a time, and an operation keeps its identity over transitions: the
probing GET of a `Fetch` goes on as its first part.
"""

from msgspec import Struct

from meowcat.core.machine import ACTIVE, TERMINAL, State
from meowcat.core.state import TaskState


class Operation(Struct, frozen=True, gc=False):
    """The base: equal operations are the same operation."""

    run: int
    restarts: int


class Fetch(Operation, frozen=True, tag="fetch"):
    """Byte work: learn what the content is, and bring what is missing of it."""


class Verify(Operation, frozen=True, tag="verify"):
    """Byte work: read all of the part file and report its digests."""


class Send(Operation, frozen=True, tag="send"):
    """Byte work: have a session opened, and bring to the server what it has not got."""


class Settling(Struct, frozen=True, gc=False):
    """The base of what needs no slot and is wanted whatever the state."""


class Publish(Settling, frozen=True, tag="publish"):
    """Make the verified part file the target."""

    restarts: int


class Discard(Settling, frozen=True, tag="discard"):
    """Remove a canceled task's part file."""


class Commit(Settling, frozen=True, tag="commit"):
    """Make the object of what was sent, or find out that it is there."""

    restarts: int


class Abort(Settling, frozen=True, tag="abort"):
    """Remove a session that nobody needs."""

    session: str


AnyOperation = Fetch | Verify | Send | Publish | Discard | Commit | Abort


class Wanted(Struct, frozen=True, gc=False):
    operation: AnyOperation
    hold: bool = False
    """A delay is under way: what runs may go on, and nothing new may start."""

    @property
    def settling(self) -> bool:
        return isinstance(self.operation, Settling)


def wanted(task: TaskState) -> Wanted | None:
    """The operation that the task in this state demands; None when there is nothing to do."""
    if task.state not in ACTIVE and task.intent is None and not task.condemned and not task.discard:
        return None  # asked of each task of a long queue
    operation = _of_upload(task) if task.is_upload else _of_download(task)
    return None if operation is None else Wanted(operation, task.wait is not None)


def _of_download(task: TaskState) -> AnyOperation | None:
    if task.state in TERMINAL:
        return Discard() if task.discard else None
    if task.intent is not None:
        return Publish(task.restarts)
    return (Verify if task.proven else Fetch)(task.run, task.restarts)


def _of_upload(task: TaskState) -> AnyOperation | None:
    if task.condemned:
        return Abort(task.condemned[0].session.id)
    if task.state in TERMINAL:
        return None
    if task.intent is not None:
        return Commit(task.restarts)
    return Send(task.run, task.restarts) if task.state in ACTIVE else None


_GOING = ACTIVE | {State.QUEUED}


def wants_slot(task: TaskState) -> bool:
    """Whether byte work could begin if a slot were granted: a waiting task wants none."""
    return task.state in _GOING and task.wait is None and task.intent is None and not task.condemned


def waits_for_a_time(task: TaskState) -> bool:
    """Whether it would go on by itself once a delay is over: of such a one, too, a user may ask that now."""
    return task.state in _GOING and task.wait is not None and task.wait.delay is not None


def due(task: TaskState, since: int) -> int | None:
    """When the task's wait is over, on the clock that `since` is read from, in milliseconds.

    `since` is the moment the wait was recorded, or the journal opened if that was later. None: there is no
    wait, or it ends only when something is supplied.
    """
    if task.wait is None or task.wait.delay is None:
        return None
    return since + task.wait.delay
