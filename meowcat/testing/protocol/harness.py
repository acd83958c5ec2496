"""How the checks reach a protocol and its server: what an author of a protocol writes beside it."""

from collections.abc import Mapping
from typing import ClassVar

from meowcat.core.sessions import Session
from meowcat.core.transfers import ProtocolSpec
from meowcat.protocols.contract import UploadProtocol
from meowcat.protocols.credentials import Provider
from meowcat.protocols.refreshers import Refresher
from meowcat.testing.checklist import Lacking
from meowcat.transport.contract import Timeouts, Transport
from meowcat.transport.defaults import transport_for

__all__ = ["Lacking", "ProtocolHarness"]


class ProtocolHarness:
    """A server, and the protocol that talks to it; each check gets a harness of its own. Names, contents and
    tasks are never used twice, so that all may share one server.

    `protocol`, `url` and `content` must be written, and usually `start` and `stop`. `sessions` and `forget`
    are back doors: what is not there is skipped with its reason.
    """

    protocol: ClassVar[type[UploadProtocol]]
    part_size: ClassVar[int] = 64 << 10
    """Bytes in a part: as few as the server takes."""
    timeouts: ClassVar[Timeouts] = Timeouts(connect=5, read=5, pool=5)
    secrets: ClassVar[tuple[str, ...]] = ()
    """Texts that nothing may hold, besides the query values of `url`, the values of `headers`, and the
    keys of `credentials`."""

    async def start(self) -> None:
        """Bring the server up."""

    async def stop(self) -> None:
        """Take it down, with all that it keeps."""

    def url(self, name: str) -> str:
        """The URL of the object of this name, with any secrets that belong to it; or the endpoint."""
        raise NotImplementedError

    def spec(self, name: str) -> ProtocolSpec:  # noqa: ARG002  # a default
        """The settings of the upload of this object, as `UploadProtocol.resolve` gives them back."""
        return ProtocolSpec(self.protocol.tag, self.protocol.version)

    def headers(self) -> Mapping[str, str]:
        """The caller's, with any secrets that belong to them."""
        return {}

    def credentials(self) -> Mapping[str, Provider]:
        """What the settings name."""
        return {}

    def refreshers(self) -> Mapping[str, Refresher]:
        """What the settings name."""
        return {}

    def plan(self, name: str, size: int) -> object | None:  # noqa: ARG002  # a default
        """What else is handed in for an upload of so many bytes: a presigned plan."""
        return None

    def transport(self) -> Transport:
        """The HTTP client that the protocol uses as `Tools.transport`."""
        return transport_for(None, self.timeouts)[0]

    async def content(self, name: str) -> bytes | None:
        """What the server has as the object of this name, by another way than the protocol; None where there
        is none. Of an endpoint that names its objects itself: what came under the source's name."""
        raise NotImplementedError

    async def sessions(self) -> int:
        """How many sessions stand at the server of the names that `url` was asked for, or what else an upload
        leaves there that has not ended."""
        raise Lacking("sessions: there is no way to count what stands at the server")

    async def forget(self, session: Session) -> None:  # noqa: ARG002  # a default
        """Let the server forget the session, as one does that has expired."""
        raise Lacking("forget: there is no way to let the server forget a session")
