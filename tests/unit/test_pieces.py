import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meowcat.core.errors import InvalidArgument
from meowcat.core.pieces import (
    DEFAULT_PIECE,
    MAX_PIECES,
    MAX_SIZE,
    Grid,
    IntervalSet,
    Lease,
    Leased,
    Split,
    choose_piece_size,
    next_lease,
)

runs = st.tuples(st.integers(0, 40), st.integers(0, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))
many_runs = st.lists(runs, max_size=12)


def numbers(pairs):
    return {number for start, stop in pairs for number in range(start, stop)}


@given(many_runs, many_runs, runs)
def test_an_interval_set_is_a_set_of_integers(left, right, run):
    one, two = IntervalSet.of(*left), IntervalSet.of(*right)
    a, b, c = numbers(left), numbers(right), numbers([run])
    for made, expected in [
        (one, a),
        (one.add(*run), a | c),
        (one | two, a | b),
        (one - two, a - b),
        (one & two, a & b),
        (one.gaps(*run), c - a),
    ]:
        assert numbers(made) == expected
        assert made == IntervalSet.of(*((n, n + 1) for n in expected)), "one set has one form"
        assert hash(made) == hash(IntervalSet(made.pairs))
        assert made.total == len(expected)
        assert bool(made) == bool(expected)
    assert one.covers(*run) == (c <= a)
    assert all((number in one) == (number in a) for number in range(55))
    assert one.first_gap(*run) == next(iter(one.gaps(*run)), None)
    assert one.prefix() == next(n for n in range(99) if n not in a)


def test_an_interval_set_survives_encoding():
    some = IntervalSet.of((5, 9), (0, 2), (2, 3))
    assert some.pairs == ((0, 3), (5, 9))
    assert msgspec.json.decode(msgspec.json.encode(some), type=IntervalSet) == some


def test_a_thousand_runs_are_merged():
    even, odd = (IntervalSet.of(*((n, n + 1) for n in range(start, 2000, 2))) for start in (0, 1))
    assert even.pairs[:2] == ((0, 1), (2, 3))
    assert (even | odd).pairs == ((0, 2000),)
    assert not even & odd
    assert even - odd == even


@pytest.mark.parametrize("run", [(-1, 3), (4, 3)])
def test_a_run_that_is_none_is_refused(run):
    with pytest.raises(InvalidArgument, match="0 <= start <= stop"):
        IntervalSet.of(run)
    with pytest.raises(InvalidArgument, match="0 <= start <= stop"):
        IntervalSet().add(*run)


@given(st.integers(0, 200), st.integers(1, 50), st.integers(0, 220), st.integers(0, 220))
def test_a_grid_cuts_its_bytes_without_gap_or_overlap(size, piece, start, stop):
    grid = Grid(size, piece)
    spans = [grid.span(index) for index in range(grid.count)]
    assert [byte for span in spans for byte in range(*span)] == list(range(size))
    assert numbers(grid.pieces_within(start, stop)) == {
        index for index, (first, end) in enumerate(spans) if start <= first and end <= stop
    }
    assert numbers(grid.pieces_touching(start, stop)) == {
        index for index, (first, end) in enumerate(spans) if max(first, start) < min(end, stop)
    }
    some = grid.pieces_touching(start, stop)
    assert grid.bytes(some) == sum(spans[index][1] - spans[index][0] for index in numbers(some))


def test_a_grid_of_the_largest_content_is_arithmetic():
    grid = Grid(MAX_SIZE, choose_piece_size(MAX_SIZE, None))
    assert grid.count <= 100_000
    assert grid.span(grid.count - 1)[1] == MAX_SIZE
    assert grid.bytes(IntervalSet.of((0, grid.count))) == MAX_SIZE
    with pytest.raises(IndexError, match="expected 0 to"):
        grid.span(grid.count)


@pytest.mark.parametrize(("size", "piece"), [(-1, 1), (MAX_SIZE + 1, 1), (1, 0)])
def test_a_grid_that_is_none_is_refused(size, piece):
    with pytest.raises(InvalidArgument, match="expected 0 to 2"):
        Grid(size, piece)


@pytest.mark.parametrize(
    ("size", "wanted", "piece"),
    [
        (0, None, DEFAULT_PIECE),
        (None, None, DEFAULT_PIECE),
        (100_000 * DEFAULT_PIECE, None, DEFAULT_PIECE),
        (100_000 * DEFAULT_PIECE + 1, None, 2 * DEFAULT_PIECE),
        (10, 65536, 65536),
        (None, 512 << 20, 512 << 20),
        (MAX_PIECES * 65536, 65536, 65536),
    ],
)
def test_the_piece_size_is_the_wanted_one_or_grows_with_the_content(size, wanted, piece):
    assert choose_piece_size(size, wanted) == piece


@pytest.mark.parametrize(
    ("size", "wanted", "said"),
    [
        (10, 65535, "piece_size 65535: expected 65536 to 536870912"),
        (10, (512 << 20) + 1, "piece_size 536870913"),
        (MAX_PIECES * 65536 + 1, 65536, "1000001 pieces of 65536000001 bytes.*at least 65537"),
    ],
)
def test_a_piece_size_out_of_bounds_is_refused_by_name(size, wanted, said):
    with pytest.raises(InvalidArgument, match=said):
        choose_piece_size(size, wanted)


def test_the_front_of_the_file_goes_first_in_fair_shares():
    missing = IntervalSet.of((0, 64))
    first = next_lease(missing, [], 8, 1000)
    assert first == Lease(0, 8)
    second = next_lease(missing, [Leased(first, 0)], 7, 1000)
    assert second == Lease(8, 15), "what is left is shared by all connections, those at work included"


def test_a_lease_stays_within_its_limit_and_its_run():
    assert next_lease(IntervalSet.of((0, 64)), [], 1, 10) == Lease(0, 10)
    assert next_lease(IntervalSet.of((3, 5), (9, 64)), [], 1, 10) == Lease(3, 5)


def test_nothing_is_given_without_a_free_connection_or_without_work():
    assert next_lease(IntervalSet.of((0, 64)), [], 0, 10) is None
    assert next_lease(IntervalSet(), [], 4, 10) is None


def test_the_lease_with_the_most_before_it_is_cut_in_half_beyond_the_piece_in_work():
    running = [Leased(Lease(0, 10), 8), Leased(Lease(10, 31), 10)]
    split = next_lease(IntervalSet.of((8, 31)), running, 1, 100)
    assert split == Split(Lease(10, 31), 21)
    assert (split.kept, split.given) == (Lease(10, 21), Lease(21, 31))


@pytest.mark.parametrize(("at", "worth"), [(6, True), (7, True), (8, False), (9, False), (10, False)])
def test_a_single_piece_is_not_worth_a_connection(at, worth):
    assert (next_lease(IntervalSet.of((at, 10)), [Leased(Lease(0, 10), at)], 1, 9) is not None) == worth


@given(st.data(), st.integers(1, 60), st.integers(1, 6), st.integers(1, 20))
@settings(max_examples=200)
def test_every_piece_is_fetched_once_whatever_the_order_of_ends_splits_and_failures(
    data, count, connections, limit
):
    missing = IntervalSet.of((0, count))
    fetched: list[int] = []
    running: list[Leased] = []
    failures = data.draw(st.integers(0, 5))
    for _ in range(1000):
        while True:
            step = next_lease(missing, running, connections - len(running), limit)
            if step is None:
                break
            if isinstance(step, Split):
                index = next(i for i, leased in enumerate(running) if leased.lease == step.running)
                assert running[index].at < step.at < step.running.stop, "the piece in work is not taken away"
                running[index] = Leased(step.kept, running[index].at)
                step = step.given
            assert step.first < step.stop
            running.append(Leased(step, step.first))
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
            running.insert(index, Leased(leased.lease, leased.at + 1))
    assert sorted(fetched) == list(range(count))


def test_the_first_gap_lies_behind_what_is_there():
    some = IntervalSet.of((0, 2), (5, 6))
    assert some.first_gap(0, 10) == (2, 5)
    assert some.first_gap(5, 10) == (6, 10)
    assert some.first_gap(0, 2) is None


def test_a_set_tells_its_numbers_in_order():
    assert list(IntervalSet.of((4, 6), (0, 2)).numbers) == [0, 1, 4, 5]
    assert list(IntervalSet.of().numbers) == []
