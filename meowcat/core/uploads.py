"""What the reports of an upload mean."""

from meowcat.core import events as ev
from meowcat.core import messages as msg
from meowcat.core.errors import InvalidArgument
from meowcat.core.kinds import check_size
from meowcat.core.machine import ACTIVE, ENDED, State, Trigger, may, step
from meowcat.core.pieces import DEFAULT_PART, MAX_PIECE
from meowcat.core.retry import Class, classify, probe_delay
from meowcat.core.sessions import Capabilities
from meowcat.core.state import TaskState
from meowcat.core.story import (
    NOTHING_HAPPENED,
    Decision,
    Story,
    admission,
    attempt_failed,
    await_supply,
    completion,
    failure,
    outage,
    retries,
)
from meowcat.core.values import Checksum, FaultKind, Instant
from meowcat.core.waits import WaitingFor


def choose_part_size(size: int, wanted: int | None, able: Capabilities) -> int:
    """Bytes in a part of a source of `size` bytes: `wanted`, or the least usual one that the provider allows.

    Raises:
        InvalidArgument: the provider takes no content of that size, or not in such parts.
    """
    least, most = max(able.min_part, 1), min(able.max_part, MAX_PIECE)
    if size > min(able.max_size, able.max_parts * most):
        most_in_all = min(able.max_size, able.max_parts * most)
        raise InvalidArgument(f"the source has {size} bytes; the provider takes at most {most_in_all}")
    if size == 0 and not able.empty:
        raise InvalidArgument("the source is empty, which the provider does not take")
    if able.max_parts == 1:
        return max(size, 1)
    if wanted is None:
        part = max(DEFAULT_PART, least)
        while -(-size // part) > able.max_parts:
            part *= 2
        return min(part, most)
    check_size("piece_size", wanted)
    if not (least <= wanted <= most or size <= min(wanted, most)):
        raise InvalidArgument(f"piece_size {wanted}: the provider takes parts of {least} to {most} bytes")
    if -(-size // wanted) > able.max_parts:
        raise InvalidArgument(
            f"piece_size {wanted}: makes {-(-size // wanted)} parts of {size} bytes; the provider takes at "
            f"most {able.max_parts}: leave it out"
        )
    return wanted


def pinned(task: TaskState, message: msg.Pinned, _: Instant) -> Decision:
    event = ev.SourcePinned(state=task.state, source=message.source, digests=message.digests)
    return Decision((event,))


def opening(task: TaskState, _: msg.Opening, __: Instant) -> Decision:
    if task.session is not None or task.opening:
        return NOTHING_HAPPENED
    return Decision((ev.SessionIntended(state=task.state),))


def opened(task: TaskState, message: msg.Opened, _: Instant) -> Decision:
    story = Story(task)
    if task.session is None:
        if not task.opening and (task.state in ENDED or task.generation is None):
            return NOTHING_HAPPENED
        story.tell(_opened(task, message))
    if message.result is not None and story.task.session is not None and may(task.state, Trigger.FAIL):
        _finish(story, message.result)
    return story.end()


def _opened(task: TaskState, message: msg.Opened) -> ev.Event:
    if message.result is not None and (task.state in ENDED or task.generation is None):
        return ev.SessionUnopened(state=task.state, lost=False)  # the object stands; nothing is to be removed
    return ev.SessionOpened(
        state=step(task.state, Trigger.START) if task.state is State.PREPARING else task.state,
        session=message.session,
        piece_size=message.piece_size,
        held=message.held,
    )


def unopened(task: TaskState, message: msg.Unopened, now: Instant) -> Decision:
    story = Story(task)
    if task.opening:
        story.tell(ev.SessionUnopened(state=task.state, lost=message.lost))
    if message.fault is not None and task.state in ACTIVE:
        failure(story, message.fault, now)
    return story.end()


def confirmed(task: TaskState, message: msg.Confirmed, _: Instant) -> Decision:
    if task.session is None:
        return NOTHING_HAPPENED
    event = ev.Sent(
        state=task.state, pieces=message.pieces, digests=message.digests, receipts=message.receipts
    )
    return Decision((event,))


def proved(task: TaskState, message: msg.Proved, _: Instant) -> Decision:
    state = step(task.state, Trigger.START) if task.state is State.PREPARING else task.state
    return Decision((ev.Rechecked(state=state, kept=message.kept, lost=message.lost),))


def ready(task: TaskState, message: msg.Ready, _: Instant) -> Decision:
    if not task.covered or task.unproven or task.grid is None:
        return NOTHING_HAPPENED  # something was lost again while the source was proved
    event = ev.CommitIntended(state=task.state, size=task.grid.size, digests=message.digests)
    return Decision((event,))


def committed(task: TaskState, message: msg.Committed, _: Instant) -> Decision:
    if task.state is State.CANCELED and task.condemned and task.condemned[-1].doubt:
        return _abort_ended(task, task.condemned[-1].session.id, committed=True)
    if task.intent is None or not may(task.state, Trigger.FAIL):
        return NOTHING_HAPPENED  # failed: a retry asks about it again
    story = Story(task)
    _finish(story, message.result)
    return story.end()


def _finish(story: Story, result: dict[str, str]) -> None:
    if story.task.state is State.QUEUED:  # finished while the task was on its way back to a slot
        story.tell(admission(story.task))
    task = story.task
    assert task.generation is not None  # noqa: S101  # a session is opened for a source that is known
    size = task.generation.size or 0
    story.tell(completion(task, size, _digests(task), result))


def _digests(task: TaskState) -> tuple[Checksum, ...]:
    if task.intent is not None:
        return task.intent.digests
    return task.generation.digests if task.generation else ()


def commit_failed(task: TaskState, message: msg.CommitFailed, now: Instant) -> Decision:
    if task.intent is None or not may(task.state, Trigger.FAIL):
        return NOTHING_HAPPENED
    return failure(Story(task), message.fault, now).end()


def aborted(task: TaskState, message: msg.Aborted, _: Instant) -> Decision:
    return _abort_ended(task, message.session, committed=message.committed)


def _abort_ended(
    task: TaskState, session: str, *, gone: bool = True, committed: bool = False, detail: str = ""
) -> Decision:
    if not _owed(task, session):
        return NOTHING_HAPPENED
    event = ev.SessionAborted(
        state=task.state, session=session, gone=gone, committed=committed, detail=detail
    )
    return Decision((event,))


def reap(task: TaskState, _: msg.Reap, __: Instant) -> Decision:
    """What was given up is owed again; and what is owed and waits, be it for a credential that may be another
    one by now, is tried at once. What else the task waits for, it will wait for again."""
    events: list[ev.Event] = [
        ev.SessionCondemned(state=task.state, session=each.session.id) for each in task.left
    ]
    if task.condemned and task.wait is not None:
        events.append(ev.WaitEnded(state=task.state))
    return Decision(tuple(events))


def _owed(task: TaskState, session: str) -> bool:
    return any(each.session.id == session for each in task.condemned)


def abort_failed(task: TaskState, message: msg.AbortFailed, now: Instant) -> Decision:
    """Repeated for as long as it takes, but for what would always end the same way. A task that is to go on
    with another session gives up when its attempts are used up."""
    fault, kind = message.fault, classify(message.fault)
    if fault.kind is FaultKind.SESSION_LOST:
        return _abort_ended(task, message.session)
    if kind is Class.PERMANENT:
        return _abort_ended(task, message.session, gone=False, detail=fault.detail)
    if task.wait is not None or not _owed(task, message.session):
        return NOTHING_HAPPENED
    story = Story(task)
    if kind is Class.SUPPLY:
        return await_supply(story, fault).end()
    if kind is Class.UNREACHABLE:
        return outage(story, fault, WaitingFor.HOST, now).end()
    goes_on = task.state in ACTIVE or task.state is State.QUEUED
    if goes_on and task.attempts >= retries(task):
        return _abort_ended(task, message.session, gone=False, detail=fault.detail)
    attempt = task.attempts + 1
    delay, waiting_for = probe_delay(attempt, now.roll), WaitingFor.RETRY
    if fault.retry_after is not None:
        delay, waiting_for = max(delay, fault.retry_after), WaitingFor.SERVER
    story.tell(attempt_failed(task, fault, attempt, waiting_for, delay))
    return story.end()
