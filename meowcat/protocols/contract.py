"""What a protocol is to the code that moves bytes.

A download protocol turns "these bytes of that content" into a reply with a verdict. All else (which bytes are
missing, how many requests run, what is written and recorded) is the same for every protocol and lives in
`meowcat.transfer`.
"""

from types import TracebackType
from typing import Protocol

from meowcat.core.http_rules import Asked, Verdict
from meowcat.core.values import Checksum
from meowcat.transport.contract import Chunk

__all__ = ["Answer", "Asking", "DownloadProtocol"]


class Answer(Protocol):
    """The head of a reply, judged, and its body as a stream."""

    @property
    def verdict(self) -> Verdict:
        """What the reply is, and where its bytes belong: the only thing that places bytes."""

    @property
    def digest(self) -> Checksum | None:
        """Of this reply's own body, where the server sent one."""

    async def read(self, size: int) -> Chunk:
        """As `HttpReply.read`: up to `size` bytes, b"" at the end that the server meant.

        Raises:
            TransportFault: the body broke off, or fell silent.
        """


class Asking(Protocol):
    """A request under way: `async with asking as answer`. Leaving the block stops what is left of it.

    Raises:
        TransportFault: no answer came.
    """

    async def __aenter__(self) -> Answer: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class DownloadProtocol(Protocol):
    """How the bytes of one content are asked for."""

    @property
    def looks_first(self) -> bool:
        """Whether to ask `look` before the first request for bytes."""

    def look(self) -> Asking:
        """Ask for the head alone. What it does not answer, the first request for bytes will."""

    def ask(self, asked: Asked) -> Asking:
        """Ask for bytes. `Asked(0, None, …)` asks for all of the content in one reply, without a range."""
