"""One connection of `RangeServer`: reading a request, answering it, and going wrong as the script says."""

import asyncio
import base64
import contextlib
import gzip
import hashlib
import select
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal

from meowcat.testing.content import BLOCK, Content

if TYPE_CHECKING:
    from meowcat.testing.range_server import RangeServer

End = Literal["reset", "close", "stall"]
Answered = tuple[int, Mapping[str, str], bytes]
"""A handler's answer: status, fields and body."""


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What a reply does otherwise than a good server would. Fields combine."""

    status: int | None = None
    """Answer this status, with `body`, instead of the content."""
    headers: tuple[tuple[str, str], ...] = ()
    """Fields that replace those of the same name; an empty value removes the field."""
    body: bytes = b""
    before: End | None = None
    """Reset, close or fall silent before the head is sent."""
    refuse_body: bool = False
    """Do not read the request's body until `RangeServer.resume`: its sender fills the buffers and waits."""
    take: int | None = None
    """Reset the connection after so many bytes of the request's body."""
    after: int | None = None
    """Do `then` after so many bytes of the body."""
    then: End = "reset"
    ignore_range: bool = False
    framing: Literal["length", "chunked", "close"] = "length"
    gzip: bool = False
    multipart: bool = False
    shift: int = 0
    """Take the bytes from so far beyond the place that Content-Range says."""
    rate: float | None = None
    """Bytes a second of the request's body, and of the reply's, besides the server's own limits."""


@dataclass(eq=False)
class Seen:
    """A request and what became of it. Counters are of bytes that passed the server's socket calls."""

    method: str
    target: str
    headers: dict[str, str]
    """Names in lower case; repeated fields joined by a comma."""
    connection: int
    """The number of its connection, from 1."""
    status: int = 0
    start: int | None = None
    """The offset of the first byte of content that the reply brings; None where it brings none."""
    sent: int = 0
    received: int = 0
    body: bytearray = field(default_factory=bytearray)
    """The first 64 KiB of the request's body."""
    complete: bool = False
    """Whether the request came in full."""
    answered: bool = False
    """Whether the reply went out in full."""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


class Bucket:
    """Spends `rate` bytes per second; None is without a limit."""

    def __init__(self, rate: float | None) -> None:
        self.rate = rate
        self._free_at = 0.0

    @property
    def step(self) -> int:
        """Bytes to send at once: about a fiftieth of a second, so that a cap is smooth."""
        return BLOCK if self.rate is None else max(1024, min(BLOCK, int(self.rate / 50)))

    async def take(self, count: int) -> None:
        if self.rate is None:
            return
        now = asyncio.get_running_loop().time()
        self._free_at = max(now, self._free_at) + count / self.rate
        await asyncio.sleep(self._free_at - now)


class Gone(Exception):  # an outcome, no error
    """The connection is to be dropped."""


class Connection:
    """Serves requests one after the other until either side ends it."""

    def __init__(
        self, server: "RangeServer", reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._bucket = Bucket(server.connection_rate)
        self.number = number
        self._hung_up = asyncio.Event()
        self.resumed = asyncio.Event()
        # Each drain waits for the kernel, so that what is counted as sent has left this process.
        if (
            writer.get_extra_info("ssl_object") is None
        ):  # asyncio's TLS never resumes a writer without a buffer
            writer.transport.set_write_buffer_limits(0)
        if server.rate.rate or server.connection_rate:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BLOCK)  # else megabytes count as sent unread

    async def serve(self) -> None:
        try:
            with self._watch_peer():
                while await self._exchange():
                    pass
        except (Gone, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the peer went, or the script says so
        finally:
            self._writer.transport.abort()
            self._closed()

    def _closed(self) -> None:
        ledger = self._server.ledger
        with ledger.changed:
            ledger.open.discard(self)
            ledger.changed.notify_all()

    @contextlib.contextmanager
    def _watch_peer(self) -> Iterator[None]:
        """Notice the peer's FIN or RST at once, also while nothing is read (asyncio does not)."""
        if not hasattr(select, "epoll"):
            yield
            return
        loop = asyncio.get_running_loop()
        twin = self._writer.get_extra_info("socket").dup()
        poll = select.epoll()
        poll.register(twin, select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLONESHOT)

        def hang_up() -> None:
            loop.remove_reader(poll.fileno())
            self._hung_up.set()
            self.resumed.set()
            self._closed()

        loop.add_reader(poll.fileno(), hang_up)
        try:
            yield
        finally:
            loop.remove_reader(poll.fileno())
            poll.close()
            twin.close()

    async def _exchange(self) -> bool:
        """Serve one request; whether another may follow."""
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except asyncio.IncompleteReadError:
            return False
        method, target, _ = head[0].split(" ")
        headers: dict[str, str] = {}
        for line in filter(None, head[1:]):
            name, _, value = line.partition(":")
            name, value = name.lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        seen = Seen(method, target, headers, self.number)
        trouble = self._server.trouble(seen) or Trouble()
        if trouble.refuse_body:
            await self.resumed.wait()
        await self._read_body(seen, trouble.take, Bucket(trouble.rate))
        seen.complete = True
        self._server.ledger.note()
        if trouble.before is not None:
            await self._end(trouble.before)
        await self._answer(seen, trouble)
        seen.answered = True
        self._server.ledger.note()
        return trouble.framing != "close" and headers.get("connection", "").lower() != "close"

    async def _read_body(self, seen: Seen, most: int | None, slow: Bucket) -> None:
        if seen.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16):
                await self._read_exactly(seen, size, most, slow)
                await self._reader.readexactly(2)
            await self._reader.readuntil(b"\r\n")
        else:
            size = int(seen.headers.get("content-length", "0"))
            await self._read_exactly(seen, size, most, slow)

    async def _read_exactly(self, seen: Seen, size: int, most: int | None, slow: Bucket) -> None:
        while size:
            left = BLOCK if most is None else most - seen.received
            if left <= 0:
                await self._end("reset")
            chunk = await self._reader.read(min(size, left, slow.step))
            if not chunk:
                raise Gone
            await slow.take(len(chunk))
            size -= len(chunk)
            seen.received += len(chunk)
            seen.body += chunk[: max(0, BLOCK - len(seen.body))]
            self._server.ledger.note()

    async def _hang(self) -> None:
        await self._hung_up.wait()
        raise Gone

    async def _end(self, how: End) -> None:
        if how == "stall":
            await self._hang()
        if how == "reset":
            linger = struct.pack("ii", 1, 0)  # on, zero seconds: close sends RST
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        else:
            self._writer.close()
            await self._writer.wait_closed()
        raise Gone

    async def _answer(self, seen: Seen, trouble: Trouble) -> None:
        server = self._server
        content = server.content(seen.path)
        step = min(self._bucket.step, server.rate.step, Bucket(trouble.rate).step)
        plan = planned(seen, content, trouble, ranges=server.ranges, digests=server.digests, step=step)
        seen.status, seen.start = plan.status, plan.start
        lines = [f"{name}: {value}" for name, value in plan.fields]
        head = "\r\n".join([f"HTTP/1.1 {plan.status} {phrase(plan.status)}", *lines, "", ""])
        self._writer.write(head.encode("latin-1"))
        await self._writer.drain()
        server.ledger.note()
        if seen.method != "HEAD":
            await self._send_body(seen, trouble, plan.body)

    async def _send_body(self, seen: Seen, trouble: Trouble, body: Iterable[bytes]) -> None:
        left, slow = trouble.after, Bucket(trouble.rate)
        for whole in body:
            chunk = whole if left is None else whole[:left]
            await self._server.rate.take(len(chunk))
            await self._bucket.take(len(chunk))
            await slow.take(len(chunk))
            if self._hung_up.is_set():
                raise Gone
            if chunk:  # one of no bytes would be the last of a chunked body
                self._writer.write(
                    b"%x\r\n%b\r\n" % (len(chunk), chunk) if trouble.framing == "chunked" else chunk
                )
            await self._writer.drain()
            seen.sent += len(chunk)
            self._server.ledger.note()
            if left is not None:
                left -= len(chunk)
                if left == 0:
                    await self._end(trouble.then)
        if trouble.framing == "chunked":
            self._writer.write(b"0\r\n\r\n")
        if trouble.framing == "close":
            await self._end("close")


@dataclass(frozen=True)
class Plan:
    """What is answered, before anything of it is sent."""

    status: int
    fields: list[tuple[str, str]]
    body: Iterable[bytes] = ()
    start: int | None = None
    """The offset of the first byte of content; None where the reply brings none."""


def planned(
    seen: Seen, content: Content | None, trouble: Trouble, *, ranges: bool, digests: bool, step: int
) -> Plan:
    """The answer of a server that honours conditions and ranges, but for what `trouble` makes of it.

    `step` is how many bytes a chunk of the body has at the most.
    """
    if trouble.status is not None:
        whole = trouble.body
        chunks = [whole[at : at + step] for at in range(0, max(len(whole), 1), step)]
        return _framed(trouble, trouble.status, {}, chunks, len(whole))
    if seen.method not in {"GET", "HEAD"}:
        text = f"received {seen.received}\n".encode()
        return _framed(trouble, 200, {}, [text], len(text))
    if content is None:
        return _framed(trouble, 404, {}, [], 0)
    if precondition_fails(seen.headers, content):
        return _framed(trouble, 412, {}, [], 0)
    return _with_content(seen, content, trouble, ranges=ranges, digests=digests, step=step)


def handled(answered: Answered, trouble: Trouble) -> Plan:
    """The answer of a handler, but for what `trouble` makes of it."""
    status, fields, body = answered
    return _framed(trouble, status, dict(fields), [body] if body else [], len(body))


def _with_content(
    seen: Seen, content: Content, trouble: Trouble, *, ranges: bool, digests: bool, step: int
) -> Plan:
    fields = {"Content-Type": content.content_type, "ETag": content.etag or ""}
    fields["Last-Modified"] = content.last_modified or ""
    ranged = ranges and not trouble.ignore_range
    fields["Accept-Ranges"] = "bytes" if ranged else ""
    span = chosen_range(seen.headers, content) if ranged else None
    start, stop = (0, content.size) if span is None else span
    if start >= stop and span is not None:
        fields["Content-Range"] = f"bytes */{content.size}"
        return _framed(trouble, 416, fields, [], 0)
    if span is not None:
        fields["Content-Range"] = f"bytes {start}-{stop - 1}/{content.size}"
    if digests:
        fields["Repr-Digest"] = f"sha-256=:{base64.b64encode(bytes.fromhex(content.sha256)).decode()}:"
        fields["Content-Digest"] = f"sha-256=:{content_digest(content, start, stop)}:"
    size = stop - start
    body: Iterable[bytes] = content.chunks(start + trouble.shift, stop + trouble.shift, step)
    if trouble.gzip:
        coded = gzip.compress(b"".join(body))
        body, size = [coded], len(coded)
        fields["Content-Encoding"] = "gzip"
    elif trouble.multipart:
        fields["Content-Type"] = "multipart/byteranges; boundary=cut"
        part = f"--cut\r\nContent-Range: {fields.pop('Content-Range', '')}\r\n\r\n".encode()
        coded = part + b"".join(body) + b"\r\n--cut--\r\n"
        body, size = [coded], len(coded)
    return _framed(trouble, 200 if span is None else 206, fields, body, size, start)


def _framed(
    trouble: Trouble,
    status: int,
    fields: dict[str, str],
    body: Iterable[bytes],
    size: int,
    start: int | None = None,
) -> Plan:
    """With the field that tells where the body ends, and those of the script."""
    if trouble.framing == "chunked":
        fields["Transfer-Encoding"] = "chunked"
    elif trouble.framing == "length":
        fields["Content-Length"] = str(size)
    replaced = {name.lower() for name, _ in trouble.headers}
    kept = [(name, value) for name, value in fields.items() if name.lower() not in replaced]
    return Plan(status, [(name, value) for name, value in [*kept, *trouble.headers] if value], body, start)


def bytes_served(requests: Iterable[Seen]) -> int:
    """Body bytes sent in replies with content."""
    return sum(seen.sent for seen in requests if seen.start is not None)


def bytes_sent_twice(requests: Iterable[Seen]) -> int:
    """Bytes sent although they had been sent before: served, minus the union of all ranges of each target."""
    spans = sorted(
        (seen.target, seen.start, seen.start + seen.sent) for seen in requests if seen.start is not None
    )
    covered, reached, current = 0, -1, None
    for target, start, stop in spans:
        reached = reached if target == current else -1
        covered += max(0, stop - max(start, reached))
        reached, current = max(reached, stop), target
    return sum(stop - start for _, start, stop in spans) - covered


def phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def content_digest(content: Content, start: int, stop: int) -> str:
    """SHA-256 of a range in base64 (RFC 9530, 2)."""
    digest = hashlib.sha256()
    for chunk in content.chunks(start, stop):
        digest.update(chunk)
    return base64.b64encode(digest.digest()).decode()


def precondition_fails(headers: dict[str, str], content: Content) -> bool:
    """If-Match and If-Unmodified-Since, in the order of RFC 9110 13.2.2."""
    if (wanted := headers.get("if-match")) is not None:
        tags = [tag.strip() for tag in wanted.split(",")]
        strong = content.etag if content.etag and not content.etag.startswith("W/") else None
        return tags != ["*"] and strong not in tags
    if (since := headers.get("if-unmodified-since")) is not None and content.last_modified:
        return parsedate_to_datetime(content.last_modified) > parsedate_to_datetime(since)
    return False


def chosen_range(headers: dict[str, str], content: Content) -> tuple[int, int] | None:
    """The one range asked for as [start, stop), None for the whole; empty where it can't be satisfied."""
    condition = headers.get("if-range")
    if condition is not None and condition not in {content.etag, content.last_modified}:
        return None
    if condition is not None and condition.startswith("W/"):
        return None  # RFC 9110 13.1.5: a weak validator never matches
    unit, _, spec = headers.get("range", "").partition("=")
    first, dash, last = spec.strip().partition("-")
    if unit != "bytes" or not dash or not (first + last).isdigit():
        return None
    if not first:
        return max(0, content.size - int(last)), content.size
    start, stop = int(first), int(last) + 1 if last else content.size
    if stop <= start:
        return None if last else (start, start)
    return start, max(start, min(stop, content.size)) if start < content.size else start
