"""Servers in memory, as a transport: they answer as `RangeServer` does, and go wrong as the script says.

Nothing is sent anywhere. Requests and reads of bodies are calls of the machine's `Power`; waiting is done
in the time of the running loop, which in a `World` is virtual.
"""

import copy
from collections import deque
from collections.abc import Callable, Mapping
from random import Random
from urllib.parse import urlsplit

import anyio

from meowcat.core.values import FaultKind
from meowcat.testing.content import BLOCK, Content
from meowcat.testing.depot import Depot
from meowcat.testing.exchanges import (
    Answered,
    Bucket,
    Plan,
    Seen,
    Trouble,
    bytes_sent_twice,
    bytes_served,
    handled,
    planned,
)
from meowcat.testing.power import Power
from meowcat.testing.range_server import Script
from meowcat.transport.contract import Headers, HttpRequest, Timeouts, TransportFault
from meowcat.transport.faults import describe

__all__ = ["Handler", "ScriptedServer", "ScriptedTransport"]

Handler = Callable[[Seen, str, bytes], Answered | None]
"""Answers requests by itself: is given what was seen, the URL, and the whole body as far as it came (whether
that is all, `Seen.complete` says); None leaves the answer to the server."""

LATENCY = (0.001, 0.02)
"""Seconds until a reply begins: at least, and at most; by the seed."""


class ScriptedServer:
    """All servers of a simulated world, by URL. A host that serves nothing can't be reached; another path of
    a host that serves something answers 404.

    `script` says what goes wrong, as that of `RangeServer`: one `Trouble` (or None) for each request in order
    of arrival, over all hosts, or a function of the request, which must depend on the request alone.
    `rate` is bytes a second over all bodies; `ranges` and `digests` are those of `RangeServer`.

    Uploads are taken by a `depot`, or by any other of the `handlers`. A trouble with a `status` or with
    `refuse_body` comes in the place of that, so that nothing is done; others come after it, so that `before`
    loses the reply alone.
    """

    def __init__(self) -> None:
        self.contents: dict[str, Content] = {}
        self.script: Script = ()
        self.rate: float | None = None
        self.ranges = True
        self.digests = False
        self.down_until = 0.0
        """Until this second of the world's time no host can be reached."""
        self.requests: list[Seen] = []
        """Every request so far, in order; their counters grow while they are answered."""
        self._bucket = Bucket(None)
        self.handlers: dict[str, Handler] = {}
        """Servers of one's own, by what their URLs begin with; each world has a deep copy."""

    def depot(self, url: str) -> Depot:
        """What takes uploads at `url` and at all URLs that begin with it; made when it is first asked for."""
        found = self._handler(url)
        if found is None:
            found = self.handlers[url] = Depot()
        assert isinstance(found, Depot), f"{url} is handled by {found!r}"
        return found

    def serve(self, url: str, content: Content | bytes | int) -> Content:
        """Serve a content at `url` from now on: given bytes, or so many made-up ones. Served again with
        other bytes, it is another generation; replies under way end with what they began."""
        if isinstance(content, int):
            content = Content(content, seed=len(self.contents))
        elif isinstance(content, bytes):
            content = Content(data=content)
        self.contents[url] = content
        return content

    def remove(self, url: str) -> None:
        """Answer 404 there from now on, or nothing if it was the host's last content."""
        del self.contents[url]

    def bytes_served(self) -> int:
        """Body bytes that clients took, over all replies with content."""
        return bytes_served(self.requests)

    def bytes_sent_twice(self) -> int:
        """Bytes that were taken although they had been before."""
        return bytes_sent_twice(self.requests)

    def copy(self) -> "ScriptedServer":
        """The same servers in a world of their own."""
        twin = ScriptedServer()
        twin.__dict__ |= self.__dict__
        twin.contents = dict(self.contents)
        twin.handlers = copy.deepcopy(self.handlers)
        twin.script = self.script if callable(self.script) else tuple(self.script)
        twin.requests = list(self.requests)
        twin._bucket = Bucket(None)
        return twin

    def reaches(self, url: str, now: float) -> bool:
        """Whether anybody answers at the URL's host at the second `now`."""
        hosts = {_origin(each) for each in (*self.contents, *self.handlers)}
        return now >= self.down_until and _origin(url) in hosts

    def arrived(self, seen: Seen) -> Trouble:
        """What goes wrong with a request."""
        self.requests.append(seen)
        return self._trouble(seen) or Trouble()

    def answer(self, seen: Seen, url: str, body: bytes, trouble: Trouble) -> Plan:
        """What a request gets."""
        if trouble.status is None and not trouble.refuse_body:
            answered = self._handled(seen, url, body)
            if answered is not None:
                return handled(answered, trouble)
        step = min(Bucket(self.rate).step, Bucket(trouble.rate).step)
        content = self.contents.get(url) or self._uploaded(url)
        return planned(seen, content, trouble, ranges=self.ranges, digests=self.digests, step=step)

    def broke_off(self, seen: Seen, url: str, body: bytes) -> None:
        """A request of which no more will come: some servers keep what they have got of it."""
        self._handled(seen, url, body)

    def _handled(self, seen: Seen, url: str, body: bytes) -> Answered | None:
        handler = self._handler(url)
        return None if handler is None else handler(seen, url, body)

    def _handler(self, url: str) -> Handler | None:
        fitting = [place for place in self.handlers if url.startswith(place)]
        return self.handlers[max(fitting, key=len)] if fitting else None

    def _uploaded(self, url: str) -> Content | None:
        depot = self._handler(url)
        stored = depot.objects.get(url.partition("?")[0]) if isinstance(depot, Depot) else None
        return None if stored is None else Content(data=stored.content)

    def _trouble(self, seen: Seen) -> Trouble | None:
        if callable(self.script):
            return self.script(seen)
        if not isinstance(self.script, deque):
            self.script = deque(self.script)
        return self.script.popleft() if self.script else None

    async def spend(self, count: int) -> None:
        """Wait until `count` bytes may go out."""
        self._bucket.rate = self.rate
        await self._bucket.take(count)


def _check_taken(url: str, size: int, most: int | None) -> None:
    if most is not None and size >= most:
        raise TransportFault(describe(FaultKind.DISCONNECTED, url))


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


class ScriptedTransport:
    """A `Transport` to the servers of a `ScriptedServer`.

    Args:
        server: who answers.
        power: counts the calls.
        random: of the latencies.
        timeouts: `read` is what a server that falls silent costs, `connect` one that can't be reached.
        clock: seconds of the world's time.

    """

    def __init__(
        self,
        server: ScriptedServer,
        power: Power,
        random: Random,
        timeouts: Timeouts,
        clock: Callable[[], float],
    ) -> None:
        self.server = server
        self.power = power
        self.random = random
        self.timeouts = timeouts
        self.clock = clock

    def send(self, request: HttpRequest) -> "ScriptedExchange":
        return ScriptedExchange(self, request)

    async def aclose(self) -> None:
        """There is nothing to close."""

    def call(self, url: str, name: str, *details: object) -> None:
        """Count a call; one that is to fail does so as a broken connection."""
        try:
            with self.power.call(name, *details):
                pass
        except OSError as error:
            raise TransportFault(describe(FaultKind.DISCONNECTED, url, str(error.strerror))) from error


class ScriptedExchange:
    """One request and its reply."""

    def __init__(self, transport: ScriptedTransport, request: HttpRequest) -> None:
        self._transport = transport
        self._request = request

    async def __aenter__(self) -> "ScriptedReply":
        transport, request = self._transport, self._request
        server, url = transport.server, request.url.partition("#")[0]
        headers = {name.lower(): value for name, value in request.headers.items()}
        transport.call(url, request.method, url, headers.get("range", ""))
        await anyio.sleep(transport.random.uniform(*LATENCY))
        if not server.reaches(url, transport.clock()):
            raise TransportFault(describe(FaultKind.UNREACHABLE, url))
        seen = self._seen(url, headers)
        trouble = server.arrived(seen)
        body = await self._body(seen, url, trouble)
        plan = server.answer(seen, url, body, trouble)
        if trouble.refuse_body or trouble.before == "stall":
            await anyio.sleep(transport.timeouts.read)
            raise TransportFault(describe(FaultKind.TIMEOUT, url))
        if trouble.before is not None:
            raise TransportFault(describe(FaultKind.DISCONNECTED, url))
        seen.status, seen.start = plan.status, plan.start
        return ScriptedReply(transport, url, seen, plan, trouble)

    def _seen(self, url: str, headers: Mapping[str, str]) -> Seen:
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"host": parts.netloc, **headers}
        return Seen(self._request.method, target, headers, len(self._transport.server.requests) + 1)

    async def _body(self, seen: Seen, url: str, trouble: Trouble) -> bytes:
        """The request's body, as it is sent."""
        body, server, most, slow = bytearray(), self._transport.server, trouble.take, Bucket(trouble.rate)
        try:
            if self._request.body is not None:
                async for chunk in self._request.body():
                    await server.spend(len(chunk))
                    await slow.take(len(chunk))
                    taken = chunk if most is None else chunk[: most - len(body)]
                    body += taken
                    seen.received += len(taken)
                    seen.body += taken[: max(0, BLOCK - len(seen.body))]
                    _check_taken(url, len(body), most)
        except BaseException:  # raised again: the power, a stop, or what the source or the script met
            server.broke_off(seen, url, bytes(body))
            raise
        seen.complete = True
        return bytes(body)

    async def __aexit__(self, *exc: object) -> None:
        """Nothing goes on after a stop: there is no socket."""

    async def dead(self) -> None:
        """At once."""


class ScriptedReply:
    """The reply's head, and its body as far as the script lets it come."""

    version = "HTTP/1.1"

    def __init__(
        self, transport: ScriptedTransport, url: str, seen: Seen, plan: Plan, trouble: Trouble
    ) -> None:
        self._transport = transport
        self._url = url
        self._seen = seen
        self._trouble = trouble
        self._chunks = iter(() if seen.method == "HEAD" else plan.body)
        self._rest = b""
        self._came = 0
        self._left = trouble.after
        self._slow = Bucket(trouble.rate)
        self.status = plan.status
        self.headers: Headers = plan.fields
        named = {name.lower(): value for name, value in plan.fields}
        self._owed = int(named["content-length"]) if "content-length" in named else None

    async def read(self, size: int) -> bytes:
        self._transport.call(self._url, "read", self._url, f"at most {size} bytes")
        if self._left == 0:
            await self._end()
        if not self._rest:
            self._rest = next(self._chunks, b"")
        chunk, self._rest = self._rest[:size], self._rest[size:]
        if self._left is not None:
            chunk = chunk[: self._left]
            self._left -= len(chunk)
        if self._owed is not None:
            chunk = chunk[: self._owed - self._came]
        if not chunk:
            if self._seen.method != "HEAD" and self._came < (self._owed or 0):
                raise TransportFault(describe(FaultKind.DISCONNECTED, self._url))
            self._seen.answered = True
            return b""
        self._came += len(chunk)
        await self._transport.server.spend(len(chunk))
        await self._slow.take(len(chunk))
        self._seen.sent += len(chunk)
        return chunk

    async def _end(self) -> None:
        """The script lets the body end here."""
        if self._trouble.then == "stall":
            await anyio.sleep(self._transport.timeouts.read)
            raise TransportFault(describe(FaultKind.TIMEOUT, self._url))
        if self._trouble.then == "close" and self._trouble.framing == "close":
            self._rest, self._chunks = b"", iter(())  # an end that looks as one that was meant
            self._left = None
            return
        raise TransportFault(describe(FaultKind.DISCONNECTED, self._url))
