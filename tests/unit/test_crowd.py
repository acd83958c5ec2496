"""How many connections transfers come to, on links of several kinds."""

from contextlib import ExitStack, contextmanager
from itertools import pairwise

import pytest

from meowcat.core.crowd import FEWEST, KNOWN, LASTS, MOST, Crowd, Crowds

MB = 1_000_000


class Flow:
    """A download that takes whatever connections it is given."""

    def __init__(self, crowd, latency=0.01, *, follows=True):
        self.crowd, self.latency, self.follows = crowd, latency, follows
        self.came = 0
        self.hungry = True


@pytest.fixture
def stack():
    with ExitStack() as entered:
        yield entered


@contextmanager
def at_work(flow):
    number = flow.crowd.join(flow, follows=flow.follows)
    try:
        yield flow
    finally:
        flow.crowd.leave(number)


def after(seconds, rate_of, *, latency=0.01, crowd=None, busy=None, began=0):
    """A crowd that has seen a link until then; `rate_of` is bytes a second by connections and second."""
    crowd = crowd or Crowd()
    flow, came = Flow(crowd, latency), 0.0
    with at_work(flow):
        for tick in range(int((seconds - began) / 0.25)):
            now = began + tick * 0.25
            flow.came = int(came)
            flow.hungry = busy is None or busy >= crowd.connections
            crowd.look(now)
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


def test_a_server_that_refuses_again_and_again_is_tried_less_and_less_often(stack):
    crowd, now, refusals = Crowd(), 0.0, []
    flow = Flow(crowd)
    stack.enter_context(at_work(flow))
    while now < 24 * 3600:
        if crowd.connections > 2:
            crowd.refuse(now, now)
            refusals.append(now)
        flow.came = int(now * crowd.connections * MB)
        crowd.look(now)
        now += 0.25
    waits = [later - before for before, later in pairwise(refusals)]
    assert all(later > before * 1.5 for before, later in pairwise(waits[1:6]))
    assert all(3600 < wait < 3602 for wait in waits[8:])
    assert len(waits) > 20, "it may have grown meanwhile"


def test_what_was_measured_before_a_refusal_says_nothing_after_it():
    crowd = Crowd()
    with at_work(Flow(crowd)) as flow:
        crowd.look(0.0)
        crowd.refuse(0.1, 0.1)
        flow.came = 5 * MB
        crowd.look(0.5)
    assert crowd.connections == FEWEST // 2
    crowd = Crowd()
    for _ in range(FEWEST - 1):
        crowd.sent("a", 0.0, 1.0, MB, limited=False)
    crowd.refuse(1.0, 1.0)
    crowd.sent("a", 61.0, 62.0, MB, limited=False)
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
        crowd.sent("a", running.pop(first)[1], now, size, limited=limited)
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
        crowd.sent("a", now - 1, now + 1, 8 * MB, limited=False)
    assert crowd.connections == FEWEST, "it was when they began"
    crowd, _ = sent(40, lambda connections, _: connections * 10 * MB, crowd=crowd, began=now)
    assert crowd.connections > FEWEST


def test_a_limit_that_comes_and_goes_does_not_end_a_rest():
    crowd = Crowd()
    crowd.refuse(0.0, 0.0)
    crowd.sent("a", 1.0, 2.0, MB, limited=True)
    for _ in range(FEWEST):
        crowd.sent("a", 2.0, 3.0, MB, limited=False)
    assert crowd.connections == FEWEST // 2


def test_parts_that_began_with_fewer_say_nothing_of_more():
    crowd, now = sent(FEWEST + 1, lambda connections, _: connections * 10 * MB)
    assert crowd.connections == 2 * FEWEST
    for _ in range(2 * FEWEST):
        crowd.sent("a", now - 1, now + 100, 8 * MB, limited=False)
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


class Line:
    """Downloads of several hosts, all over one line, or each connection with a cap."""

    def __init__(self, rate_of, stack):
        self.rate_of, self.stack = rate_of, stack
        self.crowds, self.flows, self.now = Crowds(), {}, 1000.0

    def begin(self, host="host", *, follows=True):
        crowd = self.crowds.of(host, self.now)
        flow = Flow(crowd, follows=follows)
        self.flows[flow] = left = ExitStack()
        left.enter_context(at_work(flow))
        self.stack.enter_context(left)
        return flow

    def end(self, flow):
        self.flows.pop(flow).close()

    def run(self, seconds):
        """The most connections that there were meanwhile, and those in the end."""
        most = 0
        for _ in range(int(seconds / 0.25)):
            self.now += 0.25
            for flow in self.flows:
                if flow.follows:
                    flow.crowd.look(self.now)
            each = {flow: flow.crowd.connections if flow.follows else FEWEST for flow in self.flows}
            all_of_them = sum(each.values())
            for flow in self.flows:
                flow.came += int(self.rate_of(each[flow], all_of_them) * 0.25)
            most = max(most, all_of_them)
        return most, all_of_them


def full(mine, of_all):
    return 100 * MB * mine / of_all


def capped(mine, _):
    return mine * MB


@pytest.mark.parametrize("hosts", [1, 2, 8])
def test_transfers_over_one_full_line_take_nothing_from_each_other(stack, hosts):
    """Each of eight would seem to gain: with eight connections it has 16 of 100, in place of 12 of 100."""
    line = Line(full, stack)
    for number in range(8):
        line.begin(f"host{number % hosts}")
    most, last = line.run(4)
    assert (most, last) == (8 * 2 * FEWEST, 8 * FEWEST)


def test_nothing_is_taken_from_those_whose_connections_the_user_chose(stack):
    line = Line(full, stack)
    for _ in range(3):
        line.begin(follows=False)
    line.begin()
    assert line.run(4) == (5 * FEWEST, 4 * FEWEST)
    line = Line(capped, stack)
    for _ in range(3):
        line.begin(follows=False)
    assert line.begin().crowd.connections == FEWEST
    assert line.run(4)[1] == 3 * FEWEST + MOST, "what they have is not what more would bring"


def test_what_one_transfer_has_found_out_holds_for_the_next_one(stack):
    line = Line(capped, stack)
    first = line.begin()
    line.run(3)
    line.end(first)
    assert line.begin().crowd.connections == MOST
    assert line.begin("other").crowd.connections == FEWEST


def test_what_was_found_out_long_ago_is_looked_at_anew(stack):
    line = Line(capped, stack)
    first = line.begin()
    line.run(LASTS)
    assert line.begin().crowd.connections == FEWEST
    assert first.crowd.connections == MOST


def test_what_a_host_has_refused_is_known_for_as_long_as_it_was_to_rest(stack):
    line = Line(capped, stack)
    crowd = line.begin().crowd
    for _ in range(6):
        crowd.refuse(line.now, line.now)
        line.now += 0.1
    line.now += LASTS
    assert line.begin().crowd is crowd, "it is to rest for 32 minutes"
    line.now += 1920
    assert line.begin().crowd.connections == FEWEST


def test_a_transfer_that_begins_in_a_trial_takes_its_meaning_from_it(stack):
    """It would look as if more connections had brought nothing."""
    line = Line(full, stack)
    first = line.begin()
    assert line.run(0.75) == (2 * FEWEST, 2 * FEWEST)
    second = line.begin()
    assert line.run(0.25)[1] == 2 * FEWEST
    assert line.run(1.5)[1] == 2 * FEWEST, "each has as few as before"
    line.end(second)
    line.end(first)


def test_a_transfer_that_begins_while_others_are_measured_is_measured_with_them(stack):
    line = Line(capped, stack)
    line.begin()
    line.run(0.25)
    line.begin()
    assert line.run(0.25)[1] == 2 * FEWEST
    assert line.run(3)[1] == 2 * MOST


def test_all_are_looked_at_once_however_many_ask_for_it(stack):
    line = Line(capped, stack)
    flow = line.begin()
    looked = []

    class Seen(Flow):
        @property
        def hungry(self):
            looked.append(line.now)
            return True

        @hungry.setter
        def hungry(self, _): ...

    with at_work(Seen(flow.crowd)):
        for _ in range(100):
            flow.crowd.look(line.now)
    assert len(looked) == 1


def test_one_that_ends_in_a_trial_does_not_make_the_others_look_faster(stack):
    line = Line(full, stack)
    for _ in range(2):
        going = line.begin()
    line.run(0.75)
    assert going.crowd.connections == 2 * FEWEST
    line.end(going)
    assert line.run(0.5)[1] == FEWEST
    assert line.run(1.5)[0] == FEWEST, "the next trial waits until what came of this one is over"
    assert line.run(60)[1] == FEWEST


def test_a_trial_whose_connections_are_never_all_at_work_ends(stack):
    line = Line(capped, stack)
    flow = line.begin()
    line.run(0.75)
    flow.hungry = False
    line.run(9)
    assert flow.crowd.connections == 2 * FEWEST
    line.run(2)
    assert flow.crowd.connections == FEWEST


def test_one_whose_connections_are_not_all_at_work_keeps_nobody_from_a_trial(stack):
    line = Line(capped, stack)
    line.begin().hungry = False
    other = line.begin()
    line.run(3)
    assert other.crowd.connections == MOST


def test_hosts_are_forgotten_where_there_are_many(stack):
    line = Line(capped, stack)
    crowd = line.begin("first").crowd
    for number in range(KNOWN - 1):
        line.crowds.of(str(number), line.now)
    line.crowds.of("first", line.now)
    line.crowds.of("one more", line.now)
    assert line.crowds.of("first", line.now) is crowd, "it was asked for just now"
    for number in range(KNOWN):
        line.crowds.of(str(number), line.now)
    assert line.crowds.of("first", line.now) is not crowd


def parts_of(crowd, tasks, began, now, each):
    for _ in range(each):
        for task in tasks:
            crowd.sent(task, began, now, 8 * MB, limited=False)


def test_parts_of_all_transfers_with_a_host_are_judged_together():
    crowd = Crowd()
    parts_of(crowd, "ab", 0, 1, FEWEST)
    assert crowd.connections == 2 * FEWEST
    parts_of(crowd, "ab", 1, 3, 2 * FEWEST)
    assert crowd.connections == 2 * FEWEST, "it may have been a hiccup"
    parts_of(crowd, "ab", 3, 5, 2 * FEWEST)
    assert crowd.connections == FEWEST
    parts_of(crowd, "ab", 100, 101, FEWEST)
    parts_of(crowd, "ab", 101, 102, 2 * FEWEST)
    assert crowd.connections == MOST


def test_an_upload_that_ends_in_a_trial_takes_its_meaning_from_it():
    crowd = Crowd()
    parts_of(crowd, "ab", 0, 1, FEWEST)
    parts_of(crowd, "a", 1, 2, 2 * FEWEST)
    assert crowd.connections == FEWEST


def test_uploads_of_few_parts_that_come_and_go_leave_no_trial_behind():
    """None of them brings as many parts as there are connections in a trial."""
    crowd, seen = Crowd(), []
    for number in range(200):
        for part in range(6):
            crowd.sent(str(number), number, number + 0.1 * (part + 1), 8 * MB, limited=False)
        seen.append(crowd.connections)
    assert seen.count(2 * FEWEST) < 100
    assert FEWEST in seen[-5:]
    assert len(crowd._sent) < 50


def test_parts_of_uploads_that_have_ended_are_forgotten():
    crowd, most = Crowd(), 0
    for number in range(2000):
        for part in range(3):
            crowd.sent(str(number), number / 20, number / 20 + 0.05 * (part + 1), MB, limited=False)
            most = max(most, len(crowd._sent))
    assert most < 100
