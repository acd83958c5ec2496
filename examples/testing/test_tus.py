"""The contract of upload protocols, run on the application's own one."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the application is

from custom_upload_protocol import TusProtocol, TusServer

from meowcat.core.sessions import Session
from meowcat.testing.protocol_suite import ProtocolHarness, ProtocolSuite


class TusHarness(ProtocolHarness):
    protocol = TusProtocol
    secrets = ("canary",)

    async def start(self) -> None:
        self.server = TusServer()

    async def stop(self) -> None:
        self.server.__exit__()

    def url(self, name: str) -> str:  # noqa: ARG002  # an endpoint for all
        return self.server.url

    def headers(self) -> dict[str, str]:
        return {"Authorization": "Bearer canary"}

    async def content(self, name: str) -> bytes | None:
        return self.server.content(name)

    async def sessions(self) -> int:
        server = self.server
        return sum(len(data) < server.sizes[place] for place, data in server.uploads.items())

    async def forget(self, session: Session) -> None:
        server = self.server
        del server.uploads["/files/" + session.id.rpartition("/")[2]]


class TestTus(ProtocolSuite):
    harness = TusHarness
