"""What the tests of the form protocol share: its reference server as a process, parts, and a small sender."""

import hashlib
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import anyio

from meowcat.core.values import FaultKind, TaskId
from meowcat.protocols.contract import Job, Refused, Tools
from meowcat.protocols.credentials import Credentials
from meowcat.protocols.form_upload import FormProtocol, FormUpload
from meowcat.protocols.refreshers import Refreshers
from meowcat.transport.contract import Timeouts, Transport
from meowcat.transport.httpx import HttpxTransport
from meowcat.transport.reqwest import ReqwestTransport

SCRIPT = Path(__file__).parents[2] / "examples" / "form_upload_server.py"
PATIENT = Timeouts(connect=5, read=10, pool=10)
TASK = TaskId("01JDTASK00000000000000FORM")
NOW = 1_764_000_000_000

TRANSPORTS: dict[str, Callable[[], Transport]] = {
    "reqwest": lambda: ReqwestTransport(PATIENT),
    "httpx": lambda: HttpxTransport(timeouts=PATIENT),
}


class FormServer:
    """`with FormServer(folder) as server`: the example, as its users start it. `url` is where uploads go."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self._options = options
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        command = [sys.executable, str(SCRIPT), "--folder", str(self.folder), "--port", "0", *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, f"it ended with {self._process.wait()}"
        return self

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def __exit__(self, *exc: object) -> None:
        if self._process is not None:
            self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:  # a client still talks to it, in a test that has failed
                process.kill()
                process.wait()
            process.stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def file(self, id_: str) -> bytes:
        return (self.folder / "files" / id_).read_bytes()

    def names(self) -> list[tuple[str, str, str]]:
        """The id, name and category of all that was uploaded."""
        database = sqlite3.connect(self.folder / "uploads.db")
        try:
            return database.execute("SELECT id, name, category FROM names ORDER BY at").fetchall()
        finally:
            database.close()


class BytesPart:
    """A part of bytes in memory, handed out in chunks."""

    def __init__(self, content: bytes, index: int, start: int, stop: int, step: int = 64 << 10) -> None:
        self.index, self.start, self.size = index, start, stop - start
        self._data = content[start:stop]
        self._step = step

    async def checksum(self, algorithm: str) -> str:
        return hashlib.new(algorithm, self._data).hexdigest()

    async def body(self) -> AsyncIterator[bytes]:
        for at in range(0, self.size, self._step):
            yield self._data[at : at + self._step]


def md5_of(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def job_for(url, content, *, name="big file.bin", headers=None, md5=None, **chosen) -> Job:
    return Job(
        task=TASK,
        spec=FormUpload(**chosen).spec(),
        url=url,
        headers=headers or {},
        name=name,
        size=len(content),
        digests={"md5": md5 or md5_of(content)},
    )


def tools_of(transport: Transport) -> Tools:
    return Tools(
        transport=transport,
        wall=lambda: NOW,
        credentials=Credentials(),
        refreshers=Refreshers(),
        skew={},
    )


@dataclass
class Sender:
    """Sends a content as the engine does: strictly one part after the other, from where the server is."""

    content: bytes
    piece: int
    make: Callable[[], FormProtocol]
    confirmed: int = 0
    """Bytes that the server has confirmed at some time."""
    sent: list[tuple[int, int]] = field(default_factory=list)
    """Start and stop of all chunks that were sent and confirmed."""
    moved: anyio.Event = field(default_factory=anyio.Event)
    before_last: anyio.Event | None = None
    """The last chunk waits for it."""

    async def until(self, count: int) -> None:
        """Wait until so many chunks are confirmed."""
        while len(self.sent) < count:
            await self.moved.wait()

    def parts(self, at: int) -> list[BytesPart]:
        """From byte `at` on, cut at the grid."""
        size, found = len(self.content), []
        while at < size or not size:
            index = at // self.piece
            stop = min(size, (index + 1) * self.piece)
            found.append(BytesPart(self.content, index, at, stop))
            if not size:
                break
            at = stop
        return found

    async def run(self, lost: int = 3) -> dict[str, str]:
        """The result of the upload; begins anew at most `lost` times where the server forgot something."""
        while True:
            try:
                return await self._once()
            except Refused as refused:
                if refused.fault.kind is not FaultKind.SESSION_LOST or not lost:
                    raise
                lost -= 1

    async def _once(self) -> dict[str, str]:
        protocol = self.make()
        prepared = await protocol.prepare(None)
        if prepared.done is not None:
            return prepared.done
        *others, last = self.parts(prepared.offset)
        for part in others:
            await protocol.send_part(prepared.session, part)
            self.confirmed = part.start + part.size
            self.sent.append((part.start, self.confirmed))
            self.moved.set()
            self.moved = anyio.Event()
        if self.before_last is not None:
            await self.before_last.wait()
        result = await protocol.commit(prepared.session, {}, last)
        self.sent.append((last.start, last.start + last.size))
        return result
