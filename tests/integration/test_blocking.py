"""The blocking engine on a real server: from one thread and many, with and without loops around it."""

import asyncio
import gc
import os
import queue
import signal
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from shelf import Shelf, ShelfProtocol, spec

import meowcat
from journal_adapters.sqlite import SQLiteJournal
from meowcat.blocking.loop import LoopThread
from meowcat.core import events as ev
from meowcat.runtime import delivery
from meowcat.testing.content import Content
from meowcat.testing.range_server import RangeServer

pytestmark = pytest.mark.timeout(180)

MIB = 1 << 20
BIG = Content(8 * MIB)


def config(**changes) -> meowcat.Config:
    return meowcat.Config(**({"piece_size": 256 << 10, "flush_seconds": 0.02, "read_timeout": 2} | changes))


@pytest.fixture
def engine(tmp_path):
    with meowcat.blocking.Engine(tmp_path / "t.db", config=config()) as engine:
        yield engine


@pytest.fixture
def slow():
    with RangeServer(BIG, rate=4 * MIB) as server:
        yield server


def reach(task, size):
    for progress in task.progress():
        if progress.bytes_done >= size:
            return


def test_a_download_is_whole_and_in_the_journal(tmp_path, engine):
    with RangeServer(BIG) as server:
        result = engine.download(server.url, tmp_path / "a", checksum=f"sha256:{BIG.sha256}")
    assert (tmp_path / "a").read_bytes() == BIG.bytes()
    task = engine.task(result.task)
    assert (task.id, task.state, task.info.size) == (result.task, meowcat.State.COMPLETE, BIG.size)
    history = list(task.history())
    assert isinstance(history[-1].event, ev.Completed)
    assert [logged.position for logged in history] == list(range(1, len(history) + 1))
    assert [info.id for info in engine.tasks(state="Complete")] == [task.id]


def test_a_handle_does_all_that_an_async_one_does(tmp_path, engine, slow):
    task = engine.submit(meowcat.Download(slow.url, str(tmp_path / "a")))
    reach(task, MIB)
    task.pause()
    assert task.state == meowcat.State.PAUSED
    with pytest.raises(meowcat.InvalidTaskState):
        task.pause()
    task.resume()
    task.cancel()
    with pytest.raises(meowcat.TransferCanceled):
        task.result()
    with pytest.raises(meowcat.TaskNotFound):
        task.retry()
    assert "Canceled" in repr(task)


def test_progress_ends_at_the_end(tmp_path, engine):
    with RangeServer(BIG, rate=16 * MIB) as server:
        seen = list(engine.submit(meowcat.Download(server.url, str(tmp_path / "a"))).progress())
    assert seen[-1].state == meowcat.State.COMPLETE
    assert [each.bytes_done for each in seen] == sorted(each.bytes_done for each in seen)


def test_an_upload_is_whole_and_says_what_the_server_said(tmp_path):
    shelf = Shelf("blocking.example")
    (tmp_path / "a").write_bytes(BIG.bytes())
    with meowcat.blocking.Engine("memory:", config=config(), protocols=[ShelfProtocol]) as engine:
        result = engine.upload(tmp_path / "a", shelf.url, protocol=spec(), timeout=30)
        assert engine.task(result.task).info.remote == result.remote == {"etag": result.remote["etag"]}
    assert shelf.objects[shelf.url][0] == BIG.bytes()


class Sixteen:
    """A source of the application's own."""

    def size(self):
        return 16

    def identity(self):
        return "1"

    def read(self, offset, size):
        return b"sixteen bytes..."[offset : offset + size]


def test_an_upload_waits_for_its_source_until_that_is_added(tmp_path):
    shelf = Shelf("waiting.example")
    with meowcat.blocking.Engine("memory:", config=config(), protocols=[ShelfProtocol]) as engine:
        with pytest.raises(TimeoutError):
            engine.upload("blob", shelf.url, protocol=spec(), origin="named", timeout=0)
        task = engine.submit(meowcat.Upload("blob", shelf.url, spec(), origin="named"))
        engine.drain()
        assert (task.info.waiting_for, task.info.needs) == ("supply", ("source:blob",))
        engine.add_source("blob", Sixteen())
        assert task.result(timeout=30).size == 16
    assert shelf.objects[shelf.url][0] == b"sixteen bytes..."


def test_many_at_once(tmp_path, engine):
    requests = [meowcat.Download("http://localhost/", str(tmp_path / str(n))) for n in range(2500)]
    ids = engine.submit_many(requests, paused=True)
    assert [info.id for info in engine.tasks()] == ids
    assert sorted(engine.cancel_many(state="Paused")) == sorted(ids)
    events = engine.events(after=2499)
    assert [next(events).position for _ in range(2501)] == list(range(2500, 5001))
    assert engine.snapshot().states == {}
    assert engine.quarantined() == {}
    assert engine.submit_nowait(requests[0], paused=True).state == meowcat.State.PAUSED


def test_events_wait_for_what_happens_in_other_threads(tmp_path, engine):
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(next, engine.events())
        task = engine.submit(meowcat.Download("http://localhost/", str(tmp_path / "a")), paused=True)
        assert first.result(20).task == task.id


def test_many_threads_use_one_engine(tmp_path):
    contents = {f"/{number}": Content(100_000, seed=number) for number in range(40)}
    with (
        RangeServer(contents) as server,
        meowcat.blocking.Engine(tmp_path / "t.db", config=config(max_downloads=8)) as engine,
        ThreadPoolExecutor(16) as pool,
    ):
        results = pool.map(lambda n: engine.download(f"{server.origin}/{n}", tmp_path / str(n)), range(40))
        assert {result.size for result in results} == {100_000}
    for number in range(40):
        assert (tmp_path / str(number)).read_bytes() == contents[f"/{number}"].bytes()


def test_threads_share_one_iterator_without_losing_or_doubling(tmp_path, engine):
    requests = [meowcat.Download("http://localhost/", str(tmp_path / str(n))) for n in range(500)]
    engine.submit_many(requests, paused=True)
    task = engine.task(next(engine.tasks()).id)
    for _ in range(50):
        task.resume()
        task.pause()
    history = task.history()
    with ThreadPoolExecutor(8) as pool:
        seqs = [n for part in pool.map(lambda _: [each.seq for each in history], range(8)) for n in part]
    assert sorted(seqs) == list(range(1, len(seqs) + 1))
    assert len(seqs) >= 101


def test_one_thread_opens_and_another_closes(tmp_path):
    engine = meowcat.blocking.Engine(tmp_path / "t.db")
    for step in (engine.open, engine.snapshot, engine.close, engine.close):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    with pytest.raises(meowcat.EngineClosed):
        engine.snapshot()
    with pytest.raises(meowcat.EngineClosed):
        engine.open()


def test_an_engine_that_is_not_open_says_how_to_open_it(tmp_path):
    engine = meowcat.blocking.Engine(tmp_path / "t.db")
    with pytest.raises(meowcat.EngineClosed, match="with"):
        engine.snapshot()
    engine.close()
    with engine:
        engine.snapshot()


def test_an_opening_that_failed_may_be_tried_again(tmp_path):
    second = meowcat.blocking.Engine(tmp_path / "t.db")
    with meowcat.blocking.Engine(tmp_path / "t.db") as first:
        with pytest.raises(meowcat.JournalOwned):
            second.open()
        with pytest.raises(meowcat.EngineClosed):
            second.snapshot()
        assert first.snapshot().states == {}
    with second:
        assert second.snapshot().states == {}


def test_an_engine_without_a_journal_waits_for_its_tasks(tmp_path):
    with RangeServer(BIG, rate=32 * MIB) as server, meowcat.blocking.Engine(config=config()) as engine:
        engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
    assert (tmp_path / "a").read_bytes() == BIG.bytes()


def test_leaving_a_block_that_was_closed_inside_is_no_error():
    with meowcat.blocking.Engine() as engine:
        engine.close()


def test_closing_requeues_what_runs_and_wakes_who_waits(tmp_path, slow):
    engine = meowcat.blocking.Engine(tmp_path / "t.db", config=config()).open()
    task = engine.submit(meowcat.Download(slow.url, str(tmp_path / "a")))
    reach(task, MIB)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(task.result), pool.submit(engine.drain), pool.submit(list, engine.events())]
        engine.close()
        for each in waiting:
            assert isinstance(each.exception(20), meowcat.EngineClosed)
    assert task.state == meowcat.State.QUEUED
    with meowcat.blocking.Engine(tmp_path / "t.db", on_restart="pause") as again:
        assert any(isinstance(each.event, ev.Requeued) for each in again.history(task.id))


# Waiting


@pytest.mark.parametrize("call", ["result", "drain", "download"])
def test_who_does_not_wait_longer_leaves_the_task_going(tmp_path, engine, slow, call):
    request = meowcat.Download(slow.url, str(tmp_path / "a"))
    task = engine.submit(request)
    calls = {
        "result": lambda: task.result(timeout=0.2),
        "drain": lambda: engine.drain(timeout=0.2),
        "download": lambda: engine.download(request.url, request.to, timeout=0.2),
    }
    with pytest.raises(TimeoutError, match=r"within 0[.]2 s"):
        calls[call]()
    assert task.state in (meowcat.State.QUEUED, meowcat.State.PREPARING, meowcat.State.RUNNING)
    assert task.result(timeout=30).size == BIG.size
    assert task.result(timeout=0).size == BIG.size


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_time_out_that_makes_no_sense_is_refused(engine, timeout):
    with pytest.raises(meowcat.InvalidArgument, match="timeout"):
        engine.drain(timeout)


# Ctrl-C (more of it in test_blocking_exit)


class Gated(SQLiteJournal):
    """Its appends wait at a gate."""

    def __init__(self, path):
        super().__init__(path)
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()

    def append(self, batch):
        self.entered.set()
        assert self.gate.wait(20)
        return super().append(batch)


@pytest.fixture
def interrupt_when():
    """Sends this process a SIGINT once a claim holds."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with ThreadPoolExecutor(1) as pool:

        def wait_and_interrupt(claim) -> None:
            while not claim():
                threading.Event().wait(0.001)
            os.kill(os.getpid(), signal.SIGINT)

        yield lambda claim: pool.submit(wait_and_interrupt, claim)
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_command_happens_as_a_whole_or_not_at_all(tmp_path, interrupt_when):
    journal = Gated(tmp_path / "t.db")
    a, b, c, d = (meowcat.Download("http://localhost/", str(tmp_path / name)) for name in "abcd")
    with meowcat.blocking.Engine(journal, config=config(queue_capacity=1)) as engine:
        runtime = engine._inner._runtime
        journal.gate.clear()
        journal.entered.clear()
        interrupt_when(journal.entered.is_set)
        with pytest.raises(KeyboardInterrupt):
            engine.submit(a, paused=True)  # it has begun: it is seen through
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(engine.submit, b, paused=True)
            while runtime.room.value:
                threading.Event().wait(0.001)
            interrupt_when(lambda: runtime.room.statistics().tasks_waiting)
            with pytest.raises(KeyboardInterrupt):
                engine.submit(c, paused=True)  # it waits for room, and has not begun
            journal.gate.set()
            other.result(20)
        engine.submit(d, paused=True)  # rooms are given in the order of asking
        assert [info.path for info in engine.tasks()] == [a.to, b.to, d.to]


# Loops around it


def test_it_works_inside_a_running_loop_which_it_blocks(tmp_path, engine):
    async def main() -> int:
        with RangeServer(Content(1000)) as server:
            return engine.download(server.url, tmp_path / "a").size

    assert asyncio.run(main()) == 1000


def test_it_works_beside_an_async_engine(tmp_path, engine):
    async def main() -> list[int]:
        with RangeServer(Content(1000)) as server:
            async with meowcat.Engine(tmp_path / "async.db") as other:
                async with asyncio.TaskGroup() as group:
                    one = group.create_task(other.download(server.url, tmp_path / "a"))
                    two = group.create_task(asyncio.to_thread(engine.download, server.url, tmp_path / "b"))
                return [one.result().size, two.result().size]

    assert asyncio.run(main()) == [1000, 1000]


def test_a_call_from_the_engines_own_thread_is_refused_at_once(tmp_path):
    with meowcat.blocking.Engine(tmp_path / "t.db") as engine:
        engine.submit(meowcat.Download("http://localhost/", str(tmp_path / "a")))
    refused = []

    def ask(info) -> bool:
        for call in (engine.snapshot, engine.drain, engine.close, engine.open, engine.tasks):
            with pytest.raises(meowcat.WouldDeadlock) as deadlock:
                call()
            refused.append(deadlock.value.code)
        return False

    engine = meowcat.blocking.Engine(tmp_path / "t.db", on_restart=ask)
    with engine:
        assert [info.state for info in engine.tasks()] == ["Paused"]
    assert refused == [112] * 5


# What nobody closed


def test_a_dropped_engine_is_closed(tmp_path, slow):
    engine = meowcat.blocking.Engine(tmp_path / "t.db", config=config()).open()
    task = engine.submit(meowcat.Download(slow.url, str(tmp_path / "a")))
    name = task.id
    reach(task, MIB)
    thread = engine._thread._thread
    with pytest.warns(ResourceWarning, match="not closed"):  # noqa: PT031  # whichever of the two collects it
        del engine, task
        for _ in range(400):  # its own thread may hold it for a moment longer
            gc.collect()
            thread.join(0.05)
            if not thread.is_alive():
                break
    with meowcat.blocking.Engine(tmp_path / "t.db", on_restart="pause") as again:
        assert any(isinstance(each.event, ev.Requeued) for each in again.history(name))


def test_a_handle_and_an_iterator_keep_their_engine(tmp_path):
    engine = meowcat.blocking.Engine("memory:").open()
    task = engine.submit(meowcat.Download("http://localhost/", str(tmp_path / "a")), paused=True)
    history = task.history()
    closing = engine.close
    del engine
    gc.collect()
    task.cancel()
    del task
    gc.collect()
    assert isinstance(next(history).event, ev.Created)
    closing()


def test_a_closed_engine_says_nothing_when_it_is_collected():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with meowcat.blocking.Engine():
            pass
        gc.collect()


def test_no_thread_outlives_its_engine():
    with meowcat.blocking.Engine("memory:"):
        names = ("meowcat-loop", "meowcat-journal")
        threads = [thread for thread in threading.enumerate() if thread.name in names]
    assert {thread.name for thread in threads} == set(names)
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_a_blocking_call_from_inside_a_listener_is_refused_at_once(tmp_path, engine):
    refused = queue.SimpleQueue()

    def listen(info):
        for call in (engine.snapshot, engine.close, lambda: engine.pause(info.id)):
            try:
                call()
            except meowcat.WouldDeadlock as error:
                refused.put(str(error))

    with engine.add_listener(listen):
        engine.submit(meowcat.Download("http://127.0.0.1:9/x", str(tmp_path / "a")), paused=True)
        told = [refused.get(timeout=10) for _ in range(3)]
    assert all("a listener" in each for each in told)
    engine.snapshot()


def test_a_close_from_inside_a_sink_is_refused_at_once(tmp_path, engine, monkeypatch):
    monkeypatch.setattr(delivery, "CLOSE_WITHIN", 40)
    refused = queue.SimpleQueue()

    def close(event) -> None:
        try:
            engine.close()
        except meowcat.WouldDeadlock as error:
            refused.put(error)

    engine.add_sink("all", meowcat.callback(close))
    engine.submit(meowcat.Download("http://localhost/", str(tmp_path / "a")), paused=True)
    assert "sink 'all'" in str(refused.get(timeout=20))  # a close would wait for the sink


def test_sinks_and_listeners_serve_synchronous_code(tmp_path, engine):
    delivered, told = queue.SimpleQueue(), queue.SimpleQueue()
    engine.add_sink("all", meowcat.callback(delivered.put))
    with RangeServer(BIG) as server:
        task = engine.submit(meowcat.Download(server.url, str(tmp_path / "a")), paused=True)
        task.add_listener(told.put)
        task.resume()
        task.result(timeout=30)
    kinds = []
    while "Completed" not in kinds:
        kinds.append(type(delivered.get(timeout=10).event).__name__)
    assert kinds[0] == "Created"
    states = []
    while meowcat.State.COMPLETE not in states:
        states.append(told.get(timeout=10).state)
    engine.remove_sink("all")
    assert engine.snapshot().sinks == {}


def test_a_call_that_comes_in_the_last_turn_of_the_loop_is_told_that_the_engine_is_closed():
    outcomes = queue.Queue()

    async def work():
        return "done"

    def call():
        try:
            outcomes.put(loop.run(work))
        except meowcat.EngineClosed as closed:
            outcomes.put(closed)

    handed_over = threading.Event()

    class Handing(LoopThread):
        def _hand_over(self, call):
            super()._hand_over(call)
            handed_over.set()

    async def finish():
        caller.start()
        handed_over.wait()  # without a turn of the loop in between

    loop = Handing(finish)
    caller = threading.Thread(target=call, daemon=True)
    loop.end()
    assert isinstance(outcomes.get(timeout=20), meowcat.EngineClosed)
