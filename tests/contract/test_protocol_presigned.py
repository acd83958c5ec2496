"""The protocol of presigned uploads against a scripted store: expiry, refreshing, endings, and no leaks."""

import hashlib
import logging
import os
import threading
from dataclasses import replace as replace_fields

import anyio
import msgspec
import pytest
from msgspec.structs import replace
from pytest_httpserver import HTTPServer
from signed_store import CANARY, CHUNK, NOW, BackEnd, Lent, Piece, Store, error, pieces
from werkzeug import Response

from meowcat.core.errors import InvalidArgument
from meowcat.core.plans import PlanPart, PlanRequest, UploadedPart, UploadPlan
from meowcat.core.urls import seal_url
from meowcat.core.values import FaultKind
from meowcat.protocols.contract import Outcome
from meowcat.protocols.presigned import PresignedProtocol
from meowcat.protocols.presigned_settings import PresignedUpload, uploaded_parts
from meowcat.protocols.refreshers import RefreshReason
from meowcat.protocols.refused import Refused
from meowcat.transport.reqwest import ReqwestTransport

pytestmark = pytest.mark.anyio

CONTENT = os.urandom(2 * CHUNK + 345)
SIZE = len(CONTENT)

STRANGE = [
    Response("<!DOCTYPE html><html>Please log in</html>", 200),
    Response("<?xml version='1.0'?>\n<HTML lang='en'>", 201),
    Response('{"error": "quota exceeded"}', 200),
    Response('{"errors": ["quota exceeded"]}', 200),
    Response('{"success": false, "message": "no"}', 200),
    Response('{"ok": false}', 201),
]
"""Successes by their status alone."""


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def transport():
    made = ReqwestTransport()
    yield made
    await made.aclose()


@pytest.fixture(scope="module")
def server():
    with HTTPServer(threaded=True) as running:
        yield running


@pytest.fixture
def store(server):
    server.clear()
    return Store(server)


@pytest.fixture
def back_end(store):
    return BackEnd(store, SIZE)


@pytest.fixture
def lent(transport, back_end):
    return Lent(transport, {"backend": back_end})


async def upload(protocol, content=CONTENT, session=None, skip=()):
    """What the engine does with a protocol, until the commit."""
    prepared = await protocol.prepare(session)
    receipts = {}
    for piece in pieces(content):
        if piece.index not in skip:
            receipts[piece.index] = await protocol.send_part(prepared.session, piece)
    return prepared.session, receipts


async def refusal(awaitable):
    with pytest.raises(Refused) as refused:
        await awaitable
    assert CANARY not in str(refused.value) + repr(refused.value.fault)
    return refused.value.fault


async def test_an_upload_sends_each_part_where_the_plan_says_and_completes_it(lent, store, back_end):
    protocol = lent.protocol(back_end.plan(), headers={"X-Caller": "1"})
    session, receipts = await upload(protocol)
    assert await protocol.commit(session, receipts, None) == {"etag": '"joined-3"'}
    assert store.object == CONTENT
    puts = [request for request in store.requests if request.method == "PUT"]
    assert [int(request.headers["Content-Length"]) for request in puts] == [CHUNK, CHUNK, 345]
    assert {request.headers["X-Caller"] for request in puts} == {"1"}
    assert back_end.asked == []


async def test_the_plan_s_headers_are_sent_as_they_are_and_win(lent, store, back_end):
    plan = back_end.plan()
    signed = {"X-Amz-Acl": "private", "x-caller": "signed", "Content-Length": str(CHUNK)}
    parts = (replace(plan.parts[0], headers=signed), *plan.parts[1:])
    protocol = lent.protocol(replace(plan, parts=parts), headers={"X-Caller": "1"})
    session = (await protocol.prepare(None)).session
    await protocol.send_part(session, pieces(CONTENT)[0])
    headers = store.requests[-1].headers
    assert (headers["X-Amz-Acl"], headers["X-Caller"]) == ("private", "signed")
    assert headers.getlist("Content-Length") == [str(CHUNK)]


# Sizes and shapes


async def test_a_plan_of_one_part_without_completion_commits_with_it(lent, store):
    plan = UploadPlan(
        total_size=SIZE,
        chunk_size=SIZE,
        parts=(PlanPart(1, 0, SIZE, f"{store.url}?sig={CANARY}0"),),
    )
    protocol = lent.protocol(plan)
    able = protocol.capabilities()
    assert (able.commits_with_last_part, able.max_parts, able.session) == (True, 1, False)
    session = (await protocol.prepare(None)).session
    assert store.requests == []
    assert await protocol.commit(session, {}, Piece(0, 0, CONTENT)) == {"etag": '"whole"'}
    assert store.object == CONTENT


@pytest.mark.parametrize("completes", [True, False])
async def test_an_empty_content_is_one_empty_part(lent, store, completes):
    query = "partNumber=1&uploadId=u1&" if completes else ""
    plan = UploadPlan(
        total_size=0,
        chunk_size=1,
        parts=(PlanPart(1, 0, 0, f"{store.url}?{query}sig={CANARY}0"),),
        complete=PlanRequest("POST", f"{store.url}?uploadId=u1&sig={CANARY}0") if completes else None,
        completion="s3-xml",
    )
    protocol = lent.protocol(plan)
    assert protocol.capabilities().commits_with_last_part
    session = (await protocol.prepare(None)).session
    await protocol.commit(session, {}, Piece(0, 0, b""))
    assert store.object == b""
    assert store.requests[0].headers["Content-Length"] == "0"


async def test_without_a_completion_several_parts_are_all_there_is_to_do(lent, store, back_end):
    protocol = lent.protocol(back_end.plan(complete=None, check=None))
    assert not protocol.capabilities().commits_with_last_part
    session, receipts = await upload(protocol)
    assert await protocol.commit(session, receipts, None) == {}
    assert (store.object, sorted(store.uploads["u1"])) == (None, [1, 2, 3])


async def test_capabilities_follow_the_plan_also_where_it_is_not_at_hand(lent, back_end):
    plan = back_end.plan()
    able = lent.protocol(plan, handed=False).capabilities()
    assert able == lent.protocol(plan).capabilities()
    assert (able.any_order, able.lists_parts, able.session, able.creates_session) == (
        True,
        False,
        True,
        False,
    )
    assert (able.min_part, able.max_part, able.max_parts, able.max_size) == (CHUNK, CHUNK, 3, SIZE)
    assert not lent.protocol(back_end.plan(abort=None)).capabilities().session


async def test_a_source_of_another_size_is_refused_before_a_byte_is_sent(lent, store, back_end):
    fault = await refusal(lent.protocol(back_end.plan(), size=SIZE - 1).prepare(None))
    assert fault.kind is FaultKind.LENGTH
    assert f"the source has {SIZE - 1} bytes, and the plan is for {SIZE}" in fault.detail
    assert store.requests == []


async def test_an_unknown_completion_is_told_before_a_byte_is_sent(lent, store, back_end):
    fault = await refusal(lent.protocol(back_end.plan(completion="mine")).prepare(None))
    assert fault.kind is FaultKind.EXPIRED
    assert "completion 'mine' is not registered" in fault.detail
    assert store.requests == []


# Choosing it


def test_what_is_stored_is_the_plan_without_its_signatures(back_end):
    plan = back_end.plan()
    spec = PresignedUpload(plan, "backend").spec()
    assert CANARY not in msgspec.json.encode(spec).decode() + repr(PresignedUpload(plan))
    url, same = PresignedProtocol.resolve("", spec, plan)
    assert (url, same) == (plan.object, spec)
    assert CANARY not in url
    assert PresignedProtocol.needs(spec) == ("refresher:backend",)
    assert PresignedProtocol.needs(PresignedUpload(plan).spec()) == ("plan",)


def test_an_object_that_only_its_query_tells_apart_needs_no_url_to_be_supplied():
    urls = []
    for value in ("a", "b"):
        parts = (PlanPart(1, 0, 5, f"https://host.example/x?blob={value}&sig=secret"),)
        plan = UploadPlan(total_size=5, chunk_size=5, parts=parts)
        url, _ = PresignedProtocol.resolve("", PresignedUpload(plan).spec(), plan)
        assert seal_url(url) == (url, ())
        assert "secret" not in url
        urls.append(url)
    assert urls[0] != urls[1]


def test_an_identity_that_is_no_url_has_a_place_at_the_plan_s_host(back_end):
    plan = back_end.plan(identity="videos/7 final")
    url, _ = PresignedProtocol.resolve("", PresignedUpload(plan).spec(), plan)
    assert url == back_end.store.server.url_for("/videos/7%20final")


def test_settings_that_make_no_sense_are_refused(back_end):
    plan = back_end.plan()
    spec = PresignedUpload(plan).spec()
    for act, text in (
        (lambda: PresignedUpload(None).spec(), "expected an UploadPlan, got NoneType"),
        (lambda: PresignedProtocol.resolve("", spec, "plan"), "expected an UploadPlan, got str"),
        (lambda: PresignedProtocol.resolve("", spec, replace(plan, chunk_size=0)), "chunk_size 0"),
        (
            lambda: PresignedProtocol.resolve("", replace(spec, fields={"a": 1}), None),
            "give PresignedUpload",
        ),
        (lambda: PresignedProtocol.resolve("ftp://host", spec, plan), "URL"),
    ):
        with pytest.raises(InvalidArgument, match=text):
            act()


# Expiry


async def test_urls_are_replaced_before_they_end_and_nothing_is_sent_twice(lent, store, back_end):
    back_end.lifetime = 600_000
    protocol = lent.protocol(back_end.plan(), refresher="backend")
    session, receipts = await upload(protocol, CONTENT[:CHUNK])
    lent.now = NOW + 540_000
    back_end.lifetime = 1_200_000
    for piece in pieces(CONTENT)[1:]:
        receipts[piece.index] = await protocol.send_part(session, piece)
    await protocol.commit(session, receipts, None)
    assert store.object == CONTENT
    assert [request.reason for request in back_end.asked] == [RefreshReason.EXPIRES]
    assert store.count("PUT") == 3


async def test_a_back_end_that_fails_hurts_nobody_while_the_url_is_good(lent, store, back_end):
    back_end.lifetime = 600_000
    protocol = lent.protocol(back_end.plan(), refresher="backend")
    session = (await protocol.prepare(None)).session
    back_end.failure = RuntimeError("down")
    lent.now = NOW + 599_999
    await protocol.send_part(session, pieces(CONTENT)[0])
    lent.now = NOW + 600_000
    fault = await refusal(protocol.send_part(session, pieces(CONTENT)[1]))
    assert (fault.kind, store.count("PUT")) == (FaultKind.CREDENTIAL, 1)


async def test_a_url_that_has_run_out_is_not_used_where_nobody_can_bring_another(lent, store, back_end):
    back_end.lifetime = 600_000
    protocol = lent.protocol(back_end.plan())
    session = (await protocol.prepare(None)).session
    lent.now = NOW + 599_999
    await protocol.send_part(session, pieces(CONTENT)[0])
    lent.now = NOW + 600_000
    fault = await refusal(protocol.send_part(session, pieces(CONTENT)[1]))
    assert fault.kind is FaultKind.EXPIRED
    assert "supply a fresh plan of the same upload, or name a refresher" in fault.detail
    assert store.count("PUT") == 1


async def test_the_server_s_clock_counts_where_it_is_known(lent, store, back_end):
    back_end.lifetime = 600_000
    protocol = lent.protocol(back_end.plan())
    session = (await protocol.prepare(None)).session
    lent.now = NOW + 700_000
    lent.tools.skew[store.server.url_for("").rstrip("/")] = -200_000
    await protocol.send_part(session, pieces(CONTENT)[0])
    assert store.count("PUT") == 1


async def test_a_refusal_in_mid_transfer_brings_one_fresh_plan(lent, store, back_end):
    protocol = lent.protocol(back_end.plan(), refresher="backend")
    session, receipts = await upload(protocol, CONTENT[:CHUNK])
    store.good = set()
    for piece in pieces(CONTENT)[1:]:
        receipts[piece.index] = await protocol.send_part(session, piece)
    await protocol.commit(session, receipts, None)
    assert store.object == CONTENT
    assert [request.reason for request in back_end.asked] == [RefreshReason.REFUSED]
    (asked,) = back_end.asked
    assert (asked.confirmed, asked.wanted, asked.same_upload) == ((1,), (2, 3), True)


async def test_eight_refused_parts_are_one_question(transport, store):
    content = os.urandom(8 * CHUNK)
    back_end = BackEnd(store, len(content))
    lent = Lent(transport, {"backend": back_end})
    protocol = lent.protocol(back_end.plan(), refresher="backend")
    session = (await protocol.prepare(None)).session
    store.good = set()
    store.gate = threading.Barrier(8)
    receipts = {}

    async def send(piece):
        receipts[piece.index] = await protocol.send_part(session, piece)

    async with anyio.create_task_group() as group:
        for piece in pieces(content):
            group.start_soon(send, piece)
    assert len(back_end.asked) == 1
    assert store.count("PUT") == 16
    await protocol.commit(session, receipts, None)
    assert store.object == content


async def test_a_fresh_url_that_is_refused_as_well_is_not_replaced_again(lent, store, back_end):
    protocol = lent.protocol(back_end.plan(), refresher="backend")
    session = (await protocol.prepare(None)).session
    store.answers["PUT"] = [error("SignatureDoesNotMatch", 403)] * 2
    fault = await refusal(protocol.send_part(session, pieces(CONTENT)[0]))
    assert (fault.kind, fault.status) == (FaultKind.STATUS, 403)
    assert "must be those that the back end signed" in fault.detail
    assert len(back_end.asked) == 1


async def test_a_fresh_url_that_has_run_out_at_once_blames_the_clocks(lent, store, back_end):
    protocol = lent.protocol(back_end.plan(), refresher="backend")
    session = (await protocol.prepare(None)).session
    store.answers["PUT"] = [Response("<Error><Code>ExpiredToken</Code>expired</Error>", 400)] * 2
    fault = await refusal(protocol.send_part(session, pieces(CONTENT)[0]))
    assert fault.kind is FaultKind.CREDENTIAL
    assert "compare the clocks" in fault.detail


async def test_without_a_refresher_a_refusal_that_says_expired_waits_for_a_plan(lent, store, back_end):
    protocol = lent.protocol(back_end.plan())
    session = (await protocol.prepare(None)).session
    store.good = set()
    fault = await refusal(protocol.send_part(session, pieces(CONTENT)[0]))
    assert (fault.kind, fault.status) == (FaultKind.EXPIRED, 403)
    assert "403 AccessDenied: the signed URL has run out; supply a fresh plan" in fault.detail
    store.good = {f"{CANARY}0"}
    store.answers["PUT"] = [error("AccessDenied", 403)]
    fault = await refusal(protocol.send_part(session, pieces(CONTENT)[0]))
    assert (fault.kind, fault.status) == (FaultKind.STATUS, 403)


async def test_a_url_that_runs_out_on_its_way_waits_for_a_plan_whatever_the_server_says(
    lent, store, back_end
):
    back_end.lifetime = 600_000
    protocol = lent.protocol(back_end.plan())
    session = (await protocol.prepare(None)).session

    def late(request):
        lent.now = NOW + 600_000
        return error("AccessDenied", 403)

    store.do_put = late
    assert (await refusal(protocol.send_part(session, pieces(CONTENT)[0]))).kind is FaultKind.EXPIRED


async def test_a_plan_that_was_refreshed_serves_the_operations_that_follow(lent, store, back_end):
    plan = back_end.plan()
    protocol = lent.protocol(plan, refresher="backend")
    session, receipts = await upload(protocol, CONTENT[:CHUNK])
    store.good = set()
    for piece in pieces(CONTENT)[1:]:
        receipts[piece.index] = await protocol.send_part(session, piece)
    await lent.protocol(plan, refresher="backend", confirmed=receipts).commit(session, receipts, None)
    assert len(back_end.asked) == 1
    assert store.object == CONTENT


# After a restart


async def test_after_a_restart_the_refresher_is_asked_and_only_what_is_missing_is_sent(
    transport, store, back_end
):
    first = Lent(transport)
    session, receipts = await upload(first.protocol(back_end.plan()), CONTENT[:CHUNK])
    store.good = set()
    lent = Lent(transport, {"backend": back_end})
    protocol = lent.protocol(back_end.plan(), handed=False, refresher="backend", confirmed=receipts)
    assert (await protocol.prepare(session)).held == {}
    for piece in pieces(CONTENT)[1:]:
        receipts[piece.index] = await protocol.send_part(session, piece)
    await lent.protocol(back_end.plan(), handed=False, refresher="backend").commit(session, receipts, None)
    assert store.object == CONTENT
    (asked,) = back_end.asked
    assert (asked.reason, asked.same_upload, asked.confirmed) == (RefreshReason.RESTART, True, (1,))
    assert asked.fingerprint.upload_id == "u1"


async def test_after_a_restart_without_a_refresher_a_plan_is_waited_for(transport, back_end):
    session = (await Lent(transport).protocol(back_end.plan()).prepare(None)).session
    lent = Lent(transport)
    protocol = lent.protocol(back_end.plan(), handed=False)
    for attempt in (protocol.prepare(session), protocol.prepare(None), protocol.abort(session)):
        fault = await refusal(attempt)
        assert fault.kind is FaultKind.EXPIRED
        assert "never stored: supply a fresh plan of the same upload, or name a refresher" in fault.detail
    supplied = lent.protocol(back_end.plan())
    await supplied.prepare(session)


async def test_a_naive_back_end_that_opens_a_new_upload_each_time_is_told_so(lent, store, back_end):
    session, _ = await upload(lent.protocol(back_end.plan()), CONTENT[:CHUNK])
    back_end.upload = "u2"
    lent.refreshers.forget("01")
    protocol = lent.protocol(back_end.plan(), handed=False, refresher="backend", confirmed=[0])
    fault = await refusal(protocol.prepare(session))
    assert fault.kind is FaultKind.REPLY
    assert "the upload_id 'u2'; this transfer was begun with 'u1'" in fault.detail


async def test_a_new_upload_is_begun_where_nothing_was_confirmed(lent, store, back_end):
    session = (await lent.protocol(back_end.plan()).prepare(None)).session
    back_end.upload = "u2"
    store.uploads["u2"] = {}
    lent.refreshers.forget("01")
    protocol = lent.protocol(back_end.plan(), handed=False, refresher="backend")
    assert (await refusal(protocol.prepare(session))).kind is FaultKind.SESSION_LOST
    assert (await protocol.prepare(None)).session.id == "u2"
    assert len(back_end.asked) == 1


async def test_a_handed_in_plan_of_another_upload_gives_way_to_the_refresher(lent, store, back_end):
    session, receipts = await upload(lent.protocol(back_end.plan()), CONTENT[:CHUNK])
    other = back_end.plan(upload_id="u2")
    protocol = lent.protocol(other, refresher="backend", confirmed=receipts)
    await protocol.prepare(session)
    assert [request.same_upload for request in back_end.asked] == [True]
    await protocol.send_part(session, pieces(CONTENT)[1])


async def test_a_handed_in_plan_of_another_upload_begins_anew_where_there_is_no_refresher(lent, back_end):
    session, receipts = await upload(lent.protocol(back_end.plan()), CONTENT[:CHUNK])
    protocol = lent.protocol(back_end.plan(upload_id="u2"), confirmed=receipts)
    fault = await refusal(protocol.prepare(session))
    assert fault.kind is FaultKind.SESSION_LOST
    fault = await refusal(protocol.abort(session))
    assert fault.kind is FaultKind.REPLY
    assert "the one before it is left as it is" in fault.detail


async def test_a_supplied_plan_for_another_object_is_refused(lent, store, back_end):
    plan = back_end.plan()
    wrong = replace(plan, identity="another")
    protocol = lent.protocol(plan, handed=False)
    protocol = PresignedProtocol(type(protocol.job)(**{**vars(protocol.job), "plan": wrong}), protocol.tools)
    fault = await refusal(protocol.prepare(None))
    assert fault.kind is FaultKind.REPLY
    assert "the plan is for another" in fault.detail


# An upload that the server does not know any more


async def test_a_lost_upload_is_opened_anew_by_the_refresher(lent, store, back_end):
    plan = back_end.plan()
    protocol = lent.protocol(plan, refresher="backend")
    session, _ = await upload(protocol, CONTENT[:CHUNK])
    store.uploads.clear()
    fault = await refusal(protocol.send_part(session, pieces(CONTENT)[1]))
    assert fault.kind is FaultKind.SESSION_LOST
    back_end.upload = "u2"
    store.uploads["u2"] = {}
    anew = lent.protocol(plan, refresher="backend")
    session, receipts = await upload(anew)
    assert session.id == "u2"
    await anew.commit(session, receipts, None)
    assert store.object == CONTENT
    assert [request.reason for request in back_end.asked] == [RefreshReason.SESSION_LOST]
    assert not back_end.asked[0].same_upload


@pytest.mark.parametrize("refresher", ["", "backend"])
async def test_an_upload_that_is_said_to_be_lost_can_be_removed_by_the_plan_that_it_had(
    lent, store, back_end, refresher
):
    plan = back_end.plan()
    protocol = lent.protocol(plan, refresher=refresher)
    session = (await protocol.prepare(None)).session
    store.answers["PUT"] = [error("NoSuchUpload", 404)]
    await refusal(protocol.send_part(session, pieces(CONTENT)[0]))
    await lent.protocol(plan, refresher=refresher).abort(session)
    assert (store.uploads, back_end.asked) == ({}, [])


async def test_a_new_upload_stays_at_hand_while_the_one_before_it_is_removed(lent, store, back_end):
    session = (await lent.protocol(back_end.plan()).prepare(None)).session
    lent.refreshers.forget("01")
    back_end.upload = "u2"
    store.uploads["u2"] = {}
    protocol = lent.protocol(back_end.plan(), handed=False, refresher="backend")
    assert (await refusal(protocol.prepare(session))).kind is FaultKind.SESSION_LOST
    back_end.upload = "u1"
    await protocol.abort(session)
    assert set(store.uploads) == {"u2"}
    assert (await protocol.prepare(None)).session.id == "u2"
    assert [request.same_upload for request in back_end.asked] == [False, True]


async def test_a_fresh_plan_that_could_not_remove_the_lost_upload_begins_no_other(lent, store, back_end):
    plan = back_end.plan()
    protocol = lent.protocol(plan, refresher="backend")
    session = (await protocol.prepare(None)).session
    store.answers["PUT"] = [error("NoSuchUpload", 404)]
    await refusal(protocol.send_part(session, pieces(CONTENT)[0]))
    store.good, store.answers["DELETE"] = set(), [Response("", 500)]
    assert (await refusal(protocol.abort(session))).status == 500
    back_end.upload = "u2"
    assert (await lent.protocol(plan, refresher="backend").prepare(None)).session.id == "u2"


async def test_a_refresher_that_brings_the_lost_upload_again_is_told_so(lent, store, back_end):
    plan = back_end.plan()
    protocol = lent.protocol(plan, refresher="backend")
    session = (await protocol.prepare(None)).session
    store.uploads.clear()
    await refusal(protocol.send_part(session, pieces(CONTENT)[0]))
    fault = await refusal(lent.protocol(plan, refresher="backend").prepare(None))
    assert fault.kind is FaultKind.REPLY
    assert "a new upload has to be opened" in fault.detail


async def test_without_a_refresher_a_lost_upload_waits_for_another_plan(lent, store, back_end):
    plan = back_end.plan()
    protocol = lent.protocol(plan)
    session = (await protocol.prepare(None)).session
    store.uploads.clear()
    await refusal(protocol.send_part(session, pieces(CONTENT)[0]))
    fault = await refusal(lent.protocol(plan).prepare(None))
    assert fault.kind is FaultKind.EXPIRED
    assert "supply a plan of a new one" in fault.detail
    assert (await lent.protocol(back_end.plan(upload_id="u2")).prepare(None)).session.id == "u2"


# Endings


@pytest.mark.parametrize(
    ("answer", "kind", "status", "text"),
    [
        (error("InternalError", 200), FaultKind.STATUS, 500, "200 InternalError"),
        (error("SlowDown", 200), FaultKind.STATUS, 503, "200 SlowDown"),
        (error("EntityTooSmall", 400), FaultKind.STATUS, 400, "let the back end cut larger ones"),
        (error("Strange", 200), FaultKind.STATUS, 400, "200 Strange: expected 200, 201 or 204"),
        (error("InvalidPart", 400), FaultKind.CHANGED, 400, "all is sent again"),
        (error("NoSuchUpload", 404), FaultKind.SESSION_LOST, 404, "all is sent again"),
        (error("OperationAborted", 409), FaultKind.STATUS, 503, "409 OperationAborted"),
        (Response("", 503, {"Retry-After": "7"}), FaultKind.STATUS, 503, "not available now"),
        (Response("", 307, {"Location": "/x"}), FaultKind.REDIRECT, 307, "sign the final URL"),
        (Response("busy", 202), FaultKind.STATUS, 202, "expected 200, 201 or 204"),
        *((answer, FaultKind.STATUS, 502, "a portal may have done so") for answer in STRANGE),
        (Response("", 200), FaultKind.STATUS, 502, "what became of the request is not known"),
        (Response('{"ok": true}', 200), FaultKind.STATUS, 502, "not as a success is answered"),
    ],
)
async def test_a_completion_that_did_not_succeed_is_told_apart(
    lent, store, back_end, answer, kind, status, text
):
    protocol = lent.protocol(back_end.plan())
    session, receipts = await upload(protocol)
    store.answers["POST"] = [answer]
    fault = await refusal(protocol.commit(session, receipts, None))
    assert (fault.kind, fault.status) == (kind, status)
    assert text in fault.detail
    assert fault.retry_after == (7000 if "Retry-After" in answer.headers else None)
    assert store.object is None


async def test_a_result_may_come_after_the_blanks_of_a_long_wait(lent, store, back_end):
    store.after["POST"] = [Response(" " * 9000 + "<CompleteMultipartUploadResult></…>")]
    protocol = lent.protocol(back_end.plan())
    session, receipts = await upload(protocol)
    assert await protocol.commit(session, receipts, None) == {}


@pytest.mark.parametrize("answer", STRANGE)
async def test_a_part_that_something_else_answered_is_not_there(lent, store, back_end, answer):
    store.answers["PUT"] = [answer]
    protocol = lent.protocol(back_end.plan(completion="default"))
    session = (await protocol.prepare(None)).session
    fault = await refusal(protocol.send_part(session, pieces(CONTENT)[0]))
    assert (fault.kind, fault.status) == (FaultKind.STATUS, 502)
    await protocol.send_part(session, pieces(CONTENT)[0])


async def test_blocks_and_their_list_are_there_once_they_are_created(lent, store, back_end):
    plan = back_end.plan(completion="azure-block-list")
    plan = replace(plan, parts=tuple(replace(part, part_id="AAAA") for part in plan.parts))
    protocol = lent.protocol(plan)
    session = (await protocol.prepare(None)).session
    assert (await refusal(protocol.send_part(session, pieces(CONTENT)[0]))).status == 502
    store.answers["PUT"] = [Response("", 201)] * 3
    session, receipts = await upload(protocol)
    store.answers["POST"] = [Response("", 200), Response("", 201, {"ETag": '"0x1"'})]
    assert (await refusal(protocol.commit(session, receipts, None))).status == 502
    assert await protocol.commit(session, receipts, None) == {"etag": '"0x1"'}


@pytest.mark.parametrize("answer", STRANGE)
async def test_a_back_end_that_tells_of_an_error_has_not_completed(lent, store, back_end, answer):
    protocol = lent.protocol(back_end.plan(completion="default"))
    session, receipts = await upload(protocol)
    store.answers["POST"] = [answer]
    assert (await refusal(protocol.commit(session, receipts, None))).status == 502


@pytest.mark.parametrize(
    ("answer", "etags", "asks"),
    [
        (Response("done", 200), True, False),
        (Response('{"ok": true, "error": null}', 200), True, False),
        (Response("[]", 200), True, False),
        (Response("", 204), True, False),
        (Response("", 200), True, True),
        (Response("done", 200), False, True),
    ],
)
@pytest.mark.parametrize("there", [True, False])
async def test_a_back_end_that_says_nothing_is_believed_once_the_object_was_seen(
    lent, store, back_end, answer, etags, asks, there
):
    protocol = lent.protocol(back_end.plan(completion="default"))
    store.after["PUT"] = [] if etags else [Response("", 204)] * 3
    session, receipts = await upload(protocol)
    before = store.count("HEAD")
    (store.after if there else store.answers)["POST"] = [answer]
    if there or not asks:
        await protocol.commit(session, receipts, None)
    else:
        fault = await refusal(protocol.commit(session, receipts, None))
        assert (fault.status, "the check finds no such object" in fault.detail) == (502, True)
    assert store.count("HEAD") - before == asks


async def test_a_back_end_that_says_nothing_is_believed_without_a_check(lent, store, back_end):
    protocol = lent.protocol(back_end.plan(completion="default", check=None))
    session, receipts = await upload(protocol)
    store.after["POST"] = [Response("", 200)]
    await protocol.commit(session, receipts, None)


@pytest.fixture
def single(lent, store):
    part = PlanPart(1, 0, SIZE, f"{store.url}?sig={CANARY}0")
    check = PlanRequest("HEAD", f"{store.url}?sig={CANARY}0")
    return lent.protocol(UploadPlan(total_size=SIZE, chunk_size=SIZE, parts=(part,), check=check))


@pytest.mark.parametrize("status", [200, 201, 204])
async def test_a_single_put_without_an_etag_counts_once_its_object_was_seen(store, single, status):
    session = (await single.prepare(None)).session
    store.answers["PUT"] = [Response("", status)]
    fault = await refusal(single.commit(session, {}, Piece(0, 0, CONTENT)))
    assert (fault.status, "the check finds no such object" in fault.detail) == (502, True)
    store.after["PUT"] = [Response("", status)]
    assert await single.commit(session, {}, Piece(0, 0, CONTENT)) == {}
    assert store.object == CONTENT


@pytest.mark.parametrize("answer", STRANGE)
async def test_a_single_put_that_something_else_answered_made_nothing(store, single, answer):
    session = (await single.prepare(None)).session
    store.answers["PUT"] = [answer]
    assert (await refusal(single.commit(session, {}, Piece(0, 0, CONTENT)))).status == 502


async def test_a_check_that_tells_neither_size_nor_etag_proves_nothing(lent, store, back_end):
    store.answers["POST"] = [Response("", 503)]
    protocol = lent.protocol(back_end.plan())
    session = await committed_in_doubt(protocol)
    portal = Response([b"<html>"], 200)  # of no length that is known
    portal.automatically_set_content_length = False
    store.answers["HEAD"] = [portal]
    assert (await protocol.reconcile(session)).outcome is Outcome.NOT_COMMITTED


async def test_a_redirected_part_goes_nowhere(lent, store, back_end):
    protocol = lent.protocol(back_end.plan(), refresher="backend")
    session = (await protocol.prepare(None)).session
    store.answers["PUT"] = [Response("", 307, {"Location": f"{store.url}?sig={CANARY}"})]
    fault = await refusal(protocol.send_part(session, pieces(CONTENT)[0]))
    assert fault.kind is FaultKind.REDIRECT
    assert store.count("PUT") == 1


async def test_a_part_that_the_store_got_otherwise_is_refused_and_sent_again(lent, store, back_end):
    protocol = lent.protocol(back_end.plan())
    session = (await protocol.prepare(None)).session
    first, second, _ = pieces(CONTENT)
    await protocol.send_part(session, first)  # by which the ETags are known to be MD5s
    md5 = hashlib.md5(b"something else", usedforsecurity=False).hexdigest()
    store.after["PUT"] = [Response("", 200, {"ETag": f'"{md5}"'})]
    fault = await refusal(protocol.send_part(session, second))
    assert fault.kind is FaultKind.DISCONNECTED
    assert fault.detail.startswith("part 2: the server got other bytes than were sent")
    await protocol.send_part(session, second)


async def test_a_part_without_an_etag_is_refused_where_the_completion_needs_it(lent, store, back_end):
    store.answers["PUT"] = [Response("", 200)] * 2
    protocol = lent.protocol(back_end.plan())
    session = (await protocol.prepare(None)).session
    fault = await refusal(protocol.send_part(session, pieces(CONTENT)[0]))
    assert fault.kind is FaultKind.REPLY
    assert "part 1: the server's reply has no ETag" in fault.detail
    plain = Lent(lent.tools.transport).protocol(back_end.plan(completion="default"))
    assert (await plain.send_part(session, pieces(CONTENT)[0])).text == "{}"


async def test_the_default_completion_tells_a_back_end_all_of_the_parts(lent, store, back_end):
    plan = back_end.plan(completion="default", metadata={"order": "7"})
    plan = replace(plan, parts=tuple(replace(part, part_id=f"id-{part.number}") for part in plan.parts))
    protocol = lent.protocol(plan)
    session, receipts = await upload(protocol)
    await protocol.commit(session, receipts, None)
    told = msgspec.json.decode(store.requests[-1].get_data())
    assert (told["upload_id"], told["metadata"], told["total_size"]) == ("u1", {"order": "7"}, SIZE)
    assert [(part["number"], part["part_id"], part["offset"], part["size"]) for part in told["parts"]] == [
        (1, "id-1", 0, CHUNK),
        (2, "id-2", CHUNK, CHUNK),
        (3, "id-3", 2 * CHUNK, 345),
    ]
    assert all(len(part["etag"]) == 34 for part in told["parts"])


async def test_a_completion_of_one_s_own_and_one_that_the_plan_brings(lent, store, back_end):
    lent.refreshers.register_completion("mine", lambda completion: completion.upload_id.encode())
    for plan, body in (
        (back_end.plan(completion="mine"), b"u1"),
        (back_end.plan(complete=replace(back_end.plan().complete, body=b"fixed")), b"fixed"),
    ):
        store.uploads["u1"] = {}
        protocol = lent.protocol(plan)
        session, receipts = await upload(protocol)
        await protocol.commit(session, receipts, None)
        assert store.requests[-1].get_data() == body


async def test_a_completion_that_raises_is_a_defect(lent, store, back_end):
    def broken(completion):
        raise ValueError(CANARY)

    lent.refreshers.register_completion("mine", broken)
    protocol = lent.protocol(back_end.plan(completion="mine"))
    session, receipts = await upload(protocol)
    fault = await refusal(protocol.commit(session, receipts, None))
    assert (fault.kind, fault.detail) == (FaultKind.INTERNAL, "completion 'mine' raised ValueError")


async def test_an_abort_drops_the_upload_and_one_that_is_gone_is_dropped(lent, store, back_end):
    protocol = lent.protocol(back_end.plan())
    session, _ = await upload(protocol, CONTENT[:CHUNK])
    await protocol.abort(session)
    assert store.uploads == {}
    await lent.protocol(back_end.plan()).abort(session)


async def test_what_is_begun_after_an_abort_needs_a_new_upload(lent, store, back_end):
    plan = back_end.plan()
    session = (await lent.protocol(plan, refresher="backend").prepare(None)).session
    await lent.protocol(plan, refresher="backend").abort(session)
    back_end.upload = "u2"
    prepared = await lent.protocol(plan, refresher="backend").prepare(None)
    assert prepared.session.id == "u2"
    assert [request.reason for request in back_end.asked] == [RefreshReason.SESSION_LOST]


async def test_an_abort_never_drops_another_upload(lent, store, back_end):
    session = (await lent.protocol(back_end.plan()).prepare(None)).session
    back_end.upload = "u2"
    store.uploads["u2"] = {}
    lent.refreshers.forget("01")
    fault = await refusal(lent.protocol(back_end.plan(), handed=False, refresher="backend").abort(session))
    assert fault.kind is FaultKind.REPLY
    assert (store.count("DELETE"), set(store.uploads)) == (0, {"u1", "u2"})


async def test_an_abort_with_an_old_url_asks_for_a_fresh_one(lent, store, back_end):
    protocol = lent.protocol(back_end.plan(), refresher="backend")
    session, _ = await upload(protocol, CONTENT[:CHUNK])
    store.good = set()
    await protocol.abort(session)
    assert store.uploads == {}


# Whether a commit took place


@pytest.fixture
def lost_reply(store):
    store.after["POST"] = [Response("", 503)]


async def committed_in_doubt(protocol, content=CONTENT):
    session, receipts = await upload(protocol, content)
    assert (await refusal(protocol.commit(session, receipts, None))).status == 503
    protocol.job = replace_fields(protocol.job, receipts=receipts)
    return session


async def test_a_commit_whose_reply_was_lost_is_seen_by_what_it_made(lent, store, back_end, lost_reply):
    protocol = lent.protocol(back_end.plan())
    session = await committed_in_doubt(protocol)
    found = await lent.protocol(back_end.plan()).reconcile(session)
    assert found.outcome is Outcome.COMMITTED
    assert found.result["etag"].startswith('"')


async def test_an_old_object_of_the_same_size_is_not_taken_for_the_upload_s(lent, store, back_end):
    store.object = bytes(SIZE)
    store.answers["POST"] = [Response("", 503)]
    protocol = lent.protocol(back_end.plan())
    session = await committed_in_doubt(protocol)
    assert (await protocol.reconcile(session)).outcome is Outcome.NOT_COMMITTED


async def test_an_object_that_replaced_an_old_one_is_the_upload_s(lent, store, back_end, lost_reply):
    store.object = bytes(SIZE)
    protocol = lent.protocol(back_end.plan())
    session = await committed_in_doubt(protocol)
    assert (await protocol.reconcile(session)).outcome is Outcome.COMMITTED


@pytest.mark.parametrize(
    ("completion", "more", "outcome"),
    [
        ("s3-xml", {}, Outcome.NOT_COMMITTED),
        ("s3-xml", {"ETag": '"0123456789abcdef0123456789abcdef-3"'}, Outcome.NOT_COMMITTED),
        ("s3-xml", {"ETag": '"-CKicn4fknIsCEAE="'}, Outcome.COMMITTED),
        ("s3-xml", {"x-amz-server-side-encryption": "aws:kms"}, Outcome.COMMITTED),
        ("oss-xml", {}, Outcome.COMMITTED),
    ],
)
async def test_an_object_of_other_parts_is_somebody_else_s_where_its_etag_tells(
    lent, store, back_end, completion, more, outcome
):
    store.answers["POST"] = [Response("", 503)]
    protocol = lent.protocol(back_end.plan(completion=completion))
    session = await committed_in_doubt(protocol)
    store.object, store.more = bytes(SIZE), more
    assert (await protocol.reconcile(session)).outcome is outcome


async def test_parts_whose_etags_are_no_md5s_tell_nothing_of_the_object(lent, store, back_end):
    store.after["PUT"] = [Response("", 200, {"ETag": '"1"'})] * 3
    store.after["POST"] = [Response("", 503)]
    protocol = lent.protocol(back_end.plan())
    session = await committed_in_doubt(protocol)
    store.object = bytes(SIZE)
    assert (await protocol.reconcile(session)).outcome is Outcome.COMMITTED


@pytest.mark.parametrize("receipts", [{}, None])
async def test_of_parts_that_nothing_is_known_of_an_etag_tells_nothing(lent, store, back_end, receipts):
    store.answers["POST"] = [Response("", 503)]
    protocol = lent.protocol(back_end.plan())
    session = await committed_in_doubt(protocol)
    protocol.job = replace_fields(protocol.job, receipts=receipts)
    store.object = bytes(SIZE)
    assert (await protocol.reconcile(session)).outcome is Outcome.COMMITTED


@pytest.mark.parametrize("ours", [True, False])
async def test_after_a_single_put_in_doubt_the_bytes_tell_whose_object_it_is(store, single, ours):
    session = (await single.prepare(None)).session
    (store.after if ours else store.answers)["PUT"] = [Response("", 503)]
    piece = Piece(0, 0, CONTENT)
    assert (await refusal(single.commit(session, {}, piece))).status == 503
    store.object = store.object or bytes(SIZE)
    assert (await single.reconcile(session)).outcome is Outcome.COMMITTED, (
        "as far as can be known without them"
    )
    single.job = replace_fields(single.job, receipts={})
    assert (await single.reconcile(session)).outcome is Outcome.NOT_COMMITTED
    await single.commit(session, {}, piece)
    assert (store.object, store.count("PUT")) == (CONTENT, 1 if ours else 2)


async def test_an_object_of_another_size_is_somebody_else_s(lent, store, back_end):
    store.answers["POST"] = [Response("", 503)]
    protocol = lent.protocol(back_end.plan())
    session = await committed_in_doubt(protocol)
    store.object = bytes(SIZE - 1)
    assert (await protocol.reconcile(session)).outcome is Outcome.NOT_COMMITTED


@pytest.mark.parametrize("silent", [Response("", 403), Response("", 401)])
async def test_where_nobody_could_tell_what_stood_there_nothing_is_proved(
    lent, store, back_end, lost_reply, silent
):
    store.object = bytes(SIZE)
    store.answers["HEAD"] = [silent]
    protocol = lent.protocol(back_end.plan(), refresher="backend")
    session = await committed_in_doubt(protocol)
    assert (await protocol.reconcile(session)).outcome is Outcome.NOT_COMMITTED
    assert back_end.asked == []


async def test_a_look_that_fails_is_not_taken_for_an_absent_object(lent, store, back_end):
    store.object = bytes(SIZE)
    store.answers["HEAD"] = [Response("", 500)]
    fault = await refusal(lent.protocol(back_end.plan()).prepare(None))
    assert (fault.kind, fault.status) == (FaultKind.STATUS, 500)


@pytest.mark.parametrize(
    ("proof", "outcome"),
    [
        ({"X-Amz-Meta-Upload": "order-7"}, Outcome.COMMITTED),
        ({"X-Amz-Meta-Upload": "order-8"}, Outcome.NOT_COMMITTED),
    ],
)
async def test_a_proof_in_the_object_s_metadata_counts(lent, store, back_end, lost_reply, proof, outcome):
    store.object = CONTENT
    protocol = lent.protocol(back_end.plan(proof=proof))
    session = await committed_in_doubt(protocol)
    assert store.count("HEAD") == 0
    assert (await protocol.reconcile(session)).outcome is outcome


async def test_without_a_check_the_completion_may_be_sent_again(lent, store, back_end, lost_reply):
    protocol = lent.protocol(back_end.plan(check=None))
    session = await committed_in_doubt(protocol)
    assert (await protocol.reconcile(session)).outcome is Outcome.NOT_COMMITTED
    assert store.count("HEAD") == 0


async def test_an_object_that_is_not_there_was_not_committed(lent, store, back_end):
    store.answers["POST"] = [Response("", 503)]
    protocol = lent.protocol(back_end.plan())
    session = await committed_in_doubt(protocol)
    assert (await protocol.reconcile(session)).outcome is Outcome.NOT_COMMITTED
    store.answers["HEAD"] = [Response("", 500)]
    assert (await refusal(protocol.reconcile(session))).status == 500


# Parts that another store has noted


async def test_parts_of_an_earlier_run_are_told_with_what_proves_them(lent, store, back_end):
    protocol = lent.protocol(back_end.plan())
    _, receipts = await upload(protocol)
    noted = uploaded_parts(back_end.plan(), receipts)
    assert [(part.number, part.offset, part.size) for part in noted] == [
        (1, 0, CHUNK),
        (2, CHUNK, CHUNK),
        (3, 2 * CHUNK, 345),
    ]
    stored = msgspec.json.decode(msgspec.json.encode(noted), type=list[UploadedPart])
    resumed = back_end.plan().with_resumed_parts(stored[:2])
    held = (await Lent(lent.tools.transport).protocol(resumed).prepare(None)).held
    assert {index: part.receipt for index, part in held.items()} == {0: receipts[0], 1: receipts[1]}
    assert held[0].md5 == await pieces(CONTENT)[0].checksum("md5")


# Secrets


async def test_no_signature_stands_in_what_is_kept_or_told(lent, store, back_end, caplog):
    caplog.set_level(logging.DEBUG)
    protocol = lent.protocol(back_end.plan(), refresher="backend")
    session, receipts = await upload(protocol)
    kept = msgspec.json.encode([session, receipts, protocol.job.spec]).decode()
    told = [repr(protocol.job), repr(back_end.asked)]
    for answer in (error("AccessDenied", 403), error(CANARY, 400), Response(f"sig={CANARY}", 404)):
        store.answers["PUT"] = [answer] * 2
        told.append((await refusal(protocol.send_part(session, pieces(CONTENT)[0]))).detail)
    back_end.failure = RuntimeError(f"GET https://host/x?sig={CANARY}")
    store.answers["PUT"] = [error("AccessDenied", 403)] * 2
    told.append((await refusal(protocol.send_part(session, pieces(CONTENT)[0]))).detail)
    told += [record.getMessage() for record in caplog.records if record.name != "werkzeug"]
    assert CANARY not in kept + " ".join(told)
