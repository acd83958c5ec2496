"""What happens at the same moment: nothing is wedged, doubled or forgotten by it."""

import logging
import sqlite3
import threading
import time
from contextlib import suppress
from functools import partial

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import pytest

import meowcat
from journal_adapters.sqlite import SQLiteJournal
from meowcat.testing.content import Content
from meowcat.testing.exchanges import Trouble
from meowcat.testing.range_server import RangeServer
from meowcat.transfer.disk import OsDisk

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]  # a wedged engine ends its test early

MIB = 1 << 20
BIG = Content(4 * MIB)


@pytest.fixture
def anyio_backend():
    return "asyncio"


def config(**changes) -> meowcat.Config:
    return meowcat.Config(**({"piece_size": 256 << 10, "flush_seconds": 0.02, "read_timeout": 5} | changes))


@pytest.fixture
def no_pause(monkeypatch):
    """A journal that can't be read is read again at once."""
    monkeypatch.setattr("meowcat.runtime.appends.REFUSED_PAUSE", (0.0, 0.0))


class SlowDisk(OsDisk):
    """A busy disk: each sync takes its time."""

    def fdatasync(self, fd):
        time.sleep(0.4)
        super().fdatasync(fd)


class Gate:
    """Where a thread waits until the test lets it pass."""

    def __init__(self) -> None:
        self.reached, self._open = threading.Event(), threading.Event()

    def open(self) -> None:
        self._open.set()

    def wait(self) -> None:
        self.reached.set()
        assert self._open.wait(20)


async def canceled_at(gate: Gate, call) -> None:
    """Call it, and cancel that while it is held up at the gate."""
    async with anyio.create_task_group() as group:
        group.start_soon(call)
        assert await anyio.to_thread.run_sync(gate.reached.wait, 20)
        group.cancel_scope.cancel()
        gate.open()


class SlowJournal(SQLiteJournal):
    """Appends take `pause` seconds; reads and appends fail as often as they are told to."""

    pause = 0.0
    gate: Gate | None = None
    """That the next append waits at."""
    rejected = 0
    uncertain = 0
    unheard = 0
    """Appends that are stored, and whose outcome is not told."""
    shut = 0
    unreadable = 0
    unreadable_after = 0
    """Reads that fail, once it was not told what became of an append and it was shut for a while."""

    def append(self, batch):
        time.sleep(self.pause)
        if self.gate is not None:
            gate, self.gate = self.gate, None
            gate.wait()
        if self.rejected:
            self.rejected -= 1
            raise meowcat.JournalRejected("no space")
        if self.uncertain:
            self.uncertain -= 1
            raise OSError("the disk did not answer")
        position = super().append(batch)
        if self.unheard:
            self.unheard -= 1
            raise OSError("the disk did not answer")
        return position

    def reopen(self):
        if self.shut:
            self.shut -= 1
            raise OSError("the disk still does not answer")
        return super().reopen()

    def read(self, task, after=0):
        if self.unreadable_after and not (self.unheard or self.shut):
            self.unreadable_after -= 1
            raise meowcat.JournalAccess("not now")
        if self.unreadable:
            self.unreadable -= 1
            raise meowcat.JournalAccess("not now")
        return super().read(task, after)


async def reach(task, size):
    async for progress in task.progress():
        if progress.bytes_done >= size:
            return


async def test_resumed_while_the_old_run_still_unwinds(tmp_path):
    with RangeServer(BIG, rate=MIB) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config(), disk=SlowDisk()) as engine:
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
            await reach(task, MIB)
            await task.pause()
            await task.resume()
            server.rate.rate = None
            with anyio.fail_after(30):
                await task.result()


async def test_a_memory_engine_ends_when_its_last_task_has_failed(tmp_path):
    with RangeServer({"/x": BIG}) as server:
        with anyio.fail_after(10):
            async with meowcat.Engine(config=config()) as engine:
                await engine.submit(meowcat.Download(server.origin + "/none", str(tmp_path / "a")))


async def test_many_canceled_twice_at_once(tmp_path):
    journal = SlowJournal(tmp_path / "t.db")
    async with meowcat.Engine(journal, config=config()) as engine:
        ids = await engine.submit_many(
            [meowcat.Download("http://localhost/", str(tmp_path / str(n))) for n in range(20)], paused=True
        )
        journal.pause = 0.1
        canceled: list[str] = []

        async def cancel() -> None:
            canceled.extend(await engine.cancel_many())

        async with anyio.create_task_group() as group:
            group.start_soon(cancel)
            group.start_soon(cancel)
        assert sorted(canceled) == sorted(ids)
        assert await engine.submit(meowcat.Download("http://localhost/", str(tmp_path / "z")), paused=True)


async def test_a_doubtful_submit_poisons_nothing(tmp_path):
    journal = SlowJournal(tmp_path / "t.db")
    with RangeServer(BIG) as server:
        async with meowcat.Engine(journal, config=config()) as engine:
            journal.uncertain = journal.shut = 1
            with pytest.raises(meowcat.JournalError):
                await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
            await engine.download(server.url, tmp_path / "a")


async def test_what_a_doubtful_submit_has_stored_is_known(tmp_path, no_pause):
    journal = SlowJournal(tmp_path / "t.db")
    request = meowcat.Download("http://localhost/", str(tmp_path / "a"))
    async with meowcat.Engine(journal, config=config()) as engine:
        journal.unheard = journal.shut = 1
        task = await engine.submit(request, paused=True)
        assert (await engine.submit(request, paused=True)).id == task.id
    async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
        assert [info.id async for info in engine.tasks()] == [task.id]


async def test_what_a_doubtful_command_for_many_has_stored_is_known(tmp_path, no_pause):
    journal = SlowJournal(tmp_path / "t.db")
    requests = [meowcat.Download("http://localhost/", str(tmp_path / str(n))) for n in range(3)]
    async with meowcat.Engine(journal, config=config()) as engine:
        ids = await engine.submit_many(requests, paused=True)
        journal.unheard, journal.shut = 1, 2
        assert await engine.cancel_many() == ids
        assert (await engine.task(ids[0])).state == "Canceled"
        assert [info.id async for info in engine.tasks()] == []


async def test_what_a_doubtful_command_has_stored_is_known_once_it_can_be_read(tmp_path, no_pause):
    journal = SlowJournal(tmp_path / "t.db")
    async with meowcat.Engine(journal, config=config()) as engine:
        task = await engine.submit(meowcat.Download("http://localhost/", str(tmp_path / "a")), paused=True)
        engine._runtime.dispatcher.outdate(task.id)
        journal.unheard, journal.shut, journal.unreadable_after = 1, 1, 2
        assert await engine.cancel_many() == [task.id]
        assert journal.unreadable_after == 0
        assert [info.id async for info in engine.tasks()] == []


async def test_a_command_for_many_that_was_not_stored_after_all_says_so(tmp_path, no_pause):
    journal = SlowJournal(tmp_path / "t.db")
    requests = [meowcat.Download("http://localhost/", str(tmp_path / str(n))) for n in range(3)]
    async with meowcat.Engine(journal, config=config()) as engine:
        ids = await engine.submit_many(requests, paused=True)
        journal.uncertain = journal.shut = 1
        with pytest.raises(meowcat.JournalRejected, match="not stored"):
            await engine.cancel_many()
        assert await engine.cancel_many() == ids


async def test_a_submit_that_meets_a_journal_in_doubt_waits_for_it_as_well(tmp_path, no_pause):
    journal = SlowJournal(tmp_path / "t.db")
    outcomes = {}
    async with meowcat.Engine(journal, config=config()) as engine:

        async def submit(name) -> None:
            try:
                request = meowcat.Download("http://localhost/", str(tmp_path / name))
                outcomes[name] = (await engine.submit(request, paused=True)).state
            except meowcat.JournalRejected:
                outcomes[name] = "not stored"

        journal.uncertain, journal.shut = 1, 1 << 30
        async with anyio.create_task_group() as group:
            group.start_soon(submit, "in doubt")
            while engine._runtime.writer.poisoned is None:
                await anyio.lowlevel.checkpoint()
            group.start_soon(submit, "after it")
            for _ in range(100):
                await anyio.lowlevel.checkpoint()
            assert outcomes == {}
            journal.shut = 0
    assert outcomes == {"in doubt": "not stored", "after it": "Paused"}


async def test_who_waits_hears_of_a_lost_journal_and_of_a_close(tmp_path, usurp):
    heard = []

    async def wait(task) -> None:
        try:
            await task.result()
        except meowcat.MeowcatError as error:
            heard.append(type(error))

    with RangeServer(BIG, rate=MIB) as server, anyio.fail_after(20):
        async with (
            anyio.create_task_group() as group,
            meowcat.Engine(tmp_path / "t.db", config=config()) as engine,
        ):
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
            await reach(task, 1)
            group.start_soon(wait, task)
            await anyio.wait_all_tasks_blocked()
            usurp(tmp_path / "t.db")
            while not heard:  # of the next thing that would be recorded, before the close
                await anyio.lowlevel.checkpoint()
        async with (
            anyio.create_task_group() as group,
            meowcat.Engine(tmp_path / "u.db", config=config()) as engine,
        ):
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "b")))
            group.start_soon(wait, task)
            await anyio.wait_all_tasks_blocked()
    assert heard == [meowcat.JournalFenced, meowcat.EngineClosed]


async def test_a_journal_that_can_not_be_read_for_a_moment_ends_nothing(tmp_path):
    journal = SlowJournal(tmp_path / "t.db")
    with RangeServer(BIG) as server:
        async with meowcat.Engine(journal, config=config()) as engine:
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")), paused=True)
            journal.unreadable = 1
            await task.resume()
            await task.result()


async def test_whatever_an_adapter_raises_when_it_is_read_ends_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("meowcat.runtime.dispatcher.REFUSED_PAUSE", (0.0, 0.0))
    bad: list[str] = []

    class DefectiveJournal(SlowJournal):
        def _break(self, what):
            if what in bad:
                bad.remove(what)
                raise RuntimeError("a defect of the adapter")

        def read(self, task, after=0):
            self._break("read")
            return super().read(task, after)

        def reopen(self):
            self._break("reopen")
            return super().reopen()

    journal = DefectiveJournal(tmp_path / "t.db")
    with RangeServer(BIG) as server, anyio.fail_after(30):
        async with meowcat.Engine(journal, config=config()) as engine:
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")), paused=True)
            bad.append("read")
            await task.resume()
            await task.pause()
            journal.uncertain = 1
            bad.extend(["reopen", "reopen", "read"])
            await task.resume()
            await task.result()
    assert bad == []


async def test_a_submit_that_is_canceled_leaves_no_task_that_nobody_knows(tmp_path):
    journal = SlowJournal(tmp_path / "t.db")
    async with meowcat.Engine(journal, config=config()) as engine:
        request = meowcat.Download("http://localhost/", str(tmp_path / "a"))
        journal.gate = gate = Gate()
        await canceled_at(gate, partial(engine.submit, request, paused=True))
        again = await engine.submit(request, paused=True)
        assert [info.id async for info in engine.tasks()] == [again.id]
    async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
        assert [info.id async for info in engine.tasks()] == [again.id]


async def test_two_submits_of_one_request_are_one_task(tmp_path):
    async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
        request = meowcat.Download("http://localhost/", str(tmp_path / "a"))
        found = []

        async def submit() -> None:
            found.append((await engine.submit(request, paused=True)).id)

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(submit)
        assert len(set(found)) == 1


async def test_a_bad_request_among_many_keeps_no_key(tmp_path):
    async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
        good = meowcat.Download("http://localhost/", str(tmp_path / "a"))
        with pytest.raises(meowcat.InvalidArgument):
            await engine.submit_many([good, meowcat.Download("ftp://x", str(tmp_path / "b"))], paused=True)
        ids = await engine.submit_many([good, good], paused=True)
        assert ids[0] == ids[1]


async def test_an_opening_that_is_canceled_gives_the_journal_back(tmp_path):
    async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
        await engine.submit(meowcat.Download("http://localhost/", str(tmp_path / "a")), paused=True)
    journal, gate = SlowJournal(tmp_path / "t.db"), Gate()
    journal.unfinished = lambda: gate.wait() or iter(())
    await canceled_at(gate, meowcat.Engine(journal, config=config()).__aenter__)
    async with meowcat.Engine(tmp_path / "t.db", config=config()):
        pass


async def test_events_pass_over_what_is_damaged(tmp_path):
    async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
        for name in "abc":
            await engine.submit(meowcat.Download("http://localhost/", str(tmp_path / name)), paused=True)
    with sqlite3.connect(tmp_path / "t.db") as database:
        database.execute("UPDATE record SET body = zeroblob(9) WHERE position = 2")
    database.close()
    async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
        events = engine.events()
        assert [(await anext(events)).position for _ in range(2)] == [1, 3]


async def test_what_could_not_be_paused_keeps_its_place(tmp_path):
    journal = SlowJournal(tmp_path / "t.db")
    contents = {f"/{name}": Content(1000) for name in "abc"}
    slow = Trouble(before="stall")
    with RangeServer(contents, script=[slow]) as server:
        async with meowcat.Engine(journal, config=config(max_downloads=1)) as engine:
            ids = await engine.submit_many(
                [meowcat.Download(f"{server.origin}/{name}", str(tmp_path / name)) for name in "abc"]
            )
            assert await server.until(lambda s: len(s.requests) == 1)
            journal.rejected = 1
            with pytest.raises(meowcat.JournalRejected):
                await engine.pause_many(state="Queued")
            await engine.cancel(ids[0])
            with anyio.fail_after(10):
                await engine.drain()
    assert sorted(path.name for path in tmp_path.glob("?")) == ["b", "c"]


async def test_what_is_supplied_to_a_task_at_work_is_used_at_once(tmp_path):
    with RangeServer(BIG, rate=2 * MIB) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            old = {"authorization": "Bearer OLD"}
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a"), headers=old))
            await reach(task, 256 << 10)
            await task.supply(headers={"Authorization": "Bearer NEW"})
            await task.result()
    sent = [seen.headers["authorization"] for seen in server.requests]
    assert sent[0] == "Bearer OLD"
    assert sent[-1] == "Bearer NEW"
    assert set(sent) == {"Bearer OLD", "Bearer NEW"}


async def test_an_answer_from_before_does_not_end_a_hosts_rest(tmp_path):
    rest = Trouble(status=429, headers=(("Retry-After", "2"),))
    refused: list[float] = []
    asked: list[tuple[float, str]] = []

    def script(seen):
        asked.append((time.monotonic(), seen.path))
        if seen.path == "/b" and not refused:
            refused.append(time.monotonic())
            return rest
        return None

    contents = {"/a": Content(4 * MIB)} | {f"/{name}": Content(1000) for name in "bcdef"}
    with RangeServer(contents, script=script, rate=MIB) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config(max_downloads=8)) as engine:
            first = await engine.submit(meowcat.Download(f"{server.origin}/a", str(tmp_path / "a")))
            await reach(first, 256 << 10)
            second = await engine.submit(meowcat.Download(f"{server.origin}/b", str(tmp_path / "b")))
            async for progress in second.progress():
                if progress.waiting_for == meowcat.WaitingFor.SERVER:
                    break
            known = time.monotonic()
            await reach(first, first.info.bytes_done + 1)  # an answer that was asked for before
            for name in "cdef":
                await engine.submit(meowcat.Download(f"{server.origin}/{name}", str(tmp_path / name)))
                await reach(first, first.info.bytes_done + 1)
            await engine.drain()
    # A request of the first one that was on its way when the refusal came is nobody's fault.
    since = {"/a": known + 0.5}
    assert [path for at, path in asked if since.get(path, refused[0]) < at < refused[0] + 1.9] == []


async def test_an_injected_client_logs_no_secret(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with RangeServer(Content(1000)) as server:
        async with (
            httpx.AsyncClient() as client,
            meowcat.Engine(config=config(), http_client=client) as engine,
        ):
            await engine.download(server.url + "?X-Amz-Signature=cafe0123", tmp_path / "a")
    assert "cafe0123" not in caplog.text


async def test_half_a_character_is_refused(tmp_path):
    async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
        with pytest.raises(meowcat.InvalidArgument, match="client_file_sign"):
            await engine.submit(
                meowcat.Download("http://localhost/", str(tmp_path / "a"), client_file_sign="\ud800")
            )


class CountingJournal(SQLiteJournal):
    reads = 0

    def read(self, task, after=0):
        self.reads += 1
        return super().read(task, after)


async def test_commands_on_a_task_at_rest_read_its_history_once_at_most(tmp_path):
    journal = CountingJournal(tmp_path / "t.db")
    async with meowcat.Engine(journal, on_restart="leave") as engine:
        task = await engine.submit(meowcat.Download("http://127.0.0.1:9/x", str(tmp_path / "x")))
        before = journal.reads
        for _ in range(20):
            await task.pause()
            await task.resume()
        assert journal.reads - before <= 1
        assert len([each async for each in task.history()]) == 41


async def test_a_state_that_a_batch_has_changed_is_not_remembered_from_before(tmp_path):
    async with meowcat.Engine(tmp_path / "t.db", on_restart="leave") as engine:
        tasks = [
            await engine.submit(meowcat.Download("http://127.0.0.1:9/x", str(tmp_path / str(number))))
            for number in range(3)
        ]
        for task in tasks:
            await task.pause()
            await task.resume()
        assert sorted(await engine.pause_many()) == sorted(task.id for task in tasks)
        for task in tasks:
            assert (await engine.task(task.id)).state is meowcat.State.PAUSED
            with pytest.raises(meowcat.InvalidTaskState, match="Paused"):
                await task.pause()
            await task.resume()
            assert task.state is meowcat.State.QUEUED


async def test_many_commands_that_a_close_comes_between_say_that_the_engine_is_closed(tmp_path):
    """And neither that the outcome is unknown, nor anything of a task group, nor do they wait for ever."""
    heard = []
    begun, closing = threading.Event(), threading.Event()

    class HeldUp(SQLiteJournal):
        def append(self, batch):
            if begun.is_set():
                closing.wait(20)
            return super().append(batch)

    engine = await meowcat.Engine(HeldUp(tmp_path / "t.db")).open()

    def requests(name):
        return [meowcat.Download("http://localhost/", str(tmp_path / f"{name}{n}")) for n in range(3000)]

    async def hear(call) -> None:
        try:
            await call()
        except meowcat.MeowcatError as error:
            heard.append(type(error))

    async def go_on_once_it_closes() -> None:
        while not engine.closed:
            await anyio.lowlevel.checkpoint()
        closing.set()

    await engine.submit_many(requests("a"), paused=True)
    begun.set()
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(hear, engine.cancel_many)
            group.start_soon(hear, lambda: engine.submit_many(requests("b"), paused=True))
            await anyio.wait_all_tasks_blocked()
            group.start_soon(go_on_once_it_closes)
            await engine.close()
    assert set(heard) == {meowcat.EngineClosed}


async def test_a_handle_is_had_while_commands_for_many_meet_single_ones(tmp_path):
    """The task's actor knows an older state than its row for a moment: who asks then does not spin."""
    begun = threading.Event()

    class Telling(SlowJournal):
        def append(self, batch):
            begun.set()
            return super().append(batch)

    journal = Telling(tmp_path / "t.db")
    async with meowcat.Engine(journal, config=config()) as engine:
        task = await engine.submit(meowcat.Download("http://localhost/", str(tmp_path / "a")), paused=True)
        journal.pause = 0.1
        begun.clear()
        canceled: list[str] = []

        async def cancel() -> None:
            canceled.extend(await engine.cancel_many())
            handle = await engine.task(task.id)  # the other command is still on its way
            assert handle.state is meowcat.State.CANCELED

        async def resume() -> None:
            with pytest.raises(meowcat.TaskNotFound):
                await task.resume()

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(cancel)
                assert await anyio.to_thread.run_sync(begun.wait, 10)
                group.start_soon(resume)
        assert canceled == [task.id]


async def test_a_handle_knows_of_what_was_recorded_while_its_task_was_read(tmp_path):
    """Also where the state is the same as before: nothing else would ever tell it."""
    read, goes_on = threading.Event(), threading.Event()

    class Held(SQLiteJournal):
        holds = False

        def read(self, task, after=0):
            return self._held(super().read(task, after))

        def read_many(self, tasks):
            return self._held(super().read_many(tasks))

        def _held(self, found):
            if self.holds:
                self.holds = False
                read.set()
                goes_on.wait(20)
            return found

    async with meowcat.Engine(tmp_path / "t.db") as engine:
        request = meowcat.Download("http://127.0.0.1:9/old", str(tmp_path / "a"))
        (task,) = await engine.submit_many([request], paused=True)
    journal = Held(tmp_path / "t.db")
    handles = []

    async def handle() -> None:
        handles.append(await engine.task(task))

    async with meowcat.Engine(journal) as engine, anyio.create_task_group() as group:
        journal.holds = True
        group.start_soon(handle)
        assert await anyio.to_thread.run_sync(read.wait, 20)
        await engine.supply(task, url="http://127.0.0.1:9/new")
        goes_on.set()
    assert handles[0].info.url == "http://127.0.0.1:9/new"


async def test_a_close_records_all_that_wait_with_one_append(tmp_path):
    appends = []

    class CountingJournal(SQLiteJournal):
        def append(self, batch):
            appends.append([each.type for each in batch])
            return super().append(batch)

    nobody = [
        meowcat.Download(f"http://127.0.0.1:9/{n}", str(tmp_path / str(n)), retries=50) for n in range(60)
    ]
    async with meowcat.Engine(CountingJournal(tmp_path / "t.db"), config=config(max_downloads=60)) as engine:
        await engine.submit_many(nobody)
        with anyio.fail_after(20):
            while (await engine.snapshot()).waiting < 50:
                await engine._runtime.bus.stirred()
        appends.clear()
    requeued = [each for each in appends if "requeued" in each]
    assert sum(map(len, requeued)) >= 50
    assert len(requeued) <= 2  # one for those that have actors, which are none that wait


class FullJournal(SQLiteJournal):
    """Refuses everything while `full`."""

    full = False

    def append(self, batch):
        if self.full:
            raise meowcat.JournalRejected("no space")
        return super().append(batch)


async def test_an_operation_that_a_full_journal_keeps_from_asking_is_no_defect(tmp_path):
    def script(seen):
        return Trouble(before="stall") if seen.path == "/silent" else None

    journal = FullJournal(tmp_path / "t.db")
    with RangeServer(BIG, script=script, rate=MIB) as server:
        alone = config(max_requests=1, read_timeout=3, retries=50, piece_size=BIG.size)
        async with meowcat.Engine(journal, config=alone) as engine:
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "big")))
            async for progress in task.progress():
                if progress.state is meowcat.State.RUNNING:
                    break
            await task.pause()
            server.rate.rate = None
            silent = await engine.submit(meowcat.Download(f"{server.origin}/silent", str(tmp_path / "no")))
            assert await server.until(lambda s: s.requests[-1].path == "/silent")
            await task.resume()  # and waits for the one request that there may be
            resting = await engine.submit(meowcat.Download(server.url, str(tmp_path / "c")), paused=True)
            journal.full = True
            async with anyio.create_task_group() as group:
                group.start_soon(resting.resume)
                while not (await engine.snapshot()).refusal:
                    await anyio.lowlevel.checkpoint()
                with pytest.raises(meowcat.InvalidTaskState):
                    await task.resume()  # a look at the task, which may ask for nothing now
                assert await server.until(lambda s: s.open_sockets == 0, 20)
                journal.full = False
            result = await task.result()
            assert result.size == BIG.size
            await silent.cancel()
            with suppress(meowcat.TaskNotFound):  # it may have come to its end, too
                await resting.cancel()


class LateEnd(SQLiteJournal):
    """The record of an end waits until it may be stored."""

    def __init__(self, path):
        super().__init__(path)
        self.reached, self.go = threading.Event(), threading.Event()

    def append(self, batch):
        if any(entry.type == "completed" for entry in batch):
            self.reached.set()
            assert self.go.wait(30)
        return super().append(batch)


async def test_asked_for_once_more_while_its_end_is_stored(tmp_path):
    journal = LateEnd(tmp_path / "t.db")
    with RangeServer(BIG) as server:
        asked = meowcat.Download(server.url, str(tmp_path / "a"), headers={"Authorization": "Bearer one"})
        async with meowcat.Engine(journal, config=config()) as engine:
            first = await engine.submit(asked)
            await anyio.to_thread.run_sync(journal.reached.wait)
            async with anyio.create_task_group() as group:
                group.start_soon(_submit_again, engine, asked, first)
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()
                journal.go.set()
            await first.result()


async def _submit_again(engine, asked, first):
    again = await engine.submit(asked)
    assert again.id == first.id
    assert (await again.result()).path == asked.to
