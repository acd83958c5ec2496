"""The transport contract on pyreqwest, and what only this transport has to prove."""

import subprocess
import sys

import pytest
from sent_uploads import is_dead_only_when_its_server_has_gone

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
                await is_dead_only_when_its_server_has_gone(exchange, server)


class TestReqwestOverTls(TestReqwest):
    """Where uploads go that are encrypted."""

    tls = True


LAST_REPLY = """
import asyncio, atexit, sys, threading
from asyncio.selector_events import BaseSelectorEventLoop
from meowcat.transport.contract import HttpRequest
from meowcat.transport.reqwest import ReqwestTransport

leaving = threading.Event()
atexit.register(leaving.set)  # before what was registered before

def late(loop, write=BaseSelectorEventLoop._write_to_self):
    write(loop)
    if threading.current_thread() is not threading.main_thread():
        leaving.wait()
        threading.Event().wait(0.3)  # and is given no time by a busy machine

async def main():
    transport = ReqwestTransport()
    async with transport.send(HttpRequest("GET", sys.argv[1])) as reply:
        assert await reply.read(100)
        BaseSelectorEventLoop._write_to_self = late
    async with transport.send(HttpRequest("GET", sys.argv[1])) as reply:
        print(reply.status, flush=True)
    await transport.aclose()

asyncio.run(main())
"""


def test_a_program_ends_well_whose_last_reply_came_just_then():
    """The client's thread has woken the loop, and would ask for the GIL once more when there is none."""
    with RangeServer(Content(10)) as server:
        command = [sys.executable, "-c", LAST_REPLY, server.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "200\n"), done.stderr
