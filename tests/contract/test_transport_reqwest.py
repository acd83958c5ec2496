"""The transport contract on pyreqwest, and what only this transport has to prove."""

import anyio
import pytest

from meowcat.testing.servers import Content, RangeServer, Trouble
from meowcat.testing.transport_suite import MIB, SHORT, TransportSuite, pieces, upload
from meowcat.transport.reqwest import ReqwestTransport

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


class TestReqwest(TransportSuite):
    def make(self, timeouts, **options):
        return ReqwestTransport(timeouts, **options)

    async def test_a_sent_upload_is_not_dead_before_its_request_is_over(self):
        with RangeServer(Content(0), script=[Trouble(before="stall")]) as server:
            async with self.client(SHORT) as transport:
                exchange = transport.send(upload(server.url, lambda: pieces(1), MIB))
                async with anyio.create_task_group() as group:
                    group.start_soon(exchange.__aenter__)
                    assert await server.until(lambda s: any(seen.complete for seen in s.requests))
                    group.cancel_scope.cancel()
                with anyio.move_on_after(0.2):
                    await exchange.dead()
                    pytest.fail("the server still holds the whole request and may act on it")
                server.stop()
                with anyio.fail_after(2):
                    await exchange.dead()
