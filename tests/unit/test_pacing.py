"""How many requests a host is given at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meowcat.core.pacing import WIDEN_MS, Window, answered, narrowed, too_many
from meowcat.core.values import Fault, FaultKind


@pytest.mark.parametrize(
    ("window", "under_way", "most"),
    [(None, 16, 8), (None, 3, 1), (None, 1, 1), (8, 8, 4), (8, 3, 1), (4, 9, 2), (1, 1, 1)],
)
def test_too_many_requests_are_halved_and_never_stopped(window, under_way, most):
    before = None if window is None else Window(window, 0, 3)
    assert narrowed(before, under_way, 77) == Window(most, 77)


def test_a_window_of_good_answers_makes_it_wider_by_one():
    window = Window(3, 0)
    for _ in range(2):
        window = answered(window, 3, WIDEN_MS)
        assert window.most == 3
    assert answered(window, 3, WIDEN_MS) == Window(4, WIDEN_MS)


def test_many_quick_answers_prove_no_more_than_a_second_does():
    window = Window(2, 0)
    for at in range(WIDEN_MS):
        window = answered(window, 2, at)
    assert window.most == 2
    assert answered(window, 2, WIDEN_MS).most == 3


def test_what_is_not_used_proves_nothing():
    window = Window(8, 0)
    for _ in range(100):
        window = answered(window, 3, 10 * WIDEN_MS)
    assert window == Window(8, 0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3000)), max_size=60))
def test_it_comes_back_one_by_one_and_goes_by_halves(answers):
    window, now = narrowed(None, 64, 0), 0
    for good, later in answers:
        now += later
        before = window.most
        window = (answered if good else narrowed)(window, before, now)
        assert window.most in ((before, before + 1) if good else (max(1, before // 2),))
        assert window.most <= 32 + now // WIDEN_MS


@pytest.mark.parametrize(("status", "expected"), [(429, True), (503, True), (500, False), (404, False)])
def test_429_and_503_say_that_it_is_too_many(status, expected):
    assert too_many(Fault(kind=FaultKind.STATUS, detail="x", status=status)) is expected
    assert not too_many(Fault(kind=FaultKind.TIMEOUT, detail="x", status=status))
