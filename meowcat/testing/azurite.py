"""Azurite, the Azure Blob service that Microsoft makes for tests, on loopback and on disk.

It really verifies Shared Key and shared access signatures. It is a program for node, and `make azurite` puts
it into the virtual environment.
"""

import http.client
import shutil
import sys
import time
from pathlib import Path

from meowcat.protocols.credentials import AzureKey
from meowcat.protocols.signing.shared_key import sign
from meowcat.testing.servers import Program, ServerMissing

__all__ = ["Azurite"]


class Azurite(Program):
    """It has one account and, once it is ready, one container."""

    name = "azurite-blob"
    install = "make azurite, which needs node and npm"
    patience = 2.0

    container = "container"
    key = AzureKey(  # known to everybody who has ever read its pages
        account="devstoreaccount1",
        key="Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
    )

    @classmethod
    def find(cls) -> str:
        """That of node: what npm installs is a script for it. Raises as `Program.find`."""
        node = shutil.which("node")
        if node is None or cls._script() is None:
            raise ServerMissing(f"{cls.name} is not installed: {cls.install}")
        return node

    @classmethod
    def _script(cls) -> Path | None:
        beside = Path(sys.prefix) / "npm" / "node_modules" / ".bin" / cls.name
        found = str(beside) if beside.exists() else shutil.which(cls.name)
        return None if found is None else Path(found).resolve()

    @property
    def endpoint(self) -> str:
        """Of the account, which stands in the path."""
        return f"{self.origin}/{self.key.account}"

    def command(self, home: Path) -> list[str]:  # noqa: ARG002  # it needs no configuration
        script = self._script()
        assert script is not None, "found before it is started"
        return [
            str(script),
            *("--blobHost", "127.0.0.1", "--blobPort", str(self.port), "--location", str(self.folder)),
            *("--silent", "--skipApiVersionCheck", "--disableTelemetry"),
        ]

    def answers(self) -> bool:
        """Ready is what has made the container."""
        return self.request("PUT", f"/{self.container}?restype=container") in (201, 409)

    def request(self, method: str, path: str, body: bytes = b"") -> int:
        """One signed request for a path of the account; returns the reply's status."""
        url, now = self.endpoint + path, time.time_ns() // 1_000_000
        headers = sign(method, url, {}, self.key, at=now, length=len(body))
        headers["Content-Length"] = str(len(body))
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request(method, f"/{self.key.account}{path}", body, headers)
            with connection.getresponse() as reply:
                return reply.status
        except http.client.HTTPException as error:  # it broke off: not ready yet
            raise OSError(str(error)) from error
        finally:
            connection.close()
