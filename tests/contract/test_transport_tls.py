"""TLS on sockets of our own: whom it trusts, what of a connection it believes, and how it stops."""

import datetime as dt
import gc
import itertools
import socket
import ssl
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meowcat.core.errors import InvalidArgument
from meowcat.testing.transport_suite import MIB, PATIENT, read_all, upload
from meowcat.transport import sockets, tls, trust
from meowcat.transport.connections import MOST_AT_ONCE, IdleConnections, Origin, connection_over
from meowcat.transport.contract import HttpRequest, Timeouts, TransportFault
from meowcat.transport.direct import DirectHttp
from meowcat.transport.outgoing import head_of
from meowcat.transport.sockets import SocketExchange, SocketTransport
from meowcat.transport.tls import SecureSocket, client_context, secure

pytestmark = pytest.mark.anyio

BEGUN = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(params=["asyncio", "asyncio+uvloop", "trio"])
def anyio_backend(request):
    if request.param == "asyncio+uvloop":
        pytest.importorskip("uvloop")
        return "asyncio", {"use_uvloop": True}
    return request.param


@contextmanager
def serving(talk, certificate=None, *, speaks=(), **context):
    """Accepts connections one after the other and does `talk(connection)` with each, without any courtesy at
    the end; the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    settled = None
    if certificate is not None:
        settled = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(settled)
        settled.set_alpn_protocols(list(speaks))
        for name, value in context.items():
            setattr(settled, name, value)

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with suppress(OSError):
                if settled is not None:
                    connection = settled.wrap_socket(connection, server_side=True)
                talk(connection)
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
        assert not thread.is_alive()


def answering(*parts, after=lambda connection: None):
    """Sends each part as what stands in one record or more, once a request has come, and does `after`."""

    def talk(connection):
        while b"\r\n\r\n" not in connection.recv(4096):
            pass
        for part in parts:
            connection.sendall(part)
        after(connection)

    return talk


class Taken:
    """A sink for so much at once, and for so much in all."""

    def __init__(self, room=100_000, most=1 << 40):
        self.body = bytearray()
        self.most = most
        self.block = memoryview(bytearray(room))

    def room(self):
        left = self.most - len(self.body)
        return self.block[:left] if left > 0 else None

    def came(self, count):
        self.body += self.block[:count]


@contextmanager
def client_of(authority, timeouts=PATIENT):
    client = SocketTransport(timeouts, verify=authority.cert_pem.bytes())
    yield client
    client.idle.close()


def url_of(port, host="127.0.0.1"):
    return f"https://{host}:{port}/x"


async def fetch(client, url, *, large=False):
    async with SocketExchange(client, HttpRequest("GET", url)) as reply:
        if not large:
            return await read_all(reply)
        sink = Taken()
        assert await reply.pour(sink)
        return bytes(sink.body)


async def fault_of(work):
    with pytest.raises(TransportFault) as caught:
        await work
    return caught.value.fault


def close_notify(connection):
    with suppress(OSError, ValueError):
        connection.unwrap()


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("large", [False, True])
async def test_an_end_that_is_announced_is_the_end_of_a_body_that_has_no_length(authority, large):
    talk = answering(BEGUN + b"\r\n", b"all of it", after=close_notify)
    with serving(talk, authority.issue_cert("127.0.0.1")) as port, client_of(authority) as client:
        assert await fetch(client, url_of(port), large=large) == b"all of it"


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("end", [lambda connection: None, reset], ids=["hang up", "reset"])
async def test_an_end_that_anybody_could_have_made_is_none(authority, end, large):
    talk = answering(BEGUN + b"\r\n", b"the beginning", after=end)
    with serving(talk, authority.issue_cert("127.0.0.1")) as port, client_of(authority) as client:
        assert (await fault_of(fetch(client, url_of(port), large=large))).kind == "disconnected"


@pytest.mark.parametrize("large", [False, True])
async def test_what_somebody_put_into_the_connection_is_no_content(authority, large):
    def talk(connection):
        answering(BEGUN + b"Content-Length: 100\r\n\r\n", b"the beginning")(connection)
        raw = socket.socket(fileno=connection.detach())
        raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))  # a record that nobody who has the keys has made
        raw.close()

    with serving(talk, authority.issue_cert("127.0.0.1")) as port, client_of(authority) as client:
        assert (await fault_of(fetch(client, url_of(port), large=large))).kind == "disconnected"


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    sizes=st.lists(
        st.sampled_from([1, 5, 300, 16_383, 16_384, 16_385, 40_000, 100_001]), min_size=1, max_size=6
    ),
    room=st.sampled_from([1000, 16_384, 70_000]),
    large=st.booleans(),
    chunked=st.booleans(),
)
async def test_a_body_comes_as_it_was_sent_in_whatever_records(authority, sizes, room, large, chunked):
    parts = [bytes([number]) * size for number, size in enumerate(sizes, 1)]
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % sum(sizes)
    sent = [b"%x\r\n%b\r\n" % (len(part), part) for part in parts] + [b"0\r\n\r\n"] if chunked else parts
    talk = answering(BEGUN + framing + b"\r\n\r\n", *sent)
    with serving(talk, authority.issue_cert("127.0.0.1")) as port, client_of(authority) as client:
        async with SocketExchange(client, HttpRequest("GET", url_of(port))) as reply:
            if large:
                sink = Taken(room)
                assert await reply.pour(sink)
                came = bytes(sink.body)
            else:
                came = await read_all(reply, room)
    assert came == b"".join(parts)


async def test_what_a_thread_has_left_of_a_record_the_loop_reads(authority):
    content = bytes(range(250)) * 40
    talk = answering(BEGUN + b"Content-Length: 10000\r\n\r\n", content, after=lambda each: each.recv(1))
    with serving(talk, authority.issue_cert("127.0.0.1")) as port, client_of(authority) as client:
        async with SocketExchange(client, HttpRequest("GET", url_of(port))) as reply:
            sink = Taken(most=1000)
            assert not await reply.pour(sink)
            with anyio.fail_after(5):  # nothing more comes by the socket
                assert bytes(sink.body) + await read_all(reply) == content


async def test_what_follows_a_body_in_its_record_is_not_taken_for_the_next_reply(authority):
    """Whether a thread has left it to TLS, or the loop has taken it."""
    more = b"ok" + BEGUN + b"Content-Length: 4\r\n\r\nevil"
    talk = answering(BEGUN + b"Content-Length: 2\r\n\r\n", more, after=lambda each: each.recv(1))
    with serving(talk, authority.issue_cert("127.0.0.1")) as port, client_of(authority) as client:
        for large in (True, True, False):
            assert await fetch(client, url_of(port), large=large) == b"ok"


async def test_a_stop_brings_nothing_encrypted_to_the_sink(authority):
    """A socket whose TLS was taken away would receive what is on the line as it is."""
    coming, stopped = threading.Event(), threading.Event()

    def stream(connection):
        connection.sendall(bytes(MIB))
        coming.set()
        with suppress(OSError):
            while not stopped.is_set():
                connection.sendall(bytes(MIB))

    talk = answering(BEGUN + b"Content-Length: 9999999999\r\n\r\n", after=stream)
    with serving(talk, authority.issue_cert("127.0.0.1")) as port, client_of(authority) as client:
        sink = Taken(room=5_000)

        async def pour():
            async with SocketExchange(client, HttpRequest("GET", url_of(port))) as reply:
                await reply.pour(sink)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(pour)
                await anyio.to_thread.run_sync(coming.wait, 10)
                group.cancel_scope.cancel()
        stopped.set()
    assert not any(sink.body)


async def test_a_reply_that_is_left_in_the_middle_resets_its_connection(authority):
    left, told = threading.Event(), []

    def send_once(connection):
        left.wait(10)
        try:
            told.append(connection.send(b"x"))  # of a mere end it would not be told yet
        except OSError:
            told.append("reset")

    talk = answering(BEGUN + b"Content-Length: 100\r\n\r\n", b"the beginning", after=send_once)
    with serving(talk, authority.issue_cert("127.0.0.1")) as port, client_of(authority) as client:
        async with SocketExchange(client, HttpRequest("GET", url_of(port))) as reply:
            assert await reply.read(13) == b"the beginning"
        left.set()
    assert told == ["reset"]


async def test_a_socket_that_was_shut_down_still_knows_its_tls(authority):
    go = threading.Event()
    talk = answering(BEGUN + b"\r\n", after=lambda connection: connection.sendall(b"secret") or go.wait(10))
    with serving(talk, authority.issue_cert("127.0.0.1")) as port, client_of(authority) as client:
        async with SocketExchange(client, HttpRequest("GET", url_of(port))) as reply:
            sock = reply._connection.sock
            assert isinstance(sock, SecureSocket)
            sock.shutdown(socket.SHUT_RDWR)
            sock.settimeout(5)
            room, came = memoryview(bytearray(4096)), b""
            with suppress(ConnectionResetError):
                while count := sock.recv_into(room):
                    came += room[:count]
            assert b"secret".startswith(came)
        go.set()


async def test_an_error_behind_full_records_is_told_after_them(authority):
    talk = answering(BEGUN + b"\r\n", bytes(2 * 16_384))
    with serving(talk, authority.issue_cert("127.0.0.1")) as port, client_of(authority) as client:
        async with SocketExchange(client, HttpRequest("GET", url_of(port))) as reply:
            came = 0
            while came < 2 * 16_384:
                came += len(await reply.read(MIB))
            assert (await fault_of(reply.read(MIB))).kind == "disconnected"


@pytest.mark.parametrize("records", [1, 2, 4, 5])
async def test_an_end_behind_full_records_is_heard_though_the_connection_stays_open(authority, records):
    go = threading.Event()

    def end(connection):
        with suppress(OSError):
            connection.settimeout(0)
            connection.unwrap()
        go.wait(10)

    talk = answering(BEGUN + b"\r\n", bytes(records * 16_384), after=end)
    with serving(talk, authority.issue_cert("127.0.0.1")) as port, client_of(authority) as client:
        with anyio.fail_after(5):
            assert len(await fetch(client, url_of(port))) == records * 16_384
        go.set()


class Scripted:
    """An `SSLObject` that reads what it is told to."""

    def __init__(self, *steps):
        self.steps = list(steps)

    def read(self, size):
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    def pending(self):
        return 0


@pytest.mark.parametrize("step", [b"", ConnectionResetError()], ids=["end", "error"])
async def test_a_connection_that_holds_its_end_is_not_used_again(authority, step):
    """Of which its socket shows nothing any more."""
    ours, theirs = socket.socketpair()
    context = client_context(authority.cert_pem.bytes())
    sock = context.wrap_socket(ours, server_hostname="host.example", do_handshake_on_connect=False)
    sock._sslobj = Scripted(bytes(16_384), step, step)
    connection = connection_over(sock, 5)
    try:
        assert len(sock.recv(MIB)) == 16_384
        assert not connection.rest()
        with suppress(ConnectionResetError), anyio.fail_after(2):
            assert await connection.receive() == b""
    finally:
        connection.close()
        theirs.close()


async def test_whoever_has_to_wait_leaves_nothing_to_the_garbage_collector(authority):
    go = threading.Event()
    talk = answering(BEGUN + b"Content-Length: 2\r\n\r\n", after=lambda connection: go.wait(10))
    with serving(talk, authority.issue_cert("127.0.0.1")) as port, client_of(authority) as client:
        async with SocketExchange(client, HttpRequest("GET", url_of(port))) as reply:
            sock = reply._connection.sock
            await anyio.sleep(0.05)
            gc.collect()
            gc.disable()
            try:
                for _ in range(10):
                    with suppress(BlockingIOError):
                        sock.recv(MIB)
                    with suppress(BlockingIOError):
                        sock.recv_into(memoryview(bytearray(10)))
                assert not [each for each in _garbage() if each is sock or isinstance(each, OSError)]
            finally:
                gc.enable()
        go.set()


def _garbage():
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return list(gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


async def test_silence_in_a_block_loses_nothing_of_it(authority):
    go = threading.Event()
    talk = answering(BEGUN + b"Content-Length: 9999\r\n\r\n", b"the beginning", after=lambda _: go.wait(10))
    patience = Timeouts(connect=5, read=1.5)
    with serving(talk, authority.issue_cert("127.0.0.1")) as port, client_of(authority, patience) as client:
        async with SocketExchange(client, HttpRequest("GET", url_of(port))) as reply:
            assert reply._connection.silence == patience.read
            sink = Taken()
            fault = await fault_of(reply.pour(sink))
        go.set()
    assert (fault.kind, bytes(sink.body)) == ("timeout", b"the beginning")


def unconnected(authority):
    context = client_context(authority.cert_pem.bytes())
    return context.wrap_socket(socket.socket(), server_hostname="host.example", do_handshake_on_connect=False)


def test_what_breaks_in_a_block_is_told_next_and_not_waited_for_again(authority, monkeypatch):
    with unconnected(authority) as sock:
        calls = []

        def read(size, buffer):
            calls.append(size)
            if len(calls) > 1:
                raise TimeoutError
            return 3

        monkeypatch.setattr(sock, "read", read)
        assert sock.recv_into(memoryview(bytearray(10))) == 3
        with pytest.raises(TimeoutError):
            sock.recv_into(memoryview(bytearray(10)))
        assert calls == [10, 7]


def test_what_comes_slowly_is_not_held_back_until_the_buffer_is_full(authority, monkeypatch):
    now = itertools.count()  # a second goes by with each look at it
    monkeypatch.setattr(tls, "perf_counter", lambda: next(now))
    with unconnected(authority) as sock:
        monkeypatch.setattr(sock, "read", lambda *_: 3)
        assert sock.recv_into(memoryview(bytearray(10))) == 3


def test_a_connection_that_was_over_before_its_handshake_is_that(authority):
    """Nothing may be received by it as it is."""
    with unconnected(authority) as sock:
        for call in (
            lambda: sock.recv(10),
            lambda: sock.recv_into(memoryview(bytearray(10))),
            sock.do_handshake,
        ):
            with pytest.raises(OSError, match="not connected"):
                call()


def serving_context(authority):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("host.example").configure_cert(server)
    return server


@contextmanager
def pair(authority):
    """A socket of ours, and its other end; they have shaken hands."""
    ours, theirs = socket.socketpair()
    server = serving_context(authority)
    server.num_tickets = 0
    context = client_context(authority.cert_pem.bytes())
    with ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(server.wrap_socket, theirs, server_side=True)
        sock = context.wrap_socket(ours, server_hostname="host.example", suppress_ragged_eofs=False)
        other = accepted.result()
    with sock, other:
        yield sock, other


def fill(sock):
    """Send until there is no more room."""
    while True:
        sock.send(bytes(MIB))


def test_what_has_come_in_full_records_is_received_at_once(authority):
    with pair(authority) as (sock, other):
        sock.setblocking(False)
        other.sendall(bytes(3 * 16_384) + b"end")
        assert len(sock.recv(MOST_AT_ONCE)) == 3 * 16_384 + 3


def test_no_more_is_received_than_there_is_room_for(authority):
    with pair(authority) as (sock, other):
        sock.setblocking(False)
        other.sendall(bytes(2 * 16_384))
        assert [len(sock.recv(20_000)) for _ in range(2)] == [20_000, 2 * 16_384 - 20_000]


@pytest.mark.parametrize("silence", [0, 0.05])
def test_whoever_has_a_full_record_waits_for_no_other_one(authority, silence):
    with pair(authority) as (sock, other):
        sock.settimeout(silence)
        other.sendall(bytes(16_384))
        assert len(sock.recv(MOST_AT_ONCE)) == 16_384
        other.sendall(b"more")
        assert sock.recv(MOST_AT_ONCE) == b"more"  # and nothing of a wait that was in vain


def test_a_look_at_what_has_come_takes_nothing_of_it(authority):
    with pair(authority) as (sock, other):
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1, socket.MSG_PEEK)
        other.sendall(b"some")
        assert sock.recv(1, socket.MSG_PEEK)
        assert sock.recv(1) == b"s"
        assert sock.recv(1, socket.MSG_PEEK)  # by now it is TLS that has it
        assert sock.recv(10) == b"ome"
        with pytest.raises(BlockingIOError):
            sock.recv(1, socket.MSG_PEEK)


def test_a_silence_is_told_once(authority):
    with pair(authority) as (sock, other):
        sock.settimeout(0.05)
        block = memoryview(bytearray(10))
        other.sendall(b"some")
        assert sock.recv_into(block) == 4
        with pytest.raises(TimeoutError):
            sock.recv_into(block)
        other.sendall(b"0123456789")
        assert sock.recv_into(block) == 10


def test_where_there_is_no_room_to_send_is_told_as_without_tls(authority):
    with pair(authority) as (sock, _):
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            fill(sock)


def test_what_has_broken_sends_nothing_and_says_so_as_without_tls(authority):
    with pair(authority) as (sock, other):
        raw = socket.socket(fileno=other.detach())
        raw.sendall(b"no TLS")
        with raw:
            for call in (lambda: sock.recv(10), lambda: sock.send(b"x")):
                with pytest.raises(ConnectionResetError):
                    call()


# Handshakes


async def refused(authority, port, host="127.0.0.1", seconds=5.0):
    with client_of(authority, Timeouts(connect=seconds, read=5)) as client:
        fault = await fault_of(fetch(client, url_of(port, host)))
    assert f"https://{host}:{port}" in fault.detail
    return fault.kind, fault.detail


@pytest.mark.parametrize(
    ("issue", "reason"),
    [
        (lambda mine: trustme.CA().issue_cert("127.0.0.1"), "unable to get local issuer certificate"),
        (lambda mine: mine.issue_cert("other.example"), "certificate is not valid for '127.0.0.1'"),
        (
            lambda mine: mine.issue_cert("127.0.0.1", not_after=dt.datetime(2020, 1, 1, tzinfo=dt.UTC)),
            "certificate has expired",
        ),
    ],
    ids=["unknown", "of another", "expired"],
)
async def test_whoever_is_not_trusted_gets_no_request(authority, issue, reason):
    got = []
    with serving(lambda connection: got.append(connection.recv(1)), issue(authority)) as port:
        kind, detail = await refused(authority, port)
    assert (kind, got) == ("tls", [])
    assert reason in detail


async def test_whoever_speaks_no_tls_is_told_from_whom_nobody_trusts(authority):
    def plain(connection):
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with serving(plain) as port:
        kind, detail = await refused(authority, port)
    assert kind == "tls"
    assert "(wrong version number)" in detail


async def test_whoever_speaks_tls_of_old_only_is_refused(authority):
    certificate = authority.issue_cert("127.0.0.1")
    with (
        pytest.warns(DeprecationWarning, match="TLSv1_1"),
        serving(lambda connection: None, certificate, maximum_version=ssl.TLSVersion.TLSv1_1) as port,
    ):
        assert (await refused(authority, port))[0] == "tls"


async def test_a_refusal_that_nobody_knows_by_name_is_one(authority):
    def refuse(connection):
        connection.recv(4096)
        connection.sendall(b"\x15\x03\x03\x00\x02\x02\xc8")  # a fatal alert of a number that means nothing
        connection.recv(1)

    with serving(refuse) as port:
        kind, detail = await refused(authority, port)
    assert kind == "tls"
    assert "(" not in detail


async def test_whoever_hangs_up_in_the_handshake_is_refused(authority):
    with serving(lambda connection: connection.recv(10)) as port:
        assert (await refused(authority, port))[0] in {"tls", "unreachable"}  # with a reset, perhaps


async def test_whoever_is_silent_in_the_handshake_is_not_waited_for(authority):
    go = threading.Event()
    with serving(lambda connection: go.wait(10)) as port:
        with anyio.fail_after(5):
            assert (await refused(authority, port, seconds=0.1))[0] == "unreachable"
        go.set()


async def test_a_handshake_that_is_canceled_closes_its_socket(authority):
    greeted, closed = anyio.Event(), anyio.Event()
    token = anyio.lowlevel.current_token()

    def until_closed(connection):
        assert connection.recv(1)
        anyio.from_thread.run_sync(greeted.set, token=token)
        while connection.recv(4096):
            pass
        anyio.from_thread.run_sync(closed.set, token=token)

    with serving(until_closed) as port, client_of(authority) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(fetch, client, url_of(port))
            with anyio.fail_after(5):
                await greeted.wait()
            group.cancel_scope.cancel()
        with anyio.fail_after(5):
            await closed.wait()


async def test_a_handshake_waits_for_room_to_send(authority):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    filled = 0
    with suppress(BlockingIOError):
        while True:
            filled += ours.send(bytes(MIB))

    def make_room():
        left = filled
        while left:
            left -= len(theirs.recv(left))
        serving_context(authority).wrap_socket(theirs, server_side=True).close()

    async def shake_hands():
        (await secure(ours, "host.example", client_context(authority.cert_pem.bytes()), 10)).close()

    async with anyio.create_task_group() as group:
        group.start_soon(shake_hands)
        await anyio.lowlevel.checkpoint()
        await anyio.to_thread.run_sync(make_room)


async def test_a_handshake_takes_no_step_before_something_comes(authority, monkeypatch):
    steps = []
    step = SecureSocket.do_handshake
    monkeypatch.setattr(SecureSocket, "do_handshake", lambda sock: steps.append(1) or step(sock))
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        async with anyio.create_task_group() as group:
            group.start_soon(secure, ours, "host.example", client_context(authority.cert_pem.bytes()), 10)
            for _ in range(50):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
    assert steps == [1]


async def test_a_socket_that_can_not_speak_tls_at_all_is_closed(authority):
    ours, theirs = socket.socketpair()
    with theirs:
        with pytest.raises(ValueError, match="server_hostname"):
            await secure(ours, "", client_context(authority.cert_pem.bytes()), 10)
        assert ours.fileno() == -1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_both_versions_of_today_are_spoken(authority, version):
    talk = answering(BEGUN + b"Content-Length: 2\r\n\r\n", b"ok")
    certificate = authority.issue_cert("127.0.0.1")
    server = serving(talk, certificate, maximum_version=version, minimum_version=version)
    with server as port, client_of(authority) as client:
        assert await fetch(client, url_of(port)) == b"ok"


async def test_only_http_1_is_offered(authority):
    chosen = []

    def talk(connection):
        chosen.append(connection.selected_alpn_protocol())
        answering(BEGUN + b"Content-Length: 2\r\n\r\n", b"ok")(connection)

    server = serving(talk, authority.issue_cert("127.0.0.1"), speaks=["h2", "http/1.1"])
    with server as port, client_of(authority) as client:
        assert await fetch(client, url_of(port)) == b"ok"
    assert chosen == ["http/1.1"]


async def test_a_connection_that_was_closed_meanwhile_is_replaced(authority):
    for end in (close_notify, lambda connection: None):
        talk = answering(BEGUN + b"Content-Length: 2\r\n\r\n", b"ok", after=end)
        with serving(talk, authority.issue_cert("127.0.0.1")) as port, client_of(authority) as client:
            for _ in range(3):
                assert await fetch(client, url_of(port)) == b"ok"


# Trust


def test_an_authority_under_another_one_can_be_trusted_alone(authority):
    """As the other client has it: whoever stands in the bundle is trusted."""
    child = authority.create_child_ca()
    context = client_context(child.cert_pem.bytes())
    ours, theirs = socket.socketpair()
    server = serving_context(child)
    thread = threading.Thread(target=lambda: server.wrap_socket(theirs, server_side=True).close())
    thread.start()
    with context.wrap_socket(ours, server_hostname="host.example") as sock:
        assert sock.version() == "TLSv1.3"
    thread.join()
    assert context.verify_flags == client_context(None).verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN


def test_where_others_know_whom_the_system_trusts_they_are_asked(authority, monkeypatch):
    bundle = authority.cert_pem.bytes()
    assert isinstance(client_context(bundle), ssl.SSLContext)
    for platform in ("darwin", "win32"):
        with monkeypatch.context() as patch:
            patch.setattr(trust.sys, "platform", platform)
            assert client_context(bundle) is None
    for file, folder in ((None, None), ("certs.pem", None), (None, "certs")):
        found = ssl.DefaultVerifyPaths(file, folder, "", "", "", "")
        monkeypatch.setattr(ssl, "get_default_verify_paths", lambda found=found: found)
        assert (client_context(bundle) is not None) == bool(file or folder)


def test_a_python_that_believes_more_is_told_not_to(authority, monkeypatch):
    """Some are built with what OpenSSL believes by default."""

    def lenient(protocol):
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
        return context

    monkeypatch.setattr(trust, "ssl", SimpleNamespace(**{**vars(ssl), "SSLContext": lenient}))
    context = client_context(authority.cert_pem.bytes())
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert not context.options & ssl.OP_IGNORE_UNEXPECTED_EOF


@pytest.mark.parametrize(
    "bundle",
    [
        b"none",
        b"-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n\xff\n-----END CERTIFICATE-----\n",
    ],
    ids=["no pem", "no certificate", "no ascii"],
)
def test_a_bundle_that_is_none_is_an_invalid_argument(bundle):
    with pytest.raises(InvalidArgument, match="CA bundle"):
        SocketTransport(PATIENT, verify=bundle)


def test_the_authorities_of_the_system_are_trusted(authority, monkeypatch, tmp_path):
    path = tmp_path / "system.pem"
    authority.cert_pem.write_to_path(path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    assert client_context(None).get_ca_certs()[0]["subject"] == _name(authority)
    assert len(client_context(trustme.CA().cert_pem.bytes()).get_ca_certs()) == 2


def _name(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority.cert_pem.bytes().decode())
    return context.get_ca_certs()[0]["subject"]


def test_an_empty_or_unreadable_store_of_the_system_is_none(authority, monkeypatch, tmp_path):
    """A folder whose files have names of another kind is one, too: the other client reads it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    assert client_context(None) is None
    assert client_context(authority.cert_pem.bytes()) is None
    authority.cert_pem.write_to_path(tmp_path / "0123abcd.0")
    assert client_context(None) is not None
    monkeypatch.delenv("SSL_CERT_FILE")
    assert client_context(None) is not None
    (tmp_path / "0123abcd.0").unlink()
    assert client_context(None) is None


async def test_a_certificate_that_names_its_host_as_its_subject_only_is_not_trusted(authority):
    certificate = authority.issue_cert("127.0.0.1", common_name="localhost")
    with serving(lambda connection: None, certificate) as port:
        kind, detail = await refused(authority, port, "localhost")
    assert kind == "tls"
    assert "certificate is not valid for 'localhost'" in detail


def test_what_stands_between_the_certificates_of_a_bundle_is_passed_over(authority):
    pem = authority.cert_pem.bytes().strip()
    other = trustme.CA().cert_pem.bytes().strip()
    for between in (b" # another", b"# another\r\n", b" ", b"\r\n", b"\nKurz: \xc3\xa9\n"):
        bundle = other + between + (b"" if between.endswith(b"\n") else b"\n") + pem + between
        assert len(SocketTransport(PATIENT, verify=bundle)._tls.get_ca_certs()) >= 2


async def test_whoever_wants_other_keys_in_the_middle_gets_none(authority):
    """Where they are exchanged anew, sending has to wait for what is received, and maybe for ever."""
    assert client_context(authority.cert_pem.bytes()).options & ssl.OP_NO_RENEGOTIATION


# What goes this way


class Rest:
    """Says what is left to it."""

    def send(self, _):
        return None

    async def aclose(self):
        pass


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (HttpRequest("GET", "https://127.0.0.1/x"), SocketExchange),
        (HttpRequest("HEAD", "https://host.example:8443/x?a=b"), SocketExchange),
        (HttpRequest("GET", "https://host.example./x"), None),
        (HttpRequest("GET", "https://.host.example/x"), None),
        (HttpRequest("GET", "https://host..example/x"), None),
        (HttpRequest("GET", f"https://{'a' * 64}.example/x"), None),
        (HttpRequest("GET", "https://127.1/x"), None),
        (HttpRequest("GET", "https://0x7f000001/x"), None),
        (HttpRequest("GET", "https://[::1]/x"), SocketExchange),
        (HttpRequest("GET", "https://localhost/x"), SocketExchange),
        (HttpRequest("GET", "https://:8443/x"), None),
        (HttpRequest("GET", "https://user@host.example/x"), None),
        (upload("https://127.0.0.1/x", lambda: None, 100 * MIB), None),
    ],
    ids=range(13),
)
async def test_what_goes_straight_over_tls_and_what_does_not(request_, kind):
    client = DirectHttp(Rest(), PATIENT)
    assert type(client.send(request_)) is (kind or type(None))
    await client.aclose()


async def test_authorities_are_read_once_and_not_before_they_are_needed(monkeypatch):
    read = []
    monkeypatch.setattr(sockets, "client_context", read.append)
    client = DirectHttp(Rest(), PATIENT)
    client.send(HttpRequest("GET", "http://127.0.0.1/x"))
    assert read == []
    for host in ("one.example", "other.example"):
        client.send(HttpRequest("GET", f"https://{host}/x"))
    assert read == [None]
    await client.aclose()


async def test_nothing_goes_straight_where_others_know_whom_to_trust(monkeypatch):
    monkeypatch.setattr(trust.sys, "platform", "darwin")
    client = DirectHttp(Rest(), PATIENT)
    assert client.send(HttpRequest("GET", "https://127.0.0.1/x")) is None
    assert type(client.send(HttpRequest("GET", "http://127.0.0.1/x"))) is SocketExchange
    await client.aclose()


async def test_nothing_goes_past_a_proxy_for_https(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    client = DirectHttp(Rest(), PATIENT)
    assert client.send(HttpRequest("GET", "https://host.example/x")) is None
    assert type(client.send(HttpRequest("GET", "http://host.example/x"))) is SocketExchange
    await client.aclose()


async def test_the_host_of_a_request_is_without_the_port_that_its_scheme_has():
    for url, host in (
        ("https://Host.example/x", b"Host: host.example\r\n"),
        ("https://host.example:443/x", b"Host: host.example\r\n"),
        ("https://host.example:80/x", b"Host: host.example:80\r\n"),
        ("http://host.example:443/x", b"Host: host.example:443\r\n"),
    ):
        origin, head = head_of(HttpRequest("GET", url))
        assert host in head
        assert origin.secure == url.startswith("https")


async def test_what_is_encrypted_and_what_is_not_never_share_a_connection():
    """Not even to one port."""
    idle = IdleConnections()
    ours, theirs = socket.socketpair()
    connection = connection_over(ours, 5)
    idle.put(Origin("127.0.0.1", 443), connection)
    assert idle.take(Origin("127.0.0.1", 443, secure=True)) is None
    assert idle.take(Origin("127.0.0.1", 443)) is connection
    connection.close()
    theirs.close()
