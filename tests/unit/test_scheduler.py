"""Slots: who gets one, and when a held host lets one task try first."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meowcat.core.retry import FREE, hold, may_start, probe_over
from meowcat.runtime.scheduler import REMEMBERED_MS, Demand, Scheduler


def demand(
    name: str, order: int, *, host: str = "h", priority: int = 0, direction: str = "download"
) -> Demand:
    return Demand(-priority, order, name, direction, host)


class Book:
    """A scheduler, and whom it has granted slots."""

    def __init__(self, slots: int = 2, per_host: int | None = None) -> None:
        self.granted: list[str] = []
        self.windows: dict[str, int] = {}
        self.scheduler = Scheduler(
            {"download": slots, "upload": slots}, per_host, self.granted.append, self.windows.get
        )

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


def test_a_held_host_that_nobody_has_to_do_with_any_more_is_forgotten():
    book = Book(1)
    for name in ("left", "waited-for", "free"):
        book.scheduler.hold_host(name, 100)
    book.ask(demand("a", 1, host="waited-for"), now=100)
    book.ask(demand("b", 2, host="waited-for"), now=100)
    book.hand_out(100 + REMEMBERED_MS - 1)
    assert set(book.scheduler.hosts()) == {"left", "waited-for", "free"}
    book.scheduler.hold_host("free", 500 + REMEMBERED_MS)
    book.hand_out(100 + REMEMBERED_MS)
    assert set(book.scheduler.hosts()) == {"waited-for", "free"}
    book.scheduler.withdraw("a")
    book.scheduler.withdraw("b")
    book.hand_out(500 + 2 * REMEMBERED_MS - 1)
    assert book.scheduler.hosts() == ("free",)  # it is looked at as long after its own end
    book.hand_out(500 + 2 * REMEMBERED_MS)
    assert book.scheduler.hosts() == ()


def test_a_silent_host_is_forgotten_only_when_nobody_has_to_do_with_it_any_more():
    book = Book(3)
    book.ask(demand("a", 1))
    book.scheduler.note_silent("a", silent=True, now=50)
    assert book.ask(demand("b", 2), now=50 + REMEMBERED_MS) == [], (
        "it is one at a time as long as anybody is there"
    )
    book.scheduler.withdraw("a")
    book.scheduler.withdraw("b")
    assert book.ask(demand("a", 1), demand("b", 2), now=100 + REMEMBERED_MS) == ["a"], (
        "who comes back soon, too"
    )
    book.scheduler.withdraw("a")
    book.scheduler.withdraw("b")
    book.hand_out(50 + 2 * REMEMBERED_MS - 1)
    assert not book.scheduler.calm
    book.hand_out(50 + 2 * REMEMBERED_MS)
    assert book.scheduler.calm
    assert book.ask(demand("a", 1), demand("b", 2), now=51 + 2 * REMEMBERED_MS) == ["a", "b"]


def test_a_host_that_speaks_and_falls_silent_again_is_remembered_from_then_on():
    book = Book(3)
    book.ask(demand("a", 1))
    book.scheduler.note_silent("a", silent=True, now=0)
    book.scheduler.note_silent("a", silent=False, now=10)
    book.scheduler.note_silent("a", silent=True, now=20)
    book.scheduler.withdraw("a")
    book.hand_out(REMEMBERED_MS)
    assert not book.scheduler.calm
    book.hand_out(20 + REMEMBERED_MS)
    assert book.scheduler.calm


def test_one_that_leaves_for_another_held_host_lets_the_first_be_tried():
    book = Book(3)
    book.scheduler.hold_host("h", 100)
    book.scheduler.hold_host("g", 100)
    assert book.ask(demand("a", 1), demand("b", 2), now=100) == ["a"]
    book.scheduler.request(demand("a", 1, host="g"))
    assert book.scheduler.untried() == ["h"]
    assert book.scheduler.may_send("a", "g", 100)
    assert book.hand_out(101) == ["b"]


def test_a_hold_is_never_shortened():
    book = Book()
    book.scheduler.hold_host("h", 100)
    book.scheduler.hold_host("h", 50)
    assert book.ask(demand("a", 1), now=99) == []


def test_a_hold_that_is_lifted_ends_with_one_that_tries():
    book = Book()
    assert not book.scheduler.lift_hold("h", 10)
    book.scheduler.hold_host("h", 100)
    assert book.ask(demand("a", 1), demand("b", 2), now=40) == []
    assert book.scheduler.lift_hold("h", 50)
    assert book.hand_out(50) == ["a"]
    assert not book.scheduler.lift_hold("h", 60)
    assert not book.scheduler.may_send("b", "h", 60), "it is being tried"
    book.scheduler.hold_host("h", 200)
    assert not book.scheduler.may_send("a", "h", 100)


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


def test_a_newer_demand_takes_the_place_of_the_one_before():
    book = Book(1)
    book.ask(demand("a", 1), demand("b", 2), demand("c", 3))
    book.scheduler.request(demand("c", 3, priority=1))
    book.scheduler.withdraw("a")
    assert book.hand_out() == ["c"]
    assert book.scheduler.counts("download") == (1, 1)


def test_a_window_bounds_the_tasks_of_its_host_until_it_is_wider():
    book = Book(3)
    book.windows["h"] = 1
    assert book.ask(demand("a", 1), demand("b", 2), demand("c", 3, host="other")) == ["a", "c"]
    book.windows["h"] = 2
    book.scheduler.widened("h")
    assert book.hand_out() == ["b"]


def test_a_host_that_falls_silent_holds_up_no_other():
    book = Book(2)
    others = [demand(f"o{n}", 10 + n, host="other") for n in range(4)]
    assert book.ask(*(demand(name, n) for n, name in enumerate("abcd")), *others) == ["a", "b"]
    for name in "ab":
        book.scheduler.note_silent(name, silent=True, now=0)
    assert book.hand_out() == ["o0", "o1"]  # and none of those that wait for the silent host
    book.scheduler.withdraw("a")
    assert book.hand_out() == []  # b is at it still
    book.scheduler.withdraw("b")
    assert book.hand_out() == []  # two are at work, and nothing is lent any more
    book.scheduler.withdraw("o0")
    book.scheduler.withdraw("o1")
    assert book.hand_out() == ["c", "o2"]  # one at a time
    book.scheduler.brought("h")
    book.scheduler.withdraw("o2")
    assert book.hand_out() == ["d"]


def test_slots_are_lent_once_only():
    book = Book(1)
    names = "abcd"
    book.ask(*(demand(name, n, host=name) for n, name in enumerate(names)))
    for name in names:
        book.scheduler.note_silent(name, silent=True, now=0)
        book.hand_out()
    assert book.granted == ["a", "b"]


def test_who_moves_again_has_its_slot_back():
    book = Book(1)
    book.ask(demand("a", 1), demand("b", 2, host="other"), demand("c", 3, host="third"))
    book.scheduler.note_silent("a", silent=True, now=0)
    assert book.hand_out() == ["b"]
    book.scheduler.note_silent("a", silent=False, now=0)
    book.scheduler.withdraw("b")
    assert book.hand_out() == []
    book.scheduler.withdraw("a")
    assert book.hand_out() == ["c"]


def test_a_full_host_with_a_long_line_is_looked_at_once(monkeypatch):
    book = Book(2, per_host=1)
    looks = []
    has_room = Scheduler._has_room
    monkeypatch.setattr(Scheduler, "_has_room", lambda *args: looks.append(1) or has_room(*args))
    book.ask(*(demand(f"a{n}", n) for n in range(10_000)))
    for n in range(50):
        assert book.ask(demand(f"b{n}", 20_000 + n, host="other")) == [f"b{n}"]
        book.scheduler.withdraw(f"b{n}")
    assert len(looks) <= 55


def test_who_leaves_a_long_line_leaves_nothing_behind():
    book = Book(1)
    book.ask(*(demand(f"t{n}", n) for n in range(5000)))
    for n in range(1, 4990):
        book.scheduler.withdraw(f"t{n}")
    line = book.scheduler._hosts["h"].lines["download"]
    assert len(line.places) < 200
    for n in range(4990, 5000):
        book.scheduler.withdraw(f"t{n}")
    book.scheduler.withdraw("t0")
    assert book.scheduler.hosts() == ()


class Naive:
    """The same rules, by going through everything each time."""

    def __init__(self, slots, per_host, windows):
        self.slots, self.per_host, self.windows = slots, per_host, windows
        self.waiting, self.working, self.holds = {}, {}, {}
        self.silent, self.stalled = set(), set()

    def withdraw(self, task):
        for host, (held, probe) in self.holds.items():
            if probe == task:
                self.holds[host] = probe_over(held, answered=False), None
        self.waiting.pop(task, None)
        self.working.pop(task, None)
        self.silent.discard(task)

    def request(self, each):
        before = self.working.get(each.task)
        if before is None:
            self.waiting[each.task] = each
        elif before.host != each.host:
            self.working[each.task] = each
            self.silent.discard(each.task)

    def hold_host(self, host, until):
        self.holds[host] = hold(self.holds.get(host, (FREE, None))[0], until), None

    def release_host(self, host, task, now):
        held = self.holds.get(host)
        if held is not None and (held[1] == task or now >= held[0].until):
            del self.holds[host]

    def may_send(self, task, host, now):
        held, probe = self.holds.get(host, (FREE, None))
        if host not in self.holds or probe == task:
            return True
        start = may_start(held, now)
        self.holds[host] = start.hold, task if start.probe else probe
        return start.allowed

    def has_room(self, each, now):
        there = [task for task, other in self.working.items() if other.host == each.host]
        bounds = [bound for bound in (self.per_host, self.windows.get(each.host)) if bound is not None]
        if there and each.host in self.stalled:
            return False
        if any(len(there) >= bound for bound in bounds):
            return False
        return self.may_send(each.task, each.host, now)

    def grant(self, now):
        granted = []
        for direction, slots in self.slots.items():
            for each in sorted(self.waiting.values()):
                if each.direction != direction:
                    continue
                working = [task for task, other in self.working.items() if other.direction == direction]
                lent = min(len(self.silent & set(working)), slots)
                if len(working) - lent < slots and self.has_room(each, now):
                    del self.waiting[each.task]
                    self.working[each.task] = each
                    granted.append(each.task)
        return granted


TASKS = st.sampled_from([f"t{n}" for n in range(12)])
HOSTS = st.sampled_from("xyz")
DIRECTIONS = ["download", "download", "download", "upload"]


class Both(RuleBasedStateMachine):
    """The scheduler grants what the naive one does, in the same order, whatever happens."""

    def __init__(self):
        super().__init__()
        self.now = 0
        self.windows = {}
        self.granted = []
        slots = {"download": 2, "upload": 1}
        self.fast = Scheduler(slots, 2, self.granted.append, self.windows.get)
        self.naive = Naive(slots, 2, self.windows)

    @rule(
        several=st.lists(
            st.tuples(TASKS, HOSTS, st.integers(-1, 1), st.integers(0, 9), st.sampled_from(DIRECTIONS)),
            min_size=1,
            max_size=6,
        )
    )
    def request(self, several):
        for task, host, priority, turn, direction in several:
            known = self.naive.working.get(task) or self.naive.waiting.get(task)
            order = 100 * turn + int(task[1:])  # no two tasks have the same
            each = Demand(-priority, order, task, known.direction if known else direction, host)
            self.fast.request(each)
            self.naive.request(each)

    @rule(task=TASKS)
    def withdraw(self, task):
        self.fast.withdraw(task)
        self.naive.withdraw(task)

    @rule(host=HOSTS, delay=st.integers(0, 5))
    def hold_host(self, host, delay):
        self.fast.hold_host(host, self.now + delay)
        self.naive.hold_host(host, self.now + delay)

    @rule(task=TASKS)
    def answer(self, task):
        if task in self.naive.working:
            host = self.naive.working[task].host
            self.fast.release_host(host, task, self.now)
            self.naive.release_host(host, task, self.now)

    @rule(task=TASKS)
    def go_on(self, task):
        if task in self.naive.working:
            host = self.naive.working[task].host
            assert self.fast.may_send(task, host, self.now) == self.naive.may_send(task, host, self.now)

    @rule(task=TASKS)
    def fall_silent(self, task):
        self.fast.note_silent(task, silent=True, now=self.now)
        if task in self.naive.working:
            self.naive.silent.add(task)
            host = self.naive.working[task].host
            there = {task for task, each in self.naive.working.items() if each.host == host}
            if self.naive.silent >= there:
                self.naive.stalled.add(host)

    @rule(task=TASKS)
    def speak(self, task):
        self.fast.note_silent(task, silent=False, now=self.now)
        if task in self.naive.silent:
            self.naive.silent.remove(task)
            self.naive.stalled.discard(self.naive.working[task].host)

    @rule(host=HOSTS)
    def bring(self, host):
        self.fast.brought(host)
        self.naive.stalled.discard(host)

    @rule(host=HOSTS, window=st.none() | st.integers(1, 2))
    def adapt(self, host, window):
        before = self.windows.get(host)
        if window is None:
            self.windows.pop(host, None)
        else:
            self.windows[host] = window
        if before is not None and (window is None or window > before):
            self.fast.widened(host)

    @rule(seconds=st.integers(1, 6))
    def wait(self, seconds):
        self.now += seconds

    @rule()
    def grant(self):
        self.granted.clear()
        self.fast.grant(self.now)
        assert self.granted == self.naive.grant(self.now)

    @invariant()
    def they_agree(self):
        assert set(self.fast.working) == set(self.naive.working)
        for direction in ("download", "upload"):
            assert self.fast.counts(direction) == (
                sum(each.direction == direction for each in self.naive.working.values()),
                sum(each.direction == direction for each in self.naive.waiting.values()),
            )
        for host in "xyz":
            assert (self.fast.held_until(host) is not None) == (host in self.naive.holds)


TestBoth = Both.TestCase
TestBoth.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
