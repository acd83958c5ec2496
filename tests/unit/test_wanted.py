"""Who may want a slot, and when a wait is over. The operations are in specs/scenarios."""

import pytest

from meowcat.core import events as ev
from meowcat.core.machine import State
from meowcat.core.state import fold
from meowcat.core.transfers import Download
from meowcat.core.values import Fault, FaultKind, FileIdentity, TaskId
from meowcat.core.waits import WaitingFor
from meowcat.core.wanted import Discard, Fetch, Publish, Verify, Wanted, due, wanted, wants_slot

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


def test_a_wait_is_over_its_delay_after_it_began_or_the_journal_opened():
    assert due(task(State.RUNNING, failed(250)), 1000) == 1250
    assert due(task(State.RUNNING), 1000) is None
    supply = ev.Waiting(state=State.QUEUED, waiting_for=WaitingFor.SUPPLY, names=("url",))
    assert due(task(State.QUEUED, supply), 1000) is None


def test_settling_work_is_told_from_byte_work():
    assert Wanted(Publish(0)).settling
    assert Wanted(Discard()).settling
    assert not Wanted(Fetch(1, 0)).settling
    assert not Wanted(Verify(1, 0)).settling


def test_an_operation_is_the_same_when_its_stamps_are():
    assert Fetch(1, 0) == Fetch(1, 0)
    assert Fetch(1, 0) != Fetch(2, 0)
    assert Fetch(1, 0) != Fetch(1, 1)
    assert Fetch(1, 0) != Verify(1, 0)
