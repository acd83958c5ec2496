"""The engine on a real server: what a user of the public API sees."""

import contextlib
import os
import sqlite3
import time
from email.utils import formatdate
from pathlib import Path

import anyio
import httpx
import pytest

import meowcat
from meowcat.core import events as ev
from meowcat.testing.content import Content
from meowcat.testing.exchanges import Trouble
from meowcat.testing.range_server import RangeServer

pytestmark = pytest.mark.anyio

MIB = 1 << 20
BIG = Content(8 * MIB)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


def config(**changes) -> meowcat.Config:
    base = {"piece_size": 256 << 10, "flush_seconds": 0.02, "connect_timeout": 2.0, "read_timeout": 2.0}
    return meowcat.Config(**(base | changes))


def types(events) -> list[str]:
    return [ev.TAGS[type(event.event)] for event in events]


async def collect(events) -> list:
    return [event async for event in events]


async def reach(task: meowcat.Task, size: int) -> None:
    """Wait until so many bytes are confirmed."""
    async for progress in task.progress():
        if progress.bytes_done >= size:
            return


async def test_a_download_is_whole_verified_and_in_the_journal(tmp_path):
    with RangeServer(BIG) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            target = tmp_path / "big.bin"
            result = await engine.download(server.url, target, checksum=f"sha256:{BIG.sha256}", connections=8)
            assert result.path == str(target)
            assert result.size == BIG.size
            assert str(result.digests[0]) == f"sha256:{BIG.sha256}"
            assert target.read_bytes() == BIG.bytes()
            told = await collect(engine.history(result.task))
            seen = types(told)
    assert seen[:3] == ["created", "admitted", "started"]
    assert seen[-2:] == ["publish-intended", "completed"]
    assert set(seen[3:-2]) == {"stored"}
    stored = [piece for each in told[3:-2] for pair in each.event.pieces for piece in range(*pair)]
    assert sorted(stored) == list(range(-(-BIG.size // config().piece_size)))  # each of them once
    assert [each.name for each in tmp_path.iterdir() if each.suffix == ".part"] == []


async def test_progress_never_runs_backwards_and_ends_at_the_end(tmp_path):
    with RangeServer(BIG, rate=16 * MIB) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            began = anyio.current_time()
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
            seen = [each async for each in task.progress()]
            took = anyio.current_time() - began
    done = [each.bytes_done for each in seen]
    assert done == sorted(done)
    assert seen[-1].state == meowcat.State.COMPLETE
    assert seen[-1].fraction == 1.0
    assert len(seen) <= 3 + took / 0.1  # the first and the last at once


async def test_pause_is_durable_silent_and_resumable(tmp_path):
    with RangeServer(BIG, rate=MIB) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
            await reach(task, MIB)
            await task.pause()
            assert task.state == meowcat.State.PAUSED
            with pytest.raises(meowcat.InvalidTaskState) as refused:
                await task.pause()
            assert refused.value.code == 117
            # All would be there in seven seconds.
            assert await server.until(lambda s: s.open_sockets <= 1, 5), (
                "but for one that waits for a request"
            )
            before = task.info.bytes_done
            server.rate.rate = None
            await task.resume()
            await task.result()
            assert before >= MIB
            assert (tmp_path / "a").read_bytes() == BIG.bytes()
    assert server.bytes_sent_twice() < 4 * MIB


async def test_cancel_removes_what_is_half_done(tmp_path):
    with RangeServer(BIG, rate=4 * MIB) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
            await reach(task, MIB)
            await task.cancel()
            with pytest.raises(meowcat.TransferCanceled) as canceled:
                await task.result()
            assert canceled.value.code == 120
            with pytest.raises(meowcat.TaskNotFound):
                await task.cancel()
            async for event in engine.events():
                if isinstance(event.event, ev.PartDiscarded):
                    break
            assert not list(tmp_path.glob("a*"))


@pytest.mark.parametrize("where", ["headers", "body"])
async def test_pause_is_acknowledged_at_once_while_the_peer_stalls(tmp_path, where):
    trouble = Trouble(before="stall") if where == "headers" else Trouble(after=MIB, then="stall")
    with RangeServer(BIG, script=lambda _: trouble) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config(read_timeout=30)) as engine:
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
            assert await server.until(lambda s: len(s.requests) > 0)
            begun = time.monotonic()
            await task.pause()
            assert time.monotonic() - begun < 15  # not at the end of the silence; tests/bench measures it


async def test_a_failure_has_its_code_and_can_be_retried(tmp_path):
    with RangeServer({"/there": BIG}) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            task = await engine.submit(meowcat.Download(server.origin + "/file", str(tmp_path / "a")))
            with pytest.raises(meowcat.TransferFailed) as failed:
                await task.result()
            assert failed.value.code == 109
            assert failed.value.task == task.id
            server.replace({"/file": BIG})
            await task.retry()
            await task.result()
    assert (tmp_path / "a").read_bytes() == BIG.bytes()


async def test_a_wrong_checksum_is_never_complete(tmp_path):
    with RangeServer(BIG) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            with pytest.raises(meowcat.TransferFailed) as failed:
                await engine.download(server.url, tmp_path / "a", checksum="sha256:" + "0" * 64)
            assert failed.value.code == 116
    assert not (tmp_path / "a").exists()


async def test_a_digest_is_computed_where_it_is_asked_for_and_told_with_where_the_file_came_from(tmp_path):
    with RangeServer(BIG) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config(digest="sha256")) as engine:
            asked = await engine.download(server.url, tmp_path / "a", client_file_sign="row 7")
            refused = await engine.download(server.url, tmp_path / "b", digest="none")
            (*_, last) = [each.event async for each in engine.history(asked.task)]
            info = (await engine.task(asked.task)).info
    assert [str(each) for each in asked.digests] == [f"sha256:{BIG.sha256}"]
    assert refused.digests == ()
    assert (last.url, last.created, last.client_file_sign) == (server.url, info.created, "row 7")
    assert last.digests == asked.digests


async def test_the_same_request_attaches_and_another_is_refused(tmp_path):
    with RangeServer(BIG, rate=MIB) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            request = meowcat.Download(server.url, str(tmp_path / "a"))
            one, other = await engine.submit(request), await engine.submit(request)
            assert one.id == other.id
            with pytest.raises(meowcat.DuplicateTask) as refused:
                await engine.submit(meowcat.Download(server.origin + "/else", str(tmp_path / "a")))
            assert refused.value.code == 103
            assert refused.value.task == one.id
            owned = f"owns {tmp_path}/a for another request: engine.cancel('{one.id}') ends it"
            assert owned in str(refused.value)
            server.rate.rate = None
            await one.result()


@pytest.mark.parametrize("size", [0, 1000, 3 * MIB])
@pytest.mark.parametrize("modified", [1_000_000_000, None])
async def test_a_file_has_the_time_of_the_server_s_where_that_is_asked_for(tmp_path, size, modified):
    began = time.time() - 60
    with RangeServer(Content(size, modified=modified)) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            await engine.download(server.url, tmp_path / "own")
            await engine.download(server.url, tmp_path / "theirs", remote_time=True)
    own, theirs = ((tmp_path / name).stat().st_mtime for name in ("own", "theirs"))
    assert own > began
    assert theirs == modified if modified is not None else theirs > began


async def test_closing_keeps_the_task_and_opening_goes_on_with_it(tmp_path):
    with RangeServer(BIG, rate=2 * MIB) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            download = meowcat.Download(server.url, str(tmp_path / "a"), remote_time=True)
            task = await engine.submit(download)
            await reach(task, 2 * MIB)
        assert not (tmp_path / "a").exists()
        server.rate.rate = None
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            again = await engine.task(task.id)
            await again.result()
            seen = types(await collect(again.history()))
    assert (tmp_path / "a").read_bytes() == BIG.bytes()
    assert formatdate((tmp_path / "a").stat().st_mtime, usegmt=True) == BIG.last_modified
    assert "requeued" in seen
    assert "rechecked" in seen
    assert server.bytes_sent_twice() <= 3 * MIB


@pytest.mark.parametrize("answer", ["pause", "no", "raises"])
async def test_on_restart_is_asked_and_its_answer_is_an_event(tmp_path, answer):
    def ask(info: meowcat.TaskInfo) -> bool:
        if answer == "raises":
            raise RuntimeError("no idea")
        return False

    with RangeServer(BIG, rate=MIB) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
        on_restart = "pause" if answer == "pause" else ask
        async with meowcat.Engine(tmp_path / "t.db", config=config(), on_restart=on_restart) as engine:
            again = await engine.task(task.id)
            assert again.state == meowcat.State.PAUSED
            assert again.info.reason
            assert types(await collect(again.history()))[-1] == "recovered"


async def test_higher_priority_goes_first_and_first_come_within_one(tmp_path):
    contents = {f"/{name}": Content(1000) for name in "abcd"}
    with RangeServer(contents) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config(max_downloads=1)) as engine:
            requests = [
                meowcat.Download(f"{server.origin}/{name}", str(tmp_path / name), priority=priority)
                for name, priority in zip("abcd", (0, 0, 5, 5), strict=True)
            ]
            await engine.submit_many(requests)
            await engine.drain()
    assert [seen.path for seen in server.requests] == ["/c", "/d", "/a", "/b"]


async def test_many_are_paused_and_canceled_in_batches(tmp_path):
    with RangeServer(BIG, rate=MIB) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            requests = [meowcat.Download(server.url, str(tmp_path / str(n))) for n in range(50)]
            ids = await engine.submit_many(requests)
            assert sorted(await engine.pause_many()) == sorted(ids)
            infos = await collect(engine.tasks(state="Paused"))
            assert [info.id for info in infos] == ids
            assert sorted(await engine.cancel_many(state="Paused")) == sorted(ids)
            assert len(await collect(engine.tasks(state="Canceled"))) == 50


async def test_many_are_set_going_again_and_get_slots(tmp_path):
    small = Content(1000)
    with RangeServer({}) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            requests = [meowcat.Download(server.url, str(tmp_path / str(n))) for n in range(5)]
            ids = await engine.submit_many(requests)
            await engine.drain()
            assert await engine.resume_many() == []  # Failed ones are for retry
            server.replace(small)
            assert sorted(await engine.retry_many(state="Failed")) == sorted(ids)
            later = [meowcat.Download(server.url, str(tmp_path / f"later {n}")) for n in range(5)]
            later_ids = await engine.submit_many(later, paused=True)
            assert sorted(await engine.resume_many()) == sorted(later_ids)
            await engine.drain()
            assert len(await collect(engine.tasks(state="Complete"))) == 10


async def test_imported_tasks_do_no_io_until_they_are_resumed(tmp_path):
    with RangeServer(Content(1000)) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            request = meowcat.Download(server.url, str(tmp_path / "a"))
            task = await engine.submit(request, paused=True)
            await engine.drain()
            assert server.requests == []
            await task.resume()
            await task.result()


async def test_events_can_be_followed_from_any_position(tmp_path):
    with RangeServer(Content(1000)) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            await engine.download(server.url, tmp_path / "a")
            seen = []
            async for event in engine.events(after=2):
                seen.append(event.position)
                if isinstance(event.event, ev.Completed):
                    break
    assert seen == list(range(3, 3 + len(seen)))


async def test_a_secret_is_waited_for_after_a_restart_and_never_stored(tmp_path):
    secret = "Bearer hunter2-hunter2"
    with RangeServer(BIG, rate=2 * MIB) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            request = meowcat.Download(
                server.url + "?X-Amz-Signature=cafe0123",
                str(tmp_path / "a"),
                headers={"Authorization": secret},
            )
            task = await engine.submit(request)
            await reach(task, MIB)
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            again = await engine.task(task.id)
            async for progress in again.progress():
                if progress.waiting_for:
                    break
            assert again.info.waiting_for == meowcat.WaitingFor.SUPPLY
            assert "header:authorization" in again.info.needs
            server.rate.rate = None
            await again.supply(headers={"Authorization": secret}, url=server.url + "?X-Amz-Signature=beef")
            await again.result()
    assert (tmp_path / "a").read_bytes() == BIG.bytes()
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("t.db*"))
    assert b"hunter2" not in stored
    assert b"cafe0123" not in stored
    assert all(seen.headers.get("authorization") == secret for seen in server.requests)


async def test_a_rate_limit_is_kept(tmp_path):
    with RangeServer(Content(2 * MIB)) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config(limit_rate=4 * MIB)) as engine:
            begun = time.monotonic()
            await engine.download(server.url, tmp_path / "a")
            assert time.monotonic() - begun > 0.2  # the lower bound cannot be too slow a machine's fault


@pytest.mark.parametrize("client", [None, httpx.AsyncClient], ids=["own", "httpx"])
async def test_a_server_that_is_slower_than_is_put_up_with_is_given_up(tmp_path, client):
    slowest = meowcat.Config(lowest_rate=8 * MIB, read_timeout=1, connections=1)
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(RangeServer(Content(8 * MIB), rate=MIB))
        injected = None if client is None else await stack.enter_async_context(client())
        engine = await stack.enter_async_context(meowcat.Engine(config=slowest, http_client=injected))
        with pytest.raises(meowcat.TransferFailed, match="lowest_rate") as failed:
            await engine.download(server.url, tmp_path / "slow.bin", retries=0)
    assert failed.value.code == meowcat.Code.HTTP


async def test_an_engine_without_a_journal_waits_for_its_tasks(tmp_path):
    with RangeServer(BIG, rate=32 * MIB) as server:
        async with meowcat.Engine(config=config()) as engine:
            await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
    assert (tmp_path / "a").read_bytes() == BIG.bytes()


async def test_an_injected_client_is_used_as_it_is(tmp_path):
    with RangeServer(Content(1000)) as server:
        async with httpx.AsyncClient(headers={"X-Team": "blue"}) as client:
            async with meowcat.Engine(config=config(), http_client=client) as engine:
                await engine.download(server.url, tmp_path / "a")
            assert not client.is_closed
    assert server.requests[0].headers["x-team"] == "blue"


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({}, "a/engine"),
        ({"accept": "a/task"}, "a/task"),
        ({"headers": {"ACCEPT": "a/header"}}, "a/header"),
    ],
)
async def test_what_is_accepted_is_said_by_the_task_or_else_by_the_settings(tmp_path, options, sent):
    with RangeServer(Content(1000)) as server:
        async with meowcat.Engine(config=config(accept="a/engine")) as engine:
            await engine.download(server.url, tmp_path / "a", **options)
    assert [seen.headers["accept"] for seen in server.requests] == [sent]


async def test_a_closed_engine_refuses(tmp_path):
    engine = meowcat.Engine(tmp_path / "t.db")
    async with engine:
        assert not engine.closed
    assert engine.closed
    with pytest.raises(meowcat.EngineClosed) as closed:
        await engine.submit(meowcat.Download("http://localhost/", "x"))
    assert closed.value.code == 107
    with pytest.raises(meowcat.EngineClosed):
        await engine.__aenter__()


async def test_the_journal_has_one_owner(tmp_path):
    async with meowcat.Engine(tmp_path / "t.db"):
        with pytest.raises(meowcat.JournalOwned) as owned:
            async with meowcat.Engine(tmp_path / "t.db"):
                pass
    assert str(os.getpid()) in str(owned.value)


async def test_one_damaged_task_is_quarantined_and_the_others_go_on(tmp_path):
    with RangeServer(Content(1000)) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config(max_downloads=1)) as engine:
            ids = await engine.submit_many(
                [meowcat.Download(server.url, str(tmp_path / name)) for name in "ab"], paused=True
            )
        _spoil(tmp_path / "t.db", ids[0])
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            assert list(engine.quarantined()) == [ids[0]]
            with pytest.raises(meowcat.TaskQuarantined):
                await engine.resume(ids[0])
            await engine.resume(ids[1])
            await (await engine.task(ids[1])).result()


def _spoil(path: Path, task: str) -> None:
    with sqlite3.connect(path) as database:
        (body,) = database.execute("SELECT body FROM record WHERE task = ?", (task,)).fetchone()
        database.execute("UPDATE record SET body = ? WHERE task = ?", (body[:-5] + b"?" + body[-4:], task))
    database.close()


async def test_a_disk_that_is_full_for_the_journal_loses_nothing(tmp_path):
    journal = Refusing(tmp_path / "t.db")
    with RangeServer(BIG, rate=2 * MIB) as server:
        async with meowcat.Engine(journal, config=config()) as engine:
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
            await reach(task, MIB)
            journal.refuse = 3
            server.rate.rate = None
            await task.result()
    assert journal.refuse == 0
    assert (tmp_path / "a").read_bytes() == BIG.bytes()


@pytest.mark.parametrize("stored", [True, False])
async def test_an_append_of_unknown_outcome_is_looked_up(tmp_path, stored):
    journal = Refusing(tmp_path / "t.db")
    with RangeServer(BIG, rate=2 * MIB) as server:
        async with meowcat.Engine(journal, config=config()) as engine:
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
            await reach(task, MIB)
            journal.uncertain = "stored" if stored else "lost"
            server.rate.rate = None
            await task.result()
            sequence = [event.seq for event in await collect(task.history())]
    assert journal.uncertain == ""
    assert sequence == list(range(1, len(sequence) + 1))
    assert (tmp_path / "a").read_bytes() == BIG.bytes()


def Refusing(path):  # noqa: N802  # made like the class that it makes
    """The SQLite journal, with a disk that fills up or fails on command."""
    from journal_adapters.sqlite import SQLiteJournal  # noqa: PLC0415

    class RefusingJournal(SQLiteJournal):
        refuse = 0
        uncertain = ""

        def append(self, batch):
            if self.refuse:
                self.refuse -= 1
                raise meowcat.JournalRejected("no space left")
            if self.uncertain:
                was, self.uncertain = self.uncertain, ""
                if was == "stored":
                    super().append(batch)
                raise OSError("the disk did not answer")
            return super().append(batch)

    return RefusingJournal(path)


async def test_a_full_journal_disk_is_told_while_it_lasts(tmp_path):
    journal = Refusing(tmp_path / "t.db")
    with RangeServer(Content(1000)) as server:
        async with meowcat.Engine(journal, config=config()) as engine:
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")), paused=True)
            assert (await engine.snapshot()).refusal == ""
            journal.refuse = 1_000_000
            progress = task.progress()
            assert (await anext(progress)).refusal == ""
            async with anyio.create_task_group() as group:
                group.start_soon(task.resume)
                with anyio.fail_after(20):
                    assert (await anext(progress)).refusal == "no space left", "told, although nothing moves"
                assert (await engine.snapshot()).refusal == "no space left"
                assert (await anext((await engine.task(task.id)).progress())).refusal == "no space left"
                journal.refuse = 0
                with anyio.fail_after(20):
                    assert (await anext(progress)).refusal == ""
            await engine.drain()
            assert (await engine.snapshot()).refusal == ""
    assert (tmp_path / "a").exists()


async def test_a_retry_asks_anew_where_the_server_had_told_a_wrong_size(tmp_path):
    """Under the right ETag; and its 416 never says how much there is, as that of some servers."""
    more = [MIB]

    def script(seen):
        start, _, last = seen.headers["range"].removeprefix("bytes=").partition("-")
        start, last = int(start), min(int(last or BIG.size), BIG.size - 1)
        placed = f"bytes {start}-{last}/{BIG.size + more[0]}" if start < BIG.size else ""
        return Trouble(headers=(("Content-Range", placed),))

    with RangeServer(BIG, script=script) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a"), connections=1))
            with pytest.raises(meowcat.TransferFailed) as failed:
                await task.result()
            assert failed.value.code == meowcat.Code.RANGE
            more[0] = 0
            await task.retry()
            await task.result()
    assert (tmp_path / "a").read_bytes() == BIG.bytes()


async def test_a_fenced_engine_stops_and_says_so(tmp_path, usurp):
    with RangeServer(BIG, rate=4 * MIB) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
            await reach(task, MIB)
            usurp(tmp_path / "t.db")
            with pytest.raises(meowcat.JournalFenced):
                await task.pause()
            assert await server.until(lambda s: s.open_sockets <= 1), "but for one that waits for a request"
            with pytest.raises(meowcat.JournalFenced):
                await engine.resume(task.id)
    assert not (tmp_path / "a").exists()


async def test_a_full_queue_refuses_who_does_not_wait(tmp_path):
    journal = Refusing(tmp_path / "t.db")
    with RangeServer(Content(1000)) as server:
        async with meowcat.Engine(journal, config=config(queue_capacity=1)) as engine:
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")), paused=True)
            journal.refuse = 1_000_000
            async with anyio.create_task_group() as group:
                group.start_soon(task.resume)
                await anyio.wait_all_tasks_blocked()
                with pytest.raises(meowcat.QueueFull) as full:
                    await engine.submit_nowait(meowcat.Download(server.url, str(tmp_path / "b")))
                assert full.value.code == 111
                journal.refuse = 0


async def test_listing_tells_states_and_what_is_waited_for(tmp_path):
    with RangeServer(BIG, rate=MIB) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config(max_downloads=1)) as engine:
            ids = await engine.submit_many(
                [meowcat.Download(server.url, str(tmp_path / name)) for name in "abc"]
            )
            running = await engine.task(ids[0])
            await reach(running, 256 << 10)
            states = {info.id: str(info.state) for info in await collect(engine.tasks())}
            assert states == dict(zip(ids, ["Running", "Queued", "Queued"], strict=True))
            snapshot = await engine.snapshot()
            assert snapshot.states == {"Running": 1, "Queued": 2}
            assert (snapshot.active_downloads, snapshot.queued_downloads) == (1, 2)
            with pytest.raises(meowcat.InvalidArgument):
                await collect(engine.tasks(state="Sleeping"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("connections", 0),
        ("piece_size", 1000),
        ("checksum", "sha256:12"),
        ("checksum", "crc7:00"),
        ("retries", -1),
        ("headers", {"bad name": "x"}),
        ("headers", {"x": "a\nb"}),
        ("overwrite", "sometimes"),
        ("total_size", -1),
    ],
)
async def test_bad_input_names_the_field_and_records_nothing(tmp_path, field, value):
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        with pytest.raises(meowcat.InvalidArgument) as refused:
            await engine.submit(meowcat.Download("http://localhost/x", str(tmp_path / "a"), **{field: value}))
        assert refused.value.code == 102
        assert field.rstrip("s") in str(refused.value) or "header" in str(refused.value)
        assert await collect(engine.tasks()) == []


@pytest.mark.parametrize("overwrite", ["never", "replace"])
@pytest.mark.parametrize(
    ("journal", "target"),
    [
        ("t.db", "t.db"),
        ("t.db", "t.db-wal"),
        ("t.db", "link/t.db-archive"),
        ("t.jsonl", "t.jsonl/00000000000000000001.jsonl"),
        ("t.jsonl", "link/t.jsonl/archive/x"),
    ],
)
async def test_a_download_over_its_own_journal_is_refused(tmp_path, journal, target, overwrite):
    (tmp_path / "link").symlink_to(tmp_path)
    download = meowcat.Download("http://localhost/x", str(tmp_path / target), overwrite=overwrite)
    async with meowcat.Engine(tmp_path / journal) as engine:
        for submit in (engine.submit(download), engine.submit_many([download])):
            with pytest.raises(meowcat.InvalidArgument, match="a file of the journal itself") as refused:
                await submit
            assert repr(download.to) in str(refused.value)
        assert await collect(engine.tasks()) == []


async def test_a_canceled_target_can_be_had_again_at_once(tmp_path):
    with RangeServer(BIG, rate=2 * MIB) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            for _ in range(3):
                task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
                await reach(task, 256 << 10)
                await task.cancel()
            last = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
            assert last.id != task.id
            server.rate.rate = None
            await last.result()
    assert (tmp_path / "a").read_bytes() == BIG.bytes()
