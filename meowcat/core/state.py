"""A task's state, and the fold that makes it of events."""

from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import lru_cache
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from meowcat.core import events as ev
from meowcat.core.errors import JournalDamaged
from meowcat.core.machine import ENDED, State
from meowcat.core.pieces import Grid, IntervalSet
from meowcat.core.redirect_rules import shown
from meowcat.core.sessions import Session
from meowcat.core.transfers import Download, Request
from meowcat.core.values import Checksum, Fault, FileIdentity, Generation, SourceIdentity, TaskId
from meowcat.core.waits import Wait, WaitingFor

NOTHING = IntervalSet.of()


class Phase(StrEnum):
    """How far the bytes are, whatever the state: a requeue keeps it."""

    PROBING = "probing"
    """The content is not known yet, or the server has not been told of it."""
    MOVING = "moving"
    VERIFYING = "verifying"
    """All pieces are stored and proven; the whole is still to be compared."""
    PUBLISHING = "publishing"
    """Verified; the rename or the commit is owed, or under way, or done and not yet recorded."""
    DISCARDING = "discarding"
    """Canceled; the part file, or the session at the server, is still to be removed."""
    DONE = "done"


class Condemned(Struct, frozen=True, gc=False):
    """A session that nobody needs."""

    session: Session
    doubt: bool
    """Whether it may have become the object."""


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
    intent: ev.PublishIntended | ev.CommitIntended | None = None
    intended: int = 0
    """The number of the event that was the intent."""
    discard: bool = False
    """Whether the removal of the part file is owed."""
    digests: tuple[Checksum, ...] = ()
    source: SourceIdentity | None = None
    opening: bool = False
    """Whether a session was intended, and what came of it is still to be told."""
    lost: int = 0
    """How many sessions may stand at the server without anybody knowing their names."""
    session: Session | None = None
    condemned: tuple[Condemned, ...] = ()
    """Sessions whose removal is owed."""
    left: tuple[Condemned, ...] = ()
    """Sessions whose removal was given up."""
    result: dict[str, str] = {}
    """What the server said of an uploaded object."""
    elsewhere: bool = False
    """Whether the URL leads to another server now, or a supplied plan may, whose URLs are in no journal; and
    nothing has come of it yet."""

    @property
    def is_upload(self) -> bool:
        return not isinstance(self.request, Download)

    @property
    def grid(self) -> Grid | None:
        """The grid of pieces, once the size is known and what a piece is."""
        if self.generation is None or self.generation.size is None or not self.piece_size:
            return None
        return _grid(self.generation.size, self.piece_size)

    @property
    def covered(self) -> bool:
        """Whether every piece of the content is stored, in a part file that is known (also an empty one); or
        is at the server, but for the one that commits."""
        if self.file is None and self.session is None:
            return False
        grid = self.grid
        if grid is None:
            return False
        return self.stored.prefix() >= (grid.count if self.session is None else self.to_send)

    @property
    def proven(self) -> bool:
        """Whether that is so, and nothing of it has still to be read again."""
        return not self.unproven.pairs and self.covered

    @property
    def to_send(self) -> int:
        """How many parts are sent before the commit."""
        assert self.grid is not None  # noqa: S101  # the caller's order
        commits = self.session is not None and self.session.capabilities.commits_with_last_part
        return max(0, self.grid.count - commits)

    @property
    def doubt(self) -> bool:
        """Whether a commit was intended that may have been sent by now: anything has happened since."""
        return self.intent is not None and self.seq > self.intended

    @property
    def answered(self) -> bool:
        """Whether the server has ever said something useful."""
        if self.elsewhere:
            return False
        if self.session is not None and not self.session.capabilities.asks:
            return bool(self.stored)  # the session alone is no sign of life
        return self.piece_size > 0

    @property
    def bytes_stored(self) -> int:
        """Bytes that are confirmed: what progress is made of."""
        grid = self.grid
        if grid is None:
            return self.stored.total * self.piece_size
        return grid.bytes(self.stored)

    @property
    def reusable(self) -> bool:
        """Whether bytes of several replies may be joined: a strong validator, or the caller's digest. What a
        server has confirmed of an upload is always good."""
        if not isinstance(self.request, Download):
            return True
        known = self.generation
        if known is None or known.size is None or not known.ranges:
            return False
        return known.strong or self.request.checksum is not None

    @property
    def phase(self) -> Phase:
        if self.state in ENDED:
            return Phase.DISCARDING if self.open and self.state is State.CANCELED else Phase.DONE
        if self.intent is not None:
            return Phase.PUBLISHING
        if self.generation is None or (self.is_upload and self.session is None):
            return Phase.PROBING
        return Phase.VERIFYING if self.proven else Phase.MOVING

    @property
    def open(self) -> bool:
        """Whether there is, or may be, work left: what an opening loads. A Failed task can be retried; of one
        that has ended, something half done may still be to be removed."""
        return self.state not in ENDED or self.discard or self.opening or bool(self.condemned)


_grid = lru_cache(1024)(Grid)  # asked for several times at each step, and made with a check


# One evolver for each kind of event: the task after it. Each names all that it changes in one `replace`, its
# state and its number included: that is twice as quick as to put the changes together first.


def _created(task: TaskState, _: ev.Created) -> TaskState:
    raise JournalDamaged(f"task {task.id} is created twice")


def _admitted(task: TaskState, event: ev.Admitted) -> TaskState:
    return replace(task, state=event.state, seq=task.seq + 1, run=event.run, unproven=task.stored, wait=None)


def _started(task: TaskState, event: ev.Started) -> TaskState:
    return replace(
        task,
        state=event.state,
        seq=task.seq + 1,
        generation=event.generation,
        piece_size=event.piece_size,
        elsewhere=False,
    )


def _stored(task: TaskState, event: ev.Stored) -> TaskState:
    stored, generation = task.stored, task.generation
    for start, stop in event.pieces:
        stored = stored.add(start, stop)
    if event.size is not None and generation is not None:
        generation = replace(generation, size=event.size)
    lasts = task.reusable  # progress that a restart would throw away is none
    return replace(
        task,
        state=event.state,
        seq=task.seq + 1,
        generation=generation,
        stored=stored,
        file=event.file,
        attempts=0 if lasts else task.attempts,
        outages=0 if lasts else task.outages,
        crashes=0,
        elsewhere=False,
    )


def _rechecked(task: TaskState, event: ev.Rechecked) -> TaskState:
    kept, lost = IntervalSet.of(*event.kept), IntervalSet.of(*event.lost)
    return replace(
        task,
        state=event.state,
        seq=task.seq + 1,
        stored=task.stored - lost,
        unproven=task.unproven - kept - lost,
    )


def _attempt_failed(task: TaskState, event: ev.AttemptFailed) -> TaskState:
    seq, outage = task.seq + 1, event.waiting_for in (WaitingFor.HOST, WaitingFor.DISK_SPACE)
    return replace(
        task,
        state=event.state,
        seq=seq,
        # Of a Failed task it is the removal of a session: that is not why the task has failed.
        fault=task.fault if event.state is State.FAILED else event.fault,
        attempts=task.attempts if outage else event.attempt,
        outages=event.attempt if outage else task.outages,
        wait=task.wait if event.delay is None else Wait(event.waiting_for, event.delay, seq),
    )


def _restarted(task: TaskState, event: ev.Restarted) -> TaskState:
    return replace(
        task,
        state=event.state,
        seq=task.seq + 1,
        restarts=task.restarts + 1,
        changes=task.changes + event.changed,
        generation=None,
        stored=NOTHING,
        unproven=NOTHING,
        file=None,
        intent=None,
    )


def _waiting(task: TaskState, event: ev.Waiting) -> TaskState:
    seq = task.seq + 1
    return replace(task, state=event.state, seq=seq, wait=Wait(event.waiting_for, None, seq, event.names))


def _supplied(task: TaskState, event: ev.Supplied) -> TaskState:
    waits_on = task.wait is not None and not task.wait.waiting_for.helpless
    request = event.request or task.request
    leads_elsewhere = "plan" in event.names or shown(task.request.url) != shown(request.url)
    return replace(
        task,
        state=event.state,
        seq=task.seq + 1,
        request=request,
        wait=task.wait if waits_on else None,
        elsewhere=task.elsewhere or leads_elsewhere,
    )


def _intended(task: TaskState, event: ev.PublishIntended | ev.CommitIntended) -> TaskState:
    seq = task.seq + 1
    return replace(task, state=event.state, seq=seq, intent=event, intended=seq, digests=event.digests)


def _completed(task: TaskState, event: ev.Completed) -> TaskState:
    stored = task.stored
    if task.is_upload and task.grid is not None:  # the commit brought what was still missing
        stored = IntervalSet.of((0, task.grid.count))
    return replace(
        task,
        state=event.state,
        seq=task.seq + 1,
        stored=stored,
        digests=event.digests,
        wait=None,
        fault=None,
        result=event.result,
    )


def _source_pinned(task: TaskState, event: ev.SourcePinned) -> TaskState:
    known = Generation(size=event.source.size, ranges=True, strong=True, digests=event.digests)
    return replace(task, state=event.state, seq=task.seq + 1, source=event.source, generation=known)


def _session_intended(task: TaskState, event: ev.SessionIntended) -> TaskState:
    return replace(task, state=event.state, seq=task.seq + 1, opening=True)


def _session_unopened(task: TaskState, event: ev.SessionUnopened) -> TaskState:
    return replace(task, state=event.state, seq=task.seq + 1, opening=False, lost=task.lost + event.lost)


def _session_opened(task: TaskState, event: ev.SessionOpened) -> TaskState:
    # Canceled, or its source found changed, while it was opened: nobody needs it any more.
    needless = event.state is State.CANCELED or task.generation is None
    return replace(
        task,
        state=event.state,
        seq=task.seq + 1,
        opening=False,
        session=None if needless else event.session,
        condemned=_condemned(task, event.session) if needless else task.condemned,
        left=_others(task.left, event.session.id),  # a server may come back to the same name: it is in use
        piece_size=event.piece_size,
        stored=NOTHING if needless else IntervalSet.of(*event.held),
        attempts=0,
        outages=0,
        elsewhere=False,
    )


def _condemned(task: TaskState, session: Session | None, *, told: bool = False) -> tuple[Condemned, ...]:
    """With `session`. `told`: the server has said that it did not become the object."""
    doubt = task.intent is not None and not told
    if session is None or not (session.capabilities.session or doubt):
        return task.condemned
    return (*task.condemned, Condemned(session, doubt))


def _sent(task: TaskState, event: ev.Sent) -> TaskState:
    sent = IntervalSet.of(*event.pieces)
    return replace(
        task,
        state=event.state,
        seq=task.seq + 1,
        stored=task.stored | sent,
        unproven=task.unproven - sent,
        attempts=0,
        outages=0,
        crashes=0,
        elsewhere=False,
    )


def _session_dropped(task: TaskState, event: ev.SessionDropped) -> TaskState:
    return replace(
        task,
        state=event.state,
        seq=task.seq + 1,
        restarts=task.restarts + 1,
        changes=task.changes + event.changed,
        condemned=_condemned(task, task.session, told=event.changed) if event.abort else task.condemned,
        session=None,
        source=None if event.unpin else task.source,
        generation=None if event.unpin else task.generation,
        piece_size=0 if event.unpin else task.piece_size,
        stored=NOTHING,
        unproven=NOTHING,
        intent=None,
        attempts=0,
    )


def _session_aborted(task: TaskState, event: ev.SessionAborted) -> TaskState:
    rest = _others(task.condemned, event.session)
    given_up = tuple(each for each in task.condemned if each not in rest and not event.gone)
    return replace(
        task,
        state=event.state,
        seq=task.seq + 1,
        condemned=rest,
        left=task.left + given_up,
        wait=None,
        attempts=0,
        outages=0,
    )


def _session_condemned(task: TaskState, event: ev.SessionCondemned) -> TaskState:
    again = tuple(each for each in task.left if each.session.id == event.session)
    return replace(
        task,
        state=event.state,
        seq=task.seq + 1,
        condemned=task.condemned + again,
        left=_others(task.left, event.session),
    )


def _others(sessions: tuple[Condemned, ...], name: str) -> tuple[Condemned, ...]:
    return tuple(each for each in sessions if each.session.id != name)


def _paused(task: TaskState, event: ev.Paused) -> TaskState:
    return replace(task, state=event.state, seq=task.seq + 1, reason=event.reason, wait=None)


def _set_going(task: TaskState, event: ev.Resumed | ev.Retried) -> TaskState:
    return replace(
        task,
        state=event.state,
        seq=task.seq + 1,
        attempts=0,
        outages=0,
        changes=0,
        crashes=0,
        wait=None,
        reason="",
    )


def _requeued(task: TaskState, event: ev.Requeued) -> TaskState:
    return replace(task, state=event.state, seq=task.seq + 1, crashes=0)


def _recovered(task: TaskState, event: ev.Recovered) -> TaskState:
    paused = event.state is State.PAUSED
    return replace(
        task,
        state=event.state,
        seq=task.seq + 1,
        crashes=task.crashes + event.crashed,
        wait=None if paused else task.wait,
        reason=event.reason if paused else "",
    )


def _failed(task: TaskState, event: ev.Failed) -> TaskState:
    return replace(task, state=event.state, seq=task.seq + 1, fault=event.fault, wait=None)


def _canceled(task: TaskState, event: ev.Canceled) -> TaskState:
    return replace(
        task,
        state=event.state,
        seq=task.seq + 1,
        condemned=_condemned(task, task.session),
        session=None,
        discard=task.run > 0 and not task.is_upload,
        wait=None,
    )


def _part_discarded(task: TaskState, event: ev.PartDiscarded) -> TaskState:
    return replace(task, state=event.state, seq=task.seq + 1, discard=False, wait=None)


def _wait_ended(task: TaskState, event: ev.WaitEnded) -> TaskState:
    return replace(task, state=event.state, seq=task.seq + 1, wait=None)


_EVOLVERS: dict[type[ev.Event], Callable[[TaskState, Any], TaskState]] = {
    ev.Created: _created,
    ev.Admitted: _admitted,
    ev.Started: _started,
    ev.Stored: _stored,
    ev.Rechecked: _rechecked,
    ev.AttemptFailed: _attempt_failed,
    ev.Restarted: _restarted,
    ev.Waiting: _waiting,
    ev.WaitEnded: _wait_ended,
    ev.Supplied: _supplied,
    ev.PublishIntended: _intended,
    ev.CommitIntended: _intended,
    ev.SourcePinned: _source_pinned,
    ev.SessionIntended: _session_intended,
    ev.SessionUnopened: _session_unopened,
    ev.SessionOpened: _session_opened,
    ev.Sent: _sent,
    ev.SessionDropped: _session_dropped,
    ev.SessionAborted: _session_aborted,
    ev.SessionCondemned: _session_condemned,
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
    return _begun(event) if task is None else _EVOLVERS[type(event)](task, event)


def _begun(event: ev.Event) -> TaskState:
    if not isinstance(event, ev.Created):
        raise JournalDamaged(f"the first event is {ev.TAGS[type(event)]}; expected created")
    return TaskState(id=event.task, key=event.key, request=event.request, created=event.at, state=event.state)


def fold(events: Iterable[ev.Event], task: TaskState | None = None) -> TaskState | None:
    """`evolve` over many events."""
    for event in events:
        task = evolve(task, event)
    return task
