"""Downloads from S3: ranges of one version of an object, each request signed by itself.

Redirects are not followed: one of S3 says that the bucket is elsewhere, where this signature is of no use.
"""

from types import TracebackType
from typing import ClassVar

from meowcat.core.http_rules import Asked, Verdict, Wrong
from meowcat.core.transfers import ProtocolSpec
from meowcat.core.values import Checksum
from meowcat.protocols.contract import Asking, DownloadJob, Tools
from meowcat.protocols.credentials import Credential
from meowcat.protocols.http_range import HttpAnswer, HttpRange
from meowcat.protocols.s3.address import address_of, resolve
from meowcat.protocols.s3.client import Signer, needs_of, sent_with
from meowcat.protocols.s3.settings import TAG
from meowcat.protocols.signing.sigv4 import EMPTY_SHA256
from meowcat.protocols.wire import Reply
from meowcat.transport.contract import Chunk, Exchange, HttpReply, HttpRequest, Transport

__all__ = ["S3Download"]

_MOST = 64 << 10
"""Bytes of an error that are read: it says which one it is."""

_JUDGED = frozenset({412, 416})
"""Statuses of an error that mean something to a download."""
_ERRORS = 300


class S3Download(HttpRange):
    """The content of one object, or of one version of it."""

    tag: ClassVar[str] = TAG

    def __init__(self, job: DownloadJob, tools: Tools) -> None:
        super().__init__(job, tools)
        assert job.request.protocol is not None  # noqa: S101  # it is what this class was chosen by
        spec = job.request.protocol
        address = address_of(spec)
        version = spec.fields.get("version_id")
        fields = [("versionId", str(version))] if version else []
        self.object_url = address.with_query(*fields)
        self.signer = Signer(address, str(spec.fields["credential"]), tools)
        self._sent = sent_with(self._kept)

    @classmethod
    def resolve(cls, url: str, spec: ProtocolSpec, plan: object | None = None) -> tuple[str, ProtocolSpec]:  # noqa: ARG003  # the contract's
        """See `address.resolve`."""
        return resolve(url, spec)

    @classmethod
    def needs(cls, spec: ProtocolSpec) -> tuple[str, ...]:
        return needs_of(spec)

    def ask(self, asked: Asked) -> Asking:
        asked = self._completed(asked)
        return S3Asking(self.signer, self.tools, self.object_url, self._sent | self._headers(asked), asked)


class S3Asking:
    """One signed GET or HEAD; sent once more where the server refused the clock or the credential."""

    def __init__(self, signer: Signer, tools: Tools, url: str, headers: dict[str, str], asked: Asked) -> None:
        self._signer = signer
        self._tools = tools
        self._url = url
        self._headers = headers
        self._asked = asked
        self._exchange: Exchange | None = None

    async def __aenter__(self) -> "S3Answer":
        corrected = renewed = False
        while True:
            reply, key = await self._send(self._tools.transport)
            if reply.status < _ERRORS or reply.status in _JUDGED:
                return S3Answer(HttpAnswer(reply, self._asked, self._tools.wall()), None)
            try:
                refusal = Reply(reply.status, reply.headers, await _beginning(reply))
                if not corrected and self._signer.learn_clock(refusal):
                    corrected = True
                elif not renewed and await self._signer.renew(refusal, self._asked.method, key):
                    renewed = True
                else:
                    fault = self._signer.fault(refusal, "a range of")
                    return S3Answer(HttpAnswer(reply, self._asked, self._tools.wall()), Wrong(fault))
            except BaseException:  # raised again: nobody else would leave the exchange
                await self.__aexit__(None, None, None)
                raise
            await self.__aexit__(None, None, None)

    async def _send(self, transport: Transport) -> tuple[HttpReply, Credential | None]:
        method = self._asked.method
        headers, key = await self._signer.sign(method, self._url, self._headers, EMPTY_SHA256)
        exchange = transport.send(HttpRequest(method, self._url, headers))
        reply = await exchange.__aenter__()
        self._exchange = exchange
        return reply, key

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            await exchange.__aexit__(kind, error, trace)


class S3Answer:
    """A reply, judged as any of HTTP's, but for the errors of which S3 says more."""

    def __init__(self, answer: HttpAnswer, wrong: Wrong | None) -> None:
        self._answer = answer
        self.verdict: Verdict = wrong or answer.verdict

    @property
    def digest(self) -> Checksum | None:
        return self._answer.digest

    async def read(self, size: int) -> Chunk:
        return await self._answer.read(size)


async def _beginning(reply: HttpReply) -> bytes:
    body = bytearray()
    while len(body) < _MOST and (chunk := await reply.read(_MOST - len(body))):
        body += chunk
    return bytes(body)
