import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meowcat.core.errors import InvalidArgument
from meowcat.core.pieces import (
    DEFAULT_PIECE,
    LEAST_DEFAULT_PIECE,
    MAX_PIECES,
    MAX_SIZE,
    Grid,
    IntervalSet,
    choose_piece_size,
)

MIB = 1 << 20

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
        (1, None, LEAST_DEFAULT_PIECE),
        (8 * MIB, None, LEAST_DEFAULT_PIECE),
        (256 * MIB, None, LEAST_DEFAULT_PIECE),
        (256 * MIB + 1, None, 2 * LEAST_DEFAULT_PIECE),
        (1024 * MIB, None, MIB),
        (4096 * MIB, None, DEFAULT_PIECE),
        (100 * 1024 * MIB, None, DEFAULT_PIECE),
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


def test_a_set_tells_its_numbers_in_order():
    assert list(IntervalSet.of((4, 6), (0, 2)).numbers) == [0, 1, 4, 5]
    assert list(IntervalSet.of().numbers) == []
