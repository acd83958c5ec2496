"""The range server that all transfer tests lean on, looked at with the standard library's client."""

import asyncio
import base64
import gzip
import hashlib
import http.client
import json
import socket
import subprocess
import sys
import time

import pytest

from meowcat.testing.exchanges import Bucket
from meowcat.testing.s3_servers import RcloneS3
from meowcat.testing.servers import Caddy, Content, Nginx, RangeServer, Trouble
from meowcat.testing.virtual_time import VirtualLoop, VirtualTime

CONTENT = Content(300_000, seed=7)


def get(server, headers=None, method="GET", path="/file.bin"):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request(method, path, headers={"Connection": "close", **(headers or {})})
    reply = connection.getresponse()
    try:
        return reply, reply.read()
    finally:
        connection.close()


def test_contents_are_the_same_every_time_and_sliced_anywhere():
    whole = CONTENT.bytes()
    assert len(whole) == CONTENT.size
    assert hashlib.sha256(whole).hexdigest() == CONTENT.sha256 == Content(300_000, seed=7).sha256
    for start, stop in [(0, 1), (65_535, 65_537), (65_536, 131_072), (299_999, 300_000), (5, 250_000)]:
        assert b"".join(CONTENT.chunks(start, stop, 10_000)) == whole[start:stop]
    assert Content(300_000, seed=8).etag != CONTENT.etag


@pytest.mark.parametrize(
    ("headers", "status", "span"),
    [
        ({}, 200, (0, 300_000)),
        ({"Range": "bytes=10-19"}, 206, (10, 20)),
        ({"Range": "bytes=299990-"}, 206, (299_990, 300_000)),
        ({"Range": "bytes=-5"}, 206, (299_995, 300_000)),
        ({"Range": "bytes=10-9999999"}, 206, (10, 300_000)),
        ({"Range": "bytes=300000-"}, 416, None),
        ({"Range": "pages=1-2"}, 200, (0, 300_000)),
        ({"Range": "bytes=9-3"}, 200, (0, 300_000)),
        ({"Range": "bytes=0-9", "If-Match": CONTENT.etag}, 206, (0, 10)),
        ({"Range": "bytes=0-9", "If-Match": '"other"'}, 412, None),
        ({"Range": "bytes=0-9", "If-Match": "*"}, 206, (0, 10)),
        ({"Range": "bytes=0-9", "If-Range": CONTENT.etag}, 206, (0, 10)),
        ({"Range": "bytes=0-9", "If-Range": '"other"'}, 200, (0, 300_000)),
        ({"Range": "bytes=0-9", "If-Range": CONTENT.last_modified}, 206, (0, 10)),
        ({"If-Unmodified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"}, 412, None),
        ({"If-Unmodified-Since": CONTENT.last_modified}, 200, (0, 300_000)),
    ],
)
def test_ranges_and_preconditions(headers, status, span):
    with RangeServer(CONTENT) as server:
        reply, body = get(server, headers)
    assert reply.status == status
    assert body == (CONTENT.bytes(*span) if span else b"")
    if status == 206:
        assert reply.headers["Content-Range"] == f"bytes {span[0]}-{span[1] - 1}/300000"
    if status == 416:
        assert reply.headers["Content-Range"] == "bytes */300000"


def test_weak_and_missing_validators():
    weak, bare = Content(10, etag="weak"), Content(10, etag=None, modified=None)
    with RangeServer({"/weak": weak, "/bare": bare}) as server:
        assert weak.etag.startswith("W/")
        headers = {"Range": "bytes=0-1"}
        assert get(server, {**headers, "If-Range": weak.etag}, path="/weak")[0].status == 200
        assert get(server, {**headers, "If-Match": weak.etag}, path="/weak")[0].status == 412
        reply, _ = get(server, path="/bare")
        assert not {"ETag", "Last-Modified"} & set(reply.headers)
        assert get(server, path="/none")[0].status == 404


def test_digests_cover_the_part_and_the_whole():
    with RangeServer(CONTENT, digests=True) as server:
        reply, body = get(server, {"Range": "bytes=100-199"})
    part = base64.b64encode(hashlib.sha256(body).digest()).decode()
    whole = base64.b64encode(bytes.fromhex(CONTENT.sha256)).decode()
    assert reply.headers["Content-Digest"] == f"sha-256=:{part}:"
    assert reply.headers["Repr-Digest"] == f"sha-256=:{whole}:"


def test_bytes_that_went_out_twice_are_counted_once_each():
    with RangeServer(CONTENT) as server:
        for span in ("0-99", "50-149", "0-9", "1000-1009"):
            get(server, {"Range": f"bytes={span}"})
        get(server, method="HEAD")
        assert server.wait_for(lambda s: all(seen.answered for seen in s.requests))
        assert (server.bytes_served(), server.bytes_sent_twice()) == (220, 60)


def test_another_generation_from_now_on():
    other = Content(10, seed=9)
    with RangeServer(CONTENT) as server:
        get(server)
        server.replace(other)
        reply, body = get(server)
    assert (reply.headers["ETag"], body) == (other.etag, other.bytes())


def test_a_server_without_ranges():
    with RangeServer(CONTENT, ranges=False) as server:
        reply, body = get(server, {"Range": "bytes=0-9"})
    assert (reply.status, len(body), reply.headers["Accept-Ranges"]) == (200, 300_000, None)


def trouble(headers=None, /, **fields):
    with RangeServer(CONTENT, script=[Trouble(**fields)]) as server:
        return get(server, {"Range": "bytes=10-19"} if headers is None else headers)


def test_replies_that_lie():
    assert trouble(ignore_range=True)[0].status == 200
    reply, body = trouble(shift=100)
    assert (reply.headers["Content-Range"], body) == ("bytes 10-19/300000", CONTENT.bytes(110, 120))
    reply, body = trouble(gzip=True)
    assert (reply.headers["Content-Encoding"], gzip.decompress(body)) == ("gzip", CONTENT.bytes(10, 20))
    reply, body = trouble(multipart=True)
    assert reply.headers["Content-Type"].startswith("multipart/byteranges")
    assert (reply.headers["Content-Range"], CONTENT.bytes(10, 20) in body) == (None, True)
    for framing in ("chunked", "close"):
        reply, body = trouble(framing=framing)
        assert (reply.headers["Content-Length"], body) == (None, CONTENT.bytes(10, 20))
    with RangeServer(CONTENT, script=[Trouble(headers=(("Content-Range", "bytes 0-9/10"),))]) as server:
        assert get(server, {"Range": "bytes=10-19"})[0].headers["Content-Range"] == "bytes 0-9/10"


def test_statuses_with_fields():
    late = Trouble(status=503, headers=(("Retry-After", "2"),), body=b"later")
    with RangeServer(CONTENT, script=[late]) as server:
        reply, body = get(server)
    assert (reply.status, reply.headers["Retry-After"], body) == (503, "2", b"later")


@pytest.mark.parametrize(("then", "tail"), [({}, b"0\r\n\r\n"), ({"after": 0, "then": "close"}, b"")])
def test_a_chunked_body_of_nothing_ends_once_and_one_that_breaks_off_never(then, tail):
    with RangeServer(CONTENT, script=[Trouble(status=206, framing="chunked", **then)]) as server:
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        connection.sendall(b"GET /file.bin HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        _, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
        connection.close()
    assert body == tail


def test_broken_connections():
    with pytest.raises(ConnectionResetError):
        trouble(before="reset")
    with pytest.raises(http.client.RemoteDisconnected):
        trouble(before="close")
    with pytest.raises(http.client.IncompleteRead) as short:
        trouble(after=4, then="close")
    assert short.value.partial == CONTENT.bytes(10, 14)
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        trouble({}, after=200_000, then="reset")


def test_scripts_see_the_request():
    def script(seen):
        return Trouble(status=404) if seen.headers.get("range") == "bytes=0-9" else None

    with RangeServer(CONTENT, script=script) as server:
        assert get(server, {"Range": "bytes=0-9"})[0].status == 404
        assert get(server, {"Range": "bytes=10-19"})[0].status == 206
        assert [seen.status for seen in server.requests] == [404, 206]


def test_a_bucket_spends_its_rate_and_no_less():
    async def spend():
        bucket = Bucket(1_000_000)
        for _ in range(30):
            await bucket.take(bucket.step)
        return 30 * bucket.step / 1_000_000, asyncio.get_running_loop().time() - began

    time = VirtualTime()
    time.end = 3600.0
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(time)) as runner:
        began = runner.get_loop().time()
        due, taken = runner.run(spend())
    assert taken == pytest.approx(due, rel=0.01)


@pytest.mark.parametrize("cap", ["rate", "connection_rate"])
def test_a_bandwidth_cap_holds(cap):
    with RangeServer(CONTENT, **{cap: 1_000_000}) as server:
        began = time.monotonic()
        get(server)
        assert time.monotonic() - began > 0.25


def test_a_request_may_have_a_rate_of_its_own_in_both_directions():
    with RangeServer(CONTENT, script=lambda _: Trouble(rate=1_000_000)) as server:
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        connection.request("PUT", "/file.bin", body=bytes(200_000))
        assert connection.getresponse().read() == b"received 200000\n"
        connection.close()
        sent = time.monotonic()
        assert get(server)[1] == CONTENT.bytes()
        assert sent - began > 0.19
        assert time.monotonic() - sent > 0.29


def test_waiting_ends_with_the_claim_or_the_timeout():
    with RangeServer(CONTENT) as server:
        assert not server.wait_for(lambda s: s.requests, 0.05)
        get(server)
        assert server.wait_for(lambda s: s.requests[0].answered and s.open_sockets == 0)


def test_it_runs_as_a_program_of_its_own(tmp_path):
    command = [sys.executable, "-m", "meowcat.testing.servers", "--size", "100000", "--seed", "7"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as program:
        said = json.loads(program.stdout.readline())
        host, _, path = said["url"].removeprefix("http://").partition("/")
        connection = http.client.HTTPConnection(host, timeout=5)
        connection.request("GET", f"/{path}")
        assert hashlib.sha256(connection.getresponse().read()).hexdigest() == said["sha256"]
        connection.close()
        served = 0
        for _ in range(1000):  # the last bytes may arrive before they are counted
            if served == 100_000:
                break
            program.stdin.write("\n")
            program.stdin.flush()
            served = json.loads(program.stdout.readline())["served"]
        assert served == 100_000
        program.stdin.close()
        assert program.wait(5) == 0


@pytest.mark.servers
@pytest.mark.parametrize("kind", [Caddy, Nginx, RcloneS3])
def test_a_program_whose_port_was_taken_meanwhile_gets_another(tmp_path, require_server, kind):
    require_server(kind.name)
    program = kind(tmp_path)
    chosen = program.port
    with socket.socket() as other:
        other.bind(("127.0.0.1", chosen))
        with program:
            assert program.port != chosen
            socket.create_connection(("127.0.0.1", program.port)).close()


@pytest.mark.servers
def test_a_program_that_ends_for_another_reason_says_so_at_once(tmp_path, require_server):
    require_server(Caddy.name)

    class Unconfigured(Caddy):
        starts = 0

        def command(self, home):
            self.starts += 1
            return ["run", "--config", str(home / "none")]

    program = Unconfigured(tmp_path)
    with pytest.raises(RuntimeError, match="caddy does not answer"), program:
        pass
    assert program.starts == 1
