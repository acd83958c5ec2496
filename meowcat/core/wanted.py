"""Which operations a state demands, and when to look again although no message came.

At most one operation of a download is wanted at a time, and an operation keeps its identity over
transitions: the probing GET of a `Fetch` goes on as its first part.
"""

from msgspec import Struct

from meowcat.core.machine import ACTIVE, State
from meowcat.core.state import Phase, TaskState


class Operation(Struct, frozen=True):
    """The base: equal operations are the same operation."""

    run: int
    restarts: int


class Fetch(Operation, frozen=True, tag="fetch"):
    """Byte work: learn what the content is, and bring what is missing of it."""


class Verify(Operation, frozen=True, tag="verify"):
    """Byte work: read all of the part file and report its digests."""


class Publish(Struct, frozen=True, tag="publish"):
    """Settling: make the verified part file the target."""

    restarts: int


class Discard(Struct, frozen=True, tag="discard"):
    """Settling: remove a canceled task's part file."""


AnyOperation = Fetch | Verify | Publish | Discard


class Wanted(Struct, frozen=True):
    operation: AnyOperation
    hold: bool = False
    """A delay is under way: what runs may go on, and nothing new may start."""

    @property
    def settling(self) -> bool:
        """Settling work needs no slot and is wanted whatever the state."""
        return isinstance(self.operation, Publish | Discard)


def wanted(task: TaskState) -> Wanted | None:
    """The operation that the task in this state demands; None when there is nothing to do."""
    hold = task.wait is not None
    phase = task.phase
    if phase is Phase.DISCARDING:
        return Wanted(Discard(), hold)
    if phase is Phase.PUBLISHING and task.state is not State.FAILED:
        return Wanted(Publish(task.restarts), hold)
    if task.state not in ACTIVE:
        return None
    if phase is Phase.VERIFYING:
        return Wanted(Verify(task.run, task.restarts), hold)
    return Wanted(Fetch(task.run, task.restarts), hold)


def wants_slot(task: TaskState) -> bool:
    """Whether byte work could begin if a slot were granted: a waiting task wants none."""
    if task.wait is not None or task.phase is Phase.PUBLISHING:
        return False
    return task.state is State.QUEUED or task.state in ACTIVE


def due(task: TaskState, since: int) -> int | None:
    """When the task's wait is over, on the clock that `since` is read from, in milliseconds.

    `since` is the moment the wait was recorded, or the journal opened if that was later. None: there is no
    wait, or it ends only when something is supplied.
    """
    if task.wait is None or task.wait.delay is None:
        return None
    return since + task.wait.delay
