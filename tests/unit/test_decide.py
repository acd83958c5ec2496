"""Decisions, where a scenario can't say it: every message, and whatever the state."""

import pytest

from meowcat.core import events as ev
from meowcat.core import messages as msg
from meowcat.core.decide import NOTHING_HAPPENED, Refusal, decide, expected_digests
from meowcat.core.errors import Code
from meowcat.core.machine import State
from meowcat.core.state import fold
from meowcat.core.transfers import Download
from meowcat.core.values import Checksum, Fault, FaultKind, Generation, Instant, TaskId

NOW = Instant(at=1_700_000_000_000)
REQUEST = Download("https://host.example/x", "/x")
FAULT = Fault(kind=FaultKind.IO, detail="x")


def created(state=State.QUEUED, request=REQUEST):
    return ev.Created(state=state, task=TaskId("T"), key="/x", at=0, request=request)


def a_task(state):
    """A task of one event that says it is in `state`."""
    return fold([created(), ev.WaitEnded(state=state)])


MESSAGES = {
    "admit": msg.Admit(),
    "pause": msg.Pause(),
    "resume": msg.Resume(),
    "cancel": msg.Cancel(),
    "retry": msg.Retry(),
    "supply": msg.Supply(names=()),
    "requeue": msg.Requeue(reason="x"),
    "recover": msg.Recover(resume=True),
    "wake": msg.Wake(seq=1),
    "probed": msg.Probed(run=0, restarts=0, generation=Generation(size=1, ranges=True)),
    "proved": msg.Proved(run=0, restarts=0, kept=(), lost=()),
    "digested": msg.Digested(run=0, restarts=0, digests=()),
    "faulted": msg.Faulted(run=0, restarts=0, fault=FAULT),
    "published": msg.Published(),
    "publish-failed": msg.PublishFailed(fault=FAULT),
    "discarded": msg.Discarded(),
    "discard-failed": msg.DiscardFailed(fault=FAULT),
}


@pytest.mark.parametrize("tag", sorted(set(msg.MESSAGE_TYPES) - {"create", "flushed"}))
@pytest.mark.parametrize("state", State)
def test_no_message_in_any_state_is_an_accident(tag, state):
    decision = decide(a_task(state), MESSAGES[tag], NOW)
    assert not (decision.events and decision.refusal)
    for event in decision.events:
        assert isinstance(event.state, State)


@pytest.mark.parametrize("tag", sorted(MESSAGES))
def test_a_message_to_no_task_is_refused(tag):
    refusal = Refusal(Code.TASK_NOT_FOUND, "there is no such task")
    assert decide(None, MESSAGES[tag], NOW).refusal == refusal


def test_every_message_is_decided():
    assert {*MESSAGES, "create", "flushed"} == set(msg.MESSAGE_TYPES)
    assert {type(each) for each in MESSAGES.values()} == {*msg.COMMANDS, *msg.REPORTS} - {
        msg.Create,
        msg.Flushed,
    }


def test_creation_keeps_the_moment_for_people():
    create = msg.Create(task=TaskId("T"), key="k", request=REQUEST, paused=True)
    (event,) = decide(None, create, NOW).events
    assert event == ev.Created(
        state=State.PAUSED, task=TaskId("T"), key="k", at=1_700_000_000_000, request=REQUEST
    )


def test_the_same_decision_whatever_time_it_is():
    fault = Fault(kind=FaultKind.TIMEOUT, detail="x")
    faulted = msg.Faulted(run=0, restarts=0, fault=fault)
    task = a_task(State.RUNNING)
    assert decide(task, faulted, Instant(at=0)) == decide(task, faulted, NOW)


def test_a_refusal_says_what_the_task_is():
    refusal = decide(a_task(State.QUEUED), msg.Retry(), NOW).refusal
    assert refusal == Refusal(Code.TASK_STATE, "task T is Queued: retry is for Failed")
    refusal = decide(a_task(State.CANCELED), msg.Retry(), NOW).refusal
    assert refusal == Refusal(Code.TASK_NOT_FOUND, "task T has ended: it is Canceled")


def test_a_digest_that_is_asked_for_and_offered_is_expected_once():
    asked, other = Checksum("md5", "0" * 32), Checksum("sha1", "1" * 40)
    generation = Generation(size=1, ranges=True, strong=True, digests=(asked, other))
    events = [
        created(request=Download("https://host.example/x", "/x", checksum=f"MD5:{'0' * 32}")),
        ev.Started(state=State.RUNNING, generation=generation, piece_size=1),
    ]
    assert expected_digests(fold(events)) == (asked, other)
    assert expected_digests(fold(events[:1])) == (asked,)
    assert expected_digests(a_task(State.RUNNING)) == ()


def test_nothing_happened_is_nothing():
    assert NOTHING_HAPPENED.events == ()
    assert NOTHING_HAPPENED.refusal is None
