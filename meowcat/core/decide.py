"""What a message means for a task: the events that it makes, and the answer to whoever sent it.

`decide` changes nothing and knows no clock but the `Instant` that it is given. The events of a decision are
appended together; `evolve` then folds them. Every arrow of the lifecycle goes through `machine.step`.
"""

from collections.abc import Callable
from typing import Any

from meowcat.core import downloads, uploads
from meowcat.core import events as ev
from meowcat.core import messages as msg
from meowcat.core.errors import Code
from meowcat.core.machine import ACTIVE, ENDED, State, Trigger, may, sources, step
from meowcat.core.state import TaskState
from meowcat.core.story import NOTHING_HAPPENED, Decision, Refusal, Story, admission, begin_anew, failure
from meowcat.core.transfers import with_named
from meowcat.core.values import Instant
from meowcat.core.waits import wait_for
from meowcat.core.wanted import waits_for_a_time, wants_slot

CRASHES_BEFORE_PAUSE = 3
"""A task that was at work at so many crashes in a row, and stored nothing between, is paused."""


def decide(task: TaskState | None, message: msg.Message, now: Instant) -> Decision:
    """Is this message legal now, and what happened because of it?

    A stale report makes no event and no refusal; a command that the state does not allow makes a refusal
    (TASK_STATE, or TASK_NOT_FOUND for a task that has ended).
    """
    if task is None:
        return _create(message, now)
    if isinstance(message, msg.Report) and not _current(task, message):
        return NOTHING_HAPPENED
    return _DECIDERS[type(message)](task, message, now)


def _refuse(code: Code, detail: str) -> Decision:
    return Decision(refusal=Refusal(code, detail))


_TRUTHS = (msg.Flushed, msg.Proved, msg.Confirmed)


def _current(task: TaskState, report: msg.Report) -> bool:
    """Whether a report belongs to what the task is about now.

    A flush that ended after a pause or a failure still tells the truth about its bytes, and is taken: the
    run goes on until the next one begins. Byte work is over once publishing is intended: what a last request
    of it reports must not fail, or begin again, a task whose rename may be done already.
    """
    if report.run != task.run or report.restarts != task.restarts or task.intent is not None:
        return False
    if type(report) in _TRUTHS:
        # Without its generation (the head came after a pause, and was dropped) a piece could be of any.
        return task.state not in ENDED and task.generation is not None
    return task.state in ACTIVE


# Commands


def _create(message: msg.Message, now: Instant) -> Decision:
    if not isinstance(message, msg.Create):
        return _refuse(Code.TASK_NOT_FOUND, "there is no such task")
    state = State.PAUSED if message.paused else State.QUEUED
    return Decision(
        (ev.Created(state=state, task=message.task, key=message.key, at=now.at, request=message.request),)
    )


def _created(task: TaskState, _: msg.Create, __: Instant) -> Decision:
    return _refuse(Code.DUPLICATE_TASK, f"task {task.id} exists already")


def _admit(task: TaskState, message: msg.Admit, _: Instant) -> Decision:
    if task.state is not State.QUEUED or not wants_slot(task):
        return NOTHING_HAPPENED  # paused or canceled while the slot was on its way, or it needs none
    if message.missing:
        lacks = message.missing
        return Decision((ev.Waiting(state=task.state, waiting_for=wait_for(lacks), names=lacks),))
    event = admission(task)
    if task.generation is None or not task.stored or task.reusable:
        return Decision((event,))
    story = Story(task)
    story.tell(event)
    story.tell(begin_anew(story.task, "the bytes have no strong validator, so a new run can't add to them"))
    return story.end()


def _pause(task: TaskState, message: msg.Pause, _: Instant) -> Decision:
    return _command(task, Trigger.PAUSE, lambda state: ev.Paused(state=state, reason=message.reason))


def _resume(task: TaskState, _: msg.Resume, __: Instant) -> Decision:
    if waits_for_a_time(task):  # whoever resumes it wants it tried now
        story = Story(task)
        if task.state in ACTIVE:
            story.tell(ev.Requeued(state=step(task.state, Trigger.REQUEUE), reason="resumed"))
        story.tell(ev.Resumed(state=story.task.state))
        return story.end()
    return _command(task, Trigger.RESUME, lambda state: ev.Resumed(state=state))


def _cancel(task: TaskState, _: msg.Cancel, __: Instant) -> Decision:
    return _command(task, Trigger.CANCEL, lambda state: ev.Canceled(state=state))


def _retry(task: TaskState, _: msg.Retry, __: Instant) -> Decision:
    if task.state is not State.FAILED or task.is_upload or not downloads.size_is_in_doubt(task):
        return _command(task, Trigger.RETRY, lambda state: ev.Retried(state=state))
    story = Story(task)
    story.tell(ev.Retried(state=step(task.state, Trigger.RETRY)))
    story.tell(begin_anew(story.task, "the server may have told a wrong size: the content is looked at anew"))
    return story.end()


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
    if task.state in ENDED and not task.condemned:  # what is to be removed may need it
        return _refuse(Code.TASK_NOT_FOUND, f"task {task.id} has ended: it is {task.state}")
    request = message.request
    if request is not None:
        request = with_named(task.request, request, message.names)
    return Decision((ev.Supplied(state=task.state, names=message.names, request=request),))


def _recover(task: TaskState, message: msg.Recover, _: Instant) -> Decision:
    story = Story(task)
    if task.opening:  # whether a session came of it is known to no one, also where the task is at rest
        story.tell(ev.SessionUnopened(state=task.state, lost=True))
    active = task.state in ACTIVE
    if not active and task.state is not State.QUEUED:
        return story.end()
    crashed = active and task.wait is None  # who waits holds no slot, and brought no process down
    resume, reason = message.resume, message.reason
    if crashed and task.crashes + 1 >= CRASHES_BEFORE_PAUSE:
        resume = False
        reason = f"its process died {task.crashes + 1} times in a row while it was at work"
    if resume:
        state = step(task.state, Trigger.REQUEUE) if active else task.state
    else:
        state = step(task.state, Trigger.PAUSE)
    story.tell(ev.Recovered(state=state, crashed=crashed, reason=reason))
    return story.end()


def _wake(task: TaskState, message: msg.Wake, _: Instant) -> Decision:
    if task.wait is None or task.wait.seq != message.seq:
        return NOTHING_HAPPENED
    return Decision((ev.WaitEnded(state=task.state),))


# Reports


def _proved(task: TaskState, message: msg.Proved, now: Instant) -> Decision:
    return (uploads.proved if task.is_upload else downloads.proved)(task, message, now)


def _faulted(task: TaskState, message: msg.Faulted, now: Instant) -> Decision:
    return failure(Story(task), message.fault, now).end()


_DECIDERS: dict[type[msg.Message], Callable[[TaskState, Any, Instant], Decision]] = {
    msg.Create: _created,
    msg.Admit: _admit,
    msg.Pause: _pause,
    msg.Resume: _resume,
    msg.Cancel: _cancel,
    msg.Retry: _retry,
    msg.Requeue: _requeue,
    msg.Supply: _supply,
    msg.Reap: uploads.reap,
    msg.Recover: _recover,
    msg.Wake: _wake,
    msg.Proved: _proved,
    msg.Faulted: _faulted,
    msg.Probed: downloads.probed,
    msg.Flushed: downloads.flushed,
    msg.Brought: downloads.brought,
    msg.Digested: downloads.digested,
    msg.Published: downloads.published,
    msg.PublishFailed: downloads.publish_failed,
    msg.Discarded: downloads.discarded,
    msg.DiscardFailed: downloads.discard_failed,
    msg.Pinned: uploads.pinned,
    msg.Opening: uploads.opening,
    msg.Opened: uploads.opened,
    msg.Unopened: uploads.unopened,
    msg.Confirmed: uploads.confirmed,
    msg.Ready: uploads.ready,
    msg.Committed: uploads.committed,
    msg.CommitFailed: uploads.commit_failed,
    msg.Aborted: uploads.aborted,
    msg.AbortFailed: uploads.abort_failed,
}
