"""Following redirects over real connections, on both transports."""

import pytest

from meowcat.core.values import FaultKind
from meowcat.testing.servers import Content, RangeServer, Trouble
from meowcat.testing.transport_suite import PATIENT, read_all
from meowcat.transport.contract import HttpRequest, TransportFault
from meowcat.transport.httpx import HttpxTransport
from meowcat.transport.redirects import Route, open_following
from meowcat.transport.reqwest import ReqwestTransport

pytestmark = pytest.mark.anyio

CONTENT = Content(1000)
SECRETS = {"Authorization": "Bearer secret", "X-Token": "secret", "Cookie": "a=b"}


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(params=["reqwest", "httpx"])
async def transport(request):
    made = ReqwestTransport(PATIENT) if request.param == "reqwest" else HttpxTransport(None, PATIENT)
    yield made
    await made.aclose()


def to(location, status=302):
    return Trouble(status=status, headers=(("Location", location),), body=b"moved")


def table(**paths):
    """A script by path: what `/name` answers, the content where it says None."""
    return lambda seen: paths.get(seen.path[1:])


async def fetch(following):
    async with following as reply:
        return reply.status, await read_all(reply), following.url


async def test_relative_redirects_lead_to_the_content_over_a_kept_connection(transport):
    with RangeServer(CONTENT, script=table(a=to("/b", 301), b=to("c?sig=1", 308))) as server:
        following = open_following(transport, HttpRequest("GET", f"{server.origin}/a"), SECRETS)
        assert await fetch(following) == (200, CONTENT.bytes(), f"{server.origin}/c?sig=1")
        assert [seen.headers["x-token"] for seen in server.requests] == ["secret"] * 3
        assert server.connections < 3
        await following.dead()


async def test_no_header_of_the_caller_crosses_origins_not_even_back(transport):
    with RangeServer(CONTENT) as here, RangeServer(CONTENT) as there:
        here.script = table(a=to(f"{there.origin}/b"))
        there.script = table(b=to("/c"), c=to(f"{here.origin}/d"))
        request = HttpRequest("GET", f"{here.origin}/a", {"Range": "bytes=0-9", "If-Match": CONTENT.etag})
        status, body, _ = await fetch(open_following(transport, request, SECRETS))
        assert (status, body) == (206, CONTENT.bytes(0, 10))
        first, back = here.requests
        assert len(there.requests) == 2
        for seen in (*there.requests, back):
            assert not {"authorization", "x-token", "cookie"} & set(seen.headers)
            assert seen.headers["range"] == "bytes=0-9"
        assert first.headers["authorization"] == "Bearer secret"


async def test_circles_and_endless_chains_end(transport):
    with RangeServer(CONTENT, script=table(a=to("/b"), b=to("/a"))) as server:
        with pytest.raises(TransportFault) as circle:
            await fetch(open_following(transport, HttpRequest("GET", f"{server.origin}/a")))
        server.script = lambda seen: to(f"/{len(server.ledger.requests)}?sig=secret")
        with pytest.raises(TransportFault) as endless:
            await fetch(open_following(transport, HttpRequest("GET", f"{server.origin}/x")))
        assert len(server.requests) == 2 + 11
    assert circle.value.fault.kind is endless.value.fault.kind is FaultKind.REDIRECT
    assert "secret" not in str(endless.value)


async def test_a_put_is_never_redirected(transport):
    with RangeServer(CONTENT, script=table(a=to("/b", 307))) as server:
        status, _, _ = await fetch(open_following(transport, HttpRequest("PUT", f"{server.origin}/a")))
        assert (status, len(server.requests)) == (307, 1)


async def test_later_parts_go_to_the_final_url_at_once(transport):
    with RangeServer(CONTENT, script=table(a=to("/b"))) as server:
        route = Route(transport, f"{server.origin}/a", SECRETS)
        for first in (0, 10):
            status, body, _ = await fetch(route.open("GET", {"Range": f"bytes={first}-{first + 9}"}))
            assert (status, body) == (206, CONTENT.bytes(first, first + 10))
        assert [seen.path for seen in server.requests] == ["/a", "/b", "/b"]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_an_expired_final_url_is_resolved_again_from_the_original(transport, status):
    with RangeServer(CONTENT, script=table(a=to("/old"))) as server:
        route = Route(transport, f"{server.origin}/a")
        await fetch(route.open())
        server.script = table(a=to("/new"), old=Trouble(status=status))
        assert await fetch(route.open()) == (200, CONTENT.bytes(), f"{server.origin}/new")
        assert await fetch(route.open()) == (200, CONTENT.bytes(), f"{server.origin}/new")
        assert [seen.path for seen in server.requests] == ["/a", "/old", "/old", "/a", "/new", "/new"]


async def test_other_failures_of_the_final_url_are_handed_over(transport):
    with RangeServer(CONTENT, script=table(a=to("/b"))) as server:
        route = Route(transport, f"{server.origin}/a")
        await fetch(route.open())
        server.script = table(b=Trouble(status=503))
        assert (await fetch(route.open()))[0] == 503
        assert route.pinned is not None


async def test_a_final_url_that_refuses_from_the_start_is_not_remembered(transport):
    with RangeServer(CONTENT, script=table(a=to("/b"), b=Trouble(status=403))) as server:
        route = Route(transport, f"{server.origin}/a")
        assert (await fetch(route.open()))[0] == 403
        assert route.pinned is None


async def test_a_redirect_whose_own_text_breaks_off_is_still_a_redirect():
    transport = ReqwestTransport(PATIENT)
    cut = Trouble(status=302, headers=(("Location", "/b"),), body=bytes(10_000), after=5000, then="close")
    with RangeServer(CONTENT, script=table(a=cut)) as server:
        following = open_following(transport, HttpRequest("GET", f"{server.origin}/a"))
        assert (await fetch(following))[0] == 200
    await transport.aclose()
