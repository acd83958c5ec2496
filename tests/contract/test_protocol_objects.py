"""Uploads and downloads of objects against real servers: a good one of S3, an odd one, and OSS's stand-in."""

import os
from dataclasses import replace

import pytest
from object_servers import download_of, etag_at, metadata_at, sending, stored, uploads_at, url_of
from objects_harness import PART, PATIENT, fresh_key, key_of, tools_of, wall
from oss_server import OSSServer

from meowcat.core.http_rules import Asked, Partial, Whole, Wrong
from meowcat.core.values import FaultKind
from meowcat.protocols.contract import Outcome, Refused
from meowcat.protocols.s3.settings import MARKER
from meowcat.transport.httpx import HttpxTransport
from meowcat.transport.reqwest import ReqwestTransport

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

CONTENT = os.urandom(2 * PART + 1234)
SMALL = b"a small one"


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(params=["seaweedfs", "rclone", "oss"])
def server(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["seaweedfs", "oss"])
def good(request):
    """Those that keep all rules of their kind."""
    return request.getfixturevalue(request.param)


async def refused(coroutine):
    with pytest.raises(Refused) as error:
        await coroutine
    return error.value.fault


@pytest.mark.parametrize("content", [b"", SMALL, CONTENT[: 8 << 20], CONTENT], ids=["0", "11", "8M", "10M"])
async def test_others_read_back_what_was_uploaded(server, content):
    sent = sending(server, content)
    result = await sent.all()
    assert stored(server, sent) == content
    assert etag_at(server, key_of(sent)) == result["etag"]
    assert uploads_at(server, sent) == []


@pytest.mark.parametrize("checksum", ["auto", "crc64nvme", "sha256", "md5", "none"])
@pytest.mark.parametrize("content", [SMALL, CONTENT], ids=["put", "parts"])
async def test_each_checksum_works(seaweedfs, checksum, content):
    sent = sending(seaweedfs, content, checksum=checksum)
    await sent.all()
    assert stored(seaweedfs, sent) == content


async def test_a_server_that_says_so_gets_the_checksum_of_the_whole_and_another_gets_md5(seaweedfs, rclone):
    for server, algorithm in ((seaweedfs, "crc64nvme"), (rclone, "md5")):
        sent = sending(server, CONTENT)
        await sent.all()
        assert sent.session.capabilities.part_checksum == algorithm
        assert {receipt.checksum.partition(":")[0] for receipt in sent.receipts.values()} == {algorithm}


async def test_a_part_that_is_damaged_on_its_way_is_refused(server):
    sent = sending(server, CONTENT)
    await sent.prepare()

    async def other(part):
        yield b"x" * part.size

    part = sent.parts()[0]
    part.body = lambda: other(part)
    fault = await refused(sent.protocol.send_part(sent.session, part))
    assert fault.kind is FaultKind.DISCONNECTED
    assert "other bytes than were sent" in fault.detail


@pytest.mark.parametrize(
    "odd", ["a b+c.bin", "ä/ö ü.bin", "q?u#e%20ry=1&2", "(1)!'*~$,;:@", "x" * 200, "日本"]
)
@pytest.mark.parametrize("transport", [ReqwestTransport, HttpxTransport])
async def test_keys_of_all_kinds(server, odd, transport):
    tools = replace(tools_of(server.key), transport=transport(timeouts=PATIENT))
    sent = sending(server, SMALL, key=fresh_key(odd), tools=tools)
    await sent.all()
    assert stored(server, sent) == SMALL
    assert list(await sent.protocol.orphans()) == []
    await tools.transport.aclose()


async def test_metadata_media_type_and_the_callers_headers_go_with_the_object(seaweedfs):
    for content in (SMALL, CONTENT):
        sent = sending(
            seaweedfs,
            content,
            content_type="text/x-made-up",
            metadata={"Owner": "meow cat"},
            headers={"Cache-Control": "max-age=60", "x-amz-meta-more": "2"},
        )
        await sent.all()
        head = metadata_at(seaweedfs, key_of(sent))
        assert head["ContentType"] == "text/x-made-up"
        assert head["CacheControl"] == "max-age=60"
        marker = MARKER.removeprefix("x-amz-meta-")
        assert head["Metadata"].pop(marker).startswith(sent.task)
        assert head["Metadata"] == {"owner": "meow cat", "more": "2"}


@pytest.mark.parametrize("content", [SMALL, CONTENT], ids=["put", "parts"])
async def test_an_object_that_stands_there_is_left_alone_where_the_caller_says_so(good, content):
    key = fresh_key()
    await sending(good, b"older", key=key).all()
    sent = sending(good, content, key=key, headers={"If-None-Match": "*"})
    fault = await refused(sent.all())
    assert (fault.kind, fault.status) == (FaultKind.STATUS, 409 if isinstance(good, OSSServer) else 412)
    assert "nothing was replaced" in fault.detail
    assert stored(good, sent) == b"older"


# Resuming


async def test_after_a_restart_the_server_says_what_it_has(server):
    sent = sending(server, CONTENT)
    await sent.prepare()
    await sent.send(0, 1)
    prepared = await sent.prepare()
    assert prepared.done is None
    assert {index: held.size for index, held in prepared.held.items()} == {0: PART, 1: PART}
    for index, held in prepared.held.items():
        assert held.receipt.text == sent.receipts[index].text
        assert held.md5 == await sent.parts()[index].checksum("md5")
    await sent.send(2)
    await sent.commit()
    assert stored(server, sent) == CONTENT


async def test_a_part_that_was_sent_twice_counts_once(good):
    sent = sending(good, CONTENT)
    await sent.prepare()
    await sent.send(0)
    await sent.send(0)
    prepared = await sent.prepare()
    assert list(prepared.held) == [0]
    await sent.send()
    await sent.commit()
    assert stored(good, sent) == CONTENT


async def test_a_session_that_is_gone_is_lost(server):
    sent = sending(server, CONTENT)
    await sent.prepare()
    await sent.protocol.abort(sent.session)
    fault = await refused(sent.prepare())
    assert fault.kind is FaultKind.SESSION_LOST


async def test_a_session_that_is_gone_because_it_was_committed_is_done(server):
    sent = sending(server, CONTENT)
    result = await sent.all()
    prepared = await sent.prepare()
    assert prepared.done is not None
    assert prepared.done["etag"] == result["etag"]


# The commit


@pytest.mark.parametrize("content", [SMALL, CONTENT], ids=["put", "parts"])
async def test_a_commit_is_proved_by_the_object_alone(server, content):
    sent = sending(server, content)
    await sent.prepare()
    if sent.session.capabilities.session:
        await sent.send()
    assert (await sent.protocol.reconcile(sent.session)).outcome is Outcome.NOT_COMMITTED
    result = await sent.commit()
    found = await sent.protocol.reconcile(sent.session)
    assert (found.outcome, found.result["etag"]) == (Outcome.COMMITTED, result["etag"])


async def test_somebody_elses_object_of_the_same_key_and_size_proves_nothing(server):
    key = fresh_key()
    other = sending(server, bytes(len(CONTENT)), key=key)
    await other.all()
    sent = sending(server, CONTENT, key=key)
    sent.task = "01JDTASK000000000000000S3B"
    await sent.prepare()
    assert (await sent.protocol.reconcile(sent.session)).outcome is Outcome.NOT_COMMITTED
    await sent.protocol.abort(sent.session)
    assert (await sent.protocol.reconcile(sent.session)).outcome is Outcome.LOST


async def test_an_earlier_object_of_the_same_task_proves_nothing(good):
    first = sending(good, SMALL)
    await first.all()
    again = sending(good, SMALL[::-1], key=key_of(first), tools=tools_of(good.key))
    await again.prepare()
    assert (await again.protocol.reconcile(again.session)).outcome is Outcome.NOT_COMMITTED


async def test_a_commit_that_is_sent_again_finds_what_it_has_made(server):
    sent = sending(server, CONTENT)
    result = await sent.all()
    again = await sent.commit()
    assert again["etag"] == result["etag"]
    assert stored(server, sent) == CONTENT


async def test_a_commit_with_a_part_that_the_server_has_not_got_begins_anew_and_leaves_nothing(server):
    sent = sending(server, CONTENT)
    await sent.prepare()
    await sent.send(0, 1)
    sent.receipts[2] = sent.receipts[1]
    fault = await refused(sent.commit())
    assert fault.kind is FaultKind.SESSION_LOST
    assert uploads_at(server, sent) == []


# The end


async def test_an_abort_leaves_nothing_and_is_no_error_the_second_time(server):
    sent = sending(server, CONTENT)
    await sent.prepare()
    await sent.send(0)
    assert uploads_at(server, sent) == [sent.session.id]
    await sent.protocol.abort(sent.session)
    assert uploads_at(server, sent) == []
    await sent.protocol.abort(sent.session)


async def test_an_abort_after_the_commit_leaves_the_object(server):
    sent = sending(server, CONTENT)
    await sent.all()
    await sent.protocol.abort(sent.session)
    assert stored(server, sent) == CONTENT


async def test_orphans_are_those_of_exactly_this_key(server):
    sent, longer = sending(server, CONTENT), None
    await sent.prepare()
    longer = sending(server, CONTENT, key=key_of(sent) + ".more")
    await longer.prepare()
    found = await sent.protocol.orphans()
    assert [each.id for each in found] == [sent.session.id]
    assert abs(found[0].begun - sent.tools.wall()) < 60_000
    await sent.protocol.abort(sent.session)
    await longer.protocol.abort(longer.session)
    assert list(await sent.protocol.orphans()) == []


# What is wrong is said


async def test_a_wrong_secret_an_unknown_key_and_a_bucket_that_is_not_there(seaweedfs, rclone):
    good = seaweedfs.key
    wrong = sending(seaweedfs, SMALL, tools=tools_of(type(good)(id=good.id, secret="wrong")))
    assert "secret of credential 'default' is wrong" in (await refused(wrong.all())).detail
    unknown = sending(seaweedfs, SMALL, tools=tools_of(type(good)(id="NOBODY", secret="wrong")))
    assert "knows no such key" in (await refused(unknown.all())).detail
    nowhere = sending(rclone, CONTENT)
    nowhere.url = "s3://no-such-bucket/key"
    fault = await refused(nowhere.all())
    assert (fault.status, "no bucket 'no-such-bucket'" in fault.detail) == (404, True)


async def test_a_clock_that_is_wrong_is_put_right_from_the_servers(server):
    hour = 60 * 60 * 1000
    tools = tools_of(server.key, clock=lambda: wall() - hour)
    sent = sending(server, CONTENT, tools=tools)
    await sent.all()
    assert stored(server, sent) == CONTENT
    assert [abs(ahead - hour) < 5000 for ahead in tools.skew.values()] == [True]


# Downloads


async def read(asking):
    async with asking as answer:
        body = bytearray()
        while not isinstance(answer.verdict, Wrong) and (chunk := await answer.read(1 << 20)):
            body += chunk
        return answer.verdict, bytes(body)


async def test_a_download_reads_signed_ranges(good):
    sent = sending(good, CONTENT)
    await sent.all()
    protocol = download_of(good, sent.url, sent.tools)
    verdict, body = await read(protocol.ask(Asked(0, 1000, None)))
    assert isinstance(verdict, Partial)
    assert (body, verdict.generation.size) == (CONTENT[:1000], len(CONTENT))
    pinned = verdict.generation
    assert (await read(protocol.ask(Asked(PART, None, pinned))))[1] == CONTENT[PART:]
    whole, body = await read(protocol.ask(Asked(0, None, None)))
    assert isinstance(whole, Whole)
    assert body == CONTENT


async def test_a_replaced_object_is_not_mixed_with_the_older_one(good):
    sent = sending(good, SMALL)
    await sent.all()
    protocol = download_of(good, sent.url, sent.tools)
    verdict, _ = await read(protocol.ask(Asked(0, 5, None)))
    await sending(good, SMALL[::-1], key=key_of(sent)).all()
    verdict, _ = await read(protocol.ask(Asked(5, None, verdict.generation)))
    assert type(verdict).__name__ == "Changed"


async def test_a_range_that_is_answered_200_is_a_clear_error(rclone):
    sent = sending(rclone, SMALL)
    await sent.all()
    verdict, _ = await read(download_of(rclone, sent.url, sent.tools).ask(Asked(2, 5, None)))
    assert isinstance(verdict, Wrong)
    assert "200" in verdict.fault.detail or "ontent-range" in verdict.fault.detail


async def test_an_object_that_is_not_there_is_a_clear_error(server):
    tools = tools_of(server.key)
    verdict, _ = await read(download_of(server, url_of(server, "nothing"), tools).ask(Asked(0, 5, None)))
    assert isinstance(verdict, Wrong)
    assert verdict.fault.status == 404
    assert "no such object" in verdict.fault.detail
