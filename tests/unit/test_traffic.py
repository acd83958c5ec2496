"""Requests by host: whose turn it is, what a host is given, and where nothing comes."""

import gc

import anyio
import pytest

from meowcat.core.pacing import WIDEN_MS
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.contract import Refused
from meowcat.runtime.limits import Budget
from meowcat.runtime.traffic import REMEMBERED_MS, SILENCE, Traffic

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


BUSY = Refused(Fault(kind=FaultKind.STATUS, detail="busy", status=503))
GONE = Refused(Fault(kind=FaultKind.STATUS, detail="gone", status=404))


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Road:
    """Some requests to one host or another, begun and ended by hand."""

    def __init__(self, group, *, most=64, requests=64, **limits):
        self.time = Time()
        self.traffic = Traffic(Budget(requests, 1 << 20), most, self.time, **limits)
        self.shares = {}
        self.begun = []
        self._ends = {}
        self._group = group

    def share(self, host="h", task="t"):
        if (task, host) not in self.shares:
            self.shares[task, host] = self.traffic.share(task, host, None)
        return self.shares[task, host]

    async def ask(self, *names, host="h", task="t"):
        for name in names:
            self._ends[name] = [anyio.Event(), None, anyio.CancelScope()]
            self._group.start_soon(self._request, name, self.share(host, task))
            await anyio.wait_all_tasks_blocked()
        return self

    async def _request(self, name, share):
        end = self._ends[name]
        with end[2]:
            try:
                async with share.turn():
                    self.begun.append(name)
                    await end[0].wait()
                    if end[1] is not None:
                        raise end[1]
            except Refused:
                pass

    async def end(self, *names, error=None):
        for name in names:
            self._ends[name][1] = error
            self._ends[name][0].set()
            await anyio.wait_all_tasks_blocked()

    async def leave(self, name):
        self._ends[name][2].cancel()
        await anyio.wait_all_tasks_blocked()


@pytest.fixture
async def group():
    async with anyio.create_task_group() as group:
        yield group
        group.cancel_scope.cancel()


async def test_a_host_that_gets_too_much_is_given_half_once_for_all_that_were_under_way(group):
    road = Road(group)
    await road.ask(*"abcdefgh")
    await road.end(*"abc", error=BUSY)
    assert road.traffic.window("h") == 4
    await road.ask(*"ijk")
    assert road.begun == [*"abcdefgh"]  # five are under way still
    await road.end(*"de")
    assert road.begun[8:] == ["i"]
    await road.end("i", error=BUSY)  # it began after that
    assert road.traffic.window("h") == 2
    await road.end("f", error=BUSY)  # it did not
    assert road.traffic.window("h") == 2


async def test_other_failures_say_nothing_of_that(group):
    road = Road(group)
    await road.ask(*"abcd")
    await road.end("a", error=GONE)
    await road.leave("b")
    assert road.traffic.window("h") is None


async def test_good_answers_give_a_host_one_more_at_a_time_until_nothing_is_left_of_it(group):
    road, wider = Road(group, most=4), []
    road.traffic.widened = wider.append
    await road.ask("a", "b")
    await road.end("a", error=BUSY)
    assert road.traffic.window("h") == 1
    await road.end("b")
    await road.ask(*"cdefgh")
    assert road.begun[2:] == ["c"]
    road.time.now += WIDEN_MS / 1000
    await road.end("c")
    assert (len(road.begun), road.traffic.window("h")) == (5, 2)
    await road.end("d", "e")  # quickly
    assert (len(road.begun), road.traffic.window("h")) == (7, 2)
    road.time.now += WIDEN_MS / 1000
    await road.end("f")
    assert (len(road.begun), road.traffic.window("h")) == (8, 3)
    await road.ask(*"ijk")
    road.time.now += WIDEN_MS / 1000
    await road.end("g", "h", "i")
    assert road.traffic.window("h") is None  # as many as there may be at all
    assert wider == ["h"] * 3
    assert road.traffic.narrow() == ()


async def test_windows_of_hosts_that_nobody_asks_any_more_are_forgotten_where_there_are_many(
    group, monkeypatch
):
    monkeypatch.setattr("meowcat.runtime.traffic.MOST_KEPT", 2)
    road = Road(group)
    await road.ask("stays", host="0")
    for host in "012":
        await road.ask(host, host=host)
        await road.end(host, error=BUSY)
    assert len(road.traffic.narrow()) == 3  # they are not old
    road.time.now += REMEMBERED_MS / 1000 + 1
    for host in "3456":
        await road.ask(host, host=host)
        await road.end(host, error=BUSY)
    assert set(road.traffic.narrow()) == {*"03456"}  # one of the old ones is asked for something
    await road.ask("again", host="1")
    await road.end("again")
    assert road.traffic.window("1") is None


async def test_what_waits_for_one_host_takes_nothing_from_another(group):
    road = Road(group, requests=2)
    road.traffic.allowed = {"h": 0}.get
    await road.ask(*"abcd")
    await road.ask("x", "y", "z", host="other")
    assert road.begun == ["x", "y"]


async def test_a_held_host_gets_nothing_and_then_one_request_at_a_time(group):
    allowed = {"h": 0}
    road = Road(group)
    road.traffic.allowed = allowed.get
    await road.ask(*"abc")
    assert road.begun == []
    allowed["h"] = 1
    road.traffic.reopened("h")
    await anyio.wait_all_tasks_blocked()
    assert road.begun == ["a"]
    await road.end("a")
    assert road.begun == ["a", "b"]
    del allowed["h"]
    road.traffic.reopened("h")
    await anyio.wait_all_tasks_blocked()
    assert road.begun == ["a", "b", "c"]


async def test_who_leaves_the_line_or_its_turn_holds_up_nobody(group):
    road = Road(group)
    road.traffic.allowed = {"h": 1}.get
    await road.ask(*"abcd")
    await road.leave("b")
    await road.leave("a")
    assert road.begun == ["a", "c"]
    await road.end("c")
    assert road.begun == ["a", "c", "d"]


async def test_a_close_lets_everybody_go(group):
    road = Road(group)
    road.traffic.allowed = {"h": 0}.get
    await road.ask(*"ab")
    road.traffic.close()
    await anyio.wait_all_tasks_blocked()
    assert {*road.begun} == {"a", "b"}


async def test_a_task_is_silent_while_its_host_lets_it_wait(group):
    road = Road(group)
    assert not road.traffic.silent("t")
    await road.ask("a")
    road.time.now += SILENCE - 0.1
    assert not road.traffic.silent("t")
    road.time.now += 0.1
    assert road.traffic.silent("t")
    await road.share().acquire(100)
    assert not road.traffic.silent("t")
    road.time.now += SILENCE
    assert road.share().spend(100)() == 0
    assert not road.traffic.silent("t")
    await road.end("a")
    road.time.now += SILENCE
    assert not road.traffic.silent("t")  # it asks for nothing: it works on what it has


async def test_a_task_that_waits_for_its_own_limit_is_not_silent(group):
    road = Road(group, limit_rate=1)
    await road.ask("a")
    group.start_soon(road.share().acquire, 1000)
    await anyio.wait_all_tasks_blocked()
    road.time.now += 2 * SILENCE
    assert not road.traffic.silent("t")


async def test_a_task_whose_threads_rest_for_its_limit_is_not_silent(group):
    road = Road(group, limit_rate=10)
    await road.ask("a")
    assert road.share().spend(200)() == 20
    assert road.share().spend(0)() == 0  # of another thread, which has asked for enough before
    for _ in range(4):
        road.time.now += SILENCE - 0.1
        assert not road.traffic.silent("t")
    road.time.now += SILENCE
    assert road.traffic.silent("t")


async def test_a_limit_that_was_lifted_excuses_no_silence(group):
    road = Road(group, limit_rate=10)
    await road.ask("a")
    road.share().spend(2000)
    assert not road.traffic.silent("t")
    road.traffic.limit(None)
    road.time.now += SILENCE
    assert road.traffic.silent("t")


async def test_a_task_that_waits_for_the_engines_bound_is_not_silent(group):
    road = Road(group, requests=1)
    await road.ask("x", host="other", task="o")
    await road.ask("a")
    road.time.now += 2 * SILENCE
    assert (road.traffic.silent("o"), road.traffic.silent("t")) == (True, False)


async def test_limits_of_a_host_are_its_own_or_those_of_each(group):
    traffic = Road(group, limit_rate=1000, limit_rate_per_host=100).traffic
    one, other = traffic.share("a", "one", None), traffic.share("b", "other", 50)
    assert (one.rate, other.rate) == (100, 50)
    traffic.limit_host("one", 10)
    traffic.limit_task("b", None)
    assert (one.rate, other.rate) == (10, 100)
    traffic.limit_host("one", None)
    traffic.limit(500)
    assert (one.rate, other.rate) == (500, 100)
    traffic.limit_host("later", 7)
    assert traffic.share("c", "later", None).rate == 7


async def test_nothing_is_kept_of_hosts_that_nobody_works_on(group):
    traffic = Road(group).traffic
    for number in range(100):
        traffic.share(f"t{number}", f"h{number}", None)
    gc.collect()
    assert len(traffic._gates) == len(traffic._shares) == 0
