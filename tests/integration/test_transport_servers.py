"""The transports against Caddy and nginx: ranges, a server without them, private TLS, HTTP/2."""

from functools import partial

import anyio
import pytest

from meowcat.testing.servers import Content
from meowcat.testing.transport_suite import PATIENT, read_all
from meowcat.transport.contract import HttpRequest
from meowcat.transport.direct import DirectHttp
from meowcat.transport.httpx import HttpxTransport
from meowcat.transport.reqwest import ReqwestTransport

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

CONTENT = Content(5_000_000, seed=3)


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"


def direct(timeouts, *, http2=False, verify=True):
    """As `transport_for` has it."""
    rest = ReqwestTransport(timeouts, http2=http2, verify=verify)
    return rest if http2 else DirectHttp(rest, timeouts, verify=None if verify is True else verify)


@pytest.fixture(
    params=[ReqwestTransport, partial(HttpxTransport, None), direct], ids=["reqwest", "httpx", "direct"]
)
def make(request):
    return request.param


@pytest.fixture(scope="module", autouse=True)
def file(served):
    (served / "file.bin").write_bytes(CONTENT.bytes())


async def fetch(transport, origin, headers):
    async with transport.send(HttpRequest("GET", f"{origin}/file.bin", headers)) as reply:
        return reply.status, reply.version, await read_all(reply)


@pytest.mark.parametrize("name", ["caddy", "nginx"])
async def test_ranges_come_exactly(make, name, request):
    server = request.getfixturevalue(name)
    transport = make(PATIENT)
    status, _, body = await fetch(transport, server.origin, {"Range": "bytes=1000-2999999"})
    assert (status, body) == (206, CONTENT.bytes(1000, 3_000_000))
    await transport.aclose()


async def test_a_server_without_ranges_sends_all(make, nginx_without_ranges):
    transport = make(PATIENT)
    status, _, body = await fetch(transport, nginx_without_ranges.origin, {"Range": "bytes=0-9"})
    assert (status, body) == (200, CONTENT.bytes())
    await transport.aclose()


@pytest.mark.parametrize(("http2", "version"), [(False, "HTTP/1.1"), (True, "HTTP/2")])
async def test_http2_only_when_asked_for(make, caddy_tls, http2, version):
    transport = make(PATIENT, verify=caddy_tls.ca_pem, http2=http2)
    assert await fetch(transport, caddy_tls.origin, {}) == (200, version, CONTENT.bytes())
    await transport.aclose()


async def test_a_stopped_http2_stream_leaves_the_others_alone(make, caddy_tls):
    transport = make(PATIENT, verify=caddy_tls.ca_pem, http2=True)
    exchange = transport.send(HttpRequest("GET", f"{caddy_tls.origin}/file.bin"))
    async with exchange as reply:
        await reply.read(10)
    with anyio.fail_after(5):
        await exchange.dead()
    assert (await fetch(transport, caddy_tls.origin, {}))[2] == CONTENT.bytes()
    await transport.aclose()
