"""The form protocol to the letter, and against its reference server, which is really killed."""

import json
import random

import anyio
import pytest
from form_harness import TRANSPORTS, BytesPart, FormServer, Sender, job_for, md5_of, tools_of
from hypothesis import given, settings
from hypothesis import strategies as st

from meowcat.core.errors import InvalidArgument
from meowcat.core.retry import Class, classify
from meowcat.core.sessions import Session
from meowcat.core.transfers import ProtocolSpec
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.contract import Outcome, Refused
from meowcat.protocols.form_upload import FormProtocol, FormUpload
from meowcat.protocols.form_wire import form_request
from meowcat.testing.servers import Content, RangeServer, Trouble
from meowcat.transport.contract import TransportFault

pytestmark = pytest.mark.anyio

KIB = 1 << 10
MIB = 1 << 20
CONTENT = b"0123456789" * 10
MD5 = "7a08b07e84641703e5f2c836aa59a170"


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(params=list(TRANSPORTS))
async def transport(request):
    made = TRANSPORTS[request.param]()
    yield made
    await made.aclose()


@pytest.fixture
async def client():
    made = TRANSPORTS["reqwest"]()
    yield made
    await made.aclose()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with FormServer(tmp_path_factory.mktemp("uploads")) as running:
        yield running


def says(*replies):
    """A server that answers each request with the next of `replies`: an object, raw bytes, or a Trouble."""

    def trouble(reply):
        if isinstance(reply, Trouble):
            return reply
        return Trouble(status=200, body=reply if isinstance(reply, bytes) else json.dumps(reply).encode())

    return RangeServer(Content(0), script=[trouble(reply) for reply in replies])


def part(start, stop, content=CONTENT):
    return BytesPart(content, 0, start, stop)


async def fault_of(awaitable) -> Fault:
    with pytest.raises(Refused) as refused:
        await awaitable
    assert str(refused.value) == refused.value.fault.detail
    return refused.value.fault


# The letter


PREPARE = (
    b"--meowcat-BOUNDARY\r\n"
    b'Content-Disposition: form-data; name="fileMd5"\r\n\r\n'
    b"MD5\r\n"
    b"--meowcat-BOUNDARY\r\n"
    b'Content-Disposition: form-data; name="fileName"\r\n\r\n'
    b"big file.bin\r\n"
    b"--meowcat-BOUNDARY\r\n"
    b'Content-Disposition: form-data; name="category"\r\n\r\n'
    b"video\r\n"
    b"--meowcat-BOUNDARY\r\n"
    b'Content-Disposition: form-data; name="totalSize"\r\n\r\n'
    b"100\r\n"
    b"--meowcat-BOUNDARY--\r\n"
)
CHUNK = (
    b"--meowcat-BOUNDARY\r\n"
    b'Content-Disposition: form-data; name="file"; filename="upload_chunk_data"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n"
    b"012345678901234567890123456789\r\n"
    b"--meowcat-BOUNDARY\r\n"
    b'Content-Disposition: form-data; name="fileMd5"\r\n\r\n'
    b"MD5\r\n"
    b"--meowcat-BOUNDARY\r\n"
    b'Content-Disposition: form-data; name="fileName"\r\n\r\n'
    b"big file.bin\r\n"
    b"--meowcat-BOUNDARY\r\n"
    b'Content-Disposition: form-data; name="category"\r\n\r\n'
    b"video\r\n"
    b"--meowcat-BOUNDARY\r\n"
    b'Content-Disposition: form-data; name="offset"\r\n\r\n'
    b"40\r\n"
    b"--meowcat-BOUNDARY\r\n"
    b'Content-Disposition: form-data; name="partSize"\r\n\r\n'
    b"30\r\n"
    b"--meowcat-BOUNDARY\r\n"
    b'Content-Disposition: form-data; name="totalSize"\r\n\r\n'
    b"100\r\n"
    b"--meowcat-BOUNDARY--\r\n"
)
BOUNDARY = b"bc967fab6aa62103042bbdc6819031309c3a227a"


async def test_every_request_is_the_contract_to_the_letter(transport):
    with says({"nextByte": 40}, {"nextByte": 70}, {"fileId": "id 7"}) as server:
        url = f"{server.origin}/upload?tenant=7"
        headers = {"Authorization": "Bearer s3cr3t-token", "content-type": "text/plain", "X-Tenant": "cats"}
        job = job_for(url, CONTENT, headers=headers, category="video", method="put")
        protocol = FormProtocol(job, tools_of(transport))
        prepared = await protocol.prepare(None)
        assert (prepared.offset, prepared.done, prepared.held) == (40, None, {})
        await protocol.send_part(prepared.session, part(40, 70))
        assert await protocol.commit(prepared.session, {}, part(70, 100)) == {"file_id": "id 7"}
        seen = server.requests
    assert [(each.method, each.target) for each in seen] == [("PUT", "/upload?tenant=7")] * 3
    for each, body in zip(seen, (PREPARE, CHUNK, CHUNK.replace(b"\r\n40\r\n", b"\r\n70\r\n")), strict=True):
        letter = body.replace(b"BOUNDARY", BOUNDARY).replace(b"MD5\r\n", MD5.encode() + b"\r\n")
        assert bytes(each.body) == letter
        own = {name: value for name, value in each.headers.items() if name not in ("host", "connection")}
        assert own.pop("accept", "*/*") == "*/*"
        assert own == {
            "authorization": "Bearer s3cr3t-token",
            "content-type": f"multipart/form-data; boundary=meowcat-{BOUNDARY.decode()}",
            "content-length": str(len(letter)),
            "x-tenant": "cats",
            "user-agent": "meowcat",
        }


@pytest.mark.parametrize("method", ["POST", "PATCH", "UPLOAD"])
async def test_the_method_is_that_of_the_settings(client, method):
    with says({}) as server:
        await FormProtocol(job_for(server.url, CONTENT, method=method), tools_of(client)).prepare(None)
        assert server.requests[0].method == method


async def test_a_name_goes_over_as_it_is(transport):
    name = 'a "b"\r\nü 猫\t%22.bin'
    with says({}) as server:
        await FormProtocol(job_for(server.url, CONTENT, name=name), tools_of(transport)).prepare(None)
        assert f'name="fileName"\r\n\r\n{name}\r\n--'.encode() in bytes(server.requests[0].body)


def test_it_declares_what_it_can():
    able = FormProtocol(job_for("http://h/", CONTENT), tools_of(None)).capabilities()
    assert (able.any_order, able.server_offset, able.session, able.lists_parts) == (False, True, False, False)
    assert able.commits_with_last_part
    assert able.needs_digests == ("md5",)
    assert able.empty
    assert not FormProtocol.owns_url


# What the server says before the first chunk


@pytest.mark.parametrize(
    ("reply", "offset", "done"),
    [
        (b"", 0, None),
        (b" \r\n", 0, None),
        ({}, 0, None),
        ({"nextByte": None, "fileId": None}, 0, None),
        ({"nextByte": -5}, 0, None),
        ({"nextByte": 40, "message": "go on"}, 40, None),
        ({"nextByte": 100}, 100, {"file_id": ""}),
        ({"nextByte": 100, "fileId": ""}, 100, {"file_id": ""}),
        ({"fileId": "7"}, 0, {"file_id": "7"}),
        ({"fileId": "7", "nextByte": 4000}, 100, {"file_id": "7"}),
        (Trouble(status=201, body=b'{"nextByte": 7}'), 7, None),
        (Trouble(status=204), 0, None),
    ],
)
async def test_a_reply_says_where_to_go_on(client, reply, offset, done):
    with says(reply) as server:
        prepared = await FormProtocol(job_for(server.url, CONTENT), tools_of(client)).prepare(None)
    assert (prepared.offset, prepared.done) == (offset, done)


NONSENSE = [
    b"OK",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"nextByte": 5',
    {"nextByte": "40"},
    {"nextByte": 5.5},
    {"nextByte": True},
    {"nextByte": 101},
    {"nextByte": 10**30},
    {"fileId": 7},
    {"fileId": ""},
    {"fileId": "", "nextByte": 40},
]


@pytest.mark.parametrize("reply", NONSENSE, ids=repr)
@pytest.mark.parametrize("when", ["prepare", "chunk", "commit"])
async def test_nonsense_is_refused_and_shown(client, reply, when):
    with says({"nextByte": 40}, reply) if when != "prepare" else says(reply) as server:
        protocol = FormProtocol(job_for(server.url, CONTENT), tools_of(client))
        if when == "prepare":
            fault = await fault_of(protocol.prepare(None))
        else:
            session = (await protocol.prepare(None)).session
            if when == "chunk":
                fault = await fault_of(protocol.send_part(session, part(40, 70)))
            else:
                fault = await fault_of(protocol.commit(session, {}, part(40, 100)))
    assert fault.kind is FaultKind.REPLY
    assert "form-upload contract" in fault.detail
    assert "expected" in fault.detail


async def test_a_page_is_not_quoted_and_a_flood_is_not_kept(client):
    page = Trouble(status=200, headers=(("Content-Type", "text/html"),), body=b"<html>log in</html>")
    with says(page, b'{"x": "' + b"x" * (2 * MIB) + b'"}') as server:
        protocol = FormProtocol(job_for(server.url, CONTENT), tools_of(client))
        fault = await fault_of(protocol.prepare(None))
        assert fault.kind is FaultKind.REPLY
        assert "log in" not in fault.detail
        assert (await fault_of(protocol.prepare(None))).kind is FaultKind.REPLY


# What the server says to a chunk


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        {},
        {"nextByte": 70},
        Trouble(status=409, body=b'{"nextByte": 70}'),
        {"nextByte": 70, "fileId": None},
    ],
    ids=repr,
)
async def test_a_chunk_is_confirmed(client, reply):
    with says({"nextByte": 40}, reply) as server:
        protocol = FormProtocol(job_for(server.url, CONTENT), tools_of(client))
        session = (await protocol.prepare(None)).session
        receipt = await protocol.send_part(session, part(40, 70))
    assert (receipt.text, receipt.checksum) == ("", None)


@pytest.mark.parametrize(
    "reply",
    [
        {"nextByte": 40},
        {"nextByte": 39},
        {"nextByte": 0},
        {"nextByte": -1},
        Trouble(status=409, body=b'{"nextByte": 0}'),
        Trouble(status=409, body=b'{"error": "gap", "nextByte": 10}'),
    ],
    ids=repr,
)
@pytest.mark.parametrize("stop", [70, 100])
async def test_a_server_that_lost_something_is_asked_anew(client, reply, stop):
    with says({"nextByte": 40}, reply, {"nextByte": 10}) as server:
        protocol = FormProtocol(job_for(server.url, CONTENT), tools_of(client))
        session = (await protocol.prepare(None)).session
        sending = protocol.send_part(session, part(40, 70))
        if stop == 100:
            sending.close()
            sending = protocol.commit(session, {}, part(40, 100))
        fault = await fault_of(sending)
        assert (await protocol.prepare(None)).offset == 10
    assert fault.kind is FaultKind.SESSION_LOST
    assert classify(fault) is Class.CHANGED  # bounded, however much is sent in between
    assert f"from 40 to {stop}" in fault.detail


@pytest.mark.parametrize(
    "reply", [{"nextByte": 52}, Trouble(status=409, body=b'{"nextByte": 52}')], ids=["taken", "overlapping"]
)
async def test_a_server_that_takes_a_part_of_a_chunk_is_sent_the_rest_of_it(client, reply):
    with says({"nextByte": 40}, reply, {"nextByte": 53}, {"nextByte": 70}, {"nextByte": 70}) as server:
        protocol = FormProtocol(job_for(server.url, CONTENT), tools_of(client))
        session = (await protocol.prepare(None)).session
        await protocol.send_part(session, BytesPart(CONTENT, 1, 40, 70, step=7))
        bodies = [bytes(each.body) for each in server.requests[1:]]
        with pytest.raises(Refused, match="from 70 to 100"):  # it never makes no progress for ever
            await protocol.commit(session, {}, part(70, 100))
    sent = [body.split(b"octet-stream\r\n\r\n")[1].split(b"\r\n--")[0] for body in bodies]
    assert sent == [CONTENT[40:70], CONTENT[52:70], CONTENT[53:70]]
    assert [b'"offset"\r\n\r\n52\r\n' in body for body in bodies] == [False, True, False]
    assert b'"partSize"\r\n\r\n18\r\n' in bodies[1]


async def test_a_server_that_goes_backwards_for_ever_ends_the_upload(client):
    with RangeServer(Content(0), script=lambda _: Trouble(status=200, body=b'{"nextByte": 0}')) as server:
        job = job_for(server.url, CONTENT)
        sender = Sender(CONTENT, 30, lambda: FormProtocol(job, tools_of(client)))
        assert (await fault_of(sender.run(lost=3))).kind is FaultKind.SESSION_LOST
        assert len(server.requests) == 8


async def test_what_the_server_has_from_somebody_else_is_not_sent(client):
    with says({}, {"nextByte": 60}, {"nextByte": 90}, {"fileId": "7"}) as server:
        protocol = FormProtocol(job_for(server.url, CONTENT), tools_of(client))
        session = (await protocol.prepare(None)).session
        for start in (0, 20, 40, 60):
            await protocol.send_part(session, part(start, start + 20))
        assert await protocol.commit(session, {}, part(80, 100)) == {"file_id": "7"}
        offsets = [
            bytes(each.body).split(b'"offset"\r\n\r\n')[1].split(b"\r\n")[0] for each in server.requests[1:]
        ]
    assert offsets == [b"0", b"60", b"90"]


async def test_a_server_that_is_complete_no_more_is_believed(client):
    with says({"fileId": "7"}, {"nextByte": 40}) as server:
        protocol = FormProtocol(job_for(server.url, CONTENT), tools_of(client))
        assert (await protocol.prepare(None)).done == {"file_id": "7"}
        prepared = await protocol.prepare(None)
    assert (prepared.offset, prepared.done) == (40, None)


async def test_nothing_is_sent_after_the_server_has_said_that_it_is_complete(client):
    with says({}, {"fileId": "7"}) as server:
        protocol = FormProtocol(job_for(server.url, CONTENT), tools_of(client))
        session = (await protocol.prepare(None)).session
        await protocol.send_part(session, part(0, 20))
        receipt = await protocol.send_part(session, part(20, 40))
        assert await protocol.commit(session, {}, part(40, 100)) == {"file_id": "7"}
        later = FormProtocol(job_for(server.url, CONTENT), tools_of(client))  # perhaps after a crash
        assert await later.commit(session, {1: receipt}, part(40, 100)) == {"file_id": "7"}
        assert len(server.requests) == 2


# The end


@pytest.mark.parametrize("reply", [b"", {}, {"nextByte": 100}, {"nextByte": 100, "fileId": ""}], ids=repr)
async def test_an_upload_is_complete_without_an_id_once_all_is_there(client, reply):
    with says({"nextByte": 70}, reply) as server:
        protocol = FormProtocol(job_for(server.url, CONTENT), tools_of(client))
        session = (await protocol.prepare(None)).session
        assert await protocol.commit(session, {}, part(70, 100)) == {"file_id": ""}


@pytest.mark.parametrize(
    ("reply", "outcome", "result"),
    [
        ({"fileId": "7"}, Outcome.COMMITTED, {"file_id": "7"}),
        ({"nextByte": 100}, Outcome.COMMITTED, {"file_id": ""}),
        ({"nextByte": 70}, Outcome.LOST, {}),
        ({"nextByte": 10}, Outcome.LOST, {}),
        (b"", Outcome.LOST, {}),
    ],
)
async def test_a_lost_reply_to_the_last_chunk_is_cleared_up_by_asking(client, reply, outcome, result):
    with says({"nextByte": 70}, Trouble(before="reset"), reply) as server:
        protocol = FormProtocol(job_for(server.url, CONTENT), tools_of(client))
        session = (await protocol.prepare(None)).session
        with pytest.raises(TransportFault):
            await protocol.commit(session, {}, part(70, 100))
        later = FormProtocol(job_for(server.url, CONTENT), tools_of(client))  # perhaps after a crash
        found = await later.reconcile(session)
        assert b'name="file"' not in bytes(server.requests[-1].body)
    assert (found.outcome, found.result) == (outcome, result)


async def test_an_abort_sends_nothing(client):
    with says() as server:
        protocol = FormProtocol(job_for(server.url, CONTENT), tools_of(client))
        await protocol.abort(Session(id="", capabilities=protocol.capabilities()))
        assert server.requests == []


async def test_an_id_that_is_a_signed_url_loses_its_signature(client):
    with says({"fileId": "https://cdn.example/a?X-Amz-Signature=abcdef&versionId=3"}) as server:
        prepared = await FormProtocol(job_for(server.url, CONTENT), tools_of(client)).prepare(None)
    assert "abcdef" not in prepared.done["file_id"]
    assert prepared.done["file_id"].startswith("https://cdn.example/a?")


@pytest.mark.parametrize("echo", [" Bearer tok/en-99", "tok%2Fen-99", "7?key=k/ey12345", "big.iso 7"])
async def test_an_id_that_echoes_a_secret_loses_it(client, echo):
    with says({"fileId": echo}) as server:
        headers = {"Authorization": "Bearer tok/en-99", "X-Request-Id": "big.iso"}
        job = job_for(f"{server.url}?key=k%2Fey12345&name=big.iso", CONTENT, headers=headers)
        done = (await FormProtocol(job, tools_of(client)).prepare(None)).done
    assert not any(secret in done["file_id"] for secret in ("en-99", "ey12345"))
    assert ("big.iso" in done["file_id"]) == ("big.iso" in echo), "what is no secret stays"


# No bytes


async def test_an_empty_content_is_one_empty_chunk(transport):
    with says({"nextByte": 0}, {"nextByte": 0}) as server:
        protocol = FormProtocol(job_for(server.url, b""), tools_of(transport))
        prepared = await protocol.prepare(None)
        assert prepared.done is None
        assert await protocol.commit(prepared.session, {}, part(0, 0, b"")) == {"file_id": ""}
        body = bytes(server.requests[1].body)
    assert b"application/octet-stream\r\n\r\n\r\n--" in body
    assert b'"partSize"\r\n\r\n0\r\n' in body


async def test_an_empty_content_may_be_complete_at_once_but_only_with_an_id(client):
    with says({"fileId": "7"}, {"nextByte": 0}) as server:
        protocol = FormProtocol(job_for(server.url, b""), tools_of(client))
        prepared = await protocol.prepare(None)
        assert prepared.done == {"file_id": "7"}
        again = FormProtocol(job_for(server.url, b""), tools_of(client))
        assert (await again.reconcile(prepared.session)).outcome is Outcome.LOST


# Errors


@pytest.mark.parametrize(
    ("status", "kind", "word"),
    [
        (400, Class.PERMANENT, "another kind of endpoint"),
        (401, Class.PERMANENT, "Authorization"),
        (404, Class.PERMANENT, "check it"),
        (405, Class.PERMANENT, "FormUpload(method=…)"),
        (409, Class.PERMANENT, "conflict"),
        (413, Class.PERMANENT, "piece_size"),
        (422, Class.PERMANENT, "damaged"),
        (408, Class.TRANSIENT, "in time"),
        (429, Class.TRANSIENT, "later"),
        (500, Class.TRANSIENT, "expected 200"),
        (503, Class.TRANSIENT, "later"),
        (507, Class.TRANSIENT, "no room"),
    ],
)
async def test_a_status_says_what_to_do(client, status, kind, word):
    refusal = Trouble(status=status, headers=(("Retry-After", "7"),), body=b'{"error": "because\n of it"}')
    with says(refusal, {}, refusal) as server:
        protocol = FormProtocol(job_for(server.url, CONTENT), tools_of(client))
        at_first = await fault_of(protocol.prepare(None))
        session = (await protocol.prepare(None)).session
        assert await fault_of(protocol.send_part(session, part(0, 50))) == at_first
    assert (at_first.kind, at_first.status, at_first.retry_after) == (FaultKind.STATUS, status, 7000)
    assert classify(at_first) is kind
    assert word in at_first.detail
    assert 'it says: "{"error": "because of it"}"' in at_first.detail


async def test_a_redirect_is_named_without_its_secrets_and_not_followed(client):
    location = "https://other.example/up?sig=abcdefgh"
    with says(Trouble(status=307, headers=(("Location", location),))) as server:
        protocol = FormProtocol(job_for(server.url, CONTENT), tools_of(client))
        fault = await fault_of(protocol.prepare(None))
        assert len(server.requests) == 1
    assert "https://other.example/up" in fault.detail
    assert "abcdefgh" not in fault.detail
    assert classify(fault) is Class.PERMANENT


@pytest.mark.parametrize("status", [200, 403, 500])
async def test_what_the_server_echoes_of_secrets_is_hidden(client, status):
    echo = (
        b"unknown token tok/en-99; key k%2Fey123= for alice:p4ssw0rd at https://h/x?sig=zzzzzzz, tok\\/en-99 "
        b"k/ey123"
    )
    with says(Trouble(status=status, body=echo)) as server:
        url = f"{server.url.replace('http://', 'http://alice:p4ssw0rd@')}?key=k%2Fey123="
        job = job_for(url, CONTENT, headers={"Authorization": "Bearer tok/en-99"})
        fault = await fault_of(FormProtocol(job, tools_of(client)).prepare(None))
    assert "unknown token" in fault.detail
    for secret in ("en-99", "ey123", "p4ssw0rd", "zzzzzzz"):
        assert secret not in fault.detail


async def test_a_source_that_fails_fails_as_it_says_and_no_whole_chunk_arrives(transport):
    changed = Refused(Fault(kind=FaultKind.SOURCE_CHANGED, detail="touched"))

    class Failing(BytesPart):
        async def body(self):
            yield self._data[:10]
            raise changed

    with says({}, {}) as server:
        protocol = FormProtocol(job_for(server.url, CONTENT), tools_of(transport))
        session = (await protocol.prepare(None)).session
        with pytest.raises(Refused) as refused:
            await protocol.send_part(session, Failing(CONTENT, 0, 0, 50))
        assert not any(each.complete for each in server.requests[1:])
    assert refused.value is changed


async def test_a_stopped_chunk_lets_go_of_its_source(transport):
    begun, over = anyio.Event(), anyio.Event()

    class Endless(BytesPart):
        async def body(self):
            try:
                yield self._data[:10]
                begun.set()
                await anyio.sleep_forever()
            finally:
                over.set()

    with says({}) as server:
        protocol = FormProtocol(job_for(server.url, CONTENT), tools_of(transport))
        session = (await protocol.prepare(None)).session
        async with anyio.create_task_group() as group:
            group.start_soon(protocol.send_part, session, Endless(CONTENT, 0, 0, 50))
            await begun.wait()
            group.cancel_scope.cancel()
        with anyio.fail_after(5):
            await over.wait()
    assert over.is_set()


async def test_a_body_that_is_closed_closes_its_source_before_anything_else_happens():
    over = []

    class Watched(BytesPart):
        async def body(self):
            try:
                yield b"some"
            finally:
                over.append(self.start)

    request = form_request(job_for("http://h/", CONTENT), "POST", "", Watched(CONTENT, 0, 30, 50))
    body = request.body()
    assert await anext(body) != b"some"
    assert await anext(body) == b"some"
    await body.aclose()
    assert over == [30]


# Settings


def test_settings_become_what_is_stored_and_back():
    spec = FormUpload(method="put", category="käse").spec()
    url, stored = FormProtocol.resolve("https://host/up", spec)
    assert (url, stored.fields) == ("https://host/up", {"method": "PUT", "category": "käse"})
    assert FormProtocol.resolve(url, stored)[1] == stored
    assert FormProtocol.resolve(url, ProtocolSpec("form"))[1] == FormUpload().spec()


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"method": "GET"}, "'GET'"),
        ({"method": "PO ST"}, "'PO ST'"),
        ({"method": ""}, "''"),
        ({"method": 7}, "method"),
        ({"category": True}, "category"),
        ({"category": "\ud800"}, "surrogate"),
        ({"kategory": "x"}, "kategory"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(fields, word):
    with pytest.raises(InvalidArgument, match=r"expected|surrogate") as error:
        FormProtocol.resolve("https://host/up", ProtocolSpec("form", 1, fields))
    assert word in str(error.value)


def test_a_version_of_a_later_meowcat_and_a_url_that_is_none_are_refused():
    with pytest.raises(InvalidArgument, match="version 2"):
        FormProtocol.resolve("https://host/up", ProtocolSpec("form", 2))
    with pytest.raises(InvalidArgument):
        FormProtocol.resolve("ftp://host/up", FormUpload().spec())


# Against the reference server


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
CONTENTS = st.one_of(
    st.binary(max_size=3000),
    st.builds(
        lambda before, after: before + b"\r\n--meowcat-" + BOUNDARY + b"--\r\n" + after,
        st.binary(max_size=40),
        st.binary(max_size=40),
    ),
)


@pytest.mark.parametrize("kind", list(TRANSPORTS))
def test_any_content_arrives_under_any_name_in_chunks_of_any_size(server, kind):
    @settings(max_examples=40)
    @given(CONTENTS, st.integers(1, 6), TEXTS, TEXTS)
    def arrives(content, count, name, category):
        async def send():
            transport = TRANSPORTS[kind]()
            job = job_for(server.url, content, name=name, category=category)
            piece = -(-len(content) // count) or 1
            sender = Sender(content, piece, lambda: FormProtocol(job, tools_of(transport)))
            result = await sender.run()
            await transport.aclose()
            return result

        id_ = anyio.run(send)["file_id"]
        assert server.file(id_) == content
        assert (id_, name, category) in server.names()

    arrives()


async def test_a_large_content_arrives_and_the_second_time_at_once(transport, server):
    content = random.Random(repr(transport)).randbytes(20 * MIB + 7)
    job = job_for(server.url, content)
    sender = Sender(content, 4 * MIB, lambda: FormProtocol(job, tools_of(transport)))
    result = await sender.run()
    assert server.file(result["file_id"]) == content
    prepared = await FormProtocol(job_for(server.url, content, name="other"), tools_of(transport)).prepare(
        None
    )
    assert prepared.done == result


async def test_two_senders_of_one_content_at_once_make_one_file(client, server):
    content = random.Random(5).randbytes(6 * MIB)
    results = []

    async def send(piece, name):
        job = job_for(server.url, content, name=name)
        results.append(await Sender(content, piece, lambda: FormProtocol(job, tools_of(client))).run(lost=0))

    async with anyio.create_task_group() as group:
        for number, piece in enumerate((256 * KIB, 256 * KIB, 300 * KIB, MIB)):
            group.start_soon(send, piece, f"name {number}")
    assert len(results) == 4
    assert all(each == results[0] for each in results)
    assert server.file(results[0]["file_id"]) == content
    assert {name for id_, name, _ in server.names() if id_ == results[0]["file_id"]} == {
        f"name {number}" for number in range(4)
    }


async def test_a_content_that_is_not_what_was_announced_is_refused_and_dropped(client, server):
    job = job_for(server.url, CONTENT, md5=md5_of(b"other"))
    sender = Sender(CONTENT, 30, lambda: FormProtocol(job, tools_of(client)))
    fault = await fault_of(sender.run())
    assert (fault.kind, fault.status) == (FaultKind.STATUS, 422)
    assert (await FormProtocol(job, tools_of(client)).prepare(None)).offset == 0


# The server is killed


async def test_what_was_confirmed_is_there_after_a_kill_between_chunks(client, tmp_path):
    content = random.Random(1).randbytes(5 * MIB)
    with FormServer(tmp_path) as server:
        protocol = FormProtocol(job_for(server.url, content), tools_of(client))
        session = (await protocol.prepare(None)).session
        for index in range(3):
            await protocol.send_part(session, BytesPart(content, index, index * MIB, (index + 1) * MIB))
        server.kill()
    with FormServer(tmp_path) as server:
        job = job_for(server.url, content)
        sender = Sender(content, MIB, lambda: FormProtocol(job, tools_of(client)))
        result = await sender.run()
        assert sender.sent == [(3 * MIB, 4 * MIB), (4 * MIB, 5 * MIB)]
        assert server.file(result["file_id"]) == content


async def test_a_chunk_that_a_kill_cut_off_is_not_there(client, tmp_path):
    content = random.Random(2).randbytes(8 * MIB)
    halfway = anyio.Event()

    class Slow(BytesPart):
        async def body(self):
            yield self._data[: 3 * MIB]
            halfway.set()
            await anyio.sleep_forever()

    with FormServer(tmp_path) as server:
        protocol = FormProtocol(job_for(server.url, content), tools_of(client))
        session = (await protocol.prepare(None)).session
        await protocol.send_part(session, BytesPart(content, 0, 0, MIB))
        async with anyio.create_task_group() as group:
            group.start_soon(kill_after, halfway, server)
            with pytest.raises(TransportFault):
                await protocol.send_part(session, Slow(content, 1, MIB, 8 * MIB))
    with FormServer(tmp_path) as server:
        protocol = FormProtocol(job_for(server.url, content), tools_of(client))
        assert (await protocol.prepare(None)).offset == MIB


async def kill_after(event, server):
    await event.wait()
    await anyio.to_thread.run_sync(server.kill)


@pytest.mark.timeout(300)
async def test_kills_at_any_moment_take_back_nothing_that_was_confirmed(client, tmp_path):
    chance = random.Random(seed := random.SystemRandom().randrange(1 << 30))
    print(f"seed {seed}")
    content = chance.randbytes(48 * MIB)
    confirmed, sent = 0, []

    async def kill_soon(sender, server):
        await sender.until(chance.randrange(3))
        await anyio.sleep(chance.uniform(0, 0.02))  # anywhere in the next chunk: its bytes, sync, or reply
        await anyio.to_thread.run_sync(server.kill)
        sender.before_last.set()

    for _ in range(10):
        if confirmed > len(content) - 12 * MIB:
            break  # there would be nothing left to be killed in
        with FormServer(tmp_path) as server:
            job = job_for(server.url, content)
            sender = Sender(content, MIB, lambda job=job: FormProtocol(job, tools_of(client)))
            sender.before_last = anyio.Event()  # a fast machine might come to the end before the kill
            assert (await sender.make().prepare(None)).offset >= confirmed
            async with anyio.create_task_group() as group:
                group.start_soon(kill_soon, sender, server)
                with pytest.raises(TransportFault):
                    await sender.run(lost=0)
            confirmed = max(confirmed, sender.confirmed)
            sent += sender.sent
    with FormServer(tmp_path) as server:
        job = job_for(server.url, content)
        sender = Sender(content, MIB, lambda: FormProtocol(job, tools_of(client)))
        assert server.file((await sender.run())["file_id"]) == content
    sent += sender.sent
    assert len(sent) == len(set(sent)), "a confirmed chunk was sent again"


async def test_a_restarted_server_proves_also_what_came_before(client, tmp_path):
    """The MD5 of the first half was in the memory of a process that is dead."""
    content = random.Random(3).randbytes(2 * MIB)
    for half in (0, 1):
        with FormServer(tmp_path) as server:
            protocol = FormProtocol(job_for(server.url, content), tools_of(client))
            session = (await protocol.prepare(None)).session
            piece = BytesPart(content, half, half * MIB, (half + 1) * MIB)
            if half:
                result = await protocol.commit(session, {}, piece)
                assert server.file(result["file_id"]) == content
            else:
                await protocol.send_part(session, piece)
                server.kill()
