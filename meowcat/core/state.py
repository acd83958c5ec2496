"""A task's state, and the fold that makes it of events."""

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from meowcat.core import events as ev
from meowcat.core.errors import JournalDamaged
from meowcat.core.machine import State
from meowcat.core.pieces import Grid, IntervalSet
from meowcat.core.transfers import Download, Request
from meowcat.core.values import Checksum, Fault, FileIdentity, Generation, TaskId
from meowcat.core.waits import Wait, WaitingFor

NOTHING = IntervalSet.of()


class Phase(StrEnum):
    """How far the bytes are, whatever the state: a requeue keeps it."""

    PROBING = "probing"
    """The content is not known yet."""
    MOVING = "moving"
    VERIFYING = "verifying"
    """All pieces are stored and proven; a digest of the whole is still to be compared."""
    PUBLISHING = "publishing"
    """Verified; the rename is owed, or under way, or done and not yet recorded."""
    DISCARDING = "discarding"
    """Canceled; the part file is still to be removed."""
    DONE = "done"


class TaskState(Struct, frozen=True, kw_only=True, gc=False):
    """Everything that is known of a task: a fold of its events and of nothing else."""

    id: TaskId
    key: str
    request: Request
    created: int
    """Milliseconds since 1970 UTC."""
    state: State
    seq: int = 1
    """The number of events so far."""
    run: int = 0
    """How often a slot was granted: the stamp of byte work."""
    restarts: int = 0
    """How often the stored bytes were dropped: with `run`, the stamp of byte work."""
    generation: Generation | None = None
    piece_size: int = 0
    stored: IntervalSet = NOTHING
    """Numbers of the pieces that are written and flushed."""
    unproven: IntervalSet = NOTHING
    """Those of `stored` that an earlier run wrote and this one has not read again."""
    file: FileIdentity | None = None
    attempts: int = 0
    """Failures in a row without progress."""
    outages: int = 0
    """Waits in a row for a host or a disk: they use up no attempt."""
    changes: int = 0
    """How often the remote content was found changed since a user last set the task going."""
    crashes: int = 0
    """Crashes in a row while the task was at work and stored nothing."""
    wait: Wait | None = None
    fault: Fault | None = None
    """The last failure."""
    reason: str = ""
    """Why the task is Paused."""
    intent: ev.PublishIntended | None = None
    discard: bool = False
    """Whether the removal of the part file is owed."""
    digests: tuple[Checksum, ...] = ()

    @property
    def grid(self) -> Grid | None:
        """The grid of pieces, once the size is known."""
        if self.generation is None or self.generation.size is None:
            return None
        return Grid(self.generation.size, self.piece_size)

    @property
    def covered(self) -> bool:
        """Whether every piece of the content is stored, in a part file that is known (also an empty one)."""
        grid = self.grid
        return grid is not None and self.file is not None and self.stored.covers(0, grid.count)

    @property
    def bytes_stored(self) -> int:
        """Bytes that are confirmed: what progress is made of."""
        grid = self.grid
        if grid is None:
            return self.stored.total * self.piece_size
        return grid.bytes(self.stored)

    @property
    def reusable(self) -> bool:
        """Whether bytes of several replies may be joined: a strong validator, or the caller's digest."""
        assert isinstance(self.request, Download)  # noqa: S101  # uploads pin their source, not a reply
        known = self.generation
        if known is None or known.size is None or not known.ranges:
            return False
        return known.strong or self.request.checksum is not None

    @property
    def phase(self) -> Phase:
        if self.state is State.COMPLETE:
            return Phase.DONE
        if self.state is State.CANCELED:
            return Phase.DISCARDING if self.discard else Phase.DONE
        if self.intent is not None:
            return Phase.PUBLISHING
        if self.generation is None:
            return Phase.PROBING
        return Phase.VERIFYING if self.covered and not self.unproven else Phase.MOVING

    @property
    def open(self) -> bool:
        """Whether there is, or may be, work left: what an opening loads. A Failed task can be retried."""
        return self.state not in (State.COMPLETE, State.CANCELED) or self.discard


Fields = dict[str, Any]


def _admitted(task: TaskState, event: ev.Admitted) -> Fields:
    return {"run": event.run, "unproven": task.stored, "wait": None}


def _started(_: TaskState, event: ev.Started) -> Fields:
    return {"generation": event.generation, "piece_size": event.piece_size}


def _stored(task: TaskState, event: ev.Stored) -> Fields:
    stored = task.stored
    for start, stop in event.pieces:
        stored = stored.add(start, stop)
    fields: Fields = {"stored": stored, "file": event.file, "crashes": 0}
    if event.size is not None and task.generation is not None:
        fields["generation"] = replace(task.generation, size=event.size)
    if task.reusable:  # progress that a restart would throw away is none
        fields["attempts"] = fields["outages"] = 0
    return fields


def _rechecked(task: TaskState, event: ev.Rechecked) -> Fields:
    kept, lost = IntervalSet.of(*event.kept), IntervalSet.of(*event.lost)
    return {"stored": task.stored - lost, "unproven": task.unproven - kept - lost}


def _attempt_failed(task: TaskState, event: ev.AttemptFailed) -> Fields:
    fields: Fields = {"fault": event.fault}
    if event.waiting_for in (WaitingFor.HOST, WaitingFor.DISK_SPACE):
        fields["outages"] = event.attempt
    else:
        fields["attempts"] = event.attempt
    if event.delay is not None:
        fields["wait"] = Wait(event.waiting_for, event.delay, task.seq + 1)
    return fields


def _restarted(task: TaskState, event: ev.Restarted) -> Fields:
    return {
        "restarts": task.restarts + 1,
        "changes": task.changes + event.changed,
        "generation": None,
        "stored": NOTHING,
        "unproven": NOTHING,
        "file": None,
        "intent": None,
    }


def _waiting(task: TaskState, event: ev.Waiting) -> Fields:
    return {"wait": Wait(event.waiting_for, None, task.seq + 1, event.names)}


def _wait_ended(_: TaskState, __: ev.WaitEnded) -> Fields:
    return {"wait": None}


def _supplied(task: TaskState, event: ev.Supplied) -> Fields:
    waits_on = task.wait is not None and task.wait.waiting_for is not WaitingFor.SUPPLY
    return {"request": event.request or task.request, "wait": task.wait if waits_on else None}


def _publish_intended(_: TaskState, event: ev.PublishIntended) -> Fields:
    return {"intent": event, "digests": event.digests}


def _completed(_: TaskState, event: ev.Completed) -> Fields:
    return {"digests": event.digests, "wait": None, "fault": None}


def _paused(_: TaskState, event: ev.Paused) -> Fields:
    return {"reason": event.reason, "wait": None}


def _set_going(_: TaskState, __: ev.Event) -> Fields:
    return {"attempts": 0, "outages": 0, "changes": 0, "crashes": 0, "wait": None, "reason": ""}


def _requeued(_: TaskState, __: ev.Requeued) -> Fields:
    return {"crashes": 0}


def _recovered(task: TaskState, event: ev.Recovered) -> Fields:
    paused = event.state is State.PAUSED
    return {
        "crashes": task.crashes + 1 if event.crashed else task.crashes,
        "reason": event.reason if paused else "",
        "wait": None if paused else task.wait,
    }


def _failed(_: TaskState, event: ev.Failed) -> Fields:
    return {"fault": event.fault, "wait": None}


def _canceled(task: TaskState, _: ev.Canceled) -> Fields:
    return {"discard": task.run > 0, "wait": None}


def _part_discarded(_: TaskState, __: ev.PartDiscarded) -> Fields:
    return {"discard": False, "wait": None}


_EVOLVERS: dict[type[ev.Event], Callable[[TaskState, Any], Fields]] = {
    ev.Admitted: _admitted,
    ev.Started: _started,
    ev.Stored: _stored,
    ev.Rechecked: _rechecked,
    ev.AttemptFailed: _attempt_failed,
    ev.Restarted: _restarted,
    ev.Waiting: _waiting,
    ev.WaitEnded: _wait_ended,
    ev.Supplied: _supplied,
    ev.PublishIntended: _publish_intended,
    ev.Completed: _completed,
    ev.Paused: _paused,
    ev.Resumed: _set_going,
    ev.Retried: _set_going,
    ev.Requeued: _requeued,
    ev.Recovered: _recovered,
    ev.Failed: _failed,
    ev.Canceled: _canceled,
    ev.PartDiscarded: _part_discarded,
}


def evolve(task: TaskState | None, event: ev.Event) -> TaskState:
    """The task after `event`: a plain fold that never consults the lifecycle table.

    Raises:
        JournalDamaged: the first event is not Created, or a later one is.
    """
    evolver = _EVOLVERS.get(type(event))
    if evolver is None or task is None:
        return _begun(task, event)
    fields = evolver(task, event)
    fields["state"], fields["seq"] = event.state, task.seq + 1
    return replace(task, **fields)


def _begun(task: TaskState | None, event: ev.Event) -> TaskState:
    if not isinstance(event, ev.Created):
        raise JournalDamaged(f"the first event is {ev.TAGS[type(event)]}; expected created")
    if task is not None:
        raise JournalDamaged(f"task {task.id} is created twice")
    return TaskState(id=event.task, key=event.key, request=event.request, created=event.at, state=event.state)


def fold(events: Iterable[ev.Event], task: TaskState | None = None) -> TaskState | None:
    """`evolve` over many events."""
    for event in events:
        task = evolve(task, event)
    return task
