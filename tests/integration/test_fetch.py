"""What a download does on a real server that behaves, and on one that does not."""

import errno
import os
from contextlib import suppress
from pathlib import Path
from random import Random

import anyio
import pytest
from fetch_harness import PIECE, Drive, transport_for, world_of

from meowcat.core import leases
from meowcat.core import messages as msg
from meowcat.core.errors import Code
from meowcat.core.events import PublishIntended, Stored
from meowcat.core.machine import State
from meowcat.core.state import fold
from meowcat.core.values import FaultKind
from meowcat.runtime.limits import Budget
from meowcat.testing.servers import Content, RangeServer, Trouble
from meowcat.transfer import fetch, receive
from meowcat.transfer.disk import OsDisk
from meowcat.transfer.files import part_path
from meowcat.transport.contract import Timeouts

pytestmark = pytest.mark.anyio

MIB = 1 << 20


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture
async def world(anyio_backend_name):
    async with world_of(anyio_backend_name) as world:
        yield world


def finished(drive, content):
    assert drive.task.state is State.COMPLETE, drive.task.fault
    assert Path(drive.task.request.to).read_bytes() == content.bytes()
    assert not Path(part_path(drive.task.request.to, drive.task.id)).exists()


async def fetched(world, server, content, to, **options):
    drive = Drive(world, server.url, to, **options)
    with anyio.fail_after(20):
        await drive.run()
    finished(drive, content)
    return drive


@pytest.mark.parametrize("connections", [1, 4, 8])
async def test_a_download_has_the_bytes_of_its_content(world, tmp_path, connections):
    content = Content(5 * MIB + 12345)
    with RangeServer(content) as server:
        drive = await fetched(world, server, content, tmp_path / "file", connections=connections)
        assert server.connections <= connections + 1
        assert server.bytes_served() < content.size * 1.5
    assert drive.stored_pieces == drive.task.grid.count


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, 2 * PIECE])
async def test_a_small_file_takes_one_request(world, tmp_path, size):
    content = Content(size)
    with RangeServer(content) as server:
        await fetched(world, server, content, tmp_path / "file")
        assert len(server.requests) == 1


async def test_large_pieces_are_brought_by_several_requests(world, tmp_path):
    content = Content(20 * MIB)
    with RangeServer(content) as server:
        drive = await fetched(world, server, content, tmp_path / "file", piece_size=16 * MIB)
        assert drive.stored_pieces == 2
        assert server.bytes_sent_twice() == 0


class Unread:
    """A transport whose replies can be poured and not read."""

    def __init__(self, inner, exchange=None):
        self.inner = inner
        self.exchange = exchange or UnreadExchange
        self.poured = 0

    def send(self, request):
        return self.exchange(self, self.inner.send(request))

    async def aclose(self):
        await self.inner.aclose()


class UnreadExchange:
    def __init__(self, transport, exchange):
        self.transport = transport
        self.exchange = exchange

    async def __aenter__(self):
        self.reply = await self.exchange.__aenter__()
        self.status, self.headers, self.version = self.reply.status, self.reply.headers, self.reply.version
        return self

    async def __aexit__(self, *exc):
        await self.exchange.__aexit__(*exc)

    async def read(self, size):
        raise AssertionError("the event loop has nothing to do with this body")

    async def pour(self, sink):
        ended = await self.reply.pour(sink)
        self.transport.poured += ended
        return ended


class NeverPoured(UnreadExchange):
    async def read(self, size):
        return await self.reply.read(size)

    async def pour(self, sink):
        raise AssertionError("its memory would be held until it ends")


async def test_a_reply_takes_no_memory_for_its_time_that_others_may_need(anyio_backend_name, tmp_path):
    unread = Unread(transport_for(anyio_backend_name), exchange=NeverPoured)
    content = Content(3 * MIB)
    async with world_of(anyio_backend_name, transport=unread, memory=MIB) as world:
        with RangeServer(content) as server:
            await fetched(world, server, content, tmp_path / "file", piece_size=MIB)
    await unread.aclose()


async def test_memory_that_a_reply_has_no_use_for_is_given_back(anyio_backend_name, tmp_path, monkeypatch):
    def exhausted(*_):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(receive, "Pourer", exhausted)
    async with world_of(anyio_backend_name) as world:
        with RangeServer(Content(3 * MIB + 1)) as server, suppress(BaseExceptionGroup):
            await Drive(world, server.url, tmp_path / "file", piece_size=MIB).run()
        assert world.budget.take_spare(32 * MIB)  # half of it, which nothing is missing of


async def test_large_bodies_never_meet_the_event_loop(anyio_backend_name, tmp_path):
    unread = Unread(transport_for(anyio_backend_name))
    content = Content(20 * MIB + 1)
    async with world_of(anyio_backend_name, transport=unread) as world:
        with RangeServer(content) as server:
            await fetched(world, server, content, tmp_path / "file", piece_size=MIB)
    assert unread.poured >= 2  # how many there are depends on how fast they are
    await unread.aclose()


class GivenUpAtTheEnd(UnreadExchange):
    """Each large reply is given up when its last byte has just come."""

    async def pour(self, sink):
        ended = await super().pour(sink)
        for part in self.transport.drive.operation._board.parts:
            part.give_up()
        await anyio.lowlevel.checkpoint()
        return ended


async def test_a_request_that_is_given_up_when_all_has_come_is_not_made_again(anyio_backend_name, tmp_path):
    transport = Unread(transport_for(anyio_backend_name), GivenUpAtTheEnd)
    content = Content(20 * MIB + 1)
    async with world_of(anyio_backend_name, transport=transport) as world:
        with RangeServer(content) as server:
            drive = transport.drive = Drive(world, server.url, tmp_path / "file", piece_size=MIB)
            with anyio.fail_after(20):
                await drive.run()
    finished(drive, content)
    assert drive.faults == []
    await transport.aclose()


class GivingUp(Budget):
    """Memory for the second body of which the request is given up as too slow when it is taken."""

    drive = None
    taken = 0

    def take_spare(self, size):
        board = self.drive.operation._board
        board.catch_up()  # as each look at the requests does
        self.taken += 1
        if self.taken == 2:
            for part in board.parts:
                part.give_up()
        return super().take_spare(size)


async def test_a_request_given_up_before_its_thread_begins_leaves_no_place_behind(
    anyio_backend_name, tmp_path
):
    memory, content = GivingUp(64, 64 * MIB), Content(3 * MIB)
    whole = Trouble(ignore_range=True)
    async with world_of(anyio_backend_name, budget=memory) as world:
        with RangeServer(content, script=[None, None, whole]) as server:
            drive = memory.drive = Drive(world, server.url, tmp_path / "file", connections=1)
            with anyio.fail_after(20):
                await drive.run()
            finished(drive, content)
            assert [seen.status for seen in server.requests] == [206, 206, 200]


async def test_a_request_that_waits_for_memory_is_not_made_again(anyio_backend_name, tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "PATIENCE", 0.01)
    monkeypatch.setattr(leases, "GIVEN_UP_SECONDS", 0.0)
    monkeypatch.setattr(fetch, "LOOK", 0.01)
    content = Content(32 * MIB)
    async with world_of(anyio_backend_name, memory=2 * MIB) as world:
        with RangeServer(content, connection_rate=16 * MIB) as server:
            await fetched(world, server, content, tmp_path / "file", connections=8)
            assert server.bytes_sent_twice() < 8 * MIB


async def test_a_body_that_a_thread_reads_is_paused_at_once_and_goes_on_later(world, tmp_path):
    content = Content(64 * MIB)
    with RangeServer(content, connection_rate=2 * MIB) as server:
        drive = await paused_midway(world, server, tmp_path / "file", connections=4, piece_size=256 << 10)
        assert drive.operation.quiet
        assert await server.until(lambda s: s.open_sockets <= 1)  # all would be there in eight seconds
        server.connection_rate = None
        drive.resume()
        await drive.run()
    finished(drive, content)
    assert drive.lost_pieces == 0


async def test_a_server_without_ranges_sends_one_stream(world, tmp_path):
    content = Content(3 * MIB + 1)
    with RangeServer(content, ranges=False) as server:
        await fetched(world, server, content, tmp_path / "file")
        assert len(server.requests) == 1


@pytest.mark.parametrize("size", [0, 1, PIECE, 2 * MIB + 7])
async def test_a_content_without_length_ends_with_its_stream(world, tmp_path, size):
    content = Content(size)
    script = [Trouble(framing="chunked", ignore_range=True)]
    with RangeServer(content, script=script) as server:
        drive = await fetched(world, server, content, tmp_path / "file")
        assert len(server.requests) == 1
    assert drive.task.generation.size == size
    progress = [fold(drive.events[:number]).bytes_stored for number in range(1, len(drive.events) + 1)]
    assert progress == sorted(progress), "it never runs backwards"
    assert progress[-1] == size


@pytest.mark.parametrize("framing", ["chunked", "close"])
@pytest.mark.parametrize("size", [100_000, 3 * MIB])
@pytest.mark.parametrize(("more", "kind"), [(1, FaultKind.DISCONNECTED), (-1, FaultKind.REPLY)])
async def test_a_content_without_length_has_the_size_that_the_caller_knows(
    world, tmp_path, framing, size, more, kind
):
    """Such a body may end early without a word."""
    endless = Trouble(framing=framing, ignore_range=True)
    with RangeServer(Content(size), script=lambda _: endless) as server:
        await fetched(world, server, Content(size), tmp_path / "right", total_size=size)
        drive = Drive(world, server.url, tmp_path / "wrong", total_size=size + more, retries=0)
        await drive.run()
    assert drive.task.state is State.FAILED
    assert drive.task.fault.kind is kind
    assert not (tmp_path / "wrong").exists()


async def test_bytes_of_a_content_that_should_be_empty_are_refused(world, tmp_path):
    with RangeServer(Content(500), script=lambda _: Trouble(framing="chunked", ignore_range=True)) as server:
        drive = Drive(world, server.url, tmp_path / "file", total_size=0, retries=0)
        await drive.run()
    assert drive.task.state is State.FAILED
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("size", [0, 1000, 3 * MIB])
async def test_a_server_that_refuses_ranges_without_a_reason_is_asked_for_all(world, tmp_path, size):
    """Some answer 416 to each range of an empty content, and do not say how much they have."""
    refusal = Trouble(status=416, headers=(("Content-Range", ""), ("Accept-Ranges", "")))
    content = Content(size)
    with RangeServer(content, script=lambda seen: refusal if "range" in seen.headers else None) as server:
        drive = await fetched(world, server, content, tmp_path / "file")
        assert [seen.status for seen in server.requests] == [416, 200]
    assert not drive.faults


@pytest.mark.parametrize("status", [400, 501])
@pytest.mark.parametrize("size", [1000, 3 * MIB])
async def test_a_server_to_which_a_range_is_an_error_is_asked_for_all(world, tmp_path, status, size):
    """Although it says that it takes them, and also after a reply that broke off."""
    breaks = iter([Trouble(after=size // 2, then="close")])
    refusal, content = Trouble(status=status), Content(size)

    def script(seen):
        return refusal if "range" in seen.headers else next(breaks, None)

    with RangeServer(content, script=script) as server:
        drive = await fetched(world, server, content, tmp_path / "file")
        assert [seen.status for seen in server.requests] == [status, 200, status, 200]
    assert len(drive.faults) == 1


async def test_connections_that_never_live_as_long_as_a_piece_bring_it_all_the_same(world, tmp_path):
    content = Content(MIB)
    with RangeServer(content, script=lambda _: Trouble(after=100_000, then="close")) as server:
        drive = await fetched(
            world, server, content, tmp_path / "file", connections=1, piece_size=4 * PIECE, retries=2
        )
        assert len(server.requests) == 12, "three for each piece"
    assert len(drive.faults) == 3, "those that broke off with a piece done"


@pytest.mark.parametrize("ranges", [True, False])
async def test_what_broke_off_of_an_unproven_content_is_put_together_with_nothing(world, tmp_path, ranges):
    """Without a strong validator the next reply may be of another one."""
    content = Content(400_000, etag="weak", modified=None)  # the first request covers it
    breaks = Trouble(after=100_000, then="close")
    with RangeServer(content, script=[breaks], ranges=ranges) as server:
        drive = await fetched(world, server, content, tmp_path / "file", piece_size=4 * PIECE)
    assert [fault.kind for fault in drive.faults] == [FaultKind.DISCONNECTED]
    assert drive.restarts == 1


async def test_a_connection_that_brings_next_to_nothing_is_a_fault(world, tmp_path):
    with RangeServer(Content(MIB), script=lambda _: Trouble(after=1000, then="reset")) as server:
        drive = Drive(world, server.url, tmp_path / "file", connections=1, piece_size=4 * PIECE, retries=2)
        with anyio.fail_after(20):
            await drive.run()
        assert len(server.requests) == 3
    assert drive.task.fault.kind is FaultKind.DISCONNECTED


async def test_without_a_strong_validator_one_reply_brings_all(world, tmp_path):
    content = Content(3 * MIB, etag="weak", modified=None)
    with RangeServer(content) as server:
        await fetched(world, server, content, tmp_path / "file")
        assert await server.until(lambda s: sum(seen.sent == content.size for seen in s.requests) == 1)
        assert "range" not in server.requests[-1].headers


async def test_head_is_asked_first_where_that_is_wanted(world, tmp_path):
    content = Content(2 * MIB)
    with RangeServer(content) as server:
        await fetched(world, server, content, tmp_path / "file", probe="head")
        assert [seen.method for seen in server.requests][:2] == ["HEAD", "GET"]
        assert server.requests[1].headers["if-match"] == content.etag


@pytest.mark.parametrize("status", [403, 405, 501])
async def test_a_refused_head_is_made_good_by_the_first_get(world, tmp_path, status):
    content = Content(MIB)
    with RangeServer(content, script=[Trouble(status=status)]) as server:
        drive = await fetched(world, server, content, tmp_path / "file", probe="head")
    assert not drive.faults


async def test_a_known_size_makes_head_superfluous_and_is_compared(world, tmp_path):
    content = Content(MIB)
    with RangeServer(content) as server:
        await fetched(world, server, content, tmp_path / "file", probe="head", total_size=MIB)
        assert server.requests[0].method == "GET"
        drive = Drive(world, server.url, tmp_path / "other", total_size=MIB + 1)
        await drive.run()
    assert drive.task.state is State.FAILED
    assert drive.task.fault.code is Code.LENGTH


@pytest.mark.parametrize("end", ["reset", "close"])
@pytest.mark.parametrize("after", [1, PIECE, PIECE + 1000])
async def test_a_body_that_breaks_off_is_asked_for_again_where_it_ended(world, tmp_path, end, after):
    content = Content(2 * MIB)
    with RangeServer(content, script=[None, Trouble(after=after, then=end)]) as server:
        drive = await fetched(world, server, content, tmp_path / "file", connections=2)
        assert server.bytes_sent_twice() <= 2 * PIECE
    assert [fault.kind for fault in drive.faults] == [FaultKind.DISCONNECTED]
    assert drive.restarts == 0


async def test_a_wrong_content_range_places_no_byte(world, tmp_path):
    content = Content(2 * MIB)
    headers = ((("Content-Range", f"bytes 7-100/{content.size}")),)
    with RangeServer(content, script=[None, Trouble(headers=headers)]) as server:
        drive = Drive(world, server.url, tmp_path / "file", connections=1)
        await drive.run()
    assert drive.task.state is State.FAILED
    assert drive.task.fault.code is Code.RANGE
    assert not (tmp_path / "file").exists()


async def test_what_frames_a_message_is_not_for_the_caller_to_say(world, tmp_path):
    """A server would wait for a body."""
    headers = {"Content-Length": "5", "transfer-encoding": "chunked", "X-Mine": "yes"}
    with RangeServer(Content(2 * MIB)) as server:
        drive = Drive(world, server.url, tmp_path / "file", headers=headers)
        await drive.run()
        assert all(seen.headers["x-mine"] == "yes" for seen in server.requests)
    assert drive.task.state is State.COMPLETE


async def test_a_coded_reply_is_refused(world, tmp_path):
    with RangeServer(Content(MIB), script=[Trouble(gzip=True)]) as server:
        drive = Drive(world, server.url, tmp_path / "file")
        await drive.run()
        assert server.requests[0].headers["accept-encoding"] == "identity"
    assert drive.task.state is State.FAILED
    assert drive.task.fault.code is Code.REPLY


async def test_a_wrong_content_digest_keeps_its_pieces_out(world, tmp_path):
    content = Content(2 * MIB)
    wrong = (("Content-Digest", "sha-256=:" + "A" * 43 + "=:"),)
    with RangeServer(content, script=[None, Trouble(headers=wrong)]) as server:
        drive = Drive(world, server.url, tmp_path / "file", connections=1)
        await drive.run()
    assert drive.task.state is State.FAILED
    assert drive.task.fault.code is Code.CHECKSUM
    assert drive.stored_pieces == 2


async def test_digests_that_a_server_offers_are_compared(world, tmp_path):
    content = Content(2 * MIB)
    with RangeServer(content, digests=True) as server:
        drive = await fetched(world, server, content, tmp_path / "file")
    assert [str(each) for each in drive.task.digests] == [f"sha256:{content.sha256}"]


async def test_another_content_than_its_checksum_is_no_result(world, tmp_path):
    with RangeServer(Content(MIB)) as server:
        drive = Drive(world, server.url, tmp_path / "file", checksum="sha256:" + "0" * 64)
        await drive.run()
    assert drive.task.state is State.FAILED
    assert drive.task.fault.code is Code.CHECKSUM
    assert not (tmp_path / "file").exists()


async def test_a_content_that_changes_midway_is_begun_anew(world, tmp_path):
    old, new = Content(2 * MIB, seed=1), Content(2 * MIB + 100, seed=2)

    def change(seen):
        if len(server.requests) == 3:
            server.replace(new)

    with RangeServer(old, script=change) as server:
        drive = await fetched(world, server, new, tmp_path / "file", connections=2)
    assert drive.restarts == 1
    assert FaultKind.CHANGED in [fault.kind for fault in drive.faults]


async def test_a_416_for_a_range_of_the_content_fails(world, tmp_path):
    content = Content(2 * MIB)
    refused = Trouble(status=416, headers=(("Content-Range", f"bytes */{content.size}"),))
    with RangeServer(content, script=[None, refused]) as server:
        drive = Drive(world, server.url, tmp_path / "file", connections=1)
        await drive.run()
    assert drive.task.state is State.FAILED
    assert drive.task.fault.code is Code.RANGE


async def test_retry_after_reaches_the_journal_as_a_duration(world, tmp_path):
    content = Content(MIB)
    busy = Trouble(status=429, headers=(("Retry-After", "7"),))
    with RangeServer(content, script=[None, busy]) as server:
        drive = await fetched(world, server, content, tmp_path / "file", connections=1)
    assert [(fault.status, fault.retry_after) for fault in drive.faults] == [(429, 7000)]


async def test_a_silent_server_ends_in_a_time_out_and_is_tried_again(anyio_backend_name, tmp_path):
    content = Content(MIB)
    limits = Timeouts(connect=5, read=0.2)
    async with world_of(anyio_backend_name, timeouts=limits) as world:
        with RangeServer(content, script=[None, Trouble(after=100, then="stall")]) as server:
            drive = await fetched(world, server, content, tmp_path / "file", connections=1)
    assert {fault.kind for fault in drive.faults} == {FaultKind.TIMEOUT}  # a busy machine is silent, too


async def test_a_missing_content_fails_at_once(world, tmp_path):
    with RangeServer({}) as server:
        drive = Drive(world, server.url, tmp_path / "file")
        await drive.run()
        assert len(server.requests) == 1
    assert (drive.task.state, drive.task.fault.status) == (State.FAILED, 404)


async def paused_midway(world, server, to, **options):
    """A drive that was paused when a quarter was stored."""
    drive = Drive(world, server.url, to, **options)
    async with anyio.create_task_group() as group:
        group.start_soon(drive.run)
        await drive.until_stored(8)
        drive.send(msg.Pause())
    assert drive.task.state is State.PAUSED
    return drive


async def test_a_stop_is_silent_and_keeps_what_was_finished(world, tmp_path):
    content = Content(2 * MIB)
    with RangeServer(content, rate=MIB) as server:
        drive = await paused_midway(world, server, tmp_path / "file", connections=2)
        assert drive.operation.quiet
        assert await server.until(lambda s: s.open_sockets <= 2)
        before = server.bytes_served()
        server.rate.rate = None
        drive.resume()
        await drive.run()
        assert server.bytes_sent_twice() <= 4 * PIECE + 2 * MIB // 4
        assert server.bytes_served() > before
    finished(drive, content)
    assert drive.lost_pieces == 0


class LateToTell(OsDisk):
    """Tells of what it could not store at a close, once each."""

    def __init__(self):
        super().__init__()
        self.checked = self.closed = 0
        self.parts = set()

    def open(self, path, flags, mode=0o666):
        fd = super().open(path, flags, mode)
        if path.endswith(".part"):
            self.parts.add(fd)
        return fd

    def check_writes(self, fd):
        super().check_writes(fd)
        self.checked += 1
        if self.checked == 2:
            raise OSError(errno.ENOSPC, "full")

    def close(self, fd):
        super().close(fd)
        if fd in self.parts:
            self.parts.remove(fd)
            self.closed += 1
            if self.closed <= 2:
                raise OSError(errno.ENOSPC, "full")


async def test_a_file_system_that_tells_late_what_it_could_not_store_is_waited_for(
    anyio_backend_name, tmp_path
):
    content = Content(2 * MIB)
    async with world_of(anyio_backend_name, disk=LateToTell()) as world:
        with RangeServer(content, rate=2 * MIB) as server:
            drive = await fetched(world, server, content, tmp_path / "file", connections=2)
            assert (world.disk.checked >= 2, world.disk.closed >= 2) == (True, True)
    assert {fault.kind for fault in drive.faults} == {FaultKind.DISK_FULL}
    assert drive.restarts == 0


def damage(path, offset):
    with Path(path).open("r+b") as file:
        file.seek(offset)
        file.write(b"damage")


def interfere(path, how):
    if how == "truncate":
        os.truncate(path, 10)
    else:
        path.unlink()
    if how == "replace":
        path.write_bytes(bytes(MIB))


async def test_a_kept_piece_that_is_damaged_is_brought_again(world, tmp_path):
    content = Content(2 * MIB)
    with RangeServer(content, rate=MIB) as server:
        drive = await paused_midway(world, server, tmp_path / "file", connections=1)
        server.rate.rate = None
        damage(part_path(drive.task.request.to, drive.task.id), PIECE + 5)
        drive.resume()
        await drive.run()
    finished(drive, content)
    assert drive.lost_pieces == 1


async def test_a_lost_part_file_is_begun_again_by_the_next_run(world, tmp_path):
    content = Content(2 * MIB)
    with RangeServer(content, rate=MIB) as server:
        drive = await paused_midway(world, server, tmp_path / "file", connections=1)
        server.rate.rate = None
        stored = drive.stored_pieces
        os.unlink(part_path(drive.task.request.to, drive.task.id))  # noqa: PTH108  # a string
        drive.resume()
        await drive.run()
    finished(drive, content)
    assert drive.lost_pieces == stored


async def test_what_was_stored_before_a_crash_is_proven_without_the_network(world, tmp_path):
    content = Content(MIB)
    with RangeServer(content) as server:
        drive = await fetched(world, server, content, tmp_path / "file")
        last = max(index for index, event in enumerate(drive.events) if isinstance(event, Stored))
        del drive.events[last + 1 :]  # the process died before it could record its intent to publish
        (tmp_path / "file").rename(part_path(drive.task.request.to, drive.task.id))
        requests = len(server.requests)
        drive.crash()
        await drive.run()
        assert len(server.requests) == requests
    finished(drive, content)


async def test_a_200_on_a_resume_is_taken_from_its_beginning(world, tmp_path):
    content = Content(2 * MIB)
    with RangeServer(content, rate=MIB) as server:
        drive = await paused_midway(world, server, tmp_path / "file", connections=2)
        server.rate.rate = None
        server.ranges = False
        drive.resume()
        await drive.run()
    finished(drive, content)


async def test_a_reply_that_brings_nothing_of_what_its_head_says_is_a_failure(world, tmp_path):
    content = Content(2 * MIB)

    def empty(seen):
        if len(server.requests) == 1:
            return None
        first, last = seen.headers["range"].removeprefix("bytes=").split("-")
        told = {
            "ETag": content.etag,
            "Content-Range": f"bytes {first}-{last}/{content.size}",
            "Content-Length": str(int(last) + 1 - int(first)),  # which the coding overrules
        }
        return Trouble(status=206, framing="chunked", headers=tuple(told.items()))

    with RangeServer(content, script=empty) as server:
        drive = Drive(world, server.url, tmp_path / "file", connections=1, retries=2)
        with anyio.fail_after(20):
            await drive.run()
        assert len(server.requests) in (4, 5)  # where the first reply is recorded late, the count begins anew
    assert drive.task.state is State.FAILED
    assert drive.task.fault.kind is FaultKind.DISCONNECTED


@pytest.mark.parametrize("how", ["remove", "replace", "truncate"])
async def test_a_part_file_that_vanishes_midway_fails_with_its_own_code(world, tmp_path, how):
    with RangeServer(Content(2 * MIB), rate=MIB) as server:
        drive = Drive(world, server.url, tmp_path / "file", connections=2)
        path = Path(part_path(drive.task.request.to, drive.task.id))
        async with anyio.create_task_group() as group:
            group.start_soon(drive.run)
            await drive.until_stored(4)
            interfere(path, how)
    assert drive.task.state is State.FAILED
    assert drive.task.fault.code is Code.LOCAL_FILE_REMOVED
    assert drive.task.stored.total == 0
    assert not drive.told(PublishIntended)  # noticed at a flush, and not at the very end


async def test_nothing_is_asked_for_where_the_target_stands(world, tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    with RangeServer(Content(MIB)) as server:
        drive = Drive(world, server.url, tmp_path / "file")
        await drive.run()
        assert not server.requests
    assert drive.task.fault.code is Code.TARGET_EXISTS
    assert (tmp_path / "file").read_bytes() == b"mine"


async def test_a_cancel_removes_the_part_file(world, tmp_path):
    with RangeServer(Content(2 * MIB), rate=MIB) as server:
        drive = await paused_midway(world, server, tmp_path / "file")
        drive.send(msg.Cancel())
        drive.drain()
        await drive.run()
    assert drive.task.state is State.CANCELED
    assert not list(tmp_path.iterdir())


async def test_memory_that_was_taken_is_given_back(anyio_backend_name, tmp_path):
    content = Content(4 * MIB)
    async with world_of(anyio_backend_name, memory=MIB) as world:
        with RangeServer(content, script=[None, Trouble(after=100_000)]) as server:
            await fetched(world, server, content, tmp_path / "file", connections=8)
        with anyio.fail_after(10):
            await world.budget.take(MIB)


async def test_an_empty_content_that_was_learned_before_a_crash_is_finished(world, tmp_path):
    content = Content(0)
    with RangeServer(content) as server:
        drive = await fetched(world, server, content, tmp_path / "file")
        first = next(index for index, event in enumerate(drive.events) if isinstance(event, Stored))
        del drive.events[first:]
        (tmp_path / "file").unlink()
        drive.crash()
        with anyio.fail_after(20):
            await drive.run()
    finished(drive, content)


async def test_a_server_that_hangs_up_on_head_is_asked_by_get(world, tmp_path):
    content = Content(MIB)
    with RangeServer(content, script=[Trouble(before="close")]) as server:
        await fetched(world, server, content, tmp_path / "file", probe="head")


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_breaks_the_bytes_are_those_of_the_content(world, tmp_path, seed):
    random = Random(seed)
    content = Content(random.randrange(1, 3 * MIB), seed=seed)

    def trouble(seen):
        if random.random() < 0.6:
            return None
        return random.choice(
            [
                Trouble(after=random.randrange(1, 300_000), then=random.choice(["reset", "close"])),
                Trouble(status=random.choice([429, 500, 503])),
                Trouble(before=random.choice(["reset", "close"])),
                Trouble(ignore_range=True),
                Trouble(framing="chunked"),
            ]
        )

    with RangeServer(content, script=trouble) as server:
        drive = Drive(
            world, server.url, tmp_path / "file", connections=random.randrange(1, 6), retries=1000, waits=1000
        )
        with anyio.fail_after(20):
            await drive.run()
    finished(drive, content)
    assert drive.restarts == 0
