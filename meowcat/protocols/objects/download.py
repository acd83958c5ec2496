"""Downloads of objects: ranges of one version, each request signed by itself.

Redirects are not followed: one of an object store says that a bucket is elsewhere, where this signature is of
no use.
"""

from types import TracebackType

from meowcat.core.http_rules import Asked, Verdict, Wrong
from meowcat.core.transfers import ProtocolSpec
from meowcat.core.values import Checksum
from meowcat.protocols.contract import Asking, Tools
from meowcat.protocols.credentials import Credential
from meowcat.protocols.http_range import HttpAnswer, HttpRange
from meowcat.protocols.objects.exchange import Signer, Trials, Unsigned, needs_of
from meowcat.protocols.wire import Reply
from meowcat.transport.contract import Chunk, Exchange, HttpReply, HttpRequest, Transport

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
        asked = self._completed(asked)
        return SignedAsking(self.signer, self.tools, self.object_url, self.sent | self._headers(asked), asked)


class SignedAsking:
    """One signed GET or HEAD; sent once more where the server refused the clock or the credential."""

    def __init__(self, signer: Signer, tools: Tools, url: str, headers: dict[str, str], asked: Asked) -> None:
        self._signer = signer
        self._tools = tools
        self._unsigned = Unsigned(asked.method, url, headers)
        self._asked = asked
        self._exchange: Exchange | None = None

    async def __aenter__(self) -> "SignedAnswer":
        trials = Trials(self._signer)
        while True:
            reply, key = await self._send(self._tools.transport)
            if reply.status < _ERRORS or reply.status in _JUDGED:
                return SignedAnswer(HttpAnswer(reply, self._asked, self._tools.wall()), None)
            try:
                refusal = Reply(reply.status, reply.headers, await _beginning(reply))
                if not await trials.again(refusal, self._asked.method, key):
                    fault = self._signer.fault(refusal, "a range of")
                    return SignedAnswer(HttpAnswer(reply, self._asked, self._tools.wall()), Wrong(fault))
            except BaseException:  # raised again: nobody else would leave the exchange
                await self.__aexit__(None, None, None)
                raise
            await self.__aexit__(None, None, None)

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
    """A reply, judged as any of HTTP's, but for the errors of which the provider says more."""

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
