"""Records that are damaged while an engine has their journal: one task is lost sight of, and no other."""

import sqlite3

import anyio
import pytest

import meowcat
from meowcat.control.client import connect
from meowcat.testing.content import Content
from meowcat.testing.range_server import RangeServer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "t.db"


def damage(journal, task):
    connection = sqlite3.connect(journal, isolation_level=None)
    connection.execute("UPDATE record SET body = ? WHERE task = ?", (b"{}", task))
    connection.close()


async def three(journal):
    """The ids of three Paused tasks, which a later opening has in no memory but the journal's."""
    requests = [meowcat.Download(f"http://127.0.0.1:9/{name}", str(journal.parent / name)) for name in "abc"]
    async with meowcat.Engine(journal) as engine:
        return await engine.submit_many(requests, paused=True)


async def test_lists_and_commands_for_many_leave_the_damaged_task_out(journal):
    first, second, third = await three(journal)
    async with meowcat.Engine(journal) as engine:
        damage(journal, second)
        assert [info.id async for info in engine.tasks()] == [first, third]
        assert sorted(await engine.cancel_many()) == sorted([first, third])
        assert list(engine.quarantined()) == [second]
        with pytest.raises(meowcat.TaskQuarantined):
            await engine.cancel(second)


async def test_commands_for_many_alone_find_the_damage_as_well(journal):
    first, second, third = await three(journal)
    async with meowcat.Engine(journal) as engine:
        damage(journal, first)
        assert sorted(await engine.cancel_many()) == sorted([second, third])
        assert list(engine.quarantined()) == [first]


async def test_who_asks_from_outside_gets_the_others(journal):
    first, second, third = await three(journal)
    async with meowcat.Engine(journal) as engine:
        damage(journal, second)
        async with connect(journal) as control:
            assert [live.info.id for live in await control.tasks()] == [first, third]
        assert list(engine.quarantined()) == [second]


async def test_a_damaged_task_in_line_keeps_no_slot(journal):
    """Without this each such task would take a slot out of use until the engine is closed."""
    with RangeServer(Content(1 << 20), rate=64 << 10) as server, anyio.fail_after(30):
        requests = [meowcat.Download(server.url, str(journal.parent / name)) for name in "abc"]
        async with meowcat.Engine(journal, on_restart="leave") as engine:
            _, second, third = await engine.submit_many(requests)
        async with meowcat.Engine(journal, config=meowcat.Config(max_downloads=1)) as engine:
            damage(journal, second)  # while the first one has the only slot
            server.rate.rate = None
            await (await engine.task(third)).result()
            assert list(engine.quarantined()) == [second]


async def test_who_waits_for_a_task_hears_that_it_is_damaged(journal):
    first, *_ = await three(journal)
    async with meowcat.Engine(journal) as engine:
        task = await engine.task(first)
        damage(journal, first)
        with anyio.fail_after(20):
            with pytest.raises(meowcat.TaskQuarantined):
                await task.resume()
            with pytest.raises(meowcat.TaskQuarantined):
                await task.result()
