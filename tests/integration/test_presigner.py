"""Plans that a back end makes with meowcat, through the engine, against servers that verify signatures."""

import os
import time

import anyio
import boto3
import httpx
import pytest
from botocore.config import Config as BotoConfig

import meowcat
from meowcat import S3, AliyunOSS, PresignedDownload, PresignedUpload, Presigner, WaitingFor
from meowcat.protocols.refreshers import RefreshReason
from meowcat.protocols.signing import oss_v4

pytestmark = pytest.mark.anyio

PART = 5 << 20
CONTENT = os.urandom(2 * PART + 12345)
CONFIG = meowcat.Config(retries=2, prepare_retries=2, control=False)
HOUR = 3_600_000


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "big.iso"
    path.write_bytes(CONTENT)
    return path


class BackEnd:
    """What an application's back end does: it has the key, opens uploads, and signs; also as a refresher."""

    def __init__(self, url, protocol, key, mark):
        self.url, self.protocol, self.key, self.mark = url, protocol, key, mark
        self.asked = []
        self.late = 0
        """Milliseconds that its clock is behind, so that its URLs have run out."""

    @property
    def presigner(self):
        return Presigner(
            self.url, self.protocol, self.key, wall=lambda: time.time_ns() // 1_000_000 - self.late
        )

    def opened(self):
        made = Presigner(self.url, self.protocol, self.key).begin(self.mark)
        with httpx.Client() as client:
            reply = client.request(made.method, made.url, headers=made.headers)
        return self.presigner.upload_id(reply.content)

    def plan(self, upload_id):
        return self.presigner.upload_plan(len(CONTENT), upload_id, part_size=PART, mark=self.mark)

    async def __call__(self, request):
        self.asked.append(request)
        self.late = 0
        if request.direction == "download":
            return self.presigner.download_plan()
        lost = request.reason is RefreshReason.SESSION_LOST
        upload = await anyio.to_thread.run_sync(self.opened) if lost else request.fingerprint.upload_id
        return self.plan(upload)


@pytest.fixture
def key(request):
    return f"presigned by meowcat/{time.time_ns():x}/{request.node.name}"


@pytest.fixture
def back_end(oss, key):
    settings = AliyunOSS(endpoint=oss.origin, region=oss.region, content_type="image/png")
    return BackEnd(f"oss://{oss.bucket}/{key}", settings, oss.key, "order-7")


def engine(tmp_path, back_end=None):
    refreshers = {"backend": back_end} if back_end is not None else {}
    return meowcat.Engine(tmp_path / "t.db", config=CONFIG, refreshers=refreshers)


def upload(file, protocol, **options):
    return meowcat.Upload(str(file), "", protocol, **options)


async def plan_of(back_end):
    upload = await anyio.to_thread.run_sync(back_end.opened)
    return back_end.plan(upload)


async def test_an_upload_by_a_plan_makes_the_object(tmp_path, file, oss, back_end, key):
    async with engine(tmp_path) as opened:
        result = await opened.upload(file, protocol=PresignedUpload(await plan_of(back_end)))
    assert oss.content(key) == CONTENT
    made = oss.object(key)
    assert result.remote["etag"] == f'"{made["etag"]}"'
    assert made["fields"] == {"content-type": "image/png", "x-oss-meta-meowcat-task": "order-7"}
    assert oss.uploads(key) == []
    assert len(oss.requests(op="upload_part", key=key, status=200)) == 3


@pytest.mark.parametrize("content", [b"", b"small"])
async def test_one_signed_request_makes_a_small_object(tmp_path, oss, back_end, key, content):
    plan = back_end.presigner.upload_plan(len(content), mark="order-7")
    async with engine(tmp_path) as opened:
        await opened.upload(content, protocol=PresignedUpload(plan))
    assert oss.content(key) == content
    assert oss.object(key)["fields"]["x-oss-meta-meowcat-task"] == "order-7"


async def until_sent(opened, count):
    """Returns once so many parts are recorded."""
    sent = 0
    async for logged in opened.events():
        if type(logged.event).__name__ == "Sent":
            sent += len(logged.event.receipts)
        if sent >= count:
            return


async def test_a_restart_asks_the_refresher_and_sends_no_confirmed_part_again(
    tmp_path, file, oss, back_end, key
):
    oss.fail(1000, op="upload_part", key=key, partNumber="3")
    async with engine(tmp_path, back_end) as opened:
        protocol = PresignedUpload(await plan_of(back_end), refresher="backend")
        task = await opened.submit(upload(file, protocol, connections=1, retries=1000))
        with anyio.fail_after(20):
            await until_sent(opened, 2)
    oss.mend()
    async with engine(tmp_path, back_end) as opened:
        await (await opened.task(task.id)).result()
    assert oss.content(key) == CONTENT
    sent = [each["query"]["partNumber"] for each in oss.requests(op="upload_part", key=key, status=200)]
    assert sent == ["1", "2", "3"]
    assert [request.reason for request in back_end.asked] == [RefreshReason.RESTART]


async def test_urls_that_the_server_calls_expired_are_replaced_once(tmp_path, file, oss, back_end, key):
    plan = await plan_of(back_end)
    back_end.late = 2 * HOUR
    stale = back_end.plan(plan.upload_id)
    good = int(time.time() * 1000) + HOUR
    told = msgspec_replaced(stale, good)
    async with engine(tmp_path, back_end) as opened:
        await opened.upload(file, protocol=PresignedUpload(told, refresher="backend"), retries=0)
    assert oss.content(key) == CONTENT
    assert [request.reason for request in back_end.asked] == [RefreshReason.REFUSED]
    assert {each["code"] for each in oss.requests(key=key)} == {"", "AccessDenied"}


def msgspec_replaced(plan, expires):
    """A plan that says of its URLs that they are good for longer."""
    parts = tuple(meowcat.PlanPart(p.number, p.offset, p.size, p.url, p.headers, expires) for p in plan.parts)
    fields = {name: getattr(plan, name) for name in plan.__struct_fields__}
    return meowcat.UploadPlan(**fields | {"parts": parts, "check": None, "proof": {}})


async def test_a_completion_whose_reply_was_lost_is_proved_by_its_mark(tmp_path, file, oss, back_end, key):
    oss.fail(op="complete_multipart_upload", key=key, after=True)
    async with engine(tmp_path, back_end) as opened:
        await opened.upload(file, protocol=PresignedUpload(await plan_of(back_end), refresher="backend"))
    assert oss.content(key) == CONTENT
    assert len(oss.requests(op="complete_multipart_upload", key=key)) == 1
    assert len(oss.requests(op="head_object", key=key)) == 1


async def test_an_upload_that_the_server_lost_is_opened_anew(tmp_path, file, oss, back_end, key):
    plan = await plan_of(back_end)
    oss.ask("abort", upload=plan.upload_id)
    async with engine(tmp_path, back_end) as opened:
        await opened.upload(file, protocol=PresignedUpload(plan, refresher="backend"))
    assert oss.content(key) == CONTENT
    assert [request.reason for request in back_end.asked] == [RefreshReason.SESSION_LOST]
    assert oss.uploads(key) == []


async def test_a_canceled_upload_leaves_nothing_at_the_server(tmp_path, file, oss, back_end, key):
    oss.fail(1000, op="upload_part", key=key, partNumber="3")
    async with engine(tmp_path, back_end) as opened:
        protocol = PresignedUpload(await plan_of(back_end))
        task = await opened.submit(upload(file, protocol, connections=1, retries=1000))
        with anyio.fail_after(20):
            await until_sent(opened, 2)
        await task.cancel()
        await opened.drain()
    oss.mend()
    assert (oss.uploads(key), oss.object(key)) == ([], None)


async def test_a_download_by_a_plan_goes_on_with_fresh_urls(tmp_path, oss, back_end, key):
    async with engine(tmp_path) as opened:
        await opened.upload(CONTENT, protocol=PresignedUpload(await plan_of(back_end)))
    back_end.late = 2 * HOUR
    stale = back_end.presigner.download_plan()
    plan = meowcat.DownloadPlan(
        url=stale.url, headers=stale.headers, expires=int(time.time() * 1000) + HOUR, total_size=len(CONTENT)
    )
    async with engine(tmp_path, back_end) as opened:
        protocol = PresignedDownload(plan, refresher="backend")
        await opened.download("", tmp_path / "got", protocol=protocol, connections=4, retries=0)
    assert (tmp_path / "got").read_bytes() == CONTENT
    assert [request.reason for request in back_end.asked] == [RefreshReason.REFUSED]
    assert len(oss.requests(op="get_object", key=key, status=206)) > 1


async def test_a_download_of_an_unknown_size_asks_head(tmp_path, oss, back_end, key):
    async with engine(tmp_path) as opened:
        await opened.upload(b"small", protocol=PresignedUpload(back_end.presigner.upload_plan(5)))
        protocol = PresignedDownload(back_end.presigner.download_plan())
        await opened.download("", tmp_path / "got", protocol=protocol)
    assert (tmp_path / "got").read_bytes() == b"small"
    asked = [each["op"] for each in oss.requests(key=key)]
    assert asked == ["head_object", "put_object", "head_object", "get_object"]


async def test_nothing_of_a_signature_or_a_session_is_stored(tmp_path, file, oss, back_end, key):
    back_end.key = oss.session(600, id="STS.CANARYID")
    async with engine(tmp_path, back_end) as opened:
        await opened.upload(file, protocol=PresignedUpload(await plan_of(back_end), refresher="backend"))
        protocol = PresignedDownload(back_end.presigner.download_plan(), refresher="backend")
        await opened.download("", tmp_path / "got", protocol=protocol)
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("t.db*"))
    assert b"presigned" in kept
    for secret in (b"CANARYID", b"x-oss-s", b"x-oss-cred", b"made-up"):
        assert secret not in kept


async def test_a_session_that_ends_while_it_uploads_is_replaced_once(tmp_path, file, oss, back_end, key):
    back_end.key = oss.session(600, id="STS.ENDING")
    plan = await plan_of(back_end)
    oss.expire(back_end.key)
    back_end.key = oss.session(600, id="STS.FRESH")
    async with engine(tmp_path, back_end) as opened:
        task = await opened.submit(upload(file, PresignedUpload(plan, refresher="backend"), retries=0))
        await task.result()
    assert oss.content(key) == CONTENT
    assert [request.reason for request in back_end.asked] == [RefreshReason.REFUSED]


async def test_without_a_refresher_a_task_waits_for_a_plan(tmp_path, file, oss, back_end, key):
    back_end.key = oss.session(600, id="STS.ENDED")
    plan = await plan_of(back_end)
    oss.expire(back_end.key)
    back_end.key = oss.key
    async with engine(tmp_path) as opened:
        task = await opened.submit(upload(file, PresignedUpload(plan), connections=1))
        with anyio.fail_after(20):
            while task.info.waiting_for is not WaitingFor.SUPPLY:
                await anyio.lowlevel.checkpoint()
        await task.supply(plan=back_end.plan(plan.upload_id))
        await task.result()
    assert oss.content(key) == CONTENT


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"key": meowcat.AccessKey(id="nobody", secret="x")}, "a key that the provider does not know"),
        ({"protocol": {"region": "cn-beijing"}}, "such as its region"),
        ({"url": "oss://no-such-bucket/k"}, "there is no such bucket"),
    ],
    ids=["key", "region", "bucket"],
)
async def test_a_plan_that_is_signed_wrongly_fails_and_says_how(tmp_path, oss, back_end, wrong, told):
    url = wrong.get("url", back_end.url)
    settings = AliyunOSS(endpoint=oss.origin, **{"region": oss.region} | wrong.get("protocol", {}))
    plan = Presigner(url, settings, wrong.get("key", oss.key)).upload_plan(5)
    async with engine(tmp_path) as opened:
        with pytest.raises(meowcat.TransferFailed, match=told) as raised:
            await opened.upload(b"small", protocol=PresignedUpload(plan), retries=0)
    assert "nobody" not in str(raised.value)


async def test_a_content_that_was_changed_on_the_way_is_refused(tmp_path, oss, back_end, key):
    """What OSS compares, where the back end knows the content beforehand."""
    headers = {"content-md5": "1B2M2Y8AsgTpgAmY7PhCfg=="}
    url = back_end.presigner.upload_plan(5).parts[0].url.partition("?")[0]
    at = time.time_ns() // 1_000_000
    signed = oss_v4.presign("PUT", url, oss.key, region=oss.region, at=at, expires=60, headers=headers)
    plan = meowcat.UploadPlan(total_size=5, chunk_size=5, parts=(meowcat.PlanPart(1, 0, 5, signed, headers),))
    async with engine(tmp_path) as opened:
        with pytest.raises(meowcat.TransferFailed, match="another MD5"):
            await opened.upload(b"small", protocol=PresignedUpload(plan), retries=0)
    assert oss.object(key) is None


# S3


@pytest.mark.servers
@pytest.mark.parametrize("size", [len(CONTENT), 7])
async def test_plans_for_s3(tmp_path, seaweedfs, key, size):
    settings = S3(endpoint=seaweedfs.origin, region=seaweedfs.region, content_type="image/png")
    back_end = BackEnd(f"s3://{seaweedfs.bucket}/{key}", settings, seaweedfs.key, "order-7")
    if size == len(CONTENT):
        plan = await plan_of(back_end)
    else:
        plan = back_end.presigner.upload_plan(size, mark="order-7")
    async with engine(tmp_path) as opened:
        await opened.upload(CONTENT[:size], protocol=PresignedUpload(plan))
        protocol = PresignedDownload(back_end.presigner.download_plan())
        await opened.download("", tmp_path / "got", protocol=protocol)
    assert (tmp_path / "got").read_bytes() == CONTENT[:size]
    client = boto3.client(
        "s3",
        endpoint_url=seaweedfs.origin,
        aws_access_key_id=seaweedfs.key.id,
        aws_secret_access_key=seaweedfs.key.secret,
        region_name=seaweedfs.region,
        config=BotoConfig(s3={"addressing_style": "path"}),
    )
    head = client.head_object(Bucket=seaweedfs.bucket, Key=key)
    client.close()
    assert (head["ContentType"], head["Metadata"]) == ("image/png", {"meowcat-task": "order-7"})
