"""What only uploads by threads have to prove: a server that answers, or hangs up, before it has all."""

import socket
import threading
import weakref
from urllib.parse import urlsplit

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
from msgspec.structs import replace
from sent_uploads import is_dead_only_when_its_server_has_gone

from meowcat.protocols.signing.canonical import host
from meowcat.testing.servers import Content, RangeServer, Trouble
from meowcat.testing.transport_suite import BRIEF, MIB, PATIENT, SHORT, read_all, upload
from meowcat.transport.connections import Origin, connection_over
from meowcat.transport.contract import TransportFault
from meowcat.transport.direct import DirectHttp
from meowcat.transport.httpx import HttpxTransport
from meowcat.transport.socket_uploads import SocketUpload
from meowcat.transport.sockets import SocketTransport

pytestmark = pytest.mark.anyio

NO = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\n\r\ntoo large"
YES = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Scripted:
    """Takes one connection, and does as `talk(connection, head)` says."""

    def __init__(self, talk):
        self.talk = talk
        self.got = 0

    def __enter__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/x"
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.thread.join(10)
        self.listener.close()
        assert not self.thread.is_alive()

    def serve(self):
        connection, _ = self.listener.accept()
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(1000)
            self.head = head
            self.got = len(head.partition(b"\r\n\r\n")[2])
            self.talk(self, connection)

    def take(self, connection, size):
        """Read until so many bytes of the body have come, or the client has gone."""
        while self.got < size:
            try:
                chunk = connection.recv(min(MIB, size - self.got))
            except OSError:
                return
            if not chunk:
                return
            self.got += len(chunk)


class Asked:
    """A body that says how much of it was taken."""

    def __init__(self, count, size=MIB):
        self.left, self.size = count, size
        self.taken = 0

    def __call__(self):
        return self

    def __aiter__(self):
        return self

    async def __anext__(self):
        await anyio.lowlevel.checkpoint()
        if not self.left:
            raise StopAsyncIteration
        return self.next()

    def next(self):
        self.left -= 1
        self.taken += self.size
        return memoryview(bytearray(self.size))


class Drawn(Asked):
    """One that a thread can read, but for each fifth chunk."""

    may_be_drawn = False

    def ready(self):
        self.may_be_drawn = self.left % 5 > 0
        return self.may_be_drawn

    def draw(self):
        assert threading.current_thread() is not threading.main_thread()
        assert self.may_be_drawn, "it was not ready when it was asked"
        return self.next() if self.left % 5 > 0 else None


@pytest.fixture(params=[Asked, Drawn])
def given(request):
    return request.param


async def send(url, body, length, timeouts=PATIENT):
    client = SocketTransport(timeouts)
    try:
        async with SocketUpload(client, upload(url, body, length)) as reply:
            return reply.status, await reply.read(100)
    finally:
        await client.aclose()


async def test_an_answer_in_the_middle_of_a_body_is_heard_and_ends_it(given):
    def refuse(server, connection):
        connection.sendall(NO)
        server.take(connection, 1 << 40)

    with Scripted(refuse) as server:
        body = given(4096)
        assert await send(server.url, body, 4096 * MIB) == (413, b"too large")
    assert body.taken < 4096 * MIB


async def test_a_server_that_hangs_up_with_an_answer_is_heard(given):
    def refuse(server, connection):
        server.take(connection, MIB)
        connection.sendall(NO, socket.MSG_MORE)  # goes with the end: nobody hears the one and hangs up first
        connection.shutdown(socket.SHUT_WR)
        server.take(connection, 1 << 40)

    with Scripted(refuse) as server:
        assert (await send(server.url, given(4096), 4096 * MIB))[0] == 413


async def test_a_server_that_hangs_up_without_a_word_is_a_broken_connection(given):
    with (
        Scripted(lambda server, connection: server.take(connection, MIB)) as server,
        pytest.raises(TransportFault) as caught,
    ):
        await send(server.url, given(64), 64 * MIB)
    assert caught.value.fault.kind == "disconnected"


@pytest.mark.parametrize(
    "interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n"]
)
async def test_an_interim_answer_is_no_answer(interim, given):
    def answer(server, connection):
        connection.sendall(interim)
        server.take(connection, 8 * MIB)
        connection.sendall(interim + YES)

    with Scripted(answer) as server:
        assert await send(server.url, given(8), 8 * MIB) == (200, b"")
    assert server.got == 8 * MIB


@pytest.mark.parametrize(("chunks", "length"), [(1, 2 * MIB), (3, 2 * MIB)])
async def test_a_body_of_another_length_than_was_announced_never_arrives_as_a_whole(chunks, length, given):
    with RangeServer(Content(0)) as server:
        with pytest.raises(TransportFault) as caught:
            await send(server.url, given(chunks, MIB + 1 if chunks > 2 else MIB), length)
        assert "2,097,152 bytes" in caught.value.fault.detail
        assert await server.until(lambda s: s.open_sockets == 0)
        assert not any(request.complete for request in server.requests)


async def test_a_connection_is_used_again_after_an_upload(given):
    with RangeServer(Content(0)) as server:
        client = DirectHttp(HttpxTransport(None, PATIENT), PATIENT)
        for _ in range(3):
            async with client.send(upload(server.url, given(2), 2 * MIB)) as reply:
                assert await read_all(reply) == b"received 2097152\n"
        await client.aclose()
        assert server.connections == 1
        assert server.bytes_received() == 6 * MIB


async def test_a_connection_that_the_server_closed_meanwhile_is_replaced(port, given):
    with RangeServer(Content(0), port=port) as server:
        client = DirectHttp(HttpxTransport(None, PATIENT), PATIENT)
        async with client.send(upload(server.url, given(2), 2 * MIB)) as reply:
            assert await read_all(reply) == b"received 2097152\n"
    with RangeServer(Content(0), port=port) as server:
        async with client.send(upload(server.url, given(2), 2 * MIB)) as reply:
            assert reply.status == 200
        await client.aclose()


async def test_a_server_that_takes_nothing_more_is_a_timeout(given):
    done = threading.Event()
    with Scripted(lambda _server, _connection: done.wait(10)) as server:
        with pytest.raises(TransportFault) as caught:
            await send(server.url, given(64), 64 * MIB, timeouts=SHORT)
        done.set()
    assert caught.value.fault.kind == "timeout"


async def test_a_sent_upload_is_not_dead_before_its_request_is_over(given):
    with RangeServer(Content(0), script=[Trouble(before="stall")]) as server:
        client = SocketTransport(PATIENT)
        exchange = SocketUpload(client, upload(server.url, given(1), MIB))
        await is_dead_only_when_its_server_has_gone(exchange, server)
        await client.aclose()


@pytest.mark.parametrize(
    ("trouble", "size", "within"),
    [(Trouble(rate=65_536), 16 * MIB, 1.0), (Trouble(before="stall"), 2 * MIB, BRIEF.read + 1)],
)
async def test_nobody_waits_after_a_stop_for_what_may_be_on_its_way(trouble, size, within):
    """A program that ends waits for the thread."""
    with RangeServer(Content(0), script=[trouble]) as server:
        client = SocketTransport(BRIEF)
        exchange = SocketUpload(client, upload(server.url, Asked(1, size), size))
        async with anyio.create_task_group() as group:
            group.start_soon(exchange.__aenter__)
            whole = size if trouble.rate is None else 65_536
            assert await server.until(lambda s: s.bytes_received() >= whole)
            group.cancel_scope.cancel()
        began = anyio.current_time()
        await exchange.dead()
        assert anyio.current_time() - began < within
        assert await server.until(lambda s: s.open_sockets == 0)
        await client.aclose()


async def test_a_stop_before_the_last_chunk_was_sent_in_full_never_lets_it_arrive(given):
    seen, go = anyio.Event(), threading.Event()
    token = anyio.lowlevel.current_token()

    def slow(server, connection):
        server.take(connection, 1000)
        anyio.from_thread.run_sync(seen.set, token=token)
        go.wait(10)
        server.take(connection, 1 << 40)

    with Scripted(slow) as server:
        client = SocketTransport(PATIENT)
        exchange = SocketUpload(client, upload(server.url, given(1, 64 * MIB), 64 * MIB))
        async with anyio.create_task_group() as group:
            group.start_soon(exchange.__aenter__)
            await seen.wait()
            group.cancel_scope.cancel()
        go.set()
        with anyio.fail_after(5):
            await exchange.dead()
        await client.aclose()
    assert server.got < 64 * MIB


async def test_an_interim_answer_may_come_in_pieces(given):
    def answer(server, connection):
        connection.sendall(b"HTTP/1.1 103 Hints\r\nLin")
        server.take(connection, 4 * MIB)
        connection.sendall(b"k: x\r\n\r\n")
        server.take(connection, 8 * MIB)
        connection.sendall(YES)

    with Scripted(answer) as server:
        assert await send(server.url, given(8), 8 * MIB) == (200, b"")
    assert server.got == 8 * MIB


async def test_a_server_that_hangs_up_on_an_idle_connection_gets_the_request_by_another(given):
    """Which of the two was first, the request or the end of the connection, nobody can tell beforehand."""
    with RangeServer(Content(0)) as server:
        client = SocketTransport(PATIENT)
        ours, theirs = socket.socketpair()
        client.idle.put(Origin("127.0.0.1", server.port), connection_over(ours, 5))

        def hang_up():
            theirs.recv(1)
            theirs.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        async with SocketUpload(client, upload(server.url, given(4), 4 * MIB)) as reply:
            assert reply.status == 200
        thread.join()
        await client.aclose()


async def test_a_body_that_an_idle_connection_has_more_of_than_the_first_chunk_is_not_begun_again(given):
    with RangeServer(Content(0)) as server:
        client = SocketTransport(PATIENT)
        ours, theirs = socket.socketpair()
        client.idle.put(Origin("127.0.0.1", server.port), connection_over(ours, 5))

        def hang_up():
            left = MIB * 3 // 2
            while left > 0:
                left -= len(theirs.recv(left))
            theirs.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(TransportFault) as caught:
            await SocketUpload(client, upload(server.url, given(4), 4 * MIB)).__aenter__()
        thread.join()
        await client.aclose()
        assert server.connections == 0
    assert caught.value.fault.kind == "disconnected"


@pytest.mark.parametrize("chunk", [MIB, 64 * MIB], ids=["between-chunks", "within-the-last-one"])
async def test_a_success_before_the_server_has_all_is_none(chunk, given):
    def agree(server, connection):
        server.take(connection, MIB)
        connection.sendall(YES)
        server.take(connection, 1 << 40)

    with Scripted(agree) as server, pytest.raises(TransportFault) as caught:
        await send(server.url, given(64 * MIB // chunk, chunk), 64 * MIB)
    assert server.got < 64 * MIB
    assert caught.value.fault.kind == "disconnected"
    assert "200 before it had all" in caught.value.fault.detail


async def test_an_answer_is_heard_of_a_server_that_takes_no_more_of_the_body(given):
    told = threading.Event()

    def refuse(server, connection):
        server.take(connection, MIB)
        connection.sendall(NO)
        told.wait(10)

    with Scripted(refuse) as server:
        try:
            with anyio.fail_after(5):
                assert await send(server.url, given(1, 64 * MIB), 64 * MIB) == (413, b"too large")
        finally:
            told.set()


async def test_the_first_bytes_of_an_interim_answer_are_no_answer(given):
    def answer(server, connection):
        connection.sendall(b"HTTP/1.1 1")
        server.take(connection, 4 * MIB)
        connection.sendall(b"03 Hints\r\n\r\n")
        server.take(connection, 8 * MIB)
        connection.sendall(YES)

    with Scripted(answer) as server:
        assert await send(server.url, given(8), 8 * MIB) == (200, b"")
    assert server.got == 8 * MIB


@pytest.mark.parametrize(
    "place", ["storage.example:80", "Storage.example", "[::1]:80", "[FD00::A]:9000", "a:9000"]
)
async def test_the_host_that_is_sent_is_the_one_that_is_signed(place, given):
    """Signatures cover it as other clients send it: without a port that goes without saying."""
    client = SocketTransport(PATIENT)
    url = f"http://{place}/bucket/key"
    parts = urlsplit(url)
    ours, theirs = socket.socketpair()
    client.idle.put(Origin(parts.hostname, parts.port or 80), connection_over(ours, 5))
    head = b""

    def answer():
        nonlocal head
        head = theirs.recv(1 << 16)
        theirs.sendall(NO)
        theirs.close()

    thread = threading.Thread(target=answer)
    thread.start()
    async with SocketUpload(client, upload(url, given(4), 4 * MIB)) as reply:
        assert reply.status == 413
    thread.join()
    await client.aclose()
    assert f"\r\nHost: {host(url)}\r\n".encode() in head


async def test_a_header_field_is_sent_in_the_form_that_is_signed(given):
    """Not each client's own: it depends on the size of a part alone which of them sends it."""
    came = b""

    def refuse(server, connection):
        nonlocal came
        came = server.head
        connection.sendall(NO)

    with Scripted(refuse) as server:
        request = replace(upload(server.url, given(4), 4 * MIB), headers={"x-amz-meta-name": "Käse, 猫"})
        client = DirectHttp(HttpxTransport(None, PATIENT), PATIENT)
        async with client.send(request) as reply:
            assert reply.status == 413
        await client.aclose()
    assert "x-amz-meta-name: Käse, 猫\r\n".encode() in came


async def test_an_answer_that_is_no_http_is_told_as_that(given):
    def babble(server, connection):
        server.take(connection, 2 * MIB)
        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

    with Scripted(babble) as server, pytest.raises(TransportFault) as caught:
        await send(server.url, given(2), 2 * MIB)
    assert caught.value.fault.kind == "reply"


async def test_a_server_that_is_not_there_is_unreachable(given):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(TransportFault) as caught:
            await send(f"http://127.0.0.1:{closed.getsockname()[1]}/x", given(2), 2 * MIB)
    assert caught.value.fault.kind == "unreachable"


async def test_a_chunk_that_is_longer_than_the_rest_is_not_sent(given):
    with RangeServer(Content(0)) as server:
        with pytest.raises(TransportFault):
            await send(server.url, given(1, 2 * MIB + 1), 2 * MIB)
        assert server.bytes_received() == 0


async def test_a_connection_whose_upload_was_answered_early_is_closed(given):
    def refuse(server, connection):
        connection.sendall(NO)
        server.take(connection, 1 << 40)

    with Scripted(refuse) as server:
        client = SocketTransport(PATIENT)
        async with SocketUpload(client, upload(server.url, given(4096), 4096 * MIB)) as reply:
            assert await reply.read(100) == b"too large"
        await anyio.to_thread.run_sync(server.thread.join, 10)
        assert not server.thread.is_alive()
        await client.aclose()


async def test_the_source_is_closed_by_the_time_that_an_answer_is_there():
    closed = []

    async def source():
        try:
            while True:
                yield bytes(MIB)
        finally:
            await anyio.lowlevel.checkpoint()
            closed.append(True)

    def refuse(server, connection):
        connection.sendall(NO)
        server.take(connection, 1 << 40)

    with Scripted(refuse) as server:
        client = SocketTransport(PATIENT)
        async with SocketUpload(client, upload(server.url, source, 4096 * MIB)):
            assert closed
        await client.aclose()


async def test_a_chunk_is_free_when_the_next_one_is_asked_for(given):
    class Watched(given):
        last = staticmethod(lambda: None)
        held = 0

        def next(self):
            self.held += self.last() is not None
            chunk = super().next()
            self.last = weakref.ref(chunk)
            return chunk

    body = Watched(8)
    with RangeServer(Content(0)) as server:
        assert (await send(server.url, body, 8 * MIB))[0] == 200
    assert body.held == 0


async def test_what_can_be_drawn_takes_one_trip_to_the_thread():
    asked = []

    class Whole(Drawn):
        def ready(self):
            asked.append(threading.current_thread())
            return self.left > 0

        def draw(self):
            return self.next() if self.left else None

    with RangeServer(Content(0)) as server:
        assert (await send(server.url, Whole(8), 8 * MIB))[0] == 200
    assert asked == [threading.main_thread()]


@pytest.mark.parametrize("chunks", [1, 2])
@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 4"])
async def test_a_last_chunk_that_an_idle_connection_may_have_had_is_not_sent_again(chunks, said, given):
    with RangeServer(Content(0)) as server:
        client = SocketTransport(PATIENT)
        ours, theirs = socket.socketpair()
        client.idle.put(Origin("127.0.0.1", server.port), connection_over(ours, 5))

        def hang_up():
            theirs.recv(1)
            theirs.sendall(said)
            theirs.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        exchange = SocketUpload(client, upload(server.url, given(chunks, 2 * MIB // chunks), 2 * MIB))
        if chunks == 1:
            with pytest.raises(TransportFault) as caught:
                await exchange.__aenter__()
            assert caught.value.fault.kind == "disconnected"
        else:
            async with exchange as reply:
                assert reply.status == 200
        await anyio.to_thread.run_sync(thread.join, 10)
        assert server.connections == chunks - 1
        await client.aclose()
