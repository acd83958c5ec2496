"""Decisions, where a scenario can't say it: every message, and whatever the state."""

import pytest
from msgspec.structs import replace

from meowcat.core import events as ev
from meowcat.core import messages as msg
from meowcat.core.decide import decide
from meowcat.core.downloads import expected_digests, time_of
from meowcat.core.errors import Code
from meowcat.core.machine import ENDED, State, Trigger, may, step
from meowcat.core.sessions import Capabilities, Session
from meowcat.core.state import evolve, fold
from meowcat.core.story import NOTHING_HAPPENED, Refusal
from meowcat.core.transfers import Download, ProtocolSpec, Upload
from meowcat.core.values import (
    Checksum,
    Fault,
    FaultKind,
    FileIdentity,
    Generation,
    Instant,
    SourceIdentity,
    TaskId,
)
from meowcat.core.waits import WaitingFor

NOW = Instant(at=1_700_000_000_000)
REQUEST = Download("https://host.example/x", "/x")
UPLOAD = Upload("/x", "https://host.example/x", ProtocolSpec("scripted"))
FAULT = Fault(kind=FaultKind.IO, detail="x")


def created(state=State.QUEUED, request=REQUEST):
    return ev.Created(state=state, task=TaskId("T"), key="/x", at=0, request=request)


def a_task(state):
    """A task of one event that says it is in `state`."""
    return fold([created(), ev.WaitEnded(state=state)])


RUNNING = State.RUNNING
SOURCE = SourceIdentity(size=3)
SESSION = Session(id="s", capabilities=Capabilities())
PINNED = ev.SourcePinned(state=RUNNING, source=SOURCE, digests=())
INTENDED = ev.SessionIntended(state=RUNNING)
OPENED = ev.SessionOpened(state=RUNNING, session=SESSION, piece_size=2, held=((0, 1),))
CONDEMNED = ev.SessionDropped(state=RUNNING, reason="x", abort=True, changed=False, unpin=True)
SENT = ev.Sent(state=RUNNING, pieces=((1, 2),), digests=b"", receipts=())
COMMITTING = ev.CommitIntended(state=RUNNING, size=3, digests=())
FAILED_ONCE = ev.AttemptFailed(state=RUNNING, fault=FAULT, attempt=1, waiting_for=WaitingFor.RETRY, delay=5)
UPLOADS = {
    "created": (),
    "pinned": (PINNED,),
    "opening": (PINNED, INTENDED),
    "unpinned while opening": (PINNED, INTENDED, CONDEMNED),
    "half": (PINNED, INTENDED, OPENED),
    "half, in a later run": (PINNED, INTENDED, OPENED, ev.Admitted(state=RUNNING, run=0)),
    "waiting": (PINNED, INTENDED, OPENED, FAILED_ONCE),
    "sent": (PINNED, INTENDED, OPENED, SENT),
    "committing": (PINNED, INTENDED, OPENED, SENT, COMMITTING),
    "committed in doubt": (PINNED, INTENDED, OPENED, SENT, COMMITTING, FAILED_ONCE),
    "condemned": (PINNED, INTENDED, OPENED, CONDEMNED),
    "condemned in doubt": (PINNED, INTENDED, OPENED, SENT, COMMITTING, CONDEMNED),
    "condemned and opening": (PINNED, INTENDED, OPENED, CONDEMNED, PINNED, INTENDED),
}
"""Every kind of upload that there is, whatever its state."""


def an_upload(state, events):
    """An upload of which this is known, and which then came into `state`."""
    ends = {
        State.PAUSED: ev.Paused(state=state, reason="x"),
        State.FAILED: ev.Failed(state=state, fault=FAULT),
        State.CANCELED: ev.Canceled(state=state),
        State.COMPLETE: ev.Completed(state=state, path="/x", size=3, digests=()),
    }
    last = ends.get(state, ev.Rechecked(state=state, kept=(), lost=()))
    return fold([created(request=UPLOAD), *events, last])


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
    "brought": msg.Brought(
        run=0,
        restarts=0,
        generation=Generation(size=1, ranges=True),
        pieces=((0, 1),),
        digests=bytes(32),
        file=FileIdentity(1, 1),
    ),
    "proved": msg.Proved(run=0, restarts=0, kept=(), lost=()),
    "digested": msg.Digested(run=0, restarts=0, digests=()),
    "faulted": msg.Faulted(run=0, restarts=0, fault=FAULT),
    "published": msg.Published(),
    "publish-failed": msg.PublishFailed(fault=FAULT),
    "discarded": msg.Discarded(),
    "discard-failed": msg.DiscardFailed(fault=FAULT),
    "pinned": msg.Pinned(run=0, restarts=0, source=SOURCE, digests=()),
    "opening": msg.Opening(run=0, restarts=0),
    "opened": msg.Opened(session=SESSION, piece_size=2),
    "unopened": msg.Unopened(fault=FAULT, lost=True),
    "confirmed": msg.Confirmed(run=0, restarts=0, pieces=((0, 1),), digests=b"", receipts=()),
    "ready": msg.Ready(run=0, restarts=0, digests=()),
    "committed": msg.Committed(result={}),
    "commit-failed": msg.CommitFailed(fault=FAULT),
    "aborted": msg.Aborted(session="s"),
    "reap": msg.Reap(),
    "abort-failed": msg.AbortFailed(session="s", fault=FAULT),
}
OF_UPLOADS = {
    *("pinned", "opening", "opened", "unopened", "confirmed", "ready"),
    *("committed", "commit-failed", "aborted", "abort-failed"),
}
OF_DOWNLOADS = {
    *("probed", "flushed", "brought", "digested"),
    *("published", "publish-failed", "discarded", "discard-failed"),
}


@pytest.mark.parametrize("tag", sorted(set(msg.MESSAGE_TYPES) - {"create", "flushed"} - OF_UPLOADS))
@pytest.mark.parametrize("state", State)
def test_no_message_in_any_state_is_an_accident(tag, state):
    decision = decide(a_task(state), MESSAGES[tag], NOW)
    assert not (decision.events and decision.refusal)
    for event in decision.events:
        assert isinstance(event.state, State)


RESULTS = [None, {"etag": "x"}]
KINDS = [Fault(kind=kind, detail="x", status=503, retry_after=1) for kind in FaultKind] + [
    Fault(kind=FaultKind.STATUS, detail="x", status=404)
]


def stamped(message, task):
    """The same message, of the run and the session that the task has now."""
    if isinstance(message, msg.Report):
        return replace(message, run=task.run, restarts=task.restarts)
    return message


def variants(tag):
    message = MESSAGES[tag]
    if tag == "opened":
        return [replace(message, result=result) for result in RESULTS]
    if hasattr(message, "fault"):
        return [replace(message, fault=fault) for fault in KINDS]
    return [message]


@pytest.mark.parametrize("tag", sorted(set(MESSAGES) - OF_DOWNLOADS))
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("events", UPLOADS.values(), ids=UPLOADS)
def test_no_message_to_any_upload_is_an_accident(tag, state, events):
    for message in variants(tag):
        task = an_upload(state, events)
        decision = decide(task, stamped(message, task), NOW)
        assert not (decision.events and decision.refusal)
        after = task
        for event in decision.events:
            assert event.state is after.state or any(
                event.state is step(after.state, trigger) for trigger in Trigger if may(after.state, trigger)
            )
            after = evolve(after, event)
        assert_sound(task, after, decision.events)


def assert_sound(before, after, events):
    """What holds of any step of an upload, whatever it was."""
    assert before.state not in ENDED or after.state is before.state
    known = [each.session.id for each in before.condemned]
    dealt_with = [event.session for event in events if isinstance(event, ev.SessionAborted)]
    assert [each.session.id for each in after.condemned][: len(known) - len(dealt_with)] == [
        each for each in known if each not in dealt_with
    ], "a session that was condemned is forgotten"
    if before.opening and not after.opening:
        assert any(isinstance(event, ev.SessionOpened | ev.SessionUnopened) for event in events)
    if before.session is not None and after.session is None:
        assert len(after.condemned) > len(known) or any(
            isinstance(event, ev.SessionDropped) and not event.abort for event in events
        ), "a session is neither kept, nor condemned, nor said to be gone"
    if after.state is State.CANCELED:
        assert after.session is None
        assert after.open is (after.opening or bool(after.condemned))
    if after.wait is not None and after.wait.delay is None:
        assert after.wait.waiting_for is WaitingFor.SUPPLY
    if isinstance(after.intent, ev.CommitIntended) and not isinstance(before.intent, ev.CommitIntended):
        assert before.covered
        assert not before.unproven


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


@pytest.mark.parametrize("said", ["Sun, 09 Sep 2001 01:46:40 GMT", "yesterday", None])
def test_the_file_s_time_is_what_the_server_says_where_that_is_asked_for_and_known(said):
    request = Download("https://host.example/x", "/x", remote_time=True)
    asked = created(request=request)
    known = Generation(size=10, ranges=True, last_modified=said)
    started = ev.Started(state=State.RUNNING, generation=known, piece_size=4)
    when = 1_000_000_000_000 if said and said.endswith("GMT") else None
    assert time_of(fold([asked, started])) == when
    assert time_of(fold([asked])) is None
    assert time_of(fold([created(request=replace(request, remote_time=False)), started])) is None


def test_nothing_happened_is_nothing():
    assert NOTHING_HAPPENED.events == ()
    assert NOTHING_HAPPENED.refusal is None
