"""What OSS's replies mean."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meowcat.core.retry import Class
from meowcat.core.retry import classify as class_of
from meowcat.core.values import FaultKind
from meowcat.protocols.objects.documents import listed_parts
from meowcat.protocols.oss.address import Address
from meowcat.protocols.oss.client import PLACES
from meowcat.protocols.oss.replies import checksum_of, classify, crc64_in
from meowcat.protocols.wire import Reply

ADDRESS = Address("https://oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou", "virtual", "bucket", "key")


def document(code, message="", more=""):
    return (
        f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>".encode()
    )


def error(code, status=400, message="", *, more="", headers=()):
    return Reply(status, list(headers), document(code, message, more))


def fault(reply, credential="prod"):
    return classify(reply, "the commit of", ADDRESS, credential, 0)


@pytest.mark.parametrize(
    ("code", "status", "kind", "what"),
    [
        ("InvalidDigest", 400, FaultKind.DISCONNECTED, Class.TRANSIENT),
        ("InvalidPart", 400, FaultKind.SESSION_LOST, Class.CHANGED),
        ("EntityTooSmall", 400, FaultKind.STATUS, Class.PERMANENT),
        ("RequestTimeout", 400, FaultKind.STATUS, Class.TRANSIENT),
        ("AccessDenied", 403, FaultKind.STATUS, Class.PERMANENT),
        ("SecurityTokenExpired", 403, FaultKind.EXPIRED, Class.SUPPLY),
        ("RequestTimeTooSkewed", 403, FaultKind.STATUS, Class.PERMANENT),
        ("NoSuchBucket", 404, FaultKind.STATUS, Class.PERMANENT),
        ("NoSuchUpload", 404, FaultKind.SESSION_LOST, Class.CHANGED),
        ("FileAlreadyExists", 409, FaultKind.STATUS, Class.PERMANENT),
        ("FileImmutable", 409, FaultKind.STATUS, Class.PERMANENT),
        ("PreconditionFailed", 412, FaultKind.STATUS, Class.PERMANENT),
        ("InvalidRange", 416, FaultKind.STATUS, Class.PERMANENT),
        ("TooManyRequests", 429, FaultKind.STATUS, Class.TRANSIENT),
        ("InternalError", 500, FaultKind.STATUS, Class.TRANSIENT),
        ("InternalError", 200, FaultKind.STATUS, Class.TRANSIENT),
        ("QpsLimitExceeded", 503, FaultKind.STATUS, Class.TRANSIENT),
        ("Whatever", 418, FaultKind.STATUS, Class.PERMANENT),
        ("Whatever", 502, FaultKind.STATUS, Class.TRANSIENT),
    ],
)
def test_whether_an_error_is_tried_again(code, status, kind, what):
    found = fault(error(code, status))
    assert (found.kind, class_of(found)) == (kind, what)
    assert f"the commit of oss://bucket/key: {status} {code}: " in found.detail


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (error("AccessDenied", 403), "credential 'prod' may not do this: grant it oss:PutObject"),
        (
            error("AccessDenied", 403, more="<Endpoint>oss-cn-beijing.aliyuncs.com</Endpoint>"),
            "at 'oss-cn-beijing.aliyuncs.com': set AliyunOSS(endpoint=",
        ),
        (
            error("InvalidArgument", 400, "Invalid signing region in Authorization header."),
            "not in region 'cn-hangzhou': set AliyunOSS(region=",
        ),
        (
            error("InvalidArgument", 400, "whatever", more="<EC>0002-00000228</EC>"),
            "set AliyunOSS(region=…) to its own (EC 0002-00000228)",
        ),
        (error("AccessDenied", 403, headers=[("x-oss-ec", "0003-00000001")]), "(EC 0003-00000001)"),
        (error("NoSuchBucket", 404), "no bucket 'bucket' at https://oss-cn-hangzhou.aliyuncs.com"),
        (error("FileAlreadyExists", 409), "nothing was replaced"),
        (error("SecondLevelDomainForbidden", 403), "AliyunOSS(style='virtual')"),
        (error("Odd", 400, "see {braces} https://h/?Signature=hidden"), "see {braces} https://h/"),
        (Reply(403, [], b""), "AccessDenied"),
        (Reply(416, [], b""), "shorter than what was asked for"),
        (Reply(429, [], b""), "tried again later"),
        (Reply(503, [], b"<html>"), "busy"),
        (error("QpsLimitExceeded", 503, headers=[("X-Oss-Request-Id", "R1")]), "(request R1)"),
        (
            Reply(403, [("x-oss-err", base64.b64encode(document("SignatureDoesNotMatch")).decode())], b""),
            "403 SignatureDoesNotMatch: the secret of credential 'prod' is wrong",
        ),
        (Reply(403, [("x-oss-err", "no base64 \xff")], b""), "AccessDenied"),
    ],
)
def test_an_error_says_what_to_do_and_no_secret(reply, says):
    detail = fault(reply).detail
    assert says in detail
    assert "hidden" not in detail


def test_what_is_not_for_everybody_says_that_nothing_was_signed():
    assert "nothing was signed: name a credential" in fault(error("AccessDenied", 403), "").detail


@given(st.binary(max_size=200), st.text(max_size=80))
def test_no_reply_whatever_is_an_error_of_ours(body, header):
    fault(Reply(400, [], body))
    fault(Reply(400, [("x-oss-err", header)], b""))
    crc64_in([("x-oss-hash-crc64ecma", header)])


@pytest.mark.parametrize(
    ("said", "digits"),
    [
        ("11051210869376104954", "995dc9bbdf1939fa"),
        ("0", "0" * 16),
        (str((1 << 64) - 1), "f" * 16),
        (str(1 << 64), None),
        ("", None),
        ("-1", None),
        ("٣", None),
        ("9" * 5000, None),
    ],
)
def test_a_checksum_is_a_number_of_64_bits(said, digits):
    assert crc64_in([("X-OSS-Hash-CRC64ECMA", said)]) == digits


def test_a_list_of_parts_has_their_checksums():
    body = (
        "<ListPartsResult><Part><PartNumber>1</PartNumber><ETag>&quot;25F9E794323B453885F5181F1B624D0B&quot;"
        "</ETag><Size>9</Size><HashCrc64ecma>11051210869376104954</HashCrc64ecma></Part></ListPartsResult>"
    )
    (part,) = listed_parts(Reply(200, [], body.encode()), checksum_of, md5=True).entries
    assert part.held.receipt.checksum == "crc64xz:995dc9bbdf1939fa"
    assert part.held.md5 == "25f9e794323b453885f5181f1b624d0b"


def test_which_of_the_callers_headers_go_where():
    headers = {
        "Content-Type": "a/b",
        "x-oss-object-acl": "private",
        "x-oss-server-side-encryption": "KMS",
        "x-oss-forbid-overwrite": "true",
        "x-oss-request-payer": "requester",
        "Authorization": "no",
        "Host": "no",
        "x-oss-date": "no",
        "x-oss-hash-crc64ecma": "no",
    }
    any_request = {"x-oss-request-payer"}
    of_object = {"content-type", "x-oss-object-acl", "x-oss-server-side-encryption"}
    assert set(PLACES.sent(headers)) == any_request
    assert set(PLACES.sent(headers, creates=True)) == any_request | of_object
    assert set(PLACES.sent(headers, commits=True)) == any_request | {"x-oss-forbid-overwrite"}
