"""Commands for many tasks at once, and what they ask of the journal."""

from collections import Counter

import anyio
import pytest
from msgspec.structs import replace

import meowcat
from journal_adapters.sqlite import SQLiteJournal
from meowcat.journal.contract import BulkJournal

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

TASKS = 2500


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


class Counting(SQLiteJournal):
    """Counts what it is asked."""

    def __init__(self, path):
        super().__init__(path)
        self.calls = Counter()

    def read(self, task, after=0):
        self.calls["read"] += 1
        return super().read(task, after)

    def read_many(self, tasks):
        self.calls["read_many"] += 1
        return super().read_many(tasks)

    def append(self, batch):
        self.calls["append"] += 1
        return super().append(batch)


class OneByOne(Counting):
    """As a journal of users' own may be, without what is only there to be quick."""

    read_many = None


def requests(folder, count=TASKS):
    return [meowcat.Download(f"http://127.0.0.1:9/{n}", str(folder / str(n))) for n in range(count)]


async def test_a_long_queue_is_recorded_read_and_canceled_by_the_thousand(tmp_path):
    journal = Counting(tmp_path / "t.db")
    async with meowcat.Engine(journal) as engine:
        tasks = await engine.submit_many(iter(requests(tmp_path)), paused=True)
    assert journal.calls == {"append": 3}
    journal = Counting(tmp_path / "t.db")
    async with meowcat.Engine(journal) as engine:
        assert journal.calls == {"read_many": 3}
        assert await engine.cancel_many() == tasks
    assert journal.calls == {"read_many": 6, "append": 3}


async def test_a_journal_that_reads_one_by_one_does_the_same(tmp_path):
    journal = OneByOne(tmp_path / "t.db")
    assert not isinstance(journal, BulkJournal)
    async with meowcat.Engine(journal) as engine:
        tasks = await engine.submit_many(requests(tmp_path, 20), paused=True)
    journal = OneByOne(tmp_path / "t.db")
    async with meowcat.Engine(journal) as engine:
        assert journal.calls == {"read": 20}
        assert [info.id async for info in engine.tasks()] == tasks
        assert await engine.cancel_many() == tasks
        assert not (await engine.snapshot()).states


async def test_the_same_submission_again_attaches_to_all_with_one_read_a_thousand(tmp_path):
    journal = Counting(tmp_path / "t.db")
    async with meowcat.Engine(journal) as engine:
        tasks = await engine.submit_many(requests(tmp_path), paused=True)
        journal.calls.clear()
        assert await engine.submit_many(requests(tmp_path), paused=True) == tasks
        assert journal.calls == {"read_many": 3}


async def test_of_a_submission_again_what_is_different_now_is_seen_to(tmp_path):
    asked = requests(tmp_path, 4)
    async with meowcat.Engine(tmp_path / "t.db", config=meowcat.Config(max_downloads=1)) as engine:
        tasks = await engine.submit_many(asked[:3], paused=True)
        await engine.cancel(tasks[1])
        asked[0] = replace(asked[0], priority=5)
        again = await engine.submit_many(asked, paused=True)
        assert (again[0], again[2]) == (tasks[0], tasks[2])
        assert again[1] != tasks[1]  # that one had ended
        assert len(set(again)) == 4
        history = [event async for event in engine.history(tasks[0])]
        assert history[-1].event.request.priority == 5
        with pytest.raises(meowcat.DuplicateTask):
            await engine.submit_many([replace(asked[2], url="http://127.0.0.1:9/another")])
        await engine.submit_many(asked[2:3])  # not paused: it is set going
        assert (await engine.task(tasks[2])).state != "Paused"


async def test_requests_are_taken_a_thousand_at_a_time_and_an_error_leaves_whole_batches(tmp_path):
    taken = 0

    def some():
        nonlocal taken
        for request in requests(tmp_path):
            taken += 1
            yield request
        yield meowcat.Download("ftp://nowhere", str(tmp_path / "x"))

    async with meowcat.Engine(tmp_path / "t.db") as engine:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await engine.submit_many(some(), paused=True)
        assert taken <= 2000
        with pytest.raises(meowcat.InvalidArgument):
            await engine.submit_many(some(), paused=True)
        assert (await engine.snapshot()).states == {"Paused": 2000}


async def test_a_direction_that_there_is_not_is_refused(tmp_path):
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        for command in (engine.pause_many, engine.cancel_many, engine.resume_many, engine.retry_many):
            with pytest.raises(meowcat.InvalidArgument, match="direction 'up': expected 'download'"):
                await command(direction="up")
        with pytest.raises(meowcat.InvalidArgument, match="direction 'up'"):
            engine.tasks(direction="up")


async def test_what_is_no_request_is_refused(tmp_path):
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        with pytest.raises(meowcat.InvalidArgument, match=r"expected a meowcat.Download .* got a str"):
            await engine.submit("https://user:secret@host.example/x")


async def test_an_object_without_its_protocol_is_told_which(tmp_path):
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        with pytest.raises(meowcat.InvalidArgument, match=r"protocol=meowcat.S3\("):
            await engine.download("s3://bucket/key", str(tmp_path / "x"))
