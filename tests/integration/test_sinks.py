"""Sinks of an engine: what is delivered, when, and what none of it may disturb."""

import asyncio
import sqlite3
import threading
import time
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import meowcat
from journal_adapters.memory import MemoryJournal, Store
from journal_adapters.sqlite import SQLiteJournal
from meowcat.core import events as ev
from meowcat.journal.contract import Owner
from meowcat.runtime import delivery
from meowcat.runtime.world import Clock
from meowcat.testing.content import Content
from meowcat.testing.range_server import RangeServer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

MIB = 1 << 20


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


class Recorder:
    """A sink that keeps what it got, and fails or blocks where it is told to."""

    def __init__(self, fail=0, error=None) -> None:
        self.events: list[meowcat.LoggedEvent] = []
        self.batches: list[int] = []
        self.fail = fail
        self.error = error or RuntimeError("no")
        self.calls = 0
        self.closed = 0
        self.block = False
        self._changed = anyio.Event()

    async def deliver(self, events):
        self.calls += 1
        self._tell()
        if self.block:
            await anyio.sleep_forever()
        if self.fail:
            self.fail -= 1
            raise self.error
        self.events += events
        self.batches.append(len(events))
        self._tell()

    async def aclose(self):
        self.closed += 1

    @property
    def positions(self) -> list[int]:
        return [event.position for event in self.events]

    def _tell(self):
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, condition) -> None:
        with anyio.fail_after(20):
            while not condition(self):
                await self._changed.wait()

    async def has(self, count: int) -> None:
        await self.until(lambda at: len(at.events) >= count)


class VirtualTime:
    """Sleeping takes no time, and is remembered; `wall` moves along."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await anyio.lowlevel.checkpoint()

    def clock(self) -> Clock:
        return Clock(
            wall=lambda: 1_700_000_000_000 + int(sum(self.slept) * 1000), roll=lambda: 0.5, sleep=self.sleep
        )

    @property
    def backoffs(self) -> list[float]:
        return [each for each in self.slept if each != delivery.LINGER]


def imported(folder: Path, count: int, first: int = 0) -> list[meowcat.Download]:
    """Requests that make one event each when they are submitted paused."""
    return [
        meowcat.Download(f"http://localhost/{n}", str(folder / str(n))) for n in range(first, first + count)
    ]


async def stored(path: Path) -> dict[str, int]:
    journal = SQLiteJournal(path)
    journal.open_for_reading()
    try:
        return dict(journal.cursors())
    finally:
        journal.close()


async def test_every_event_comes_once_and_in_order(tmp_path):
    sink = Recorder()
    with RangeServer(Content(MIB)) as server:
        async with meowcat.Engine(tmp_path / "t.db") as engine:
            await engine.download(server.url, tmp_path / "before")
            await engine.add_sink("audit", sink)
            await engine.download(server.url, tmp_path / "after")
            position = (await engine.snapshot()).position
            await sink.has(position)
            known = [event async for event in engine.history(sink.events[0].task)]
    assert sink.positions == list(range(1, position + 1))
    assert [event for event in sink.events if event.task == known[0].task] == known
    assert len({event.id for event in sink.events}) == position
    assert sink.closed == 1


async def test_a_restart_goes_on_from_the_cursor(tmp_path):
    one, other = Recorder(), Recorder()
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        await engine.add_sink("audit", one)
        await engine.submit_many(imported(tmp_path, 10), paused=True)
        await one.has(10)
    assert await stored(tmp_path / "t.db") == {"audit": 10}
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        await engine.submit_many(imported(tmp_path, 5, first=10), paused=True)
        await engine.add_sink("audit", other, after=2)
        await other.has(5)
    assert other.positions == list(range(11, 16))


async def test_a_new_name_begins_where_it_is_told_to(tmp_path):
    sink = Recorder()
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        await engine.submit_many(imported(tmp_path, 10), paused=True)
        with pytest.raises(meowcat.InvalidArgument, match="0 to 10"):
            await engine.add_sink("audit", sink, after=11)
        await engine.add_sink("audit", sink, after=7)
        assert await stored(tmp_path / "t.db") == {"audit": 7}
        await sink.has(3)
    assert sink.positions == [8, 9, 10]


async def test_closing_delivers_what_is_left_where_it_is_little(tmp_path):
    sink = Recorder()
    with RangeServer(Content(MIB)) as server:
        async with meowcat.Engine() as engine:
            await engine.add_sink("audit", sink)
            await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
    assert isinstance(sink.events[-1].event, ev.Completed)


class ReturnsWhenTheEngineCloses(Recorder):
    """Each delivery is over once its `engine` has begun to close."""

    engine = None

    async def deliver(self, events):
        await super().deliver(events)
        while not self.engine._runtime.deliveries._closed:
            await anyio.lowlevel.checkpoint()


async def test_closing_in_the_middle_of_a_delivery_delivers_the_little_that_came_since(tmp_path):
    sink = ReturnsWhenTheEngineCloses()
    async with meowcat.Engine(tmp_path / "t.db") as sink.engine:
        engine = sink.engine
        await engine.submit_many(imported(tmp_path, 3), paused=True)
        await engine.add_sink("audit", sink)
        await sink.has(3)
        await engine.submit_many(imported(tmp_path, 3, first=3), paused=True)
    assert sink.positions == [1, 2, 3, 4, 5, 6]


async def test_a_large_backlog_does_not_hold_up_a_close(tmp_path):
    sink = ReturnsWhenTheEngineCloses()
    async with meowcat.Engine(tmp_path / "t.db") as sink.engine:
        await sink.engine.submit_many(imported(tmp_path, 3000), paused=True)
        await sink.engine.add_sink("audit", sink)
        await sink.has(1)
    assert len(sink.batches) == 1
    assert (await stored(tmp_path / "t.db"))["audit"] == len(sink.events)


async def test_a_batch_is_bounded_by_count_and_by_bytes(tmp_path):
    assert delivery.page_limit(0) == delivery.page_limit(300) == 500
    assert delivery.page_limit(64 << 10) == 16
    assert delivery.page_limit(4 << 20) == 1
    sink = Recorder()
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        await engine.submit_many(imported(tmp_path, 1200), paused=True)
        await engine.add_sink("audit", sink)
        await sink.has(1200)
    assert max(sink.batches) <= 500
    assert sink.positions == list(range(1, 1201))


async def test_a_failing_sink_is_tried_for_days_with_growing_delays(tmp_path):
    sink, world = Recorder(fail=1000), VirtualTime()
    async with meowcat.Engine(tmp_path / "t.db", clock=world.clock()) as engine:
        await engine.submit_many(imported(tmp_path, 3), paused=True)
        await engine.add_sink("audit", sink)
        await sink.has(3)
    assert sink.calls == 1000 + 2, "of such a sink few are asked to be taken at once"
    assert world.backoffs[:9] == [0.75 * 2**n for n in range(9)]  # half of each is jitter: a roll of 0.5
    assert set(world.backoffs[9:]) == {225.0}
    assert sum(world.backoffs) > 2 * 24 * 3600
    assert sink.positions == [1, 2, 3]


async def test_a_sink_that_fails_now_and_then_gets_on(tmp_path):
    """Each time at another event: its failures are none in a row, and what it has taken never comes again."""
    world, failed, taken, all_taken = VirtualTime(), set(), [], anyio.Event()

    async def take(event):
        if event.position % 20 == 0 and event.position not in failed:
            failed.add(event.position)
            raise RuntimeError("no")
        taken.append(event.position)
        if event.position == 600:
            all_taken.set()

    async with meowcat.Engine(tmp_path / "t.db", clock=world.clock()) as engine:
        await engine.submit_many(imported(tmp_path, 600), paused=True)
        await engine.add_sink("audit", meowcat.callback(take))
        with anyio.fail_after(20):
            await all_taken.wait()
    assert taken == list(range(1, 601))
    assert len(world.backoffs) == len(failed) == 30
    assert max(world.backoffs) < 10, "few are in a row"


async def test_a_sink_says_when_it_wants_to_be_asked_again(tmp_path):
    sink, world = Recorder(fail=2, error=meowcat.RetryLater(77)), VirtualTime()
    async with meowcat.Engine(tmp_path / "t.db", clock=world.clock()) as engine:
        await engine.submit_many(imported(tmp_path, 3), paused=True)
        await engine.add_sink("audit", sink)
        await sink.has(3)
    assert world.backoffs == [77, 77]


async def test_a_failing_sink_shows_and_holds_up_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "CLOSE_WITHIN", 40)

    class Later(OSError, meowcat.RetryLater):  # it is not tried again while it is looked at
        seconds = 3600

    broken = Recorder(fail=10**9, error=Later("POST https://user:hunter2@host/x?token=hunter2 failed"))
    healthy = Recorder()
    with RangeServer(Content(MIB)) as server:
        async with meowcat.Engine(tmp_path / "t.db") as engine:
            await engine.add_sink("broken", broken)
            await engine.add_sink("healthy", healthy)
            await engine.download(server.url, tmp_path / "a")
            await broken.until(lambda at: at.calls)
            position = (await engine.snapshot()).position
            await healthy.has(position)
            await anyio.wait_all_tasks_blocked()
            sinks = (await engine.snapshot()).sinks
            begun = time.monotonic()
        assert time.monotonic() - begun < 20  # its delay is not waited for
    info = sinks["broken"]
    assert (info.position, info.lag, info.attached) == (0, position, True)
    assert info.failures == 1
    assert info.next_try is not None
    assert info.error.startswith("Later: POST https://")
    assert "hunter2" not in info.error
    assert sinks["healthy"].lag == 0
    assert sinks["healthy"].error == ""


async def test_a_sink_that_never_returns_is_canceled_at_close_and_gets_it_again(tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "CLOSE_WITHIN", 0.2)
    stuck, later = Recorder(), Recorder()
    stuck.block = True
    with RangeServer(Content(MIB)) as server:
        async with meowcat.Engine(tmp_path / "t.db") as engine:
            await engine.add_sink("audit", stuck)
            await engine.download(server.url, tmp_path / "a")
            await stuck.until(lambda at: at.calls)
        assert stuck.closed == 1
        async with meowcat.Engine(tmp_path / "t.db") as engine:
            await engine.add_sink("audit", later)
            await later.has(1)
    assert later.positions[0] == 1


async def test_a_delivery_that_takes_too_long_is_a_failure(tmp_path):
    sink = Recorder()
    sink.block = True
    async with meowcat.Engine(tmp_path / "t.db", clock=VirtualTime().clock()) as engine:
        await engine.submit_many(imported(tmp_path, 1), paused=True)
        await engine.add_sink("audit", sink, timeout=0.05)
        await sink.until(lambda at: at.calls >= 2)
        assert (await engine.snapshot()).sinks["audit"].error == "SinkError: no answer within 0.05 s"
        sink.block = False
        await sink.has(1)


async def test_two_sinks_go_at_their_own_speed(tmp_path):
    slow, fast = Recorder(), Recorder()
    slow.block = True
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        await engine.add_sink("slow", slow, timeout=1.0)
        await engine.add_sink("fast", fast)
        await engine.submit_many(imported(tmp_path, 1500), paused=True)
        await fast.has(1500)
        assert slow.events == []
        slow.block = False
        await slow.has(1500)
    assert slow.positions == fast.positions == list(range(1, 1501))


async def test_a_removed_sink_is_closed_and_forgotten(tmp_path):
    sink = Recorder()
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        await engine.submit_many(imported(tmp_path, 3), paused=True)
        await engine.add_sink("audit", sink)
        await sink.has(3)
        await engine.remove_sink("audit")
        assert sink.closed == 1
        assert (await engine.snapshot()).sinks == {}
        await engine.submit_many(imported(tmp_path, 1, first=3), paused=True)
        again = Recorder()
        await engine.add_sink("audit", again)
        await again.has(4)
    assert sink.positions == [1, 2, 3]
    assert again.positions == [1, 2, 3, 4]


async def test_a_sink_is_removed_while_it_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "CLOSE_WITHIN", 40)
    sink = Recorder(fail=10**9, error=meowcat.RetryLater(3600))
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        await engine.submit_many(imported(tmp_path, 3), paused=True)
        await engine.add_sink("audit", sink)
        await sink.until(lambda at: at.calls)
        with anyio.fail_after(20):
            await engine.remove_sink("audit")
    assert await stored(tmp_path / "t.db") == {}
    assert sink.calls == 1


async def test_a_removal_that_is_canceled_can_be_done_again_and_does_not_wedge_the_close(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(delivery, "CLOSE_WITHIN", 60)  # the removal is not over before it is canceled
    sink = Recorder()
    sink.block = True
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        await engine.submit_many(imported(tmp_path, 3), paused=True)
        await engine.add_sink("audit", sink)
        await sink.until(lambda at: at.calls)
        async with anyio.create_task_group() as group:
            group.start_soon(engine.remove_sink, "audit")
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        monkeypatch.setattr(delivery, "CLOSE_WITHIN", 0.2)
    assert await stored(tmp_path / "t.db") == {"audit": 0}
    assert sink.closed == 1


async def test_a_sink_that_is_removed_while_it_is_added_is_gone_for_good(tmp_path):
    sink = Recorder()
    removed = []

    async def remove():
        with suppress(meowcat.InvalidArgument):  # for the one of the two that comes second
            await engine.remove_sink("audit")
            removed.append(True)

    async with meowcat.Engine(tmp_path / "t.db") as engine:
        await engine.submit_many(imported(tmp_path, 3), paused=True)
        async with anyio.create_task_group() as group:
            group.start_soon(engine.add_sink, "audit", sink)
            await anyio.lowlevel.checkpoint()
            group.start_soon(remove)
            group.start_soon(remove)
        assert removed
        assert (await engine.snapshot()).sinks == {}
        assert sink.closed == 1
        again = Recorder()
        await engine.add_sink("audit", again)
        await again.has(3)
        assert (await engine.snapshot()).sinks["audit"].attached
    assert await stored(tmp_path / "t.db") == {"audit": 3}
    assert again.closed == 1


async def test_the_cursor_of_a_sink_that_is_gone_shows_and_can_be_removed(tmp_path):
    sink = Recorder()
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        await engine.submit_many(imported(tmp_path, 3), paused=True)
        await engine.add_sink("old", sink)
        await sink.has(3)
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        await engine.submit_many(imported(tmp_path, 2, first=3), paused=True)
        (info,) = (await engine.snapshot()).sinks.values()
        assert info == meowcat.SinkInfo(name="old", position=3, lag=2)
        with pytest.raises(meowcat.InvalidArgument, match="there are: old"):
            await engine.remove_sink("odl")
        await engine.remove_sink("old")
        assert (await engine.snapshot()).sinks == {}


async def test_what_is_no_sink_is_refused(tmp_path):
    class Blocking:
        def deliver(self, events): ...

    async with meowcat.Engine(tmp_path / "t.db") as engine:
        await engine.add_sink("audit", Recorder())
        for name, sink, options in [
            ("audit", Recorder(), {}),
            ("", Recorder(), {}),
            ("x" * 201, Recorder(), {}),
            ("a\nb", Recorder(), {}),
            ("other", print, {}),
            ("other", Blocking(), {}),
            ("meowcat:import", Recorder(), {}),  # with that cursor no engine opens the journal again
            ("other", Recorder(), {"after": -1}),
            ("other", Recorder(), {"timeout": 0}),
        ]:
            with pytest.raises(meowcat.InvalidArgument):
                await engine.add_sink(name, sink, **options)
        assert set((await engine.snapshot()).sinks) == {"audit"}


class Unruly(MemoryJournal):
    """Refuses cursors as long as it is told to."""

    refuse = False

    def set_cursor(self, name, position):
        if self.refuse:
            raise self.error
        super().set_cursor(name, position)


@pytest.mark.parametrize(
    "error", [meowcat.JournalRejected("no space"), meowcat.JournalUncertain("?"), OSError(5, "io")]
)
async def test_a_cursor_that_can_not_be_stored_holds_up_nothing(tmp_path, error):
    store = Store()
    journal = Unruly(store=store)
    journal.refuse, journal.error = True, error
    sink = Recorder()
    async with meowcat.Engine(journal) as engine:
        await engine.add_sink("audit", sink)
        await engine.submit_many(imported(tmp_path, 600), paused=True)
        await sink.has(600)
        assert journal.cursors() == {}
        journal.refuse = False
        await engine.submit_many(imported(tmp_path, 1, first=600), paused=True)
        await sink.has(601)
    journal.open_for_reading()
    assert journal.cursors() == {"audit": 601}
    assert sink.positions == list(range(1, 602))


async def test_a_journal_that_can_not_be_read_for_a_while_is_read_later(tmp_path):
    class Unreadable(MemoryJournal):
        failures = 3

        def scan(self, after, limit):
            if self.failures:
                self.failures -= 1
                raise OSError(5, "io")
            return super().scan(after, limit)

    sink, world = Recorder(), VirtualTime()
    async with meowcat.Engine(Unreadable(), clock=world.clock()) as engine:
        await engine.submit_many(imported(tmp_path, 3), paused=True)
        await engine.add_sink("audit", sink)
        await sink.has(3)
    assert len(world.backoffs) == 3


async def test_a_damaged_record_is_passed_over(tmp_path):
    sink = Recorder()
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        await engine.submit_many(imported(tmp_path, 5), paused=True)
    with sqlite3.connect(tmp_path / "t.db") as database:
        database.execute("UPDATE record SET body = 'x' WHERE position = 3")
    database.close()
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        await engine.add_sink("audit", sink)
        await sink.has(4)
    assert sink.positions == [1, 2, 4, 5]


async def test_a_cursor_behind_the_end_of_a_restored_journal_loses_no_later_event(tmp_path, caplog):
    sink = Recorder()
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        await engine.submit_many(imported(tmp_path, 3), paused=True)
    journal = SQLiteJournal(tmp_path / "t.db")
    journal.open(Owner(1, "host.example"), "power")
    journal.set_cursor("audit", 1000)
    journal.close()
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        await engine.add_sink("audit", sink)
        await engine.submit_many(imported(tmp_path, 2, first=3), paused=True)
        await sink.has(2)
    assert sink.positions == [4, 5]
    assert "the journal ends at 3" in caplog.text


async def test_an_engine_is_not_closed_from_inside_a_sink(tmp_path):
    refused = []
    done = anyio.Event()

    async def close(event):
        for call in (engine.close, lambda: engine.remove_sink("self")):
            try:
                await call()
            except meowcat.WouldDeadlock as error:
                refused.append(str(error))
        done.set()

    async with meowcat.Engine(tmp_path / "t.db") as engine:
        await engine.add_sink("self", meowcat.callback(close))
        await engine.submit_many(imported(tmp_path, 1), paused=True)
        with anyio.fail_after(10):
            await done.wait()
        assert len(await collect(engine.tasks())) == 1
    assert len(refused) == 2
    assert "set an event" in refused[0]


async def collect(stream) -> list:
    return [each async for each in stream]


async def test_a_cursor_is_written_once_for_what_comes_in_one_breath(tmp_path):
    written = []

    class Counting(MemoryJournal):
        def set_cursor(self, name, position):
            written.append(position)
            super().set_cursor(name, position)

    resting, breath = anyio.Event(), anyio.Event()

    async def linger(_: float) -> None:
        resting.set()
        await breath.wait()

    sink = Recorder()
    async with meowcat.Engine(Counting(), clock=Clock(sleep=linger)) as engine:
        await engine.add_sink("audit", sink)
        requests = imported(tmp_path, 50)
        await engine.submit(requests[0], paused=True)
        await resting.wait()  # it has caught up, and looks again a moment later
        for request in requests[1:]:
            await engine.submit(request, paused=True)
        breath.set()
        await sink.has(50)
    assert sink.positions == list(range(1, 51))
    assert sink.batches[-1] >= 49
    assert len(written) <= 1 + len(sink.batches) <= 3


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancellation_of_the_sinks_own_making_is_a_failure_like_any_other(tmp_path):
    seen = []
    done = anyio.Event()

    async def canceled_within(event):
        seen.append(event.position)
        if len(seen) == 1:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        done.set()

    async with meowcat.Engine(tmp_path / "t.db", clock=VirtualTime().clock()) as engine:
        await engine.add_sink("audit", meowcat.callback(canceled_within))
        await engine.submit_many(imported(tmp_path, 1), paused=True)
        with anyio.fail_after(10):
            await done.wait()
    assert seen == [1, 1]


async def test_an_engine_that_is_canceled_keeps_what_was_delivered_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "CLOSE_WITHIN", 0.2)

    class SecondBlocks(Recorder):
        async def deliver(self, events):
            self.block = bool(self.events)
            await super().deliver(events)

    sink = SecondBlocks()
    with anyio.CancelScope() as scope:
        async with meowcat.Engine(tmp_path / "t.db") as engine:
            await engine.submit_many(imported(tmp_path, 100), paused=True)
            await engine.add_sink("audit", sink)
            await sink.until(lambda at: at.calls == 2)
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert await stored(tmp_path / "t.db") == {"audit": len(sink.events)}
    assert sink.closed == 1


async def test_a_sink_of_a_journal_that_was_lost_ends_and_says_why(tmp_path, usurp):
    sink = Recorder()
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        await engine.add_sink("audit", sink)
        (task,) = await engine.submit_many(imported(tmp_path, 1), paused=True)
        await sink.has(1)
        usurp(tmp_path / "t.db")
        with pytest.raises(meowcat.JournalFenced):
            await engine.resume(task)
        with anyio.fail_after(10):
            while "JournalFenced" not in (await engine.snapshot()).sinks["audit"].error:
                await anyio.lowlevel.checkpoint()
    assert sink.closed == 1


async def test_a_sink_whose_closing_fails_or_hangs_holds_up_no_close(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(delivery, "ACLOSE_WITHIN", 0.1)

    class Raises(Recorder):
        async def aclose(self):
            raise RuntimeError("no")

    class Hangs(Recorder):
        async def aclose(self):
            await anyio.sleep_forever()

    async with meowcat.Engine(tmp_path / "t.db") as engine:
        await engine.add_sink("raises", Raises())
        await engine.add_sink("hangs", Hangs())
    assert caplog.text.count("closing it failed") == 2


async def test_a_function_that_blocks_holds_up_no_transfer_and_is_called_again(tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "CLOSE_WITHIN", 0.1)
    release, entered = threading.Event(), threading.Event()

    def blocks(event):
        entered.set()
        release.wait(30)

    later = Recorder()
    try:
        with RangeServer(Content(MIB)) as server:
            async with meowcat.Engine(tmp_path / "t.db") as engine:
                await engine.add_sink("audit", meowcat.callback(blocks))
                await engine.download(server.url, tmp_path / "a")
                assert await anyio.to_thread.run_sync(entered.wait, 20)
            async with meowcat.Engine(tmp_path / "t.db") as engine:
                await engine.add_sink("audit", later)
                await later.has(1)
    finally:
        release.set()
    assert later.positions[0] == 1
