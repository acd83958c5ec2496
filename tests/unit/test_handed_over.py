"""How long the last bytes of a body may be on their way."""

import pytest

from meowcat.transport import uploads
from meowcat.transport.uploads import BUFFERED, SLOWEST_UPLOAD, UNMEASURED, HandedOver

MIB = 1 << 20


@pytest.fixture
def hand(monkeypatch):
    def over(size, seconds):
        now = 100.0
        monkeypatch.setattr(uploads, "monotonic", lambda: now)
        handed = HandedOver()
        assert not handed.begun
        now += 50  # to connect
        handed.asked()
        assert handed.begun
        for _ in range(4):
            now += seconds / 4
            handed.asked()
            handed.answered(bytes(size // 4))
        now += 7
        assert handed.silent == pytest.approx(7)
        return handed.on_its_way

    return over


@pytest.mark.parametrize("size", [0, 1000, BUFFERED])
def test_all_of_a_body_may_be_where_nobody_sees_it(hand, size):
    """Memory took it at once, which says nothing of the line."""
    assert hand(size, 0.01) == pytest.approx(size / UNMEASURED)


def test_what_has_surely_left_tells_the_pace(hand):
    assert hand(BUFFERED + 4 * MIB, 40) == pytest.approx(120)
    assert hand(BUFFERED + 4 * MIB, 0.004) == pytest.approx(0.012)


def test_nobody_waits_for_what_is_slower_than_any_line(hand):
    assert hand(BUFFERED + 8, 40) == pytest.approx(BUFFERED / SLOWEST_UPLOAD)
