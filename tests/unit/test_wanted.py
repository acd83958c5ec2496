"""Who may want a slot, and when a wait is over. The operations are in specs/scenarios."""

import pytest

from meowcat.core import events as ev
from meowcat.core.machine import State
from meowcat.core.sessions import Capabilities, Session
from meowcat.core.state import Phase, fold
from meowcat.core.transfers import Download, ProtocolSpec, Upload
from meowcat.core.values import Fault, FaultKind, FileIdentity, Generation, SourceIdentity, TaskId
from meowcat.core.waits import WaitingFor
from meowcat.core.wanted import (
    Abort,
    Commit,
    Discard,
    Fetch,
    Publish,
    Send,
    Verify,
    Wanted,
    due,
    wanted,
    wants_slot,
)

REQUEST = Download("https://host.example/x", "/x")
CREATED = ev.Created(state=State.QUEUED, task=TaskId("T"), key="/x", at=0, request=REQUEST)


def task(state, *events):
    return fold([CREATED, *events, ev.Rechecked(state=state, kept=(), lost=())])


def failed(delay):
    fault = Fault(kind=FaultKind.TIMEOUT, detail="x")
    return ev.AttemptFailed(
        state=State.RUNNING, fault=fault, attempt=1, waiting_for=WaitingFor.RETRY, delay=delay
    )


INTENT = ev.PublishIntended(state=State.RUNNING, file=FileIdentity(1, 1), size=1, digests=())


@pytest.mark.parametrize("state", State)
def test_a_slot_is_for_those_that_can_use_it(state):
    able = state in (State.QUEUED, State.PREPARING, State.RUNNING)
    assert wants_slot(task(state)) is able
    assert not wants_slot(task(state, failed(5)))
    assert not wants_slot(task(state, INTENT))


@pytest.mark.parametrize("state", State)
def test_publishing_is_wanted_until_its_outcome_is_an_event(state):
    expected = None if state in (State.COMPLETE, State.FAILED, State.CANCELED) else Wanted(Publish(0))
    assert wanted(task(state, INTENT)) == expected


HELD = ev.Stored(state=State.RUNNING, pieces=((0, 1),), digests=b"", file=FileIdentity(1, 1))
BEGUN = ev.Started(state=State.RUNNING, generation=Generation(size=1, ranges=True), piece_size=1 << 20)
LIVES = {
    Phase.PROBING: (),
    Phase.MOVING: (BEGUN,),
    Phase.VERIFYING: (BEGUN, HELD),
    Phase.PUBLISHING: (BEGUN, HELD, INTENT),
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("phase", LIVES)
def test_what_is_wanted_of_a_download_is_what_its_phase_says(phase, state):
    active = state in (State.PREPARING, State.RUNNING)
    found = task(state, *LIVES[phase])
    if state in (State.CANCELED, State.COMPLETE):
        assert found.phase is Phase.DONE
        assert wanted(found) is None
        return
    assert found.phase is phase
    if phase is Phase.PUBLISHING:
        expected = None if state is State.FAILED else Publish(0)
    else:
        expected = (Verify if phase is Phase.VERIFYING else Fetch)(0, 0) if active else None
    assert wanted(found) == (expected and Wanted(expected))


def test_what_is_wanted_of_a_canceled_download_is_that_its_part_file_goes():
    admitted = ev.Admitted(state=State.PREPARING, run=1)
    for events in LIVES.values():
        found = fold([CREATED, admitted, *events, ev.Canceled(state=State.CANCELED)])
        assert found.phase is Phase.DISCARDING
        assert wanted(found) == Wanted(Discard())
        gone = fold([ev.PartDiscarded(state=State.CANCELED, published=False)], found)
        assert gone.phase is Phase.DONE
        assert wanted(gone) is None


GOING = (State.QUEUED, State.PREPARING, State.RUNNING)
UPLOAD = Upload("/x", "https://host.example/x", ProtocolSpec("scripted"))
OPENED = ev.SessionOpened(
    state=State.RUNNING,
    session=Session(id="s", capabilities=Capabilities()),
    piece_size=1,
    held=(),
)
PINNED = ev.SourcePinned(state=State.RUNNING, source=SourceIdentity(size=0), digests=())
COMMITTING = ev.CommitIntended(state=State.RUNNING, size=0, digests=())
DROPPED = ev.SessionDropped(state=State.RUNNING, reason="x", abort=True, changed=False, unpin=False)


def an_upload(state, *events):
    """An upload of which this is known, and which came into `state`."""
    created = ev.Created(state=State.QUEUED, task=TaskId("T"), key="/x", at=0, request=UPLOAD)
    last = {
        State.CANCELED: ev.Canceled(state=state),
        State.COMPLETE: ev.Completed(state=state, path="/x", size=0, digests=()),
    }.get(state, ev.Rechecked(state=state, kept=(), lost=()))
    return fold([created, *events, last])


@pytest.mark.parametrize("state", State)
def test_an_upload_is_sent_while_it_is_active(state):
    active = state in (State.PREPARING, State.RUNNING)
    assert wanted(an_upload(state)) == (Wanted(Send(0, 0)) if active else None)
    opened = wanted(an_upload(state, PINNED, OPENED))
    expected = Wanted(Send(0, 0)) if active else Wanted(Abort("s")) if state is State.CANCELED else None
    assert opened == expected
    assert wants_slot(an_upload(state, PINNED, OPENED)) is (state in GOING)


@pytest.mark.parametrize("state", State)
def test_a_commit_is_wanted_until_its_outcome_is_an_event(state):
    task = an_upload(state, PINNED, OPENED, COMMITTING)
    expected = Wanted(Commit(0))
    if state is State.CANCELED:
        expected = Wanted(Abort("s"))
    elif state in (State.COMPLETE, State.FAILED):
        expected = None
    assert wanted(task) == expected
    assert not wants_slot(task)


@pytest.mark.parametrize("state", State)
def test_a_session_that_nobody_needs_is_removed_before_anything_else_whatever_the_state(state):
    task = an_upload(state, PINNED, OPENED, DROPPED)
    assert wanted(task) == Wanted(Abort("s"))
    assert not wants_slot(task)
    assert task.open
    assert wanted(an_upload(state, PINNED, OPENED, DROPPED, failed(5))).hold is (
        state is not State.CANCELED and state is not State.COMPLETE
    )


def test_a_wait_is_over_its_delay_after_it_began_or_the_journal_opened():
    assert due(task(State.RUNNING, failed(250)), 1000) == 1250
    assert due(task(State.RUNNING), 1000) is None
    supply = ev.Waiting(state=State.QUEUED, waiting_for=WaitingFor.SUPPLY, names=("url",))
    assert due(task(State.QUEUED, supply), 1000) is None


def test_settling_work_is_told_from_byte_work():
    assert Wanted(Publish(0)).settling
    assert Wanted(Discard()).settling
    assert Wanted(Commit(0)).settling
    assert Wanted(Abort("s")).settling
    assert not Wanted(Send(1, 0)).settling
    assert not Wanted(Fetch(1, 0)).settling
    assert not Wanted(Verify(1, 0)).settling


def test_an_operation_is_the_same_when_its_stamps_are():
    assert Fetch(1, 0) == Fetch(1, 0)
    assert Fetch(1, 0) != Fetch(2, 0)
    assert Fetch(1, 0) != Fetch(1, 1)
    assert Fetch(1, 0) != Verify(1, 0)
    assert Fetch(1, 0) != Send(1, 0)
    assert Commit(0) != Publish(0)
    assert Abort("s") != Abort("t")
