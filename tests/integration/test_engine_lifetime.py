"""Opening and closing: from whichever task, once or twice, canceled or not, the journal is given back."""

import anyio
import pytest

import meowcat
from journal_adapters.sqlite import SQLiteJournal
from meowcat.core import events as ev
from meowcat.testing.content import Content
from meowcat.testing.range_server import RangeServer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

MIB = 1 << 20
BIG = Content(8 * MIB)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


async def in_a_task_of_its_own(call):
    async with anyio.create_task_group() as group:
        group.start_soon(call)


async def test_one_task_opens_another_closes_and_both_are_long_gone(tmp_path):
    engine = meowcat.Engine(tmp_path / "t.db")
    with RangeServer(BIG) as server:
        await in_a_task_of_its_own(engine.open)
        await engine.download(server.url, tmp_path / "a")
        await in_a_task_of_its_own(engine.close)
    with pytest.raises(meowcat.EngineClosed):
        await engine.snapshot()
    async with meowcat.Engine(tmp_path / "t.db") as again:
        assert [info.state async for info in again.tasks(state="Complete")] == ["Complete"]


async def test_whoever_closes_returns_when_it_is_closed(tmp_path):
    with RangeServer(BIG, rate=MIB) as server:
        engine = await meowcat.Engine(tmp_path / "t.db").open()
        task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
        async for progress in task.progress():
            if progress.state == meowcat.State.RUNNING:
                break

        async def close_and_open_again() -> None:
            await engine.close()
            journal = SQLiteJournal(tmp_path / "t.db")
            journal.open_for_reading()
            assert isinstance(journal.read(task.id)[-1].type, str)
            journal.close()

        async with anyio.create_task_group() as group:
            group.start_soon(close_and_open_again)
            group.start_soon(close_and_open_again)
    async with meowcat.Engine(tmp_path / "t.db", on_restart="pause"):
        pass


async def test_what_runs_is_requeued_when_the_block_is_canceled(tmp_path):
    with RangeServer(BIG, rate=MIB) as server:
        with anyio.CancelScope() as scope:
            async with meowcat.Engine(tmp_path / "t.db") as engine:
                task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
                async for progress in task.progress():
                    if progress.state == meowcat.State.RUNNING:
                        scope.cancel()
        assert scope.cancelled_caught
    async with meowcat.Engine(tmp_path / "t.db", on_restart="pause") as engine:
        events = [logged.event async for logged in engine.history(task.id)]
    assert any(isinstance(event, ev.Requeued) for event in events)


async def test_an_opening_that_failed_may_be_tried_again(tmp_path):
    second = meowcat.Engine(tmp_path / "t.db")
    async with meowcat.Engine(tmp_path / "t.db"):
        with pytest.raises(meowcat.JournalOwned):
            await second.open()
    async with second:
        assert (await second.snapshot()).states == {}


async def test_an_open_engine_is_not_opened_twice(tmp_path):
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        with pytest.raises(meowcat.EngineClosed):
            await engine.open()


async def test_an_engine_in_memory_is_closed_also_when_the_wait_for_its_tasks_is_canceled(tmp_path):
    with RangeServer(BIG, rate=MIB) as server, anyio.CancelScope() as scope:
        async with meowcat.Engine() as engine:
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
            async for progress in task.progress():
                if progress.bytes_done:
                    break
            scope.cancel()
    with pytest.raises(meowcat.EngineClosed):
        engine.quarantined()
