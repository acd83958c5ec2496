"""What the reports of a download mean."""

from meowcat.core import events as ev
from meowcat.core import messages as msg
from meowcat.core.errors import InvalidArgument
from meowcat.core.machine import ACTIVE, State, Trigger, may
from meowcat.core.pieces import choose_piece_size
from meowcat.core.state import Phase, TaskState
from meowcat.core.story import (
    NOTHING_HAPPENED,
    Decision,
    Story,
    admitted,
    begin_anew,
    completed,
    fail,
    failure,
    outage,
)
from meowcat.core.transfers import Download, parse_checksum
from meowcat.core.values import Checksum, Fault, FaultKind, Generation, Instant
from meowcat.core.waits import WaitingFor


def probed(task: TaskState, message: msg.Probed, _: Instant) -> Decision:
    assert isinstance(task.request, Download)  # noqa: S101  # only a download is probed
    if task.state is not State.PREPARING and task.generation is not None:
        return NOTHING_HAPPENED  # known; a task that began again while it was Running learns it here
    piece_size = task.piece_size
    if task.generation is None:
        try:
            piece_size = choose_piece_size(message.generation.size or 0, task.request.piece_size)
        except InvalidArgument as refused:
            fault = Fault(kind=FaultKind.LENGTH, detail=str(refused))
            return fail(Story(task), fault).end()
    story = Story(task)
    _started(story, task.generation or message.generation, piece_size)
    return _advance(story).end()


def _started(story: Story, generation: Generation, piece_size: int) -> None:
    state = State.RUNNING if story.task.state is State.RUNNING else story.moved(Trigger.START)
    story.tell(ev.Started(state=state, generation=generation, piece_size=piece_size))


def flushed(task: TaskState, message: msg.Flushed, _: Instant) -> Decision:
    story = Story(task)
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


def proved(task: TaskState, message: msg.Proved, _: Instant) -> Decision:
    story = Story(task)
    story.tell(ev.Rechecked(state=task.state, kept=message.kept, lost=message.lost))
    return _advance(story).end()


def _advance(story: Story) -> Story:
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
    offered = task.generation is not None and task.generation.digests
    if not (task.request.checksum or task.request.digest or offered):
        return ()  # as of most
    expected = [each.algorithm for each in expected_digests(task)]
    asked = [task.request.digest] if task.request.digest else []
    return tuple(dict.fromkeys((*expected, *asked)))


def _intend(story: Story, digests: tuple[Checksum, ...]) -> None:
    task = story.task
    assert task.grid is not None  # noqa: S101  # covered, so its size is known
    assert task.file is not None  # noqa: S101  # stored, or opened for an empty file
    story.tell(ev.PublishIntended(state=task.state, file=task.file, size=task.grid.size, digests=digests))


def digested(task: TaskState, message: msg.Digested, _: Instant) -> Decision:
    if task.phase is not Phase.VERIFYING:
        return NOTHING_HAPPENED
    story = Story(task)
    found = {each.algorithm: each for each in message.digests}
    for expected in expected_digests(task):
        got = found.get(expected.algorithm)
        if got != expected:
            detail = f"the content has {got or 'no ' + expected.algorithm}; expected {expected}"
            story.tell(begin_anew(story.task, detail))
            return fail(story, Fault(kind=FaultKind.CHECKSUM, detail=detail)).end()
    if not found.keys() >= set(digest_algorithms(task)):
        return NOTHING_HAPPENED  # asked for while the file was read: it is read again
    _intend(story, message.digests)
    return story.end()


def published(task: TaskState, _: msg.Published, __: Instant) -> Decision:
    if task.phase is Phase.DISCARDING:
        return Decision((ev.PartDiscarded(state=task.state, published=True),))
    if task.phase is not Phase.PUBLISHING or task.intent is None:
        return NOTHING_HAPPENED
    story = Story(task)
    if task.state is State.QUEUED:  # published while the task was on its way back to a slot
        admitted(story)
    elif task.state is State.FAILED:
        return NOTHING_HAPPENED
    completed(story, _target(task), task.intent.size, task.intent.digests)
    return story.end()


def _target(task: TaskState) -> str:
    assert isinstance(task.request, Download)  # noqa: S101  # only a download has a target
    return task.request.to


def publish_failed(task: TaskState, message: msg.PublishFailed, now: Instant) -> Decision:
    if task.phase is not Phase.PUBLISHING or not may(task.state, Trigger.FAIL):
        return NOTHING_HAPPENED
    return failure(Story(task), message.fault, now).end()


def discarded(task: TaskState, message: msg.Discarded, _: Instant) -> Decision:
    if task.phase is not Phase.DISCARDING:
        return NOTHING_HAPPENED
    return Decision((ev.PartDiscarded(state=task.state, published=message.published),))


def discard_failed(task: TaskState, message: msg.DiscardFailed, now: Instant) -> Decision:
    if task.phase is not Phase.DISCARDING or task.wait is not None:
        return NOTHING_HAPPENED
    return outage(Story(task), message.fault, WaitingFor.DISK_SPACE, now).end()
