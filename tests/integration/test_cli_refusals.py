"""An owner whose journal takes no records, as while its disk is full: what those who ask it are told."""

import json
import re
import subprocess
import sys

import anyio
import pytest

import meowcat
from journal_adapters.sqlite import SQLiteJournal
from meowcat.control import messages as ctl
from meowcat.control import server as serving
from meowcat.control.client import connect
from meowcat.testing.content import Content
from meowcat.testing.range_server import RangeServer

pytestmark = pytest.mark.anyio

TOLD = "the journal takes no records: no space left"


@pytest.fixture
def anyio_backend():
    return "asyncio"


class FillingJournal(SQLiteJournal):
    """The SQLite journal, on a disk that fills up on command."""

    full = False

    def append(self, batch):
        if self.full:
            raise meowcat.JournalRejected("no space left")
        return super().append(batch)


class Owner:
    def __init__(self, engine, journal, handles):
        self.engine, self.journal, self.handles = engine, journal, handles
        self.tasks = [each.id for each in handles]

    async def fill(self):
        """Let the disk be full, and something be recorded then."""
        self.journal.full = True
        await self.until(refuses=True)

    async def empty(self):
        self.journal.full = False
        await self.until(refuses=False)

    async def until(self, *, refuses):
        with anyio.fail_after(10):
            async for progress in self.handles[0].progress():
                if bool(progress.refusal) == refuses:
                    return


@pytest.fixture
async def owner(tmp_path):
    """An engine with a task that downloads, slowly, one behind it in the queue, and a Paused one."""
    journal = FillingJournal(tmp_path / "t.db")
    config = meowcat.Config(piece_size=64 << 10, flush_seconds=0.02, max_downloads=1, connections=1)
    with RangeServer(Content(2 << 20), rate=256 << 10) as server:
        async with meowcat.Engine(journal, config=config) as engine:
            tasks = [await engine.submit(meowcat.Download(server.url, tmp_path / name)) for name in "ab"]
            tasks.append(await engine.submit(meowcat.Download(server.url, tmp_path / "c"), paused=True))
            yield Owner(engine, journal, tasks)
            journal.full = False
            await engine.cancel_many()


def cli(owner, *words):
    command = [sys.executable, "-m", "meowcat", *words, "--journal", str(owner.journal.path)]
    return anyio.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


async def ran(owner, *words):
    async with await cli(owner, *words) as process:
        out = b"".join([part async for part in process.stdout]).decode()
        err = b"".join([part async for part in process.stderr]).decode()
        assert await process.wait() == 0, err
    return out, err


async def lines_of(stream):
    buffered = b""
    async for part in stream:
        *whole, buffered = (buffered + part).split(b"\n")
        for line in whole:
            yield line.decode()


async def test_whoever_watches_hears_when_it_begins_and_when_it_is_over(owner):
    async with connect(str(owner.journal.path)) as control:
        watching = control.watch()
        await anext(watching)
        assert control.refusal == ""
        await owner.fill()
        with anyio.fail_after(10):
            async for _ in watching:
                if control.refusal:
                    break
            assert control.refusal == "no space left"
            await owner.empty()
            async for _ in watching:
                if not control.refusal:
                    break


async def test_a_list_says_it_from_its_first_page_on(owner):
    await owner.fill()
    async with connect(str(owner.journal.path)) as control:
        assert len(await control.tasks()) == 3
        assert control.refusal == "no space left"
        await owner.empty()
        await control.tasks()
        assert control.refusal == ""


async def test_an_order_that_can_not_be_recorded_in_time_says_why(owner, monkeypatch):
    monkeypatch.setattr(serving, "ANSWER_WITHIN", 0.3)
    await owner.fill()
    async with connect(str(owner.journal.path)) as control:
        with pytest.raises(
            meowcat.ControlError, match=f"not done within 0 s, for {TOLD}; it may still happen"
        ):
            await control.order(ctl.Resume(tasks=(owner.tasks[2],)))


async def test_lists_say_it_of_each_task_that_would_go_on(owner):
    await owner.fill()
    running, _, paused = owner.tasks
    listed = {each["task"]: each for each in json.loads((await ran(owner, "ls", "--json"))[0])}
    assert [listed[task]["refusal"] for task in owner.tasks] == ["no space left", "no space left", None]
    out, _ = await ran(owner, "ls")
    assert [line.endswith(TOLD) for line in out.splitlines()[1:]] == [True, True, False]
    assert re.search(f"Waiting for +{TOLD}", (await ran(owner, "show", running))[0])
    assert TOLD not in (await ran(owner, "show", paused))[0]
    await owner.empty()
    listed = json.loads((await ran(owner, "ls", "--json"))[0])
    assert {each["refusal"] for each in listed} == {None}


async def told_until(lines, tasks, refusal, of_type):
    """Read on until the newest that is told of each of the tasks has this refusal."""
    newest = {}
    with anyio.fail_after(30):
        async for line in lines:
            said = json.loads(line)
            if said["type"] == of_type:
                newest[said["task"]] = said["refusal"]
            if all(newest.get(task, "nothing") == refusal for task in tasks):
                return newest
    raise AssertionError(newest)


async def test_a_watched_list_says_when_it_begins_and_when_it_is_over(owner):
    would_go_on = owner.tasks[:2]
    async with await cli(owner, "ls", "--watch", "--json") as process:
        lines = lines_of(process.stdout)
        await told_until(lines, owner.tasks, None, "task")
        await owner.fill()
        newest = await told_until(lines, would_go_on, "no space left", "task")
        assert newest.get(owner.tasks[2]) is None, "one that is Paused has no use for it"
        await owner.empty()
        await told_until(lines, would_go_on, None, "task")
        process.terminate()


async def test_a_command_that_waits_for_it_says_so(owner):
    await owner.fill()
    async with await cli(owner, "resume", "--no-wait", owner.tasks[2]) as process:
        with anyio.fail_after(30):
            assert (
                await anext(lines_of(process.stderr))
                == f"{owner.journal.path}: {TOLD}; waiting until it does"
            )
            await owner.empty()
            assert await process.wait() == 0


async def test_progress_says_it_also_of_a_task_that_does_not_move(owner):
    async with await cli(owner, "resume", "--json", *owner.tasks[:2]) as process:
        lines = lines_of(process.stdout)
        await told_until(lines, owner.tasks[:1], None, "progress")
        await owner.fill()
        await told_until(lines, owner.tasks[:2], "no space left", "progress")
        await owner.empty()
        await told_until(lines, owner.tasks[:2], None, "progress")
        process.terminate()
