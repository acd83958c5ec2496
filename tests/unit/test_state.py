"""The fold, where a scenario can't say it: damaged journals, derived values."""

import pytest

from meowcat.core import events as ev
from meowcat.core.errors import JournalDamaged
from meowcat.core.machine import State
from meowcat.core.pieces import Grid, IntervalSet
from meowcat.core.state import fold
from meowcat.core.transfers import Download
from meowcat.core.values import FileIdentity, Generation, TaskId

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


def test_what_an_opening_must_load():
    part_discarded = ev.PartDiscarded(state=State.CANCELED, published=False)
    canceled = [CREATED, ADMITTED, ev.Canceled(state=State.CANCELED)]
    completed = ev.Completed(state=State.COMPLETE, path="/x", size=0, digests=())
    assert fold([CREATED]).open
    assert fold(canceled).open
    assert not fold([*canceled, part_discarded]).open
    assert not fold([CREATED, ADMITTED, completed]).open
