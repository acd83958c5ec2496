"""A protocol of one's own: tus 1.0 (https://tus.io/protocols/resumable-upload), its core, creation and
termination. A process that uploads by it is killed with SIGKILL; another one goes on at the very byte.

python examples/custom_upload_protocol.py

`examples/testing/test_tus.py` runs `meowcat.testing.ProtocolSuite` on it.
"""

import asyncio
import base64
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import meowcat
from meowcat.core.retry import parse_retry_after
from meowcat.core.sessions import Capabilities, Receipt, Session
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.contract import Outcome, Part, Prepared, Reconciled, Refused, UploadProtocol
from meowcat.protocols.wire import Reply, call
from meowcat.transport.contract import HttpRequest

# The protocol


class Tus:
    """What users choose it by: `engine.upload(path, endpoint, protocol=Tus())`."""

    def spec(self) -> meowcat.ProtocolSpec:
        return meowcat.ProtocolSpec(TusProtocol.tag, TusProtocol.version)


class TusProtocol(UploadProtocol):
    """The URL is the endpoint that creates uploads. An upload is complete with its last byte, so the last
    part is left to the commit. A place with a query is refused: it is journaled, and could hold a secret."""

    tag = "tus"
    owns_url = False

    def capabilities(self) -> Capabilities:
        return Capabilities(
            any_order=False, server_offset=True, lists_parts=False, commits_with_last_part=True
        )

    async def prepare(self, session: Session | None) -> Prepared:
        if session is None:
            return await self._create()
        offset = await self._offset(session)
        return Prepared(
            session=session, offset=offset, done=self._result(session) if self._is_all(offset) else None
        )

    async def _create(self) -> Prepared:
        name = base64.b64encode(self.job.name.encode()).decode()
        marks = {"Upload-Length": str(self.job.size), "Upload-Metadata": f"filename {name}"}
        reply = await self._send("POST", self.job.url, marks)
        if reply.status != HTTPStatus.CREATED:
            raise Refused(classify(reply))
        place = urlsplit(urljoin(self.job.url, reply.header("location") or ""))
        if not reply.header("location") or not place.netloc or place.query:
            raise Refused(
                Fault(kind=FaultKind.REPLY, detail="a new upload without a place, or one with a query")
            )
        session = Session(id=place.geturl(), capabilities=self.capabilities())
        return Prepared(session=session, done=self._result(session) if self.job.size == 0 else None)

    async def send_part(self, session: Session, part: Part) -> Receipt:
        headers = {"Upload-Offset": str(part.start), "Content-Type": "application/offset+octet-stream"}
        reply = await self._send("PATCH", session.id, headers, part)
        if reply.status != HTTPStatus.NO_CONTENT:
            raise Refused(classify(reply))
        if number_of(reply, "upload-offset") != part.start + part.size:
            raise Refused(
                Fault(kind=FaultKind.REPLY, detail="the server has another offset than was sent to")
            )
        return Receipt(text="")

    async def commit(
        self,
        session: Session,
        receipts: Mapping[int, Receipt],  # noqa: ARG002  # the server keeps its own account
        last: Part | None,
    ) -> dict[str, str]:
        if last is not None and last.size:  # one without bytes was complete when it was created
            await self.send_part(session, last)
        return self._result(session)

    async def reconcile(self, session: Session) -> Reconciled:
        try:
            offset = await self._offset(session)
        except Refused as refused:
            if refused.fault.kind is FaultKind.SESSION_LOST:
                return Reconciled(outcome=Outcome.LOST)
            raise
        if self._is_all(offset):
            return Reconciled(outcome=Outcome.COMMITTED, result=self._result(session))
        return Reconciled(outcome=Outcome.NOT_COMMITTED)

    async def abort(self, session: Session) -> None:
        found = await self.reconcile(session)
        if found.outcome is not Outcome.NOT_COMMITTED:
            return  # gone; or complete, when termination would remove the file
        reply = await self._send("DELETE", session.id, {})
        if reply.status not in (204, 404, 410):
            raise Refused(classify(reply))

    async def _offset(self, session: Session) -> int:
        reply = await self._send("HEAD", session.id, {})
        if reply.status not in (200, 204):
            raise Refused(classify(reply))
        return number_of(reply, "upload-offset")

    def _is_all(self, offset: int) -> bool:
        return offset == self.job.size

    def _result(self, session: Session) -> dict[str, str]:
        return {"url": session.id}

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], part: Part | None = None
    ) -> Reply:
        headers = {"Tus-Resumable": "1.0.0", **self.job.headers, **headers}
        if part is None or part.size == 0:
            return await call(self.tools.transport, HttpRequest(method, url, headers))
        return await call(self.tools.transport, HttpRequest(method, url, headers, part.body, part.size))


def number_of(reply: Reply, name: str) -> int:
    """A header that is a number."""
    value = reply.header(name) or ""
    if not value.isdecimal():
        raise Refused(
            Fault(kind=FaultKind.REPLY, detail=f"a reply without the number {name}: is it a tus server?")
        )
    return int(value)


def classify(reply: Reply) -> Fault:
    """What a reply means that is not the one hoped for: the one place where that is decided."""
    if reply.status in (404, 410):
        return Fault(kind=FaultKind.SESSION_LOST, detail="the server does not know the upload any more")
    if reply.status in (409, 423):  # another offset, or locked by a request that it does not know to be dead
        detail = "the server has another offset than was sent to: it is asked where to go on"
        return Fault(kind=FaultKind.DISCONNECTED, detail=detail)
    retry_after = parse_retry_after(reply.header("retry-after"), reply.header("date"), None)
    detail = f"the tus server answered {reply.status}"
    return Fault(kind=FaultKind.STATUS, detail=detail, status=reply.status, retry_after=retry_after)


# A server for it, as small as can be: it keeps what it has got of a request that broke off


class TusServer(ThreadingHTTPServer):
    """`with TusServer() as server: ... server.url`. After `hold` bytes it waits until `go_on`."""

    daemon_threads = True

    def __init__(self, hold: int | None = None) -> None:
        super().__init__(("127.0.0.1", 0), TusHandler)
        self.uploads: dict[str, bytearray] = {}
        self.sizes: dict[str, int] = {}
        self.names: dict[str, str] = {}
        self.received = 0
        self.hold = hold
        self.held = threading.Event()
        self.go_on = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/files/"
        threading.Thread(target=self.serve_forever, args=(0.01,)).start()

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self.shutdown()
        self.server_close()

    def content(self, name: str) -> bytes | None:
        """The file of that name, once all of it is there."""
        whole = [place for place, data in self.uploads.items() if len(data) == self.sizes[place]]
        return next((bytes(self.uploads[place]) for place in whole if self.names[place] == name), None)

    def take(self, place: str, chunk: bytes) -> None:
        self.uploads[place] += chunk
        self.received += len(chunk)
        if self.hold is not None and self.received >= self.hold:
            self.held.set()
            self.go_on.wait()
            raise ConnectionResetError  # its client is dead


class TusHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: TusServer

    def do_POST(self) -> None:
        name = self.headers["Upload-Metadata"].split()[1]
        place = f"/files/{len(self.server.sizes) + 1}"
        self.server.sizes[place] = int(self.headers["Upload-Length"])
        self.server.names[place] = base64.b64decode(name).decode()
        self.server.uploads[place] = bytearray()
        self.reply(201, Location=place)

    def do_HEAD(self) -> None:
        if self.path in self.server.uploads:
            self.reply(200, Upload_Offset=str(len(self.server.uploads[self.path])))
        else:
            self.reply(404)

    def do_PATCH(self) -> None:
        data = self.server.uploads.get(self.path)
        wanted = data is not None and int(self.headers["Upload-Offset"]) == len(data)
        left = int(self.headers["Content-Length"])
        # All of it is read in any case: a client whose connection ends while it sends may not hear why.
        while left and (chunk := self.rfile.read1(min(left, 1 << 16))):
            if wanted:
                self.server.take(self.path, chunk)
            left -= len(chunk)
        if data is None:
            self.reply(404)
        elif wanted:
            self.reply(204, Upload_Offset=str(len(data)))
        else:
            self.reply(409)

    def do_DELETE(self) -> None:
        self.reply(204 if self.server.uploads.pop(self.path, None) is not None else 404)

    def reply(self, status: int, **fields: str) -> None:
        self.send_response(status)
        for name, value in {"Tus_Resumable": "1.0.0", **fields}.items():
            self.send_header(name.replace("_", "-"), value)
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            pass  # the client is gone: what came of its request is kept

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


# An application


async def upload(file: Path, url: str, folder: Path) -> None:
    """What both processes run: the second one attaches to the task that the first one left."""
    async with meowcat.Engine(folder / "transfers.db", protocols=[TusProtocol]) as engine:
        task = await engine.submit(meowcat.Upload(str(file), url, Tus().spec(), piece_size=1 << 20))
        print(f"{task.id}: {task.info.bytes_done:,} bytes are in the journal", flush=True)
        result = await task.result()
        print(f"{result.size:,} bytes are at {urlsplit(result.remote['url']).path}")


def main() -> None:
    content = os.urandom((12 << 20) + 4711)
    with tempfile.TemporaryDirectory() as name, TusServer(hold=7 << 20) as server:
        folder = Path(name)
        file = folder / "big.bin"
        file.write_bytes(content)
        # Our own script, with arguments that it made itself.
        victim = subprocess.Popen([sys.executable, __file__, str(file), server.url, name])  # noqa: S603  # see above
        server.held.wait(60)
        victim.kill()
        victim.wait()
        server.hold = None
        server.go_on.set()
        print("killed with SIGKILL; opening the journal again")
        asyncio.run(upload(file, server.url, folder))
        print("the file is", "right" if server.content("big.bin") == content else "WRONG")
        print(f"received {server.received:,} bytes of {len(content):,}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(upload(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
    else:
        main()
