"""Listeners: told of what happens, isolated from everything else."""

import asyncio
import subprocess
import sys
import threading
import time

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

import meowcat
from meowcat.runtime import listeners
from meowcat.testing.content import Content
from meowcat.testing.range_server import RangeServer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

MIB = 1 << 20


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


class Ear:
    """A listener that keeps what it heard."""

    def __init__(self) -> None:
        self.heard: list[meowcat.TaskInfo] = []
        self.threads: set[str] = set()
        self.at: list[float] = []
        self.changed = threading.Condition()

    def __call__(self, info: meowcat.TaskInfo) -> None:
        with self.changed:
            self.heard.append(info)
            self.at.append(time.monotonic())
            self.threads.add(threading.current_thread().name)
            self.changed.notify_all()

    @property
    def states(self) -> list[str]:
        return [str(info.state) for info in self.heard]

    async def until(self, condition) -> None:
        def wait() -> bool:
            with self.changed:
                return self.changed.wait_for(lambda: condition(self), 20)

        assert await anyio.to_thread.run_sync(wait), self.states

    async def hears(self, state: str) -> None:
        await self.until(lambda at: state in at.states)


def config(**changes) -> meowcat.Config:
    return meowcat.Config(**({"piece_size": 256 << 10, "flush_seconds": 0.02} | changes))


async def test_an_engine_wide_listener_hears_of_each_task_from_its_creation_to_its_end(tmp_path):
    ear = Ear()
    with RangeServer(Content(MIB)) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            engine.add_listener(ear)
            for name in "ab":
                await engine.download(server.url, tmp_path / name)
            await ear.until(lambda at: at.states.count("Complete") == 2)
    assert ear.states[0] == "Queued"
    assert {info.path for info in ear.heard} == {str(tmp_path / "a"), str(tmp_path / "b")}
    assert ear.threads == {"meowcat-listener"}


async def test_the_listener_of_one_task_begins_with_its_present_state(tmp_path):
    ear, other = Ear(), Ear()
    with RangeServer(Content(MIB)) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")), paused=True)
            task.add_listener(ear)
            await ear.hears("Paused")
            engine.add_listener(other, task=str(task.id))
            await other.hears("Paused")
            await engine.download(server.url, tmp_path / "b")
            await task.resume()
            await task.result()
            await ear.hears("Complete")
            late = Ear()
            task.add_listener(late)
            await late.hears("Complete")
    assert {info.id for info in ear.heard} == {task.id}
    assert late.states == ["Complete"]


async def test_a_task_that_nobody_has_touched_since_the_opening_is_read_for_its_listener(tmp_path):
    ear = Ear()
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        request = meowcat.Download("http://localhost/x", str(tmp_path / "a"))
        (task,) = await engine.submit_many([request], paused=True)
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        engine.add_listener(ear, task=task)
        await ear.hears("Paused")


@pytest.mark.parametrize("interval", [listeners.PROGRESS_INTERVAL, 3600.0])
async def test_progress_comes_at_most_ten_times_a_second(tmp_path, monkeypatch, interval):
    """The first and the last state are told at once, and a call may be held up until the next one is due."""
    monkeypatch.setattr(listeners, "PROGRESS_INTERVAL", interval)
    ear = Ear()
    with RangeServer(Content(8 * MIB), rate=8 * MIB) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            engine.add_listener(ear)
            await engine.download(server.url, tmp_path / "a")
            await ear.hears("Complete")
    moving = [at for at, info in zip(ear.at, ear.heard, strict=True) if info.state == "Running"]
    assert len(moving) <= (moving[-1] - moving[0]) / interval + 3
    assert len(moving) > 2 or interval > 1
    done = [info.bytes_done for info in ear.heard]
    assert done == sorted(done)


async def test_a_listener_that_raises_is_called_again_and_hurts_nobody(tmp_path, caplog):
    heard = Ear()

    def raises(info: meowcat.TaskInfo) -> None:
        heard(info)
        raise SystemExit if info.state == "Queued" else RuntimeError("no")

    with RangeServer(Content(MIB)) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            engine.add_listener(raises)
            await engine.download(server.url, tmp_path / "a")
            await heard.hears("Complete")
    assert "a listener raised" in caplog.text


async def test_a_listener_that_blocks_delays_no_transfer_no_other_listener_and_no_close(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(listeners, "DRAIN_WITHIN", 2.0)
    release, entered, ear = threading.Event(), threading.Event(), Ear()

    def blocks(info: meowcat.TaskInfo) -> None:
        entered.set()
        release.wait(30)

    try:
        with RangeServer(Content(MIB)) as server:
            async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
                engine.add_listener(blocks)
                engine.add_listener(ear)
                begun = time.monotonic()
                for name in "abc":
                    await engine.download(server.url, tmp_path / name)
                await ear.until(lambda at: at.states.count("Complete") == 3)
                assert entered.is_set()
            assert time.monotonic() - begun < 20  # it blocks for longer than that
    finally:
        release.set()
    assert "1 listeners did not return" in caplog.text


async def test_a_busy_listener_is_told_the_newest_state_and_the_end(tmp_path):
    release, ear = threading.Event(), Ear()

    def slow(info: meowcat.TaskInfo) -> None:
        ear(info)
        release.wait(20)

    with RangeServer(Content(4 * MIB)) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            engine.add_listener(slow)
            await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
            await ear.hears("Queued")
            await engine.drain()
            release.set()
            await ear.hears("Complete")
    assert len(ear.heard) <= 4


async def test_what_is_pending_at_close_is_told(tmp_path):
    release, ear = threading.Event(), Ear()

    def slow(info: meowcat.TaskInfo) -> None:
        release.wait(20)
        ear(info)

    with RangeServer(Content(MIB)) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            engine.add_listener(slow)
            await engine.download(server.url, tmp_path / "a")
            release.set()
    assert ear.states[-1] == "Complete"


async def test_an_end_for_which_there_was_no_thread_is_told_at_close(tmp_path, monkeypatch):
    ear, begin = Ear(), threading.Thread.start

    def refuse(thread):
        if thread.name == "meowcat-listener":
            raise RuntimeError("can't start new thread")
        begin(thread)

    async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
        task = await engine.submit(meowcat.Download("http://127.0.0.1:9/x", str(tmp_path / "x")), paused=True)
        engine.add_listener(ear)
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            await task.cancel()
        assert ear.states == []
    assert ear.states == ["Canceled"]


async def test_a_closed_subscription_hears_no_more(tmp_path):
    ear, other = Ear(), Ear()
    with RangeServer(Content(MIB)) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            engine.add_listener(other)
            with engine.add_listener(ear) as subscription:
                await engine.download(server.url, tmp_path / "a")
                await ear.hears("Complete")
            subscription.close()
            count = len(ear.heard)
            await engine.download(server.url, tmp_path / "b")
            await other.until(lambda at: at.states.count("Complete") == 2)
    assert len(ear.heard) == count


async def test_a_listener_may_close_its_own_subscription(tmp_path):
    ear = Ear()

    def once(info: meowcat.TaskInfo) -> None:
        ear(info)
        subscription.close()

    with RangeServer(Content(MIB)) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            subscription = engine.add_listener(once)
            await engine.download(server.url, tmp_path / "a")
    assert ear.states == ["Queued"]


async def test_what_is_no_listener_is_refused(tmp_path):
    async def coroutine(info): ...

    async with meowcat.Engine(tmp_path / "t.db") as engine:
        for wrong in (coroutine, None, "print"):
            with pytest.raises(meowcat.InvalidArgument):
                engine.add_listener(wrong)
        with pytest.raises(meowcat.TaskNotFound):
            engine.add_listener(print, task="01K00000000000000000000000")


def ways_to_close(engine, way):
    """How the thread of a listener may try to close the engine, or to call it blocking."""
    loop, token, portal = way
    if loop is not None:
        yield lambda: asyncio.run_coroutine_threadsafe(engine.close(), loop).result(10)
    yield lambda: anyio.from_thread.run(engine.close, token=token)
    yield lambda: portal.call(engine.close)
    yield listeners.refuse_inside_listener


async def test_closing_from_inside_a_listener_is_refused_at_once(tmp_path, anyio_backend):
    refused, over = [], threading.Event()
    loop = asyncio.get_running_loop() if anyio_backend == "asyncio" else None
    token = anyio.lowlevel.current_token()

    def closes(info: meowcat.TaskInfo) -> None:
        try:
            for close in ways_to_close(engine, (loop, token, portal)):
                try:
                    close()
                except meowcat.WouldDeadlock as error:
                    refused.append(str(error))
        finally:
            over.set()

    listeners.refuse_inside_listener()  # out here nothing is refused
    async with anyio.from_thread.BlockingPortal() as portal, meowcat.Engine(tmp_path / "t.db") as engine:
        engine.add_listener(closes)
        request = meowcat.Download("http://localhost/x", str(tmp_path / "a"))
        await engine.submit(request, paused=True)
        assert await anyio.to_thread.run_sync(over.wait, 20)
        assert len([each async for each in engine.tasks()]) == 1
    assert len(refused) == (4 if loop is not None else 3)
    assert "set an event" in refused[0]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_another_engine_may_be_used_inside_a_listener(tmp_path):
    results = []

    async def follow_up(url: str) -> None:
        async with meowcat.Engine() as other:
            results.append(await other.download(url, tmp_path / "follow-up"))

    with RangeServer(Content(MIB)) as server:

        def listener(info: meowcat.TaskInfo) -> None:
            if info.state == "Complete":
                asyncio.run(follow_up(server.url))
                ear(info)

        ear = Ear()
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            engine.add_listener(listener)
            await engine.download(server.url, tmp_path / "a")
            await ear.hears("Complete")
    assert len(results) == 1


HANGING = """
import asyncio, sys, threading
import meowcat
from meowcat.runtime import delivery, listeners
delivery.CLOSE_WITHIN = listeners.DRAIN_WITHIN = 0.2
entered = [threading.Event(), threading.Event()]

def hangs(which):
    entered[which].set()
    threading.Event().wait()

async def main():
    async with meowcat.Engine() as engine:
        engine.add_listener(lambda info: hangs(0))
        await engine.add_sink("audit", meowcat.callback(lambda event: hangs(1)))
        await engine.submit(meowcat.Download("http://localhost/x", sys.argv[1]), paused=True)
        for each in entered:
            await asyncio.to_thread(each.wait, 20)
    print("closed")

asyncio.run(main())
"""


def test_a_listener_and_a_sink_that_never_return_do_not_keep_the_interpreter_from_exiting(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", HANGING, tmp_path / "a"],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (0, "closed\n"), done.stderr
