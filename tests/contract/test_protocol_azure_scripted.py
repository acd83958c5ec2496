"""What the emulator of Azure does not do when it is asked to: wrong clocks, leases, busy servers, tokens."""

import base64
import re
from datetime import UTC, datetime

import pytest
from azure_harness import KEY, PART, Sending, download_of, tools_of, wall
from scripted_store import Script, refused, reply
from scripted_store import error as any_error

from meowcat.core.http_rules import Asked, Partial, Wrong
from meowcat.core.retry import Class, classify, http_date
from meowcat.core.values import FaultKind
from meowcat.protocols.azure import AzureBlob
from meowcat.protocols.azure.upload import MARKER
from meowcat.protocols.contract import Outcome
from meowcat.protocols.credentials import AccessKey, AzureKey, AzureSas, BearerToken
from meowcat.transfer.digests import new

pytestmark = pytest.mark.anyio

HOUR = 60 * 60 * 1000
CONTENT = bytes(2 * PART + 10)
NO_BLOCKS = "<BlockList><CommittedBlocks /><UncommittedBlocks /></BlockList>"
ENDED = (
    "<Error><Code>AuthenticationFailed</Code><AuthenticationErrorDetail>Signature not "
    "valid in the specified time frame: Start [x] - Expiry [y]</AuthenticationErrorDetail></Error>"
)


def error(code, status=400, **headers):
    """Azure says the code in a header, too: a HEAD has nothing else."""
    return any_error(code, status, x_ms_error_code=code, **headers)


NOT_THERE = error("BlobNotFound", 404)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def script(httpserver):
    made = Script(httpserver)
    made.endpoint = made.origin
    yield made
    assert made.replies == [], "replies that nobody has asked for"


def sending(script, content=CONTENT, tools=None, headers=None, **settings):
    settings = AzureBlob(**{"endpoint": script.origin, **settings})
    return Sending(tools or tools_of(), "azure://container/blob", content, settings, headers or {})


async def begun(script, content=CONTENT, **options):
    sent = sending(script, content, **options)
    script.answers(NOT_THERE)
    await sent.prepare()
    return sent


def marked(sent, size=2 * PART + 10, **headers):
    mark = sent.session.facts["mark"]
    return reply(200, "", **{MARKER: mark, "Content-Length": str(size), "ETag": '"e"', **headers})


def blocks(*ids, size=PART):
    listed = "".join(f"<Block><Name>{each}</Name><Size>{size}</Size></Block>" for each in ids)
    return reply(
        body=NO_BLOCKS.replace("<UncommittedBlocks />", f"<UncommittedBlocks>{listed}</UncommittedBlocks>")
    )


# Clocks


@pytest.mark.parametrize("minutes", [-20, 20])
async def test_a_clock_that_is_wrong_is_put_right_once_and_remembered_for_the_account(script, minutes):
    off = minutes * 60_000
    sent = sending(script, tools=tools_of(clock=lambda: wall() + off))
    script.answers(error("AuthenticationFailed", 403), NOT_THERE)
    await sent.prepare()
    first, second = (http_date(each.headers["x-ms-date"]) for each in script.seen)
    assert abs(first - wall() - off) < 30_000
    assert abs(second - wall()) < 30_000
    script.answers(NOT_THERE)
    await sent.protocol.prepare(None)
    assert abs(http_date(script.seen[0].headers["x-ms-date"]) - wall()) < 30_000


async def test_a_signature_that_is_wrong_with_a_right_clock_is_not_sent_again(script):
    sent = sending(script)
    script.answers(error("AuthenticationFailed", 403))
    fault = await refused(sent.prepare())
    assert (fault.kind, classify(fault)) == (FaultKind.STATUS, Class.PERMANENT)
    assert "check that credential 'default' is whole and one of the account" in fault.detail


# Credentials


@pytest.mark.parametrize(
    ("old", "new", "refusal"),
    [
        (AzureSas(token="sig=old-made-up"), AzureSas(token="sig=new"), error("AuthenticationFailed", 403)),
        (BearerToken(token="old-made-up"), BearerToken(token="new"), error("InvalidAuthenticationInfo", 401)),
        (KEY, AzureKey(account="account", key="bmV3"), error("AuthenticationFailed", 403)),
    ],
)
async def test_a_credential_that_is_taken_no_more_is_renewed_and_the_request_sent_once_more(
    script, old, new, refusal
):
    given = [old, new]
    sent = sending(script, tools=tools_of(lambda: given.pop(0)))
    script.answers(refusal, NOT_THERE)
    await sent.prepare()
    shown = [each.headers.get("Authorization") or each.query_string.decode() for each in script.seen]
    assert shown[0] != shown[1]
    if not isinstance(old, AzureKey):
        assert ["old-made-up" in each for each in shown] == [True, False]


async def test_a_sas_that_has_ended_by_the_servers_clock_waits_for_a_fresh_one(script):
    end = datetime.fromtimestamp(wall() / 1000 - 60, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    sas = AzureSas(token=f"se={end}&sig=made-up-secret")
    sent = sending(script, tools=tools_of(sas, clock=lambda: wall() - 2 * 60_000))
    script.answers(error("AuthenticationFailed", 403))
    fault = await refused(sent.prepare())
    assert (fault.kind, classify(fault)) == (FaultKind.EXPIRED, Class.SUPPLY)
    assert "register a provider" in fault.detail
    assert "made-up-secret" not in fault.detail


async def test_a_sas_whose_end_a_policy_says_waits_where_the_server_tells_of_it(script):
    sent = await begun(script, tools=tools_of(AzureSas(token="si=policy&sig=made-up-secret")))
    script.answers((403, {}, ENDED))
    assert (await refused(sent.prepare())).kind is FaultKind.EXPIRED


async def test_a_token_that_has_ended_waits_for_a_fresh_one(script):
    sent = sending(script, tools=tools_of(BearerToken(token="made-up-secret")))
    script.answers(error("InvalidAuthenticationInfo", 401))
    fault = await refused(sent.prepare())
    assert (fault.kind, classify(fault)) == (FaultKind.EXPIRED, Class.SUPPLY)
    assert "made-up-secret" not in fault.detail


async def test_what_is_renewed_in_vain_is_not_asked_for_for_ever(script):
    tokens = (BearerToken(token=f"t{number}") for number in range(9))
    sent = sending(script, tools=tools_of(lambda: next(tokens)))
    script.answers(error("InvalidAuthenticationInfo", 401), error("InvalidAuthenticationInfo", 401))
    assert (await refused(sent.prepare())).kind is FaultKind.EXPIRED


async def test_a_token_and_a_sas_stand_where_they_belong_and_nothing_signs_where_nothing_is_to(script):
    for tools, settings, expected in (
        (tools_of(BearerToken(token="abc")), {}, ("Bearer abc", "")),
        (tools_of(AzureSas(token="?sv=1&sig=x%3D")), {}, (None, "sv=1&sig=x%3D")),
        (tools_of(), {"credential": None}, (None, "")),
    ):
        sent = sending(script, tools=tools, **settings)
        script.answers(NOT_THERE)
        await sent.prepare()
        (seen,) = script.seen
        assert (seen.headers.get("Authorization"), seen.query_string.decode()) == expected
        assert seen.headers["x-ms-version"]


async def test_a_token_goes_nowhere_in_the_open(script):
    sent = sending(script, tools=tools_of(BearerToken(token="made-up-secret")), endpoint="http://192.0.2.1/a")
    fault = await refused(sent.prepare())
    assert "in the open on its way to http://192.0.2.1/a: give an endpoint with https://" in fault.detail
    assert "made-up-secret" not in fault.detail


async def test_a_key_of_s3_signs_nothing_here(script):
    sent = sending(script, tools=tools_of(AccessKey(id="AK", secret="made-up")))
    fault = await refused(sent.prepare())
    assert "expected AzureKey or AzureSas or BearerToken; it is of kind AccessKey" in fault.detail


async def test_a_header_that_can_not_be_signed_is_named(script):
    sent = sending(script, headers={"x-ms-a.b": "1"})
    fault = await refused(sent.prepare())
    assert "'x-ms-a.b'" in fault.detail


# The beginning


async def test_a_container_that_is_not_there_is_no_blob_that_is_not_there(script):
    script.answers(reply(404, x_ms_error_code="ContainerNotFound"))
    fault = await refused(sending(script).prepare())
    assert "there is no container 'container' at http" in fault.detail


async def test_whoever_may_not_read_goes_by_the_commits_condition_alone(script):
    denied = reply(403, x_ms_error_code="AuthorizationPermissionMismatch")
    for overwrite, expected in (("never", "*"), ("replace", None)):
        sent = sending(script, b"x", overwrite=overwrite)
        script.answers(denied, reply(201, ETag='"e"'))
        await sent.all()
        assert (script.seen[1].headers.get("If-None-Match"), script.seen[1].headers.get("If-Match")) == (
            expected,
            None,
        )


async def test_what_is_there_at_the_beginning_is_what_is_replaced(script):
    for found, expected in ((NOT_THERE, ("*", None)), (reply(ETag='"old"'), (None, '"old"'))):
        sent = sending(script, b"x", overwrite="replace")
        script.answers(found, reply(201, ETag='"e"'))
        await sent.all()
        headers = script.seen[1].headers
        assert (headers.get("If-None-Match"), headers.get("If-Match")) == expected


async def test_a_request_id_is_told_so_that_the_provider_can_be_asked(script):
    script.answers(error("InternalError", 500, x_ms_request_id="r-17"))
    fault = await refused(sending(script).prepare())
    assert fault.detail.endswith("(request r-17)")
    assert classify(fault) is Class.TRANSIENT


# Blocks


async def test_a_block_is_sent_with_the_checksum_that_was_chosen(script):
    for checksum, header in (("md5", "Content-MD5"), ("crc64nvme", "x-ms-content-crc64")):
        sent = await begun(script, checksum=checksum)
        digest = new(checksum)
        digest.update(CONTENT[:PART])
        raw = bytes.fromhex(digest.hexdigest())
        expected = base64.b64encode(raw if checksum == "md5" else raw[::-1]).decode()
        script.answers(reply(201, **{header: expected}))
        await sent.send(0)
        assert script.seen[0].headers[header] == expected
        script.answers(reply(201, **{header: base64.b64encode(bytes(len(raw))).decode()}))
        assert (await refused(sent.send(0))).kind is FaultKind.CHECKSUM


@pytest.mark.parametrize("code", ["Md5Mismatch", "Crc64Mismatch"])
async def test_a_block_that_was_damaged_on_its_way_is_sent_again(script, code):
    sent = await begun(script)
    script.answers(error(code))
    fault = await refused(sent.send(0))
    assert (fault.kind, classify(fault)) == (FaultKind.DISCONNECTED, Class.TRANSIENT)


async def test_two_contents_of_one_index_leave_it_open_which_counts(script):
    sent = await begun(script)
    script.answers(reply(201))
    await sent.send(0)
    first = sent.receipts[0].text
    other = base64.b64encode(base64.b64decode(first)[:-1] + b"\x07").decode()
    script.answers(blocks(first))
    assert sorted((await sent.prepare()).held) == [0]
    script.answers(blocks(first, other, "AAAA"))
    assert (await sent.prepare()).held == {}


@pytest.mark.parametrize(
    "body", ["", "<html/>", "<BlockList><UncommittedBlocks><Block/></UncommittedBlocks></BlockList>"]
)
async def test_a_list_that_is_none_is_refused(script, body):
    sent = await begun(script)
    script.answers(reply(body=body))
    assert (await refused(sent.prepare())).kind is FaultKind.REPLY


# The commit


async def test_a_commit_names_the_blocks_in_their_order_under_the_condition(script):
    sent = await begun(script, tier="Cool", metadata={"owner": "me"})
    script.answers(*[reply(201)] * 3)
    await sent.send()
    script.answers(reply(201, ETag='"e"', x_ms_version_id="v7"))
    sent.receipts = dict(reversed(sent.receipts.items()))
    assert await sent.commit() == {"etag": '"e"', "version_id": "v7"}
    (seen,) = script.seen
    names = re.findall("<Uncommitted>(.*?)</Uncommitted>", seen.data.decode())
    assert [int.from_bytes(base64.b64decode(name)[12:16], "big") for name in names] == [0, 1, 2]
    assert {len(name) for name in names} == {64}
    assert seen.headers["If-None-Match"] == "*"
    assert (seen.headers["x-ms-access-tier"], seen.headers["x-ms-meta-owner"]) == ("Cool", "me")


@pytest.mark.parametrize("code", ["BlobAlreadyExists", "ConditionNotMet", "InvalidBlockList"])
async def test_a_commit_that_fails_since_an_earlier_one_came_through_is_one(script, code):
    sent = await begun(script)
    script.answers(error(code, 409), marked(sent))
    assert (await sent.commit())["etag"] == '"e"'


async def test_a_blob_of_another_size_or_mark_is_not_ours(script):
    sent = await begun(script)
    for other in (marked(sent, 7), marked(sent, **{MARKER: "somebody"})):
        script.answers(error("BlobAlreadyExists", 409), other)
        assert (await refused(sent.commit())).kind is FaultKind.TARGET_EXISTS


async def test_a_commit_of_blocks_that_are_gone_is_a_lost_session(script):
    sent = await begun(script)
    script.answers(error("InvalidBlockList"), NOT_THERE)
    assert (await refused(sent.commit())).kind is FaultKind.SESSION_LOST


# Reconciling


async def test_a_commit_that_comes_through_between_the_questions_is_found(script):
    sent = await begun(script)
    script.answers(NOT_THERE, reply(body=NO_BLOCKS), marked(sent))
    assert (await sent.protocol.reconcile(sent.session)).outcome is Outcome.COMMITTED


async def test_whoever_may_not_read_can_not_tell(script):
    sent = await begun(script)
    script.answers(reply(403, x_ms_error_code="AuthorizationPermissionMismatch"))
    fault = await refused(sent.protocol.reconcile(sent.session))
    assert "r to resume an upload and to prove its end" in fault.detail


# What is said


@pytest.mark.parametrize(
    ("status", "code", "kind", "what", "says"),
    [
        (
            403,
            "AuthorizationPermissionMismatch",
            FaultKind.STATUS,
            Class.PERMANENT,
            "A SAS needs r to download",
        ),
        (403, "AuthorizationFailure", FaultKind.STATUS, Class.PERMANENT, "rules of networks"),
        (
            403,
            "KeyBasedAuthenticationNotPermitted",
            FaultKind.STATUS,
            Class.PERMANENT,
            "register a BearerToken",
        ),
        (409, "LeaseIdMissing", FaultKind.STATUS, Class.PERMANENT, "x-ms-lease-id"),
        (412, "LeaseIdMissing", FaultKind.STATUS, Class.PERMANENT, "x-ms-lease-id"),
        (409, "BlobImmutableDueToPolicy", FaultKind.STATUS, Class.PERMANENT, "keeps it as it is"),
        (409, "ContainerBeingDeleted", FaultKind.STATUS, Class.TRANSIENT, "tried again later"),
        (413, "RequestBodyTooLarge", FaultKind.STATUS, Class.PERMANENT, "make piece_size smaller"),
        (429, "TooManyRequests", FaultKind.STATUS, Class.TRANSIENT, "busy"),
        (500, "OperationTimedOut", FaultKind.STATUS, Class.TRANSIENT, "took too long"),
        (503, "ServerBusy", FaultKind.STATUS, Class.TRANSIENT, "busy"),
        (400, "InvalidBlobOrBlock", FaultKind.STATUS, Class.PERMANENT, "ids of another length"),
        (400, "SomethingNew", FaultKind.STATUS, Class.PERMANENT, "SomethingNew: m"),
    ],
)
async def test_an_error_says_what_it_means_here_and_what_to_do(script, status, code, kind, what, says):
    sent = await begun(script)
    script.answers(error(code, status, Retry_After="7"))
    fault = await refused(sent.send(0))
    assert (fault.kind, classify(fault), fault.retry_after) == (kind, what, 7000)
    assert says in fault.detail
    assert f"block 1 of azure://container/blob: {status} {code}" in fault.detail


# Downloads


async def test_a_download_puts_its_clock_and_its_credential_right(script):
    given = [AzureKey(account="account", key="b2xk"), KEY]
    tools = tools_of(lambda: given.pop(0), clock=lambda: wall() - HOUR)
    part = reply(206, "abc", Content_Range="bytes 0-2/9", ETag='"e"')
    script.answers(error("AuthenticationFailed", 403), error("AuthenticationFailed", 403), part)
    protocol = download_of(script, "azure://container/blob", tools, version_id="2024-01-01T00:00:00.1Z")
    async with protocol.ask(Asked(0, 3, None)) as answer:
        assert isinstance(answer.verdict, Partial)
        assert bytes(await answer.read(9)) == b"abc"
    assert script.asked == ["GET versionid=2024-01-01T00%3A00%3A00.1Z"] * 3
    assert all("Range" not in each.headers for each in script.seen)
    assert script.seen[0].headers["x-ms-range"] == "bytes=0-2"


async def test_a_download_says_what_is_wrong_in_azures_terms(script):
    script.answers(error("BlobArchived", 409))
    async with download_of(script, "azure://container/blob", tools_of()).ask(Asked(0, 3, None)) as answer:
        assert isinstance(answer.verdict, Wrong)
        assert "set it to tier Hot or Cool" in answer.verdict.fault.detail
