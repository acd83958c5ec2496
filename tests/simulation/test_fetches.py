"""Small bodies in a world whose time is virtual: attempts, places, and what ends them."""

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import meowcat
from meowcat.testing.exchanges import Trouble
from meowcat.testing.world import World

URL = "https://host.example/list.json"
ONE = meowcat.Config(max_fetches=1)


def world(script=(), **served):
    made = World()
    made.server.serve(URL, b'{"files": 3}')
    made.server.script = script
    return made


async def fetch(world, config=None, **options):
    async with world.engine(config=config) as engine:
        return await engine.fetch(URL, **options)


def refused(world, **options):
    with pytest.raises(meowcat.FetchFailed) as failed:
        world.run(lambda world: fetch(world, **options))
    return failed.value


def stalled(seen):
    return Trouble(before="stall")


def test_it_is_tried_again_after_300_and_800_milliseconds():
    shaky = world([Trouble(status=500), Trouble(before="reset")])
    assert shaky.run(fetch).json() == {"files": 3}
    assert 1.1 < shaky.now < 1.3


def test_the_third_failure_is_the_last_and_tells_its_status():
    broken = world([Trouble(status=500)] * 4)
    error = refused(broken)
    assert (error.code, error.status) == (meowcat.Code.STATUS, 500)
    assert len(broken.server.requests) == 3


@given(
    size=st.integers(0, 150_000),
    limit=st.integers(1, 150_000),
    framing=st.sampled_from(["length", "chunked", "close"]),
)
def test_a_body_comes_whole_or_not_at_all(size, limit, framing):
    made = world(lambda seen: Trouble(framing=framing))
    content = made.server.serve(URL, size)
    if size <= limit:
        assert made.run(lambda world: fetch(world, max_bytes=limit)).content == content.bytes()
    else:
        with pytest.raises(meowcat.BodyTooLarge):
            made.run(lambda world: fetch(world, max_bytes=limit))
        assert made.server.requests[0].sent <= limit + 65_536


def test_what_another_attempt_would_not_mend_is_not_asked_for_again():
    missing = world([Trouble(status=404)])
    assert refused(missing).status == 404
    assert len(missing.server.requests) == 1


def test_a_body_that_broke_off_is_fetched_again_from_its_beginning():
    broken = world([Trouble(after=5)])
    assert broken.run(fetch).content == b'{"files": 3}'
    assert [seen.headers.get("range") for seen in broken.server.requests] == [None, None]


def test_a_server_that_asks_to_come_again_in_ten_seconds_gets_its_ten_seconds():
    busy = world([Trouble(status=503, headers=(("Retry-After", "10"),))])
    busy.run(fetch)
    assert 10 < busy.now < 10.3


def test_one_that_asks_for_an_hour_is_told_of_at_once():
    busy = world([Trouble(status=503, headers=(("Retry-After", "3600"),))])
    assert refused(busy).status == 503
    assert busy.now < 1


def test_no_more_are_at_work_at_once_than_the_settings_say():
    """Each reply takes 30 s to fail, three times, so two by two they need twice as long."""
    slow = world(stalled)

    async def four(world):
        async with world.engine() as engine, anyio.create_task_group() as group:

            async def one():
                with pytest.raises(meowcat.FetchFailed):
                    await engine.fetch(URL)

            for _ in range(4):
                group.start_soon(one)

    slow.run(four)
    assert 180 < slow.now < 190


def test_one_more_than_are_accepted_is_refused_at_once_and_a_place_comes_free():
    slow = world(stalled)
    config = meowcat.Config(max_fetches=1, fetch_capacity=2)

    async def three(world):
        async with world.engine(config=config) as engine, anyio.create_task_group() as group:
            group.start_soon(engine.fetch, URL)
            group.start_soon(engine.fetch, URL)
            await anyio.sleep(1)
            with pytest.raises(meowcat.FetchQueueFull, match="fetch_capacity") as full:
                await engine.fetch(URL)
            assert full.value.code == 123
            assert isinstance(full.value, meowcat.QueueFull)
            group.cancel_scope.cancel()
        world.server.script = ()

    slow.run(three)


def test_a_caller_that_is_canceled_frees_its_places():
    slow = world([Trouble(before="stall")])
    config = meowcat.Config(max_fetches=1, fetch_capacity=1)

    async def twice(world):
        async with world.engine(config=config) as engine:
            with anyio.move_on_after(5) as patience:
                await engine.fetch(URL)
            assert patience.cancelled_caught
            return await engine.fetch(URL)

    assert slow.run(twice).status == 200
    assert slow.now < 6


def test_closing_the_engine_ends_what_is_under_way_what_waits_and_what_pauses():
    slow = world([Trouble(status=503, headers=(("Retry-After", "20"),)), *[Trouble(before="stall")] * 2])
    ended = []

    async def close_early(world):
        async with anyio.create_task_group() as group:
            engine = await world.engine(config=ONE).open()

            async def one():
                with pytest.raises(meowcat.EngineClosed) as closed:
                    await engine.fetch(URL)
                ended.append(closed.value.code)

            for _ in range(3):
                group.start_soon(one)
            await anyio.sleep(2)
            await engine.close()
            assert len(ended) == 3
            with pytest.raises(meowcat.EngineClosed):
                await engine.fetch(URL)

    slow.run(close_early)
    assert ended == [107, 107, 107]
    assert slow.now < 3


def test_nothing_of_it_is_recorded_or_shown():
    quiet = world()

    async def look(world):
        async with world.engine() as engine:
            before = await engine.snapshot()
            await engine.fetch(URL)
            await engine.drain()
            assert await engine.snapshot() == before
            assert [info async for info in engine.tasks(state=list(meowcat.State))] == []
            assert before.position == 0

    quiet.run(look)


def test_a_drain_does_not_wait_for_it():
    slow = world(stalled)

    async def drain(world):
        async with world.engine() as engine, anyio.create_task_group() as group:
            group.start_soon(engine.fetch, URL)
            await anyio.sleep(1)
            await engine.drain()
            group.cancel_scope.cancel()

    slow.run(drain)
    assert slow.now < 2


def test_its_requests_count_among_those_of_the_engine():
    """The one request that the engine may have at once is the stalled one."""
    slow = world(lambda seen: Trouble(before="stall") if len(slow.server.requests) == 1 else None)
    config = meowcat.Config(max_requests=1)

    async def two(world):
        async with world.engine(config=config) as engine, anyio.create_task_group() as group:
            group.start_soon(engine.fetch, URL)
            await anyio.sleep(1)
            await engine.fetch(URL)
            assert world.now > 30

    slow.run(two)
