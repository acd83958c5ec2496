"""A proxy that can't be reached or lets nobody through is told as that, and its credentials are not."""

import re
import socket
import threading
from contextlib import contextmanager

import httpx
import pytest

from meowcat.core.values import FaultKind
from meowcat.transport.contract import HttpRequest, TransportFault
from meowcat.transport.httpx import HttpxTransport
from meowcat.transport.proxies import Proxies
from meowcat.transport.reqwest import ReqwestTransport

pytestmark = pytest.mark.anyio

TARGETS = ["http://host.example/x?sig=hunter2", "https://host.example/x?sig=hunter2"]
SECRETS = ("hunter2", "user", "password")


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(params=[ReqwestTransport, HttpxTransport])
def transport(request):
    return request.param


@pytest.fixture
def closed_port():
    """Bound and not listening: nobody else gets it meanwhile, and connections are refused."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@contextmanager
def answering(*replies):
    """A proxy that takes one connection, and says each of these after it has heard something."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)

        def serve():
            connection, _ = listener.accept()
            with connection:
                for reply in replies:
                    connection.recv(65536)
                    connection.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


async def fault_of(client, url):
    try:
        with pytest.raises(TransportFault) as raised:
            async with client.send(HttpRequest("GET", url)):
                pass
    finally:
        await client.aclose()
    fault = raised.value.fault
    assert fault.kind is FaultKind.UNREACHABLE
    assert not any(secret in fault.detail for secret in SECRETS), fault.detail
    return fault.detail


@pytest.mark.parametrize("url", TARGETS)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_is_not_there_is_named_and_not_the_server(transport, url, scheme, closed_port):
    client = transport(proxy=f"{scheme}://user:password@127.0.0.1:{closed_port}")
    told = await fault_of(client, url)
    behind = f"through which {url[: url.index('/x')]} is reached"
    assert told.startswith(f"no connection to the proxy {scheme}://127.0.0.1:{closed_port}, {behind}")
    if transport is ReqwestTransport:
        assert told.endswith("(Connection refused)")


async def test_an_upload_says_it_too(transport, closed_port):
    async def body():
        yield b"x" * (1 << 20)

    client = transport(proxy=f"http://127.0.0.1:{closed_port}")
    with pytest.raises(TransportFault, match="no connection to the proxy http://127"):
        async with client.send(HttpRequest("PUT", TARGETS[0], {}, body, 1 << 20)):
            pass
    await client.aclose()


@pytest.mark.parametrize("url", TARGETS)
async def test_a_proxy_that_the_environment_names_is_named(transport, url, closed_port, monkeypatch):
    monkeypatch.setenv(f"{url.partition(':')[0]}_proxy", f"user:password@127.0.0.1:{closed_port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert f"the proxy http://127.0.0.1:{closed_port}, " in await fault_of(transport(), url)
    direct = await fault_of(transport(), f"http://127.0.0.1:{closed_port}/x")
    assert direct.startswith(f"no connection to http://127.0.0.1:{closed_port}")
    assert "proxy" not in direct


@pytest.mark.parametrize(
    ("status", "why"), [(407, "it wants credentials, or other ones: 407"), (502, "it (refused|answered 502)")]
)
async def test_a_proxy_that_makes_no_connection_is_told_from_one_that_is_not_there(transport, status, why):
    with answering(b"HTTP/1.1 %d for user\r\nContent-Length: 0\r\n\r\n" % status) as port:
        told = await fault_of(transport(proxy=f"http://u:p@127.0.0.1:{port}"), TARGETS[1])
    assert told.startswith(
        f"no connection to https://host.example through the proxy http://127.0.0.1:{port} ("
    )
    assert re.search(why, told)


@pytest.mark.parametrize("url", TARGETS)
async def test_a_socks_proxy_is_told_by_what_failed(url, closed_port):
    gone = await fault_of(ReqwestTransport(proxy=f"socks5://user:password@127.0.0.1:{closed_port}"), url)
    assert gone.startswith(f"no connection to the proxy socks5://127.0.0.1:{closed_port}, through which")
    with answering(b"\5\0", b"\5\5\0\1" + bytes(6)) as port:  # no login; connection refused
        told = await fault_of(ReqwestTransport(proxy=f"socks5h://127.0.0.1:{port}"), url)
    assert told.endswith(f"through the proxy socks5h://127.0.0.1:{port} (it refused)")


async def test_of_the_proxy_of_an_applications_own_client_only_that_is_said_which_it_says():
    with answering(b"HTTP/1.1 403 no\r\nContent-Length: 0\r\n\r\n") as port:
        async with httpx.AsyncClient(proxy=f"http://user:password@127.0.0.1:{port}") as client:
            told = await fault_of(HttpxTransport(client), TARGETS[1])
    assert told == "no connection to https://host.example through its proxy (it answered 403)"


def test_what_goes_past_the_proxies_of_the_environment_has_none(monkeypatch):
    monkeypatch.setenv("all_proxy", "socks5://proxy.example:1080")
    monkeypatch.setenv("no_proxy", ".inside.example,host2")
    proxies = Proxies(trust_env=True)
    assert proxies.before("https://host.example/x") == "socks5://proxy.example:1080"
    assert proxies.before("https://a.inside.example/x") == proxies.before("http://host2:81/") == ""
    assert Proxies().before("https://host.example/x") == ""
    assert Proxies("http://only.example", trust_env=True).before("http://host2/") == "http://only.example"
