"""A loopback HTTP/1.1 server that tells the truth about what it sent, and misbehaves on request.

It runs in a thread with a loop of its own, so that a test may block, or kill its own loop, without hurting
it. Everything public may be called from any thread.
"""

import asyncio
import contextlib
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Self

import anyio.to_thread

from meowcat.testing.content import Content
from meowcat.testing.exchanges import Bucket, Connection, Seen, Trouble, bytes_sent_twice, bytes_served

if TYPE_CHECKING:
    import trustme

Script = Iterable[Trouble | None] | Callable[[Seen], Trouble | None]
"""What goes wrong: one entry per request in order of arrival (then nothing), or a function of the request."""


@dataclass
class Ledger:
    """What the server has seen, guarded by one condition that is notified at each change."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    requests: list[Seen] = field(default_factory=list)
    open: set[Connection] = field(default_factory=set)
    accepted: int = 0

    def note(self) -> None:
        with self.changed:
            self.changed.notify_all()


_TURNS = 4
"""Of the loop, from the acceptance of a connection to the first step of its task."""


@cache
def _authority() -> "trustme.CA":
    import trustme  # noqa: PLC0415  # needed by TLS tests alone

    return trustme.CA()


def authority_pem() -> bytes:
    """The certificate of the authority of all `RangeServer(tls=True)` of this process."""
    pem: bytes = _authority().cert_pem.bytes()
    return pem


class RangeServer:
    """`with RangeServer(Content(1 << 20)) as server: ... server.url`.

    `contents` is one Content for every path, or one per path (others answer 404). `rate` and
    `connection_rate` are bytes per second, over all and per connection. With `tls` the server has a
    certificate of a private authority, whose PEM is `ca_pem`.
    """

    def __init__(
        self,
        contents: Content | Mapping[str, Content],
        *,
        script: Script = (),
        rate: float | None = None,
        connection_rate: float | None = None,
        ranges: bool = True,
        digests: bool = False,
        tls: bool = False,
        port: int = 0,
    ) -> None:
        self._contents = contents
        self.script = script
        self.rate = Bucket(rate)
        self.connection_rate = connection_rate
        self.ranges = ranges
        self.digests = digests
        self.ledger = Ledger()
        self.port = port
        self.ca_pem = b""
        self._tls = self._certificate() if tls else None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="range-server", daemon=True)
        self._started = threading.Event()
        self._failure: BaseException | None = None

    def _certificate(self) -> ssl.SSLContext:
        self.ca_pem = authority_pem()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        _authority().issue_cert("127.0.0.1", "localhost").configure_cert(context)
        context.set_alpn_protocols(["http/1.1"])
        return context

    # Starting and stopping

    def start(self) -> Self:
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def stop(self) -> None:
        """Close every socket and end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._halt.set)
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._serve())
            except BaseException as error:  # noqa: BLE001  # handed to the thread that waits in start()
                self._failure = error
                self._started.set()

    async def _serve(self) -> None:
        self._halt = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self._tls, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._halt.wait()
        for listening in server.sockets:
            self._loop.remove_reader(listening.fileno())
        for _ in range(
            _TURNS
        ):  # one that came at the last moment gets its task; a closed server would lose it
            await asyncio.sleep(0)
        server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with self.ledger.changed:
            self.ledger.accepted += 1
            connection = Connection(self, reader, writer, self.ledger.accepted)
            self.ledger.open.add(connection)
            self.ledger.changed.notify_all()
        with contextlib.suppress(asyncio.CancelledError):  # stop() ends connections; streams log it otherwise
            await connection.serve()

    # What connections ask

    def content(self, path: str) -> Content | None:
        if isinstance(self._contents, Content):
            return self._contents
        return self._contents.get(path)

    def trouble(self, seen: Seen) -> Trouble | None:
        with self.ledger.changed:
            self.ledger.requests.append(seen)
            self.ledger.changed.notify_all()
            if callable(self.script):
                return self.script(seen)
            if not isinstance(self.script, deque):
                self.script = deque(self.script)
            return self.script.popleft() if self.script else None

    # What tests ask

    @property
    def origin(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.origin}/file.bin"

    def replace(self, contents: Content | Mapping[str, Content]) -> None:
        """Serve another generation from now on; replies under way end with what they began."""
        with self.ledger.changed:
            self._contents = contents

    def resume(self) -> None:
        """Go on with the requests that `Trouble.refuse_body` holds up."""
        with self.ledger.changed:
            for connection in self.ledger.open:
                self._loop.call_soon_threadsafe(connection.resumed.set)

    @property
    def requests(self) -> list[Seen]:
        """Every request so far, in order of arrival; its counters still grow while it is answered."""
        with self.ledger.changed:
            return list(self.ledger.requests)

    @property
    def open_sockets(self) -> int:
        """Connections that neither side has closed."""
        with self.ledger.changed:
            return len(self.ledger.open)

    @property
    def connections(self) -> int:
        """Connections accepted so far."""
        with self.ledger.changed:
            return self.ledger.accepted

    def bytes_served(self) -> int:
        """Body bytes handed to the kernel over all replies with content."""
        return bytes_served(self.requests)

    def bytes_received(self) -> int:
        """Request body bytes read."""
        return sum(seen.received for seen in self.requests)

    def bytes_sent_twice(self) -> int:
        """Bytes that went out although they had been sent before: served, minus the union of all ranges."""
        return bytes_sent_twice(self.requests)

    def wait_for(self, claim: Callable[[Self], bool], timeout: float = 15.0) -> bool:
        """Block until `claim(server)` holds, looked at whenever something changes; False at the time-out."""
        deadline = time.monotonic() + timeout
        with self.ledger.changed:
            while not claim(self):
                left = deadline - time.monotonic()
                if left <= 0 or not self.ledger.changed.wait(left):
                    return claim(self)
        return True

    async def until(self, claim: Callable[[Self], bool], timeout: float = 15.0) -> bool:  # noqa: ASYNC109  # of the thread
        """`wait_for` from asynchronous code."""
        return await anyio.to_thread.run_sync(self.wait_for, claim, timeout)
