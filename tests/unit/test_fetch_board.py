"""Which request brings which pieces, without any request."""

from hypothesis import given
from hypothesis import strategies as st

from meowcat.core.pieces import Grid, IntervalSet, Lease
from meowcat.transfer.board import LEASE_BYTES, WORTH_SPLITTING, Board

MIB = 1 << 20
NOTHING = IntervalSet()


def laid(size, piece, connections=4, stored=NOTHING):
    board = Board(connections)
    board.lay(Grid(size, piece), stored)
    return board


def given_out(board):
    parts = []
    while (part := board.next()) is not None:
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
    part = board.next()
    board.came(part, MIB + 5)
    board.drop(part)
    assert board.missing == IntervalSet.of((1, 8))


def test_pieces_of_a_reply_with_a_digest_count_once_it_was_right():
    board = laid(8 * MIB, MIB, connections=1)
    part = board.next()
    part.checked = True
    board.came(part, 2 * MIB)
    assert 0 not in board.missing
    board.drop(part)
    assert 0 in board.missing


def test_a_reply_that_has_to_be_read_to_its_end_is_not_cut():
    board = laid(16 * MIB, MIB, connections=1)
    part = board.add(Lease(0, 16))
    part.firm = True
    board.connections = 4
    assert board.next() is None
    part.firm = False
    assert board.next() is not None


def test_a_small_rest_is_not_worth_a_connection():
    board = laid(4 * 65536, 65536, connections=4)
    board.add(Lease(0, 4))
    assert 2 * WORTH_SPLITTING > 4 * 65536
    assert board.next() is None


def test_a_reply_with_everything_writes_what_nobody_else_brings():
    board = laid(8 * MIB, MIB, connections=2, stored=IntervalSet.of((0, 2)))
    other = board.add(Lease(2, 4))
    part = board.add(Lease(4, 8))
    board.widen(part)
    written = [offset for offset, _ in board.wanted(part, bytes(8 * MIB))]
    assert written == [4 * MIB]
    assert board.next() is None
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
