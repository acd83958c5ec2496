"""What an opening says to the tasks that it finds."""

import pytest

from meowcat.core import events as ev
from meowcat.core.machine import State
from meowcat.core.sessions import Capabilities, Session
from meowcat.core.state import fold
from meowcat.core.transfers import Download, ProtocolSpec, Upload
from meowcat.core.values import Fault, FaultKind, Instant, SourceIdentity, TaskId
from meowcat.core.waits import WaitingFor
from meowcat.journal.codec import decode
from meowcat.runtime.recovery import answers

AT_REST = [State.PAUSED, State.FAILED, State.CANCELED]
GOING = [State.QUEUED, State.PREPARING, State.RUNNING]
UPLOAD = Upload("/x", "https://host.example/x", ProtocolSpec("scripted"))
PINNED = ev.SourcePinned(state=State.RUNNING, source=SourceIdentity(size=0), digests=())
SESSION = Session(id="s", capabilities=Capabilities())


class StoppedClock:
    def now(self):
        return Instant(at=5)


def a_task(state, *events, request=UPLOAD):
    created = ev.Created(state=State.QUEUED, task=TaskId("T"), key="k", at=0, request=request)
    fault = Fault(kind=FaultKind.IO, detail="x")
    last = {
        State.PAUSED: ev.Paused(state=state, reason="lunch"),
        State.FAILED: ev.Failed(state=state, fault=fault),
        State.CANCELED: ev.Canceled(state=state),
    }.get(state, ev.Rechecked(state=state, kept=(), lost=()))
    return fold([created, *events, last])


OPENING = (PINNED, ev.SessionIntended(state=State.RUNNING))
COMMITTING = (
    PINNED,
    ev.SessionOpened(state=State.RUNNING, session=SESSION, piece_size=1, held=()),
    ev.CommitIntended(state=State.RUNNING, size=0, digests=()),
)


def nobody(_):
    raise AssertionError("was asked about a task that rests")


def told(task, on_restart):
    """The tags of what is recorded, and the task after it."""
    found = list(answers([task], on_restart, StoppedClock()))
    if not found:
        return [], task
    ((_, entries, after),) = found
    assert fold([decode(each.type, each.version, each.body) for each in entries], task) == after
    return [each.type for each in entries], after


@pytest.mark.parametrize("state", AT_REST)
@pytest.mark.parametrize("on_restart", ["resume", "pause", "leave", nobody])
def test_a_session_that_was_being_opened_is_recorded_as_lost_and_nobody_is_asked(state, on_restart):
    tags, after = told(a_task(state, *OPENING), on_restart)
    assert tags == ["session-unopened"]
    assert (after.state, after.opening, after.lost) == (state, False, 1)
    assert after.open is (state is not State.CANCELED)
    assert told(after, on_restart) == ([], after)


@pytest.mark.parametrize("state", GOING)
def test_where_the_past_is_left_only_a_lost_session_is_recorded(state):
    tags, after = told(a_task(state, *OPENING), "leave")
    assert tags == ["session-unopened"]
    assert (after.state, after.opening, after.lost) == (state, False, 1)
    assert told(a_task(state), "leave")[0] == []


@pytest.mark.parametrize("state", GOING)
def test_a_task_that_was_to_go_on_is_told_so_and_its_lost_session_is_recorded(state):
    tags, after = told(a_task(state, *OPENING), "resume")
    assert tags == ["session-unopened", "recovered"]
    assert (after.state, after.opening, after.lost) == (State.QUEUED, False, 1)


@pytest.mark.parametrize("state", AT_REST)
def test_a_commit_in_doubt_at_rest_needs_no_record(state):
    task = a_task(state, *COMMITTING)
    assert told(task, nobody) == ([], task)
    assert task.doubt


@pytest.mark.parametrize("state", GOING[1:])
def test_a_commit_that_was_just_intended_is_in_doubt_after_a_crash(state):
    events = [*COMMITTING[:-1], ev.CommitIntended(state=state, size=0, digests=())]
    created = ev.Created(state=State.QUEUED, task=TaskId("T"), key="k", at=0, request=UPLOAD)
    task = fold([created, *events])
    assert not task.doubt
    tags, after = told(task, "resume")
    assert tags == ["recovered"]
    assert after.doubt


def test_a_queued_task_is_recorded_where_somebody_was_asked():
    queued = a_task(State.QUEUED, request=Download("https://host.example/x", "/x"))
    assert told(queued, "resume")[0] == []
    assert told(queued, "pause")[1].state is State.PAUSED
    assert told(queued, lambda _: True)[0] == ["recovered"]


def test_a_function_that_raises_pauses_the_task():
    tags, after = told(a_task(State.RUNNING), nobody)
    assert tags == ["recovered"]
    assert (after.state, after.reason) == (State.PAUSED, "on_restart raised AssertionError")


NEEDS = Upload("/x", "https://host.example/x", ProtocolSpec("scripted"), needs=("credential:a", "source:b"))
WAITING = ev.Waiting(state=State.QUEUED, waiting_for=WaitingFor.SUPPLY, names=NEEDS.needs)


def waiting():
    created = ev.Created(state=State.QUEUED, task=TaskId("T"), key="k", at=0, request=NEEDS)
    return fold([created, WAITING])


@pytest.mark.parametrize("there", [{"credential:a", "source:b"}, {"credential:a"}, set()])
def test_what_waits_goes_on_where_all_that_it_waits_for_is_registered(there):
    found = list(answers([waiting()], "resume", StoppedClock(), there.__contains__))
    if len(there) < 2:
        assert found == []
    else:
        ((_, (entry,), after),) = found
        assert (entry.type, after.state, after.wait) == ("supplied", State.QUEUED, None)


def test_what_it_said_that_it_waits_for_is_no_longer_told_once_it_is_registered():
    """Though something else is missing now, which was there in the process before: the next slot tells."""
    created = ev.Created(state=State.QUEUED, task=TaskId("T"), key="k", at=0, request=NEEDS)
    waits = ev.Waiting(state=State.QUEUED, waiting_for=WaitingFor.SUPPLY, names=("source:b",))
    task = fold([created, waits])
    assert list(answers([task], "resume", StoppedClock(), {"credential:a"}.__contains__)) == []
    ((_, (entry,), after),) = answers([task], "resume", StoppedClock(), {"source:b"}.__contains__)
    assert (entry.type, after.state, after.wait) == ("supplied", State.QUEUED, None)


@pytest.mark.parametrize("on_restart", ["pause", "leave"])
def test_what_is_not_to_go_on_is_not_set_going_by_a_registration(on_restart):
    found = list(answers([waiting()], on_restart, StoppedClock(), lambda _: True))
    assert [entry.type for _, entries, _ in found for entry in entries] == ["recovered"] * (
        on_restart == "pause"
    )


def test_what_was_at_work_and_had_to_wait_goes_on_as_well():
    created = ev.Created(state=State.QUEUED, task=TaskId("T"), key="k", at=0, request=NEEDS)
    waits = ev.Waiting(state=State.RUNNING, waiting_for=WaitingFor.SUPPLY, names=("plan",))
    task = fold([created, PINNED, waits])
    ((_, entries, after),) = answers([task], "resume", StoppedClock(), lambda _: True)
    assert [entry.type for entry in entries] == ["recovered", "supplied"]
    assert (after.state, after.wait) == (State.QUEUED, None)


def test_a_session_that_could_not_be_removed_for_want_of_a_credential_is_tried_again_with_one():
    created = ev.Created(state=State.QUEUED, task=TaskId("T"), key="k", at=0, request=NEEDS)
    opened = ev.SessionOpened(state=State.RUNNING, session=SESSION, piece_size=1, held=())
    canceled = ev.Canceled(state=State.CANCELED)
    waits = ev.Waiting(state=State.CANCELED, waiting_for=WaitingFor.SUPPLY, names=("plan",))
    task = fold([created, PINNED, opened, canceled, waits])
    assert task.condemned
    assert list(answers([task], "resume", StoppedClock(), lambda _: False)) == []
    ((_, (entry,), after),) = answers([task], "resume", StoppedClock(), lambda _: True)
    assert (entry.type, after.state, after.wait) == ("wait-ended", State.CANCELED, None)
    assert after.condemned == task.condemned
