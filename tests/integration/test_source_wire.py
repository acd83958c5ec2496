"""Parts on the wire: no server gets all of a part that is not right, and no memory is kept of a lost one."""

import anyio
import pytest
from blake3 import blake3

from meowcat.core.values import FaultKind
from meowcat.protocols.contract import Refused
from meowcat.runtime.limits import Budget, Throttle
from meowcat.transfer.disk import OsDisk
from meowcat.transfer.source_parts import STEP, SourceReader
from meowcat.transfer.sources import open_file
from meowcat.transfer.workers import Workers
from meowcat.transport.contract import HttpRequest, Timeouts
from meowcat.transport.direct import DirectHttp
from meowcat.transport.httpx import HttpxTransport
from meowcat.transport.reqwest import ReqwestTransport

pytestmark = pytest.mark.anyio

SIZE = 8 * STEP + 5
MEMORY = 64 << 20


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Server:
    """Takes one PUT after the other on 127.0.0.1; `bodies` has what came of each, whole or not."""

    def __init__(self):
        self.bodies = []
        self.came = anyio.Event()
        self.reading = True

    async def serve(self, stream):
        async with stream:
            try:
                await self._take(stream)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass

    async def _take(self, stream):
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive()
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        )
        self.bodies.append(bytearray(body))
        self.came.set()
        while len(self.bodies[-1]) < length:
            if not self.reading:
                await anyio.sleep_forever()
            self.bodies[-1] += await stream.receive()
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


class Sending:
    """A server, a transport, and a source of `SIZE` bytes that is read for it."""

    def __init__(self, make, path):
        self.transport, self.path = make(), path
        self.server, self.budget = Server(), Budget(8, MEMORY)

    async def __aenter__(self):
        self.path.write_bytes(bytes(SIZE))
        self.source = await open_file(OsDisk(), Workers(), str(self.path))
        self.group = await anyio.create_task_group().__aenter__()
        self.listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        port = self.listener.extra_attributes[anyio.abc.SocketAttribute.local_port]()
        self.url = f"http://127.0.0.1:{port}/object"
        self.group.start_soon(self.listener.serve, self.server.serve)
        pinned = await self.source.identity()
        self.reader = SourceReader(self.source, pinned, self.group, self.budget, Throttle())
        self.reader.several = True
        return self

    async def __aexit__(self, *_):
        self.group.cancel_scope.cancel()
        await self.group.__aexit__(None, None, None)
        await self.listener.aclose()
        await self.transport.aclose()
        await self.source.close()
        assert self.budget._free == MEMORY

    async def put(self, part, body=None):
        request = HttpRequest("PUT", self.url, {}, body or part.body, part.size)
        exchange = self.transport.send(request)
        try:
            async with exchange as reply:
                await reply.read(1)
                return reply.status
        finally:
            with anyio.CancelScope(shield=True):
                await exchange.dead()


def direct():
    """Bodies are drawn by a thread."""
    return DirectHttp(HttpxTransport(), Timeouts())


@pytest.fixture(params=[ReqwestTransport, HttpxTransport, direct])
async def sending(request, tmp_path):
    async with Sending(request.param, tmp_path / "source") as made:
        yield made


async def test_a_part_arrives(sending):
    with sending.reader.part(0, 0, SIZE) as part:
        assert await sending.put(part) == 200
        assert part.digest == blake3(bytes(SIZE)).digest()
        assert not part.moved
    assert sending.server.bodies == [bytes(SIZE)]


async def test_of_a_part_that_is_not_the_recorded_one_the_last_bytes_never_go_out(sending):
    with sending.reader.part(0, 0, SIZE, expected=blake3(b"other").digest()) as part:
        with pytest.raises(Refused, match="not those that were read before") as caught:
            await sending.put(part)
        assert caught.value.fault.kind is FaultKind.SOURCE_CHANGED
    assert all(len(body) < SIZE for body in sending.server.bodies)


async def test_of_a_part_that_is_truncated_on_its_way_the_last_bytes_never_go_out(sending):
    with sending.reader.part(0, 0, SIZE) as part:

        async def body():
            async for chunk in part.body():
                yield chunk
                sending.path.write_bytes(b"")

        with pytest.raises(Refused, match="truncated"):
            await sending.put(part, body)
    assert all(len(got) < SIZE for got in sending.server.bodies)


async def test_a_canceled_request_gives_its_memory_back(sending):
    sending.server.reading = False
    with sending.reader.part(0, 0, SIZE) as part:
        async with anyio.create_task_group() as group:
            group.start_soon(sending.put, part)
            await sending.server.came.wait()
            group.cancel_scope.cancel()
    assert sending.budget._free == MEMORY
