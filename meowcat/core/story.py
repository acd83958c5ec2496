"""Events in the making, and what a failure leads to: the same rules for every kind of transfer."""

from msgspec import Struct

from meowcat.core import events as ev
from meowcat.core.errors import Code
from meowcat.core.machine import Trigger, step
from meowcat.core.retry import DISK_PROBE_CAP_MS, HOST_PROBE_CAP_MS, Class, backoff, classify, probe_delay
from meowcat.core.state import Phase, TaskState, evolve
from meowcat.core.transfers import Download, Upload
from meowcat.core.values import Checksum, Fault, FaultKind, Instant
from meowcat.core.waits import WaitingFor

DEFAULT_RETRIES = 3


class Refusal(Struct, frozen=True):
    """A command that makes no sense now; nothing has changed."""

    code: Code
    detail: str


class Decision(Struct, frozen=True, gc=False):
    events: tuple[ev.Event, ...] = ()
    refusal: Refusal | None = None
    tasks: tuple[TaskState, ...] = ()
    """The task after each of the events, where whoever decided has folded them; else nothing."""


NOTHING_HAPPENED = Decision()


class Story(Struct, gc=False):
    """Events in the making, each of which depends on the task as it is after those before it. One alone needs
    no story.
    """

    task: TaskState
    """After all events so far."""
    events: list[ev.Event] = []
    tasks: list[TaskState] = []

    def tell(self, event: ev.Event) -> None:
        self.task = task = evolve(self.task, event)
        self.events.append(event)
        self.tasks.append(task)

    def end(self) -> Decision:
        return Decision(tuple(self.events), None, tuple(self.tasks))


def admission(task: TaskState) -> ev.Event:
    """A slot was granted."""
    return ev.Admitted(state=step(task.state, Trigger.ADMIT), run=task.run + 1)


def completion(task: TaskState, size: int, digests: tuple[Checksum, ...], result: dict[str, str]) -> ev.Event:
    """The end that was wished for."""
    request = task.request
    return ev.Completed(
        state=step(task.state, Trigger.FINISH),
        path=request.to if isinstance(request, Download) else request.source,
        size=size,
        digests=digests,
        url=request.url,
        created=task.created,
        client_file_sign=request.client_file_sign,
        direction=request.direction,
        result=result,
    )


def failure(story: Story, fault: Fault, now: Instant) -> Story:
    """Try again later, wait, begin again, or fail."""
    kind = classify(fault)
    if kind is Class.DISK:
        return _begin_again_unless_reusable(outage(story, fault, WaitingFor.DISK_SPACE, now))
    if kind is Class.UNREACHABLE and story.task.answered:
        return _begin_again_unless_reusable(outage(story, fault, WaitingFor.HOST, now))
    if kind is Class.SUPPLY:
        return _begin_again_unless_reusable(await_supply(story, fault))
    if kind is Class.PERMANENT:
        return _give_up(story, fault)
    budget = retries(story.task)
    if kind is Class.CHANGED:
        story.tell(begin_anew(story.task, fault.detail, changed=True))
        if story.task.changes > budget:
            return fail(story, fault)
    return _attempt(story, fault, now, budget)


def _give_up(story: Story, fault: Fault) -> Story:
    """Another attempt would end the same way. What is of no use for a later one either is dropped."""
    task = story.task
    if not task.is_upload:
        if fault.kind is FaultKind.LOCAL_REMOVED:
            story.tell(begin_anew(task, fault.detail))
        return fail(story, fault)
    fail(story, fault)  # first: a crash between the two must not begin anew, with another source, unasked
    if fault.kind is FaultKind.SOURCE_CHANGED:
        story.tell(begin_anew(story.task, fault.detail, unpin=True))
    elif fault.kind is FaultKind.CHECKSUM and task.intent is not None:
        story.tell(begin_anew(story.task, fault.detail))  # what the server has is not what was meant
    return story


def await_supply(story: Story, fault: Fault) -> Story:
    """Wait until somebody hands in afresh what has run out."""
    task = story.task
    # Which one has run out is not said; but headers, and a protocol, never do.
    lasting = ("header:", "protocol:")
    names = tuple(need for need in task.request.needs if not need.startswith(lasting))
    names = names or (("plan",) if task.request.protocol else ("url",))
    story.tell(attempt_failed(task, fault, task.attempts, WaitingFor.RETRY, None))
    if task.wait is None:
        story.tell(ev.Waiting(state=task.state, waiting_for=WaitingFor.SUPPLY, names=names))
    return story


def _attempt(story: Story, fault: Fault, now: Instant, budget: int) -> Story:
    task = story.task
    if task.wait is not None:  # a request of the same outage: it costs no further attempt
        story.tell(attempt_failed(task, fault, task.attempts, WaitingFor.RETRY, None))
        return story
    if task.attempts >= budget:
        return fail(story, fault)
    attempt = task.attempts + 1
    delay, waiting_for = backoff(attempt, now.roll), WaitingFor.RETRY
    if fault.retry_after is not None:
        delay, waiting_for = max(delay, fault.retry_after), WaitingFor.SERVER
    story.tell(attempt_failed(task, fault, attempt, waiting_for, delay))
    return _begin_again_unless_reusable(story)


def outage(story: Story, fault: Fault, waiting_for: WaitingFor, now: Instant) -> Story:
    """Wait with growing probes, and use up no attempt."""
    task = story.task
    if task.wait is not None:
        story.tell(attempt_failed(task, fault, task.outages, waiting_for, None))
        return story
    number = task.outages + 1
    story.tell(attempt_failed(task, fault, number, waiting_for, _probe_delay(waiting_for, number, now)))
    return story


def _probe_delay(waiting_for: WaitingFor, number: int, now: Instant) -> int:
    cap = DISK_PROBE_CAP_MS if waiting_for is WaitingFor.DISK_SPACE else HOST_PROBE_CAP_MS
    return probe_delay(number, now.roll, cap)


def attempt_failed(
    task: TaskState, fault: Fault, attempt: int, waiting_for: WaitingFor, delay: int | None
) -> ev.AttemptFailed:
    return ev.AttemptFailed(
        state=task.state, fault=fault, attempt=attempt, waiting_for=waiting_for, delay=delay
    )


def _begin_again_unless_reusable(story: Story) -> Story:
    if story.task.intent is None and story.task.generation is not None and not story.task.reusable:
        detail = "the bytes have no strong validator, so another reply can't add to them"
        story.tell(begin_anew(story.task, detail))
    return story


def begin_anew(task: TaskState, reason: str, *, changed: bool = False, unpin: bool = False) -> ev.Event:
    """What was brought so far counts no more."""
    if not task.is_upload:
        return ev.Restarted(state=task.state, reason=reason, changed=changed)
    return ev.SessionDropped(state=task.state, reason=reason, abort=True, changed=changed, unpin=unpin)


def fail(story: Story, fault: Fault) -> Story:
    story.tell(ev.Failed(state=step(story.task.state, Trigger.FAIL), fault=fault))
    return story


def retries(task: TaskState) -> int:
    """How many extra attempts the task has where it is now.

    A commit has one at least: what became of it has to be asked for before it is said to have failed.
    """
    request = task.request
    budget = request.retries
    if isinstance(request, Upload) and task.phase is Phase.PROBING:
        budget = request.prepare_retries
    budget = DEFAULT_RETRIES if budget is None else budget
    return max(budget, 1) if isinstance(task.intent, ev.CommitIntended) else budget
