"""What a listener is still to be told, and when: a rule of values and instants, without threads."""

import math

from hypothesis import given
from hypothesis import strategies as st

from meowcat.core.machine import TERMINAL, State
from meowcat.core.state import TaskState
from meowcat.core.transfers import Download
from meowcat.core.values import TaskId
from meowcat.runtime.listeners import PROGRESS_INTERVAL, Pending


def task(state: State, seq: int = 1, name: str = "a") -> TaskState:
    request = Download("http://localhost/x", "/x")
    return TaskState(id=TaskId(name), key="/x", request=request, created=0, state=state, seq=seq)


def taken(pending: Pending, now: float) -> list[tuple[State, int]]:
    """All that is due at one instant."""
    found = []
    while (each := pending.take(now)) is not None:
        found.append((each.state, each.seq))
    return found


def test_an_idle_listener_is_told_of_each_change_of_state_at_once():
    pending = Pending()
    for seq, state in enumerate([State.QUEUED, State.PREPARING, State.RUNNING, State.COMPLETE]):
        pending.offer(task(state, seq), 5.0, busy=False)
    assert [state for state, _ in taken(pending, 5.0)] == ["Queued", "Preparing", "Running", "Complete"]
    assert pending.pause(5.0) is None


def test_a_busy_listener_is_told_of_the_newest_state_only():
    pending = Pending()
    for seq, state in enumerate([State.QUEUED, State.PREPARING, State.RUNNING]):
        pending.offer(task(state, seq), 5.0, busy=True)
    assert taken(pending, 5.0) == [(State.RUNNING, 2)]


def test_a_terminal_state_is_never_lost():
    pending = Pending()
    for seq, state in enumerate([State.RUNNING, State.FAILED, State.QUEUED, State.PREPARING]):
        pending.offer(task(state, seq), 5.0, busy=True)
    assert taken(pending, 5.0) == [(State.FAILED, 1), (State.PREPARING, 3)]


def test_progress_comes_at_most_ten_times_a_second_and_is_the_newest():
    pending = Pending()
    pending.offer(task(State.RUNNING, 1), 5.0, busy=False)
    assert taken(pending, 5.0) == [(State.RUNNING, 1)]
    pending.offer(task(State.RUNNING, 2), 5.01, busy=False)
    pending.offer(task(State.RUNNING, 3), 5.02, busy=False)
    assert taken(pending, 5.05) == []
    assert math.isclose(pending.pause(5.05), 0.05)
    assert taken(pending, 5.0 + PROGRESS_INTERVAL) == [(State.RUNNING, 3)]


def test_a_change_of_state_does_not_wait_for_progress_that_does():
    pending = Pending()
    pending.offer(task(State.RUNNING, 1), 5.0, busy=False)
    taken(pending, 5.0)
    pending.offer(task(State.RUNNING, 2), 5.01, busy=False)
    pending.offer(task(State.COMPLETE, 3), 5.02, busy=False)
    assert taken(pending, 5.02)[-1] == (State.COMPLETE, 3)
    pending.offer(task(State.COMPLETE, 4), 5.03, busy=False)
    assert taken(pending, 5.11) == []  # the instant that the first progress had waited for is nothing to it


STATES = st.sampled_from(list(State))
OFFERS = st.lists(st.tuples(st.sampled_from("abc"), STATES, st.booleans(), st.floats(0, 0.3)), max_size=60)


@given(OFFERS)
def test_whatever_comes_the_last_state_of_each_task_is_told_and_little_is_kept(offers):
    pending = Pending()
    now, last, told, kept = 0.0, {}, {}, 0
    for seq, (name, state, busy, passed) in enumerate(offers, 1):
        now += passed
        pending.offer(task(state, seq, name), now, busy=busy)
        last[name] = (state, seq)
        if busy:
            kept = max(kept, len(pending))
        else:
            while (each := pending.take(now)) is not None:
                assert told.get(each.id, (None, 0))[1] < each.seq
                told[each.id] = (each.state, each.seq)
    while (each := pending.take(math.inf)) is not None:
        assert told.get(each.id, (None, 0))[1] < each.seq
        told[each.id] = (each.state, each.seq)
    assert told == last
    assert kept <= 2 * 3


@given(st.lists(STATES, max_size=40))
def test_however_long_a_listener_is_busy_the_newest_end_of_a_task_is_told(states):
    pending = Pending()
    for seq, state in enumerate(states, 1):
        pending.offer(task(state, seq), 0.0, busy=True)
    ends = [seq for seq, state in enumerate(states, 1) if state in TERMINAL]
    told = taken(pending, 0.0)
    assert len(told) <= 2
    if ends:
        assert told[0][0] is states[ends[-1] - 1]
