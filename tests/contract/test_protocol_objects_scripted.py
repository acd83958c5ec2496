"""What no object store does when it is asked to: errors in a 200, wrong clocks, lists without an end."""

import re

import pytest
from objects_harness import KEY, TASK, tools_of, wall
from scripted_store import COMPLETED, CREATED, NO_PARTS, ON_OSS, ON_S3, Script, error, listed, refused, reply

from meowcat.core.http_rules import Asked, Partial, Wrong
from meowcat.core.retry import Class, classify
from meowcat.core.values import FaultKind
from meowcat.protocols.contract import Outcome
from meowcat.protocols.credentials import AccessKey

pytestmark = pytest.mark.anyio

HOUR = 60 * 60 * 1000
GONE = error("NoSuchUpload", 404)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def script(httpserver):
    made = Script(httpserver)
    yield made
    assert made.replies == [], "replies that nobody has asked for"


@pytest.fixture(params=[ON_S3, ON_OSS], ids=["s3", "oss"])
def store(request):
    return request.param


# Clocks


async def test_a_wrong_clock_is_put_right_once_and_remembered_for_the_server(script, store):
    tools = tools_of(clock=lambda: wall() - HOUR)
    sent = store.sending(script, tools=tools)
    script.answers(error("RequestTimeTooSkewed", 403), reply(body=CREATED))
    await sent.prepare()
    first, second = (each.headers[f"{store.prefix}date"] for each in script.seen)
    assert int(second[9:11]) == (int(first[9:11]) + 1) % 24
    script.answers(listed(1))
    await sent.prepare()
    assert script.seen[0].headers[f"{store.prefix}date"][9:11] == second[9:11]


async def test_a_server_that_is_strict_and_says_so_corrects_a_clock_that_is_a_little_wrong(script, store):
    tools = tools_of(clock=lambda: wall() - HOUR // 30)
    script.answers(error("RequestTimeTooSkewed", 403), reply(body=CREATED))
    await store.sending(script, tools=tools).prepare()
    script.answers(error("AccessDenied", 403))
    tools = tools_of(clock=lambda: wall() - HOUR // 30)
    assert (await refused(store.sending(script, tools=tools).prepare())).status == 403


async def test_a_clock_that_stays_wrong_is_an_error_and_no_endless_loop(script, store):
    sent = store.sending(script, tools=tools_of(clock=lambda: wall() - HOUR * len(script.seen)))
    script.answers(error("RequestTimeTooSkewed", 403), error("RequestTimeTooSkewed", 403))
    fault = await refused(sent.prepare())
    assert "the clocks here and there differ" in fault.detail


async def test_a_refusal_of_another_kind_with_a_right_clock_is_not_asked_again(script, store):
    sent = store.sending(script)
    script.answers(error("AccessDenied", 403))
    assert (await refused(sent.prepare())).status == 403
    assert sent.tools.skew == {}


# Credentials


async def test_a_token_that_has_run_out_is_renewed_and_the_request_sent_once_more(script, store):
    given = [AccessKey(id="OLD", secret="s", token="t1"), AccessKey(id="NEW", secret="s", token="t2")]
    sent = store.sending(script, tools=tools_of(lambda: given.pop(0)))
    script.answers(store.run_out(), reply(body=CREATED))
    await sent.prepare()
    assert [re.search("=(.*?)/", each.headers["Authorization"])[1] for each in script.seen] == ["OLD", "NEW"]
    assert script.seen[1].headers[f"{store.prefix}security-token"] == "t2"


async def test_a_token_that_nobody_renews_waits_for_a_fresh_one(script, store):
    sent = store.sending(script, tools=tools_of(AccessKey(id="OLD", secret="s", token="secret-token")))
    script.answers(store.run_out())
    fault = await refused(sent.prepare())
    assert fault.kind is FaultKind.EXPIRED
    assert "secret-token" not in fault.detail


async def test_a_token_that_is_renewed_in_vain_is_not_asked_for_for_ever(script, store):
    keys = (AccessKey(id=f"K{number}", secret="s", token="t") for number in range(9))
    sent = store.sending(script, tools=tools_of(lambda: next(keys)))
    script.answers(store.run_out(), store.run_out())
    assert (await refused(sent.prepare())).kind is FaultKind.EXPIRED


async def test_without_a_credential_nothing_is_signed(script, store):
    sent = store.sending(script, b"x", credential=None)
    script.answers(reply(ETag='"e"'))
    await sent.all()
    assert "Authorization" not in script.seen[0].headers
    assert f"{store.prefix}date" not in script.seen[0].headers


# The beginning


async def test_a_session_without_an_id_is_refused(script, store):
    script.answers(reply(body="<InitiateMultipartUploadResult/>"))
    assert (await refused(store.sending(script).prepare())).kind is FaultKind.REPLY


async def test_a_server_that_is_busy_says_how_long(script, store):
    script.answers(error("SlowDown", 503, Retry_After="3"))
    fault = await refused(store.sending(script).prepare())
    assert (fault.retry_after, classify(fault)) == (3000, Class.TRANSIENT)


# Parts


async def test_a_list_of_many_pages_is_read_to_its_end(script, store):
    sent = await store.begun(script)
    script.answers(listed(1, 2, marker="2"), listed(3, marker="3"), listed(4))
    prepared = await sent.prepare()
    assert sorted(prepared.held) == [0, 1, 2, 3]
    assert script.asked == [
        "GET uploadId=U1",
        "GET part-number-marker=2&uploadId=U1",
        "GET part-number-marker=3&uploadId=U1",
    ]


async def test_a_list_that_stands_still_is_refused(script, store):
    sent = await store.begun(script)
    script.answers(listed(1, marker="1"), listed(1, marker="1"))
    assert "does not come to an end" in (await refused(sent.prepare())).detail


# The commit


async def test_an_error_in_a_200_is_an_error(script, store):
    sent = await store.begun(script)
    script.answers(error("InternalError", 200))
    fault = await refused(sent.commit())
    assert classify(fault) is Class.TRANSIENT
    assert "200 InternalError" in fault.detail


@pytest.mark.parametrize("body", ["", "<html/>", "garbage", "<Complete"])
async def test_a_200_that_is_neither_result_nor_error_is_refused(script, store, body):
    sent = await store.begun(script)
    script.answers(reply(body=body))
    assert (await refused(sent.commit())).kind is FaultKind.REPLY


async def test_an_answer_that_begins_with_blanks_is_understood(script, store):
    sent = await store.begun(script)
    script.answers(
        reply(body="\n  \n" + COMPLETED, **{f"{store.prefix}version-id": "v7"}), store.marked(sent)
    )
    assert await sent.commit() == {"etag": '"e"', "version_id": "v7"}


async def test_an_object_that_is_shorter_than_what_was_sent_is_refused(script, store):
    sent = await store.begun(script)
    script.answers(reply(body=COMPLETED), store.marked(sent, 7))
    fault = await refused(sent.commit())
    assert "has 7 bytes; expected" in fault.detail


async def test_whoever_may_not_read_takes_the_servers_word(script, store):
    sent = await store.begun(script)
    script.answers(reply(body=COMPLETED), reply(403))
    assert (await sent.commit())["etag"] == '"e"'


async def test_an_upload_that_is_gone_with_the_object_there_was_committed_before(script, store):
    sent = await store.begun(script)
    script.answers(GONE, store.marked(sent))
    assert (await sent.commit())["etag"] == '"e"'
    script.answers(GONE, reply(404))
    assert (await refused(sent.commit())).kind is FaultKind.SESSION_LOST


# Reconciling


async def test_a_commit_that_comes_through_between_the_questions_is_found(script, store):
    sent = await store.begun(script)
    script.answers(reply(404), GONE, store.marked(sent))
    assert (await sent.protocol.reconcile(sent.session)).outcome is Outcome.COMMITTED


async def test_where_neither_object_nor_upload_may_be_seen_nothing_is_claimed(script, store):
    sent = await store.begun(script)
    script.answers(reply(403), GONE, reply(403))
    fault = await refused(sent.protocol.reconcile(sent.session))
    assert fault.status == 403
    assert ":GetObject" in fault.detail


async def test_an_object_that_may_not_be_seen_and_an_upload_that_stands_are_no_commit(script, store):
    sent = await store.begun(script)
    script.answers(reply(403), reply(body=NO_PARTS))
    assert (await sent.protocol.reconcile(sent.session)).outcome is Outcome.NOT_COMMITTED


@pytest.mark.parametrize("mark", ["", f"{TASK}-0", "somebody"])
async def test_an_object_without_this_uploads_own_mark_proves_nothing(script, store, mark):
    sent = await store.begun(script)
    other = store.marked(sent, **{store.marker: mark})
    script.answers(other, GONE, other)
    assert (await sent.protocol.reconcile(sent.session)).outcome is Outcome.LOST


async def test_an_object_of_another_size_proves_nothing_whatever_its_mark(script, store):
    sent = await store.begun(script)
    script.answers(store.marked(sent, 7), GONE, store.marked(sent, 7))
    assert (await sent.protocol.reconcile(sent.session)).outcome is Outcome.LOST


async def test_a_look_that_tells_no_length_is_believed_by_the_mark(script, store):
    sent = await store.begun(script)
    untold = store.marked(sent, None)
    script.answers(reply(body=COMPLETED), untold)
    assert (await sent.commit())["etag"] == '"e"'
    script.answers(untold)
    assert (await sent.protocol.reconcile(sent.session)).outcome is Outcome.COMMITTED
    other = store.marked(sent, None, **{store.marker: "somebody"})
    script.answers(other, GONE, other)
    assert (await sent.protocol.reconcile(sent.session)).outcome is Outcome.LOST


# The end


async def test_an_abort_is_repeated_until_the_server_says_that_the_upload_is_gone(script, store):
    sent = await store.begun(script)
    script.answers(reply(204), listed(1), reply(204), GONE)
    await sent.protocol.abort(sent.session)
    assert script.asked == ["DELETE uploadId=U1", "GET uploadId=U1"] * 2


async def test_an_upload_that_comes_back_each_time_is_left_for_later(script, store):
    sent = await store.begun(script)
    script.answers(*[reply(204), listed(1)] * 5)
    fault = await refused(sent.protocol.abort(sent.session))
    assert classify(fault) is Class.TRANSIENT


async def test_whoever_may_abort_and_not_list_takes_the_servers_word(script, store):
    sent = await store.begun(script)
    script.answers(reply(204), error("AccessDenied", 403))
    await sent.protocol.abort(sent.session)
    assert script.asked[-2:] == ["DELETE uploadId=U1", "GET uploadId=U1"]


async def test_an_abort_that_is_refused_is_an_error(script, store):
    sent = await store.begun(script)
    script.answers(error("AccessDenied", 403))
    assert (await refused(sent.protocol.abort(sent.session))).status == 403


async def test_uploads_are_listed_over_all_pages(script, store):
    def page(upload, more=""):
        one = f"<Upload><Key>key</Key><UploadId>{upload}</UploadId></Upload>"
        return reply(body=f"<ListMultipartUploadsResult>{more}{one}</ListMultipartUploadsResult>")

    more = "<IsTruncated>true</IsTruncated><NextKeyMarker>key</NextKeyMarker>"
    more += "<NextUploadIdMarker>U1</NextUploadIdMarker>"
    script.answers(page("U1", more), page("U2"))
    assert [each.id for each in await store.sending(script).protocol.orphans()] == ["U1", "U2"]
    assert script.asked[1] == "GET key-marker=key&prefix=key&upload-id-marker=U1&uploads="


# Downloads


async def test_a_download_puts_its_clock_and_its_credential_right(script, store):
    given = [AccessKey(id="OLD", secret="s", token="t"), KEY]
    tools = tools_of(lambda: given.pop(0), clock=lambda: wall() - HOUR)
    part = reply(206, "abc", Content_Range="bytes 0-2/9", ETag='"e"')
    script.answers(error("RequestTimeTooSkewed", 403), store.run_out(), part)
    protocol = store.downloading(script, tools, version_id="v 1")
    async with protocol.ask(Asked(0, 3, None)) as answer:
        assert isinstance(answer.verdict, Partial)
        assert bytes(await answer.read(9)) == b"abc"
    assert script.asked == ["GET versionId=v%201"] * 3
    assert KEY.id in script.seen[2].headers["Authorization"]


async def test_a_download_says_what_is_wrong_in_the_servers_terms(script, store):
    tools = tools_of()
    script.answers(error("InvalidObjectState", 403))
    async with store.downloading(script, tools).ask(Asked(0, 3, None)) as answer:
        assert isinstance(answer.verdict, Wrong)
        assert "have it restored first" in answer.verdict.fault.detail
