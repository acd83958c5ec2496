"""Who fetches what: shares, splits, and what is given up."""

from hypothesis import given, settings
from hypothesis import strategies as st

from meowcat.core.leases import (
    LEASE_BYTES,
    Lease,
    Leased,
    Split,
    Usual,
    lost_patience,
    next_lease,
    split,
)
from meowcat.core.pieces import IntervalSet

MIB = 1 << 20
USUAL = Usual(rate=10.0 * MIB, latency=0.05)


def working(first, stop, at, rate=10.0 * MIB, into=0):
    """A lease of pieces of 1 MiB."""
    return Leased(Lease(first, stop), at, (stop - at) * MIB - into, rate)


def test_the_front_of_the_file_goes_first_in_fair_shares():
    missing = IntervalSet.of((0, 64))
    first = next_lease(missing, [], 8, None, MIB)
    assert first == Lease(0, 8)
    second = next_lease(missing, [working(0, 8, 0, rate=None)], 7, None, MIB)
    assert second == Lease(8, 16)
    late = next_lease(missing, [working(0, 8, 6, rate=None)], 7, None, MIB)
    assert late == Lease(8, 16), "its connection will have as much to do as others when it is through"


def test_shares_that_are_no_whole_pieces_leave_something_for_everybody():
    missing, running = IntervalSet.of((0, 10)), []
    while (lease := next_lease(missing, running, 4 - len(running), None, MIB)) is not None:
        running.append(working(lease.first, lease.stop, lease.first, rate=None))
    assert [each.lease.stop - each.lease.first for each in running] == [3, 3, 2, 2]


def test_all_connections_are_to_come_to_their_end_at_the_same_time():
    missing = IntervalSet.of((0, 150))
    two = [working(0, 20, 0), working(20, 60, 20)]
    assert next_lease(missing, two, 1, USUAL, MIB) == Lease(60, 110), "150 MiB by three"
    odd = [working(0, 20, 0, rate=0.0), working(20, 60, 20, rate=30.0 * MIB)]
    assert next_lease(missing, odd, 1, USUAL, MIB) == Lease(60, 98), "what a silent one owes is for others"


def test_a_lease_stays_within_its_limit_and_its_run():
    assert next_lease(IntervalSet.of((0, 640)), [], 1, None, MIB) == Lease(0, LEASE_BYTES // MIB)
    assert next_lease(IntervalSet.of((3, 5), (9, 64)), [], 1, None, MIB) == Lease(3, 5)
    assert next_lease(IntervalSet.of((0, 64)), [], 4, None, 512 * MIB) == Lease(0, 1), "a piece is the least"


def test_nothing_is_given_without_a_free_connection_or_without_work():
    assert next_lease(IntervalSet.of((0, 64)), [], 0, USUAL, MIB) is None
    assert next_lease(IntervalSet(), [], 4, USUAL, MIB) is None
    assert next_lease(IntervalSet.of((0, 4)), [working(0, 4, 0)], 4, USUAL, MIB) is None


def test_a_request_lasts_as_long_as_it_is_waited_for_and_much_longer_where_there_is_enough():
    near, far = Usual(300.0 * MIB, 0.001), Usual(300.0 * MIB, 0.2)
    little, much = IntervalSet.of((0, 64)), IntervalSet.of((0, 100_000))
    assert next_lease(little, [], 4, near, MIB) == Lease(0, 16)
    assert next_lease(little, [], 16, near, MIB) == Lease(0, 6), "0.02 s"
    assert next_lease(little, [], 16, far, MIB) == Lease(0, 60), "0.2 s"
    assert next_lease(much, [], 16, near, MIB) == Lease(0, LEASE_BYTES // MIB)
    assert next_lease(much, [], 16, far, MIB) == Lease(0, 3000), "10 s, where a head takes 0.2"


def test_the_request_with_the_most_before_it_is_relieved_of_half():
    running = [working(0, 10, 8), working(10, 31, 10)]
    cut = split(running, USUAL, MIB)
    assert cut == Split(Lease(10, 31), 21)
    assert cut.given == Lease(21, 31)


def test_a_slow_request_keeps_little_and_its_piece_in_work_stays_with_it():
    cut = split([working(0, 32, 3, rate=0.1 * MIB)], USUAL, MIB)
    assert cut == Split(Lease(0, 32), 4)


def test_one_that_is_silent_is_relieved_of_everything_it_has_not_begun():
    assert split([working(0, 32, 0, rate=0.0)], USUAL, MIB) == Split(Lease(0, 32), 1)


def test_no_connection_is_spent_on_next_to_nothing_or_on_a_guess():
    fast = Usual(rate=1000.0 * MIB, latency=0.001)
    assert split([working(0, 10, 2, rate=1000.0 * MIB)], fast, MIB) is None
    assert split([working(0, 10, 2)], None, MIB) is None
    assert split([working(0, 10, 9)], USUAL, MIB) is None, "the piece in work is all that there is"
    far = Usual(rate=10.0 * MIB, latency=1.0)
    assert split([working(0, 10, 2)], far, MIB) is None, "all has come before another reply begins"


def test_a_request_that_would_take_twice_as_long_as_another_is_given_up():
    slow = working(7, 8, 7, rate=0.1 * MIB)
    assert lost_patience(slow, USUAL, age=1.0, before=0)
    assert not lost_patience(slow, USUAL, age=0.9, before=0), "it may just be at its beginning"
    assert not lost_patience(slow, USUAL, age=1.0, before=1), "patience grows with each time"
    assert lost_patience(slow, USUAL, age=2.0, before=1)
    assert not lost_patience(working(0, 8, 7, rate=4.0 * MIB), USUAL, age=9.0, before=0)
    assert not lost_patience(working(0, 8, 7, rate=None), USUAL, age=9.0, before=0)
    assert not lost_patience(slow, None, age=9.0, before=0)
    nearly = working(7, 8, 7, rate=0.1 * MIB, into=MIB - 10_000)
    assert not lost_patience(nearly, USUAL, age=9.0, before=0), "it is over before another one is asked"


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 59), st.floats(0, 1e9) | st.none()), max_size=6),
    st.floats(1, 1e9),
    st.floats(0, 10),
)
def test_a_split_leaves_something_on_both_sides_and_is_sooner_over(drawn, rate, latency):
    running, first = [], 0
    for length, at, own in drawn:
        stop = first + length
        here = min(first + at, stop - 1)
        running.append(Leased(Lease(first, stop), here, (stop - here) * MIB, own))
        first = stop
    cut = split(running, Usual(rate, latency), MIB)
    if cut is not None:
        cut_one = next(each for each in running if each.lease == cut.running)
        assert cut_one.at < cut.at < cut.running.stop
        own = max(1.0, rate if cut_one.rate is None else cut_one.rate)
        given = (cut.given.stop - cut.given.first) * MIB
        assert max((cut_one.left - given) / own, latency + given / rate) < cut_one.left / own


@given(st.data(), st.integers(1, 60), st.integers(1, 6), st.sampled_from([None, USUAL]))
@settings(max_examples=200)
def test_every_piece_is_fetched_once_whatever_the_order_of_ends_splits_and_failures(
    data, count, connections, usual
):
    missing = IntervalSet.of((0, count))
    fetched: list[int] = []
    running: list[Leased] = []
    failures = data.draw(st.integers(0, 5))
    rates = st.sampled_from([None, 0.0, 0.1 * MIB, 10.0 * MIB, 100.0 * MIB])
    for _ in range(1000):
        while len(running) < connections:
            step = next_lease(missing, running, connections - len(running), usual, MIB)
            if step is None:
                cut = split(running, USUAL, MIB)
                if cut is None:
                    break
                index = next(i for i, leased in enumerate(running) if leased.lease == cut.running)
                assert running[index].at < cut.at < cut.running.stop, "the piece in work is not taken away"
                running[index] = working(cut.running.first, cut.at, running[index].at)
                step = cut.given
            assert step.first < step.stop
            running.append(working(step.first, step.stop, step.first, data.draw(rates)))
        if not running:
            break
        index = data.draw(st.integers(0, len(running) - 1))
        leased = running.pop(index)
        if failures and data.draw(st.booleans()):
            failures -= 1
            continue
        fetched.append(leased.at)
        missing -= IntervalSet.of((leased.at, leased.at + 1))
        if leased.at + 1 < leased.lease.stop:
            running.insert(
                index, working(leased.lease.first, leased.lease.stop, leased.at + 1, data.draw(rates))
            )
    assert sorted(fetched) == list(range(count))
