"""The protocol of examples/azure_direct_custom.py keeps the contract."""

import sys
from pathlib import Path

import anyio.to_thread
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import json

from azure_direct_custom import Slices, SlicesUpload
from azure_harness import container_of, stored

import meowcat
from meowcat.testing.protocol_suite import ProtocolHarness, ProtocolSuite


class SlicesHarness(ProtocolHarness):
    protocol = SlicesUpload
    part_size = 50_000
    server = None

    def __init__(self):
        self.asked = set()

    def _resolved(self, name):
        self.asked.add(f"slices/{name}")
        settings = Slices(meowcat.AzureBlob(endpoint=self.server.endpoint))
        return SlicesUpload.resolve(f"azure://{self.server.container}/slices/{name}", settings.spec())

    def url(self, name):
        return self._resolved(name)[0]

    def spec(self, name):
        return self._resolved(name)[1]

    def credentials(self):
        return {"default": self.server.key}

    def _joined(self, name):
        found = stored(self.server, f"slices/{name}")
        if found is None:
            return None
        return b"".join(stored(self.server, each) for each in json.loads(found)["slices"])

    async def content(self, name):
        return await anyio.to_thread.run_sync(self._joined, name)

    def _open(self):
        with container_of(self.server) as client:
            names = [each.name for each in client.list_blobs(name_starts_with="slices/")]
        return [name for name in names if name.endswith("/open") and name.rsplit(".", 1)[0] in self.asked]

    async def sessions(self):
        return len(await anyio.to_thread.run_sync(self._open))


@pytest.mark.servers
class TestSlices(ProtocolSuite):
    harness = SlicesHarness

    @pytest.fixture(autouse=True)
    def server(self, azurite):
        SlicesHarness.server = azurite
