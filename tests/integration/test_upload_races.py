"""Commands, closes and registrations at every step of an upload, to a server in this process."""

import hashlib
import os
import sys
import time
from itertools import count

import anyio
import pytest
from shelf import Shelf, ShelfProtocol, fault, spec

import meowcat
from meowcat import State
from meowcat.core import events as ev
from meowcat.core.sessions import Receipt
from meowcat.core.values import FaultKind
from meowcat.protocols.refused import Refused

pytestmark = pytest.mark.anyio

PIECE = 64 << 10
CONFIG = meowcat.Config(retries=3, prepare_retries=3, control=False)
CONTENT = os.urandom(4 * PIECE + 1234)
STEPS = 1 + 5 + 1
"""Of an upload in which all goes well: it is created, its five parts are sent, it is committed."""
ENDS = {State.COMPLETE, State.CANCELED, State.FAILED, State.PAUSED}

numbers = count()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "source.bin"
    path.write_bytes(CONTENT)
    os.utime(path, ns=(1, 1))
    return path


def shelf_of(**able):
    """A server of its own, since one that begins to fail is avoided by all tasks."""
    return Shelf(f"shelf-{next(numbers)}.example", **able)


def engine(tmp_path, config=CONFIG, **options):
    return meowcat.Engine(tmp_path / "t.db", config=config, protocols=[ShelfProtocol], **options)


def upload(file, shelf, **options):
    return meowcat.Upload(str(file), shelf.url, spec(), **{"piece_size": PIECE, "connections": 2} | options)


async def until(claim):
    while not claim():  # the server in this process tells nobody
        await anyio.lowlevel.checkpoint()


def stop_after(shelf, parts):
    """Parts beyond that number are taken once the gate is gone: nothing is over before it was looked at."""
    shelf.gates["send_part"], shelf.passed["send_part"] = anyio.Event(), parts


async def steps(shelf, task, number):
    """Until the server has begun its `number`-th step, or the task is done before."""
    await until(lambda: len(shelf.calls) >= number or task.state in ENDS)


def is_there_once(shelf):
    assert shelf.objects[shelf.url][0] == CONTENT
    assert len(shelf.made) == 1
    assert shelf.sessions == {}


def is_there_once_or_not_at_all(shelf):
    assert [content for content, _ in shelf.objects.values()] in ([], [CONTENT])
    assert len(shelf.made) == len(shelf.objects)
    assert shelf.sessions == {}


async def sent_of(task):
    """Which parts the journal has as sent, of its last session."""
    numbers = []
    async for logged in task.history():
        if isinstance(logged.event, ev.SessionOpened):
            numbers = []
        elif isinstance(logged.event, ev.Sent):
            numbers += logged.event.numbers
    return numbers


ABLE = pytest.mark.parametrize(
    "able", [{}, {"lists_parts": False}, {"commits_with_last_part": True}], ids=["listed", "unlisted", "last"]
)


@ABLE
async def test_a_pause_after_any_step_and_a_resume(tmp_path, file, able):
    async with engine(tmp_path) as opened:
        for number in range(1, STEPS + 1):
            shelf = shelf_of(**able)
            task = await opened.submit(upload(file, shelf))
            await steps(shelf, task, number)
            await opened.pause_many()
            begun = len(shelf.calls)
            await until(lambda task=task: task.state in ENDS)
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            after = [name for name, _ in shelf.calls[begun:]]
            assert not {"create", "send_part"} & set(after), "a paused upload goes on"
            await opened.resume_many()
            await task.result()
            is_there_once(shelf)
            assert sorted(await sent_of(task)) == list(range(5 - ("commits_with_last_part" in able)))


@ABLE
async def test_a_cancel_after_any_step(tmp_path, file, able):
    async with engine(tmp_path) as opened:
        for number in range(1, STEPS + 1):
            shelf = shelf_of(**able)
            task = await opened.submit(upload(file, shelf))
            await steps(shelf, task, number)
            await opened.cancel_many()
            await opened.drain()
            is_there_once_or_not_at_all(shelf)
            if task.state is State.COMPLETE:
                is_there_once(shelf)


@ABLE
async def test_a_close_after_any_step_and_another_opening(tmp_path, file, able):
    for number in range(1, STEPS + 1):
        shelf = shelf_of(**able)
        async with engine(tmp_path) as opened:
            task = await opened.submit(upload(file, shelf))
            await steps(shelf, task, number)
        async with engine(tmp_path) as opened:
            again = await opened.task(task.id)
            await again.result()
            assert sorted(await sent_of(again)) == list(range(5 - ("commits_with_last_part" in able)))
        is_there_once(shelf)
        assert shelf.count("create") == 1


@pytest.mark.parametrize("method", ["create", "send_part", "commit"])
@pytest.mark.parametrize("answered", ["well", "lost", "refused"])
@pytest.mark.parametrize("command", ["pause", "cancel"])
async def test_a_command_while_the_server_is_at_it(tmp_path, file, method, answered, command):
    shelf = shelf_of()
    shelf.gates[method] = gate = anyio.Event()
    {"lost": shelf.lose, "refused": shelf.fail, "well": {method: []}}[answered][method] = [fault()]
    async with engine(tmp_path) as opened:
        task = await opened.submit(upload(file, shelf, connections=1))
        await shelf.begun[method].wait()
        async with anyio.create_task_group() as group:
            group.start_soon(getattr(task, command))
            await until(lambda: task.state in ENDS)
            gate.set()
        await opened.drain()
        if command == "pause" and task.state is State.PAUSED:
            await task.resume()
        if command == "pause":
            await task.result()
            assert shelf.objects[shelf.url][0] == CONTENT
    assert len(shelf.made) <= 1
    lost = method == "create" and answered == "lost"  # then nobody knows the session's name
    assert len(shelf.sessions) <= lost


@pytest.mark.parametrize("method", ["create", "send_part", "commit", "abort"])
async def test_a_close_while_the_server_is_at_it(tmp_path, file, method):
    shelf = shelf_of()
    shelf.gates[method] = gate = anyio.Event()
    async with engine(tmp_path) as opened:
        task = await opened.submit(upload(file, shelf, connections=1))
        if method == "abort":
            await shelf.begun["send_part"].wait()
            await task.cancel()
        await shelf.begun[method].wait()
        async with anyio.create_task_group() as group:
            group.start_soon(opened.close)
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            gate.set()
    async with engine(tmp_path) as opened:
        await opened.drain()
    if method == "abort":
        is_there_once_or_not_at_all(shelf)
    else:
        is_there_once(shelf)


async def test_a_cancel_of_a_paused_upload_removes_its_session(tmp_path, file):
    shelf = shelf_of()
    stop_after(shelf, 2)
    async with engine(tmp_path) as opened:
        task = await opened.submit(upload(file, shelf, connections=1))
        await until(lambda: len(shelf.kept) == 2)
        await task.pause()
        assert shelf.sessions
        await task.cancel()
        await opened.drain()
    is_there_once_or_not_at_all(shelf)
    assert shelf.objects == {}


async def test_a_failed_upload_that_is_tried_again_goes_on(tmp_path, file):
    shelf = shelf_of()
    shelf.fail["send_part"] = [None, None, fault(FaultKind.STATUS, status=403)]
    async with engine(tmp_path) as opened:
        task = await opened.submit(upload(file, shelf, connections=1))
        with pytest.raises(meowcat.TransferFailed):
            await task.result()
        assert len(shelf.kept) == 2
        await task.retry()
        await task.result()
    is_there_once(shelf)
    assert sorted(shelf.kept) == list(range(5))


@pytest.mark.parametrize(
    ("method", "options"), [("create", {"prepare_retries": 0}), ("send_part", {"retries": 0})]
)
async def test_no_retries_are_none(tmp_path, file, method, options):
    shelf = shelf_of()
    shelf.fail[method] = [fault(FaultKind.STATUS, status=503)]
    async with engine(tmp_path) as opened:
        with pytest.raises(meowcat.TransferFailed):
            await (await opened.submit(upload(file, shelf, connections=1, **options))).result()
    assert shelf.count(method) == 1


@pytest.mark.parametrize(
    ("method", "options"),
    [("create", {"prepare_retries": 2, "retries": 0}), ("send_part", {"prepare_retries": 0, "retries": 2})],
)
async def test_each_phase_has_a_budget_of_its_own(tmp_path, file, method, options):
    shelf = shelf_of()
    shelf.fail[method] = [fault(FaultKind.STATUS, status=503)] * 2
    async with engine(tmp_path) as opened:
        await (await opened.submit(upload(file, shelf, connections=1, **options))).result()
    is_there_once(shelf)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
async def test_what_is_like_bytes_is_taken_as_bytes(tmp_path, kind):
    shelf = shelf_of()
    async with engine(tmp_path) as opened:
        await opened.upload(kind(CONTENT), shelf.url, protocol=spec(), name="memory.bin")
    is_there_once(shelf)


async def test_bytes_wait_after_a_restart_until_they_are_supplied(tmp_path):
    shelf = shelf_of()
    stop_after(shelf, 2)
    request = meowcat.Upload(
        "memory.bin", shelf.url, spec(), origin="bytes", data=CONTENT, piece_size=PIECE, connections=1
    )
    async with engine(tmp_path) as opened:
        task = await opened.submit(request)
        await until(lambda: len(shelf.kept) == 2)
    shelf.gates.clear()
    async with engine(tmp_path) as opened:
        again = await opened.task(task.id)
        await opened.drain()
        assert again.info.needs == ("data",)
        await again.supply(data=CONTENT)
        await again.result()
    is_there_once(shelf)
    assert sorted(shelf.kept) == list(range(5))


async def test_other_bytes_than_those_that_were_sent_are_refused(tmp_path):
    shelf = shelf_of()
    stop_after(shelf, 2)
    request = meowcat.Upload(
        "memory.bin", shelf.url, spec(), origin="bytes", data=CONTENT, piece_size=PIECE, connections=1
    )
    async with engine(tmp_path) as opened:
        task = await opened.submit(request)
        await until(lambda: len(shelf.kept) == 2)
    shelf.gates.clear()
    async with engine(tmp_path) as opened:
        again = await opened.task(task.id)
        await opened.drain()
        await again.supply(data=bytes(len(CONTENT)))
        with pytest.raises(meowcat.TransferFailed) as failed:
            await again.result()
        await opened.drain()
    assert failed.value.code is meowcat.Code.SOURCE_CHANGED
    is_there_once_or_not_at_all(shelf)
    assert shelf.objects == {}


class Memory:
    """A source of the application's own."""

    def size(self):
        return len(CONTENT)

    def identity(self):
        return "version 1"

    def read(self, offset, size):
        return CONTENT[offset : offset + size]


async def test_an_upload_waits_for_its_source_and_its_protocol_to_be_registered(tmp_path):
    shelf = shelf_of()
    request = meowcat.Upload("row 17", shelf.url, spec(), origin="named", piece_size=PIECE)
    async with engine(tmp_path, sources={"row 17": Memory()}) as opened:
        task = await opened.submit(request, paused=True)
    async with meowcat.Engine(tmp_path / "t.db", config=CONFIG) as opened:
        await opened.resume_many()
        await opened.drain()
        (info,) = [info async for info in opened.tasks()]
        assert set(info.needs) == {"protocol:shelf", "source:row 17"}
        assert info.waiting_for is meowcat.WaitingFor.SUPPLY
        await opened.add_source("row 17", Memory())
        await opened.drain()
        (info,) = [info async for info in opened.tasks()]
        assert info.waiting_for is meowcat.WaitingFor.PROTOCOL, "all that it lacks"
    async with engine(tmp_path) as opened:
        again = await opened.task(task.id)
        await opened.drain()
        assert "source:row 17" in again.info.needs
        await opened.add_source("row 17", Memory())
        await again.result()
    is_there_once(shelf)


async def test_the_same_upload_attaches_and_another_one_is_refused(tmp_path, file):
    shelf = shelf_of()
    other = file.with_name("other.bin")
    other.write_bytes(CONTENT)
    shelf.gates["send_part"] = gate = anyio.Event()
    async with engine(tmp_path) as opened:
        task = await opened.submit(upload(file, shelf))
        assert (await opened.submit(upload(file, shelf))).id == task.id
        with pytest.raises(meowcat.DuplicateTask, match=rf"owns {shelf.url} \(from {file}\)"):
            await opened.submit(upload(other, shelf))
        gate.set()
        await task.result()
        again = await opened.submit(upload(other, shelf))
        await again.result()
    assert shelf.made == [task.id, again.id]


async def test_no_more_uploads_run_at_once_than_may(tmp_path, file):
    shelves = [shelf_of() for _ in range(3)]
    gates = [anyio.Event() for _ in shelves]
    for shelf, gate in zip(shelves, gates, strict=True):
        shelf.gates["send_part"] = gate
    async with engine(tmp_path, meowcat.Config(max_uploads=2, control=False)) as opened:
        tasks = [await opened.submit(upload(file, shelf)) for shelf in shelves]
        await shelves[0].begun["send_part"].wait()
        await shelves[1].begun["send_part"].wait()
        snapshot = await opened.snapshot()
        assert (snapshot.active_uploads, snapshot.queued_uploads) == (2, 1)
        assert shelves[2].calls == []
        for gate in gates:
            gate.set()
        for task in tasks:
            await task.result()
    for shelf in shelves:
        is_there_once(shelf)


async def test_a_limit_of_the_rate_is_kept(tmp_path, file):
    shelf = shelf_of()
    began = time.monotonic()
    async with engine(tmp_path) as opened:
        await (await opened.submit(upload(file, shelf, limit_rate=400_000))).result()
    took = time.monotonic() - began
    assert took > len(CONTENT) / 400_000 * 0.6  # a burst may go at once
    is_there_once(shelf)


@pytest.mark.parametrize("verify", ["auto", "always"])
async def test_a_digest_of_the_whole_is_computed_where_it_is_asked_for(tmp_path, file, verify):
    shelf = shelf_of()
    async with engine(tmp_path) as opened:
        request = upload(file, shelf, digest="sha256", verify_source=verify)
        result = await (await opened.submit(request)).result()
    assert [str(digest) for digest in result.digests] == [f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"]
    is_there_once(shelf)


async def test_a_young_source_that_is_written_with_its_stamp_put_back_is_found_out(tmp_path):
    file = tmp_path / "young.bin"
    file.write_bytes(CONTENT)
    shelf = shelf_of()
    shelf.gates["send_part"] = gate = anyio.Event()
    stamp = file.stat()
    async with engine(tmp_path) as opened:
        task = await opened.submit(upload(file, shelf, connections=1))
        await until(lambda: len(shelf.calls) == 2)
        gate.set()
        await until(lambda: len(shelf.kept) == 3)
        shelf.gates["send_part"] = gate = anyio.Event()
        with file.open("r+b") as written:
            written.write(b"other")
        os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        gate.set()
        with pytest.raises(meowcat.TransferFailed) as failed:
            await task.result()
        await opened.drain()
    assert failed.value.code is meowcat.Code.SOURCE_CHANGED
    assert shelf.objects == {}
    assert shelf.sessions == {}


async def many_parts(tmp_path, parts):
    """Seconds, and how many bytes of memory it took at most."""
    import resource  # noqa: PLC0415  # there is none on Windows

    file = tmp_path / "large.bin"
    with file.open("wb") as made:
        made.truncate(parts * PIECE)  # a hole: it takes no space
    os.utime(file, ns=(1, 1))
    shelf = shelf_of(max_parts=parts)
    shelf.forgetful = True
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    async with engine(tmp_path) as opened:
        await (await opened.submit(upload(file, shelf, connections=8))).result()
    took = time.monotonic() - began
    assert len(shelf.kept) == parts
    unit = 1 if sys.platform == "darwin" else 1024
    return took, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit


async def test_a_thousand_parts_take_little_memory(tmp_path):
    _, grown = await many_parts(tmp_path, 1000)
    assert grown < 100 << 20


@pytest.mark.soak
async def test_ten_thousand_parts(tmp_path):
    took, grown = await many_parts(tmp_path, 10_000)
    print(f"10,000 parts: {took:.1f} s, {grown / 1e6:.0f} MB")
    assert grown < 150 << 20


class Uneven(ShelfProtocol):
    """Whose parts are read for their checksum first, and take a while then and when they are stopped: each
    another one."""

    tag = "uneven"

    async def send_part(self, session, part):
        self.shelf.calls.append(("send_part", part.index))
        if self.shelf.count("send_part") > 1000:
            raise Refused(fault(FaultKind.SOURCE_CHANGED))  # ends what would go on for ever
        await part.checksum("md5")
        for _ in range((5, 3, 3, 4)[part.index % 4]):
            await anyio.lowlevel.checkpoint()
        with anyio.CancelScope(shield=True):
            for _ in range((1, 2, 0, 0)[part.index % 4]):
                await anyio.lowlevel.checkpoint()
        self.shelf.sessions[session.id][part.index] = b""
        return Receipt(text="kept")


async def test_a_cancel_is_heard_while_parts_end_one_after_the_other():
    """Each end wakes whoever begins the next part. A cancellation passes over those that are about to go on:
    one of ten of these uploads began parts for ever, each to be canceled at once.
    """
    content, parts = bytes(200 * PIECE), 200
    config = meowcat.Config(control=False)
    async with meowcat.Engine("memory:", config=config, protocols=[Uneven]) as own:
        for turns in range(100):
            shelf = shelf_of()
            kind = meowcat.ProtocolSpec("uneven", 1)
            request = meowcat.Upload(
                "it", shelf.url, kind, origin="bytes", data=content, piece_size=PIECE, connections=8
            )
            task = await own.submit(request)
            await until(lambda shelf=shelf: shelf.count("send_part") >= 4)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            await task.cancel()
            await own.drain()
            assert shelf.count("send_part") <= parts + 8  # each once, but for those that were stopped
            assert shelf.sessions == {}
