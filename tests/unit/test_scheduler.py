"""Slots: who gets one, and when a held host lets one task try first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meowcat.runtime.scheduler import Demand, Scheduler


def demand(
    name: str, order: int, *, host: str = "h", priority: int = 0, direction: str = "download"
) -> Demand:
    return Demand(name, direction, host, priority, order)


class Book:
    """A scheduler, and whom it has granted slots."""

    def __init__(self, slots: int = 2, per_host: int | None = None) -> None:
        self.granted: list[str] = []
        self.scheduler = Scheduler({"download": slots, "upload": slots}, per_host, self.granted.append)

    def ask(self, *demands: Demand, now: int = 0) -> list[str]:
        for each in demands:
            self.scheduler.request(each)
        return self.hand_out(now)

    def hand_out(self, now: int = 0) -> list[str]:
        before = len(self.granted)
        self.scheduler.grant(now)
        return self.granted[before:]


def test_slots_are_given_first_come_first_served():
    book = Book()
    assert book.ask(demand("b", 2), demand("a", 1), demand("c", 3)) == ["a", "b"]
    book.scheduler.withdraw("a")
    assert book.hand_out() == ["c"]


def test_a_higher_priority_goes_first():
    assert Book(1).ask(demand("a", 1), demand("b", 2, priority=1)) == ["b"]


def test_directions_have_slots_of_their_own():
    book = Book(1)
    assert book.ask(demand("a", 1), demand("b", 2, direction="upload")) == ["a", "b"]
    assert book.scheduler.counts("download") == (1, 0)


def test_a_busy_host_lets_others_pass():
    book = Book(2, per_host=1)
    assert book.ask(demand("a", 1), demand("b", 2), demand("c", 3, host="other")) == ["a", "c"]
    book.scheduler.withdraw("a")
    assert book.hand_out() == ["b"]


def test_who_leaves_the_line_is_passed_over_and_may_come_back():
    book = Book(1)
    book.ask(demand("a", 1), demand("b", 2), demand("c", 3))
    book.scheduler.withdraw("b")
    book.scheduler.request(demand("b", 2))
    book.scheduler.withdraw("a")
    assert book.hand_out() == ["b"]
    book.scheduler.withdraw("b")
    assert book.hand_out() == ["c"]


def test_a_held_host_is_left_alone_and_then_tried_by_one():
    book = Book(3)
    book.scheduler.hold_host("h", 100)
    assert book.ask(demand("a", 1), demand("b", 2), demand("c", 3, host="other"), now=99) == ["c"]
    assert book.hand_out(100) == ["a"]
    assert not book.scheduler.may_send("b", "h", 200)
    assert not book.scheduler.release_host("h", "b", 99)
    assert book.scheduler.release_host("h", "a", 150)
    assert book.hand_out(200) == ["b"]


def test_when_the_one_that_tries_gives_up_another_may_try():
    book = Book(3)
    book.scheduler.hold_host("h", 100)
    assert book.ask(demand("a", 1), demand("b", 2), now=100) == ["a"]
    book.scheduler.withdraw("a")
    assert book.hand_out(101) == ["b"]


def test_a_hold_is_never_shortened():
    book = Book()
    book.scheduler.hold_host("h", 100)
    book.scheduler.hold_host("h", 50)
    assert book.ask(demand("a", 1), now=99) == []


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["ask", "leave"])), max_size=40),
    st.integers(1, 3),
    st.none() | st.integers(1, 2),
)
def test_bounds_hold_and_nobody_waits_while_there_is_room(steps, slots, per_host):
    book = Book(slots, per_host)
    wanting: dict[str, Demand] = {}
    for order, (name, step) in enumerate(steps):
        if step == "ask":
            each = wanting.setdefault(name, demand(name, order, host="xy"[ord(name) % 2]))
            book.scheduler.request(each)
        else:
            wanting.pop(name, None)
            book.scheduler.withdraw(name)
        book.hand_out()
        holding = {each for each in wanting if book.scheduler.holds_slot(each)}
        hosts = [wanting[each].host for each in holding]
        assert len(holding) <= slots
        assert per_host is None or all(hosts.count(host) <= per_host for host in hosts)
        if len(holding) < slots:
            waiting = [each for name, each in wanting.items() if name not in holding]
            assert all(per_host is not None and hosts.count(each.host) >= per_host for each in waiting)


@pytest.mark.parametrize("direction", ["download", "upload"])
def test_counts_tell_slots_and_line(direction):
    book = Book(1)
    book.ask(demand("a", 1, direction=direction), demand("b", 2, direction=direction))
    assert book.scheduler.counts(direction) == (1, 1)
