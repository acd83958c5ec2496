"""The control socket of an engine at work: what it does for clients, and that no client can hurt it."""

import json
import logging
import os
import socket
import stat
import time
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shelf import Shelf, ShelfProtocol, spec
from shelf import fault as shelf_fault

import meowcat
from meowcat.control import messages as ctl
from meowcat.control import server as serving
from meowcat.control.client import Control, connect
from meowcat.control.wire import Wire, connect_to
from meowcat.journal.locate import locate
from meowcat.testing.content import Content
from meowcat.testing.exchanges import Trouble
from meowcat.testing.range_server import RangeServer

pytestmark = pytest.mark.anyio

MIB = 1 << 20
BIG = Content(16 * MIB)
SECRET = "hunter2-is-secret"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture
def journal(tmp_path, anyio_backend):
    """One kind with each of the loops: all that differs is where the socket stands."""
    return tmp_path / {"asyncio": "t.db", "trio": "t.jsonl"}[anyio_backend]


@pytest.fixture
def place(journal):
    found = locate(str(journal)).control_socket
    found.parent.mkdir(exist_ok=True)
    return found


@pytest.fixture
def slow():
    with RangeServer(BIG, rate=2 * MIB) as server:
        yield server


def config(**changes):
    base = {"piece_size": 256 << 10, "flush_seconds": 0.02, "connect_timeout": 2.0, "read_timeout": 2.0}
    return meowcat.Config(**(base | changes))


def engine(journal, *, on_restart="resume", **changes):
    return meowcat.Engine(journal, config=config(**changes), on_restart=on_restart)


async def paused(engine, path):
    """A task that touches no network."""
    return await engine.submit(meowcat.Download("http://127.0.0.1:9/x", str(path)), paused=True)


async def said(wire):
    """All that the other end says until it hangs up."""
    heard = b""
    try:
        while (line := await wire.line(1 << 30)) is not None:
            heard += line + b"\n"
    except OSError:
        pass  # it hung up before it had read all
    return heard


# Its place


async def test_only_its_user_may_connect_and_it_is_gone_after_the_close(journal, place):
    async with engine(journal):
        status = place.stat()
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600
    assert not place.exists()


async def test_nobody_could_connect_before_the_mode_was_set(journal, place, monkeypatch):
    refused = []

    def chmod(path, mode, real=os.chmod):
        with socket.socket(socket.AF_UNIX) as other:
            refused.append(other.connect_ex(str(place)))
        real(path, mode)

    monkeypatch.setattr(os, "chmod", chmod)
    async with engine(journal):
        assert [bool(error) for error in refused] == [True]


async def test_the_socket_of_a_dead_owner_is_replaced(journal, place):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place))
    async with engine(journal), connect(journal) as control:
        assert (await control.ping()).owner.pid == os.getpid()


async def test_something_else_in_its_place_stays_and_the_engine_goes_on_without(journal, place, caplog):
    place.write_text("mine")
    with caplog.at_level(logging.WARNING, "meowcat.control"):
        async with engine(journal) as opened:
            await paused(opened, journal.with_name("x"))
    assert "going on without a control socket" in caplog.text
    assert place.read_text() == "mine"


async def test_a_path_that_no_address_has_room_for_is_reached_all_the_same(tmp_path):
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    async with engine(folder / "t.db"), connect(folder / "t.db") as control:
        assert (await control.ping()).owner.pid == os.getpid()
    assert [path.name for path in folder.iterdir() if "control" in path.name] == []


async def test_it_can_be_switched_off_and_a_memory_journal_has_none(journal, place):
    async with engine(journal, control=False):
        assert not place.exists()
        with pytest.raises(meowcat.NobodyListens):
            async with connect(journal):
                pass
    with pytest.raises(meowcat.ControlError, match="no place"):
        async with connect("memory:"):
            pass


async def test_secrets_are_not_handed_to_a_socket_of_somebody_else(journal, place):
    if os.geteuid() != 0:
        pytest.skip("only root can give a socket away")
    async with engine(journal):
        os.chown(place, 12345, 12345)
        with pytest.raises(meowcat.ControlError, match="user 12345"):
            async with connect(journal):
                pass


def open_inodes():
    found = set()
    for name in Path("/proc/self/fd").iterdir():
        try:
            found.add(name.stat().st_ino)
        except OSError:  # the descriptor that lists the folder itself
            continue
    return found


async def test_a_forked_child_does_not_keep_it_open(journal, anyio_backend):
    if anyio_backend == "trio":
        pytest.skip("the same hook")
    async with engine(journal), connect(journal) as control:
        await control.ping()
        assert len(serving._OPEN) == 2
        inodes = {os.fstat(each.fileno()).st_ino for each in serving._OPEN}
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, b"open" if inodes & open_inodes() else b"closed")
            os._exit(0)
        await anyio.to_thread.run_sync(os.waitpid, child, 0)
        assert os.read(reading, 10) == b"closed"
        os.close(reading)
        os.close(writing)
        assert (await control.ping()).owner.pid == os.getpid()


# What it does


async def test_a_task_is_paused_resumed_and_canceled_from_outside(journal, slow, tmp_path):
    async with engine(journal) as opened:
        task = await opened.submit(meowcat.Download(slow.url, str(tmp_path / "big")))
        async with connect(journal) as control:
            (outcome,) = await control.order(ctl.Pause(tasks=(task.id,)))
            assert (outcome.task, outcome.state, outcome.error) == (task.id, "Paused", None)
            assert task.state == "Paused"
            (outcome,) = await control.order(ctl.Resume(tasks=(task.id,)))
            assert outcome.state == "Queued"
            (outcome,) = await control.order(ctl.Cancel(tasks=(task.id,)))
            assert outcome.state == task.state == "Canceled"


async def test_a_command_that_makes_no_sense_is_an_error_of_its_task_alone(journal, tmp_path):
    async with engine(journal) as opened:
        one = await paused(opened, tmp_path / "one")
        async with connect(journal) as control:
            wrong, right = await control.order(ctl.Resume(tasks=("01NOSUCHTASK", one.id)))
    assert isinstance(ctl.error_of(wrong.error), meowcat.TaskNotFound)
    assert (right.task, right.state, right.error) == (one.id, "Queued", None)


async def test_errors_come_out_as_what_they_were(journal, tmp_path):
    async with engine(journal) as opened:
        task = await paused(opened, tmp_path / "one")
        async with connect(journal) as control:
            with pytest.raises(meowcat.InvalidArgument, match="expected a url, headers, data or a plan"):
                await control.supply(task.id)
            with pytest.raises(meowcat.TaskNotFound) as missing:
                await control.supply("01X", url="http://host/x")
            assert missing.value.code is meowcat.Code.TASK_NOT_FOUND
            (refused,) = await control.order(ctl.Retry(tasks=(task.id,)))
            assert isinstance(ctl.error_of(refused.error), meowcat.InvalidTaskState)


async def test_all_tasks_are_paused_and_resumed_with_one_request(journal, tmp_path):
    async with engine(journal, on_restart="leave") as opened:
        requests = [meowcat.Download("http://127.0.0.1:9/x", str(tmp_path / str(n))) for n in range(450)]
        ids = await opened.submit_many(requests)
        async with connect(journal) as control:
            done = await control.order(ctl.Pause(all=True))
            assert sorted(each.task for each in done) == sorted(ids)
            assert [each.info.id for each in await control.tasks(states=[meowcat.State.PAUSED])] == ids
            assert await control.order(ctl.Resume(all=True, states=(meowcat.State.FAILED,))) == []
            assert len(await control.order(ctl.Resume(all=True, direction="download"))) == 450
            assert (await control.snapshot()).states == {"Queued": 450}


async def test_a_list_has_rates_that_nobody_had_to_watch_before(journal, slow, tmp_path):
    async with engine(journal) as opened:
        (task,) = await opened.submit_many([meowcat.Download(slow.url, str(tmp_path / "big"))])
        assert await slow.until(lambda it: it.bytes_served() > 2 * MIB)
        async with connect(journal) as control:
            while not (live := (await control.tasks())[0]).rate:
                await opened.snapshot()
        assert live.info.id == task
        assert 0.2 * MIB < live.rate < 20 * MIB
        assert live.eta == pytest.approx((BIG.size - live.info.bytes_done) / live.rate)


async def test_an_upload_is_listed_with_what_the_server_said_of_it(journal, tmp_path):
    shelf, source = Shelf("control.example"), tmp_path / "source"
    source.write_bytes(b"bytes")
    async with meowcat.Engine(journal, config=config(), protocols=[ShelfProtocol]) as opened:
        result = await opened.upload(source, shelf.url, protocol=spec())
        async with connect(journal) as control:
            (live,) = await control.tasks(states=(meowcat.State.COMPLETE,), direction="upload")
            assert await control.tasks(states=(meowcat.State.COMPLETE,), direction="download") == []
    assert (live.info.direction, live.info.path, live.info.url) == ("upload", str(source), shelf.url)
    assert live.info.remote == result.remote


async def test_what_is_left_at_a_server_is_listed_and_removed_from_outside(journal, tmp_path):
    shelf, source = Shelf("control.example"), tmp_path / "source"
    source.write_bytes(os.urandom(4 * (256 << 10)))
    shelf.fail["abort"] = [shelf_fault(meowcat.FaultKind.STATUS, status=403)]
    async with meowcat.Engine(journal, config=config(), protocols=[ShelfProtocol]) as opened:
        task = await opened.submit(meowcat.Upload(str(source), shelf.url, spec(), piece_size=256 << 10))
        await shelf.begun["send_part"].wait()
        await task.cancel()
        await opened.drain()
        async with connect(journal) as control:
            (orphan,) = await control.orphans()
            assert (orphan.task, orphan.session, orphan.ours) == (task.id, "s1", True)
            assert list(shelf.sessions) == ["s1"]
            assert await control.abort_orphans() == [task.id]
            assert shelf.sessions == {}
            assert await control.orphans() == []


async def test_an_upload_that_waits_is_canceled_from_outside(journal, tmp_path):
    Shelf("control.example")
    async with meowcat.Engine(journal, config=config(), protocols=[ShelfProtocol]) as opened:
        request = meowcat.Upload("blob", "http://control.example/object", spec(), origin="named")
        task = await opened.submit(request)
        await opened.drain()
        async with connect(journal) as control:
            (live,) = await control.tasks(direction="upload")
            assert (live.info.waiting_for, live.info.needs) == ("supply", ("source:blob",))
            (outcome,) = await control.order(ctl.Cancel(tasks=(task.id,)))
        assert (outcome.state, task.state) == ("Canceled", "Canceled")


async def test_who_waits_for_a_time_says_until_when(journal, tmp_path):
    with RangeServer({}, script=lambda _: Trouble(status=503, headers=(("retry-after", "60"),))) as server:
        async with engine(journal) as opened:
            task = await opened.submit(meowcat.Download(server.url, str(tmp_path / "big")))
            async for moment in task.progress():
                if moment.waiting_for:
                    break
            async with connect(journal) as control:
                (live,) = await control.tasks()
    assert live.info.waiting_for == "server"
    assert 50_000 < live.waits_until - opened.clock.wall() <= 61_000


async def test_a_watch_begins_with_all_and_goes_on_with_what_changes(journal, slow, tmp_path):
    async with engine(journal) as opened:
        still = await paused(opened, tmp_path / "still")
        task = await opened.submit(meowcat.Download(slow.url, str(tmp_path / "big")))
        async with connect(journal) as control:
            updates = control.watch()
            assert {live.info.id for live in await anext(updates)} == {still.id, task.id}
            seen = []
            while not seen or not seen[-1].rate:
                seen += await anext(updates)
            await task.cancel()
            new = await paused(opened, tmp_path / "new")
            ends = {}
            while not {task.id, new.id} <= ends.keys():
                ends |= {live.info.id: live.info.state for live in await anext(updates)}
    assert {live.info.id for live in seen} == {task.id}
    assert (ends[task.id], ends[new.id]) == ("Canceled", "Paused")


async def test_a_watch_of_named_tasks_tells_of_those_alone(journal, tmp_path):
    async with engine(journal) as opened:
        one, other = await paused(opened, tmp_path / "one"), await paused(opened, tmp_path / "other")
        async with connect(journal) as control:
            updates = control.watch([one.id])
            assert [live.info.id for live in await anext(updates)] == [one.id]
            await other.cancel()
            await one.cancel()
            assert [live.info.id for live in await anext(updates)] == [one.id]
        async with connect(journal) as control:
            with pytest.raises(meowcat.TaskNotFound):
                await anext(control.watch(["01X"]))


async def test_a_watch_that_has_nothing_to_tell_gives_a_sign_of_life(journal, monkeypatch):
    monkeypatch.setattr(serving, "HEARTBEAT", 0.5)
    async with engine(journal), connect(journal) as control:
        updates = control.watch()
        assert await anext(updates) == []
        assert await anext(updates) == []


async def test_what_is_supplied_goes_to_the_server_and_into_no_file_or_reply(journal, tmp_path, place):
    content = Content(1000)
    with RangeServer(content) as server:
        async with engine(journal) as opened:
            request = meowcat.Download(server.url, str(tmp_path / "x"), headers={"Authorization": SECRET})
            task = await opened.submit(request, paused=True)
        async with engine(journal) as opened:
            async with connect(journal) as control:
                await control.supply(task.id, headers={"Authorization": SECRET})
                await control.order(ctl.Resume(tasks=(task.id,)))
            await (await opened.task(task.id)).result()
            with await connect_to(place) as stream:
                wrong = {"command": "supply", "task": task.id, "headers": {"A": 1, "B": SECRET}}
                await stream.send(json.dumps(wrong).encode() + b"\n")
                assert SECRET.encode() not in await said(stream)
    assert SECRET not in repr(ctl.Supply(task=task.id, url=f"http://u:{SECRET}@h", headers={"A": SECRET}))
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


async def test_a_close_hangs_up_on_whoever_is_connected(journal, monkeypatch):
    monkeypatch.setattr(serving, "CLOSE_WITHIN", 30.0)
    async with engine(journal) as opened:
        async with connect(journal) as control, connect(journal) as watching:
            await control.ping()
            await anext(watching.watch())
            began = time.monotonic()
            await opened.close()
            assert time.monotonic() - began < serving.CLOSE_WITHIN
            with pytest.raises(meowcat.OwnerLost):
                await control.ping()
        with pytest.raises(meowcat.NobodyListens):
            async with connect(journal):
                pass


# What can't hurt it


@pytest.mark.parametrize(
    "line",
    [
        b"hello\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"{}\n",
        b'{"command":"explode"}\n',
        b'{"command":"pause"}\n',
        b'{"command":"pause","tasks":["01X"],"all":true}\n',
        b'{"command":"pause","all":true,"states":["Sleepy"]}\n',
        b'{"version":2,"command":"ping"}\n',
        b'{"command":"list"' + b"[" * 5000 + b"\n",
        b"x" * (ctl.MAX_REQUEST + 10) + b"\n",
        b"x" * (ctl.MAX_REQUEST + (128 << 10)),
    ],
    ids=range(12),
)
async def test_what_is_no_request_is_told_so_and_hung_up_on(journal, place, line):
    async with engine(journal):
        with await connect_to(place) as stream:
            try:
                await stream.send(line)
            except OSError:
                pass  # it hung up before it was told all of it
            reply = json.loads((await said(stream)).decode())
        assert reply["reply"] == "error"
        assert reply["code"] in (102, 150)
        async with connect(journal) as control:
            await control.ping()


async def test_half_a_request_is_waited_for_only_so_long(journal, place, monkeypatch):
    monkeypatch.setattr(serving, "REQUEST_WITHIN", 0.2)
    async with engine(journal):
        with await connect_to(place) as stream:
            await stream.send(b'{"command":')
            with anyio.fail_after(20):
                assert await said(stream) == b""


async def test_who_never_reads_is_hung_up_on_and_nobody_else_notices(journal, place, tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "SEND_WITHIN", 1.0)  # which is enough for whoever reads
    async with engine(journal, on_restart="leave") as opened:
        requests = [meowcat.Download("http://127.0.0.1:9/x", str(tmp_path / str(n))) for n in range(1000)]
        await opened.submit_many(requests)
        with await connect_to(place) as deaf:
            await deaf.send(b'{"command":"list"}\n' * 20)
            async with connect(journal) as control:
                with anyio.fail_after(20):
                    assert len(await control.tasks()) == 1000
            with anyio.fail_after(20):
                while len(serving._OPEN) > 1:
                    await anyio.lowlevel.checkpoint()


async def test_more_clients_than_there_is_room_for_are_told_and_room_comes_back(journal, place):
    async with engine(journal) as opened:
        async with anyio.create_task_group() as group:
            streams = []
            for _ in range(serving.MAX_CLIENTS):
                streams.append(await connect_to(place))
                await streams[-1].send(b'{"command":"ping"}\n')
                await streams[-1].line(10_000)
            async with connect(journal) as control:
                with pytest.raises(meowcat.ControlError, match="try again later"):
                    await control.ping()
            for stream in streams:
                stream.raw.close()
            group.cancel_scope.cancel()
        with anyio.fail_after(20):
            while True:
                try:
                    async with connect(journal) as control:
                        await control.ping()
                        break
                except meowcat.ControlError:
                    continue
        assert (await opened.snapshot()).position == 0


async def test_a_thousand_connections_at_once_hurt_nobody(journal, place, tmp_path):
    content = Content(MIB)
    with RangeServer(content) as server:
        async with engine(journal) as opened:

            async def knock():
                try:
                    with await connect_to(place) as stream:
                        await stream.send(b'{"command":"list"}\n')
                        stream.raw.shutdown(socket.SHUT_WR)
                        await said(stream)
                except OSError:
                    pass  # refused: that is what is asked of it

            async with anyio.create_task_group() as group:
                for _ in range(1000):
                    group.start_soon(knock)
                await opened.download(server.url, tmp_path / "x")
            async with connect(journal) as control:
                await control.ping()
    assert (tmp_path / "x").read_bytes() == content.bytes()


def commands():
    words = st.sampled_from(
        [
            "ping",
            "pause",
            "resume",
            "cancel",
            "retry",
            "supply",
            "list",
            "snapshot",
            "orphans",
            "abort-orphans",
            "x",
        ]
    )
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
    fields = ["tasks", "all", "states", "direction", "task", "url", "headers", "version"]
    return st.builds(
        lambda word, more: json.dumps({"command": word} | more).encode(),
        words,
        st.dictionaries(st.sampled_from(fields), anything, max_size=4),
    )


@given(st.binary() | commands())
def test_reading_a_request_fails_in_one_way_only(line):
    try:
        assert isinstance(ctl.request_of(line), ctl.Request)
    except meowcat.MeowcatError:
        pass


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.binary(max_size=200) | commands(), max_size=8))
def test_whatever_is_sent_the_engine_lives_and_answers_the_next_one(tmp_path_factory, lines, caplog):
    folder = tmp_path_factory.mktemp("fuzz")

    async def run():
        async with engine(folder / "t.db") as opened:
            await paused(opened, folder / "x")
            with await connect_to(folder / "t.db-control") as stream:
                try:
                    for line in lines:
                        await stream.send(line + b"\n")
                    stream.raw.shutdown(socket.SHUT_WR)
                    replies = await said(stream)
                except OSError:
                    replies = b""  # it hung up at the first that was no request
            for reply in replies.splitlines():
                ctl.reply_of(reply)
            async with connect(folder / "t.db") as control:
                await control.ping()

    anyio.run(run)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_an_owner_that_talks_nonsense_is_told_apart(tmp_path, anyio_backend):
    one, other = socket.socketpair()
    with Wire(one) as here, Wire(other) as there:
        control = Control(here, tmp_path)
        for nonsense in (b"what?\n", b'{"reply":"done"}\n'):
            await there.send(nonsense)
            with pytest.raises(meowcat.ControlError):
                await control.ping()
