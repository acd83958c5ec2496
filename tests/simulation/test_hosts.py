"""Hosts that stall, refuse or ask for a rest, and limits, where waiting takes no time and is exact."""

from email.utils import formatdate
from itertools import pairwise
from urllib.parse import urlsplit

import anyio
import pytest

import meowcat
from meowcat.core.events import Supplied
from meowcat.runtime.reconcile import Reconciler
from meowcat.testing.content import Content
from meowcat.testing.depot import DepotUpload
from meowcat.testing.exchanges import Trouble
from meowcat.testing.world import World
from meowcat.transport.contract import Timeouts

MIB = 1 << 20


class Exchange:
    """Another one, that is told of; with a wait before its reply."""

    def __init__(self, wire, inner, url):
        self.wire, self.inner, self.url = wire, inner, url
        self.begun, self.ended, self.status = None, None, None

    async def __aenter__(self):
        self.begun = self.wire.world.now
        self.wire.exchanges.append(self)
        try:
            await anyio.sleep(self.wire.delay(self.url))
            reply = await self.inner.__aenter__()
        except BaseException:  # raised again: whatever ended it, it is over
            self.ended = self.wire.world.now
            raise
        self.status = reply.status
        return reply

    async def __aexit__(self, *exc):
        self.ended = self.wire.world.now
        await self.inner.__aexit__(*exc)

    async def dead(self):
        await self.inner.dead()


class Wire:
    """The world's network, with an ear on it."""

    def __init__(self, world, delay=lambda url: 0.0, **timeouts):
        self.world, self.delay = world, delay
        self.inner = world.transport(Timeouts(**timeouts))
        self.exchanges = []

    def send(self, request):
        return Exchange(self, self.inner.send(request), request.url)

    async def aclose(self):
        await self.inner.aclose()

    def of(self, host):
        return [each for each in self.exchanges if urlsplit(each.url).netloc == host]

    def under_way(self, host):
        """How many requests are under way to the host."""
        return sum(each.ended is None for each in self.of(host))


def made(seed=0, **contents):
    """A world in which each named host serves so many contents of so many bytes."""
    world = World(seed)
    for host, (count, size) in contents.items():
        for number in range(count):
            world.server.serve(f"https://{host}/{number}", Content(size, seed=number))
    return world


def requests(host, count, **options):
    return [
        meowcat.Download(f"https://{host}/{number}", f"/data/{host}-{number}", **options)
        for number in range(count)
    ]


def config(**options):
    base = {"durability": "process", "piece_size": 65_536, "flush_seconds": 0.01, "read_timeout": 30}
    return meowcat.Config(**(base | options))


async def done_at(world, engine, tasks):
    """When each of the tasks came to its end."""
    ends = {}

    async def watch(task):
        handle = await engine.task(task)
        try:
            await handle.result()
        except meowcat.TransferFailed:
            pass
        ends[task] = world.now

    async with anyio.create_task_group() as group:
        for task in tasks:
            group.start_soon(watch, task)
    return [ends[task] for task in tasks]


def brought(world, host):
    """The finished files from the host."""
    return [name for name in world.disk.names("/data") if name.startswith(host) and name.count(".") == 0]


# Stalled hosts


@pytest.mark.parametrize("where", ["head", "body"])
def test_a_host_that_stalls_holds_up_no_other(where):
    trouble = Trouble(before="stall") if where == "head" else Trouble(after=1000, then="stall")
    world = made(stuck=(12, MIB), good=(12, 100_000))
    world.server.script = lambda seen: trouble if seen.headers["host"] == "stuck" else None

    async def work(world):
        async with world.engine(config=config(max_downloads=2, retries=1)) as engine:
            stuck = await engine.submit_many(requests("stuck", 12))
            good = await engine.submit_many(requests("good", 12))
            ends = await done_at(world, engine, good + stuck)
            return ends[:12], ends[12:]

    good, stuck = world.run(work)
    # Five seconds until the first two are known to be silent, and no more than that of each later one.
    assert max(good) < 8
    assert min(stuck) > 30
    assert len(brought(world, "good")) == 12


def test_at_a_host_that_stalls_there_is_one_attempt_at_a_time():
    world = made(stuck=(8, MIB), good=(1, 100_000))
    world.server.script = lambda seen: Trouble(before="stall") if seen.headers["host"] == "stuck" else None
    wire = Wire(world, read=30)

    async def work(world):
        async with world.engine(config=config(max_downloads=2, retries=0), http_client=wire) as engine:
            await engine.submit_many(requests("stuck", 8))
            await engine.drain()

    world.run(work)
    begun = [each.begun for each in wire.of("stuck")]
    # Two begin at once, as nothing is known of the host. Then each waits for the last one's time-out.
    assert begun[1] - begun[0] < 1
    assert all(later - earlier > 29 for earlier, later in pairwise(begun[1:]))


def test_who_is_slow_to_answer_goes_on_where_its_slot_was_lent():
    world = made(slow=(2, MIB), good=(10, 100_000))
    wire = Wire(world, lambda url: 20.0 if "slow" in url else 0.0, read=30)

    async def work(world):
        async with world.engine(config=config(max_downloads=2), http_client=wire) as engine:
            slow = await engine.submit_many(requests("slow", 2))
            good = await engine.submit_many(requests("good", 10))
            await anyio.sleep(7)
            glance = await engine.snapshot()
            ends = await done_at(world, engine, slow + good)
            return glance, ends[:2], ends[2:]

    glance, slow, good = world.run(work)
    assert (glance.hosts["https://slow:443"].active, glance.hosts["https://slow:443"].silent) == (2, 2)
    assert max(good) < 10
    assert all(each.status == 206 for each in wire.exchanges)
    assert min(slow) > 20
    assert max(slow) < 62  # three waits of 20 s: the head, the rest of it, and nothing twice


def test_a_slot_is_lent_no_longer_than_nothing_comes():
    world = made(slow=(2, MIB), good=(2, 100_000), later=(4, 100_000))
    rates = {"slow": 20_000, "good": 50_000, "later": 50_000}
    world.server.script = lambda seen: Trouble(rate=rates[seen.headers["host"]])
    first = {"https://slow/0", "https://slow/1"}

    def delay(url):
        """Both of them are silent for a while, and slow from then on."""
        waits = url in first
        first.discard(url)
        return 10.0 if waits else 0.0

    async def work(world):
        wire = Wire(world, delay, read=30)
        async with world.engine(config=config(max_downloads=2), http_client=wire) as engine:
            slow = await engine.submit_many(requests("slow", 2))
            await done_at(world, engine, await engine.submit_many(requests("good", 2)))
            await anyio.sleep(14 - world.now)
            later = await engine.submit_many(requests("later", 4))
            glance = await engine.snapshot()
            ends = await done_at(world, engine, slow + later)
            return glance, ends[:2], ends[2:]

    glance, slow, later = world.run(work)
    assert (glance.hosts["https://slow:443"].silent, glance.active_downloads) == (0, 2)
    assert max(slow) > 15
    assert min(later) > min(slow)


# Rests


def asks_for_rest(world, form, seconds=60):
    """The fields of a reply that asks to come again after so long."""
    if form == "seconds":
        return (("Retry-After", str(seconds)),)
    now = world.wall() / 1000
    return (("Date", formatdate(now, usegmt=True)), ("Retry-After", formatdate(now + seconds, usegmt=True)))


@pytest.mark.parametrize("form", ["seconds", "date"])
@pytest.mark.parametrize("direction", ["download", "upload"])
@pytest.mark.parametrize("status", [429, 503])
def test_a_rest_is_kept_by_everybody_and_then_tried_by_one(form, direction, status):
    world = made(host=(8, 300_000), other=(3, 1000))
    world.server.depot("https://host/up/")
    told = []

    def script(seen):
        """The third request is told to come again after a minute."""
        at_host = [each for each in world.server.requests if each.headers["host"] == "host"]
        if seen.headers["host"] != "host" or len(at_host) != 3:
            return None
        told.append(world.now)
        return Trouble(status=status, headers=asks_for_rest(world, form))

    world.server.script = script
    wire = Wire(world, lambda url: 0.2 if told else 0.0, read=30)

    async def work(world):
        async with world.engine(config=config(max_downloads=4, max_uploads=4), http_client=wire) as engine:
            if direction == "download":
                await engine.submit_many(requests("host", 8))
            else:
                for number in range(8):
                    world.disk.put(f"/data/source{number}", bytes(300_000))
                    source, url = f"/data/source{number}", f"https://host/up/{number}"
                    await engine.submit(meowcat.Upload(source, url, DepotUpload(), piece_size=100_000))
            await anyio.sleep(1)
            glance = await engine.snapshot()
            others = await engine.submit_many(requests("other", 3))
            ends = await done_at(world, engine, others)
            await engine.drain()
            return glance, ends

    glance, others = world.run(work)
    known = told[0] + 0.1
    again = sorted(each.begun for each in wire.of("host") if each.begun > known)
    assert again[0] >= told[0] + 60 - (1 if form == "date" else 0)  # a date has whole seconds
    first = next(each for each in wire.of("host") if each.begun == again[0])
    assert [at for at in again if at < again[0] + 0.2] == again[:1]
    assert first.status in (200, 201, 206)
    assert max(others) < told[0] + 10
    assert told[0] * 1000 + 58_000 < glance.hosts["https://host:443"].held_until - (
        world.wall() - world.now * 1000
    )
    done = (
        brought(world, "host") if direction == "download" else world.server.depot("https://host/up/").objects
    )
    assert len(done) == 8


def rests_for_a_day(world):
    """Each first two requests get a Retry-After of a day."""
    rest = Trouble(status=503, headers=(("Retry-After", "86400"),))
    return lambda _: rest if len(world.server.requests) <= 2 else None


@pytest.mark.parametrize(("options", "longest"), [({}, 3600), ({"max_retry_after": 60}, 60)])
def test_a_rest_is_granted_for_no_longer_than_it_is_to_be(options, longest):
    world = made(host=(3, 1000))
    world.server.script = rests_for_a_day(world)
    wire = Wire(world, read=30)

    async def work(world):
        async with world.engine(config=config(max_downloads=1, **options), http_client=wire) as engine:
            return await done_at(world, engine, await engine.submit_many(requests("host", 3)))

    ends = world.run(work)
    first, second, third, *_ = sorted(each.begun for each in wire.of("host"))
    assert first + longest <= second < first + longest + 1
    assert second + longest <= third < second + longest + 1
    assert max(ends) < third + 5


@pytest.mark.parametrize("how", ["resume", "pause and resume", "pause and resume all"])
def test_who_resumes_a_task_has_a_host_that_asked_for_rest_tried_at_once(how):
    world = made(host=(3, 1000))
    world.server.script = rests_for_a_day(world)
    wire = Wire(world, lambda _: 0.5, read=30)

    async def again(engine, task):
        if how == "resume":
            await task.resume()
        else:
            await task.pause()
            await (task.resume() if how == "pause and resume" else engine.resume_many())

    async def work(world):
        async with world.engine(config=config(max_downloads=3), http_client=wire) as engine:
            ids = await engine.submit_many(requests("host", 1))
            await anyio.sleep(5)
            ids += await engine.submit_many(requests("host", 3)[1:])
            task = await engine.task(ids[0])
            await again(engine, task)
            await anyio.sleep(5)
            assert len(wire.of("host")) == 2, "one tries it, and the rest holds again"
            assert task.info.waiting_for, "the one that was resumed has tried it"
            await again(engine, task)
            await engine.drain()
            return world.now

    assert world.run(work) < 15
    assert len(brought(world, "host")) == 3


@pytest.mark.parametrize("how", ["pause", "cancel", "supply"])
def test_when_the_task_that_tries_a_host_is_stopped_another_one_at_work_tries_it(how):
    world = made(busy=(4, 200_000), other=(1, 30 * MIB))
    wire = Wire(world, read=3600)

    def script(seen):
        if seen.headers["host"] == "other":
            return Trouble(rate=10_000)
        number = sum(each.headers["host"] == "busy" for each in world.server.requests)
        if number == 1:
            return Trouble(status=503, headers=(("Retry-After", "60"),))
        return Trouble(before="stall") if number == 5 else None

    world.server.script = script

    async def work(world):
        async with world.engine(config=config(max_downloads=4), http_client=wire) as engine:
            ids = await engine.submit_many(requests("busy", 4))
            await anyio.sleep(61)
            (trying,) = [each.url for each in wire.exchanges if each.ended is None]
            task = ids[int(trying.rpartition("/")[2])]
            if how == "supply":
                await engine.supply(task, url="https://other/0")
            else:
                await getattr(engine, how)(task)
            await done_at(world, engine, [each for each in ids if each != task])
            return world.now

    assert world.run(work) < 65


def test_what_is_owed_to_a_held_host_waits_as_well_and_is_tried_by_one():
    world = made(host=(3, 300_000))
    depot = world.server.depot("https://host/up/")
    wire = Wire(world, lambda _: 0.2, read=30)

    async def work(world):
        async with world.engine(config=config(max_uploads=3, limit_rate=100_000), http_client=wire) as engine:
            uploads = []
            for number in range(3):
                world.disk.put(f"/data/source{number}", bytes(300_000))
                source, url = f"/data/source{number}", f"https://host/up/{number}"
                request = meowcat.Upload(source, url, DepotUpload(), piece_size=100_000, connections=1)
                uploads.append(await engine.submit(request))
            await anyio.sleep(2)
            assert len(depot.uploads) == 3
            world.server.script = [Trouble(status=503, headers=(("Retry-After", "60"),))]
            await engine.submit(requests("host", 1)[0])
            await anyio.sleep(1)
            held = world.now
            for upload in uploads:
                await upload.cancel()
            await engine.drain()
            await engine.abort_orphans()
            assert depot.uploads == {}
            return held

    held = world.run(work)
    later = sorted((each.begun, each.ended) for each in wire.of("host") if each.begun > held)
    assert later[0][0] > held + 55
    assert {each.url.partition("=")[2] for each in wire.of("host") if "upload=" in each.url} >= {
        "u1",
        "u2",
        "u3",
    }
    assert later[1][0] >= later[0][1]  # the first one is the trial


def test_an_upload_of_one_request_is_an_answer_as_well():
    world = World()
    depot = world.server.depot("https://host/up/")
    refused = Trouble(status=503, headers=(("Retry-After", "60"),))
    world.server.script = lambda _: refused if len(world.server.requests) <= 8 else None
    wire = Wire(world, lambda _: 1.0, read=30)

    async def work(world):
        async with world.engine(config=config(max_uploads=8), http_client=wire) as engine:
            for number in range(8):
                world.disk.put(f"/data/source{number}", bytes(1000))
                source, url = f"/data/source{number}", f"https://host/up/{number}"
                await engine.submit(meowcat.Upload(source, url, DepotUpload(session=False)))
            await engine.drain()
            return world.now, (await engine.snapshot()).hosts["https://host:443"].held_until

    end, held_until = world.run(work)
    assert len(depot.objects) == 8
    assert end < 70  # each is asked about, and sent: one after the other that is more than 75
    assert held_until is None


def test_what_is_told_to_a_waiting_task_makes_its_wait_look_no_longer():
    world = made(host=(1, 1000))
    world.server.script = [Trouble(status=503, headers=(("Retry-After", "60"),))]

    async def work(world):
        async with world.engine(config=config()) as engine:
            (task,) = await engine.submit_many(requests("host", 1))
            await anyio.sleep(30)
            before = engine._runtime.reconciler.wakes()
            await engine.set_limit_rate(1000, task=task)
            told = engine._runtime.reconciler.wakes()
            await engine.drain()
            return before, told, world.now

    before, told, end = world.run(work)
    assert told == before != {}
    assert end < 61.5  # a second for 1,000 bytes, and none for what is not there


# Requests at once


class Strict:
    """A host that answers 429 to whatever is more than `most` at once."""

    def __init__(self, most):
        self.most = most
        self.refused = []

    def bind(self, world, wire):
        def script(seen):
            if seen.headers["host"] == "host" and wire.under_way("host") > self.most:
                self.refused.append(world.now)
                return Trouble(status=429)
            return None

        world.server.script = script


def test_a_host_that_refuses_is_given_less_and_more_again_once_it_takes_it():
    world = made(host=(300, 70_000))
    wire, strict = Wire(world, lambda _: 0.5, read=30), Strict(4)
    strict.bind(world, wire)

    async def work(world):
        options = {"max_downloads": 16, "retries": 20}
        async with world.engine(config=config(**options), http_client=wire) as engine:
            await engine.submit_many(requests("host", 300))
            await anyio.sleep(20)
            narrow = (await engine.snapshot()).hosts["https://host:443"]
            strict.most = 1000
            at = world.now
            await anyio.sleep(6)
            wide = (await engine.snapshot()).hosts["https://host:443"]
            await engine.drain()
            return narrow, wide, at

    narrow, wide, at = world.run(work)
    assert 1 <= narrow.most <= 5
    assert narrow.active <= 5
    assert wide.most >= narrow.most + 4
    assert wide.active >= 6
    early = [each for each in strict.refused if each < at]
    # Sixteen come at once; then one too many each time that one more was tried.
    assert len(early) <= 12 + 5 + 2 * at / 3
    assert len(brought(world, "host")) == 300


def test_a_host_that_refuses_costs_no_other_its_requests():
    world = made(host=(50, 200_000), other=(40, 1000))
    wire, strict = Wire(world, lambda _: 0.5, read=30), Strict(0)
    strict.bind(world, wire)

    async def work(world):
        options = {"max_downloads": 4, "retries": 3}
        async with world.engine(config=config(**options), http_client=wire) as engine:
            await engine.submit_many(requests("host", 50))
            others = await engine.submit_many(requests("other", 40))
            return await done_at(world, engine, others)

    # 40 files at half a second each, on the two or three slots that one request at a time leaves them.
    assert max(world.run(work)) < 25


# Limits


@pytest.mark.parametrize("direction", ["download", "upload"])
@pytest.mark.parametrize("kind", ["engine", "host", "task"])
@pytest.mark.parametrize("rate", [1_000_000, 20_000_000])
def test_a_limit_is_kept_exactly(direction, kind, rate):
    """10 s at 1 MB/s, and 1 s at 20 MB/s: what starts and ends it takes some milliseconds."""
    seconds = 10 if rate == 1_000_000 else 1
    size = rate * seconds // 2
    world = made(host=(2, size))
    world.server.depot("https://host/up/")
    options = {"engine": {"limit_rate": rate}, "host": {"limit_rate_per_host": rate}, "task": {}}[kind]
    own = {"limit_rate": rate // 2} if kind == "task" else {}

    async def work(world):
        async with world.engine(config=config(**options)) as engine:
            begun = world.now
            if direction == "download":
                await engine.submit_many(requests("host", 2, **own))
            else:
                for number in range(2):
                    world.disk.put(f"/data/source{number}", bytes(size))
                    source, url = f"/data/source{number}", f"https://host/up/{number}"
                    await engine.submit(meowcat.Upload(source, url, DepotUpload(), **own))
            await engine.drain()
            return 2 * size / (world.now - begun)

    assert world.run(work) == pytest.approx(rate, rel=0.03 if seconds == 10 else 0.15)


@pytest.mark.parametrize("rate", [500_000, 2_000_000])
def test_a_limit_is_kept_by_contents_that_come_at_once(rate):
    world = made(host=(rate // 10_000, 100_000))

    async def work(world):
        async with world.engine(config=config(limit_rate=rate)) as engine:
            begun = world.now
            await engine.submit_many(requests("host", rate // 10_000))
            await engine.drain()
            return world.now - begun

    assert world.run(work) == pytest.approx(10, rel=0.03)
    assert len(world.server.requests) == rate // 10_000


def test_whoever_sets_many_going_looks_at_no_host_that_is_not_held(monkeypatch):
    """That takes as long as it has tasks at work: for each of ten thousand it would be quadratic."""
    looks, nudge = [], Reconciler._nudge

    def counting(self, host):
        looks.append(host)
        nudge(self, host)

    async def work(world):
        async with world.engine(config=config(max_downloads=20)) as engine:
            await engine.submit_many(requests("host", 20), paused=True)
            monkeypatch.setattr(Reconciler, "_nudge", counting)
            await engine.resume_many()
            await engine.drain()

    made(host=(20, 1000)).run(work)
    assert looks == []


def test_what_did_not_come_is_no_burden_on_a_limit():
    world, asked = made(host=(100, 100_000)), set()

    def break_off(seen):
        first = seen.target not in asked
        asked.add(seen.target)
        return Trouble(after=1000, then="reset") if first else None

    world.server.script = break_off

    async def work(world):
        async with world.engine(config=config(limit_rate=2_000_000)) as engine:
            await engine.submit_many(requests("host", 100))
            await engine.drain()
            return world.now

    assert world.run(work) < 5.7, "5 s, and the first wait for another attempt"
    assert len(world.server.requests) == 200


@pytest.mark.parametrize("tasks", [1, 20])
@pytest.mark.parametrize("rate", [50_000, 5_000_000])
def test_a_limit_holds_from_the_first_second_however_many_connections_there_are(tasks, rate):
    world = made(host=(tasks, rate))

    async def work(world):
        limited = config(limit_rate=rate, max_downloads=tasks, connections=8)
        async with world.engine(config=limited) as engine:
            await engine.submit_many(requests("host", tasks))
            begun = world.now
            while world.server.bytes_served() < (rate if tasks == 1 else 10 * rate):
                await anyio.sleep(0.01)
                assert world.server.bytes_served() <= rate * (world.now - begun + 0.3)
            took = world.now - begun
            await engine.cancel_many()
            return took

    assert world.run(work) == pytest.approx(1 if tasks == 1 else 10, abs=0.3)


def test_limits_change_while_bytes_move_and_those_of_a_task_are_recorded():
    world = made(host=(1, 3_000_000), other=(1, 3_000_000))

    async def work(world):
        async with world.engine(config=config(limit_rate=100_000)) as engine:
            task = await engine.submit(requests("host", 1, connections=1)[0])
            await anyio.sleep(10)  # 1 MB
            first = world.server.bytes_served()
            await engine.set_limit_rate(None)
            await engine.set_limit_rate(50_000, host="https://host/anything")
            await anyio.sleep(10)  # 0.5 MB
            second = world.server.bytes_served()
            await task.set_limit_rate(150_000)
            await engine.set_limit_rate(None, host="https://host")
            await task.result()
            asked = len(world.server.requests)
            return first, second, world.now, asked

    first, second, end, asked = world.run(work)
    assert first == pytest.approx(1_000_000, rel=0.05)
    assert second - first == pytest.approx(500_000, rel=0.1)
    assert end == pytest.approx(30, rel=0.05)
    assert asked <= 2  # nothing was begun anew for that
    supplied = [each.event for each in world.history() if isinstance(each.event, Supplied)]
    assert [each.request.limit_rate for each in supplied] == [150_000]


def test_a_task_in_line_that_is_asked_for_again_with_a_higher_priority_goes_next():
    world = made(host=(4, MIB))
    world.server.script = lambda _: Trouble(rate=500_000)
    asked = requests("host", 4)
    urgent = meowcat.Download(asked[3].url, asked[3].to, priority=5)

    async def work(world):
        wire = Wire(world)
        async with world.engine(config=config(max_downloads=1), http_client=wire) as engine:
            tasks = await engine.submit_many(asked)
            assert (await engine.submit(urgent)).id == tasks[3]
            await engine.drain()
        return list(dict.fromkeys(each.url[-1] for each in wire.exchanges))

    assert world.run(work) == ["0", "3", "1", "2"]


@pytest.mark.parametrize("size", [60_000, 300_000])
@pytest.mark.parametrize(("lowest", "kinds"), [(2000, ["slow", "slow"]), (16, []), (None, [])])
def test_a_server_that_is_slower_than_is_put_up_with_is_asked_again(size, lowest, kinds):
    world = made(host=(1, size))
    world.server.script = lambda _: Trouble(rate=1000) if len(world.server.requests) <= 2 else None
    request = requests("host", 1, connections=1)[0]

    async def work(world):
        async with world.engine(config=config(lowest_rate=lowest, piece_size=MIB)) as engine:
            task = await engine.submit(request)
            await task.result()
            return [logged.event.fault async for logged in task.history() if hasattr(logged.event, "fault")]

    faults = world.run(work)
    assert [fault.kind for fault in faults] == kinds
    assert all("expected 2,000 a second at least (lowest_rate)" in fault.detail for fault in faults)


def test_who_reads_slowly_because_of_a_limit_meets_no_slow_server():
    world = made(host=(1, 2000))

    async def work(world):
        async with world.engine(config=config(limit_rate=8, lowest_rate=2000)) as engine:
            task = await engine.submit(requests("host", 1)[0])
            await task.result()
            return [type(logged.event).__name__ async for logged in task.history()]

    assert "AttemptFailed" not in world.run(work)


def test_a_host_that_was_mistyped_is_no_host_that_answered_before():
    """Nobody waits for it; with the right name the task goes on with what it has."""
    world = made(host=(1, MIB))
    world.server.script = lambda _: Trouble(rate=50_000)

    async def work(world):
        async with world.engine(config=config(retries=2)) as engine:
            task = await engine.submit(requests("host", 1)[0])
            await anyio.sleep(5)
            await task.pause()
            await task.supply(url="https://hots/0")
            await task.resume()
            with pytest.raises(meowcat.TransferFailed, match="no connection to https://hots"):
                await task.result()
            began = world.now
            await task.supply(url="https://host/0")
            await task.retry()
            await task.result()
            return began

    assert world.run(work) < 60
    assert brought(world, "host") == ["host-0"]
    assert world.server.bytes_sent_twice() <= 4 * 65_536, "the piece that each connection was at"


def test_changes_of_one_task_at_the_same_moment_all_hold():
    world = made(old=(1, MIB), new=(1, MIB))
    world.server.script = lambda _: Trouble(rate=50_000)
    first = meowcat.Download("https://old/0", "/data/x")

    async def work(world):
        async with world.engine(config=config()) as engine:
            task = await engine.submit(first)
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: engine.supply(task.id, url="https://new/0"))
                group.start_soon(lambda: engine.set_limit_rate(40_000, task=task.id))
            moved = task.info
            async with anyio.create_task_group() as group:
                again = meowcat.Download("https://new/0", "/data/x", priority=5, limit_rate=40_000)
                group.start_soon(engine.submit, again)
                group.start_soon(lambda: engine.set_limit_rate(30_000, task=task.id))
            return moved, [each.event async for each in task.history() if isinstance(each.event, Supplied)]

    moved, supplies = world.run(work)
    assert moved.url == "https://new/0"
    last = supplies[-1].request
    assert (last.url, last.priority, last.limit_rate) == ("https://new/0", 5, 30_000)
