"""Connections of different speeds, in a world whose time is virtual."""

import asyncio

import pytest

import meowcat
from meowcat.testing.depot import DepotUpload
from meowcat.testing.exchanges import Trouble
from meowcat.testing.servers import Content
from meowcat.testing.world import World

URL = "https://host.example/big.bin"
MIB = 1 << 20
FAST, SLOW = 2.0 * MIB, 0.02 * MIB


def world(size, slow):
    """Every reply comes at `FAST`, but for those that `slow` picks by the first byte that was asked for."""
    made = World()
    made.server.serve(URL, size)

    def rate(seen):
        start = int(seen.headers["range"].removeprefix("bytes=").partition("-")[0])
        return Trouble(rate=SLOW if slow(start) else FAST)

    made.server.script = rate
    return made


async def download(world, **options):
    async with world.engine(config=meowcat.Config(**options)) as engine:
        await engine.download(URL, "/data/big.bin")
        assert not engine._runtime._crowds._flows, "who has ended leaves nothing behind"


def seconds(size, slow=lambda start: False, **options):
    """What the download takes; every byte of it is right, and not many come twice."""
    made = world(size, slow)
    made.run(lambda world: download(world, **options))
    assert made.disk.get("/data/big.bin") == made.server.contents[URL].bytes()
    assert made.server.bytes_sent_twice() <= 4 * MIB
    return made.now


@pytest.mark.parametrize("connections", [2, 4])
def test_all_connections_end_at_about_the_same_time(connections):
    size = 20 * MIB
    assert seconds(size, connections=connections) < size / FAST / connections * 1.1


@pytest.mark.parametrize("piece_size", [None, 2 * MIB])
def test_one_that_is_a_hundred_times_slower_costs_next_to_nothing(piece_size):
    """Its remainder goes to the others, and the piece that it is at is asked for again."""
    size = 20 * MIB
    alone = seconds(size, connections=3, piece_size=piece_size)
    beside = seconds(size, lambda start: start == 11 * MIB, connections=4, piece_size=piece_size)
    assert size / 4 / SLOW > 100
    assert beside < alone * 1.1 + 1.5


def test_the_first_reply_may_be_the_slow_one():
    size = 20 * MIB
    assert seconds(size, lambda start: start == 0, connections=4) < size / FAST / 3 * 1.1 + 1.5


def test_a_content_that_is_slow_everywhere_is_not_asked_for_over_and_over():
    made = world(4 * MIB, lambda start: True)
    made.run(lambda world: download(world, connections=4))
    assert len(made.server.requests) <= 10


def test_without_a_word_of_the_user_a_cap_on_each_connection_leads_to_more_of_them():
    size = 96 * MIB
    assert seconds(size) < size / FAST / 16 * 1.15 + 1
    assert seconds(size, connections=4) > size / FAST / 4 * 0.95, "the user's word is kept to"


def test_a_server_that_refuses_is_asked_by_half_as_many():
    """For a minute: after some seconds the host would be given as many again."""
    made, came, refused = World(), 0, range(14, 17)
    content = made.server.serve(URL, 96 * MIB)

    def refuse(_):
        nonlocal came
        came += 1
        return Trouble(status=503) if came in refused else Trouble(rate=FAST / 4)

    made.server.script = refuse
    made.run(download)
    assert made.disk.get("/data/big.bin") == content.bytes()
    assert content.size / FAST * 4 / 16 * 1.6 < made.now < content.size / FAST * 4 / 8 * 1.1


def test_what_a_server_has_refused_is_known_to_the_operation_after_the_pause_it_wanted():
    """All requests had ended before it was over, and so had the operation."""
    made, counts, came = World(), [], 0
    content = made.server.serve(URL, 96 * MIB)

    def refuse(_):
        nonlocal came
        came += 1
        if came == 17:
            return Trouble(status=503, headers=(("Retry-After", "30"),))
        return Trouble(rate=FAST)

    async def watch(world):
        async with world.engine() as engine:
            task = await engine.submit(meowcat.Download(URL, "/data/big.bin"))
            while task.state is not meowcat.State.COMPLETE:
                counts.extend((world.now, host.requests) for host in (await engine.snapshot()).hosts.values())
                await asyncio.sleep(0.25)

    made.server.script = refuse
    made.run(watch)
    assert made.disk.get("/data/big.bin") == content.bytes()
    assert max(count for _, count in counts) == 16
    assert min(count for at, count in counts if at < 30) == 0
    assert max(count for at, count in counts if at > 30) == 8


@pytest.mark.parametrize("seconds", [0.6, 0.8, 1.0, 1.2, 5.0])
def test_what_came_under_a_limit_says_nothing_of_a_link_that_is_full(seconds):
    """It would make more connections look as if they were worth it."""
    made, counts = World(), []
    made.server.serve(URL, 48 * MIB)
    made.server.rate = 2 * FAST

    async def limited_for_a_while(world):
        async with world.engine() as engine:
            task = await engine.submit(meowcat.Download(URL, "/data/big.bin"))
            await asyncio.sleep(0.4)
            await task.set_limit_rate(100_000)
            await asyncio.sleep(seconds)
            await task.set_limit_rate(None)
            while task.state is not meowcat.State.COMPLETE:
                counts.extend(host.requests for host in (await engine.snapshot()).hosts.values())
                await asyncio.sleep(0.25)

    made.run(limited_for_a_while)
    assert max(counts) == 8, "it was tried"


@pytest.mark.parametrize("hosts", [1, 4])
def test_many_downloads_over_one_full_line_take_nothing_from_each_other(hosts):
    """Judged alone, each of them would seem to gain by more connections."""
    made, counts = World(), []
    urls = [f"https://host{number % hosts}.example/{number}" for number in range(8)]
    for url in urls:
        made.server.serve(url, 24 * MIB)
    made.server.rate = 8 * MIB

    async def all_at_once(world):
        async with world.engine(config=meowcat.Config(max_downloads=8)) as engine:
            asked = [meowcat.Download(url, f"/data/{number}") for number, url in enumerate(urls)]
            await engine.submit_many(asked)
            while states := (await engine.snapshot()).states:
                if set(states) == {meowcat.State.COMPLETE}:
                    break
                counts.append(sum(host.requests for host in (await engine.snapshot()).hosts.values()))
                await asyncio.sleep(0.25)

    made.run(all_at_once)
    assert max(counts) == 8 * 8, "a trial"
    assert sorted(counts)[len(counts) // 4] <= 8 * 4
    assert made.now < 8 * 24 / 8 * 1.1


def test_what_one_download_has_found_out_is_there_for_the_next_one():
    made = world(48 * MIB, lambda start: False)
    made.server.serve(other := URL.replace("big", "other"), 48 * MIB)
    took = []

    async def one_after_the_other(world):
        async with world.engine() as engine:
            for url in (URL, other):
                began = world.now
                await engine.download(url, "/data/" + url.rpartition("/")[2])
                took.append(world.now - began)

    made.run(one_after_the_other)
    assert took[1] < 48 * MIB / FAST / 16 * 1.15 + 0.5 < took[0]


@pytest.mark.parametrize("trouble", [Trouble(before="stall"), Trouble(after=MIB, then="stall")])
def test_a_pause_takes_no_time_while_the_peer_is_silent(trouble):
    made, took = world(96 * MIB, lambda start: False), []
    made.server.script = lambda _: trouble

    async def pause(world):
        async with world.engine() as engine:
            task = await engine.submit(meowcat.Download(URL, "/data/big.bin"))
            await asyncio.sleep(3)
            began = world.now
            await task.pause()
            took.append(world.now - began)
            assert task.state is meowcat.State.PAUSED

    made.run(pause)
    assert took[0] < 0.1


# Uploads


DEPOT = "https://depot.example/"
PART = MIB // 4


def upload(size, trouble=None, rate=None, config=None, **options):
    """Seconds that it takes, and how many parts were under way when another one began, of all of them."""
    made = World()
    content = Content(size, seed=3).bytes()
    made.disk.put("/data/big.bin", content)
    depot, counts = made.server.depot(DEPOT), []

    def script(seen):
        if "part=" not in seen.target:
            return None
        counts.append(sum(not each.complete for each in made.server.requests))
        return trouble(len(counts)) if trouble is not None else None

    made.server.script, made.server.rate = script, rate

    async def deliver(world):
        async with world.engine(config=config or meowcat.Config()) as engine:
            sent = {"protocol": DepotUpload(any_order=True), "piece_size": PART, **options}
            await engine.upload("/data/big.bin", f"{DEPOT}big.bin", **sent)

    made.run(deliver)
    assert depot.objects[f"{DEPOT}big.bin"].content == content
    return made.now, counts


def capped(_):
    return Trouble(rate=FAST)


def test_a_cap_on_each_connection_leads_to_more_of_them_in_uploads_as_well():
    size = 64 * MIB
    seconds, counts = upload(size, capped)
    assert seconds < size / FAST / 16 * 1.4
    assert max(counts) == 16
    seconds, counts = upload(size, capped, connections=4)
    assert seconds > size / FAST / 4 * 0.95, "the user's word is kept to"
    assert max(counts) == 4


def test_an_upload_with_a_number_of_its_own_says_nothing_to_others_when_it_is_refused():
    made = World()
    made.disk.put("/data/big.bin", Content(4 * MIB, seed=3).bytes())
    made.server.depot(DEPOT)
    refused = []

    def once(seen):
        if "part=" not in seen.target or refused:
            return None
        refused.append(seen)
        return Trouble(status=503)

    made.server.script = once

    async def deliver(world):
        async with world.engine() as engine:
            options = {"protocol": DepotUpload(any_order=True), "piece_size": PART, "connections": 2}
            await engine.upload("/data/big.bin", f"{DEPOT}big.bin", **options)
            return [crowd.connections for crowd in engine._runtime._crowds._crowds.values()]

    assert made.run(deliver) == [4]
    assert refused


def test_downloads_with_a_number_of_their_own_keep_no_other_from_more():
    made, most = World(), 0
    for number in range(4):
        made.server.serve(f"https://host.example/{number}", 96 * MIB)
    made.server.script = lambda _: Trouble(rate=FAST)

    async def beside(world):
        nonlocal most
        async with world.engine(config=meowcat.Config(max_downloads=4)) as engine:
            for number in range(4):
                mine = {"connections": 4} if number else {}
                await engine.submit(
                    meowcat.Download(f"https://host.example/{number}", f"/data/{number}", **mine)
                )
            while world.now < 6:
                most = max(most, *(host.requests for host in (await engine.snapshot()).hosts.values()), 0)
                await asyncio.sleep(0.1)

    made.run(beside)
    assert most == 3 * 4 + 16


def test_what_uploads_have_found_out_says_nothing_of_downloads():
    """A line is often narrow one way only, and a server may take more than it gives."""
    made, most = World(), {}
    made.disk.put("/data/big.bin", Content(48 * MIB, seed=3).bytes())
    made.server.depot(DEPOT)
    made.server.serve(f"{DEPOT}there", 48 * MIB)
    made.server.script = capped

    async def both(world):
        async with world.engine() as engine:
            options = {"protocol": DepotUpload(any_order=True), "piece_size": PART}
            up = await engine.submit(meowcat.Upload("/data/big.bin", f"{DEPOT}big.bin", **options))
            await most_at_once("up", engine, up)
            down = await engine.submit(meowcat.Download(f"{DEPOT}there", "/data/there"))
            await most_at_once("down", engine, down, seconds=0.5)

    async def most_at_once(which, engine, task, seconds=1e9):
        end = made.now + seconds
        while task.state is not meowcat.State.COMPLETE and made.now < end:
            at_once = sum(host.requests for host in (await engine.snapshot()).hosts.values())
            most[which] = max(most.get(which, 0), at_once)
            await asyncio.sleep(0.1)

    made.run(both)
    assert most == {"up": 16, "down": 4}


@pytest.mark.parametrize("small", [{"size": PART * 3}, {"size": PART * 12, "connections": 3}])
def test_uploads_that_gain_nothing_from_more_connections_keep_no_other_from_them(small):
    """They have few parts, or a number of the user's own, and come and go."""
    made, content = World(), Content(64 * MIB, seed=3).bytes()
    made.disk.put("/data/big.bin", content)
    made.disk.put("/data/small.bin", content[: small.pop("size")])
    made.server.depot(DEPOT)
    made.server.script = capped

    async def beside(world):
        async with world.engine(config=meowcat.Config(max_uploads=3)) as engine:
            options = {"protocol": DepotUpload(any_order=True), "piece_size": PART}
            big = await engine.submit(meowcat.Upload("/data/big.bin", f"{DEPOT}big.bin", **options))
            number = 0
            while big.state is not meowcat.State.COMPLETE:
                await engine.upload("/data/small.bin", f"{DEPOT}{number}", **options, **small)
                number += 1
            return number

    assert made.run(beside) > 3
    assert made.now < 64 * MIB / FAST / 16 * 1.5


def test_an_upload_over_a_link_that_is_full_goes_back_to_few():
    _, counts = upload(64 * MIB, rate=FAST)
    assert sorted(counts)[len(counts) // 2] == 4
    assert max(counts) == 8, "it was tried"


def test_an_upload_with_a_limited_rate_has_no_more_than_it_begins_with():
    _, counts = upload(8 * MIB, limit_rate=int(FAST))
    assert max(counts) == 4


@pytest.mark.parametrize("statuses", [(429, 429, 429), (503, 503, 503), (500, 503, 503)])
def test_a_server_that_refuses_parts_gets_fewer_of_them(statuses):
    slow, refused = Trouble(rate=FAST / 4), dict(enumerate(statuses, 60))
    _, counts = upload(64 * MIB, lambda count: Trouble(status=refused[count]) if count in refused else slow)
    assert max(counts) == 16
    assert max(counts[100:]) == 8, "not even after ten seconds, when the host is given as many again"


def test_what_a_server_has_refused_of_an_upload_is_known_to_the_next_operation_too():
    """All parts had ended before it was over, and so had the operation."""
    refused = Trouble(status=503, headers=(("Retry-After", "5"),))
    _, counts = upload(192 * MIB, lambda count: refused if count in range(60, 63) else capped(count))
    assert max(counts[:60]) == 16
    assert max(counts[80:]) == 8


def test_parts_that_go_one_after_the_other_stay_so():
    _, counts = upload(8 * MIB, capped, protocol=DepotUpload(any_order=False))
    assert max(counts) == 1


@pytest.mark.parametrize("connections", [None, 2, 4])
@pytest.mark.parametrize("memory", [1, 3])
@pytest.mark.parametrize("flaky", [False, True])
def test_with_little_memory_nobody_waits_for_who_waits_for_him(connections, memory, flaky):
    """The last part is small enough to be read ahead of its turn while the others want all the memory."""

    def now_and_then(count):
        return Trouble(status=503) if flaky and count % 7 == 3 else None

    config = meowcat.Config(max_in_flight=memory * MIB, retries=100)
    _, counts = upload(20 * MIB + 500, now_and_then, config=config, piece_size=MIB, connections=connections)
    assert len(counts) >= 21, "each part was sent, and the server has the content"
