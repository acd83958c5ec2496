"""Azure keeps the contract that everybody's own protocol has to; as the other protocols of meowcat do."""

import anyio.to_thread
import pytest
from azure_harness import stored, uncommitted

from meowcat.protocols import azure
from meowcat.testing.protocol_suite import ProtocolHarness, ProtocolSuite


class AzureHarness(ProtocolHarness):
    protocol = azure.AzureUpload
    part_size = 100_000
    server = None

    def __init__(self):
        self.asked = set()

    def _resolved(self, name):
        self.asked.add(name)
        settings = azure.AzureBlob(endpoint=self.server.endpoint, overwrite="replace")
        url = f"azure://{self.server.container}/suite/{name}"
        return azure.AzureUpload.resolve(url, settings.spec(), None)

    def url(self, name):
        return self._resolved(name)[0]

    def spec(self, name):
        return self._resolved(name)[1]

    def credentials(self):
        return {"default": self.server.key}

    async def content(self, name):
        return await anyio.to_thread.run_sync(stored, self.server, f"suite/{name}")

    async def sessions(self):
        """Blobs with blocks that nobody has committed."""
        return sum(bool(uncommitted(self.server, f"suite/{name}")) for name in self.asked)


class OnAzurite(ProtocolSuite):
    @pytest.fixture(autouse=True)
    def server(self, azurite):
        AzureHarness.server = azurite


@pytest.mark.servers
class TestAzureInOneRequest(OnAzurite):
    harness = AzureHarness


@pytest.mark.servers
class TestAzureInBlocks(OnAzurite):
    harness = AzureHarness

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        monkeypatch.setattr(azure.upload, "ONE_PUT", 1000)
