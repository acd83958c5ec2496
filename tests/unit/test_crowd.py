"""How many connections a download comes to, on links of several kinds."""

from itertools import pairwise

import pytest

from meowcat.core.crowd import FEWEST, MOST, Crowd, Crowds

MB = 1_000_000


def after(seconds, rate_of, *, latency=0.01, crowd=None, busy=None, began=0):
    """A crowd that has seen a link until then; `rate_of` is bytes a second by connections and second."""
    crowd = crowd or Crowd()
    came = 0.0
    for tick in range(int((seconds - began) / 0.25)):
        now = began + tick * 0.25
        crowd.came(now, int(came), busy=crowd.connections if busy is None else busy, latency=latency)
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
def test_a_server_that_refuses_gets_half_as_many_and_no_more_for_a_minute(seconds):
    def rate_of(connections, _):
        return connections * 10 * MB

    crowd = after(seconds, rate_of)
    before = crowd.connections
    crowd.refuse(seconds, seconds)
    assert crowd.connections == before // 2
    after(seconds + 59, rate_of, crowd=crowd, began=seconds)
    assert crowd.connections == before // 2
    after(seconds + 70, rate_of, crowd=crowd, began=seconds + 60)
    assert crowd.connections == MOST


def test_a_server_that_refuses_again_and_again_is_tried_less_and_less_often():
    crowd, now, refusals = Crowd(), 0.0, []
    while now < 24 * 3600:
        if crowd.connections > 2:
            crowd.refuse(now, now)
            refusals.append(now)
        crowd.came(now, int(now * crowd.connections * MB), busy=crowd.connections, latency=0.01)
        now += 0.25
    waits = [later - before for before, later in pairwise(refusals)]
    assert all(later > before * 1.5 for before, later in pairwise(waits[1:6]))
    assert all(3600 < wait < 3602 for wait in waits[8:])
    assert len(waits) > 20, "it may have grown meanwhile"


def test_what_was_measured_before_a_refusal_says_nothing_after_it():
    crowd = Crowd()
    crowd.came(0.0, 0, busy=FEWEST, latency=0.01)
    crowd.refuse(0.1, 0.1)
    crowd.came(0.5, 5 * MB, busy=FEWEST // 2, latency=0.01)
    assert crowd.connections == FEWEST // 2
    crowd = Crowd()
    for _ in range(FEWEST - 1):
        crowd.sent(0.0, 1.0, MB, limited=False)
    crowd.refuse(1.0, 1.0)
    crowd.sent(61.0, 62.0, MB, limited=False)
    assert crowd.connections == FEWEST // 2


def test_the_refusals_of_one_wave_count_once():
    crowd = after(3, lambda connections, _: connections * 10 * MB)
    for now in (3.1, 3.2, 3.3):
        crowd.refuse(3.0, now)
    assert crowd.connections == MOST // 2
    crowd.refuse(3.2, 3.4)
    assert crowd.connections == MOST // 4, "it began when the server had said so"


def test_who_takes_a_share_of_others_gains_nothing():
    """Two transfers have 4 connections each; with 8 one of them has two thirds of the link."""
    crowd, _ = sent(60, lambda connections, _: 60 * MB * connections / (connections + 4))
    assert crowd.connections == FEWEST


def test_at_least_one_is_left_however_often_a_server_refuses():
    crowd = Crowd()
    for _ in range(9):
        crowd.refuse(0.0, 0.0)
    assert crowd.connections == 1


def sent(parts, rate_of, *, crowd=None, limited=False, size=8 * MB, began=0.0):
    """A crowd that has sent so many parts, always as many at once as it wants; `rate_of` is bytes a second of
    all connections together, by their number and the second. When it was done, by its own clock."""
    crowd = crowd or Crowd()
    running, now, begun = {}, began, 0  # what is left of each part, and when it began
    while begun < parts or running:
        while begun < parts and len(running) < crowd.connections:
            running[begun], begun = [size, now], begun + 1
        each = rate_of(len(running), now) / len(running)
        first = min(running, key=lambda number: running[number][0])
        seconds = running[first][0] / each
        now += seconds
        for part in running.values():
            part[0] -= each * seconds
        crowd.sent(running.pop(first)[1], now, size, limited=limited)
    return crowd, now


def test_a_cap_on_each_connection_is_found_out_from_parts_as_well():
    crowd, seconds = sent(128, lambda connections, _: connections * 10 * MB)
    assert crowd.connections == MOST
    assert seconds < 128 * 8 / 160 * 1.4


@pytest.mark.parametrize("rate", [100 * MB, 3 * MB])
def test_parts_over_a_link_that_is_full_are_not_sent_by_more(rate):
    """Trials that take minutes do not come every few seconds."""
    seen = []
    _, seconds = sent(400, lambda connections, _: seen.append(connections) or rate)
    assert seconds == pytest.approx(400 * 8 * MB / rate)
    assert sum(each > FEWEST for each in seen) < len(seen) / 4


def test_where_parts_take_long_no_more_of_them_are_tried():
    """A line on which each would take twice as long loses twice as much with a break."""
    seen = []
    sent(60, lambda connections, _: seen.append(connections) or connections * 0.5 * MB)
    assert set(seen[:-FEWEST]) == {FEWEST}
    crowd, _ = sent(60, lambda connections, _: connections * 0.6 * MB)
    assert crowd.connections == MOST


def test_parts_over_a_link_that_is_full_with_eight_are_sent_by_eight():
    seen = []
    sent(1000, lambda connections, _: seen.append(connections) or min(connections, 8) * 10 * MB)
    assert sum(each == 8 for each in seen) > len(seen) * 0.7


def test_parts_over_a_link_that_grows_are_sent_by_more_later():
    crowd, now = sent(40, lambda *_: 40 * MB, began=1000.0)
    assert crowd.connections == FEWEST
    crowd, _ = sent(400, lambda connections, _: connections * 10 * MB, crowd=crowd, began=now)
    assert crowd.connections == MOST


def test_nothing_is_concluded_from_parts_whose_rate_is_limited():
    crowd, now = sent(40, lambda connections, _: connections * 10 * MB, limited=True)
    assert crowd.connections == FEWEST
    for _ in range(2 * FEWEST):
        crowd.sent(now - 1, now + 1, 8 * MB, limited=False)
    assert crowd.connections == FEWEST, "it was when they began"
    crowd, _ = sent(40, lambda connections, _: connections * 10 * MB, crowd=crowd, began=now)
    assert crowd.connections > FEWEST


def test_a_limit_that_comes_and_goes_does_not_end_a_rest():
    crowd = Crowd()
    crowd.refuse(0.0, 0.0)
    crowd.sent(1.0, 2.0, MB, limited=True)
    for _ in range(FEWEST):
        crowd.sent(2.0, 3.0, MB, limited=False)
    assert crowd.connections == FEWEST // 2


def test_parts_that_began_with_fewer_say_nothing_of_more():
    crowd, now = sent(FEWEST + 1, lambda connections, _: connections * 10 * MB)
    assert crowd.connections == 2 * FEWEST
    for _ in range(2 * FEWEST):
        crowd.sent(now - 1, now + 100, 8 * MB, limited=False)
    assert crowd.connections == 2 * FEWEST


def test_a_server_that_refuses_parts_gets_half_as_many_for_a_minute():
    crowd, now = sent(20, lambda connections, _: connections * 10 * MB)
    before = crowd.connections
    crowd.refuse(now, now)
    _, later = sent(50 * before // 2, lambda connections, _: connections * 8 * MB, crowd=crowd, began=now)
    assert later - now == pytest.approx(50)
    assert crowd.connections == before // 2
    sent(60 * before, lambda connections, _: connections * 8 * MB, crowd=crowd, began=later)
    assert crowd.connections == MOST


def test_what_a_task_has_found_out_is_there_for_its_next_operation():
    crowds = Crowds()
    crowds.of("a", (1, 0)).refuse(0.0, 0.0)
    assert crowds.of("a", (1, 0)).connections == FEWEST // 2
    assert crowds.of("b", (1, 0)).connections == FEWEST
    assert crowds.of("a", (2, 0)).connections == FEWEST, "after a pause, perhaps in another place"
    crowds.of("a", (2, 0)).refuse(0.0, 0.0)
    crowds.forget("a")
    crowds.forget("a")
    assert crowds.of("a", (2, 0)).connections == FEWEST
