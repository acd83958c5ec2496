"""Downloads of objects: ranges of one version, each request signed by itself.

Redirects are not followed: one of an object store says that a bucket is elsewhere, where this signature is of
no use.
"""

from types import TracebackType

from msgspec.structs import replace

from meowcat.core.http_rules import Asked, Partial, Verdict, Whole, Wrong
from meowcat.core.transfers import ProtocolSpec
from meowcat.core.values import Checksum
from meowcat.protocols.contract import Asking
from meowcat.protocols.credentials import Credential
from meowcat.protocols.http_range import HttpAnswer, HttpRange
from meowcat.protocols.objects.exchange import Signer, Trials, Unsigned, needs_of
from meowcat.protocols.wire import Reply
from meowcat.transport.contract import Chunk, Exchange, Headers, HttpReply, HttpRequest, Pours, Transport

__all__ = ["SignedDownload"]

_MOST = 64 << 10
"""Bytes of an error that are read: it says which one it is."""

_JUDGED = frozenset({412, 416})
"""Statuses of an error that mean something to a download."""
_ERRORS = 300


class SignedDownload(HttpRange):
    """The content of one object, or of one version of it. A provider's own sets these when it is made:"""

    object_url: str
    """With the version in its query, where one is meant, and without a signature."""
    signer: Signer
    sent: dict[str, str]
    """Those of the caller's headers that go with a request for bytes."""

    @classmethod
    def needs(cls, spec: ProtocolSpec) -> tuple[str, ...]:
        return needs_of(spec)

    def ask(self, asked: Asked) -> Asking:
        asked = replace(self._completed(asked), keep_encoding=False, stored=True)
        return SignedAsking(self, self.sent | self._headers(asked), asked)

    def whole_digests(self, headers: Headers) -> tuple[Checksum, ...]:  # noqa: ARG002  # a default
        """Digests of the whole object that the provider tells in words of its own, with any of its bytes."""
        return ()


class SignedAsking:
    """One signed GET or HEAD; sent once more where the server refused the clock or the credential."""

    def __init__(self, download: SignedDownload, headers: dict[str, str], asked: Asked) -> None:
        self._download = download
        self._signer = download.signer
        self._tools = download.tools
        self._unsigned = Unsigned(asked.method, download.object_url, headers)
        self._asked = asked
        self._exchange: Exchange | None = None

    async def __aenter__(self) -> "SignedAnswer":
        trials = Trials(self._signer)
        while True:
            reply, key = await self._send(self._tools.transport)
            if reply.status < _ERRORS or reply.status in _JUDGED:
                return self._judged(reply)
            try:
                refusal = Reply(reply.status, reply.headers, await _beginning(reply))
                if not await trials.again(refusal, self._asked.method, key):
                    return self._judged(reply, Wrong(self._signer.fault(refusal, "a range of")))
            except BaseException:  # raised again: nobody else would leave the exchange
                await self.__aexit__(None, None, None)
                raise
            await self.__aexit__(None, None, None)

    def _judged(self, reply: HttpReply, wrong: Wrong | None = None) -> "SignedAnswer":
        answer = HttpAnswer(reply, self._asked, self._tools.wall())
        verdict = wrong or answer.verdict
        if isinstance(verdict, Partial | Whole):
            told = verdict.generation.digests + self._download.whole_digests(reply.headers)
            verdict = replace(verdict, generation=replace(verdict.generation, digests=told))
        return SignedAnswer(answer, verdict)

    async def _send(self, transport: Transport) -> tuple[HttpReply, Credential | None]:
        url, headers, key = await self._signer.sign(self._unsigned)
        exchange = transport.send(HttpRequest(self._unsigned.method, url, headers))
        reply = await exchange.__aenter__()
        self._exchange = exchange
        return reply, key

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            await exchange.__aexit__(kind, error, trace)


class SignedAnswer:
    """A reply, judged as any of HTTP's, but for that of which the provider says more."""

    def __init__(self, answer: HttpAnswer, verdict: Verdict) -> None:
        self._answer = answer
        self.verdict = verdict

    @property
    def digest(self) -> Checksum | None:
        return self._answer.digest

    async def read(self, size: int) -> Chunk:
        return await self._answer.read(size)

    @property
    def pours(self) -> Pours | None:
        return self._answer.pours


async def _beginning(reply: HttpReply) -> bytes:
    body = bytearray()
    while len(body) < _MOST and (chunk := await reply.read(_MOST - len(body))):
        body += chunk
    return bytes(body)
