"""The rules of uploads, where a scenario can't say it: the size of parts."""

import pytest

from meowcat.core.errors import InvalidArgument
from meowcat.core.pieces import MAX_PIECE
from meowcat.core.sessions import Capabilities
from meowcat.core.uploads import choose_part_size

MIB = 1 << 20
TIB = 1 << 40
S3 = Capabilities(min_part=5 * MIB, max_part=5 << 30, max_parts=10_000, max_size=5 * TIB)


@pytest.mark.parametrize(
    ("size", "able", "part"),
    [
        (0, S3, 8 * MIB),
        (1, S3, 8 * MIB),
        (80_000 * MIB, S3, 8 * MIB),
        (80_000 * MIB + 1, S3, 16 * MIB),
        (TIB, S3, 128 * MIB),
        (10_000 * MAX_PIECE, S3, MAX_PIECE),
        (TIB, Capabilities(min_part=100 * MIB), 200 * MIB),
        (100 * MIB, Capabilities(max_part=4 * MIB), 4 * MIB),
        (100 * MIB, Capabilities(max_part=70 * MIB, max_parts=2), 64 * MIB),
        (140 * MIB, Capabilities(max_part=70 * MIB, max_parts=2), 70 * MIB),
        (9, Capabilities(min_part=0), 8 * MIB),
    ],
)
def test_parts_are_of_the_usual_size_unless_there_would_be_too_many(size, able, part):
    assert choose_part_size(size, None, able) == part


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        (100 * MIB, 5 * MIB),
        (100 * MIB, MAX_PIECE),
        (4 * MIB, 4 * MIB),
        (3, MIB),
        (0, MIB),
        (50_000 * MIB, 5 * MIB),
    ],
)
def test_a_size_that_is_asked_for_is_kept_where_the_provider_takes_it(size, wanted):
    assert choose_part_size(size, wanted, S3) == wanted


def test_one_part_is_never_larger_than_the_provider_takes():
    able = Capabilities(max_part=10 * MIB)
    assert choose_part_size(10 * MIB, 20 * MIB, able) == 20 * MIB
    with pytest.raises(
        InvalidArgument, match="piece_size 20971520: the provider takes parts of 1 to 10485760"
    ):
        choose_part_size(15 * MIB, 20 * MIB, able)


@pytest.mark.parametrize(
    ("size", "wanted", "able", "said"),
    [
        (6 * TIB, None, S3, f"the source has {6 * TIB} bytes; the provider takes at most"),
        (5 * TIB, None, S3, f"takes at most {10_000 * MAX_PIECE}"),
        (11, None, Capabilities(max_size=10), "the source has 11 bytes; the provider takes at most 10"),
        (0, None, Capabilities(empty=False), "the source is empty"),
        (100 * MIB, MIB, S3, "piece_size 1048576: the provider takes parts of 5242880 to"),
        (50_000 * MIB + 1, 5 * MIB, S3, "makes 10001 parts .* at most 10000: leave it out"),
    ],
)
def test_what_the_provider_does_not_take_is_said_with_its_number(size, wanted, able, said):
    with pytest.raises(InvalidArgument, match=said):
        choose_part_size(size, wanted, able)


def test_what_is_sent_in_one_piece_is_one_part_whatever_was_asked_for():
    able = Capabilities(max_parts=1, max_part=8 * MIB)
    assert choose_part_size(8 * MIB, None, able) == 8 * MIB
    assert choose_part_size(5 * MIB, MIB, able) == 5 * MIB
    assert choose_part_size(0, MIB, able) == 1
    with pytest.raises(InvalidArgument, match=f"the provider takes at most {8 * MIB}"):
        choose_part_size(8 * MIB + 1, None, able)
