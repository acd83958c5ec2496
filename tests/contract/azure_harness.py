"""What the tests of Azure share: a driver that does what the engine does, and the official SDK."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode imports no neighbours by itself

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import ContainerClient
from s3_harness import PATIENT, BytesPart, fresh_key, wall

from meowcat.core.pieces import Grid
from meowcat.core.sessions import Receipt, Session
from meowcat.core.transfers import Download
from meowcat.core.uploads import choose_part_size
from meowcat.core.values import TaskId
from meowcat.protocols.azure import AzureBlob, AzureDownload, AzureUpload
from meowcat.protocols.contract import DownloadJob, Job, Tools
from meowcat.protocols.credentials import AzureKey, Credentials
from meowcat.protocols.refreshers import Refreshers
from meowcat.transport.reqwest import ReqwestTransport

PART = 4 << 20
TASK = TaskId("01JDTASK000000000000000AZ1")
KEY = AzureKey(account="account", key="bWFkZS11cA==")


def tools_of(credential=KEY, *, clock=wall) -> Tools:
    return Tools(
        transport=ReqwestTransport(PATIENT),
        wall=clock,
        credentials=Credentials({"default": credential}, clock),
        refreshers=Refreshers(),
        skew={},
    )


@dataclass
class Sending:
    """One upload, step by step, each step by a protocol object of its own, as after a restart."""

    tools: Tools
    url: str
    content: bytes
    settings: AzureBlob
    headers: dict[str, str] = field(default_factory=dict)
    task: TaskId = TASK
    session: Session | None = None
    receipts: dict[int, Receipt] = field(default_factory=dict)

    @property
    def protocol(self) -> AzureUpload:
        url, spec = AzureUpload.resolve(self.url, self.settings.spec(), None)
        able = AzureUpload(self._job(url, spec, 0), self.tools).capabilities()
        self.part = choose_part_size(len(self.content), PART if able.max_parts > 1 else None, able)
        return AzureUpload(self._job(url, spec, self.part), self.tools)

    def _job(self, url, spec, part_size):
        return Job(
            task=self.task,
            spec=spec,
            url=url,
            headers=self.headers,
            name="object.bin",
            size=len(self.content),
            digests={},
            part_size=part_size,
        )

    def parts(self):
        grid = Grid(len(self.content), self.part)
        spans = [grid.span(index) for index in range(grid.count)] or [(0, 0)]
        return [BytesPart(self.content, index, *span) for index, span in enumerate(spans)]

    async def prepare(self):
        prepared = await self.protocol.prepare(self.session)
        self.session = prepared.session
        return prepared

    async def send(self, *indices):
        protocol = self.protocol
        for part in self.parts():
            if not indices or part.index in indices:
                self.receipts[part.index] = await protocol.send_part(self.session, part)

    async def commit(self):
        protocol = self.protocol
        last = self.parts()[-1] if self.session.capabilities.commits_with_last_part else None
        return await protocol.commit(self.session, self.receipts, last)

    async def all(self):
        await self.prepare()
        if not self.session.capabilities.commits_with_last_part:
            await self.send()
        return await self.commit()


def sending(server, content, *, name=None, tools=None, headers=None, **settings) -> Sending:
    """An upload to a real server."""
    return Sending(
        tools or tools_of(server.key),
        f"azure://{server.container}/{name or fresh_key()}",
        content,
        AzureBlob(endpoint=server.endpoint, **settings),
        headers or {},
    )


def download_of(server, url, tools, **settings) -> AzureDownload:
    found, spec = AzureDownload.resolve(url, AzureBlob(endpoint=server.endpoint, **settings).spec(), None)
    request = Download(found, to="/x", protocol=spec)
    return AzureDownload(DownloadJob(TASK, request, found, {}), tools)


def container_of(server) -> ContainerClient:
    """The official SDK's, for what stands there in the end."""
    key = {"account_name": server.key.account, "account_key": server.key.key}
    return ContainerClient(server.endpoint, server.container, credential=key)


def name_of(sent: Sending) -> str:
    return sent.url.split("/", 3)[3]


def stored(server, name: str) -> bytes | None:
    """What stands there, read by the official SDK."""
    with container_of(server) as client:
        try:
            return client.download_blob(name).readall()
        except ResourceNotFoundError:
            return None


def uncommitted(server, name: str):
    """The uncommitted blocks of a blob."""
    with container_of(server) as client:
        try:
            return client.get_blob_client(name).get_block_list("uncommitted")[1]
        except ResourceNotFoundError:
            return []
