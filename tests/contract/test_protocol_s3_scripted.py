"""What no S3 server does when it is asked to: errors in a 200, wrong clocks, lists without an end."""

import hashlib
import re
import sys
from pathlib import Path

import pytest
from werkzeug.wrappers import Response

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode imports no neighbours by itself

from s3_harness import KEY, PART, TASK, Sending, download_of, tools_of, wall

from meowcat.core.http_rules import Asked, Partial, Wrong
from meowcat.core.retry import Class, classify
from meowcat.core.sessions import Receipt
from meowcat.core.values import FaultKind
from meowcat.protocols.contract import Outcome, Refused
from meowcat.protocols.credentials import AccessKey
from meowcat.protocols.s3 import S3
from meowcat.protocols.s3.settings import MARKER

pytestmark = pytest.mark.anyio

HOUR = 60 * 60 * 1000
CONTENT = bytes(2 * PART + 10)
CREATED = "<InitiateMultipartUploadResult><UploadId>U1</UploadId></InitiateMultipartUploadResult>"
COMPLETED = '<CompleteMultipartUploadResult><ETag>"e"</ETag></CompleteMultipartUploadResult>'
NO_PARTS = "<ListPartsResult/>"


@pytest.fixture
def anyio_backend():
    return "asyncio"


def error(code, status=400, **headers):
    return (
        status,
        {name.replace("_", "-"): value for name, value in headers.items()},
        (f"<Error><Code>{code}</Code><Message>m</Message></Error>"),
    )


GONE = error("NoSuchUpload", 404)


def reply(status=200, body="", **headers):
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, body


class Script:
    """Answers one request after the other, each with the next reply, and remembers what was asked."""

    def __init__(self, httpserver):
        self.origin = httpserver.url_for("").rstrip("/")
        self.replies = []
        self.seen = []
        httpserver.expect_request(re.compile(".*")).respond_with_handler(self._answer)

    def _answer(self, request):
        request.get_data()
        self.seen.append(request)
        status, headers, body = self.replies.pop(0)
        made = Response(body, status, headers)
        if "Content-Length" in headers:  # of a HEAD
            made.automatically_set_content_length = False
            made.headers["Content-Length"] = headers["Content-Length"]
        return made

    def answers(self, *replies):
        assert self.replies == [], "replies that nobody has asked for"
        self.seen.clear()
        self.replies += replies

    @property
    def asked(self):
        return [f"{each.method} {each.query_string.decode()}".strip() for each in self.seen]


@pytest.fixture
def script(httpserver):
    made = Script(httpserver)
    yield made
    assert made.replies == [], "replies that nobody has asked for"


def sending(script, content=CONTENT, tools=None, headers=None, **settings):
    settings = S3(endpoint=script.origin, **settings)
    return Sending(tools or tools_of(), "s3://bucket/key", content, settings, headers or {})


async def begun(script, content=CONTENT, receipts=3, **options):
    sent = sending(script, content, **options)
    script.answers(reply(body=CREATED))
    await sent.prepare()
    sent.receipts = {index: Receipt(text=f'"{index}"') for index in range(receipts)}
    return sent


async def refused(coroutine):
    with pytest.raises(Refused) as raised:
        await coroutine
    return raised.value.fault


def marked(sent, size=2 * PART + 10, **headers):
    mark = sent.session.facts["mark"]
    return reply(200, "", **{MARKER: mark, "Content-Length": str(size), "ETag": '"e"', **headers})


# Clocks


async def test_a_wrong_clock_is_put_right_once_and_remembered_for_the_server(script):
    tools = tools_of(clock=lambda: wall() - HOUR)
    sent = sending(script, tools=tools)
    script.answers(error("RequestTimeTooSkewed", 403), reply(body=CREATED))
    await sent.prepare()
    first, second = (each.headers["X-Amz-Date"] for each in script.seen)
    assert int(second[9:11]) == (int(first[9:11]) + 1) % 24
    script.answers(listed(1))
    await sent.prepare()
    assert script.seen[0].headers["X-Amz-Date"][9:11] == second[9:11]


async def test_a_clock_that_stays_wrong_is_an_error_and_no_endless_loop(script):
    sent = sending(script, tools=tools_of(clock=lambda: wall() - HOUR * len(script.seen)))
    script.answers(error("RequestTimeTooSkewed", 403), error("RequestTimeTooSkewed", 403))
    fault = await refused(sent.prepare())
    assert "the clocks here and there differ" in fault.detail


async def test_a_refusal_of_another_kind_with_a_right_clock_is_not_asked_again(script):
    sent = sending(script)
    script.answers(error("AccessDenied", 403))
    assert (await refused(sent.prepare())).status == 403
    assert sent.tools.skew == {}


# Credentials


async def test_a_token_that_has_run_out_is_renewed_and_the_request_sent_once_more(script):
    given = [AccessKey(id="OLD", secret="s", token="t1"), AccessKey(id="NEW", secret="s", token="t2")]
    sent = sending(script, tools=tools_of(lambda: given.pop(0)))
    script.answers(error("ExpiredToken"), reply(body=CREATED))
    await sent.prepare()
    assert [re.search("=(.*?)/", each.headers["Authorization"])[1] for each in script.seen] == ["OLD", "NEW"]
    assert script.seen[1].headers["X-Amz-Security-Token"] == "t2"


async def test_a_token_that_nobody_renews_waits_for_a_fresh_one(script):
    sent = sending(script, tools=tools_of(AccessKey(id="OLD", secret="s", token="secret-token")))
    script.answers(error("ExpiredToken"))
    fault = await refused(sent.prepare())
    assert fault.kind is FaultKind.EXPIRED
    assert "secret-token" not in fault.detail


async def test_a_token_that_is_renewed_in_vain_is_not_asked_for_for_ever(script):
    keys = (AccessKey(id=f"K{number}", secret="s", token="t") for number in range(9))
    sent = sending(script, tools=tools_of(lambda: next(keys)))
    script.answers(error("ExpiredToken"), error("ExpiredToken"))
    assert (await refused(sent.prepare())).kind is FaultKind.EXPIRED


async def test_without_a_credential_nothing_is_signed(script):
    sent = sending(script, b"x", credential=None)
    script.answers(reply(ETag='"e"'))
    await sent.all()
    assert "Authorization" not in script.seen[0].headers
    assert "X-Amz-Date" not in script.seen[0].headers


# The beginning


async def test_a_server_that_refuses_the_checksum_is_asked_without(script):
    for refusal in (error("NotImplemented", 501), error("InvalidArgument", 400)):
        sent = sending(script)
        script.answers(refusal, reply(body=CREATED))
        await sent.prepare()
        assert sent.session.capabilities.part_checksum == "md5"
        assert [each.headers.get("x-amz-checksum-algorithm") for each in script.seen] == ["CRC64NVME", None]


async def test_a_checksum_that_the_user_chose_and_the_server_refuses_says_what_to_set(script):
    sent = sending(script, checksum="sha256")
    script.answers(error("NotImplemented", 501))
    assert "S3(checksum='md5')" in (await refused(sent.prepare())).detail


async def test_what_is_small_is_signed_with_its_content_and_a_part_with_its_checksum(script):
    sent = await begun(script, checksum="sha256")
    assert script.seen[0].headers["X-Amz-Content-SHA256"] == hashlib.sha256().hexdigest()
    script.answers(reply(ETag='"e"'))
    await sent.send(0)
    assert script.seen[0].headers["X-Amz-Content-SHA256"] == await sent.parts()[0].checksum("sha256")
    script.answers(reply(body=COMPLETED), reply(403))
    await sent.commit()
    assert script.seen[0].headers["X-Amz-Content-SHA256"] == hashlib.sha256(script.seen[0].data).hexdigest()


async def test_a_session_without_an_id_is_refused(script):
    script.answers(reply(body="<InitiateMultipartUploadResult/>"))
    assert (await refused(sending(script).prepare())).kind is FaultKind.REPLY


async def test_a_server_that_is_busy_says_how_long(script):
    script.answers(error("SlowDown", 503, Retry_After="3"))
    fault = await refused(sending(script).prepare())
    assert (fault.retry_after, classify(fault)) == (3000, Class.TRANSIENT)


async def test_a_bucket_that_is_elsewhere_says_where(script):
    script.answers(error("PermanentRedirect", 301, x_amz_bucket_region="eu-west-1"))
    assert "'eu-west-1': set S3(region=" in (await refused(sending(script).prepare())).detail


# Parts


async def test_a_part_without_an_etag_or_with_another_checksum_is_refused(script):
    sent = await begun(script, checksum="crc64nvme")
    part = sent.parts()[0]
    script.answers(reply())
    assert (await refused(sent.protocol.send_part(sent.session, part))).kind is FaultKind.REPLY
    script.answers(reply(ETag='"e"', x_amz_checksum_crc64nvme="AAAAAAAAAAA="))
    assert (await refused(sent.protocol.send_part(sent.session, part))).kind is FaultKind.CHECKSUM


def listed(*numbers, marker="", etag="0" * 32):
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag><Size>1</Size></Part>"
        for number in numbers
    )
    more = f"<IsTruncated>true</IsTruncated><NextPartNumberMarker>{marker}</NextPartNumberMarker>"
    return reply(body=f"<ListPartsResult>{more if marker else ''}{parts}</ListPartsResult>")


async def test_a_list_of_many_pages_is_read_to_its_end(script):
    sent = await begun(script)
    script.answers(listed(1, 2, marker="2"), listed(3, marker="3"), listed(4))
    prepared = await sent.prepare()
    assert sorted(prepared.held) == [0, 1, 2, 3]
    assert script.asked == [
        "GET uploadId=U1",
        "GET part-number-marker=2&uploadId=U1",
        "GET part-number-marker=3&uploadId=U1",
    ]


async def test_a_list_that_stands_still_is_refused(script):
    sent = await begun(script)
    script.answers(listed(1, marker="1"), listed(1, marker="1"))
    assert "does not come to an end" in (await refused(sent.prepare())).detail


async def test_where_the_server_encrypts_with_a_key_an_etag_is_no_md5(script):
    sent = sending(script)
    script.answers(reply(body=CREATED, x_amz_server_side_encryption="aws:kms"))
    await sent.prepare()
    script.answers(listed(1))
    assert (await sent.prepare()).held[0].md5 is None


# The commit


async def test_an_error_in_a_200_is_an_error(script):
    sent = await begun(script)
    script.answers(error("InternalError", 200))
    fault = await refused(sent.commit())
    assert classify(fault) is Class.TRANSIENT
    assert "200 InternalError" in fault.detail


@pytest.mark.parametrize("body", ["", "<html/>", "garbage", "<Complete"])
async def test_a_200_that_is_neither_result_nor_error_is_refused(script, body):
    sent = await begun(script)
    script.answers(reply(body=body))
    assert (await refused(sent.commit())).kind is FaultKind.REPLY


async def test_an_answer_that_begins_with_blanks_is_understood(script):
    sent = await begun(script)
    script.answers(reply(body="\n  \n" + COMPLETED, x_amz_version_id="v7"), marked(sent))
    assert await sent.commit() == {"etag": '"e"', "version_id": "v7"}


async def test_an_object_that_is_shorter_than_what_was_sent_is_refused(script):
    sent = await begun(script)
    script.answers(reply(body=COMPLETED), marked(sent, 7))
    fault = await refused(sent.commit())
    assert "has 7 bytes; expected" in fault.detail


async def test_whoever_may_not_read_takes_the_servers_word(script):
    sent = await begun(script)
    script.answers(reply(body=COMPLETED), reply(403))
    assert (await sent.commit())["etag"] == '"e"'


async def test_a_whole_with_another_checksum_is_refused(script):
    sent = await begun(script, checksum="crc64nvme")
    sent.receipts = {
        part.index: Receipt(text="e", checksum=f"crc64nvme:{await part.checksum('crc64nvme')}")
        for part in sent.parts()
    }
    said = "<ETag>e</ETag><ChecksumCRC64NVME>AAAAAAAAAAE=</ChecksumCRC64NVME>"
    script.answers(reply(body=f"<CompleteMultipartUploadResult>{said}</CompleteMultipartUploadResult>"))
    fault = await refused(sent.commit())
    assert fault.kind is FaultKind.CHECKSUM
    assert script.seen[0].headers["x-amz-checksum-type"] == "FULL_OBJECT"


async def test_an_upload_that_is_gone_with_the_object_there_was_committed_before(script):
    sent = await begun(script)
    script.answers(GONE, marked(sent))
    assert (await sent.commit())["etag"] == '"e"'
    script.answers(GONE, reply(404))
    assert (await refused(sent.commit())).kind is FaultKind.SESSION_LOST


# Reconciling


async def test_a_commit_that_comes_through_between_the_questions_is_found(script):
    sent = await begun(script)
    script.answers(reply(404), GONE, marked(sent))
    assert (await sent.protocol.reconcile(sent.session)).outcome is Outcome.COMMITTED


async def test_where_neither_object_nor_upload_may_be_seen_nothing_is_claimed(script):
    sent = await begun(script)
    script.answers(reply(403), GONE, reply(403))
    fault = await refused(sent.protocol.reconcile(sent.session))
    assert fault.status == 403
    assert "s3:GetObject" in fault.detail


async def test_an_object_that_may_not_be_seen_and_an_upload_that_stands_are_no_commit(script):
    sent = await begun(script)
    script.answers(reply(403), reply(body=NO_PARTS))
    assert (await sent.protocol.reconcile(sent.session)).outcome is Outcome.NOT_COMMITTED


@pytest.mark.parametrize("mark", ["", f"{TASK}-0", "somebody"])
async def test_an_object_without_this_uploads_own_mark_proves_nothing(script, mark):
    sent = await begun(script)
    other = marked(sent, **{MARKER: mark})
    script.answers(other, GONE, other)
    assert (await sent.protocol.reconcile(sent.session)).outcome is Outcome.LOST


async def test_an_object_of_another_size_proves_nothing_whatever_its_mark(script):
    sent = await begun(script)
    script.answers(marked(sent, 7), GONE, marked(sent, 7))
    assert (await sent.protocol.reconcile(sent.session)).outcome is Outcome.LOST


# The end


async def test_an_abort_is_repeated_until_the_server_says_that_the_upload_is_gone(script):
    sent = await begun(script)
    script.answers(reply(204), listed(1), reply(204), GONE)
    await sent.protocol.abort(sent.session)
    assert script.asked == ["DELETE uploadId=U1", "GET uploadId=U1"] * 2


async def test_an_upload_that_comes_back_each_time_is_left_for_later(script):
    sent = await begun(script)
    script.answers(*[reply(204), listed(1)] * 5)
    fault = await refused(sent.protocol.abort(sent.session))
    assert classify(fault) is Class.TRANSIENT


async def test_whoever_may_abort_and_not_list_takes_the_servers_word(script):
    sent = await begun(script)
    script.answers(reply(204), error("AccessDenied", 403))
    await sent.protocol.abort(sent.session)
    assert script.asked[-2:] == ["DELETE uploadId=U1", "GET uploadId=U1"]


async def test_an_abort_that_is_refused_is_an_error(script):
    sent = await begun(script)
    script.answers(error("AccessDenied", 403))
    assert (await refused(sent.protocol.abort(sent.session))).status == 403


async def test_uploads_are_listed_over_all_pages(script):
    def page(upload, more=""):
        one = f"<Upload><Key>key</Key><UploadId>{upload}</UploadId></Upload>"
        return reply(body=f"<ListMultipartUploadsResult>{more}{one}</ListMultipartUploadsResult>")

    more = "<IsTruncated>true</IsTruncated><NextKeyMarker>key</NextKeyMarker>"
    more += "<NextUploadIdMarker>U1</NextUploadIdMarker>"
    script.answers(page("U1", more), page("U2"))
    assert [each.id for each in await sending(script).protocol.orphans()] == ["U1", "U2"]
    assert script.asked[1] == "GET key-marker=key&prefix=key&upload-id-marker=U1&uploads="


# Downloads


async def test_a_download_puts_its_clock_and_its_credential_right(script):
    given = [AccessKey(id="OLD", secret="s", token="t"), KEY]
    tools = tools_of(lambda: given.pop(0), clock=lambda: wall() - HOUR)
    part = reply(206, "abc", Content_Range="bytes 0-2/9", ETag='"e"')
    script.answers(error("RequestTimeTooSkewed", 403), error("ExpiredToken"), part)
    protocol = download_of(script, "s3://bucket/key", tools, version_id="v 1")
    async with protocol.ask(Asked(0, 3, None)) as answer:
        assert isinstance(answer.verdict, Partial)
        assert bytes(await answer.read(9)) == b"abc"
    assert script.asked == ["GET versionId=v%201"] * 3
    assert KEY.id in script.seen[2].headers["Authorization"]


async def test_a_download_says_what_is_wrong_in_the_servers_terms(script):
    tools = tools_of()
    script.answers(error("InvalidObjectState", 403))
    async with download_of(script, "s3://bucket/key", tools).ask(Asked(0, 3, None)) as answer:
        assert isinstance(answer.verdict, Wrong)
        assert "have it restored first" in answer.verdict.fault.detail
