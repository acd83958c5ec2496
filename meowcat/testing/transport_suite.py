# ruff: noqa: PLR2004  # statuses and sizes stand where they are asserted, as in any test
"""What every transport must do: subclass `TransportSuite`, say how yours is made, and run it.

    pytestmark = pytest.mark.anyio

    class TestMine(TransportSuite):
        def make(self, timeouts, **options):
            return MyTransport(timeouts, **options)

The suite looks from the other side: at what a server received, and which sockets it still has.
"""

import contextlib
import hashlib
import os
import resource
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

import anyio
import anyio.abc
from msgspec import structs

from meowcat.core.errors import InvalidArgument
from meowcat.core.values import Fault, FaultKind
from meowcat.testing.range_server import authority_pem
from meowcat.testing.servers import Content, RangeServer, Trouble
from meowcat.transport.contract import Exchange, HttpReply, HttpRequest, Timeouts, Transport, TransportFault

MIB = 1 << 20
GIB = 1 << 30
SHORT = Timeouts(connect=5, read=0.5, pool=5)
"""For silence that is meant."""
BRIEF = Timeouts(connect=5, read=1.5, pool=5)
"""For what comes slowly: many times more often than this, and for longer."""
AT_ONCE = 2.0
"""Seconds for what waits for nothing."""
PATIENT = Timeouts(connect=5, read=10, pool=10)
SECRET = "c2VjcmV0"  # noqa: S105  # looked for in every error's text


async def read_all(reply: HttpReply, size: int = MIB) -> bytes:
    """The rest of a body."""
    whole = bytearray()
    while chunk := await reply.read(size):
        assert len(chunk) <= size
        whole += chunk
    return bytes(whole)


async def pieces(count: int, size: int = MIB) -> AsyncIterator[bytes]:
    """A body of `count` chunks of `size` zeros."""
    for _ in range(count):
        yield bytes(size)


def _itself(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    return body


def _has_got_some(server: RangeServer) -> bool:
    return server.bytes_received() > 4 * MIB


@contextlib.asynccontextmanager
async def answering(reply: bytes) -> AsyncIterator[str]:
    """The URL of a server that answers so, whatever it is asked for, and hangs up."""

    async def answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            if reply:
                await stream.send(reply)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as serving:
        serving.start_soon(listener.serve, answer)
        port = listener.extra_attributes[anyio.abc.SocketAttribute.local_port]()
        yield f"http://127.0.0.1:{port}/"
        serving.cancel_scope.cancel()


@contextlib.contextmanager
def no_more_files() -> Iterator[None]:
    """Nothing can be opened meanwhile, neither a file nor a socket."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def upload(url: str, body: Callable[[], AsyncIterator[bytes]], length: int | None) -> HttpRequest:
    return HttpRequest("PUT", url, {}, body, length)


class TransportSuite:
    """The contract of `meowcat.transport.contract`, as tests for pytest with anyio's plugin."""

    http2: ClassVar[bool] = True
    """Whether `make` knows the option `http2=True`."""

    tls: ClassVar[bool] = False
    """Whether all of it is shown over TLS."""

    def make(self, timeouts: Timeouts, **options: object) -> Transport:
        """A transport; options are `verify` (True, or PEM bytes), `http2`."""
        raise NotImplementedError

    def server(self, contents: Content | Mapping[str, Content], **options: Any) -> RangeServer:
        return RangeServer(contents, **options, tls=self.tls)

    def _made(self, timeouts: Timeouts = PATIENT, **options: object) -> Transport:
        if self.tls:
            options.setdefault("verify", authority_pem())
        return self.make(timeouts, **options)

    @contextlib.asynccontextmanager
    async def client(self, timeouts: Timeouts = PATIENT, **options: object) -> AsyncIterator[Transport]:
        transport = self._made(timeouts, **options)
        try:
            yield transport
        finally:
            await transport.aclose()

    async def fault(self, work: Awaitable[object]) -> Fault:
        """The fault that `work` raises; nothing that hangs on it may hold the secret."""
        caught: TransportFault | None = None
        try:
            await work
        except TransportFault as error:
            caught = error
        assert caught is not None, "no TransportFault was raised"
        link: BaseException | None = caught
        while link is not None:
            assert SECRET not in f"{link!s} {link!r} {vars(link)!r}"
            link = link.__cause__ or link.__context__
        return caught.fault

    async def get(
        self,
        transport: Transport,
        url: str,
        headers: dict[str, str] | None = None,
        method: str = "GET",
    ) -> tuple[int, dict[str, str], bytes]:
        async with transport.send(HttpRequest(method, f"{url}?signature={SECRET}", headers or {})) as reply:
            fields = {name.lower(): value for name, value in reply.headers}
            return reply.status, fields, await read_all(reply)

    # Replies

    async def test_brings_status_headers_and_body(self) -> None:
        content = Content(3 * MIB + 17)
        with self.server(content) as server:
            async with self.client() as transport:
                status, headers, body = await self.get(transport, server.url)
                ranged = await self.get(transport, server.url, {"Range": "bytes=5-8"})
        assert (status, headers["etag"]) == (200, content.etag)
        assert hashlib.sha256(body).hexdigest() == content.sha256
        assert ranged[0] == 206
        assert ranged[1]["content-range"] == f"bytes 5-8/{content.size}"
        assert ranged[2] == content.bytes(5, 9)

    async def test_leaves_no_connection_open_when_it_is_closed(self) -> None:
        with self.server(Content(1000)) as server:
            client = self._made()
            async with client.send(HttpRequest("GET", server.url)) as reply:
                await read_all(reply)
            await client.aclose()
            assert await server.until(lambda s: s.open_sockets == 0)

    async def test_keeps_repeated_fields(self) -> None:
        trouble = Trouble(status=200, headers=(("X-A", "1"), ("x-a", "2")))
        with self.server(Content(0), script=[trouble]) as server:
            async with self.client() as transport, transport.send(HttpRequest("GET", server.url)) as reply:
                values = [value for name, value in reply.headers if name.lower() == "x-a"]
                version = reply.version
        assert (values, version) == (["1", "2"], "HTTP/1.1")

    async def test_an_empty_body_and_one_byte(self) -> None:
        contents = {"/none": Content(0), "/one": Content(data=b"x")}
        with self.server(contents) as server:
            async with self.client() as transport:
                assert (await self.get(transport, f"{server.origin}/none"))[2] == b""
                assert (await self.get(transport, f"{server.origin}/one"))[2] == b"x"

    async def test_head_has_headers_and_no_body(self) -> None:
        with self.server(Content(MIB)) as server:
            async with self.client() as transport:
                status, headers, body = await self.get(transport, server.url, method="HEAD")
        assert (status, headers["content-length"], body) == (200, str(MIB), b"")

    async def test_large_bodies_stream_in_bounded_memory(self) -> None:
        content = Content(64 * MIB)
        digest = hashlib.sha256()
        with self.server(content) as server:
            async with self.client() as transport, transport.send(HttpRequest("GET", server.url)) as reply:
                digest.update(await reply.read(MIB))
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                while chunk := await reply.read(MIB):
                    digest.update(chunk)
                grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert digest.hexdigest() == content.sha256
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
        assert grown * unit < 32 * MIB

    async def test_chunked_replies(self) -> None:
        content = Content(200_000)
        with self.server(content, script=[Trouble(framing="chunked")]) as server:
            async with self.client() as transport:
                _, headers, body = await self.get(transport, server.url)
        assert "content-length" not in headers
        assert body == content.bytes()

    async def test_content_codings_are_left_alone(self) -> None:
        with self.server(Content(data=b"plain"), script=[Trouble(gzip=True)]) as server:
            async with self.client() as transport:
                _, headers, body = await self.get(transport, server.url, {"Accept-Encoding": "identity"})
            asked = server.requests[0].headers["accept-encoding"]
        assert (headers["content-encoding"], body[:2], asked) == ("gzip", b"\x1f\x8b", "identity")

    async def test_redirects_are_handed_over(self) -> None:
        trouble = Trouble(status=302, headers=(("Location", "/other"),))
        with self.server(Content(1), script=[trouble]) as server:
            async with self.client() as transport:
                status, headers, _ = await self.get(transport, server.url)
            assert len(server.requests) == 1
        assert (status, headers["location"]) == (302, "/other")

    async def test_keeps_no_cookies_and_adds_no_fields(self) -> None:
        trouble = Trouble(headers=(("Set-Cookie", "a=b"),))
        with self.server(Content(1), script=[trouble]) as server:
            async with self.client() as transport:
                await self.get(transport, server.url, {"X-Mine": "1"})
                await self.get(transport, server.url, {"X-Mine": "1"})
            sent = [set(seen.headers) for seen in server.requests]
        assert all(names <= {"x-mine", "host", "connection", "user-agent", "accept"} for names in sent)

    async def test_connections_are_used_again(self) -> None:
        with self.server(Content(1000)) as server:
            async with self.client() as transport:
                for _ in range(10):
                    await self.get(transport, server.url)
            assert len(server.requests) == 10
            assert server.connections < 5  # a client may need a moment until a connection is free again

    async def test_http2_when_asked_for(self) -> None:
        """Left to the integration tests: `RangeServer` speaks HTTP/1.1, and so does the transport to it."""
        if not self.http2:
            return
        with RangeServer(Content(10), tls=True) as server:
            async with (
                self.client(verify=server.ca_pem, http2=True) as transport,
                transport.send(HttpRequest("GET", server.url)) as reply,
            ):
                assert reply.version == "HTTP/1.1"

    # Requests with a body

    async def test_request_bodies_stream(self) -> None:
        with self.server(Content(0)) as server:
            async with self.client() as transport:
                request = upload(server.url, lambda: pieces(8), 8 * MIB)
                async with transport.send(request) as reply:
                    assert (reply.status, await read_all(reply)) == (200, f"received {8 * MIB}\n".encode())
            seen = server.requests[0]
        assert seen.headers["content-length"] == str(8 * MIB)
        assert "transfer-encoding" not in seen.headers

    async def test_request_bodies_without_a_length_are_chunked(self) -> None:
        with self.server(Content(0)) as server:
            async with (
                self.client() as transport,
                transport.send(upload(server.url, lambda: pieces(3, 1000), None)) as reply,
            ):
                assert reply.status == 200
            assert server.requests[0].received == 3000

    async def test_an_empty_put_states_its_length(self) -> None:
        with self.server(Content(0)) as server:
            async with self.client() as transport, transport.send(HttpRequest("PUT", server.url)) as reply:
                assert reply.status == 200
            assert server.requests[0].headers["content-length"] == "0"

    async def test_an_error_of_the_source_is_raised_as_it_is(self) -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield bytes(1000)
            raise FileNotFoundError("the source is gone")

        with self.server(Content(0)) as server:
            async with self.client() as transport:
                caught = ""
                try:
                    async with transport.send(upload(server.url, broken, 2000)):
                        pass
                except FileNotFoundError as error:
                    caught = str(error)
            assert caught == "the source is gone"
            assert await server.until(lambda s: s.open_sockets == 0)
            assert not any(request.complete for request in server.requests)  # it may not have got there

    async def test_uploads_may_take_longer_than_the_read_timeout(self) -> None:
        """Only silence is limited: a source that gives a chunk now and then keeps a request alive."""

        async def slow() -> AsyncIterator[bytes]:
            for _ in range(18):
                await anyio.sleep(0.1)
                yield bytes(10_000)

        with self.server(Content(0)) as server:
            async with (
                self.client(BRIEF) as transport,
                transport.send(upload(server.url, slow, 180_000)) as reply,
            ):
                assert reply.status == 200

    async def test_a_server_that_takes_a_body_slowly_is_not_silent(self) -> None:
        """Megabytes of it wait in the memory of the system, which takes them all at once."""

        async def send(size: int, chunk: int, seconds: int) -> None:
            body = partial(pieces, size // chunk, chunk)
            with self.server(Content(0), script=[Trouble(rate=size / seconds)]) as server:
                async with (
                    self.client(BRIEF) as transport,
                    transport.send(upload(server.url, body, size)) as reply,
                ):
                    assert reply.status == 200
                assert server.bytes_received() == size

        async with anyio.create_task_group() as group:
            for each in ((3 * MIB, 1 << 16, 4), (16 * MIB, 1 << 16, 4), (12 * MIB, 4 * MIB, 6)):
                group.start_soon(send, *each)

    async def test_a_server_that_takes_nothing_of_a_body_is_a_timeout(self) -> None:
        with self.server(Content(0), script=[Trouble(refuse_body=True)]) as server:
            async with self.client(SHORT) as transport:
                request = upload(server.url, partial(pieces, 64), 64 * MIB)
                fault = await self.fault(transport.send(request).__aenter__())
            assert fault.kind is FaultKind.TIMEOUT

    async def test_a_value_of_a_header_may_be_in_any_letters_and_have_blanks_around_it(self) -> None:
        with self.server(Content(10)) as server:
            async with self.client() as transport:
                await self.get(transport, server.url, {"X-Name": "café 猫", "X-Blanks": " a\tb\t"})
                request = upload(server.url, partial(pieces, 2), 2 * MIB)
                request = structs.replace(request, headers={"X-Name": "café 猫", "X-Blanks": " a\tb\t"})
                async with transport.send(request) as reply:
                    assert reply.status == 200
            for seen in server.requests:
                assert seen.headers["x-name"].encode("latin-1").decode() == "café 猫"
                assert seen.headers["x-blanks"] == "a\tb"

    async def test_silence_after_a_body_is_a_timeout(self) -> None:
        for size in (1000, 100_000):  # the latter may be on its way for a while
            with self.server(Content(0), script=[Trouble(before="stall")]) as server:
                async with self.client(SHORT) as transport:
                    request = upload(server.url, partial(pieces, 1, size), size)
                    fault = await self.fault(transport.send(request).__aenter__())
            assert fault.kind is FaultKind.TIMEOUT

    async def test_silence_in_the_reply_to_an_upload_is_a_timeout(self) -> None:
        """Its body has arrived by then."""
        with self.server(Content(0), script=[Trouble(after=5, then="stall")]) as server:
            async with self.client(SHORT) as transport:
                with anyio.fail_after(20):
                    async with transport.send(upload(server.url, partial(pieces, 4), 4 * MIB)) as reply:
                        fault = await self.fault(read_all(reply))
            assert fault.kind is FaultKind.TIMEOUT

    async def test_a_reply_to_an_upload_may_take_longer_than_the_read_timeout(self) -> None:
        """S3 sends a blank now and then while it puts an object together."""
        slowly = Trouble(status=200, body=bytes(16_384))
        for length in (10, MIB):
            with self.server(Content(0), script=[slowly], rate=8192) as server:
                async with self.client(BRIEF) as transport:
                    request = upload(server.url, partial(pieces, 1, length), length)
                    async with transport.send(request) as reply:
                        assert await read_all(reply) == slowly.body

    # Failures

    async def _failing_body(self, trouble: Trouble, timeouts: Timeouts = PATIENT) -> Fault:
        with self.server(Content(MIB), script=[trouble]) as server:
            async with self.client(timeouts) as transport:
                return await self.fault(self.get(transport, server.url))

    async def test_a_short_body_is_a_broken_connection(self) -> None:
        for after in (10, 300_000):
            fault = await self._failing_body(Trouble(after=after, then="close"))
            assert fault.kind is FaultKind.DISCONNECTED

    async def test_a_short_chunked_body_is_a_broken_connection(self) -> None:
        fault = await self._failing_body(Trouble(after=300_000, then="close", framing="chunked"))
        assert fault.kind is FaultKind.DISCONNECTED

    async def test_a_reset_is_a_broken_connection(self) -> None:
        for trouble in (
            Trouble(after=300_000, then="reset"),
            Trouble(before="reset"),
            Trouble(before="close"),
        ):
            fault = await self._failing_body(trouble)
            assert fault.kind is FaultKind.DISCONNECTED

    async def test_silence_is_a_timeout(self) -> None:
        for trouble in (
            Trouble(before="stall"),
            Trouble(after=0, then="stall"),
            Trouble(after=9, then="stall"),
        ):
            fault = await self._failing_body(trouble, SHORT)
            assert fault.kind is FaultKind.TIMEOUT

    async def test_silence_after_or_within_an_upload_is_a_timeout(self) -> None:
        for trouble in (Trouble(before="stall"), Trouble(refuse_body=True)):
            with self.server(Content(0), script=[trouble]) as server:
                async with self.client(SHORT) as transport:

                    async def send(transport: Transport = transport, url: str = server.url) -> None:
                        async with transport.send(upload(url, lambda: pieces(32), 32 * MIB)):
                            pass

                    with anyio.fail_after(20):
                        fault = await self.fault(send())
            assert fault.kind is FaultKind.TIMEOUT

    async def test_a_refused_connection_and_an_unknown_name_are_unreachable(self) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # bound, not listening: refuses
            async with self.client(PATIENT) as transport:
                for host in (f"127.0.0.1:{closed.getsockname()[1]}", "nowhere.invalid"):
                    fault = await self.fault(self.get(transport, f"http://{host}/file"))
                    assert fault.kind is FaultKind.UNREACHABLE
                    assert host in fault.detail

    async def test_what_is_no_reply_of_http_is_told_as_that_and_an_early_end_is_not(self) -> None:
        replies = {
            b"SSH-2.0-OpenSSH_9.0\r\n\r\n": FaultKind.REPLY,
            b"HTTP/1.1 two-hundred OK\r\n\r\n": FaultKind.REPLY,
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n": FaultKind.REPLY,
            b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n": FaultKind.REPLY,
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab": FaultKind.REPLY,
            b"": FaultKind.DISCONNECTED,
            b"HTTP/1.1 200 O": FaultKind.DISCONNECTED,
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nearly": FaultKind.DISCONNECTED,
        }
        async with self.client(PATIENT) as transport:
            for reply, kind in replies.items():
                async with answering(reply) as url:
                    fault = await self.fault(self.get(transport, url))
                assert fault.kind is kind, reply

    async def test_too_many_open_files_are_nothing_of_the_host(self) -> None:
        with RangeServer(Content(10)) as known, RangeServer(Content(10)) as server:
            async with self.client(PATIENT) as transport:
                await self.get(transport, known.url)  # what the client itself has open is open now
                with no_more_files():
                    fault = await self.fault(self.get(transport, server.url))
                assert fault.kind is FaultKind.EXHAUSTED
                assert "ulimit -n" in fault.detail
                assert (await self.get(transport, server.url))[0] == 200

    async def test_an_untrusted_certificate_is_a_tls_fault(self) -> None:
        with RangeServer(Content(10), tls=True) as server:
            async with self.client(verify=True) as transport:
                fault = await self.fault(self.get(transport, server.url))
        assert fault.kind is FaultKind.TLS

    async def test_a_private_authority_can_be_trusted(self) -> None:
        content = Content(300_000)
        with RangeServer(content, tls=True) as server:
            async with self.client(verify=server.ca_pem) as transport:
                assert (await self.get(transport, server.url))[2] == content.bytes()

    async def test_a_url_that_is_none_is_an_invalid_argument(self) -> None:
        async with self.client() as transport:
            for url in ("not a url", "http://[::1/x"):
                caught = None
                try:
                    await self.get(transport, url)
                except InvalidArgument as error:
                    caught = error
                assert caught is not None
                assert SECRET not in str(caught)

    async def test_a_bundle_without_certificates_is_an_invalid_argument(self) -> None:
        for bundle in (b"no certificate", "/nonexistent/bundle.pem"):
            caught = None
            try:
                self.make(PATIENT, verify=bundle)
            except InvalidArgument as error:
                caught = error
            assert caught is not None

    # Stops

    async def _stop_when(
        self,
        server: RangeServer,
        exchange: Exchange,
        claim: Callable[[RangeServer], bool],
        *,
        in_body: bool = False,
    ) -> None:
        """Enter `exchange` and read; cancel it once `claim` holds at the server, and, `in_body`, once the
        head of the reply has come here; wait until it is dead."""
        entered = anyio.Event()

        async def run() -> None:
            async with exchange as reply:
                entered.set()
                await read_all(reply)

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            assert await server.until(claim)
            if in_body:
                await entered.wait()
            cancelled_at = anyio.current_time()
            group.cancel_scope.cancel()
        assert anyio.current_time() - cancelled_at < AT_ONCE, "whatever the socket does"
        with anyio.fail_after(10):
            await exchange.dead()

    async def _gone(self, server: RangeServer, seconds: float = 5.0) -> bool:
        """Whether the server sees the end of all its connections that soon."""
        return await server.until(lambda s: s.open_sockets == 0, seconds)

    async def test_stopped_while_waiting_for_the_head(self) -> None:
        with self.server(Content(10), script=[Trouble(before="stall")]) as server:
            async with self.client(Timeouts(read=5.0)) as transport:
                exchange = transport.send(HttpRequest("GET", server.url))
                await self._stop_when(server, exchange, lambda s: any(seen.complete for seen in s.requests))
                # Well before the read time-out, in case that `dead` did not wait for it.
                assert await self._gone(server, 2.0)

    async def test_stopped_while_the_body_streams(self) -> None:
        with self.server(Content(4 * GIB), rate=64 * MIB) as server:  # it shares a processor with the client
            async with self.client() as transport:
                exchange = transport.send(HttpRequest("GET", server.url))
                await self._stop_when(server, exchange, lambda s: s.bytes_served() > 4 * MIB, in_body=True)
                assert await self._gone(server)
                assert server.bytes_served() < 256 * MIB

    async def test_stopped_while_the_body_stalls(self) -> None:
        with self.server(Content(MIB), script=[Trouble(after=1000, then="stall")]) as server:
            async with self.client() as transport:
                exchange = transport.send(HttpRequest("GET", server.url))
                await self._stop_when(server, exchange, lambda s: s.bytes_served() == 1000, in_body=True)
                assert await self._gone(server)

    async def test_a_scope_that_was_canceled_ends_with_what_is_in_it(self) -> None:
        """A cancellation that is not the scope's own would end whatever is around it, too."""
        for trouble, wait in (
            (Trouble(before="stall"), 0.0),
            (Trouble(before="stall"), 0.1),
            (Trouble(after=9, then="stall"), 0.1),
        ):
            for body in (None, lambda: pieces(2, 1000)):
                with self.server(Content(MIB), script=[trouble]) as server:
                    async with self.client() as transport:
                        request = HttpRequest("GET" if body is None else "PUT", server.url, {}, body, 2000)
                        with anyio.move_on_after(wait) as scope:
                            async with transport.send(request) as reply:
                                await read_all(reply)
                assert scope.cancelled_caught

    async def test_left_in_mid_body_without_a_cancellation(self) -> None:
        with self.server(Content(512 * MIB)) as server:
            async with self.client() as transport:
                exchange = transport.send(HttpRequest("GET", server.url))
                async with exchange as reply:
                    await reply.read(10)
                await exchange.dead()
                assert await self._gone(server)

    async def _stop_upload(
        self,
        body: Callable[[], AsyncIterator[bytes]],
        length: int | None,
        claim: Callable[[RangeServer], bool],
        trouble: Trouble | None = None,
    ) -> int:
        """Stop it at `claim`; the bytes of the body that the server has got in the end."""
        with self.server(Content(0), script=[trouble]) as server:
            async with self.client() as transport:
                await self._stop_when(server, transport.send(upload(server.url, body, length)), claim)
                assert await self._gone(server)
                assert not any(request.complete for request in server.requests)  # it may not have got there
                return server.bytes_received()

    async def test_stopped_in_the_middle_of_an_upload(self) -> None:
        for length in (4 * GIB, None):  # without a length, an end of the stream would look like the whole
            source = pieces(4096)  # held here, so that nobody else closes it
            # What comes while the stop is on its way is not for the machine to say.
            slow = Trouble(rate=64 * MIB)
            got = await self._stop_upload(partial(_itself, source), length, _has_got_some, slow)
            assert got < 256 * MIB
            assert await anext(source, None) is None, "the client has not let go of it"

    async def test_stopped_while_the_source_of_an_upload_stalls(self) -> None:
        async def stalling() -> AsyncIterator[bytes]:
            yield bytes(MIB)
            await anyio.sleep_forever()

        for length in (2 * MIB, None):
            assert await self._stop_upload(stalling, length, lambda s: s.bytes_received() == MIB) == MIB

    async def test_stopped_while_the_peer_of_an_upload_does_not_read(self) -> None:
        with self.server(Content(0), script=[Trouble(refuse_body=True)]) as server:
            async with self.client(Timeouts(read=4.0)) as transport:
                exchange = transport.send(upload(server.url, lambda: pieces(64), 64 * MIB))
                await self._stop_when(server, exchange, lambda s: bool(s.requests))
                server.resume()  # the kernel may still offer what it had buffered, and never the whole
                assert await self._gone(server)
                assert not any(request.complete for request in server.requests)  # it may not have got there
                assert server.bytes_received() < 32 * MIB

    async def test_stopped_after_a_small_upload_was_sent(self) -> None:
        with self.server(Content(0), script=[Trouble(before="stall")]) as server:
            async with self.client(Timeouts(read=4.0)) as transport:
                exchange = transport.send(upload(server.url, lambda: pieces(1, 1000), 1000))
                await self._stop_when(server, exchange, lambda s: any(seen.complete for seen in s.requests))
                assert await self._gone(server)

    async def test_dead_at_once_after_a_whole_reply(self) -> None:
        with self.server(Content(1000)) as server:
            async with self.client() as transport:
                exchange = transport.send(HttpRequest("GET", server.url))
                async with exchange as reply:
                    await read_all(reply)
                with anyio.fail_after(5):
                    await exchange.dead()
