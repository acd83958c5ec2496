"""Small bodies, and names, asked for on behalf of callers who wait for them."""

import json
from collections.abc import Awaitable, Callable, Mapping
from email.message import Message
from typing import Any, TypeVar

import anyio
from msgspec import Struct

from meowcat.core.content_disposition import file_name
from meowcat.core.errors import EngineClosed, FetchFailed, FetchQueueFull
from meowcat.core.fetch_rules import SmallGet, check_small_get, judge_small, retry_after, too_large
from meowcat.core.transfers import Download
from meowcat.core.urls import check_url, redact
from meowcat.core.values import Fault
from meowcat.transfer.context import World
from meowcat.transport.contract import Headers, HttpReply, HttpRequest, TransportFault
from meowcat.transport.redirects import open_following

READ = 64 << 10
NAME_SECONDS = 10.0
"""That a server may take to say a file's name, before the URL's own is taken."""

_CONTENT = range(200, 300)
_AS_IT_IS = {"Accept": "*/*", "Accept-Encoding": "identity"}
_NAMES_ASKED_BY = (("HEAD", _AS_IT_IS), ("GET", {**_AS_IT_IS, "Range": "bytes=0-0"}))
"""HEAD, which costs least; and one byte where a server answers HEAD with a refusal, as all do that were asked
by a URL that is signed for GET."""

Answer = TypeVar("Answer")


class Fetched(Struct, frozen=True, kw_only=True):
    """A small body in memory, and the reply that it came with."""

    status: int
    url: str
    """Where the redirects ended. It may be signed: its `repr` is redacted, the value is not."""
    headers: Mapping[str, str]
    """By names in lower case; the values of a repeated name are joined by commas."""
    content: bytes

    def __repr__(self) -> str:
        return f"<Fetched {self.status} {redact(self.url)}, {len(self.content):,} bytes>"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("status", self.status), ("url", redact(self.url)), ("size", len(self.content))]

    def text(self) -> str:
        """The content as text, by the charset of Content-Type, or UTF-8. What is none becomes U+FFFD."""
        media = Message()
        media["content-type"] = self.headers.get("content-type", "")
        try:
            return self.content.decode(media.get_content_charset("utf-8"), "replace")
        except (LookupError, UnicodeError):  # a charset that Python has not got, or that knows no replacement
            return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """The content as a value of JSON.

        Raises:
            ValueError: it is none.
        """
        return json.loads(self.content)


class Fetches:
    """Those of one engine: so many at once, and so many accepted."""

    def __init__(self, world: World, at_once: int, capacity: int) -> None:
        self._world = world
        self._places = anyio.Semaphore(at_once, max_value=at_once)
        self._capacity = capacity
        self._accepted: set[anyio.CancelScope] = set()
        self._closed = False
        self._left = anyio.Event()

    async def fetch(self, asked: SmallGet) -> Fetched:
        """See `Engine.fetch`."""
        check_small_get(asked)
        return await self._accept(asked.url, lambda: self._until_it_comes(asked))

    async def name(self, asked: Download) -> str:
        """See `Engine.name_of`. `asked` is checked, but for its URL."""
        check_url(asked.url)
        headers = asked.headers if asked.plan is None else {**asked.plan.headers, **asked.headers}
        return await self._accept(asked.url, lambda: self._named(asked.url, headers))

    async def _accept(self, url: str, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask, unless too many do, until the engine closes."""
        if self._closed:
            raise EngineClosed("the engine is closed; open a new one")
        if len(self._accepted) >= self._capacity:
            raise FetchQueueFull(
                f"{self._capacity:,} fetches were accepted already: wait for some of them, or set "
                "Config.fetch_capacity"
            )
        with anyio.CancelScope() as scope:
            self._accepted.add(scope)
            try:
                return await ask()
            finally:
                self._accepted.discard(scope)
                self._left.set()
        raise EngineClosed(f"the engine was closed before {redact(url)} had come")

    async def close(self) -> None:
        """End all that are under way or wait, and return once they are over."""
        self._closed = True
        for scope in tuple(self._accepted):
            scope.cancel()
        while self._accepted:
            self._left = anyio.Event()
            await self._left.wait()

    async def _named(self, url: str, headers: Mapping[str, str]) -> str:
        disposition = None
        async with self._places:
            with anyio.move_on_after(NAME_SECONDS):
                try:
                    disposition = await self._disposition(url, headers)
                except TransportFault:
                    pass  # for the transfer itself to meet again, and to judge: the URL's own name serves
        return file_name(disposition, url)

    async def _disposition(self, url: str, headers: Mapping[str, str]) -> str | None:
        """Content-Disposition of the first answer that has the content."""
        world = self._world
        await world.budget.acquire()
        try:
            for method, own in _NAMES_ASKED_BY:
                request = HttpRequest(method, url, own)
                async with open_following(world.transport, request, headers) as reply:
                    if reply.status in _CONTENT:
                        return _by_name(reply.headers).get("content-disposition")
        finally:
            world.budget.release()
        return None

    async def _until_it_comes(self, asked: SmallGet) -> Fetched:
        failures = 0
        while True:
            async with self._places:  # not while it waits: others may be quicker
                outcome = await self._attempt(asked)
            if isinstance(outcome, Fetched):
                return outcome
            failures += 1
            delay = retry_after(outcome, failures)
            if delay is None:
                raise FetchFailed(
                    f"{redact(asked.url)}: {outcome.detail}", code=outcome.code, status=outcome.status
                )
            await self._world.sleep(delay / 1000)

    async def _attempt(self, asked: SmallGet) -> Fetched | Fault:
        world = self._world
        request = HttpRequest("GET", asked.url, asked.own_headers)
        exchange = open_following(world.transport, request, asked.caller_headers, asked.max_redirects)
        await world.budget.acquire()
        try:
            async with exchange as reply:
                fault = judge_small(asked, reply.status, reply.headers, world.wall())
                if fault is not None:
                    return fault
                content = await _read(asked, reply)
                return Fetched(
                    status=reply.status, url=exchange.url, headers=_by_name(reply.headers), content=content
                )
        except TransportFault as failed:
            return failed.fault
        finally:
            world.budget.release()


async def _read(asked: SmallGet, reply: HttpReply) -> bytes:
    """All of the body. One that did not say how long it is, is left as soon as it is too long."""
    body = bytearray()
    while chunk := await reply.read(READ):
        body += chunk
        if len(body) > asked.max_bytes:
            raise too_large(asked, f"{len(body):,} bytes or more")
    return bytes(body)


def _by_name(headers: Headers) -> dict[str, str]:
    found: dict[str, str] = {}
    for field, value in headers:
        name = field.lower()
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found
