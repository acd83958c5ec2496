"""Downloads over HTTP: GET with one Range (RFC 9110 14), pinned by If-Match or If-Unmodified-Since."""

from collections.abc import Callable
from types import TracebackType

from msgspec.structs import replace

from meowcat.core.http_fields import fields_of
from meowcat.core.http_rules import (
    DIGESTS,
    Asked,
    Partial,
    Verdict,
    condition_headers,
    content_digests,
    judge,
    range_header,
)
from meowcat.core.transfers import CHOOSING, FRAMING
from meowcat.core.values import Checksum
from meowcat.protocols.contract import Asking, DownloadJob, DownloadProtocol, Tools
from meowcat.transport.contract import Chunk, HttpReply, Pours, pours
from meowcat.transport.redirects import Following, Route

__all__ = ["HttpRange"]

_OWN = FRAMING | CHOOSING
"""Fields that only the engine may set, also where a plan or an older journal has them."""

_PREFERRED = ("sha256", "sha512", "blake3", "crc32c", "sha1", "md5")
"""Which of several digests of a body is compared; one is enough."""


class HttpRange(DownloadProtocol):
    """The content of one download, behind its URL and the redirects of it."""

    tag = "http"

    def __init__(self, job: DownloadJob, tools: Tools) -> None:
        super().__init__(job, tools)
        request = self._request = job.request
        own = {} if request.keep_encoding else {"Accept-Encoding": "identity"}  # 12.5.3
        callers = {name.lower() for name in job.headers}
        if request.accept is not None or "accept" not in callers:
            own["Accept"] = request.accept or "*/*"
        self._own = own
        taken = _OWN.union(map(str.lower, own))
        self._kept = {name: value for name, value in job.headers.items() if name.lower() not in taken}
        self._route = Route(tools.transport, job.url, self._kept)

    @property
    def looks_first(self) -> bool:
        return self._request.probe == "head" and self._request.total_size is None

    def look(self) -> Asking:
        return self.ask(Asked(0, None, None, method="HEAD"))

    def ask(self, asked: Asked) -> Asking:
        asked = self._completed(asked)
        exchange = self._route.open(asked.method, self._headers(asked))
        return HttpAsking(exchange, asked, self.tools.wall)

    def _completed(self, asked: Asked) -> Asked:
        """With what the request says of the content."""
        request = self._request
        if request.total_size is None and not request.keep_encoding:
            return asked
        return replace(asked, total=self._request.total_size, keep_encoding=self._request.keep_encoding)

    def _headers(self, asked: Asked) -> dict[str, str]:
        headers = self._own.copy()
        if not asked.keep_encoding and (asked.start or asked.stop is not None):
            headers["Range"] = range_header(asked.start, asked.stop)
        if asked.pinned is not None:
            headers |= condition_headers(asked.pinned)
        return headers


class HttpAsking:
    """One GET or HEAD, redirects included."""

    def __init__(self, exchange: Following, asked: Asked, wall: Callable[[], int]) -> None:
        self._exchange = exchange
        self._asked = asked
        self._wall = wall

    async def __aenter__(self) -> "HttpAnswer":
        return HttpAnswer(await self._exchange.__aenter__(), self._asked, self._wall())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exchange.__aexit__(kind, error, trace)


class HttpAnswer:
    """A reply, judged by `core.http_rules`."""

    def __init__(self, reply: HttpReply, asked: Asked, now_ms: int) -> None:
        self._reply = reply
        self._fields = fields_of(reply.headers)
        self._framed = "content-length" in self._fields and "transfer-encoding" not in self._fields
        self.verdict: Verdict = judge(asked, reply.status, self._fields, now_ms)

    @property
    def digest(self) -> Checksum | None:
        if self._fields.keys().isdisjoint(DIGESTS):
            return None
        verdict = self.verdict
        part = isinstance(verdict, Partial) and (verdict.start, verdict.stop) != (0, verdict.generation.size)
        offered = content_digests(self._fields, part=part)
        return min(offered, key=lambda each: _PREFERRED.index(each.algorithm), default=None)

    async def read(self, size: int) -> Chunk:
        return await self._reply.read(size)

    @property
    def pours(self) -> Pours | None:
        return self._reply if self._framed and pours(self._reply) else None
