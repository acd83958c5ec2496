"""What a message means for a task: the events that it makes, and the answer to whoever sent it.

`decide` changes nothing and knows no clock but the `Instant` that it is given. The events of a decision are
appended together; `evolve` then folds them. Every arrow of the lifecycle goes through `machine.step`.
"""

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from meowcat.core import events as ev
from meowcat.core import messages as msg
from meowcat.core.errors import Code, InvalidArgument
from meowcat.core.machine import ACTIVE, ENDED, State, Trigger, may, sources, step
from meowcat.core.pieces import choose_piece_size
from meowcat.core.retry import DISK_PROBE_CAP_MS, HOST_PROBE_CAP_MS, Class, backoff, classify, probe_delay
from meowcat.core.state import Phase, TaskState, evolve
from meowcat.core.transfers import Download, parse_checksum
from meowcat.core.values import Checksum, Fault, FaultKind, Generation, Instant
from meowcat.core.waits import WaitingFor

CRASHES_BEFORE_PAUSE = 3
"""A task that was at work at so many crashes in a row, and stored nothing between, is paused."""

DEFAULT_RETRIES = 3


class Refusal(Struct, frozen=True):
    """A command that makes no sense now; nothing has changed."""

    code: Code
    detail: str


class Decision(Struct, frozen=True):
    events: tuple[ev.Event, ...] = ()
    refusal: Refusal | None = None


NOTHING_HAPPENED = Decision()


def decide(task: TaskState | None, message: msg.Message, now: Instant) -> Decision:
    """Is this message legal now, and what happened because of it?

    A stale report makes no event and no refusal; a command that the state does not allow makes a refusal
    (TASK_STATE, or TASK_NOT_FOUND for a task that has ended).
    """
    if isinstance(message, msg.Create):
        return _create(task, message, now)
    if task is None:
        return _refuse(Code.TASK_NOT_FOUND, "there is no such task")
    if isinstance(message, msg.Report) and not _current(task, message):
        return NOTHING_HAPPENED
    return _DECIDERS[type(message)](task, message, now)


class _Story:
    """Events in the making, with the task as it is after them."""

    def __init__(self, task: TaskState) -> None:
        self.task = task
        self.events: list[ev.Event] = []

    def tell(self, event: ev.Event) -> None:
        self.events.append(event)
        self.task = evolve(self.task, event)

    def moved(self, trigger: Trigger) -> State:
        return step(self.task.state, trigger)

    def end(self) -> Decision:
        return Decision(tuple(self.events))


def _refuse(code: Code, detail: str) -> Decision:
    return Decision(refusal=Refusal(code, detail))


def _current(task: TaskState, report: msg.Report) -> bool:
    """Whether a report belongs to what the task is about now.

    A flush that ended after a pause or a failure still tells the truth about its bytes, and is taken: the
    run goes on until the next one begins. Byte work is over once publishing is intended: what a last request
    of it reports must not fail, or begin again, a task whose rename may be done already.
    """
    if (report.run, report.restarts) != (task.run, task.restarts) or task.intent is not None:
        return False
    if isinstance(report, msg.Flushed | msg.Proved):
        # Without its generation (the head came after a pause, and was dropped) a piece could be of any.
        return task.state not in ENDED and task.generation is not None
    return task.state in ACTIVE


# Commands


def _create(task: TaskState | None, message: msg.Create, now: Instant) -> Decision:
    if task is not None:
        return _refuse(Code.DUPLICATE_TASK, f"task {task.id} exists already")
    state = State.PAUSED if message.paused else State.QUEUED
    return Decision(
        (ev.Created(state=state, task=message.task, key=message.key, at=now.at, request=message.request),)
    )


def _admit(task: TaskState, message: msg.Admit, _: Instant) -> Decision:
    if task.state is not State.QUEUED or task.wait is not None or task.intent is not None:
        return NOTHING_HAPPENED  # paused or canceled while the slot was on its way, or it needs none
    if message.missing:
        return Decision((ev.Waiting(state=task.state, waiting_for=WaitingFor.SUPPLY, names=message.missing),))
    story = _Story(task)
    _admitted(story)
    if task.generation is not None and task.stored and not task.reusable:
        story.tell(_restart(story, "the bytes have no strong validator, so a new run can't add to them"))
    return story.end()


def _admitted(story: _Story) -> None:
    story.tell(ev.Admitted(state=story.moved(Trigger.ADMIT), run=story.task.run + 1))


def _pause(task: TaskState, message: msg.Pause, _: Instant) -> Decision:
    return _command(task, Trigger.PAUSE, lambda state: ev.Paused(state=state, reason=message.reason))


def _resume(task: TaskState, _: msg.Resume, __: Instant) -> Decision:
    return _command(task, Trigger.RESUME, lambda state: ev.Resumed(state=state))


def _cancel(task: TaskState, _: msg.Cancel, __: Instant) -> Decision:
    return _command(task, Trigger.CANCEL, lambda state: ev.Canceled(state=state))


def _retry(task: TaskState, _: msg.Retry, __: Instant) -> Decision:
    return _command(task, Trigger.RETRY, lambda state: ev.Retried(state=state))


def _command(task: TaskState, trigger: Trigger, event: Callable[[State], ev.Event]) -> Decision:
    if may(task.state, trigger):
        return Decision((event(step(task.state, trigger)),))
    if task.state in ENDED:
        return _refuse(Code.TASK_NOT_FOUND, f"task {task.id} has ended: it is {task.state}")
    return _refuse(Code.TASK_STATE, f"task {task.id} is {task.state}: {trigger} is for {sources(trigger)}")


def _requeue(task: TaskState, message: msg.Requeue, _: Instant) -> Decision:
    if not may(task.state, Trigger.REQUEUE):
        return NOTHING_HAPPENED  # it ended by itself first
    state = step(task.state, Trigger.REQUEUE)
    return Decision((ev.Requeued(state=state, reason=message.reason),))


def _supply(task: TaskState, message: msg.Supply, _: Instant) -> Decision:
    if task.state in ENDED:
        return _refuse(Code.TASK_NOT_FOUND, f"task {task.id} has ended: it is {task.state}")
    return Decision((ev.Supplied(state=task.state, names=message.names, request=message.request),))


def _recover(task: TaskState, message: msg.Recover, _: Instant) -> Decision:
    if task.state not in ACTIVE and task.state is not State.QUEUED:
        return NOTHING_HAPPENED
    active = task.state in ACTIVE
    crashed = active and task.wait is None  # who waits holds no slot, and brought no process down
    resume, reason = message.resume, message.reason
    if crashed and task.crashes + 1 >= CRASHES_BEFORE_PAUSE:
        resume = False
        reason = f"its process died {task.crashes + 1} times in a row while it was at work"
    if resume:
        state = step(task.state, Trigger.REQUEUE) if active else task.state
    else:
        state = step(task.state, Trigger.PAUSE)
    return Decision((ev.Recovered(state=state, crashed=crashed, reason=reason),))


def _wake(task: TaskState, message: msg.Wake, _: Instant) -> Decision:
    if task.wait is None or task.wait.seq != message.seq:
        return NOTHING_HAPPENED
    return Decision((ev.WaitEnded(state=task.state),))


# Reports of byte work


def _probed(task: TaskState, message: msg.Probed, _: Instant) -> Decision:
    assert isinstance(task.request, Download)  # noqa: S101  # only a download is probed
    if task.state is not State.PREPARING and task.generation is not None:
        return NOTHING_HAPPENED  # known; a task that began again while it was Running learns it here
    piece_size = task.piece_size
    if task.generation is None:
        try:
            piece_size = choose_piece_size(message.generation.size or 0, task.request.piece_size)
        except InvalidArgument as refused:
            fault = Fault(kind=FaultKind.LENGTH, detail=str(refused))
            return _fail(_Story(task), fault).end()
    story = _Story(task)
    _started(story, task.generation or message.generation, piece_size)
    return _advance(story).end()


def _started(story: _Story, generation: Generation, piece_size: int) -> None:
    state = State.RUNNING if story.task.state is State.RUNNING else story.moved(Trigger.START)
    story.tell(ev.Started(state=state, generation=generation, piece_size=piece_size))


def _flushed(task: TaskState, message: msg.Flushed, _: Instant) -> Decision:
    story = _Story(task)
    story.tell(
        ev.Stored(
            state=task.state,
            pieces=message.pieces,
            digests=message.digests,
            file=message.file,
            size=message.size,
        )
    )
    return _advance(story).end()


def _proved(task: TaskState, message: msg.Proved, _: Instant) -> Decision:
    story = _Story(task)
    story.tell(ev.Rechecked(state=task.state, kept=message.kept, lost=message.lost))
    return _advance(story).end()


def _advance(story: _Story) -> _Story:
    """When all bytes are stored and proven, and no digest is to be computed: intend to publish."""
    task = story.task
    if task.state in ACTIVE and task.covered and not task.unproven and task.intent is None:
        if task.state is State.PREPARING:
            assert task.generation is not None  # noqa: S101  # what is covered is known
            _started(story, task.generation, task.piece_size)
        if not digest_algorithms(task):
            _intend(story, ())
    return story


def expected_digests(task: TaskState) -> tuple[Checksum, ...]:
    """Digests of the whole that the bytes must have: the caller's, and those that the server offered."""
    assert isinstance(task.request, Download)  # noqa: S101  # an upload's digests are its protocol's
    asked = (parse_checksum(task.request.checksum),) if task.request.checksum else ()
    offered = task.generation.digests if task.generation else ()
    return asked + tuple(each for each in offered if each not in asked)


def digest_algorithms(task: TaskState) -> tuple[str, ...]:
    """What to compute over the whole: to compare with what is expected, and because it was asked for."""
    assert isinstance(task.request, Download)  # noqa: S101  # as above
    expected = [each.algorithm for each in expected_digests(task)]
    asked = [task.request.digest] if task.request.digest else []
    return tuple(dict.fromkeys((*expected, *asked)))


def _intend(story: _Story, digests: tuple[Checksum, ...]) -> None:
    task = story.task
    assert task.grid is not None  # noqa: S101  # covered, so its size is known
    assert task.file is not None  # noqa: S101  # stored, or opened for an empty file
    story.tell(ev.PublishIntended(state=task.state, file=task.file, size=task.grid.size, digests=digests))


def _digested(task: TaskState, message: msg.Digested, _: Instant) -> Decision:
    if task.phase is not Phase.VERIFYING:
        return NOTHING_HAPPENED
    story = _Story(task)
    found = {each.algorithm: each for each in message.digests}
    for expected in expected_digests(task):
        got = found.get(expected.algorithm)
        if got != expected:
            detail = f"the content has {got or 'no ' + expected.algorithm}; expected {expected}"
            story.tell(_restart(story, detail))
            return _fail(story, Fault(kind=FaultKind.CHECKSUM, detail=detail)).end()
    if not found.keys() >= set(digest_algorithms(task)):
        return NOTHING_HAPPENED  # asked for while the file was read: it is read again
    _intend(story, message.digests)
    return story.end()


def _faulted(task: TaskState, message: msg.Faulted, now: Instant) -> Decision:
    return _failure(_Story(task), message.fault, now).end()


# Failures


def _failure(story: _Story, fault: Fault, now: Instant) -> _Story:
    """Try again later, wait, begin again, or fail."""
    kind = classify(fault)
    if kind is Class.DISK:
        return _outage(story, fault, WaitingFor.DISK_SPACE, now)
    if kind is Class.UNREACHABLE and story.task.piece_size > 0:  # it answered before
        return _outage(story, fault, WaitingFor.HOST, now)
    if kind is Class.PERMANENT:
        if fault.kind is FaultKind.LOCAL_REMOVED:
            story.tell(_restart(story, fault.detail))
        return _fail(story, fault)
    if kind is Class.CHANGED:
        story.tell(_restart(story, fault.detail, changed=True))
        if story.task.changes > _retries(story.task):
            return _fail(story, fault)
    return _attempt(story, fault, now)


def _attempt(story: _Story, fault: Fault, now: Instant) -> _Story:
    task = story.task
    if task.wait is not None:  # a request of the same outage: it costs no further attempt
        story.tell(_attempt_failed(task, fault, task.attempts, WaitingFor.RETRY, None))
        return story
    if task.attempts >= _retries(task):
        return _fail(story, fault)
    attempt = task.attempts + 1
    delay, waiting_for = backoff(attempt, now.roll), WaitingFor.RETRY
    if fault.retry_after is not None:
        delay, waiting_for = max(delay, fault.retry_after), WaitingFor.SERVER
    story.tell(_attempt_failed(task, fault, attempt, waiting_for, delay))
    return _begin_again_unless_reusable(story)


def _outage(story: _Story, fault: Fault, waiting_for: WaitingFor, now: Instant) -> _Story:
    task = story.task
    if task.wait is not None:
        story.tell(_attempt_failed(task, fault, task.outages, waiting_for, None))
        return story
    outage = task.outages + 1
    story.tell(_attempt_failed(task, fault, outage, waiting_for, _probe_delay(waiting_for, outage, now)))
    return _begin_again_unless_reusable(story)


def _probe_delay(waiting_for: WaitingFor, outage: int, now: Instant) -> int:
    cap = DISK_PROBE_CAP_MS if waiting_for is WaitingFor.DISK_SPACE else HOST_PROBE_CAP_MS
    return probe_delay(outage, now.roll, cap)


def _attempt_failed(
    task: TaskState, fault: Fault, attempt: int, waiting_for: WaitingFor, delay: int | None
) -> ev.AttemptFailed:
    return ev.AttemptFailed(
        state=task.state, fault=fault, attempt=attempt, waiting_for=waiting_for, delay=delay
    )


def _begin_again_unless_reusable(story: _Story) -> _Story:
    if story.task.intent is None and story.task.generation is not None and not story.task.reusable:
        story.tell(_restart(story, "the bytes have no strong validator, so another reply can't add to them"))
    return story


def _restart(story: _Story, reason: str, *, changed: bool = False) -> ev.Restarted:
    return ev.Restarted(state=story.task.state, reason=reason, changed=changed)


def _fail(story: _Story, fault: Fault) -> _Story:
    story.tell(ev.Failed(state=story.moved(Trigger.FAIL), fault=fault))
    return story


def _retries(task: TaskState) -> int:
    return DEFAULT_RETRIES if task.request.retries is None else task.request.retries


# Reports of settling work


def _published(task: TaskState, _: msg.Published, __: Instant) -> Decision:
    if task.phase is Phase.DISCARDING:
        return Decision((ev.PartDiscarded(state=task.state, published=True),))
    if task.phase is not Phase.PUBLISHING or task.intent is None:
        return NOTHING_HAPPENED
    story = _Story(task)
    if task.state is State.QUEUED:  # published while the task was on its way back to a slot
        _admitted(story)
    elif task.state is State.FAILED:
        return NOTHING_HAPPENED
    story.tell(
        ev.Completed(
            state=story.moved(Trigger.FINISH),
            path=_target(task),
            size=task.intent.size,
            digests=task.intent.digests,
            url=task.request.url,
            created=task.created,
            client_file_sign=task.request.client_file_sign,
        )
    )
    return story.end()


def _target(task: TaskState) -> str:
    assert isinstance(task.request, Download)  # noqa: S101  # only a download has a target
    return task.request.to


def _publish_failed(task: TaskState, message: msg.PublishFailed, now: Instant) -> Decision:
    if task.phase is not Phase.PUBLISHING or not may(task.state, Trigger.FAIL):
        return NOTHING_HAPPENED
    return _failure(_Story(task), message.fault, now).end()


def _discarded(task: TaskState, message: msg.Discarded, _: Instant) -> Decision:
    if task.phase is not Phase.DISCARDING:
        return NOTHING_HAPPENED
    return Decision((ev.PartDiscarded(state=task.state, published=message.published),))


def _discard_failed(task: TaskState, message: msg.DiscardFailed, now: Instant) -> Decision:
    if task.phase is not Phase.DISCARDING or task.wait is not None:
        return NOTHING_HAPPENED
    outage = task.outages + 1
    delay = _probe_delay(WaitingFor.DISK_SPACE, outage, now)
    return Decision((_attempt_failed(task, message.fault, outage, WaitingFor.DISK_SPACE, delay),))


_DECIDERS: dict[type[msg.Message], Callable[[TaskState, Any, Instant], Decision]] = {
    msg.Admit: _admit,
    msg.Pause: _pause,
    msg.Resume: _resume,
    msg.Cancel: _cancel,
    msg.Retry: _retry,
    msg.Requeue: _requeue,
    msg.Supply: _supply,
    msg.Recover: _recover,
    msg.Wake: _wake,
    msg.Probed: _probed,
    msg.Flushed: _flushed,
    msg.Proved: _proved,
    msg.Digested: _digested,
    msg.Faulted: _faulted,
    msg.Published: _published,
    msg.PublishFailed: _publish_failed,
    msg.Discarded: _discarded,
    msg.DiscardFailed: _discard_failed,
}
