"""Plans that a back end signs for Azure, through the engine, against a server that verifies signatures."""

import os
import time
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec
import pytest
from azure_harness import container_of, fresh_key, stored, uncommitted

import meowcat
from meowcat import AzureBlob, AzureKey, AzurePresigner, InvalidArgument, PresignedDownload, PresignedUpload
from meowcat.core.events import TAGS
from meowcat.protocols.azure.settings import MARK

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

PART = 1 << 20
CONTENT = os.urandom(4 * PART + 12345)
CONFIG = meowcat.Config(retries=2, prepare_retries=2, control=False)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "big.iso"
    path.write_bytes(CONTENT)
    os.utime(path, (1, 1))
    return path


class BackEnd:
    """It has the key, and signs; also as a refresher."""

    def __init__(self, server, name, **settings):
        self.url = f"azure://{server.container}/{name}"
        self.settings = AzureBlob(endpoint=server.endpoint, content_type="image/png", **settings)
        self.key, self.asked = server.key, []
        self.late = 0
        """Milliseconds that its clock is behind, so that its URLs have run out."""

    @property
    def presigner(self):
        return AzurePresigner(
            self.url, self.settings, self.key, wall=lambda: time.time_ns() // 1_000_000 - self.late
        )

    def plan(self, upload="order-7"):
        return self.presigner.upload_plan(len(CONTENT), upload, part_size=PART)

    async def __call__(self, request):
        self.asked.append(request)
        self.late = 0
        if request.direction == "download":
            return self.presigner.download_plan()
        return self.plan(request.fingerprint.upload_id)


def engine(tmp_path, back_end):
    return meowcat.Engine(tmp_path / "t.db", refreshers={"backend": back_end}, config=CONFIG)


def over_the_wire(plan):
    """As another machine has it."""
    return msgspec.json.decode(msgspec.json.encode(plan), type=type(plan))


async def test_there_and_back(tmp_path, azurite, file):
    name = fresh_key("a b/ü.bin")
    back_end = BackEnd(azurite, name, tier="Cool", metadata={"owner": "me"})
    plan = over_the_wire(back_end.plan())
    async with engine(tmp_path, back_end) as opened:
        result = await opened.upload(file, protocol=PresignedUpload(plan, refresher="backend"))
        assert stored(azurite, name) == CONTENT
        assert uncommitted(azurite, name) == []
        fetch = over_the_wire(back_end.presigner.download_plan())
        await opened.download("", tmp_path / "back.iso", protocol=PresignedDownload(fetch))
    assert (tmp_path / "back.iso").read_bytes() == CONTENT
    assert back_end.asked == []
    with container_of(azurite) as client:
        found = client.get_blob_client(name).get_blob_properties()
    assert found.etag == result.remote["etag"]
    assert (found.content_settings.content_type, found.blob_tier) == ("image/png", "Cool")
    metadata = {key.lower(): value for key, value in found.metadata.items()}
    assert metadata == {MARK: "order-7", "owner": "me"}
    journal = b"".join(path.read_bytes() for path in tmp_path.glob("t.db*"))
    assert parse_qs(urlsplit(plan.parts[0].url).query)["sig"][0].encode() not in journal


@pytest.mark.parametrize("size", [0, 5, PART])
async def test_a_small_one_is_one_request(tmp_path, azurite, size):
    name = fresh_key()
    back_end = BackEnd(azurite, name)
    plan = back_end.presigner.upload_plan(size)
    assert (len(plan.parts), plan.complete, plan.abort) == (1, None, None)
    async with engine(tmp_path, back_end) as opened:
        await opened.upload(CONTENT[:size], protocol=PresignedUpload(plan))
    assert stored(azurite, name) == CONTENT[:size]


async def test_urls_that_have_run_out_are_signed_anew_and_nothing_is_sent_again(tmp_path, azurite, file):
    name = fresh_key()
    back_end = BackEnd(azurite, name)
    back_end.late = 2 * 3_600_000
    plan = back_end.plan()
    async with engine(tmp_path, back_end) as opened:
        task = await opened.submit(meowcat.Upload(str(file), "", PresignedUpload(plan, refresher="backend")))
        await task.result()
        sent = [TAGS[type(logged.event)] async for logged in task.history()].count("sent")
    assert stored(azurite, name) == CONTENT
    assert len(back_end.asked) == 1
    assert sent == 5


async def test_an_upload_goes_on_after_a_restart_with_a_plan_that_is_signed_anew(tmp_path, azurite, file):
    name = fresh_key()
    back_end = BackEnd(azurite, name)
    protocol = PresignedUpload(back_end.plan(), refresher="backend")
    request = meowcat.Upload(str(file), "", protocol, connections=1, limit_rate=2 << 20)
    async with engine(tmp_path, back_end) as opened:
        task = await opened.submit(request)
        async for progress in task.progress():
            if progress.bytes_done >= 2 * PART:
                break
    async with engine(tmp_path, back_end) as opened:
        task = await opened.task(task.id)
        await task.result()
        confirmed = [
            piece
            async for logged in task.history()
            if TAGS[type(logged.event)] == "sent"
            for piece in logged.event.pieces
        ]
    assert stored(azurite, name) == CONTENT
    assert len(confirmed) == 5


async def test_a_blob_that_is_there_stays_where_the_plan_says_so(tmp_path, azurite, file):
    name = fresh_key()
    with container_of(azurite) as client:
        client.upload_blob(name, b"older")
    back_end = BackEnd(azurite, name)
    async with engine(tmp_path, back_end) as opened:
        with pytest.raises(meowcat.TransferFailed, match=r"40[9]|412"):
            await opened.upload(file, protocol=PresignedUpload(back_end.plan()))
    assert stored(azurite, name) == b"older"
    replacing = BackEnd(azurite, name, overwrite="replace")
    (tmp_path / "other").mkdir()
    async with engine(tmp_path / "other", replacing) as opened:
        await opened.upload(file, protocol=PresignedUpload(replacing.plan("order-8")))
    assert stored(azurite, name) == CONTENT


async def test_urls_permit_what_they_are_for_and_no_more(azurite):
    plan = BackEnd(azurite, fresh_key()).plan()
    block, checking = plan.parts[0].url, plan.check.url
    async with httpx.AsyncClient() as client:
        for method, url in (
            ("GET", block.replace("comp=block&", "")),  # of a block: writes, and reads nothing
            ("DELETE", block.partition("?")[0] + "?" + checking.partition("?")[2]),
            ("PUT", block.replace("object.bin", "other.bin")),
        ):
            assert (await client.request(method, url)).status_code == 403


async def test_a_snapshot_is_planned_for(tmp_path, azurite):
    name = fresh_key()
    with container_of(azurite) as client:
        client.upload_blob(name, b"older")
        snapshot = client.get_blob_client(name).create_snapshot()["snapshot"]
        client.upload_blob(name, b"newer", overwrite=True)
    back_end = BackEnd(azurite, name, snapshot=snapshot)
    async with engine(tmp_path, back_end) as opened:
        plan = back_end.presigner.download_plan()
        await opened.download("", tmp_path / "back", protocol=PresignedDownload(plan))
    assert (tmp_path / "back").read_bytes() == b"older"


KEY = AzureKey(account="acct", key="bWFkZS11cA==")
BLOB = ("azure://container/blob", AzureBlob(account="acct"))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: AzurePresigner(*BLOB, "key"), "key: expected an AzureKey, got str"),
        (lambda: AzurePresigner(*BLOB, KEY, expires=0), "expires 0"),
        (lambda: AzurePresigner(*BLOB, KEY).upload_plan(1 << 30), "give an upload_id"),
        (lambda: AzurePresigner(*BLOB, KEY).upload_plan(0, "order"), "the source is empty"),
        (lambda: AzurePresigner(*BLOB, KEY).upload_plan(1, "a\nb"), "upload_id"),
        (lambda: AzurePresigner(*BLOB, KEY).upload_plan(60_000, "order", part_size=1), "makes 60000 parts"),
        (
            lambda: AzurePresigner(BLOB[0], AzureBlob(account="acct", snapshot="x"), KEY).upload_plan(1),
            "snapshot: an upload makes a new blob",
        ),
    ],
)
async def test_what_can_not_be_planned_is_refused(make, says):
    with pytest.raises(InvalidArgument, match=says):
        make()


async def test_a_plan_made_again_is_the_same_plan_and_its_blocks_have_the_ids_length_of_direct_uploads():
    first, again = (
        AzurePresigner(*BLOB, KEY, expires=60 + n).upload_plan(20 << 20, "order-7") for n in (0, 1)
    )
    assert first.fingerprint == again.fingerprint
    assert [part.part_id for part in first.parts] == [part.part_id for part in again.parts]
    assert first.parts[0].url != again.parts[0].url
    assert {len(part.part_id) for part in first.parts} == {64}
    other = AzurePresigner(*BLOB, KEY).upload_plan(20 << 20, "order-8")
    assert not {part.part_id for part in first.parts} & {part.part_id for part in other.parts}
    first.validate()
    assert "sig=" not in repr(first) + repr(AzurePresigner(*BLOB, KEY))
