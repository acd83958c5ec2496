"""The transport contract over sockets of our own, and what only these have to prove."""

import asyncio
import gc
import itertools
import socket
import struct
import sys
import threading
from contextlib import asynccontextmanager, contextmanager, suppress

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from msgspec.structs import replace

from meowcat.core.errors import InvalidArgument
from meowcat.testing.servers import Content, RangeServer, Trouble
from meowcat.testing.transport_suite import BRIEF, MIB, PATIENT, SHORT, TransportSuite, read_all
from meowcat.transport import direct, sockets
from meowcat.transport.connections import Origin, connection_over
from meowcat.transport.contract import LARGE, USER_AGENT, HttpRequest, Pours, Timeouts, TransportFault
from meowcat.transport.direct import DirectHttp
from meowcat.transport.httpx import HttpxTransport
from meowcat.transport.outgoing import Unsuited
from meowcat.transport.socket_uploads import SocketUpload
from meowcat.transport.sockets import SocketExchange, SocketTransport

pytestmark = pytest.mark.anyio


def transport(timeouts=PATIENT, *, verify=True):
    more = None if verify is True else verify
    return DirectHttp(HttpxTransport(None, timeouts, verify=verify), timeouts, verify=more)


class ByThreads:
    """Has threads read all bodies, so that the suite meets them."""

    def __init__(self, inner):
        self.inner = inner

    def send(self, request):
        return ByThread(self.inner.send(request))

    async def aclose(self):
        await self.inner.aclose()


class ByThread:
    def __init__(self, exchange):
        self.exchange = exchange

    async def __aenter__(self):
        self.reply = await self.exchange.__aenter__()
        self.status, self.headers, self.version = self.reply.status, self.reply.headers, self.reply.version
        return self

    async def __aexit__(self, *exc):
        return await self.exchange.__aexit__(*exc)

    async def dead(self):
        await self.exchange.dead()

    async def read(self, size):
        if not isinstance(self.reply, Pours):  # of an upload, or by the other client
            return await self.reply.read(size)
        sink = Taken(size)
        await self.reply.pour(sink)
        return bytes(sink.body)


class TestByTheLoop(TransportSuite):
    http2 = False

    def make(self, timeouts, **options):
        return transport(timeouts, **options)


class TestByThreads(TestByTheLoop):
    def make(self, timeouts, **options):
        return ByThreads(transport(timeouts, **options))


class TestByTheLoopOverTls(TestByTheLoop):
    tls = True


class TestByThreadsOverTls(TestByThreads):
    tls = True


class Taken:
    """A sink that keeps what comes, `most` bytes of it."""

    def __init__(self, most=1 << 40):
        self.body = bytearray()
        self.most = most
        self.block = memoryview(bytearray(100_000))
        self.counts = []

    def room(self):
        left = self.most - len(self.body)
        return self.block[:left] if left > 0 else None

    def came(self, count):
        self.body += self.block[:count]
        self.counts.append(count)


async def pour(url, sink, client=None, headers=None):
    """Whether the body was read to its end."""
    client = client or transport()
    try:
        async with client.send(HttpRequest("GET", url, headers or {})) as reply:
            assert isinstance(reply, Pours)
            return await reply.pour(sink)
    finally:
        await client.aclose()


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_a_body_is_poured_to_its_end_however_it_is_framed(framing):
    content = Content(3 * MIB + 17)
    with RangeServer(content, script=[Trouble(framing=framing)]) as server:
        sink = Taken()
        assert await pour(server.url, sink)
    assert bytes(sink.body) == content.bytes()
    assert set(sink.counts[:-1]) == {100_000}, "no write of less than there is room for"
    assert sink.counts[-1] == content.size % 100_000


async def test_what_is_left_over_from_an_earlier_reply_is_taken_for_none():
    async def serve(stream):
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):  # nobody asks any more
            async with stream:
                await talk(stream)

    async def talk(stream):
        await stream.receive()
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst")
        await stream.receive()
        await stream.send(b"0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    client = transport()
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        port = listener.listeners[0].extra_attributes[anyio.abc.SocketAttribute.local_port]()
        try:
            for _ in range(3):  # the second and the third meet what is left over, and ask again on a new one
                sink = Taken()
                request = HttpRequest("GET", f"http://127.0.0.1:{port}/", {})
                async with client.send(request) as reply:
                    assert await reply.pour(sink)
                assert sink.body == b"first"
        finally:
            await client.aclose()
            group.cancel_scope.cancel()


async def test_a_sink_that_wants_no_more_leaves_the_rest_unread():
    content = Content(64 * MIB)
    with RangeServer(content) as server:
        sink = Taken(most=150_000)
        assert not await pour(server.url, sink)
        assert await server.until(lambda s: s.open_sockets == 0)
        assert server.bytes_served() < 32 * MIB
    assert bytes(sink.body) == content.bytes(0, 150_000)


@pytest.mark.parametrize(("end", "kind"), [("close", "disconnected"), ("reset", "disconnected")])
async def test_a_body_that_breaks_off_is_a_fault_and_what_came_is_poured(end, kind):
    content = Content(MIB)
    with RangeServer(content, script=[Trouble(after=300_000, then=end)]) as server:
        sink = Taken()
        with pytest.raises(TransportFault) as caught:
            await pour(server.url, sink)
    assert caught.value.fault.kind == kind
    assert bytes(sink.body) == content.bytes(0, len(sink.body))


async def test_all_that_came_before_a_body_broke_off_is_poured():
    content = Content(MIB)
    with RangeServer(content, script=[Trouble(after=250_000, then="close")]) as server:
        sink = Taken()
        with pytest.raises(TransportFault):
            await pour(server.url, sink)
    assert bytes(sink.body) == content.bytes(0, 250_000)


async def test_nothing_is_poured_of_a_body_that_ends_where_there_was_room():
    with RangeServer(Content(200_000), script=[Trouble(framing="close")]) as server:
        sink = Taken()
        assert await pour(server.url, sink)
    assert sink.counts == [100_000, 100_000]


async def test_silence_in_a_body_is_a_timeout():
    script = [Trouble(after=9, then="stall")]
    with RangeServer(Content(MIB), script=script) as server, pytest.raises(TransportFault) as caught:
        await pour(server.url, Taken(), transport(SHORT))
    assert caught.value.fault.kind == "timeout"


async def test_a_stop_in_the_middle_of_a_body_closes_its_socket_and_leaves_no_thread_in_the_sink():
    for trouble in (Trouble(after=1000, then="stall"), None):
        with RangeServer(Content(512 * MIB), script=[trouble]) as server:
            sink = Taken()
            async with anyio.create_task_group() as group:
                group.start_soon(pour, server.url, sink)
                assert await server.until(lambda s: s.bytes_served() >= 1000)
                group.cancel_scope.cancel()
            had = len(sink.body)
            assert await server.until(lambda s: s.open_sockets == 0)
            assert len(sink.body) == had


@pytest.mark.parametrize(
    "interim",
    [
        [b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"],
        [
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early",
            b" Hints\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n",
        ],
    ],
)
@pytest.mark.parametrize("apart", [True, False])
async def test_interim_replies_are_passed_over(interim, apart):
    """A server may send any number of them."""
    body = Content(MIB).bytes()
    final = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    pieces = [*interim, final] if apart else [b"".join([*interim, final])]

    def serve():
        connection, _ = listener.accept()
        with connection:
            while not connection.recv(1000).endswith(b"\r\n\r\n"):
                pass
            for piece in pieces:
                connection.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        sink = Taken()
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, serve)
            with anyio.fail_after(10):
                assert await pour(f"http://127.0.0.1:{listener.getsockname()[1]}/x", sink)
    assert bytes(sink.body) == body


async def test_a_connection_is_used_again_after_a_body_was_poured_to_its_end():
    with RangeServer(Content(300_000)) as server:
        client = transport()
        for _ in range(5):
            async with client.send(HttpRequest("GET", server.url)) as reply:
                assert await reply.pour(Taken())
        await client.aclose()
        assert server.connections == 1
        assert await server.until(lambda s: s.open_sockets == 0)


async def test_a_connection_that_the_server_closed_meanwhile_is_replaced(port):
    with RangeServer(Content(300_000), port=port) as server:
        client = transport()
        async with client.send(HttpRequest("GET", server.url)) as reply:
            assert await reply.pour(Taken())
    with RangeServer(Content(300_000), port=port) as server:
        sink = Taken()
        assert await pour(server.url, sink, client)
    assert len(sink.body) == 300_000


async def test_one_connection_serves_the_loop_and_threads_by_turns():
    content = Content(300_000)
    with RangeServer(content) as server:
        client = transport()
        for large in (False, True, True, False, False):
            async with client.send(HttpRequest("GET", server.url)) as reply:
                if large:
                    sink = Taken()
                    assert await reply.pour(sink)
                    assert bytes(sink.body) == content.bytes()
                else:
                    assert await read_all(reply) == content.bytes()
        await client.aclose()
        assert server.connections == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_nobody_reads_yet_does_not_keep_the_loop_busy(monkeypatch):
    """A loop tells of a socket in each of its turns until somebody takes what is in it."""
    called = 0
    loop = asyncio.get_running_loop()
    add = loop.add_reader

    def counted(fileno, callback, *given):
        def call():
            nonlocal called
            called += 1
            callback(*given)

        add(fileno, call)

    monkeypatch.setattr(loop, "add_reader", counted)
    content = Content(8 * MIB)
    with RangeServer(content) as server:
        client = transport()
        async with client.send(HttpRequest("GET", server.url)) as reply:
            assert await server.until(lambda s: s.bytes_served() > MIB // 4)
            before = called
            for _ in range(500):
                await asyncio.sleep(0)
            assert called - before <= 3
            assert await read_all(reply) == content.bytes()
        await client.aclose()


async def test_what_can_not_be_sent_is_the_other_clients_affair():
    with RangeServer(Content(2 * MIB)) as server:
        client = transport()
        odd = HttpRequest("GET", server.url, {"X-Odd": "\ud800"})
        with pytest.raises(InvalidArgument, match="characters that can't be sent"):
            async with client.send(odd):
                pass
        await client.aclose()
        assert not server.requests


@pytest.mark.parametrize(
    "path",
    [
        "/a/../b",
        "/a/./b",
        "/a/%2e%2E/b",
        "/sp ace",
        "/ümlaut",
        '/"quoted"',
        "/a|b",
        "/a#b",
        '/?"quoted"',
        "/?'quoted'",
        "/?<b>",
    ],
)
async def test_a_url_that_clients_may_rewrite_goes_where_its_first_request_went(path):
    with RangeServer(Content(10)) as server:
        client = transport()
        seen = []
        for _ in range(2):
            async with client.send(HttpRequest("GET", server.origin + path)) as reply:
                assert not isinstance(reply, Pours)
            seen.append(server.requests[-1].target)
        await client.aclose()
    assert seen[0] == seen[1]


async def test_proxies_of_the_environment_are_the_other_clients_affair(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "example.org")
    client = transport()
    proxied = client.send(HttpRequest("GET", "http://example.com/x"))
    direct = client.send(HttpRequest("GET", "http://example.org/x"))
    assert type(proxied) is not type(direct)
    await client.aclose()


class Answering:
    """Takes one connection, sends a piece for each request, and resets it once it is told to."""

    def __init__(self, *pieces):
        self.pieces = pieces
        self.sent, self.end = threading.Event(), threading.Event()

    def __enter__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/x"
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.reset()
        self.listener.close()

    def reset(self):
        self.end.set()
        self.thread.join(10)
        assert not self.thread.is_alive()

    def serve(self):
        connection, _ = self.listener.accept()
        with connection:
            for piece in self.pieces:
                while not connection.recv(1000).endswith(b"\r\n\r\n"):
                    pass
                connection.sendall(piece)
            self.sent.set()
            self.end.wait(10)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("large", [False, True])
async def test_a_body_of_unknown_length_that_breaks_off_while_nobody_reads_has_not_ended(large):
    with Answering(b"HTTP/1.1 200 OK\r\n\r\nhalf") as server:
        client = transport()
        async with client.send(HttpRequest("GET", server.url)) as reply:
            assert await reply.read(100) == b"half"
            server.reset()
            for _ in range(5):
                await anyio.lowlevel.checkpoint()  # the loop may take notice of it
            with pytest.raises(TransportFault) as caught:
                await (reply.pour(Taken()) if large else reply.read(100))
        await client.aclose()
    assert caught.value.fault.kind == "disconnected"


async def test_a_second_answer_to_one_request_is_none_to_the_next():
    """It stands in the socket behind a body that a thread has read to its end and no further."""
    body = Content(MIB).bytes()
    twice = (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%sHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"
    )
    with Answering(twice % (len(body), body)) as server:
        client = transport()
        async with client.send(HttpRequest("GET", server.url)) as reply:
            sink = Taken()
            assert await reply.pour(sink)
            await anyio.to_thread.run_sync(server.sent.wait, 10)
        assert bytes(sink.body) == body
        server.listener.close()  # so that the next one goes by this connection or by none
        with pytest.raises(TransportFault) as caught:
            async with client.send(HttpRequest("GET", server.url)):
                pass
        await client.aclose()
    assert caught.value.fault.kind == "unreachable"


BOTH_OF_ASYNCIO = [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})]


@pytest.mark.parametrize("anyio_backend", BOTH_OF_ASYNCIO)
async def test_a_reset_is_told_at_once_where_much_of_the_body_has_come_before(anyio_backend):
    """uvloop no longer watches a socket of which it has told that it is broken."""
    with Answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n" + bytes(3 * MIB)) as server:
        client = transport()
        async with client.send(HttpRequest("GET", server.url)) as reply:
            server.end.set()
            with pytest.raises(TransportFault) as caught:
                await read_all(reply)
        await client.aclose()
    assert caught.value.fault.kind == "disconnected"


@pytest.mark.parametrize("anyio_backend", BOTH_OF_ASYNCIO)
async def test_whoever_reads_a_body_whose_block_was_left_is_told():
    async def read():
        with pytest.raises(TransportFault):
            await reply.read(100)

    with Answering(b"HTTP/1.1 200 OK\r\n\r\nhalf") as server:
        client = transport()
        exchange = client.send(HttpRequest("GET", server.url))
        reply = await exchange.__aenter__()
        assert await reply.read(100) == b"half"
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(read)
                await anyio.wait_all_tasks_blocked()
                await exchange.__aexit__(None, None, None)
            await read()
        await client.aclose()


async def test_a_server_that_is_faster_than_its_reader_leaves_the_loop_to_others():
    turns = 0

    async def others():
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    ours, theirs = socket.socketpair()
    connection = connection_over(ours, 5)
    async with anyio.create_task_group() as group:
        group.start_soon(others)
        for _ in range(20):
            theirs.send(b"x")
            assert await connection.receive() == b"x"
        group.cancel_scope.cancel()
    connection.close()
    theirs.close()
    assert turns >= 10


async def failure(url, timeouts=PATIENT):
    client = transport(timeouts)
    with pytest.raises(TransportFault) as caught:
        async with client.send(HttpRequest("GET", url)):
            pass
    await client.aclose()
    return caught.value.fault


@pytest.mark.parametrize("name", ["a..example", ".example", f"{'a' * 64}.example"])
async def test_a_name_that_none_can_have_is_unreachable(name):
    assert (await failure(f"http://{name}/")).kind == "unreachable"


class Names:
    """Stands in for the system's resolver: every name has these addresses."""

    def __init__(self, monkeypatch, *found):
        self.found = found
        self.real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self.resolve)

    def resolve(self, host, port, *given, **options):
        flags = given[3] if len(given) > 3 else options.get("flags", 0)
        if flags & socket.AI_NUMERICHOST or host == "127.0.0.1":
            return self.real(host, port, *given, **options)
        return self.answer(port)

    def answer(self, port):
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in self.found]


async def test_a_resolver_that_does_not_answer_takes_no_longer_than_a_connection_may(monkeypatch):
    go = threading.Event()

    class Silent(Names):
        def answer(self, port):
            go.wait(20)
            return super().answer(port)

    Silent(monkeypatch, (socket.AF_INET, "127.0.0.1"))
    try:
        with anyio.fail_after(10):
            assert (await failure("http://name.example/", replace(SHORT, connect=0.2))).kind == "unreachable"
    finally:
        go.set()


async def test_an_address_of_a_kind_that_the_system_has_not_leaves_the_others(monkeypatch):
    Names(monkeypatch, (250, "none"), (socket.AF_INET, "127.0.0.1"))
    with RangeServer(Content(10)) as server:
        client = transport()
        async with client.send(HttpRequest("GET", f"http://name.example:{server.port}/")) as reply:
            assert len(await read_all(reply)) == 10
        await client.aclose()


async def test_a_slow_address_is_waited_for_where_no_other_answers(monkeypatch):
    monkeypatch.setattr("meowcat.transport.sockets.NEXT_ADDRESS", 0)  # slower than that is any
    Names(monkeypatch, (socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "127.0.0.2"))
    with RangeServer(Content(10)) as server:
        client = transport()
        async with client.send(HttpRequest("GET", f"http://name.example:{server.port}/")) as reply:
            assert len(await read_all(reply)) == 10
        await client.aclose()


# What a server says

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextmanager
def answering(*replies):
    """Takes one connection, says each of these after it has heard something, and waits for its end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)

        def serve():
            connection, _ = listener.accept()
            with connection:
                for reply in replies:
                    connection.recv(65536)
                    connection.sendall(reply)
                with suppress(OSError):
                    connection.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        thread.join(10)
        assert not thread.is_alive()


async def read_whole(url):
    client = transport()
    try:
        async with client.send(HttpRequest("GET", url)) as reply:
            return await read_all(reply)
    finally:
        await client.aclose()


async def pour_whole(url):
    return await pour(url, Taken())


async def fault_of(work):
    with pytest.raises(TransportFault) as caught:
        await work
    assert caught.value.__context__ is None  # it could quote the peer
    return caught.value.fault


async def test_what_is_no_http_is_told_as_that():
    with answering(b"SSH-2.0-OpenSSH_9.2\r\n") as url:
        assert (await fault_of(read_whole(url))).kind == "reply"


@asynccontextmanager
async def begun(head):
    """A reply whose head and first bytes have come, and the server's end of its connection."""
    client = SocketTransport(PATIENT)
    ours, theirs = socket.socketpair()
    client.idle.put(Origin("server.invalid", 80), connection_over(ours, 10))

    async def answer():
        await anyio.wait_readable(theirs)
        theirs.send(head)

    with theirs:
        async with anyio.create_task_group() as group:
            group.start_soon(answer)
            request = HttpRequest("GET", "http://server.invalid/x")
            async with SocketExchange(client, request) as reply:
                yield reply, theirs
    await client.aclose()


@pytest.mark.parametrize("large", [False, True])
async def test_chunks_that_are_none_are_a_broken_connection(large):
    async with begun(CHUNKED + b"5\r\nfirst\r\n") as (reply, theirs):
        assert await reply.read(5) == b"first"
        theirs.send(b"second\r\n")
        fault = await fault_of(reply.pour(Taken()) if large else reply.read(5))
    assert fault.kind == "disconnected"


async def test_what_follows_a_body_is_not_poured():
    async with begun(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfirst") as (reply, theirs):
        theirs.send(b"lastHTTP/1.1 200 OK\r\n")
        sink = Taken()
        assert await reply.pour(sink)
    assert sink.body == b"firstlast"


async def test_what_comes_slowly_is_not_held_back_until_the_room_is_full(monkeypatch):
    now = itertools.count()  # a second goes by with each look at it
    monkeypatch.setattr(sockets, "perf_counter", lambda: next(now))
    async with begun(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfirst") as (reply, theirs):
        theirs.send(b"last")
        sink = Taken()
        assert await reply.pour(sink)
    assert (sink.body, sink.counts) == (b"firstlast", [5, 4])


async def test_a_socket_that_a_thread_had_blocks_the_loop_no_more():
    with RangeServer(Content(10)) as server:
        client = SocketTransport(PATIENT)
        async with SocketExchange(client, HttpRequest("GET", server.url)) as reply:
            assert await reply.pour(Taken())
        connection = client.idle.take(Origin("127.0.0.1", server.port))
        assert connection.sock.gettimeout() == 0
        connection.close()


@pytest.mark.parametrize("whole", [read_whole, pour_whole])
async def test_a_reset_is_not_the_end_of_a_body_that_has_no_length(whole):
    with RangeServer(Content(MIB), script=[Trouble(framing="close", after=300_000, then="reset")]) as server:
        assert (await fault_of(whole(server.url))).kind == "disconnected"


async def test_a_connection_that_the_server_wants_no_more_is_closed():
    with RangeServer(Content(10), script=[Trouble(headers=(("Connection", "close"),))]) as server:
        client = transport()
        async with client.send(HttpRequest("GET", server.url)) as reply:
            await read_all(reply)
        assert await server.until(lambda s: s.open_sockets == 0)
        await client.aclose()


async def test_silence_on_a_connection_that_is_used_again_is_no_reason_to_ask_again():
    with RangeServer(Content(10), script=[None, Trouble(before="stall")]) as server:
        client = transport(BRIEF)
        async with client.send(HttpRequest("GET", server.url)) as reply:
            await read_all(reply)
        assert (await fault_of(client.send(HttpRequest("GET", server.url)).__aenter__())).kind == "timeout"
        await client.aclose()
        assert len(server.requests) == 2


async def test_a_reply_that_was_left_has_no_connection():
    with RangeServer(Content(10)) as server:
        client = transport()
        async with client.send(HttpRequest("GET", server.url)) as reply:
            await read_all(reply)
        assert (await fault_of(reply.pour(Taken()))).kind == "disconnected"
        await client.aclose()


# Where a server is


def resolve(monkeypatch, *ports):
    """From now on a name has an address for each of these."""

    async def found(*_given, **_named):
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port)) for port in ports]

    monkeypatch.setattr(anyio, "getaddrinfo", found)


@pytest.fixture
def silent():
    """A port that answers no more: as many wait there as may."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for each in waiting:
            each.close()


async def connected_to(client):
    connection = await client.connect(Origin("several.invalid", 80))
    try:
        return connection.sock.getpeername()[1]
    finally:
        connection.close()


async def test_the_address_that_answered_is_the_first_from_then_on(monkeypatch):
    with socket.socket() as first, socket.create_server(("127.0.0.1", 0)) as second:
        first.bind(("127.0.0.1", 0))  # and refuses
        ports = [each.getsockname()[1] for each in (first, second)]
        resolve(monkeypatch, *ports)
        client = SocketTransport(PATIENT)
        assert await connected_to(client) == ports[1]
        first.listen()
        assert await connected_to(client) == ports[1]
        assert await connected_to(SocketTransport(PATIENT)) == ports[0]


async def test_an_address_that_says_nothing_does_not_keep_from_the_next(monkeypatch, silent):
    monkeypatch.setattr(sockets, "NEXT_ADDRESS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as second:
        resolve(monkeypatch, silent, second.getsockname()[1])
        with anyio.fail_after(20):
            assert await connected_to(SocketTransport(Timeouts(connect=60))) == second.getsockname()[1]


async def test_the_last_address_has_all_the_time_that_there_is(monkeypatch, silent):
    monkeypatch.setattr(sockets, "NEXT_ADDRESS", 0.01)
    resolve(monkeypatch, silent, silent)
    begun = anyio.current_time()
    with pytest.raises(TimeoutError):
        await connected_to(SocketTransport(Timeouts(connect=0.2)))
    assert anyio.current_time() - begun >= 0.2


async def test_no_address_has_more_time_than_there_is(monkeypatch, silent):
    monkeypatch.setattr(sockets, "NEXT_ADDRESS", 60.0)
    resolve(monkeypatch, silent, silent)
    with anyio.fail_after(20), pytest.raises(TimeoutError):
        await connected_to(SocketTransport(Timeouts(connect=0.05)))


async def test_whoever_has_an_address_asks_nobody_for_it(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        resolve(monkeypatch)  # nothing
        connection = await SocketTransport(PATIENT).connect(Origin(*listener.getsockname()))
        assert connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        connection.close()


async def test_a_name_is_asked_for_in_no_moment_that_the_loop_waits_for(monkeypatch):
    asked = []
    ask = socket.getaddrinfo

    def noted(*given, **named):
        flags = given[5] if len(given) > 5 else named.get("flags", 0)
        asked.append((threading.current_thread(), flags))
        return ask(*given, **named)

    monkeypatch.setattr(socket, "getaddrinfo", noted)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = await SocketTransport(PATIENT).connect(Origin("localhost", listener.getsockname()[1]))
        connection.close()
    here = threading.current_thread()
    assert asked
    assert all(flags & socket.AI_NUMERICHOST for thread, flags in asked if thread is here)


async def test_what_is_no_url_of_http_is_not_sent():
    for url in ("http:///x", "ftp://host.example/x", "//host.example/x"):
        with pytest.raises(Unsuited):
            SocketExchange(SocketTransport(PATIENT), HttpRequest("GET", url))


async def test_a_name_that_is_none_is_told_as_that():
    client = SocketTransport(PATIENT)
    exchange = SocketExchange(client, HttpRequest("GET", "http://nowhere.invalid/x"))
    assert "its name can't be resolved" in (await fault_of(exchange.__aenter__())).detail


async def test_why_a_connection_is_refused_is_told():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/x"
        exchange = SocketExchange(SocketTransport(PATIENT), HttpRequest("GET", url))
        detail = (await fault_of(exchange.__aenter__())).detail
    assert "(Connection refused)" in detail


# Threads


async def test_a_body_that_stalls_keeps_nobody_from_a_thread():
    limiter = anyio.to_thread.current_default_thread_limiter()
    before, limiter.total_tokens = limiter.total_tokens, 1
    try:
        with RangeServer(Content(300_000), script=[Trouble(after=9, then="stall"), None]) as server:
            client = transport()
            request = HttpRequest("GET", server.url)

            async def stall():
                async with client.send(request) as reply:
                    await reply.pour(Taken())

            with anyio.fail_after(10):
                async with anyio.create_task_group() as group:
                    group.start_soon(stall)
                    assert await server.until(lambda s: s.bytes_served() == 9)
                    async with client.send(request) as reply:
                        assert await reply.pour(Taken())
                    assert await anyio.to_thread.run_sync(int) == 0
                    group.cancel_scope.cancel()
            await client.aclose()
    finally:
        limiter.total_tokens = before


async def test_a_thread_that_begins_after_the_stop_does_nothing(monkeypatch):
    kept, called = [], []

    async def later(work, **_):
        kept.append(work)
        await anyio.sleep_forever()

    with RangeServer(Content(300_000)) as server:
        client = SocketTransport(PATIENT)
        exchange = SocketExchange(client, HttpRequest("GET", server.url))
        async with exchange:
            with monkeypatch.context() as patch:
                patch.setattr(anyio.to_thread, "run_sync", later)
                async with anyio.create_task_group() as group:
                    group.start_soon(exchange.do, called.append)
                    while not kept:
                        await anyio.lowlevel.checkpoint()
                    group.cancel_scope.cancel()
            await anyio.to_thread.run_sync(kept[0])
        assert not called
        assert await server.until(lambda s: s.open_sockets == 0)
        await client.aclose()


async def test_a_stop_waits_for_the_thread_and_closes_nothing_that_it_has():
    entered, go, seen = threading.Event(), threading.Event(), []

    def work(sock):
        entered.set()
        go.wait(10)
        seen.append(sock.fileno())

    with RangeServer(Content(300_000)) as server:
        client = SocketTransport(PATIENT)
        exchange = SocketExchange(client, HttpRequest("GET", server.url))
        async with exchange, anyio.create_task_group() as group:
            group.start_soon(exchange.do, work)
            await anyio.to_thread.run_sync(entered.wait, 10)
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()
            go.set()
        assert [number >= 0 for number in seen] == [True]
        assert await server.until(lambda s: s.open_sockets == 0)
        await client.aclose()


async def test_a_stop_wakes_the_thread_that_waits_for_more():
    with RangeServer(Content(MIB), script=[Trouble(after=9, then="stall")]) as server:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(pour, server.url, Taken(), transport(Timeouts(read=600)))
                assert await server.until(lambda s: s.bytes_served() == 9)
                group.cancel_scope.cancel()
        assert await server.until(lambda s: s.open_sockets == 0)


# What is sent

NONE_TO_SEND = [
    HttpRequest("GET", "http://server.invalid/x", {"X A": "b"}),
    HttpRequest("GET", "http://server.invalid/x", {"X-A:": "b"}),
    HttpRequest("GET", "http://server.invalid/x", {"": "b"}),
    HttpRequest("GET", "http://server.invalid/x", {"X-A": "b\0"}),
    HttpRequest("GET", "http://server.invalid/x", {"X-A": "b\x7f"}),
    HttpRequest("GET", "http://server.invalid/x", {"X-A": "b\nX-B: c"}),
    HttpRequest("GET", "http://server.invalid/x", {"X-A": "b\r\n\r\nGET /other HTTP/1.1\r\nX-B: c"}),
    HttpRequest("GET /other", "http://server.invalid/x"),
    HttpRequest("", "http://server.invalid/x"),
    HttpRequest("GÉT", "http://server.invalid/x"),
    HttpRequest("GET\r\n", "http://server.invalid/x"),
    HttpRequest("GET", "http://server.invalid/a b"),
    HttpRequest("GET", "http://server.invalid/ä"),
]


@pytest.mark.parametrize("request_", NONE_TO_SEND, ids=range(len(NONE_TO_SEND)))
async def test_what_would_be_another_request_is_not_sent(request_):
    with pytest.raises(Unsuited):
        SocketExchange(SocketTransport(PATIENT), request_)


async def sent(request):
    """The lines of its head."""
    client = SocketTransport(PATIENT)
    ours, theirs = socket.socketpair()
    client.idle.put(Origin("server.invalid", 80), connection_over(ours, 10))
    head = b""

    async def answer():
        nonlocal head
        await anyio.wait_readable(theirs)
        head = theirs.recv(10_000)
        theirs.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    with theirs:
        async with anyio.create_task_group() as group:
            group.start_soon(answer)
            async with SocketExchange(client, request):
                pass
    await client.aclose()
    first, *fields = head.decode().removesuffix("\r\n\r\n").split("\r\n")
    return first, sorted(fields)


OWN = ["Accept: */*", "Host: server.invalid", f"User-Agent: {USER_AGENT}"]


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://server.invalid", "/"),
        ("http://server.invalid?a=b", "/?a=b"),
        ("http://server.invalid/x?a=/b#c", "/x?a=/b"),
    ],
)
async def test_a_target_has_its_slash_and_no_fragment(url, target):
    assert await sent(HttpRequest("GET", url)) == (f"GET {target} HTTP/1.1", OWN)


async def test_a_field_of_a_request_is_ours_in_whatever_letters():
    _, fields = await sent(HttpRequest("GET", "http://server.invalid/x", {"HOST": "other"}))
    assert fields == sorted([OWN[0], "HOST: other", OWN[2]])


async def test_fields_of_a_request_stand_in_the_place_of_ours():
    given = {"HOST": "other", "user-agent": "mine", "X-A": "b", "Accept": "text/html"}
    first, fields = await sent(HttpRequest("HEAD", "http://server.invalid/x", given))
    assert first == "HEAD /x HTTP/1.1"
    assert fields == sorted(f"{name}: {value}" for name, value in given.items())


# What goes by sockets


HERE = "http://127.0.0.1:1"


def no_body():
    raise AssertionError("nothing is sent here")


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (HttpRequest("GET", f"{HERE}/x"), SocketExchange),
        (HttpRequest("HEAD", f"{HERE}/x?y=z"), SocketExchange),
        (HttpRequest("DELETE", f"{HERE}/x"), None),
        (HttpRequest("PUT", f"{HERE}/x", {}, None, LARGE), None),
        (HttpRequest("PUT", f"{HERE}/x", {}, no_body, LARGE), SocketUpload),
        (HttpRequest("PUT", f"{HERE}/x", {}, no_body, LARGE - 1), None),
        (HttpRequest("PUT", f"{HERE}/x", {}, no_body, None), None),
        (HttpRequest("GET", f"{HERE}/x", {}, no_body, 10), None),
        (HttpRequest("GET", f"{HERE}/.."), None),
        (HttpRequest("GET", f"{HERE}/a/.?b"), None),
        (HttpRequest("GET", "http://127.0.0.1:0/x"), None),
        (HttpRequest("GET", "http://127.0.0.1:99999/x"), None),
        (HttpRequest("GET", "http://:80/x"), None),
        (HttpRequest("GET", "http://[::1/x"), None),
    ],
    ids=map(str, range(14)),
)
async def test_what_goes_by_sockets_and_what_does_not(request_, kind):
    class Rest:
        def send(self, _):
            return None

    client = DirectHttp(Rest(), PATIENT)
    assert type(client.send(request_)) is (kind or type(None))


async def test_only_so_many_places_are_remembered(monkeypatch):
    monkeypatch.setattr(direct, "MOST_KNOWN", 2)
    client = transport()
    for port in range(1, 7):
        client.send(HttpRequest("GET", f"http://127.0.0.1:{port}/x"))
    assert len(client._direct) == 2
    await client.aclose()


@pytest.mark.parametrize(
    "headers",
    [
        {"X-A": "a\r\nX-B: injected"},
        {"X-A: a\r\nX-B": "injected"},
        {"X-A": "a\r\n\r\nGET /other HTTP/1.1"},
        {"X-A": "a\nX-B: injected"},
    ],
)
async def test_a_value_that_would_make_another_field_is_never_sent(headers):
    with pytest.raises(Unsuited):
        SocketExchange(SocketTransport(PATIENT), HttpRequest("GET", "http://127.0.0.1/x", headers))


async def test_a_connection_gives_signs_of_life_while_nothing_comes():
    """What stands in between forgets silent ones."""
    with RangeServer(Content(10)) as server:
        client = SocketTransport(PATIENT)
        exchange = SocketExchange(client, HttpRequest("GET", server.url))
        async with exchange:
            sock = exchange.connection.sock
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            if hasattr(socket, "TCP_KEEPIDLE"):  # macOS has another name for it
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == sockets.KEEP_ALIVE
        await client.aclose()


async def test_what_a_request_was_given_is_not_kept_once_it_is_over():
    """A token stays in memory no longer than whoever holds it."""
    with RangeServer(Content(10)) as server:
        client = transport()
        token = f"Bearer {server.port}"  # made here, so that nobody else has it
        before = sys.getrefcount(token)
        async with client.send(HttpRequest("GET", server.url, {"Authorization": token})) as reply:
            await read_all(reply)
        del reply
        gc.collect()
        assert sys.getrefcount(token) == before
        await client.aclose()
