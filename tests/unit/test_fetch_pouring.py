"""What a reading thread may write, and where, while its range is cut short under its hands."""

from itertools import pairwise

import anyio
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from meowcat.runtime.limits import Throttle
from meowcat.transfer.allowance import FIRST, LEAST, Allowance
from meowcat.transfer.pouring import MOST_BLOCK, Pourer, Span
from meowcat.transfer.writers import WriteFailed, Writers

pytestmark = pytest.mark.anyio

PIECE = 1000


class Poured:
    """A file in memory, and a pourer that writes to it."""

    def __init__(self, group, span, size, write=None, throttle=None):
        self.file = bytearray(size)
        self.news = anyio.Event()
        self.writers = Writers(
            group, write or self.write, 1 << 20, 2, lambda count: None, self.tell, 3 * PIECE
        )
        self.stream = self.writers.stream(PIECE, size, None)
        self.pourer = Pourer(self.writers, self.stream, span, throttle or Throttle(), lambda *_: None)

    def write(self, offset, chunk):
        self.file[offset : offset + len(chunk)] = chunk

    def tell(self):
        self.news.set()

    def bring(self, content, at, most):
        """One block, as its thread would; how many bytes of it came."""
        room = self.pourer.room()
        if room is None:
            return 0
        count = min(len(room), most)
        room[:count] = content[at : at + count]
        self.pourer.came(count)
        return count


@given(
    start=st.integers(0, 3),
    steps=st.lists(st.tuples(st.integers(1, 900), st.one_of(st.none(), st.integers(0, 9000))), min_size=1),
)
def test_what_is_written_is_what_the_range_had_left_when_it_came(start, steps):
    content = bytes(index % 251 for index in range(8500))
    begin = start * PIECE

    async def go():
        async with anyio.create_task_group() as group:
            span = Span(begin, len(content))
            poured = Poured(group, span, len(content))
            at, stop = begin, span.stop
            for most, cut in steps:
                if cut is not None and span.cut(cut):
                    assert cut > at, "what has come is not given away"
                    stop = min(stop, cut)
                count = poured.bring(content, at, most)
                at = min(stop, at + count)
            assert span.at == at <= stop == span.stop
            assert poured.file[begin:at] == content[begin:at]
            assert not any(poured.file[at:]), "nothing stands behind the cut"
            assert not any(poured.file[:begin])
            for done in poured.writers.take():
                assert done.stop <= at
                assert done.digest == blake3(content[done.start : done.stop]).digest()
            poured.writers.stop()

    anyio.run(go)


@given(st.integers(0, 40_000))
def test_a_range_comes_in_large_blocks_and_piece_by_piece_near_its_end_which_may_be_cut_off(begin):
    size = 50_000

    async def go():
        async with anyio.create_task_group() as group:
            poured = Poured(group, Span(begin, size), size)
            ends = [begin]
            while count := poured.bring(bytes(size), ends[-1], 1 << 20):
                ends.append(ends[-1] + count)
            assert ends[-1] == size
            within = [start // PIECE == (end - 1) // PIECE for start, end in pairwise(ends)]
            for one_piece, (start, end) in zip(within, pairwise(ends), strict=True):
                assert one_piece or end - start <= (size - start) / 4
            assert not within[0], "ten pieces are left at least"
            poured.writers.stop()

    anyio.run(go)


async def test_nothing_is_taken_or_written_after_a_stop():
    async with anyio.create_task_group() as group:
        poured = Poured(group, Span(0, 5000), 5000)
        room = poured.pourer.room()
        room[:] = b"x" * len(room)
        poured.writers.stop()
        poured.pourer.came(len(room))
        assert poured.pourer.room() is None
        assert not any(poured.file)
        assert poured.writers.take() == []


async def test_a_write_that_fails_ends_the_reading_and_reaches_the_loop():
    def write(offset, chunk):
        raise OSError(28, "full")

    async with anyio.create_task_group() as group:
        poured = Poured(group, Span(0, 5000), 5000, write)
        await anyio.to_thread.run_sync(poured.bring, bytes(5000), 0, 100)
        assert poured.pourer.room() is None
        with pytest.raises(WriteFailed, match="full"):
            await poured.writers.room()
        with anyio.fail_after(10):
            await poured.news.wait()
        poured.writers.stop()


async def test_the_loop_is_woken_for_the_first_finished_piece_and_once_there_is_enough_to_flush():
    async with anyio.create_task_group() as group:
        poured = Poured(group, Span(0, 9000), 9000)

        async def woken(begin, end):
            poured.news = anyio.Event()
            for at in range(begin, end, 100):
                await anyio.to_thread.run_sync(poured.bring, bytes(9000), at, 100)
            await anyio.wait_all_tasks_blocked()
            return poured.news.is_set()

        assert not await woken(0, 900)
        assert await woken(900, 1000)
        assert not await woken(1000, 2900)
        assert await woken(2900, 3000)
        assert [done.index for done in poured.writers.take()] == [0, 1, 2]
        assert not await woken(3000, 3900)
        assert await woken(3900, 4000), "it is the first one again"
        poured.writers.stop()


def test_a_small_range_takes_no_more_memory_than_it_has_bytes():
    span = Span(0, 5000)
    assert len(Pourer(None, None, span, Throttle(), lambda *_: None)._buffer) == 5000
    assert len(Pourer(None, None, Span(0, 1 << 40), Throttle(), lambda *_: None)._buffer) == MOST_BLOCK


class Limit:
    """A throttle that lets who asks go on after `pause` seconds."""

    def __init__(self, rate, pause=0.0):
        self.rate = rate
        self.pause = pause
        self.spent = []
        self.given_back = 0
        self.asked = anyio.Event()

    def spend(self, size):
        self.spent.append(size)
        if self.pause:
            anyio.from_thread.run_sync(self.asked.set)
        return lambda: self.pause

    def give_back(self, size):
        self.given_back += size

    def lift(self):
        self.pause = 0.0


async def limited(poured, limit, then):
    """A thread brings 1,000 bytes and rests for its limit; after `then` it has to come to its end."""
    with anyio.fail_after(10):
        async with anyio.create_task_group() as thread:
            thread.start_soon(anyio.to_thread.run_sync, poured.bring, bytes(5000), 0, 1000)
            await limit.asked.wait()
            then()


async def test_a_thread_that_rests_for_a_limit_wakes_at_a_stop():
    async with anyio.create_task_group() as group:
        span, limit = Span(0, 5000), Limit(1 << 20, pause=3600.0)
        poured = Poured(group, span, 5000, throttle=limit)
        await limited(poured, limit, poured.writers.stop)
        (asked,) = limit.spent
        assert span.at == 0  # nothing is taken before it may come
        poured.pourer.end()
        assert limit.given_back == asked > 0
        group.cancel_scope.cancel()


async def test_a_thread_that_rests_for_a_limit_goes_on_when_that_is_lifted():
    async with anyio.create_task_group() as group:
        span, limit = Span(0, 5000), Limit(1 << 20, pause=3600.0)
        poured = Poured(group, span, 5000, throttle=limit)
        await limited(poured, limit, limit.lift)
        assert poured.pourer.room() is not None
        poured.writers.stop()


async def test_a_limited_thread_reads_little_at_once():
    async with anyio.create_task_group() as group:
        size = 1 << 20
        for rate, most in ((8 * 5000, 5000), (10, LEAST), (1 << 30, FIRST)):
            poured = Poured(group, Span(0, size), size, throttle=Limit(rate))
            poured.stream.piece = size
            assert len(poured.pourer.room()) == most
        group.cancel_scope.cancel()


async def test_bytes_are_asked_for_once_however_few_come_at_a_time():
    limit = Limit(1 << 30)
    allowance = Allowance(limit)
    came = 0
    for count in (1000, 16, 0, 4096, 500, 3 << 10):
        size = allowance.size(1 << 20)
        limit.spend(allowance.asks(size))
        came += min(count, size)
        allowance.took(size, min(count, size))
        assert came <= sum(limit.spent) <= came + FIRST
    allowance.end()
    assert sum(limit.spent) - limit.given_back == came


async def test_where_there_is_no_limit_as_much_is_read_as_there_is_room_for():
    limit = Limit(None)
    allowance = Allowance(limit)
    assert allowance.size(1 << 20) == 1 << 20
    assert allowance.asks(1 << 20) == 1 << 20
    allowance.took(1 << 20, 10)
    allowance.end()
    assert limit.given_back == 0
