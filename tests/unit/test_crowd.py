"""How many connections a download comes to, on links of several kinds."""

from itertools import pairwise

import pytest

from meowcat.core.crowd import FEWEST, MOST, Crowd

MB = 1_000_000


def after(seconds, rate_of, *, latency=0.01, crowd=None, busy=None):
    """A crowd that has seen a link for so long; `rate_of` is bytes a second by connections and second."""
    crowd = crowd or Crowd()
    came = 0.0
    for tick in range(int(seconds / 0.25)):
        now = tick * 0.25
        crowd.note(now, int(came), busy=crowd.connections if busy is None else busy, latency=latency)
        came += rate_of(crowd.connections, now) * 0.25
    return crowd


def test_a_cap_on_each_connection_is_answered_by_as_many_as_are_allowed():
    assert after(2, lambda connections, _: connections * 10 * MB).connections == MOST


def test_a_link_that_is_full_is_not_asked_for_more():
    assert after(4, lambda *_: 100 * MB).connections == FEWEST


def test_a_link_that_is_full_with_eight_keeps_eight():
    assert after(4, lambda connections, _: min(connections, 8) * 10 * MB).connections == 8


def test_one_hiccup_does_not_speak_against_them():
    def rate_of(connections, now):
        return (1 if 0.5 <= now < 1.0 else connections) * 10 * MB

    assert after(4, rate_of).connections == MOST


def test_a_link_that_grows_is_tried_again_later():
    def rate_of(connections, now):
        return (connections if now > 4 else 4) * 10 * MB

    crowd = after(4, rate_of)
    assert crowd.connections == FEWEST
    assert after(20, rate_of).connections == MOST


def test_a_full_link_is_tried_less_and_less_often():
    seen = []
    after(200, lambda connections, _: seen.append(connections) or 100 * MB)
    trials = sum(before == FEWEST and now > FEWEST for before, now in pairwise(seen))
    assert 2 <= trials <= 7


def test_nothing_is_concluded_while_connections_have_nothing_to_do():
    assert after(60, lambda connections, _: connections * 10 * MB, busy=FEWEST - 1).connections == FEWEST


def test_new_connections_are_given_time_to_come_up_to_speed():
    crowd = after(1.75, lambda connections, _: connections * 10 * MB, latency=0.25)
    assert crowd.connections == 2 * FEWEST
    assert after(12, lambda connections, _: connections * 10 * MB, latency=0.25).connections == MOST


@pytest.mark.parametrize("seconds", [0, 1, 3])
def test_a_server_that_refuses_gets_fewer_and_never_more_again(seconds):
    crowd = after(seconds, lambda connections, _: connections * 10 * MB)
    before = crowd.connections
    crowd.refuse()
    assert crowd.connections == before // 2
    after(60, lambda connections, _: connections * 10 * MB, crowd=crowd)
    assert crowd.connections == before // 2


def test_at_least_one_is_left_however_often_a_server_refuses():
    crowd = Crowd()
    for _ in range(9):
        crowd.refuse()
    assert crowd.connections == 1
