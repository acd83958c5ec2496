"""Uploads through the engine, to a server in this process that fails as the tests say."""

import hashlib
import os

import anyio
import msgspec
import pytest
from shelf import Shelf, ShelfProtocol, fault, spec

import meowcat
from meowcat import State
from meowcat.core import events as ev
from meowcat.core.events import TAGS
from meowcat.core.messages import Supply
from meowcat.core.sessions import Session
from meowcat.core.values import FaultKind, SourceIdentity, TaskId
from meowcat.journal.codec import encode
from meowcat.journal.contract import Entry
from meowcat.journal.locate import locate
from meowcat.testing.journal_suite import OWNER
from meowcat.transfer.sources import BytesSource

pytestmark = pytest.mark.anyio

PIECE = 64 << 10
CONFIG = meowcat.Config(retries=3, prepare_retries=3, control=False)


@pytest.fixture
def content():
    return os.urandom(10 * PIECE + 1234)


@pytest.fixture
def file(tmp_path, content):
    path = tmp_path / "source.bin"
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    return path


def engine(tmp_path, config=CONFIG, **options):
    return meowcat.Engine(tmp_path / "t.db", config=config, protocols=[ShelfProtocol], **options)


def upload(file, shelf, **options):
    return meowcat.Upload(str(file), shelf.url, spec(), **{"piece_size": PIECE} | options)


async def types(task):
    return [TAGS[type(logged.event)] async for logged in task.history()]


async def test_an_upload_gets_there(tmp_path, file, content):
    shelf = Shelf()
    async with engine(tmp_path) as opened:
        result = await opened.upload(file, shelf.url, protocol=spec(), piece_size=PIECE)
    assert shelf.objects[shelf.url][0] == content
    assert shelf.sessions == {}
    assert (result.size, result.path, result.remote["etag"]) == (
        len(content),
        str(file),
        result.remote["etag"],
    )
    assert sorted(shelf.sent()) == list(range(11))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("connections", 0),
        ("piece_size", 0),
        ("retries", -1),
        ("prepare_retries", -1),
        ("limit_rate", 0),
        ("digest", "crc7"),
        ("verify_source", "sometimes"),
        ("origin", "elsewhere"),
    ],
)
async def test_bad_input_names_the_field_and_records_nothing(tmp_path, file, field, value):
    async with engine(tmp_path) as opened:
        with pytest.raises(meowcat.InvalidArgument, match=f"^{field} {value!r}: expected"):
            await opened.submit(upload(file, Shelf(), **{field: value}))
        assert [info async for info in opened.tasks()] == []


async def test_what_is_recorded_comes_before_what_is_done(tmp_path, file):
    shelf = Shelf()
    async with engine(tmp_path) as opened:
        task = await opened.submit(upload(file, shelf, connections=1))
        await task.result()
        told = await types(task)
    assert told == [
        *("created", "admitted", "source-pinned", "session-intended", "session-opened"),
        *(["sent"] * 11),
        *("commit-intended", "completed"),
    ]


@pytest.mark.parametrize("able", [{}, {"commits_with_last_part": True}, {"lists_parts": False}])
@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1])
async def test_every_size_gets_there(tmp_path, size, able):
    shelf = Shelf(**able)
    file = tmp_path / "source.bin"
    file.write_bytes(data := os.urandom(size))
    async with engine(tmp_path) as opened:
        await opened.upload(file, shelf.url, protocol=spec(), piece_size=PIECE)
    assert shelf.objects[shelf.url][0] == data


class KnownProtocol(ShelfProtocol):
    """Of a server that has every content already."""

    tag = "known"

    async def prepare(self, session):
        prepared = await super().prepare(session)
        return msgspec.structs.replace(prepared, done={"etag": self.job.digests["md5"]})


async def test_the_digest_that_was_asked_for_is_known_though_nothing_had_to_be_sent(tmp_path, file, content):
    shelf = Shelf(needs_digests=("md5",))
    async with meowcat.Engine(tmp_path / "t.db", config=CONFIG, protocols=[KnownProtocol]) as opened:
        protocol = meowcat.ProtocolSpec("known")
        result = await opened.upload(file, shelf.url, protocol=protocol, digest="sha256")
    assert shelf.sent() == []
    assert {each.algorithm: each.hex for each in result.digests} == {
        name: hashlib.new(name, content).hexdigest() for name in ("md5", "sha256")
    }


class Given:
    """A source of the application's own."""

    def __init__(self, content):
        self.content = content
        self.read_at = []

    def size(self):
        return len(self.content)

    def identity(self):
        return "1"

    def read(self, offset, size):
        self.read_at.append(offset)
        return self.content[offset : offset + size]


async def test_who_waited_for_what_is_registered_at_the_next_opening_goes_on(tmp_path, content):
    shelf = Shelf()
    async with engine(tmp_path) as opened:
        task = await opened.submit(upload("row 7", shelf, origin="named"))
        await opened.drain()
        assert task.info.needs == ("source:row 7",)
    async with meowcat.Engine(tmp_path / "t.db", config=CONFIG) as opened:
        await opened.drain()
        assert (await opened.task(task.id)).info.needs == ("source:row 7",)
    async with engine(tmp_path, sources={"row 7": Given(content)}) as opened:
        await opened.drain()
        assert (await opened.task(task.id)).state is State.COMPLETE
    assert shelf.objects[shelf.url][0] == content


@pytest.mark.parametrize("offsets", [False, True])
async def test_the_first_part_is_read_while_a_session_is_opened(tmp_path, content, offsets):
    """And no other one, and once; but nothing where the server may have the beginning already."""
    shelf, source = Shelf(server_offset=offsets, any_order=not offsets), Given(content)
    shelf.gates["create"] = anyio.Event()
    async with engine(tmp_path, sources={"row 7": source}) as opened:
        task = await opened.submit(upload("row 7", shelf, origin="named"))
        await shelf.begun["create"].wait()
        while not (offsets or source.read_at):
            await anyio.lowlevel.checkpoint()
        before = list(source.read_at)
        shelf.gates["create"].set()
        await task.result()
    assert shelf.objects[shelf.url][0] == content
    assert before == ([] if offsets else [0])
    assert sorted(source.read_at) == [index * PIECE for index in range(11)]


async def test_what_was_read_for_a_session_that_is_refused_is_given_back(tmp_path, content):
    shelf, source = Shelf(), Given(content)
    shelf.fail["create"] = [fault(FaultKind.STATUS, status=400)]
    async with engine(tmp_path, sources={"row 7": source}) as opened:
        with pytest.raises(meowcat.TransferFailed):
            await (await opened.submit(upload("row 7", shelf, origin="named"))).result()
        budget = opened._runtime._world.budget
        assert budget._free == budget._memory


async def test_a_drain_waits_for_those_that_a_registration_sets_going(tmp_path, content):
    shelf = Shelf()
    async with engine(tmp_path) as opened:
        task = await opened.submit(upload("row 7", shelf, origin="named"))
        await opened.drain()
        await opened.add_source("row 7", Given(content))
        await opened.drain()
        assert task.state is State.COMPLETE


async def test_a_wait_for_more_than_is_registered_goes_on_without_a_record(tmp_path, content):
    shelf = Shelf()
    async with meowcat.Engine(tmp_path / "t.db", config=CONFIG, protocols=[ShelfProtocol]) as opened:
        request = upload("row 7", shelf, origin="named", headers={"X-Secret": "made up"})
        task = await opened.submit(request, paused=True)
    async with engine(tmp_path) as opened:
        await (await opened.task(task.id)).resume()
        await opened.drain()
        told = await types(await opened.task(task.id))
    async with engine(tmp_path, sources={"row 7": Given(content)}) as opened:
        await opened.drain()
        handle = await opened.task(task.id)
        assert await types(handle) == told
        await handle.supply(headers={"X-Secret": "made up"})
        await handle.result()
    assert shelf.objects[shelf.url][0] == content


async def test_bytes_in_memory_get_there(tmp_path, content):
    shelf = Shelf()
    async with engine(tmp_path) as opened:
        await opened.upload(content, shelf.url, protocol=spec(), piece_size=PIECE, name="memory.bin")
    assert shelf.objects[shelf.url][0] == content


@pytest.mark.parametrize("method", ["create", "send_part", "commit"])
async def test_a_failure_is_tried_again(tmp_path, file, content, method):
    shelf = Shelf()
    shelf.fail[method] = [fault(FaultKind.STATUS, status=503), None, fault()]
    async with engine(tmp_path) as opened:
        await (await opened.submit(upload(file, shelf))).result()
    assert shelf.objects[shelf.url][0] == content
    assert shelf.sessions == {}


async def test_a_commit_whose_reply_was_lost_is_asked_about_and_not_repeated(tmp_path, file, content):
    shelf = Shelf()
    shelf.lose["commit"] = [fault()]
    async with engine(tmp_path) as opened:
        await (await opened.submit(upload(file, shelf))).result()
    assert shelf.objects[shelf.url][0] == content
    assert (shelf.count("commit"), shelf.count("reconcile")) == (1, 1)


async def test_a_session_that_the_server_lost_is_begun_anew(tmp_path, file, content):
    shelf = Shelf()
    shelf.fail["send_part"] = [None, None, None, fault(FaultKind.SESSION_LOST)]
    async with engine(tmp_path) as opened:
        await (await opened.submit(upload(file, shelf, connections=1))).result()
    assert shelf.objects[shelf.url][0] == content
    assert shelf.count("create") == 2
    assert shelf.sessions == {}, "it had not, and the session stands"


async def test_the_next_part_is_read_while_one_is_sent_and_sent_after_it(tmp_path, content):
    shelf = Shelf()
    shelf.gates["send_part"] = anyio.Event()
    shelf.fail["send_part"] = [fault()]
    source = Given(content)
    async with engine(tmp_path, sources={"row 7": source}) as opened:
        task = await opened.submit(upload("row 7", shelf, origin="named", connections=1))
        while PIECE not in source.read_at or not shelf.count("send_part"):
            await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()
        assert 2 * PIECE not in source.read_at, "one part is read ahead, not all"
        assert shelf.count("send_part") == 1
        shelf.gates["send_part"].set()
        await task.result()
    assert shelf.sent() == list(range(11)), "first the part that failed"
    assert shelf.objects[shelf.url][0] == content


async def test_a_pause_stops_and_a_resume_goes_on_where_it_was(tmp_path, file, content):
    shelf = Shelf()
    shelf.gates["send_part"], shelf.passed["send_part"] = anyio.Event(), 4
    async with engine(tmp_path) as opened:
        task = await opened.submit(upload(file, shelf, connections=1))
        while shelf.count("send_part") < 5:
            await anyio.lowlevel.checkpoint()
        await task.pause()
        shelf.gates.clear()
        assert shelf.sent() == [0, 1, 2, 3]
        await task.resume()
        await task.result()
    assert shelf.objects[shelf.url][0] == content
    assert shelf.sent() == list(range(11))


async def test_a_restart_sends_nothing_twice(tmp_path, file, content):
    shelf = Shelf()
    shelf.gates["commit"] = anyio.Event()
    async with engine(tmp_path) as opened:
        task = await opened.submit(upload(file, shelf, connections=2))
        while len(shelf.sent()) < 5:
            await anyio.lowlevel.checkpoint()
    del shelf.gates["commit"]
    async with engine(tmp_path) as opened:
        await (await opened.task(task.id)).result()
    assert shelf.objects[shelf.url][0] == content
    assert sorted(shelf.sent()) == list(range(11))


async def test_what_waited_for_a_registration_goes_on_where_the_next_engine_has_it(tmp_path, content):
    shelf = Shelf()
    named = meowcat.Upload("mine", shelf.url, spec(), origin="named", piece_size=PIECE)
    async with engine(tmp_path) as opened:
        task = await opened.submit(named)
        while task.info.waiting_for is None:
            await anyio.lowlevel.checkpoint()
        assert task.info.needs == ("source:mine",)
    async with engine(tmp_path) as opened:
        await opened.drain()
        assert (await opened.task(task.id)).info.needs == ("source:mine",)
    async with engine(tmp_path, sources={"mine": BytesSource(content)}) as opened:
        await (await opened.task(task.id)).result()
    assert shelf.objects[shelf.url][0] == content


async def test_a_canceled_upload_leaves_no_session(tmp_path, file):
    shelf = Shelf()
    async with engine(tmp_path) as opened:
        task = await opened.submit(upload(file, shelf, connections=1))
        while len(shelf.sent()) < 4:
            await anyio.lowlevel.checkpoint()
        await task.cancel()
        await opened.drain()
    assert shelf.sessions == {}
    assert shelf.objects == {}


async def test_an_abort_is_owed_over_restarts(tmp_path, file):
    shelf = Shelf()
    shelf.fail["abort"] = [fault()] * 100
    async with engine(tmp_path) as opened:
        task = await opened.submit(upload(file, shelf, connections=1))
        while len(shelf.sent()) < 4:
            await anyio.lowlevel.checkpoint()
        await task.cancel()
        await shelf.begun["abort"].wait()
    assert shelf.sessions
    shelf.fail["abort"].clear()
    async with engine(tmp_path) as opened:
        await opened.drain()
    assert shelf.sessions == {}


async def test_a_changed_source_is_never_committed(tmp_path, file, content):
    shelf = Shelf()
    shelf.gates["send_part"] = gate = anyio.Event()
    async with engine(tmp_path) as opened:
        task = await opened.submit(upload(file, shelf, connections=1))
        await shelf.begun["send_part"].wait()
        with file.open("r+b") as written:
            written.write(b"other bytes")
        gate.set()
        with pytest.raises(meowcat.TransferFailed) as failed:
            await task.result()
        await opened.drain()
    assert failed.value.code is meowcat.Code.SOURCE_CHANGED
    assert shelf.objects == {}
    assert shelf.sessions == {}


async def test_a_source_that_was_replaced_with_the_same_bytes_goes_on(tmp_path, file, content):
    shelf = Shelf()
    shelf.gates["send_part"] = gate = anyio.Event()
    async with engine(tmp_path) as opened:
        task = await opened.submit(upload(file, shelf, connections=1))
        await shelf.begun["send_part"].wait()
        other = tmp_path / "other"
        other.write_bytes(content)
        other.replace(file)
        gate.set()
        await task.result()
    assert shelf.objects[shelf.url][0] == content
    assert sorted(shelf.sent()) == list(range(11))


async def test_a_source_that_is_not_there_is_code_115_and_one_that_vanishes_122(tmp_path, file):
    shelf = Shelf()
    shelf.gates["send_part"] = gate = anyio.Event()
    async with engine(tmp_path) as opened:
        with pytest.raises(meowcat.TransferFailed) as failed:
            await opened.upload(tmp_path / "none", f"{shelf.url}/other", protocol=spec())
        assert failed.value.code == 115
        task = await opened.submit(upload(file, shelf, connections=1))
        await shelf.begun["send_part"].wait()
        file.unlink()
        gate.set()
        with pytest.raises(meowcat.TransferFailed) as failed:
            await task.result()
        assert failed.value.code == 122
        assert (await opened.task(task.id)).state is State.FAILED


async def test_a_session_whose_removal_is_refused_is_an_orphan_until_it_can_be_removed(tmp_path, file):
    shelf = Shelf()
    shelf.fail["abort"] = [fault(FaultKind.STATUS, status=403)]
    async with engine(tmp_path) as opened:
        task = await opened.submit(upload(file, shelf, connections=1))
        while len(shelf.sent()) < 2:
            await anyio.lowlevel.checkpoint()
        await task.cancel()
        await opened.drain()
        (orphan,) = await opened.orphans()
        assert (orphan.task, orphan.session, orphan.ours, orphan.kept) == (task.id, "s1", True, False)
        assert await opened.abort_orphans() == [task.id]
        await opened.drain()
        assert await opened.orphans() == []
    assert shelf.sessions == {}


async def test_an_object_stands_as_long_as_the_server_has_it_of_this_task(tmp_path, file):
    shelf = Shelf()
    async with engine(tmp_path) as opened:
        first = await opened.submit(upload(file, shelf))
        assert not await opened.stands(first.id)
        await first.result()
        assert await opened.stands(first.id)
        second = await opened.submit(upload(file, shelf))
        await second.result()
        assert (await opened.stands(first.id), await opened.stands(second.id)) == (False, True)
        shelf.fail["reconcile"] = [fault()]
        assert not await opened.stands(second.id)
        shelf.objects.clear()
        assert not await opened.stands(second.id)


async def canceled_with_a_session(opened, file, shelf):
    """A canceled upload whose session can't be removed as long as `fail` says so."""
    shelf.fail["abort"] = [fault()] * 100
    task = await opened.submit(upload(file, shelf, connections=1))
    while len(shelf.sent()) < 2:
        await anyio.lowlevel.checkpoint()
    await task.cancel()
    while task.info.waiting_for is None:
        await anyio.lowlevel.checkpoint()
    return task


async def test_a_removal_that_waits_for_its_next_attempt_is_tried_at_once_when_asked_for(tmp_path, file):
    shelf = Shelf()
    async with engine(tmp_path) as opened:
        task = await canceled_with_a_session(opened, file, shelf)
        (orphan,) = await opened.orphans()
        assert (orphan.task, orphan.ours) == (task.id, True)
        shelf.fail["abort"].clear()
        assert await opened.abort_orphans() == [task.id]
        assert shelf.sessions == {}
        assert await opened.orphans() == []


async def test_a_removal_that_waits_for_a_supply_is_tried_again_when_asked_for(tmp_path, file):
    shelf = Shelf()
    async with engine(tmp_path) as opened:
        shelf.fail["abort"] = [fault(FaultKind.EXPIRED)]
        task = await opened.submit(upload(file, shelf, connections=1))
        while len(shelf.sent()) < 2:
            await anyio.lowlevel.checkpoint()
        await task.cancel()
        while task.info.waiting_for is None:
            await anyio.lowlevel.checkpoint()
        assert shelf.sessions
        assert await opened.abort_orphans() == [task.id]
        assert shelf.sessions == {}


async def test_an_engine_that_only_takes_commands_removes_what_is_owed_when_asked_for(tmp_path, file):
    shelf = Shelf()
    async with engine(tmp_path) as opened:
        await canceled_with_a_session(opened, file, shelf)
        other = await opened.submit(upload(file, shelf, key="other"), paused=True)
    assert shelf.sessions
    shelf.fail["abort"].clear()
    aborts = shelf.count("abort")
    async with engine(tmp_path, on_restart="leave") as opened:
        assert shelf.count("abort") == aborts
        await opened.abort_orphans()
        assert shelf.sessions == {}
        assert (await opened.task(other.id)).state is State.PAUSED


async def test_a_session_whose_opening_was_not_answered_is_told_and_never_removed(tmp_path, file):
    shelf = Shelf()
    shelf.lose["create"] = [fault()]
    async with engine(tmp_path) as opened:
        task = await opened.submit(upload(file, shelf))
        await task.result()
        (orphan,) = await opened.orphans()
        assert (orphan.session, orphan.ours) == ("s1", False)
        assert await opened.abort_orphans() == []
    assert list(shelf.sessions) == ["s1"]


async def test_a_failed_upload_keeps_its_session_for_a_retry(tmp_path, file, content):
    shelf = Shelf()
    shelf.fail["send_part"] = [None, fault(FaultKind.STATUS, status=403)]
    async with engine(tmp_path) as opened:
        task = await opened.submit(upload(file, shelf, connections=1))
        with pytest.raises(meowcat.TransferFailed):
            await task.result()
        (orphan,) = await opened.orphans()
        assert orphan.kept
        await task.retry()
        await task.result()
        assert await opened.orphans() == []
    assert shelf.objects[shelf.url][0] == content
    assert shelf.count("create") == 1


async def test_what_a_canceled_upload_owes_is_in_nobodys_way(tmp_path, file, content):
    shelf = Shelf()
    shelf.fail["abort"] = [fault()]
    async with engine(tmp_path) as opened:
        task = await opened.submit(upload(file, shelf, connections=1))
        while len(shelf.sent()) < 2:
            await anyio.lowlevel.checkpoint()
        await task.cancel()
        await shelf.begun["abort"].wait()
        again = await opened.submit(upload(file, shelf))
        assert again.id != task.id
        await again.result()
    assert shelf.objects[shelf.url][0] == content
    async with engine(tmp_path) as opened:
        await opened.drain()
    assert shelf.sessions == {}


async def test_a_fault_of_an_operation_that_a_supply_has_stopped_is_too_late(tmp_path, file, content):
    shelf = Shelf()
    shelf.gates["send_part"], shelf.passed["send_part"] = anyio.Event(), 1
    shelf.fail["send_part"] = [fault(FaultKind.EXPIRED)]
    async with engine(tmp_path) as opened:
        task = await opened.submit(upload(file, shelf, connections=2))
        dispatcher = opened._runtime.dispatcher
        while task.info.waiting_for is None:
            await anyio.lowlevel.checkpoint()
        send = dispatcher.actors[task.id].live.running  # with a part on its way, that fails as well …
        post = dispatcher.post

        def posting(to, message, answer=None):
            post(to, message, answer)
            if isinstance(message, Supply):  # … just after the supply has come
                send._report_fault(fault(FaultKind.EXPIRED))

        dispatcher.post = posting
        shelf.gates.clear()
        await opened.supply(task.id, headers={"X-Fresh": "yes"})
        await task.result()
    assert shelf.objects[shelf.url][0] == content


async def test_where_the_past_is_left_a_commit_that_was_intended_is_asked_about(tmp_path):
    """Nothing has recorded the crash of it: it looks as if it had not been sent yet."""
    shelf = Shelf()
    task = TaskId("01K0000000000000000000TASK")
    session = Session(id="s1", capabilities=shelf.able)
    shelf.objects[shelf.url] = (b"", task)
    request = meowcat.Upload(str(tmp_path / "source.bin"), shelf.url, spec())
    events = [
        ev.Created(state=State.QUEUED, task=task, key=shelf.url, at=0, request=request),
        ev.Admitted(state=State.PREPARING, run=1),
        ev.SourcePinned(state=State.PREPARING, source=SourceIdentity(size=0), digests=()),
        ev.SessionOpened(state=State.RUNNING, session=session, piece_size=PIECE, held=()),
        ev.CommitIntended(state=State.RUNNING, size=0, digests=()),
    ]
    journal = locate(tmp_path / "t.db")
    journal.open(OWNER, "power")
    for seq, event in enumerate(events, 1):
        kind, version, body = encode(event)
        journal.append([Entry(task, seq, True, kind, version, 0, body)])
    journal.close()
    async with engine(tmp_path, on_restart="leave") as opened:
        handle = await opened.task(task)
        with pytest.raises(meowcat.InvalidTaskState):
            await handle.resume()
        with anyio.fail_after(20):
            await handle.result()
    assert [name for name, _ in shelf.calls] == ["reconcile"]
