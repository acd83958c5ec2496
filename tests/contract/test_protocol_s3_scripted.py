"""What S3 alone has, and no server does when it is asked to: checksums that are refused, or are others."""

import hashlib

import pytest
from scripted_store import COMPLETED, CREATED, ON_S3, Script, error, listed, refused, reply

from meowcat.core.sessions import Receipt
from meowcat.core.values import FaultKind

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def script(httpserver):
    made = Script(httpserver)
    yield made
    assert made.replies == [], "replies that nobody has asked for"


@pytest.fixture
def store():
    return ON_S3


async def test_a_server_that_refuses_the_checksum_is_asked_without(script, store):
    for refusal in (error("NotImplemented", 501), error("InvalidArgument", 400)):
        sent = store.sending(script)
        script.answers(refusal, reply(body=CREATED))
        await sent.prepare()
        assert sent.session.capabilities.part_checksum == "md5"
        assert [each.headers.get("x-amz-checksum-algorithm") for each in script.seen] == ["CRC64NVME", None]


async def test_a_checksum_that_the_user_chose_and_the_server_refuses_says_what_to_set(script, store):
    sent = store.sending(script, checksum="sha256")
    script.answers(error("NotImplemented", 501))
    assert "S3(checksum='md5')" in (await refused(sent.prepare())).detail


async def test_what_is_small_is_signed_with_its_content_and_a_part_with_its_checksum(script, store):
    sent = await store.begun(script, checksum="sha256")
    assert script.seen[0].headers["X-Amz-Content-SHA256"] == hashlib.sha256().hexdigest()
    script.answers(reply(ETag='"e"'))
    await sent.send(0)
    assert script.seen[0].headers["X-Amz-Content-SHA256"] == await sent.parts()[0].checksum("sha256")
    script.answers(reply(body=COMPLETED), reply(403))
    await sent.commit()
    assert script.seen[0].headers["X-Amz-Content-SHA256"] == hashlib.sha256(script.seen[0].data).hexdigest()


async def test_a_bucket_that_is_elsewhere_says_where(script, store):
    script.answers(error("PermanentRedirect", 301, x_amz_bucket_region="eu-west-1"))
    assert "'eu-west-1': set S3(region=" in (await refused(store.sending(script).prepare())).detail


async def test_a_part_without_an_etag_or_with_another_checksum_is_refused(script, store):
    sent = await store.begun(script, checksum="crc64nvme")
    part = sent.parts()[0]
    script.answers(reply())
    assert (await refused(sent.protocol.send_part(sent.session, part))).kind is FaultKind.REPLY
    script.answers(reply(ETag='"e"', x_amz_checksum_crc64nvme="AAAAAAAAAAA="))
    assert (await refused(sent.protocol.send_part(sent.session, part))).kind is FaultKind.CHECKSUM


async def test_where_the_server_encrypts_with_a_key_an_etag_is_no_md5(script, store):
    sent = store.sending(script)
    script.answers(reply(body=CREATED, x_amz_server_side_encryption="aws:kms"))
    await sent.prepare()
    script.answers(listed(1))
    assert (await sent.prepare()).held[0].md5 is None


async def test_a_whole_with_another_checksum_is_refused(script, store):
    sent = await store.begun(script, checksum="crc64nvme")
    sent.receipts = {
        part.index: Receipt(text="e", checksum=f"crc64nvme:{await part.checksum('crc64nvme')}")
        for part in sent.parts()
    }
    said = "<ETag>e</ETag><ChecksumCRC64NVME>AAAAAAAAAAE=</ChecksumCRC64NVME>"
    script.answers(reply(body=f"<CompleteMultipartUploadResult>{said}</CompleteMultipartUploadResult>"))
    fault = await refused(sent.commit())
    assert fault.kind is FaultKind.CHECKSUM
    assert script.seen[0].headers["x-amz-checksum-type"] == "FULL_OBJECT"
