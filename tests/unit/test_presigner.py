"""What a back end makes presigned plans with."""

from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from meowcat import S3, AccessKey, AliyunOSS, DownloadPlan, FormUpload, InvalidArgument, Presigner, UploadPlan
from meowcat.core.plans import ends

NOW = 1_800_000_000_000
KEY = AccessKey(id="LTAIID", secret="hidden-secret")
OSS = AliyunOSS(region="cn-hangzhou")
MIB = 1 << 20


def presigner(url="oss://bucket/a b/big.iso", protocol=OSS, key=KEY, **fields):
    return Presigner(url, protocol, key, wall=lambda: NOW, **fields)


def query_of(url):
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query, keep_blank_values=True).items()}


def test_a_plan_of_an_upload_has_all_that_its_provider_needs():
    plan = presigner().upload_plan(20 * MIB, "U+1")
    plan.validate()
    assert [(part.number, part.offset, part.size) for part in plan.parts] == [
        (1, 0, 8 * MIB),
        (2, 8 * MIB, 8 * MIB),
        (3, 16 * MIB, 4 * MIB),
    ]
    assert plan.parts[1].url.startswith("https://bucket.oss-cn-hangzhou.aliyuncs.com/a%20b/big.iso?")
    asked = query_of(plan.parts[1].url)
    assert (asked["partNumber"], asked["uploadId"], asked["x-oss-expires"]) == ("2", "U+1", "3600")
    assert (plan.complete.method, plan.abort.method, plan.check.method) == ("POST", "DELETE", "HEAD")
    assert query_of(plan.complete.url)["uploadId"] == "U+1"
    assert "uploadId" not in query_of(plan.check.url)
    assert (plan.upload_id, plan.completion, plan.proof) == ("U+1", "oss-xml", {})


def test_a_plan_that_is_made_again_is_the_same_with_other_signatures():
    before = presigner().upload_plan(20 * MIB, "U1")
    after = Presigner("oss://bucket/a b/big.iso", OSS, KEY, wall=lambda: NOW + 60_000).upload_plan(
        20 * MIB, "U1"
    )
    assert before.fingerprint == after.fingerprint
    assert before.parts[0].url != after.parts[0].url


def test_plans_travel_as_json():
    plan = presigner().upload_plan(20 * MIB, "U1", mark="order-7")
    assert msgspec.json.decode(msgspec.json.encode(plan), type=UploadPlan) == plan
    plan = presigner().download_plan(7)
    assert msgspec.json.decode(msgspec.json.encode(plan), type=DownloadPlan) == plan


def test_without_an_upload_one_request_makes_the_object():
    settings = AliyunOSS(region="cn-hangzhou", content_type="image/png", metadata={"Colour": "blue"})
    plan = presigner(protocol=settings).upload_plan(7, mark="order-7")
    plan.validate()
    (part,) = plan.parts
    marker = {"x-oss-meta-meowcat-task": "order-7"}
    assert part.headers == {"content-type": "image/png", "x-oss-meta-colour": "blue"} | marker
    assert (plan.complete, plan.abort, plan.proof) == (None, None, marker)
    assert presigner().upload_plan(0).parts[0].size == 0


def test_what_the_object_has_is_said_when_its_upload_begins():
    request = presigner(protocol=S3(storage_class="STANDARD_IA"), url="s3://bucket/k").begin("order-7")
    assert (request.method, request.headers) == (
        "POST",
        {"x-amz-meta-meowcat-task": "order-7", "x-amz-storage-class": "STANDARD_IA"},
    )
    asked = query_of(request.url)
    assert asked["uploads"] == ""
    assert asked["X-Amz-SignedHeaders"] == "host;x-amz-meta-meowcat-task;x-amz-storage-class"


def test_the_id_of_an_upload_is_read_from_the_reply():
    reply = b"<InitiateMultipartUploadResult><UploadId>U1</UploadId></InitiateMultipartUploadResult>"
    assert presigner().upload_id(reply) == "U1"
    with pytest.raises(InvalidArgument, match=r"a b/big.iso has no UploadId, but .*AccessDenied"):
        presigner().upload_id(b"<Error><Code>AccessDenied</Code><Message>hidden</Message></Error>")
    with pytest.raises(InvalidArgument, match=r"has no UploadId$"):
        presigner().upload_id(b"hello")


def test_no_url_outlives_the_session_that_signs_it():
    session = AccessKey(id="STS.1", secret="hidden-1", token="hidden-2", expires=NOW + 60_000)
    plan = presigner(key=session).upload_plan(20 * MIB, "U1")
    for signed in (*plan.parts, plan.complete, plan.abort, plan.check):
        assert ends(signed) == NOW + 60_000
    assert ends(presigner(key=session).download_plan()) == NOW + 60_000
    assert ends(presigner(key=session, expires=30).download_plan()) == NOW + 30_000
    assert ends(presigner().download_plan()) == NOW + 3_600_000
    ended = AccessKey(id="STS.1", secret="hidden-1", token="hidden-2", expires=NOW)
    with pytest.raises(InvalidArgument, match="session ended"):
        presigner(key=ended).download_plan()


def test_a_download_asks_oss_for_what_others_call_a_range():
    plan = presigner().download_plan(7)
    plan.validate()
    assert (plan.headers, plan.total_size) == ({"x-oss-range-behavior": "standard"}, 7)
    assert plan.url != plan.head_url
    assert presigner(url="s3://bucket/k", protocol=S3()).download_plan().headers == {}


def test_a_version_is_downloaded_and_not_uploaded_to():
    versioned = presigner(protocol=AliyunOSS(region="cn-hangzhou", version_id="v/1"))
    assert query_of(versioned.download_plan().head_url)["versionId"] == "v/1"
    with pytest.raises(InvalidArgument, match="version_id"):
        versioned.upload_plan(7)


def test_headers_that_are_to_be_signed_besides_are():
    plan = presigner(protocol=AliyunOSS(region="cn-hangzhou", additional_headers=("host",))).download_plan()
    assert query_of(plan.url)["x-oss-additional-headers"] == "host"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"protocol": FormUpload()}, "protocol FormUpload: expected AliyunOSS"),
        ({"key": "LTAI"}, "key: expected an AccessKey, got str"),
        ({"expires": 0}, "expires 0: expected 1 to 604800"),
        ({"expires": 604_801}, "expires 604801"),
        ({"url": "oss://b"}, "bucket 'b'"),
        ({"protocol": AliyunOSS()}, "region"),
        ({"url": "s3://bucket/k"}, "s3"),
    ],
)
def test_what_is_wrong_is_named(fields, told):
    with pytest.raises(InvalidArgument, match=told):
        presigner(**fields)


@pytest.mark.parametrize(
    ("size", "fields", "told"),
    [
        (20 * MIB, {"upload_id": "U1", "part_size": 1000}, "piece_size 1000"),
        (0, {"upload_id": "U1"}, "empty"),
        ((512 << 20) + 1, {}, "a single request takes at most 536870912 bytes; open an upload"),
        (7, {"mark": "two\nlines"}, "mark"),
    ],
)
def test_a_plan_that_the_provider_would_refuse_is_not_made(size, fields, told):
    with pytest.raises(InvalidArgument, match=told):
        presigner().upload_plan(size, **fields)


def test_large_contents_have_large_parts():
    plan = presigner().upload_plan(200_000 * MIB, "U1")
    assert (plan.chunk_size, len(plan.parts)) == (32 * MIB, 6250)


def test_nothing_secret_is_shown():
    session = AccessKey(id="STS.1", secret="hidden-1", token="hidden-2")
    made = presigner(key=session)
    shown = repr([made, made.upload_plan(20 * MIB, "U1"), made.begin(), made.download_plan()])
    assert "hidden" not in shown
    assert "STS.1" not in shown
    assert "OSS4-HMAC" not in shown
