"""What OSS alone has, and no server does when it is asked to."""

import base64
import hashlib

import pytest
from objects_harness import BytesPart, tools_of, wall
from scripted_store import COMPLETED, CREATED, ON_OSS, Script, error, refused, reply

from meowcat.core.http_rules import Asked, Partial
from meowcat.core.retry import Class, classify
from meowcat.core.values import Checksum, FaultKind
from meowcat.protocols.credentials import AccessKey

pytestmark = pytest.mark.anyio

HOUR = 60 * 60 * 1000


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def script(httpserver):
    made = Script(httpserver)
    yield made
    assert made.replies == [], "replies that nobody has asked for"


async def crc64(part):
    return int(await part.checksum("crc64xz"), 16)


def told(number, **headers):
    return reply(ETag='"e"', **{"x-oss-hash-crc64ecma": str(number)}, **headers)


# Checksums


async def test_a_part_that_oss_has_otherwise_than_it_was_sent_is_sent_again(script):
    sent = await ON_OSS.begun(script)
    part = sent.parts()[0]
    script.answers(told(await crc64(part) ^ 1))
    fault = await refused(sent.protocol.send_part(sent.session, part))
    assert classify(fault) is Class.TRANSIENT
    script.answers(told(await crc64(part)))
    receipt = await sent.protocol.send_part(sent.session, part)
    assert receipt.checksum == f"crc64xz:{await part.checksum('crc64xz')}"


async def test_the_whole_is_compared_with_what_its_parts_make(script):
    for changed, kind in ((0, None), (1, FaultKind.SESSION_LOST)):
        sent = await ON_OSS.begun(script)
        for part in sent.parts():
            script.answers(told(await crc64(part)))
            await sent.send(part.index)
        whole = await crc64(BytesPart(sent.content, 0, 0, len(sent.content))) ^ changed
        script.answers(reply(body=COMPLETED, x_oss_hash_crc64ecma=str(whole)))
        if kind is None:
            assert (await sent.commit())["etag"] == '"e"'
        else:
            assert (await refused(sent.commit())).kind is kind


@pytest.mark.parametrize("checksum", ["auto", "md5"])
async def test_what_is_small_is_sent_with_its_md5_since_it_replaces_the_object_at_once(script, checksum):
    sent = ON_OSS.sending(script, b"small", checksum=checksum)
    script.answers(told(await crc64(BytesPart(b"small", 0, 0, 5))))
    await sent.all()
    md5 = hashlib.md5(b"small", usedforsecurity=False).digest()
    assert script.seen[0].headers["Content-MD5"] == base64.b64encode(md5).decode()


async def test_a_part_goes_with_its_md5_where_that_is_asked_for(script):
    for checksum, has in (("auto", False), ("md5", True), ("none", False)):
        sent = await ON_OSS.begun(script, checksum=checksum)
        script.answers(reply(ETag='"e"'))
        await sent.send(0)
        assert ("Content-MD5" in script.seen[0].headers) is has
        assert (sent.receipts[0].checksum is None) is (checksum == "none")


# Conditions


@pytest.mark.parametrize("condition", [{"If-None-Match": "*"}, {"x-oss-forbid-overwrite": "true"}])
async def test_that_nothing_may_be_replaced_is_said_with_the_begin_and_the_commit(script, condition):
    sent = await ON_OSS.begun(script, headers=condition)
    assert script.seen[0].headers["x-oss-forbid-overwrite"] == "true"
    script.answers(reply(ETag='"e"'))
    await sent.send(0)
    assert "x-oss-forbid-overwrite" not in script.seen[0].headers
    script.answers(reply(body=COMPLETED), ON_OSS.marked(sent))
    await sent.commit()
    assert script.seen[0].headers["x-oss-forbid-overwrite"] == "true"
    assert "If-None-Match" not in script.seen[0].headers


async def test_an_object_of_ones_own_that_may_not_be_replaced_was_made_by_an_earlier_commit(script):
    sent = await ON_OSS.begun(script, headers={"x-oss-forbid-overwrite": "true"})
    script.answers(error("FileAlreadyExists", 409), ON_OSS.marked(sent))
    assert (await sent.commit())["etag"] == '"e"'
    script.answers(error("FileAlreadyExists", 409), reply(404))
    assert (await refused(sent.commit())).status == 409


@pytest.mark.parametrize(
    "header", [{"If-Match": '"e"'}, {"If-None-Match": '"e"'}, {"x-oss-callback": "e30="}]
)
async def test_a_header_that_would_be_lost_or_do_harm_is_refused_before_anything_is_sent(script, header):
    fault = await refused(ON_OSS.sending(script, headers=header).prepare())
    assert classify(fault) is Class.PERMANENT
    assert f"header {next(iter(header))}: " in fault.detail
    assert script.seen == []


# What is signed


async def test_additional_headers_are_named_and_signed(script):
    sent = ON_OSS.sending(script, additional_headers=("Host", "range"))
    script.answers(reply(body=CREATED))
    await sent.prepare()
    assert "AdditionalHeaders=host," in script.seen[0].headers["Authorization"]


async def test_a_head_has_its_error_in_a_header(script):
    expired = base64.b64encode(b"<Error><Code>SecurityTokenExpired</Code></Error>").decode()
    given = [AccessKey(id="OLD", secret="s", token="t1"), AccessKey(id="NEW", secret="s", token="t2")]
    sent = await ON_OSS.begun(script)
    sent.tools = tools_of(lambda: given.pop(0))
    script.answers(reply(403, x_oss_err=expired), ON_OSS.marked(sent))
    assert (await sent.protocol.reconcile(sent.session)).result["etag"] == '"e"'
    assert script.seen[1].headers["x-oss-security-token"] == "t2"


# Downloads


async def verdict_of(script, answer, **settings):
    script.answers(answer)
    async with ON_OSS.downloading(script, **settings).ask(Asked(0, 3, None)) as found:
        assert isinstance(found.verdict, Partial)
        return found.verdict


async def test_a_download_has_the_checksum_of_the_whole(script):
    told = {"Content-Range": "bytes 0-2/9", "x-oss-hash-crc64ecma": "11051210869376104954", "ETag": '"e"'}
    digests = (await verdict_of(script, reply(206, "123", **told))).generation.digests
    assert digests == (Checksum("crc64xz", "995dc9bbdf1939fa"),)
    assert script.seen[0].headers["x-oss-range-behavior"] == "standard"
    assert (await verdict_of(script, reply(206, "123", **told), checksum="none")).generation.digests == ()


@pytest.mark.parametrize(("encoding", "count"), [("identity", 1), ("gzip", 0)])
async def test_what_oss_compresses_on_the_way_is_not_compared_with_what_it_has(script, encoding, count):
    told = {"Content-Encoding": encoding, "x-oss-hash-crc64ecma": "7"}
    script.answers(reply(200, "123", **told))
    async with ON_OSS.downloading(script, keep_encoding=True).ask(Asked(0, None, None)) as found:
        assert len(found.verdict.generation.digests) == count


async def test_a_range_is_signed_where_that_is_asked_for(script):
    tools = tools_of(clock=lambda: wall() - HOUR)
    part = reply(206, "123", Content_Range="bytes 0-2/9", ETag='"e"')
    script.answers(error("RequestTimeTooSkewed", 403), part)
    protocol = ON_OSS.downloading(script, tools, additional_headers=("range",), version_id="v1")
    async with protocol.ask(Asked(0, 3, None)) as answer:
        assert bytes(await answer.read(9)) == b"123"
    assert all("AdditionalHeaders=range," in each.headers["Authorization"] for each in script.seen)
    assert script.asked == ["GET versionId=v1"] * 2
