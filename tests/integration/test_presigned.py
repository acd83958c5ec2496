"""Presigned plans through the engine, signed by boto3, against a real server that verifies signatures."""

import os
import time

import anyio
import boto3
import pytest
from botocore.config import Config as BotoConfig
from msgspec.structs import replace

import meowcat
from meowcat import State, WaitingFor
from meowcat.core.plans import DownloadPlan, PlanPart, PlanRequest, UploadPlan
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.presigned_settings import PresignedDownload, PresignedUpload, uploaded_parts
from meowcat.protocols.refreshers import RefreshReason
from meowcat.protocols.signing.sigv4 import presign
from meowcat.transfer.source_parts import SourcePart
from meowcat.transport.contract import HttpRequest, TransportFault
from meowcat.transport.reqwest import ReqwestTransport

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

PART = 5 << 20
CONTENT = os.urandom(2 * PART + 12345)
SIZE = len(CONTENT)
CONFIG = meowcat.Config(retries=2, prepare_retries=2, control=False)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "big.iso"
    path.write_bytes(CONTENT)
    os.utime(path, ns=(1, 1))
    return path


@pytest.fixture(scope="module")
def s3(seaweedfs):
    return boto3.client(
        "s3",
        endpoint_url=seaweedfs.origin,
        aws_access_key_id=seaweedfs.key.id,
        aws_secret_access_key=seaweedfs.key.secret,
        region_name=seaweedfs.region,
        config=BotoConfig(signature_version="s3v4", s3={"addressing_style": "path"}),
    )


class BackEnd:
    """What an application's back end does: it has the key, opens uploads, and signs."""

    def __init__(self, s3, server, key):
        self.s3, self.server, self.bucket, self.key = s3, server, server.bucket, key
        self.asked = []
        self.stale = False
        """Whether to sign URLs that ran out an hour ago, and to say that they are good."""

    def opened(self):
        return self.s3.create_multipart_upload(Bucket=self.bucket, Key=self.key)["UploadId"]

    def sign(self, what, method, **more):
        where = {"Bucket": self.bucket, "Key": self.key, **more}
        url = self.s3.generate_presigned_url(what, Params=where, ExpiresIn=3600, HttpMethod=method)
        if not self.stale:
            return url
        bare = "&".join(each for each in url.partition("?")[2].split("&") if not each.startswith("X-Amz-"))
        return presign(
            method,
            url.partition("?")[0] + (f"?{bare}" if bare else ""),
            self.server.key,
            region=self.server.region,
            at=int(time.time() * 1000) - 3_600_000,
            expires=60,
        )

    def plan(self, upload_id, size=SIZE, **changes):
        upload = {"UploadId": upload_id}
        good = int(time.time() * 1000) + 3_600_000
        parts = tuple(
            PlanPart(
                number=number,
                offset=offset,
                size=min(PART, size - offset),
                url=self.sign("upload_part", "PUT", PartNumber=number, **upload),
                expires=good,
            )
            for number, offset in enumerate(range(0, size, PART), start=1)
        )
        fields = {
            "complete": PlanRequest("POST", self.sign("complete_multipart_upload", "POST", **upload)),
            "abort": PlanRequest("DELETE", self.sign("abort_multipart_upload", "DELETE", **upload)),
            "check": PlanRequest("HEAD", self.sign("head_object", "HEAD")),
            "completion": "s3-xml",
            "upload_id": upload_id,
        }
        return UploadPlan(total_size=size, chunk_size=PART, parts=parts, **fields | changes)

    async def __call__(self, request):
        self.asked.append(request)
        self.stale = False
        if request.direction == "download":
            return self.download_plan()
        known = request.fingerprint.upload_id
        fresh = (
            known
            if request.same_upload or request.reason is not RefreshReason.SESSION_LOST
            else self.opened()
        )
        return await anyio.to_thread.run_sync(self.plan, fresh)

    def download_plan(self, **changes):
        fields = {
            "url": self.sign("get_object", "GET"),
            "expires": int(time.time() * 1000) + 3_600_000,
        }
        return DownloadPlan(**fields | changes)

    def object(self):
        return self.s3.get_object(Bucket=self.bucket, Key=self.key)["Body"].read()

    def open_uploads(self):
        found = self.s3.list_multipart_uploads(Bucket=self.bucket, Prefix=self.key)
        return [each["UploadId"] for each in found.get("Uploads", []) if each["Key"] == self.key]


@pytest.fixture
def back_end(s3, seaweedfs, request):
    return BackEnd(s3, seaweedfs, f"presigned/{request.node.name}.bin")


class Counting:
    """A transport that counts, and loses replies that it is told to."""

    def __init__(self):
        self.inner = ReqwestTransport()
        self.requests = []
        self.gates = {}
        """By method: how many requests pass, before the rest waits for ever."""
        self.lost = []
        """Methods whose next reply is lost, in turn."""
        self.unsent = []
        """Methods whose next request does not arrive, in turn."""
        self.meanwhile = None
        """What happens then."""

    def count(self, method):
        return sum(request.method == method for request in self.requests)

    def send(self, request: HttpRequest):
        return Counted(self, request)

    async def aclose(self):
        await self.inner.aclose()


class Counted:
    def __init__(self, counting, request):
        self.counting, self.request = counting, request
        self.exchange = counting.inner.send(request)

    async def __aenter__(self):
        counting, method = self.counting, self.request.method
        if counting.gates.get(method, 1) <= counting.count(method) and method in counting.gates:
            await anyio.sleep_forever()
        if counting.unsent and counting.unsent[0] == method:
            counting.unsent.pop(0)
            if counting.meanwhile is not None:
                counting.meanwhile()
            raise TransportFault(Fault(kind=FaultKind.DISCONNECTED, detail="as the test wants it"))
        counting.requests.append(self.request)
        reply = await self.exchange.__aenter__()
        if counting.lost and counting.lost[0] == method:
            counting.lost.pop(0)
            while await reply.read(65536):
                pass
            await self.exchange.__aexit__(None, None, None)
            raise TransportFault(Fault(kind=FaultKind.DISCONNECTED, detail="as the test wants it"))
        return reply

    async def __aexit__(self, *exc):
        await self.exchange.__aexit__(*exc)

    async def dead(self):
        await self.exchange.dead()


@pytest.fixture
async def transport():
    made = Counting()
    yield made
    await made.aclose()


def engine(tmp_path, transport, back_end=None):
    refreshers = {"backend": back_end} if back_end is not None else {}
    return meowcat.Engine(tmp_path / "t.db", config=CONFIG, http_client=transport, refreshers=refreshers)


def upload(file, plan, refresher="", **options):
    return meowcat.Upload(str(file), "", PresignedUpload(plan, refresher), **options)


async def until(condition):
    with anyio.fail_after(20):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def test_an_upload_by_a_plan_makes_the_object(tmp_path, file, transport, back_end):
    async with engine(tmp_path, transport) as opened:
        plan = back_end.plan(back_end.opened())
        result = await opened.upload(file, protocol=PresignedUpload(plan))
    assert back_end.object() == CONTENT
    assert back_end.open_uploads() == []
    assert transport.count("PUT") == 3
    head = back_end.s3.head_object(Bucket=back_end.bucket, Key=back_end.key)
    assert result.remote["etag"] == head["ETag"]


@pytest.mark.parametrize("connections", [1, 2])
async def test_little_memory_is_enough_and_side_by_side_threads_draw_the_parts(
    tmp_path, file, back_end, connections, monkeypatch
):
    """The server's ETags are compared once a part was sent, for which it is read again into memory."""
    drawn = []

    def draw(self, *where):
        drawn.append(self.index)
        return plain(self, *where)

    plain = SourcePart.draw
    monkeypatch.setattr(SourcePart, "draw", draw)
    config = meowcat.Config(retries=2, control=False, max_in_flight=8 << 20)
    async with meowcat.Engine(tmp_path / "t.db", config=config) as opened:
        protocol = PresignedUpload(back_end.plan(back_end.opened()))
        with anyio.fail_after(30):
            await opened.upload(file, protocol=protocol, connections=connections)
    assert back_end.object() == CONTENT
    assert bool(drawn) is (connections > 1)


async def test_a_single_signed_put_makes_the_object_at_the_commit(tmp_path, file, transport, back_end):
    size = len(CONTENT)
    part = PlanPart(1, 0, size, back_end.sign("put_object", "PUT"))
    plan = UploadPlan(total_size=size, chunk_size=size, parts=(part,))
    async with engine(tmp_path, transport) as opened:
        result = await opened.upload(file, protocol=PresignedUpload(plan))
    assert back_end.object() == CONTENT
    assert result.remote["etag"]


async def test_an_empty_content_gets_there(tmp_path, transport, back_end):
    part = PlanPart(1, 0, 0, back_end.sign("put_object", "PUT"))
    plan = UploadPlan(total_size=0, chunk_size=1, parts=(part,))
    async with engine(tmp_path, transport) as opened:
        await opened.upload(b"", protocol=PresignedUpload(plan))
    assert back_end.object() == b""


async def test_urls_that_the_server_calls_expired_are_replaced_once(tmp_path, file, transport, back_end):
    back_end.stale = True
    plan = back_end.plan(back_end.opened(), check=None)
    async with engine(tmp_path, transport, back_end) as opened:
        task = await opened.submit(upload(file, plan, "backend", retries=0, connections=3))
        await task.result()
        told = [logged.event async for logged in task.history()]
    assert back_end.object() == CONTENT
    assert [request.reason for request in back_end.asked] == [RefreshReason.REFUSED]
    assert not [event for event in told if type(event).__name__ == "AttemptFailed"]


async def test_urls_that_ran_out_wait_for_a_supplied_plan(tmp_path, file, transport, back_end):
    upload_id = back_end.opened()
    back_end.stale = True
    plan = back_end.plan(upload_id, check=None)
    back_end.stale = False
    async with engine(tmp_path, transport) as opened:
        task = await opened.submit(upload(file, plan, connections=1))
        await until(lambda: task.info.waiting_for is WaitingFor.SUPPLY)
        await task.supply(plan=back_end.plan(upload_id))
        await task.result()
    assert back_end.object() == CONTENT


async def stopped_midway(tmp_path, file, transport, plan, refresher="", passed=2):
    """An upload that was stopped after `passed` of its parts, as a process is that ends."""
    transport.gates["PUT"] = passed
    async with engine(tmp_path, transport) as opened:
        task = await opened.submit(upload(file, plan, refresher, connections=1))
        sent = 0
        async for logged in opened.events():
            sent += type(logged.event).__name__ == "Sent"
            if sent == passed:
                break
    del transport.gates["PUT"]
    return task.id


async def test_a_restart_asks_the_refresher_and_sends_no_confirmed_part_again(
    tmp_path, file, transport, back_end
):
    upload_id = back_end.opened()
    plan = await anyio.to_thread.run_sync(back_end.plan, upload_id)
    task = await stopped_midway(tmp_path, file, transport, plan, "backend")
    async with engine(tmp_path, transport, back_end) as opened:
        await (await opened.task(task)).result()
    assert back_end.object() == CONTENT
    assert transport.count("PUT") == 3
    (asked,) = back_end.asked
    assert (asked.reason, asked.confirmed, asked.wanted) == (RefreshReason.RESTART, (1, 2), (3,))
    assert asked.fingerprint.upload_id == upload_id
    assert back_end.open_uploads() == []


async def test_a_restart_without_a_refresher_waits_until_one_is_registered(
    tmp_path, file, transport, back_end
):
    plan = back_end.plan(back_end.opened())
    task = await stopped_midway(tmp_path, file, transport, plan, "backend")
    async with engine(tmp_path, transport) as opened:
        handle = await opened.task(task)
        await until(lambda: handle.info.waiting_for is WaitingFor.SUPPLY)
        assert transport.count("PUT") == 2
        await opened.add_refresher("backend", back_end)
        await handle.result()
    assert back_end.object() == CONTENT
    assert transport.count("PUT") == 3


async def test_a_restart_without_a_refresher_s_name_waits_for_a_plan(tmp_path, file, transport, back_end):
    upload_id = back_end.opened()
    task = await stopped_midway(tmp_path, file, transport, back_end.plan(upload_id))
    async with engine(tmp_path, transport) as opened:
        handle = await opened.task(task)
        await until(lambda: handle.info.waiting_for is WaitingFor.SUPPLY)
        await handle.supply(plan=back_end.plan(upload_id))
        await handle.result()
    assert back_end.object() == CONTENT
    assert transport.count("PUT") == 3


async def test_a_canceled_upload_leaves_nothing_at_the_server(tmp_path, file, transport, back_end):
    plan = back_end.plan(back_end.opened())
    transport.gates["PUT"] = 1
    async with engine(tmp_path, transport) as opened:
        task = await opened.submit(upload(file, plan))
        await until(lambda: transport.count("PUT") == 1)
        await task.cancel()
        await opened.drain()
    assert back_end.open_uploads() == []


async def test_an_abort_is_owed_over_a_restart(tmp_path, file, transport, back_end):
    plan = back_end.plan(back_end.opened())
    transport.gates["PUT"] = 1
    transport.unsent = ["DELETE"] * 100
    async with engine(tmp_path, transport) as opened:
        task = await opened.submit(upload(file, plan, "backend"))
        await until(lambda: transport.count("PUT") == 1)
        await task.cancel()
        await until(lambda: len(transport.unsent) < 100)
    assert len(back_end.open_uploads()) == 1
    transport.unsent.clear()
    async with engine(tmp_path, transport, back_end) as opened:
        await opened.drain()
    assert back_end.open_uploads() == []


async def test_a_completion_whose_reply_was_lost_is_found_by_its_object(tmp_path, file, transport, back_end):
    back_end.s3.put_object(Bucket=back_end.bucket, Key=back_end.key, Body=bytes(len(CONTENT)))
    plan = back_end.plan(back_end.opened())
    transport.lost = ["POST"]
    async with engine(tmp_path, transport, back_end) as opened:
        await opened.upload(file, protocol=PresignedUpload(plan, "backend"))
    assert back_end.object() == CONTENT
    assert transport.count("POST") == 1


async def test_a_completion_that_did_not_arrive_is_sent_again_over_an_old_object_of_the_same_size(
    tmp_path, file, transport, back_end
):
    back_end.s3.put_object(Bucket=back_end.bucket, Key=back_end.key, Body=bytes(len(CONTENT)))
    plan = back_end.plan(back_end.opened())
    transport.unsent = ["POST"]
    async with engine(tmp_path, transport, back_end) as opened:
        await opened.upload(file, protocol=PresignedUpload(plan, "backend"))
    assert back_end.object() == CONTENT
    assert transport.count("HEAD") == 2


@pytest.mark.parametrize("single", [True, False])
async def test_an_object_of_the_same_size_that_somebody_else_wrote_meanwhile_is_not_the_upload_s(
    tmp_path, file, transport, back_end, single
):
    check = PlanRequest("HEAD", back_end.sign("head_object", "HEAD"))
    part = PlanPart(1, 0, SIZE, back_end.sign("put_object", "PUT"))
    plan = UploadPlan(total_size=SIZE, chunk_size=SIZE, parts=(part,), check=check)
    plan = plan if single else back_end.plan(back_end.opened())
    where = {"Bucket": back_end.bucket, "Key": back_end.key}
    transport.meanwhile = lambda: back_end.s3.put_object(**where, Body=bytes(SIZE))
    transport.unsent = ["PUT" if single else "POST"]
    async with engine(tmp_path, transport) as opened:
        await opened.upload(file, protocol=PresignedUpload(plan))
    assert back_end.object() == CONTENT
    assert back_end.open_uploads() == []


async def test_a_single_put_whose_reply_was_lost_is_found_by_its_object(tmp_path, file, transport, back_end):
    check = PlanRequest("HEAD", back_end.sign("head_object", "HEAD"))
    part = PlanPart(1, 0, SIZE, back_end.sign("put_object", "PUT"))
    plan = UploadPlan(total_size=SIZE, chunk_size=SIZE, parts=(part,), check=check)
    transport.lost = ["PUT"]
    async with engine(tmp_path, transport) as opened:
        await opened.upload(file, protocol=PresignedUpload(plan))
    assert back_end.object() == CONTENT
    assert transport.count("PUT") == 1


async def test_a_canceled_upload_leaves_no_session_beside_somebody_else_s_object(
    tmp_path, file, transport, back_end
):
    plan = back_end.plan(back_end.opened())
    where = {"Bucket": back_end.bucket, "Key": back_end.key}
    transport.meanwhile = lambda: back_end.s3.put_object(**where, Body=bytes(SIZE))
    transport.unsent = ["POST"] * 9
    async with engine(tmp_path, transport) as opened:
        task = await opened.submit(upload(file, plan))
        await until(lambda: len(transport.unsent) < 9)
        await task.cancel()
        await opened.drain()
    assert back_end.open_uploads() == []
    assert back_end.object() == bytes(SIZE)


async def test_an_upload_that_the_server_lost_is_opened_anew(tmp_path, file, transport, back_end):
    upload_id = back_end.opened()
    plan = back_end.plan(upload_id)
    task = await stopped_midway(tmp_path, file, transport, plan, "backend", passed=1)
    back_end.s3.abort_multipart_upload(Bucket=back_end.bucket, Key=back_end.key, UploadId=upload_id)
    async with engine(tmp_path, transport, back_end) as opened:
        await (await opened.task(task)).result()
    assert back_end.object() == CONTENT
    assert [request.reason for request in back_end.asked] == [
        RefreshReason.RESTART,
        RefreshReason.SESSION_LOST,
    ]
    assert back_end.open_uploads() == []


async def test_parts_that_another_store_noted_are_compared_and_not_sent_again(
    tmp_path, file, transport, back_end
):
    plan = back_end.plan(back_end.opened())
    task = await stopped_midway(tmp_path, file, transport, plan, passed=2)
    async with engine(tmp_path, transport) as opened:
        receipts = {}
        async for logged in opened.history(task):
            if type(logged.event).__name__ == "Sent":
                receipts |= dict(zip(logged.event.numbers, logged.event.receipts, strict=True))
    noted = uploaded_parts(plan, receipts)
    assert [part.number for part in noted] == [1, 2]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    wrong = replace(noted[1], etag='"' + "0" * 32 + '"')
    resumed = plan.with_resumed_parts([noted[0], wrong])
    async with engine(elsewhere, transport) as opened:
        await opened.upload(file, protocol=PresignedUpload(resumed))
    assert back_end.object() == CONTENT
    assert transport.count("PUT") == 2 + 2


async def test_no_signature_reaches_the_journal(tmp_path, file, transport, back_end):
    back_end.stale = True
    plan = back_end.plan(back_end.opened(), check=None)
    async with engine(tmp_path, transport, back_end) as opened:
        await opened.upload(file, protocol=PresignedUpload(plan, "backend"))
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("t.db*"))
    assert b"presigned" in kept
    for secret in (b"X-Amz-", b"Signature", back_end.server.key.id.encode()):
        assert secret not in kept


# Downloads


@pytest.fixture
def stored(back_end):
    back_end.s3.put_object(Bucket=back_end.bucket, Key=back_end.key, Body=CONTENT)
    return back_end


def download(tmp_path, plan, refresher="", **options):
    return meowcat.Download(
        "", str(tmp_path / "got.bin"), protocol=PresignedDownload(plan, refresher), **options
    )


async def test_a_download_by_a_plan(tmp_path, transport, stored):
    async with engine(tmp_path, transport) as opened:
        task = await opened.submit(download(tmp_path, stored.download_plan()))
        await task.result()
    assert (tmp_path / "got.bin").read_bytes() == CONTENT


async def test_a_download_with_a_url_of_its_own_for_head(tmp_path, transport, stored):
    plan = stored.download_plan(head_url=stored.sign("head_object", "HEAD"))
    async with engine(tmp_path, transport) as opened:
        await (await opened.submit(download(tmp_path, plan))).result()
    assert (tmp_path / "got.bin").read_bytes() == CONTENT
    assert transport.requests[0].method == "HEAD"


async def test_a_known_size_needs_no_head_and_is_held_against_the_server_s(tmp_path, transport, stored):
    head = stored.sign("head_object", "HEAD")
    plan = stored.download_plan(head_url=head, total_size=len(CONTENT) - 1)
    async with engine(tmp_path, transport) as opened:
        task = await opened.submit(download(tmp_path, plan))
        with pytest.raises(meowcat.TransferFailed):
            await task.result()
    assert transport.count("HEAD") == 0


async def test_a_refused_url_of_a_download_is_replaced_once(tmp_path, transport, stored):
    stored.stale = True
    plan = stored.download_plan()
    async with engine(tmp_path, transport, stored) as opened:
        task = await opened.submit(download(tmp_path, plan, "backend", retries=0, connections=4))
        await task.result()
    assert (tmp_path / "got.bin").read_bytes() == CONTENT
    assert [request.reason for request in stored.asked] == [RefreshReason.REFUSED]
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("t.db*"))
    assert b"X-Amz-" not in kept


async def test_a_download_whose_url_ran_out_waits_for_a_plan(tmp_path, transport, stored):
    stored.stale = True
    plan = stored.download_plan()
    stored.stale = False
    async with engine(tmp_path, transport) as opened:
        task = await opened.submit(download(tmp_path, plan, connections=1))
        await until(lambda: task.info.waiting_for is WaitingFor.SUPPLY)
        await task.supply(plan=stored.download_plan())
        await task.result()
    assert (tmp_path / "got.bin").read_bytes() == CONTENT


async def test_a_restarted_download_asks_the_refresher(tmp_path, transport, stored):
    transport.gates["GET"] = 0
    async with engine(tmp_path, transport) as opened:
        task = await opened.submit(download(tmp_path, stored.download_plan(), "backend"))
        await until(lambda: task.state is not State.QUEUED)
    transport.gates.clear()
    async with engine(tmp_path, transport, stored) as opened:
        await (await opened.task(task.id)).result()
    assert (tmp_path / "got.bin").read_bytes() == CONTENT
    assert [request.reason for request in stored.asked] == [RefreshReason.RESTART]
