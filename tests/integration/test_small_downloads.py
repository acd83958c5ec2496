"""Small files through the whole engine: one request, one append for what is stored, every failure told."""

import hashlib
import threading
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from fetch_harness import world_of
from msgspec.structs import replace as replace_secrets

import meowcat
from journal_adapters.memory import MemoryJournal
from meowcat.core import events as ev
from meowcat.core import messages as msg
from meowcat.core.crowd import Crowd
from meowcat.core.errors import JournalRejected
from meowcat.core.seal import seal
from meowcat.core.state import TaskState
from meowcat.core.wanted import Fetch
from meowcat.protocols.http_range import HttpRange
from meowcat.protocols.registry import Protocols
from meowcat.runtime.limits import Throttle
from meowcat.runtime.traffic import Traffic
from meowcat.testing.content import Content
from meowcat.testing.exchanges import Trouble
from meowcat.testing.range_server import RangeServer
from meowcat.transfer.context import Errand
from meowcat.transfer.disk import OsDisk
from meowcat.transfer.operations import operation_for
from meowcat.transfer.rounds import Rounds
from meowcat.transfer.small import SMALL
from meowcat.transfer.workers import Workers

pytestmark = pytest.mark.anyio

TINY = Content(16 << 10)
OTHER = "01JTASKBBBBBBBBBBBBBBBBBBB"


def many(number):
    """Contents that are cheap to make, each another."""
    return {f"/{each}": Content(data=f"file {each} ".encode() * (100 + each)) for each in range(number)}


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


class Appends(MemoryJournal):
    """A journal that remembers what came together, and refuses what it is told to."""

    def __init__(self):
        super().__init__()
        self.batches = []
        self.refuse = []
        """Types of records whose next append is refused."""

    def append(self, batch):
        types = [entry.type for entry in batch]
        if self.refuse and self.refuse[0] in types:
            self.refuse.pop(0)
            raise JournalRejected("no room at this moment")
        self.batches.append(types)
        return super().append(batch)


def config(**changes):
    base = {"durability": "process", "connect_timeout": 2.0, "read_timeout": 2.0, "control": False}
    return meowcat.Config(**(base | changes))


async def types(engine, task):
    return [ev.TAGS[type(each.event)] async for each in engine.history(task)]


@pytest.mark.parametrize("durability", ["process", "power"])
async def test_a_small_file_takes_one_request_and_four_appends(tmp_path, durability):
    journal = Appends()
    with RangeServer(TINY) as server:
        async with meowcat.Engine(journal, config=config(durability=durability)) as engine:
            result = await engine.download(server.url, tmp_path / "a")
            assert result.size == TINY.size
            assert await types(engine, result.task) == [each for batch in journal.batches for each in batch]
        assert len(server.requests) == 1
    assert (tmp_path / "a").read_bytes() == TINY.bytes()
    assert [each.name for each in tmp_path.iterdir()] == ["a"]
    assert journal.batches == [
        ["created"],
        ["admitted"],
        ["started", "stored", "publish-intended"],
        ["completed"],
    ]


async def test_under_process_no_thread_is_used(tmp_path):
    class Counted(Workers):
        trips = 0

        async def run(self, call, limiter):
            Counted.trips += 1
            return await super().run(call, limiter)

    calls = []

    class Loop(OsDisk):
        def open(self, path, flags, mode=0o666):
            calls.append(threading.get_ident())
            return super().open(path, flags, mode)

    with RangeServer(TINY) as server:
        async with meowcat.Engine(MemoryJournal(), config=config(), workers=Counted(), disk=Loop()) as engine:
            before = Counted.trips
            await engine.download(server.url, tmp_path / "a")
            assert Counted.trips == before
    assert calls == [threading.get_ident()]


@pytest.mark.parametrize("size", [0, 1, 64 << 10, SMALL, SMALL + 1, 3 << 20])
async def test_every_size_around_the_bound_is_whole_with_the_digests_of_its_pieces(tmp_path, size):
    content = Content(size)
    with RangeServer(content) as server:
        async with meowcat.Engine(MemoryJournal(), config=config(piece_size=64 << 10)) as engine:
            result = await engine.download(server.url, tmp_path / "a")
            stored = [each.event async for each in engine.history(result.task)]
        assert size > SMALL or server.bytes_sent_twice() == 0
    assert (tmp_path / "a").read_bytes() == content.bytes()
    digests = [each.digests for each in stored if isinstance(each, ev.Stored)]
    assert sum(len(each) for each in digests) == -(-size // (64 << 10)) * 32


async def test_a_content_that_is_not_small_goes_on_with_the_same_reply(tmp_path):
    content = Content(6 << 20)
    with RangeServer(content) as server:
        async with meowcat.Engine(MemoryJournal(), config=config(connections=1)) as engine:
            await engine.download(server.url, tmp_path / "a")
        assert [each.start for each in server.requests] == [0]
    assert (tmp_path / "a").read_bytes() == content.bytes()


@pytest.mark.parametrize("trouble", [Trouble(ignore_range=True), Trouble(framing="chunked")])
async def test_replies_without_a_range_or_a_length_bring_it_too(tmp_path, trouble):
    with RangeServer(TINY, script=lambda _: trouble) as server:
        async with meowcat.Engine(MemoryJournal(), config=config()) as engine:
            await engine.download(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == TINY.bytes()


async def test_a_checksum_is_compared_before_it_is_published(tmp_path):
    right, wrong = f"sha256:{TINY.sha256}", f"sha256:{'0' * 64}"
    with RangeServer(TINY) as server:
        async with meowcat.Engine(MemoryJournal(), config=config()) as engine:
            result = await engine.download(server.url, tmp_path / "a", checksum=right)
            assert str(result.digests[0]) == right
            with pytest.raises(meowcat.TransferFailed) as failed:
                await engine.download(server.url, tmp_path / "b", checksum=wrong)
            assert failed.value.code == 116
    assert not (tmp_path / "b").exists()


async def test_a_body_that_has_not_the_digest_of_its_head_is_refused(tmp_path):
    broken = Trouble(headers=(("Content-Digest", "sha-256=:" + "A" * 43 + "=:"),))
    with RangeServer(TINY, script=[broken]) as server:
        async with meowcat.Engine(MemoryJournal(), config=config(retries=0)) as engine:
            with pytest.raises(meowcat.TransferFailed) as failed:
                await engine.download(server.url, tmp_path / "a")
            assert failed.value.code == 116
    assert [each.name for each in tmp_path.iterdir()] == []


async def test_a_body_that_breaks_off_is_asked_for_again(tmp_path):
    with RangeServer(TINY, script=[Trouble(after=1000)]) as server:
        async with meowcat.Engine(MemoryJournal(), config=config()) as engine:
            result = await engine.download(server.url, tmp_path / "a")
            assert (await types(engine, result.task)).count("attempt-failed") == 1
        assert len(server.requests) == 2
    assert (tmp_path / "a").read_bytes() == TINY.bytes()


async def test_a_status_that_brings_nothing_leaves_nothing_behind(tmp_path):
    with RangeServer({"/there": TINY}) as server:
        async with meowcat.Engine(MemoryJournal(), config=config()) as engine:
            with pytest.raises(meowcat.TransferFailed) as failed:
                await engine.download(f"{server.origin}/nowhere", tmp_path / "a")
            assert failed.value.code == 109
    assert list(tmp_path.iterdir()) == []


async def test_a_target_that_another_task_owns_is_refused(tmp_path):
    with RangeServer(TINY) as server:
        async with meowcat.Engine(MemoryJournal(), config=config()) as engine:
            for number in range(5):  # the folder is watched by now
                await engine.download(server.url, tmp_path / str(number))
            (tmp_path / f"a.{OTHER}.part").write_bytes(b"of somebody else")
            with pytest.raises(meowcat.TransferFailed, match=OTHER):
                await engine.download(server.url, tmp_path / "a")
    assert sorted(each.name for each in tmp_path.glob("a*")) == [f"a.{OTHER}.part"]


async def test_a_target_of_a_paused_task_of_the_same_engine_is_refused(tmp_path):
    def stalled(seen):
        return Trouble(after=1 << 20, then="stall") if seen.path == "/large" else None

    with RangeServer({"/large": Content(20 << 20), "/small": TINY}, script=stalled) as server:
        async with meowcat.Engine(MemoryJournal(), config=config(read_timeout=30.0)) as engine:
            for number in range(5):  # the folder is watched by now
                await engine.download(f"{server.origin}/small", tmp_path / str(number))
            large = meowcat.Download(f"{server.origin}/large", str(tmp_path / "a"), key="one")
            task = await engine.submit(large)
            assert await server.until(lambda s: s.bytes_served() > 1 << 20)
            await task.pause()
            with pytest.raises(meowcat.TransferFailed, match=task.id):
                await engine.download(f"{server.origin}/small", tmp_path / "a", key="another")
            assert not (tmp_path / "a").exists()
            await task.cancel()


async def test_a_target_that_comes_to_be_meanwhile_is_left_as_it_is(tmp_path):
    class Sudden(OsDisk):
        def pwrite(self, fd, data, offset):
            (tmp_path / "a").write_bytes(b"first")
            return super().pwrite(fd, data, offset)

    with RangeServer(TINY) as server:
        async with meowcat.Engine(MemoryJournal(), config=config(), disk=Sudden()) as engine:
            with pytest.raises(meowcat.TransferFailed, match="exists by now"):
                await engine.download(server.url, tmp_path / "a")
            assert (tmp_path / "a").read_bytes() == b"first"


async def test_a_part_file_that_is_replaced_before_its_rename_is_fetched_again(tmp_path):
    looks = []

    class Meddling(OsDisk):
        def stat(self, path, *, follow=False):
            if path.endswith(".part"):
                looks.append(path)
                if len(looks) == 1:  # the look that comes before the rename
                    Path(path + "x").write_bytes(bytes(TINY.size))
                    self.rename(path + "x", path)
            return super().stat(path, follow=follow)

    with RangeServer(TINY) as server:
        async with meowcat.Engine(MemoryJournal(), config=config(), disk=Meddling()) as engine:
            with pytest.raises(meowcat.TransferFailed) as failed:
                await engine.download(server.url, tmp_path / "a")
            assert failed.value.code == 122
            assert not (tmp_path / "a").exists()
            await engine.retry(failed.value.task)
            await engine.drain()
    assert (tmp_path / "a").read_bytes() == TINY.bytes()


async def test_a_folder_that_is_missing_costs_no_request(tmp_path):
    with RangeServer(TINY) as server:
        async with meowcat.Engine(MemoryJournal(), config=config()) as engine:
            with pytest.raises(meowcat.TransferFailed, match="does not exist"):
                await engine.download(server.url, tmp_path / "no" / "a")
        assert len(server.requests) == 0


async def test_a_refused_append_keeps_the_reports_together_and_in_order(tmp_path):
    journal = Appends()
    journal.refuse = ["stored", "completed"]
    with RangeServer(TINY) as server:
        async with meowcat.Engine(journal, config=config()) as engine:
            await engine.download(server.url, tmp_path / "a")
        assert len(server.requests) == 1
    assert journal.refuse == []
    assert journal.batches[2:] == [["started", "stored", "publish-intended"], ["completed"]]
    assert (tmp_path / "a").read_bytes() == TINY.bytes()


@pytest.mark.parametrize("moment", ["head", "body"])
async def test_a_pause_before_the_bytes_have_come_is_taken_up_again(tmp_path, moment):
    stalled = Trouble(before="stall") if moment == "head" else Trouble(after=1000, then="stall")
    with RangeServer(TINY, script=[stalled]) as server:
        async with meowcat.Engine(MemoryJournal(), config=config(read_timeout=30)) as engine:
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
            assert await server.until(lambda s: len(s.requests) > 0)
            await task.pause()
            assert task.state == meowcat.State.PAUSED
            await task.resume()
            await task.result()
    assert (tmp_path / "a").read_bytes() == TINY.bytes()


async def test_hundreds_at_once_are_all_whole_and_each_has_its_history(tmp_path):
    contents = many(300)
    journal = Appends()
    with RangeServer(contents) as server:
        async with meowcat.Engine(journal, config=config(max_downloads=32, read_timeout=30)) as engine:
            tasks = await engine.submit_many(
                [meowcat.Download(server.origin + path, str(tmp_path / path[1:])) for path in contents]
            )
            await engine.drain()
            seen = [await types(engine, task) for task in tasks]
    assert {tuple(each) for each in seen} == {
        ("created", "admitted", "started", "stored", "publish-intended", "completed")
    }
    for path, content in contents.items():
        found = hashlib.sha256((tmp_path / path[1:]).read_bytes()).hexdigest()
        assert found == content.sha256
    assert len(list(tmp_path.iterdir())) == 300
    assert len(journal.batches) < 3 * 300


async def test_closing_in_the_middle_leaves_what_the_next_opening_takes_up(tmp_path):
    contents = many(60)
    where = tmp_path / "t.jsonl"
    with RangeServer(contents) as server:
        async with meowcat.Engine(where, config=config(max_downloads=8)) as engine:
            await engine.submit_many(
                [meowcat.Download(server.origin + path, str(tmp_path / path[1:])) for path in contents]
            )
            assert await server.until(lambda s: len(s.requests) > 10)
        async with meowcat.Engine(where, config=config(max_downloads=8)) as engine:
            await engine.drain()
            assert [task async for task in engine.tasks()] == []
    for path, content in contents.items():
        assert (tmp_path / path[1:]).read_bytes() == content.bytes()
    assert list(tmp_path.glob("*.part")) == []


async def test_as_many_as_there_are_slots_are_at_work_and_no_more(tmp_path):
    contents = many(40)
    with RangeServer(contents) as server:
        async with meowcat.Engine(MemoryJournal(), config=config(max_downloads=4)) as engine:
            await engine.submit_many(
                [meowcat.Download(server.origin + path, str(tmp_path / path[1:])) for path in contents]
            )
            await engine.drain()
            active, most, ended = set(), 0, 0
            async for each in engine.events():
                if isinstance(each.event, ev.Admitted):
                    active.add(each.task)
                elif isinstance(each.event, ev.PublishIntended):  # it is published without a slot
                    active.discard(each.task)
                    ended += 1
                most = max(most, len(active))
                if ended == len(contents):
                    break
    assert most == 4


class LateTurn:
    """Requests whose turn comes when the test says so."""

    def __init__(self):
        self.asked, self.comes = anyio.Event(), anyio.Event()
        self.most = None

    @asynccontextmanager
    async def turn(self):
        self.asked.set()
        await self.comes.wait()
        yield


class Generated(HttpRange):
    """A protocol whose requests are generators: to leave what was not entered would begin it."""

    tag = "generated"

    @asynccontextmanager
    async def ask(self, asked):
        async with super().ask(asked) as answer:
            yield answer


@pytest.mark.parametrize("protocol", [None, meowcat.ProtocolSpec("generated")], ids=["http", "generated"])
async def test_whoever_is_held_back_while_it_waits_for_its_turn_asks_for_nothing(
    tmp_path, anyio_backend_name, protocol
):
    reports, requests = [], LateTurn()
    with RangeServer(TINY) as server:
        request, secrets = seal(meowcat.Download(server.url, str(tmp_path / "a"), protocol=protocol))
        task = TaskState(id=OTHER, key="a", request=request, created=0, state=meowcat.State.PREPARING, run=1)
        async with world_of(anyio_backend_name) as plain:
            plugins = replace(plain.plugins, protocols=Protocols.with_own([Generated]))
            rounds = Rounds(plain.disk, plain.workers, "process")
            world = replace(plain, rounds=rounds, plugins=plugins)
            errand = Errand(task, secrets, reports.append, None, Throttle(), requests, Crowd())
            operation = operation_for(world, errand, Fetch(run=1, restarts=0))
            with anyio.move_on_after(5):
                async with anyio.create_task_group() as group:
                    group.start_soon(operation.run)
                    await requests.asked.wait()
                    operation.update(task, hold=True)
                    requests.comes.set()
        assert server.requests == []
    assert (reports, operation.quiet, list(tmp_path.iterdir())) == ([], True, [])


class Noted(HttpRange):
    """Notes which of its requests were entered, and left."""

    tag = "noted"

    @asynccontextmanager
    async def ask(self, asked):
        async with super().ask(asked) as answer:
            self.job.plan.append("entered")
            try:
                yield answer
            finally:
                self.job.plan.append("left")


@pytest.mark.parametrize(
    ("content", "trouble", "owned"),
    [
        (TINY, None, False),
        (TINY, Trouble(after=1000), False),
        (TINY, Trouble(status=404), False),
        (Content(6 << 20), None, False),
        (Content(6 << 20), None, True),
    ],
    ids=["small", "broken off", "refused", "large", "large and owned"],
)
async def test_a_request_is_left_whatever_came_of_it(tmp_path, anyio_backend_name, content, trouble, owned):
    steps, reports, scope = [], [], anyio.CancelScope()

    def report(message):
        reports.append(message)
        if isinstance(message, msg.Probed | msg.Brought):
            scope.cancel()  # nobody records it here, which would be waited for

    if owned:
        (tmp_path / "a.01JTASKAAAAAAAAAAAAAAAAAAA.part").touch()
    with RangeServer(content, script=[trouble] if trouble else []) as server:
        spec = meowcat.ProtocolSpec("noted")
        request, secrets = seal(meowcat.Download(server.url, str(tmp_path / "a"), protocol=spec))
        task = TaskState(id=OTHER, key="a", request=request, created=0, state=meowcat.State.PREPARING, run=1)
        async with world_of(anyio_backend_name) as plain:
            plugins = replace(plain.plugins, protocols=Protocols.with_own([Noted]))
            rounds = Rounds(plain.disk, plain.workers, "process")
            world = replace(plain, rounds=rounds, plugins=plugins)
            share = Traffic(world.budget, 64, world.clock).share(task.id, "host", None)
            errand = Errand(task, replace_secrets(secrets, plan=steps), report, None, share, share, Crowd())
            with anyio.fail_after(10), scope:
                await operation_for(world, errand, Fetch(run=1, restarts=0)).run()
    assert reports
    assert steps.count("entered") == steps.count("left") > 0
