"""What the tests of object stores share: parts of bytes in memory, and a driver that does what the engine
does.
"""

import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from meowcat.core.pieces import Grid
from meowcat.core.sessions import Receipt, Session
from meowcat.core.transfers import Download
from meowcat.core.uploads import choose_part_size
from meowcat.core.values import TaskId
from meowcat.protocols.azure import AzureBlob, AzureDownload, AzureUpload
from meowcat.protocols.contract import DownloadJob, Job, Tools, UploadProtocol
from meowcat.protocols.credentials import AccessKey, Credentials
from meowcat.protocols.objects.download import SignedDownload
from meowcat.protocols.oss import AliyunOSS, OSSDownload, OSSUpload
from meowcat.protocols.refreshers import Refreshers
from meowcat.protocols.s3 import S3, S3Download, S3Upload
from meowcat.transfer.digests import new
from meowcat.transport.contract import Timeouts
from meowcat.transport.reqwest import ReqwestTransport

PART = 5 << 20
PATIENT = Timeouts(connect=5, read=20, pool=10)
TASK = TaskId("01JDTASK000000000000000S3A")
KEY = AccessKey(id="AKID", secret="made-up")

UPLOADS: dict[type, type[UploadProtocol]] = {S3: S3Upload, AliyunOSS: OSSUpload, AzureBlob: AzureUpload}
DOWNLOADS: dict[type, type[SignedDownload]] = {
    S3: S3Download,
    AliyunOSS: OSSDownload,
    AzureBlob: AzureDownload,
}
"""By their settings."""

_names = itertools.count()


def fresh_key(name="object.bin"):
    return f"{time.time_ns():x}/{next(_names)}/{name}"


class BytesPart:
    """A part of bytes in memory, handed out in chunks."""

    def __init__(self, content: bytes, index: int, start: int, stop: int) -> None:
        self.index, self.start, self.size = index, start, stop - start
        self._data = content[start:stop]

    async def checksum(self, algorithm: str) -> str:
        digest = new(algorithm)
        digest.update(self._data)
        return digest.hexdigest()

    async def body(self) -> AsyncIterator[bytes]:
        for at in range(0, self.size, 256 << 10):
            yield self._data[at : at + (256 << 10)]


def wall():
    return time.time_ns() // 1_000_000


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
    settings: S3 | AliyunOSS | AzureBlob
    headers: dict[str, str] = field(default_factory=dict)
    task: TaskId = TASK
    session: Session | None = None
    receipts: dict[int, Receipt] = field(default_factory=dict)

    @property
    def protocol(self) -> UploadProtocol:
        upload = UPLOADS[type(self.settings)]
        url, spec = upload.resolve(self.url, self.settings.spec(), None)
        able = upload(self._job(url, spec, 0), self.tools).capabilities()
        self.part = choose_part_size(len(self.content), PART if able.max_parts > 1 else None, able)
        return upload(self._job(url, spec, self.part), self.tools)

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


def key_of(sent: Sending) -> str:
    return sent.url.split("/", 3)[3]


def downloading(settings, url, tools, **options) -> SignedDownload:
    protocol = DOWNLOADS[type(settings)]
    found, spec = protocol.resolve(url, settings.spec(), None)
    request = Download(found, to="/x", protocol=spec, **options)
    return protocol(DownloadJob(TASK, request, found, {}), tools)
