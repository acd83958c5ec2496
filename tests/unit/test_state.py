"""The fold, where a scenario can't say it: damaged journals, derived values."""

import pytest
from msgspec.structs import replace

from meowcat.core import events as ev
from meowcat.core.errors import JournalDamaged
from meowcat.core.machine import State
from meowcat.core.pieces import Grid, IntervalSet
from meowcat.core.sessions import Capabilities, Session
from meowcat.core.state import fold
from meowcat.core.transfers import Download, ProtocolSpec, Upload
from meowcat.core.values import Fault, FaultKind, FileIdentity, Generation, SourceIdentity, TaskId

MIB = 1 << 20
CREATED = ev.Created(
    state=State.QUEUED, task=TaskId("T"), key="/x", at=5, request=Download("https://host.example/x", "/x")
)
ADMITTED = ev.Admitted(state=State.PREPARING, run=1)


def started(size=10 * MIB, *, ranges=True, strong=True):
    generation = Generation(size=size, ranges=ranges, strong=strong)
    return ev.Started(state=State.RUNNING, generation=generation, piece_size=4 * MIB)


def stored(*pieces, size=None):
    return ev.Stored(state=State.RUNNING, pieces=pieces, digests=b"", file=FileIdentity(1, 2), size=size)


def test_a_journal_that_begins_in_the_middle_is_damaged():
    with pytest.raises(JournalDamaged, match="the first event is admitted; expected created"):
        fold([ADMITTED])


def test_a_task_that_is_created_twice_is_damaged():
    with pytest.raises(JournalDamaged, match="task T is created twice"):
        fold([CREATED, CREATED])


def test_no_events_are_no_task():
    assert fold([]) is None


def test_a_fold_goes_on_from_a_state():
    events = [CREATED, ADMITTED, started(), stored((0, 1))]
    assert fold(events[2:], fold(events[:2])) == fold(events)


def test_each_event_is_counted():
    assert fold([CREATED]).seq == 1
    assert fold([CREATED, ADMITTED, started()]).seq == 3


def test_replay_takes_states_as_they_stand_and_never_runs_the_table():
    task = fold([CREATED, ev.WaitEnded(state=State.COMPLETE), ev.Resumed(state=State.RUNNING)])
    assert task.state is State.RUNNING


def test_the_grid_is_known_with_the_size():
    assert fold([CREATED]).grid is None
    assert fold([CREATED, ADMITTED, started(None)]).grid is None
    assert fold([CREATED, ADMITTED, started()]).grid == Grid(10 * MIB, 4 * MIB)


def test_bytes_stored_counts_the_short_last_piece_as_what_it_is():
    assert fold([CREATED]).bytes_stored == 0
    assert fold([CREATED, ADMITTED, started(), stored((0, 1))]).bytes_stored == 4 * MIB
    assert fold([CREATED, ADMITTED, started(), stored((2, 3))]).bytes_stored == 2 * MIB
    assert fold([CREATED, ADMITTED, started(None), stored((0, 2))]).bytes_stored == 8 * MIB


@pytest.mark.parametrize(
    ("generation", "checksum", "reusable"),
    [
        ({}, None, True),
        ({"strong": False}, None, False),
        ({"strong": False}, "md5:" + "0" * 32, True),
        ({"ranges": False}, None, False),
        ({"ranges": False}, "md5:" + "0" * 32, False),
        ({"size": None}, None, False),
    ],
)
def test_what_can_be_put_together(generation, checksum, reusable):
    request = Download("https://host.example/x", "/x", checksum=checksum)
    created = ev.Created(state=State.QUEUED, task=TaskId("T"), key="/x", at=0, request=request)
    assert fold([created, ADMITTED, started(**generation)]).reusable is reusable


def test_nothing_is_reusable_before_anything_is_known():
    assert not fold([CREATED]).reusable


def test_stored_pieces_of_many_flushes_are_one_set():
    task = fold([CREATED, ADMITTED, started(), stored((2, 3)), stored((0, 1), (1, 2))])
    assert task.stored == IntervalSet.of((0, 3))
    assert task.covered


UPLOAD = ev.Created(
    state=State.QUEUED,
    task=TaskId("T"),
    key="/x",
    at=5,
    request=Upload("/x", "https://host.example/x", ProtocolSpec("scripted")),
)
RUNNING = State.RUNNING


def pinned(size):
    return ev.SourcePinned(state=RUNNING, source=SourceIdentity(size=size), digests=())


def opened(name="s", held=(), **capabilities):
    session = Session(id=name, capabilities=Capabilities(**capabilities))
    return ev.SessionOpened(state=RUNNING, session=session, piece_size=4 * MIB, held=held)


def sent(*pieces):
    return ev.Sent(state=RUNNING, pieces=pieces, digests=b"", receipts=())


def dropped(*, abort=True, unpin=False):
    return ev.SessionDropped(state=RUNNING, reason="x", abort=abort, changed=False, unpin=unpin)


def test_an_upload_is_covered_but_for_the_part_that_commits():
    assert not fold([UPLOAD, pinned(10 * MIB), opened(), sent((0, 2))]).covered
    assert fold([UPLOAD, pinned(10 * MIB), opened(), sent((0, 2), (2, 3))]).covered
    assert fold([UPLOAD, pinned(10 * MIB), opened(commits_with_last_part=True), sent((0, 2))]).covered
    assert fold([UPLOAD, pinned(0), opened(commits_with_last_part=True)]).covered
    assert not fold([UPLOAD, pinned(0)]).covered
    assert not fold([UPLOAD, pinned(0), opened(), dropped()]).covered


def test_a_confirmation_tells_its_parts_one_by_one():
    assert sent((4, 6), (0, 1)).numbers == (4, 5, 0)


def test_an_upload_counts_what_the_server_has():
    task = fold([UPLOAD, pinned(10 * MIB), opened(held=((2, 3),)), sent((0, 1))])
    assert task.bytes_stored == 6 * MIB
    completed = ev.Completed(state=State.COMPLETE, path="/x", size=0, digests=())
    assert fold([completed], task).bytes_stored == 10 * MIB
    assert fold([dropped()], task).bytes_stored == 0
    assert fold([dropped(unpin=True)], task).bytes_stored == 0


def test_what_a_server_has_confirmed_is_always_good():
    assert fold([UPLOAD]).reusable


def test_a_server_has_answered_once_a_session_was_opened():
    task = fold([UPLOAD, pinned(1)])
    assert not task.answered
    task = fold([opened()], task)
    assert task.answered
    assert fold([dropped()], task).answered
    assert not fold([dropped(unpin=True)], task).answered


@pytest.mark.parametrize("able", [{"session": False}, {"creates_session": False}])
def test_a_session_that_is_opened_without_a_request_is_no_answer(able):
    task = fold([UPLOAD, pinned(10 * MIB), opened(lists_parts=False, **able)])
    assert not task.answered
    assert fold([sent((0, 1))], task).answered


@pytest.mark.parametrize("able", [{"lists_parts": True}, {"server_offset": True, "lists_parts": False}])
def test_a_server_that_says_what_it_has_has_answered(able):
    assert fold([UPLOAD, pinned(10 * MIB), opened(session=False, **able)]).answered


def supplied(request, url):
    return ev.Supplied(state=RUNNING, names=("url",), request=replace(request, url=url))


DOWN, UP = [CREATED, ADMITTED, started()], [UPLOAD, pinned(10 * MIB), opened()]


@pytest.mark.parametrize(
    ("before", "sign"),
    [(DOWN, started()), (DOWN, stored((0, 1))), (UP, sent((0, 1))), ([*UP, dropped()], opened("t"))],
)
def test_a_server_that_a_url_leads_to_now_has_not_answered_before_something_comes_of_it(before, sign):
    task = fold(before)
    same = fold([supplied(task.request, "https://HOST.example:443/y")], task)
    assert same.answered
    task = fold([supplied(task.request, "https://host.example:444/x")], task)
    assert not task.answered
    task = fold([supplied(task.request, "https://host.example:444/y")], task)
    assert not task.answered
    task = fold([sign, ev.Supplied(state=RUNNING, names=("plan",), request=task.request)], task)
    assert not task.answered, "only memory has the URLs of a plan"
    assert fold([sign], task).answered


def test_a_session_without_a_name_is_condemned_only_where_a_commit_was_intended():
    intent = ev.CommitIntended(state=RUNNING, size=1, digests=())
    canceled = ev.Canceled(state=State.CANCELED)
    events = [UPLOAD, pinned(1), opened("", session=False)]
    assert fold([*events, canceled]).condemned == ()
    (condemned,) = fold([*events, intent, canceled]).condemned
    assert (condemned.session.id, condemned.doubt) == ("", True)


def test_a_session_that_is_gone_is_not_condemned():
    assert fold([UPLOAD, pinned(1), opened(), dropped(abort=False)]).condemned == ()
    assert [each.doubt for each in fold([UPLOAD, pinned(1), opened(), dropped()]).condemned] == [False]


def test_what_an_opening_must_load_of_an_upload():
    opening = [UPLOAD, pinned(1), ev.SessionIntended(state=RUNNING)]
    canceled = ev.Canceled(state=State.CANCELED)
    unopened = ev.SessionUnopened(state=State.CANCELED, lost=False)
    aborted = ev.SessionAborted(state=State.CANCELED, session="s", gone=True, committed=False)
    completed = ev.Completed(state=State.COMPLETE, path="/x", size=0, digests=())
    failed = ev.Failed(state=State.FAILED, fault=Fault(kind=FaultKind.IO, detail="x"))
    assert fold([*opening, failed]).open
    assert fold([*opening, canceled]).open
    assert not fold([*opening, canceled, unopened]).open
    assert fold([*opening, opened(), canceled]).open
    assert not fold([*opening, opened(), canceled, aborted]).open
    assert not fold([*opening, opened(), completed]).open
    assert not fold([UPLOAD, pinned(1), canceled]).open


def test_what_an_opening_must_load():
    part_discarded = ev.PartDiscarded(state=State.CANCELED, published=False)
    canceled = [CREATED, ADMITTED, ev.Canceled(state=State.CANCELED)]
    completed = ev.Completed(state=State.COMPLETE, path="/x", size=0, digests=())
    assert fold([CREATED]).open
    assert fold(canceled).open
    assert not fold([*canceled, part_discarded]).open
    assert not fold([CREATED, ADMITTED, completed]).open
