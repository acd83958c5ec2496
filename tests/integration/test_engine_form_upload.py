"""Form uploads through the whole engine, to a server that is killed, and to one that says odd things."""

import json
import random

import anyio
import pytest
from form_harness import FormServer

import meowcat
from meowcat.core.events import Sent
from meowcat.testing.servers import Content, RangeServer, Trouble

pytestmark = pytest.mark.anyio

MIB = 1 << 20
CONFIG = meowcat.Config(durability="process", control=False)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def source(tmp_path):
    """A file of 6 MiB and a bit."""
    path = tmp_path / "a “b”.bin"
    path.write_bytes(random.Random(7).randbytes(6 * MIB + 7))
    return path


def upload(source, url, **options):
    return meowcat.Upload(str(source), url, meowcat.FormUpload(category="cats"), piece_size=MIB, **options)


def says(*replies):
    """A server that answers each request with the next of `replies`: an object, or a Trouble."""
    return RangeServer(
        Content(0),
        script=[
            reply if isinstance(reply, Trouble) else Trouble(status=200, body=json.dumps(reply).encode())
            for reply in replies
        ],
    )


def offsets(server):
    """Where the chunks began that a scripted server has seen, None for a start."""
    found = []
    for each in server.requests:
        _, here, rest = bytes(each.body).partition(b'"offset"\r\n\r\n')
        found.append(int(rest.split(b"\r\n")[0]) if here else None)
    return found


async def pieces_sent(task):
    """The numbers of the pieces that were sent, each as often as it was."""
    pairs = [
        pair
        async for logged in task.history()
        if isinstance(logged.event, Sent)
        for pair in logged.event.pieces
    ]
    return [number for pair in pairs for number in range(*pair)]


async def test_a_file_arrives_once_and_the_second_time_at_once(tmp_path, source):
    journal = tmp_path / "t.db"
    with FormServer(tmp_path / "uploads") as server:
        async with meowcat.Engine(journal, config=CONFIG) as engine:
            task = await engine.submit(
                upload(source, server.url, headers={"Authorization": "Bearer s3cr3t-t0ken"})
            )
            result = await task.result()
            assert server.file(result.remote["file_id"]) == source.read_bytes()
            assert server.names() == [(result.remote["file_id"], source.name, "cats")]
            other = tmp_path / "copy.bin"
            other.write_bytes(source.read_bytes())
            again = await engine.submit(upload(other, server.url))
            assert (await again.result()).remote == result.remote
            assert await pieces_sent(again) == []
    assert all(b"s3cr3t-t0ken" not in each.read_bytes() for each in tmp_path.glob("t.db*"))


async def test_an_empty_file_arrives(tmp_path):
    path = tmp_path / "empty"
    path.touch()
    with FormServer(tmp_path / "uploads") as server:
        async with meowcat.Engine(config=CONFIG) as engine:
            result = await (await engine.submit(upload(path, server.url))).result()
        assert server.file(result.remote["file_id"]) == b""


async def test_a_server_that_is_killed_in_the_middle_gets_the_rest(tmp_path, source, port):
    async with meowcat.Engine(tmp_path / "t.db", config=CONFIG) as engine:
        with FormServer(tmp_path / "uploads", "--port", str(port)) as server:
            task = await engine.submit(upload(source, server.url, limit_rate=2 * MIB, retries=20))
            async for progress in task.progress():
                if progress.bytes_done >= 2 * MIB:
                    break
            await anyio.to_thread.run_sync(server.kill)
        with FormServer(tmp_path / "uploads", "--port", str(port)) as server:
            result = await task.result()
            assert server.file(result.remote["file_id"]) == source.read_bytes()
        sent = await pieces_sent(task)
    assert sorted(sent) == sorted(set(sent)), "a confirmed chunk was sent again"


@pytest.mark.parametrize("then", ["committed", "not"])
async def test_a_lost_reply_to_the_last_chunk_is_cleared_up(tmp_path, then):
    path = tmp_path / "small"
    path.write_bytes(b"0123456789")
    after = [{"fileId": "7"}] if then == "committed" else [{"nextByte": 0}, {"nextByte": 0}, {"fileId": "7"}]
    with says({}, Trouble(before="reset"), *after) as server:
        async with meowcat.Engine(config=CONFIG) as engine:
            result = await (await engine.submit(upload(path, server.url))).result()
        assert result.remote == {"file_id": "7"}
        assert offsets(server) == ([None, 0, None] if then == "committed" else [None, 0, None, None, 0])


async def test_a_server_that_loses_what_it_confirmed_is_given_up_in_the_end(tmp_path, source):
    """The first two chunks are taken each time: such progress must not start the count anew."""

    counted = iter(range(10_000))

    def script(seen):
        number = next(counted) % 4  # a start, two chunks that are taken, and one that is not
        return Trouble(status=200, body=b'{"nextByte": 0}' if number in (0, 3) else b"{}")

    with RangeServer(Content(0), script=script) as server:
        async with meowcat.Engine(config=CONFIG) as engine:
            task = await engine.submit(upload(source, server.url, retries=2))
            with pytest.raises(meowcat.TransferFailed) as failed:
                await task.result()
        assert failed.value.code is meowcat.Code.SESSION_LOST
        assert len(server.requests) == 12


async def test_what_a_server_has_at_any_byte_is_not_sent(tmp_path, source):
    size, at = source.stat().st_size, 2 * MIB + 5
    with says({"nextByte": at}, *({} for _ in range(4)), {"fileId": "7"}) as server:
        async with meowcat.Engine(config=CONFIG) as engine:
            await (await engine.submit(upload(source, server.url))).result()
        sizes = [each.received for each in server.requests[1:]]
    assert len(sizes) == 5
    assert size - at < sum(sizes) < size - at + 5 * 1200


async def test_a_server_that_is_in_the_middle_of_the_last_chunk_takes_no_overlap(tmp_path):
    path = tmp_path / "small"
    path.write_bytes(b"0123456789")
    refuses = Trouble(status=409, body=b'{"error": "not there", "nextByte": 4}')
    with says({"nextByte": 4}, refuses, {"fileId": "7"}) as server:
        async with meowcat.Engine(config=CONFIG) as engine:
            await (await engine.submit(upload(path, server.url))).result()
        assert offsets(server) == [None, 0, 4]


async def test_nothing_is_sent_once_the_server_has_said_that_it_is_complete(tmp_path, source):
    with says({}, {}, {"fileId": "7"}) as server:
        async with meowcat.Engine(config=CONFIG) as engine:
            result = await (await engine.submit(upload(source, server.url))).result()
        assert result.remote == {"file_id": "7"}
        assert len(server.requests) == 3


async def test_a_pause_in_the_middle_sends_no_confirmed_chunk_again(tmp_path, source):
    with FormServer(tmp_path / "uploads") as server:
        async with meowcat.Engine(tmp_path / "t.db", config=CONFIG) as engine:
            task = await engine.submit(upload(source, server.url, limit_rate=2 * MIB))
            async for progress in task.progress():
                if progress.bytes_done >= 2 * MIB:
                    break
            await task.pause()
        async with meowcat.Engine(tmp_path / "t.db", config=CONFIG) as engine:
            task = await engine.task(task.id)
            await task.resume()
            result = await task.result()
            sent = await pieces_sent(task)
        assert server.file(result.remote["file_id"]) == source.read_bytes()
    assert sorted(sent) == sorted(set(sent))


async def test_nonsense_and_refusals_end_the_upload_with_their_codes(tmp_path, source):
    for reply, code in (
        (Trouble(status=200, body=b"OK"), meowcat.Code.REPLY),
        (Trouble(status=413, body=b"too large"), meowcat.Code.STATUS),
    ):
        with says({}, reply) as server:
            async with meowcat.Engine(config=CONFIG) as engine:
                with pytest.raises(meowcat.TransferFailed) as failed:
                    await (await engine.submit(upload(source, server.url))).result()
            assert failed.value.code is code
            assert len(server.requests) == 2


async def test_a_busy_server_is_tried_again(tmp_path, source):
    busy = Trouble(status=503, headers=(("Retry-After", "0"),))
    with says(busy, {}, busy, {}, {"fileId": "7"}) as server:
        async with meowcat.Engine(config=CONFIG) as engine:
            result = await (await engine.submit(upload(source, server.url))).result()
    assert result.remote == {"file_id": "7"}
