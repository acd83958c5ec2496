"""Kept pieces prove themselves in batches, however scattered they are."""

from hypothesis import given
from hypothesis import strategies as st

from meowcat.core.pieces import Grid, IntervalSet
from meowcat.transfer.recheck import Rechecker


@given(st.sets(st.integers(0, 60)), st.integers(1, 20))
def test_batches_have_every_piece_once_in_order(pieces, size):
    kept = IntervalSet.of(*((piece, piece + 1) for piece in pieces))
    rechecker = Rechecker(None, Grid(61, 1), kept, lambda: False)
    batches = list(rechecker._batches(size))
    assert [piece for batch in batches for run in batch for piece in range(*run)] == sorted(pieces)
    assert all(batch.total == size for batch in batches[:-1])
