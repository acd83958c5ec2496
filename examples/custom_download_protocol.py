"""A download protocol of one's own: an archive that is asked for ranges by `?offset=…&length=…`, names the
version of what it sends, and wants each request signed with a key that it shares with its clients.

python examples/custom_download_protocol.py
"""

import asyncio
import hashlib
import hmac
import os
import tempfile
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

import meowcat
from meowcat.core.http_rules import Asked, Verdict, judge
from meowcat.core.values import Checksum
from meowcat.protocols.contract import DownloadProtocol
from meowcat.transport.contract import Chunk, Exchange, Headers, HttpReply, HttpRequest

# The protocol


class Archive:
    """What users choose it by: `engine.download(url, path, protocol=Archive("archive"))`."""

    def __init__(self, credential: str) -> None:
        self.credential = credential

    def spec(self) -> meowcat.ProtocolSpec:
        return meowcat.ProtocolSpec(ArchiveProtocol.tag, 1, {"credential": self.credential})


class ArchiveProtocol(DownloadProtocol):
    """Only the credential's name is journaled. After a restart the task waits until it is registered."""

    tag = "archive"

    @classmethod
    def needs(cls, spec: meowcat.ProtocolSpec) -> tuple[str, ...]:
        return (f"credential:{spec.fields['credential']}",)

    def ask(self, asked: Asked) -> "Asking":
        return Asking(self, asked)

    async def exchange(self, asked: Asked) -> Exchange:
        """A signed request for the bytes."""
        length = "" if asked.stop is None else f"&length={asked.stop - asked.start}"
        url = f"{self.job.url}?offset={asked.start}{length}"
        key = await self.tools.credentials.get(str(self.job.request.protocol.fields["credential"]))  # type: ignore[union-attr]  # it was chosen by it
        now = str(self.tools.wall())
        headers = {"X-Key": key.id, "X-Time": now, "X-Signature": signature(key.secret, now, url)}
        return self.tools.transport.send(HttpRequest("GET", url, {**self.job.headers, **headers}))


def signature(secret: str, now: str, url: str) -> str:
    parts = urlsplit(url)
    signed = f"{now} {parts.path}?{parts.query}"
    return hmac.new(secret.encode(), signed.encode(), hashlib.sha256).hexdigest()


class Asking:
    """One request: `async with asking as answer`."""

    def __init__(self, protocol: ArchiveProtocol, asked: Asked) -> None:
        self._protocol = protocol
        self._asked = asked
        self._exchange: Exchange | None = None

    async def __aenter__(self) -> "Answer":
        self._exchange = await self._protocol.exchange(self._asked)
        reply = await self._exchange.__aenter__()
        return Answer(reply, self._asked, self._protocol.tools.wall())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._exchange is not None:
            await self._exchange.__aexit__(kind, error, trace)


class Answer:
    """What the archive says, in the terms of HTTP: the rules of 206, If-Range and ETag are meowcat's then."""

    def __init__(self, reply: HttpReply, asked: Asked, now: int) -> None:
        self._reply = reply
        self.verdict: Verdict = judge(asked, *as_http(asked, reply), now)

    @property
    def digest(self) -> Checksum | None:
        """Of this reply's own body, as the archive says it."""
        told = dict(self._reply.headers).get("x-sha256")
        return None if told is None else Checksum("sha256", told)

    async def read(self, size: int) -> Chunk:
        return await self._reply.read(size)


def as_http(asked: Asked, reply: HttpReply) -> tuple[int, Headers]:
    """A 200 of the archive is what a 206 is elsewhere."""
    told = {name.lower(): value for name, value in reply.headers}
    if reply.status != HTTPStatus.OK or "x-size" not in told:
        return reply.status, reply.headers
    size, length = told["x-size"], int(told["content-length"])
    span = f"{asked.start}-{asked.start + length - 1}" if length else "*"
    placed = [("Content-Range", f"bytes {span}/{size}"), ("ETag", f'"{told["x-version"]}"')]
    return HTTPStatus.PARTIAL_CONTENT, [*placed, ("Content-Length", str(length))]


# An archive, and an application


class ArchiveServer(ThreadingHTTPServer):
    """`with ArchiveServer(content, secret) as server: ... server.url`."""

    daemon_threads = True

    def __init__(self, content: bytes, secret: str) -> None:
        super().__init__(("127.0.0.1", 0), ArchiveHandler)
        self.content = content
        self.secret = secret
        self.signatures: list[str] = []
        self.refused = 0
        self.url = f"http://127.0.0.1:{self.server_port}/blobs/big.bin"
        threading.Thread(target=self.serve_forever, args=(0.01,)).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class ArchiveHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ArchiveServer

    def do_GET(self) -> None:
        server, headers = self.server, self.headers
        if headers["X-Signature"] != signature(server.secret, headers["X-Time"], self.path):
            server.refused += 1
            self.send_error(403)
            return
        server.signatures.append(headers["X-Signature"])
        asked = parse_qs(urlsplit(self.path).query)
        start = int(asked["offset"][0])
        stop = start + int(asked["length"][0]) if "length" in asked else None
        body = server.content[start:stop]
        self.send_response(200)
        told = {"X-Size": len(server.content), "X-Version": "7", "Content-Length": len(body)}
        for name, value in {**told, "X-SHA256": hashlib.sha256(body).hexdigest()}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            pass  # the client has what it wanted

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


async def main(server: ArchiveServer, folder: Path) -> None:
    journal, target = folder / "transfers.db", folder / "big.bin"
    async with meowcat.Engine(journal, protocols=[ArchiveProtocol]) as engine:
        request = meowcat.Download(server.url, str(target), protocol=Archive("archive"), connections=4)
        task = await engine.submit(request)
        await engine.drain()
        print("the task waits for", *task.info.needs)
    key = meowcat.AccessKey(id="us", secret=server.secret)
    async with meowcat.Engine(journal, protocols=[ArchiveProtocol], credentials={"archive": key}) as engine:
        result = await (await engine.task(task.id)).result()
        print(f"{result.size:,} bytes in {len(server.signatures)} requests, each signed")
    print("the file is", "right" if target.read_bytes() == server.content else "WRONG")
    print("the secret is in the journal:", server.secret.encode() in journal.read_bytes())


if __name__ == "__main__":
    with (
        tempfile.TemporaryDirectory() as name,
        ArchiveServer(os.urandom(20 << 20), "a-secret-that-only-both-know") as server,
    ):
        asyncio.run(main(server, Path(name)))
