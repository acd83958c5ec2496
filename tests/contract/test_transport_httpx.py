"""The transport contract on httpx, on asyncio and trio, with a client of our own and an injected one."""

import httpx
import pytest

from meowcat.testing.servers import Content, RangeServer
from meowcat.testing.transport_suite import PATIENT, TransportSuite
from meowcat.transport.contract import HttpRequest
from meowcat.transport.httpx import HttpxTransport

pytestmark = [
    pytest.mark.anyio,
    # httpx nests generators and leaves the inner ones of an unfinished body to the collector; trio remarks on
    # it. The socket is closed all the same, which is what the suite looks at.
    pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning"),
]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


class TestHttpx(TransportSuite):
    def make(self, timeouts, **options):
        return HttpxTransport(None, timeouts, **options)

    async def test_an_injected_client_is_used_as_it_is_and_left_open(self):
        with RangeServer(Content(10)) as server:
            async with httpx.AsyncClient(
                headers={"X-App": "1"}, auth=("me", "pass"), trust_env=False
            ) as client:
                transport = HttpxTransport(client, PATIENT)
                async with transport.send(HttpRequest("GET", server.url, {"X-Mine": "2"})) as reply:
                    assert reply.status == 200
                await transport.aclose()
                assert not client.is_closed
            seen = server.requests[0].headers
        assert (seen["x-app"], seen["x-mine"]) == ("1", "2")
        assert seen["authorization"].startswith("Basic ")
