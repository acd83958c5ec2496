"""Connections of our own: how long they wait for a byte, and which of them waits for its next request."""

import asyncio
import os
import socket
import sys

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from meowcat.transport import connections
from meowcat.transport.connections import Connection, IdleConnections, Origin, connection_over

pytestmark = pytest.mark.anyio

HERE, THERE = Origin("here", 80), Origin("there", 80)


@pytest.fixture
def pair():
    """Makes connections, each with its other end."""
    theirs = []

    def make(silence=10.0):
        ours, other = socket.socketpair()
        other.setblocking(False)
        theirs.append(other)
        return connection_over(ours, silence), other

    yield make
    for each in theirs:
        each.close()


@pytest.fixture
def idle():
    made = IdleConnections()
    yield made
    made.close()


def has_ended(other):
    try:
        return other.recv(1) == b""
    except BlockingIOError:
        return False


async def look():
    """Let the loop see what is in its sockets."""
    for _ in range(5):
        await anyio.lowlevel.checkpoint()


async def test_the_latest_that_goes_there_is_taken_first(pair, idle):
    first, second, elsewhere = (pair()[0] for _ in range(3))
    for origin, each in ((HERE, first), (HERE, second), (THERE, elsewhere)):
        idle.put(origin, each)
    assert [idle.take(HERE) for _ in range(3)] == [second, first, None]
    assert idle.take(THERE) is elsewhere
    for each in (first, second, elsewhere):
        each.close()


async def test_one_that_waited_for_too_long_is_closed(pair, idle, monkeypatch):
    monkeypatch.setattr(connections, "IDLE_SECONDS", -1.0)
    connection, other = pair()
    idle.put(HERE, connection)
    assert idle.take(THERE) is None
    assert has_ended(other)
    assert idle.take(HERE) is None


async def test_where_many_wait_the_oldest_are_closed(pair, idle, monkeypatch):
    monkeypatch.setattr(connections, "MOST_IDLE", 2)
    others = []
    for _ in range(4):
        connection, other = pair()
        idle.put(HERE, connection)
        others.append(other)
    assert [has_ended(each) for each in others] == [True, True, False, False]
    idle.close()
    assert all(map(has_ended, others[2:]))


async def test_whatever_is_put_there_after_the_close_is_closed(pair, idle):
    connection, other = pair()
    idle.close()
    idle.put(HERE, connection)
    assert has_ended(other)


async def test_one_that_something_came_by_meanwhile_is_closed(pair, idle):
    connection, other = pair()
    idle.put(HERE, connection)
    other.send(b"nobody asked for it")
    await look()
    assert idle.take(HERE) is None
    assert connection.sock.fileno() == -1


async def test_one_whose_end_has_come_meanwhile_is_closed(pair, idle):
    ended, its_other = pair()
    broken, other = pair()
    await broken.send(b"what is never read breaks it")
    idle.put(HERE, ended)
    idle.put(HERE, broken)
    its_other.shutdown(socket.SHUT_WR)
    other.close()
    await look()
    assert idle.take(HERE) is None
    assert (ended.sock.fileno(), broken.sock.fileno()) == (-1, -1)


async def test_one_by_which_more_came_than_its_reply_is_not_used_again(pair, idle):
    connection, other = pair()
    other.send(b"a reply")
    assert await connection.receive() == b"a reply"
    other.send(b"nobody asked for it")
    await look()
    idle.put(HERE, connection)
    assert idle.take(HERE) is None
    assert connection.sock.fileno() == -1


async def test_what_is_closed_has_ended_although_a_forked_child_has_a_copy(pair):
    connection, other = pair()
    copy = os.dup(connection.sock.fileno())
    connection.close()
    assert has_ended(other)
    os.close(copy)


async def test_what_is_stopped_is_reset():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = connection_over(socket.create_connection(listener.getsockname()), 10)
        other, _ = listener.accept()
    with other:
        connection.abort()
        with pytest.raises(BrokenPipeError):
            other.send(b"x")  # of a mere end it would not be told yet
        assert connection.sock.fileno() == -1


async def test_what_has_ended_can_be_stopped(pair):
    connection, _ = pair()
    connection.close()
    connection.abort()
    assert connection.sock.fileno() == -1


async def test_all_is_sent_to_a_peer_that_takes_it_slowly(pair):
    connection, other = pair()
    data, came = os.urandom(1 << 20), bytearray()

    async def take():
        while len(came) < len(data):
            try:
                came.extend(other.recv(10_000))
            except BlockingIOError:
                await anyio.wait_readable(other)

    async with anyio.create_task_group() as group:
        group.start_soon(take)
        await connection.send(data)
    assert came == data
    connection.close()


async def test_a_peer_that_takes_nothing_is_a_timeout(pair):
    connection, _ = pair(silence=0.05)
    with anyio.fail_after(10), pytest.raises(TimeoutError):
        await connection.send(bytes(4 << 20))
    connection.close()


async def test_a_peer_that_says_nothing_is_a_timeout(pair):
    connection, _ = pair(silence=0.05)
    with anyio.fail_after(10), pytest.raises(TimeoutError):
        await connection.receive()
    connection.close()


async def test_what_was_received_is_held_no_longer(pair):
    connection, other = pair()
    with anyio.fail_after(10):
        other.send(os.urandom(100))
        came = await connection.receive()
    await look()
    assert sys.getrefcount(came) <= 2  # `came`, and the argument
    connection.close()


async def test_the_end_is_told_each_time(pair):
    connection, other = pair()
    other.send(b"the last")
    other.shutdown(socket.SHUT_WR)
    with anyio.fail_after(10):
        assert [await connection.receive() for _ in range(3)] == [b"the last", b"", b""]
    connection.close()


async def test_a_connection_that_breaks_is_no_end(pair):
    connection, other = pair()
    await connection.send(b"what is never read breaks it")

    async def receive():
        with pytest.raises(ConnectionResetError):
            await connection.receive()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(receive)
            await look()
            other.close()
    connection.close()


async def test_what_comes_while_nobody_waits_is_received_in_its_order(pair):
    connection, other = pair()
    with anyio.fail_after(10):
        other.send(b"0")
        assert await connection.receive() == b"0"
        for each in (b"1", b"2", b"3", b"4"):
            other.send(each)
            await look()
        came = b""
        while len(came) < 4:
            came += await connection.receive()
        other.send(b"5")
        assert came + await connection.receive() == b"12345"
    connection.close()


async def test_a_thread_finds_what_came_before_it_and_gets_what_comes_then(pair):
    connection, other = pair(silence=0.05)
    other.send(b"first")
    assert await connection.receive() == b"first"
    other.send(b"second")
    await look()
    came = connection.came() or b""
    sock = connection.lend()
    other.send(b"third")
    await look()
    while len(came) < 11:
        came += await anyio.to_thread.run_sync(sock.recv, 100)
    assert came == b"secondthird"
    with anyio.fail_after(10), pytest.raises(TimeoutError):
        await anyio.to_thread.run_sync(sock.recv, 1)
    connection.give_back()
    with pytest.raises(BlockingIOError):
        sock.recv(1)
    connection.close()


class TestOnALoopThatWatches:
    """Only asyncio's does."""

    @pytest.fixture
    def anyio_backend(self):
        return "asyncio"

    @pytest.fixture
    def clock(self, monkeypatch):
        """The loop's time, which goes on as the test says."""
        now = [0.0]

        def turn(to):
            now[0] = to

        turn.patch = lambda: monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
        return turn

    async def test_only_silence_is_limited(self, pair, clock):
        clock.patch()
        connection, other = pair(silence=10)
        for begun in (0, 9, 18):
            clock(begun)
            waiting = asyncio.create_task(connection.receive())
            await look()
            clock(begun + 9)
            await look()
            assert not waiting.done()
            other.send(b"x")
            assert await waiting == b"x"
        waiting = asyncio.create_task(connection.receive())
        await look()
        clock(36.5)
        await look()
        assert not waiting.done()
        clock(37.5)
        with pytest.raises(TimeoutError):
            await waiting
        connection.close()

    async def test_a_silence_after_one_that_nobody_waited_in_is_limited_too(self, pair, clock):
        clock.patch()
        connection, other = pair(silence=10)
        other.send(b"x")
        assert await connection.receive() == b"x"
        clock(11)
        await look()
        waiting = asyncio.create_task(connection.receive())
        await look()
        assert not waiting.done()
        clock(22)
        with pytest.raises(TimeoutError):
            await waiting
        connection.close()

    async def test_what_comes_at_the_last_moment_has_come(self, pair, clock):
        clock.patch()
        connection, other = pair(silence=10)
        waiting = asyncio.create_task(connection.receive())
        await look()
        clock(10)
        other.send(b"x")
        assert await waiting == b"x"
        await look()
        connection.close()

    async def test_many_receptions_take_one_timer(self, pair, monkeypatch):
        loop, set_up = asyncio.get_running_loop(), []
        call_at = loop.call_at
        monkeypatch.setattr(
            loop, "call_at", lambda *given, **named: set_up.append(1) or call_at(*given, **named)
        )
        connection, other = pair()
        for _ in range(100):
            other.send(b"x")
            assert await connection.receive() == b"x"
        assert len(set_up) == 1
        connection.close()

    async def test_a_reception_that_is_canceled_as_something_comes_is_canceled(self, pair):
        connection, other = pair()
        told, tell = socket.socketpair()
        waiting = asyncio.create_task(connection.receive())
        asyncio.get_running_loop().add_reader(told, lambda: told.recv(1) and waiting.cancel())
        await look()
        tell.send(b"x")  # the loop meets both in the same turn, in this order
        other.send(b"x")
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await look()
        asyncio.get_running_loop().remove_reader(told)
        told.close()
        tell.close()
        connection.close()

    async def test_a_loop_that_wakes_for_nothing_is_no_end(self, pair, monkeypatch):
        loop, wakes = asyncio.get_running_loop(), []
        add = loop.add_reader
        monkeypatch.setattr(loop, "add_reader", lambda fd, wake: wakes.append(wake) or add(fd, wake))
        connection, other = pair()
        waiting = asyncio.create_task(connection.receive())
        await look()
        wakes[0]()
        await look()
        assert not waiting.done()
        other.send(b"x")
        assert await waiting == b"x"
        connection.close()

    async def test_what_is_closed_or_lent_is_watched_no_more(self, pair):
        loop = asyncio.get_running_loop()
        for leave in (Connection.close, Connection.lend):
            connection, other = pair()
            other.send(b"x")
            assert await connection.receive() == b"x"
            number = connection.sock.fileno()
            getattr(connection, leave.__name__)()
            assert not loop.remove_reader(number)
            connection.close()

    async def test_what_is_closed_leaves_no_timer(self, pair, clock):
        clock.patch()
        loop, set_up = asyncio.get_running_loop(), []
        call_at = loop.call_at

        def noted(*given, **named):
            set_up.append(call_at(*given, **named))
            return set_up[-1]

        loop.call_at = noted
        connection, other = pair()
        other.send(b"x")
        assert await connection.receive() == b"x"
        connection.close()
        del loop.call_at
        assert [each.cancelled() for each in set_up] == [True]
