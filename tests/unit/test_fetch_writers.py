"""The writer threads of a download: what is stopped ends."""

import threading

import anyio
import pytest

from meowcat.transfer.writers import Writers

pytestmark = pytest.mark.anyio

PIECE = 1000


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.mark.parametrize("expect", [10, 1 << 20], ids=["inline", "thread"])
@pytest.mark.parametrize("breaks", [False, True], ids=["stopped", "failed"])
async def test_a_chunk_over_several_pieces_ends_although_it_is_stopped_within(expect, breaks):
    written = []

    def write(offset, chunk):
        written.append((offset, bytes(chunk)))
        if breaks:
            writers._failure = OSError("another thread's disk is gone")
        else:
            writers._stopped = True

    async with anyio.create_task_group() as group:
        writers = Writers(group, write, 1 << 20, 1, lambda _: None, lambda: None)
        stream = writers.stream(PIECE, None, expect)
        writers.put(stream, 0, bytes(5 * PIECE // 2))
        writers.put(stream, 5 * PIECE // 2, bytes(PIECE))
        writers.stop()
    assert len(written) <= 1  # a thread may have found the stop before its first write
    assert writers.take() == []


async def test_without_threads_all_is_written_when_it_is_put_whatever_its_size():
    written = []
    async with anyio.create_task_group() as group:
        put = written.append
        writers = Writers(group, lambda offset, _: put(offset), 1 << 20, 0, lambda _: None, lambda: None)
        stream = writers.stream(PIECE, None, None)
        writers.put(stream, 0, bytes(PIECE))
        assert written == [0]
        assert [each.index for each in writers.take()] == [0]
        await writers.drain()
        writers.stop()


async def test_a_stream_is_handed_over_only_once_its_own_thread_has_written_all_of_it():
    goes_on, written = threading.Event(), []

    def write(offset, chunk):
        goes_on.wait(5)
        written.append(offset)

    async with anyio.create_task_group() as group:
        writers = Writers(group, write, 1 << 20, 1, lambda count: None, lambda: None)
        stream = writers.stream(1 << 20, 1 << 20, None)
        for offset in (0, 10, 20):
            writers.put(stream, offset, bytes(10))
        assert written == []
        goes_on.set()
        await writers.hand_over(stream)
        assert written == [0, 10, 20]
        writers.stop()
