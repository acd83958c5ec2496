"""The protocols that come with meowcat keep the contract that everybody's own one has to."""

import anyio.to_thread
import pytest
from form_harness import FormServer
from object_servers import client_of

from meowcat import S3, AliyunOSS, FormUpload
from meowcat.protocols.form_upload import FormProtocol
from meowcat.protocols.oss import OSSUpload
from meowcat.protocols.s3 import S3Upload
from meowcat.testing.protocol_suite import ProtocolHarness, ProtocolSuite


@pytest.fixture(scope="module")
def form_server(tmp_path_factory):
    with FormServer(tmp_path_factory.mktemp("form")) as server:
        yield server


class FormHarness(ProtocolHarness):
    protocol = FormProtocol
    server = None

    def url(self, name):
        return f"{self.server.url}?token=canary-in-the-query"

    def headers(self):
        return {"Authorization": "Bearer canary-in-a-header"}

    def spec(self, name):
        return FormUpload(category="tests").spec()

    async def content(self, name):
        ids = [id_ for id_, known, _ in self.server.names() if known == name]
        return self.server.file(ids[-1]) if ids else None


class TestForm(ProtocolSuite):
    harness = FormHarness

    @pytest.fixture(autouse=True)
    def server(self, form_server):
        FormHarness.server = form_server


class S3Harness(ProtocolHarness):
    protocol = S3Upload
    part_size = 100_000
    server = None

    def __init__(self):
        self.client = client_of(self.server)
        self.asked = set()

    async def stop(self):
        self.client.close()

    def _resolved(self, name):
        self.asked.add(name)
        settings = S3(endpoint=self.server.origin)
        return S3Upload.resolve(f"s3://{self.server.bucket}/suite/{name}", settings.spec(), None)

    def url(self, name):
        return self._resolved(name)[0]

    def spec(self, name):
        return self._resolved(name)[1]

    def credentials(self):
        return {"default": self.server.key}

    async def content(self, name):
        def get():
            try:
                return self.client.get_object(Bucket=self.server.bucket, Key=f"suite/{name}")["Body"].read()
            except self.client.exceptions.NoSuchKey:
                return None

        return await anyio.to_thread.run_sync(get)

    def _uploads(self):
        found = self.client.list_multipart_uploads(Bucket=self.server.bucket, Prefix="suite/")
        return [each for each in found.get("Uploads", []) if each["Key"].removeprefix("suite/") in self.asked]

    async def sessions(self):
        return len(await anyio.to_thread.run_sync(self._uploads))

    async def forget(self, session):
        (found,) = [each for each in self._uploads() if each["UploadId"] == session.id]
        self.client.abort_multipart_upload(Bucket=self.server.bucket, Key=found["Key"], UploadId=session.id)


class OnSeaweedFS(ProtocolSuite):
    @pytest.fixture(autouse=True)
    def server(self, seaweedfs):
        S3Harness.server = seaweedfs


@pytest.mark.servers
class TestS3InOneRequest(OnSeaweedFS):
    harness = S3Harness


class S3HarnessOfParts(S3Harness):
    part_size = 5 << 20


@pytest.mark.servers
class TestS3InParts(OnSeaweedFS):
    harness = S3HarnessOfParts

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        monkeypatch.setattr(S3Upload, "one_put", 1000)


class OSSHarness(ProtocolHarness):
    protocol = OSSUpload
    part_size = 100_000
    server = None
    checksum = "md5"
    """So that the service itself compares each part."""

    def __init__(self):
        self.asked = set()

    def _resolved(self, name):
        self.asked.add(f"suite/{name}")
        settings = AliyunOSS(endpoint=self.server.origin, region=self.server.region, checksum=self.checksum)
        return OSSUpload.resolve(f"oss://{self.server.bucket}/suite/{name}", settings.spec(), None)

    def url(self, name):
        return self._resolved(name)[0]

    def spec(self, name):
        return self._resolved(name)[1]

    def credentials(self):
        return {"default": self.server.key}

    async def content(self, name):
        return await anyio.to_thread.run_sync(self.server.content, f"suite/{name}")

    def _uploads(self):
        return [id_ for key in self.asked for id_ in self.server.uploads(key)]

    async def sessions(self):
        return len(await anyio.to_thread.run_sync(self._uploads))

    async def forget(self, session):
        self.server.ask("abort", upload=session.id)


class OnOSS(ProtocolSuite):
    @pytest.fixture(autouse=True)
    def server(self, oss):
        OSSHarness.server = oss


class TestOSSInOneRequest(OnOSS):
    harness = OSSHarness


class OSSHarnessOfParts(OSSHarness):
    part_size = 100 << 10


class OSSHarnessWithoutMD5(OSSHarnessOfParts):
    checksum = "auto"


class OnOSSInParts(OnOSS):
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        monkeypatch.setattr(OSSUpload, "one_put", 1000)


class TestOSSInParts(OnOSSInParts):
    harness = OSSHarnessOfParts


class TestOSSInPartsComparedHere(OnOSSInParts):
    harness = OSSHarnessWithoutMD5
