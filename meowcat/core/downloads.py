"""What the reports of a download mean."""

from meowcat.core import events as ev
from meowcat.core import messages as msg
from meowcat.core.errors import InvalidArgument
from meowcat.core.machine import ACTIVE, TERMINAL, State, Trigger, step
from meowcat.core.pieces import choose_piece_size
from meowcat.core.retry import http_date
from meowcat.core.state import Phase, TaskState
from meowcat.core.story import (
    NOTHING_HAPPENED,
    Decision,
    Story,
    admission,
    begin_anew,
    completion,
    fail,
    failure,
    outage,
)
from meowcat.core.transfers import Download, parse_checksum
from meowcat.core.values import Checksum, Fault, FaultKind, Generation, Instant
from meowcat.core.waits import WaitingFor

_RANGE_NOT_SATISFIABLE = 416


def probed(task: TaskState, message: msg.Probed, _: Instant) -> Decision:
    if task.generation is not None and task.state is not State.PREPARING:
        return NOTHING_HAPPENED  # known; a task that began again while it was Running learns it here
    return _learn(Story(task), message.generation).end()


def brought(task: TaskState, message: msg.Brought, _: Instant) -> Decision:
    if task.generation is not None:
        return NOTHING_HAPPENED  # known, so the bytes may be of another one
    story = _learn(Story(task), message.generation)
    if story.task.state in ACTIVE:
        _advance(story, _stored(story.task, message))
        if message.whole and story.task.phase is Phase.VERIFYING:
            _compare(story, message.whole)
    return story.end()


def _learn(story: Story, generation: Generation) -> Story:
    """What the content is, where that is not known yet."""
    task = story.task
    assert isinstance(task.request, Download)  # noqa: S101  # only a download is probed
    if task.generation is not None:
        return _advance(story, _start(task, task.generation, task.piece_size))
    try:
        piece_size = choose_piece_size(generation.size or 0, task.request.piece_size)
    except InvalidArgument as refused:
        return fail(story, Fault(kind=FaultKind.LENGTH, detail=str(refused)))
    return _advance(story, _start(task, generation, piece_size))


def _start(task: TaskState, generation: Generation, piece_size: int) -> ev.Event:
    state = task.state if task.state is State.RUNNING else step(task.state, Trigger.START)
    return ev.Started(state=state, generation=generation, piece_size=piece_size)


def size_is_in_doubt(task: TaskState) -> bool:
    """Whether the task failed because a reply contradicts the size that it goes by, be it the length or that
    nothing is there of a range inside of it (416). A server may have told another one under the right
    validator, and every retry that goes by it would fail again."""
    fault = task.fault
    if fault is None or task.generation is None or task.intent is not None:
        return False
    unsatisfied = fault.kind is FaultKind.RANGE and fault.status == _RANGE_NOT_SATISFIABLE
    return unsatisfied or fault.kind is FaultKind.LENGTH


def flushed(task: TaskState, message: msg.Flushed, _: Instant) -> Decision:
    return _advance(Story(task), _stored(task, message)).end()


def _stored(task: TaskState, message: msg.Flushed) -> ev.Event:
    return ev.Stored(
        state=task.state,
        pieces=message.pieces,
        digests=message.digests,
        file=message.file,
        size=message.size,
    )


def proved(task: TaskState, message: msg.Proved, _: Instant) -> Decision:
    event = ev.Rechecked(state=task.state, kept=message.kept, lost=message.lost)
    return _advance(Story(task), event).end()


def _advance(story: Story, event: ev.Event) -> Story:
    """The event, by which more may be stored and proven. When that is all, and no digest is to be computed,
    it is intended to publish."""
    story.tell(event)
    task = story.task
    if task.state not in ACTIVE or not task.proven:
        return story
    if task.state is State.PREPARING:
        assert task.generation is not None  # noqa: S101  # what is covered is known
        story.tell(_start(task, task.generation, task.piece_size))
    if not digest_algorithms(task):
        story.tell(_intent(story.task, ()))
    return story


def expected_digests(task: TaskState) -> tuple[Checksum, ...]:
    """Digests of the whole that the bytes must have: the caller's, and those that the server offered."""
    assert isinstance(task.request, Download)  # noqa: S101  # an upload's digests are its protocol's
    return _expected(task.request, task.generation)


def _expected(request: Download, generation: Generation | None) -> tuple[Checksum, ...]:
    asked = (parse_checksum(request.checksum),) if request.checksum else ()
    offered = generation.digests if generation else ()
    return asked + tuple(each for each in offered if each not in asked)


def algorithms(request: Download, generation: Generation | None) -> tuple[str, ...]:
    """What to compute over the whole: to compare with what is expected, and because it was asked for."""
    if not (request.checksum or request.digest or (generation is not None and generation.digests)):
        return ()  # as of most
    expected = [each.algorithm for each in _expected(request, generation)]
    asked = [request.digest] if request.digest else []
    return tuple(dict.fromkeys((*expected, *asked)))


def digest_algorithms(task: TaskState) -> tuple[str, ...]:
    """`algorithms` of a task."""
    assert isinstance(task.request, Download)  # noqa: S101  # as above
    return algorithms(task.request, task.generation)


def time_of(task: TaskState) -> int | None:
    """What the file's time is to be, in milliseconds since 1970 UTC; None where nobody asked for another than
    that of its last write, or the server says none."""
    assert isinstance(task.request, Download)  # noqa: S101  # as above
    if not task.request.remote_time or task.generation is None:
        return None
    return http_date(task.generation.last_modified)


def _intent(task: TaskState, digests: tuple[Checksum, ...]) -> ev.Event:
    known, file = task.generation, task.file
    assert known is not None  # noqa: S101  # as for what is stored
    assert known.size is not None  # noqa: S101  # otherwise not all of it would be
    assert file is not None  # noqa: S101  # stored, or opened for an empty file
    return ev.PublishIntended(state=task.state, file=file, size=known.size, digests=digests)


def digested(task: TaskState, message: msg.Digested, _: Instant) -> Decision:
    if task.phase is not Phase.VERIFYING:
        return NOTHING_HAPPENED
    if message.changed:
        return _changed(task, message.changed)
    return _compare(Story(task), message.digests).end()


def _compare(story: Story, digests: tuple[Checksum, ...]) -> Story:
    """Digests of the whole are there: it is intended to publish, if they are as expected."""
    task = story.task
    found = {each.algorithm: each for each in digests}
    for expected in expected_digests(task):
        got = found.get(expected.algorithm)
        if got != expected:
            detail = f"the content has {got or 'no ' + expected.algorithm}; expected {expected}"
            story.tell(begin_anew(task, detail))
            return fail(story, Fault(kind=FaultKind.CHECKSUM, detail=detail))
    if found.keys() >= set(digest_algorithms(task)):  # or one was asked for meanwhile: it is read again
        story.tell(_intent(task, digests))
    return story


def _changed(task: TaskState, pieces: tuple[tuple[int, int], ...]) -> Decision:
    """Bytes were stored, and others are there. Whoever tries again has those pieces brought anew."""
    count = sum(stop - first for first, stop in pieces)
    detail = (
        f"{count} of the part file's pieces {'is' if count == 1 else 'are'} not what was stored there, the "
        f"first from byte {pieces[0][0] * task.piece_size:,} on: another program has changed it, or the disk "
        "or the memory is faulty; retry brings them anew"
    )
    story = Story(task)
    story.tell(ev.Rechecked(state=task.state, kept=(), lost=pieces))
    return fail(story, Fault(kind=FaultKind.CHECKSUM, detail=detail)).end()


def published(task: TaskState, _: msg.Published, __: Instant) -> Decision:
    if task.discard:
        return Decision((ev.PartDiscarded(state=task.state, published=True),))
    if task.intent is None or task.state in TERMINAL:
        return NOTHING_HAPPENED
    size, digests = task.intent.size, task.intent.digests
    if task.state is not State.QUEUED:
        return Decision((completion(task, size, digests, {}),))
    story = Story(task)  # published while the task was on its way back to a slot
    story.tell(admission(task))
    story.tell(completion(story.task, size, digests, {}))
    return story.end()


def publish_failed(task: TaskState, message: msg.PublishFailed, now: Instant) -> Decision:
    if task.intent is None or task.state in TERMINAL:
        return NOTHING_HAPPENED
    return failure(Story(task), message.fault, now).end()


def discarded(task: TaskState, message: msg.Discarded, _: Instant) -> Decision:
    if not task.discard:
        return NOTHING_HAPPENED
    return Decision((ev.PartDiscarded(state=task.state, published=message.published),))


def discard_failed(task: TaskState, message: msg.DiscardFailed, now: Instant) -> Decision:
    if not task.discard or task.wait is not None:
        return NOTHING_HAPPENED
    return outage(Story(task), message.fault, WaitingFor.DISK_SPACE, now).end()
