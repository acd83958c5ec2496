"""Which request brings which pieces, without any request."""

from hypothesis import given
from hypothesis import strategies as st

from meowcat.core.leases import LEASE_BYTES, Lease
from meowcat.core.pieces import Grid, IntervalSet
from meowcat.transfer.board import Board
from meowcat.transfer.pouring import Span

MIB = 1 << 20
NOTHING = IntervalSet()


def laid(size, piece, connections=4, stored=NOTHING):
    board = Board(connections)
    board.lay(Grid(size, piece), stored)
    return board


def given_out(board):
    parts = []
    while (part := board.next(0.0)) is not None:
        parts.append(part)
    return parts


def test_no_two_parts_bring_the_same_piece():
    parts = given_out(laid(100 * MIB, MIB))
    leases = [part.lease for part in parts]
    assert (
        sum(lease.stop - lease.first for lease in leases)
        == IntervalSet.of(*((lease.first, lease.stop) for lease in leases)).total
    )
    assert len(parts) == 4


def test_a_lease_is_bounded_so_that_its_connection_is_used_again():
    board = laid(1 << 40, 4 * MIB)
    assert all((part.lease.stop - part.lease.first) * 4 * MIB <= LEASE_BYTES for part in given_out(board))


def test_a_part_that_breaks_gives_back_what_it_did_not_bring():
    board = laid(8 * MIB, MIB, connections=1)
    part = board.next(0.0)
    board.came(part, MIB + 5)
    board.drop(part)
    assert board.missing == IntervalSet.of((1, 8))


def test_pieces_of_a_reply_with_a_digest_count_once_it_was_right():
    board = laid(8 * MIB, MIB, connections=1)
    part = board.next(0.0)
    part.checked = True
    board.came(part, 2 * MIB)
    assert 0 not in board.missing
    board.drop(part)
    assert 0 in board.missing


def moved(board, *bytes_each, seconds=1.0):
    """All parts are asked for at once, answered after 10 ms, and bring so many bytes by the end."""
    for part in board.parts:
        board.ask(part, 0.0)
        board.answer(part, 0.01)
    for part, count in zip(board.parts, bytes_each, strict=True):
        board.came(part, count)
    return seconds


def test_a_reply_that_has_to_be_read_to_its_end_is_not_cut_and_not_given_up():
    board = laid(16 * MIB, MIB, connections=1)
    part = board.add(Lease(0, 16))
    part.firm = True
    board.connections = 4
    now = moved(board, 65536)
    board.paces.ended(10.0 * MIB)
    assert board.next(now) is None
    assert board.laggards(9.0) == []
    part.firm = False
    assert board.laggards(9.0) == [part]
    assert board.next(now) is not None


def test_a_free_connection_takes_what_a_running_one_has_before_it():
    board = laid(64 * MIB, MIB, connections=2)
    first, second = given_out(board)
    board.missing = IntervalSet.of((first.lease.first, first.lease.stop))
    now = moved(board, 4 * MIB, 4 * MIB)
    board.drop(second)
    third = board.next(now)
    assert third.lease == Lease(18, 32)
    assert first.lease == Lease(0, 18)
    assert board.stop_of(first) == 18 * MIB


def test_where_there_are_to_be_fewer_parts_the_latest_end_with_their_pieces_in_work():
    board = laid(64 * MIB, MIB)
    parts = given_out(board)
    board.came(parts[3], MIB // 2)
    board.connections = 2
    board.trim(0.0)
    assert [part.lease.stop - part.lease.first for part in parts] == [16, 16, 1, 1]
    board.drop(parts[2])
    assert board.next(0.0) is None
    parts[0].firm = True
    board.trim(0.0)
    assert parts[1].lease.stop == 32, "one that is read to its end is none that could be cut"


def test_nothing_is_cut_off_that_a_thread_has_come_to_by_now():
    board = laid(32 * MIB, MIB, connections=2)
    part = board.add(Lease(0, 32))
    now = moved(board, 4 * MIB)
    part.span = Span(part.at, 32 * MIB)
    part.span.claim(27 * MIB)
    ahead, part.span.at = part.span.at, 4 * MIB  # as if the thread got on after the board had looked
    board.catch_up = lambda: setattr(part.span, "at", ahead)
    assert board.next(now) is None
    assert (part.lease, part.span.stop) == (Lease(0, 32), 32 * MIB)


def test_what_threads_bring_is_not_missing_although_they_tell_nobody():
    board = laid(32 * MIB, MIB, connections=2)
    part = board.add(Lease(0, 32))
    part.span = Span(0, 32 * MIB)
    part.span.claim(5 * MIB + 7)
    assert board.brought == 5 * MIB + 7, "whoever asks wants to know it of this instant"
    board.catch_up()
    board.catch_up()
    assert (part.at, board.brought) == (5 * MIB + 7, 5 * MIB + 7)
    assert board.missing == IntervalSet.of((5, 32))


def test_a_request_that_lags_behind_is_one_to_give_up():
    board = laid(128 * MIB, MIB, connections=4)
    parts = given_out(board)
    now = moved(board, 10 * MIB, 10 * MIB, 10 * MIB, 65536)
    assert board.laggards(now) == [parts[3]]
    parts[3].renewed = 1
    assert board.laggards(now) == []


def test_a_thread_that_waits_for_the_disk_does_not_lag_behind():
    board = laid(128 * MIB, MIB, connections=4)
    parts = given_out(board)
    now = moved(board, 10 * MIB, 10 * MIB, 10 * MIB, 65536)
    parts[3].span = Span(parts[3].at, board.stop_of(parts[3]))
    parts[3].span.reading = False
    assert board.laggards(now) == []
    parts[3].span.reading = True
    assert board.laggards(now) == [parts[3]]


def test_a_request_that_waits_for_room_does_not_lag_behind():
    board = laid(16 * MIB, MIB, connections=1)
    part = board.add(Lease(0, 16))
    moved(board, 65536)
    board.paces.ended(10.0 * MIB)
    part.waits = True
    assert board.laggards(9.0) == []
    part.waits = False
    assert board.laggards(9.0) == [part]


def test_a_request_whose_head_does_not_come_lags_behind_as_well():
    board = laid(128 * MIB, MIB, connections=2)
    one, other = given_out(board)
    board.ask(one, 0.0)
    board.answer(one, 0.01)
    board.ask(other, 0.0)
    board.came(one, 10 * MIB)
    assert board.laggards(0.9) == []
    assert board.laggards(1.0) == [other]


def test_a_reply_with_everything_writes_what_nobody_else_brings():
    board = laid(8 * MIB, MIB, connections=2, stored=IntervalSet.of((0, 2)))
    other = board.add(Lease(2, 4))
    part = board.add(Lease(4, 8))
    board.widen(part)
    written = [offset for offset, _ in board.wanted(part, bytes(8 * MIB))]
    assert written == [4 * MIB]
    assert board.next(0.0) is None
    assert other.claims == IntervalSet.of((2, 4))


@given(
    size=st.integers(1, 5000),
    piece=st.integers(1, 700),
    chunks=st.lists(st.integers(1, 900), min_size=1),
    stored=st.sets(st.integers(0, 20)),
)
def test_what_a_stream_writes_is_what_was_missing_and_nothing_twice(size, piece, chunks, stored):
    grid = Grid(size, piece)
    kept = IntervalSet.of(*((each, each + 1) for each in stored if each < grid.count))
    board = laid(size, piece, connections=1, stored=kept)
    part = board.add(Lease(0, 1))
    board.widen(part)
    written = []
    for length in chunks:
        chunk = bytes(min(length, size - part.at))
        for offset, some in board.wanted(part, chunk):
            written += range(offset, offset + len(some))
        board.came(part, len(chunk))
    missing = {byte for index in range(grid.count) if index not in kept for byte in range(*grid.span(index))}
    assert written == sorted(missing & set(range(part.at)))
    arrived = grid.pieces_within(0, part.at)
    assert board.missing == IntervalSet.of((0, grid.count)) - kept - arrived
