"""What S3's replies mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meowcat.core.retry import Class
from meowcat.core.retry import classify as class_of
from meowcat.core.sessions import Held, Receipt
from meowcat.core.values import FaultKind
from meowcat.protocols.contract import Refused
from meowcat.protocols.objects.checksums import combined_crc64
from meowcat.protocols.objects.documents import Listed, listed_parts, newest, read_xml, uploads
from meowcat.protocols.s3.address import Address
from meowcat.protocols.s3.checksums import base64_of, composite_sha256, hex_of
from meowcat.protocols.s3.client import sent_with
from meowcat.protocols.s3.replies import checksum_of, classify, completion
from meowcat.protocols.wire import Reply
from meowcat.transfer.digests import new

ADDRESS = Address("https://host", "us-east-1", "path", "bucket", "key")


def error(code, status=400, message="", *, more="", headers=()):
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"
    return Reply(status, list(headers), body.encode())


def fault(reply):
    return classify(reply, "the commit of", ADDRESS, "prod", 0)


@pytest.mark.parametrize(
    ("code", "status", "kind", "what"),
    [
        ("AccessDenied", 403, FaultKind.STATUS, Class.PERMANENT),
        ("InvalidAccessKeyId", 403, FaultKind.STATUS, Class.PERMANENT),
        ("SignatureDoesNotMatch", 403, FaultKind.STATUS, Class.PERMANENT),
        ("RequestTimeTooSkewed", 403, FaultKind.STATUS, Class.PERMANENT),
        ("ExpiredToken", 400, FaultKind.EXPIRED, Class.SUPPLY),
        ("NoSuchBucket", 404, FaultKind.STATUS, Class.PERMANENT),
        ("NoSuchUpload", 404, FaultKind.SESSION_LOST, Class.CHANGED),
        ("InvalidPart", 400, FaultKind.SESSION_LOST, Class.CHANGED),
        ("EntityTooSmall", 400, FaultKind.STATUS, Class.PERMANENT),
        ("BadDigest", 400, FaultKind.DISCONNECTED, Class.TRANSIENT),
        ("PreconditionFailed", 412, FaultKind.STATUS, Class.PERMANENT),
        ("RequestTimeout", 400, FaultKind.STATUS, Class.TRANSIENT),
        ("OperationAborted", 409, FaultKind.STATUS, Class.TRANSIENT),
        ("SlowDown", 503, FaultKind.STATUS, Class.TRANSIENT),
        ("InternalError", 500, FaultKind.STATUS, Class.TRANSIENT),
        ("InternalError", 200, FaultKind.STATUS, Class.TRANSIENT),
        ("AccessDenied", 200, FaultKind.STATUS, Class.TRANSIENT),
        ("NotImplemented", 501, FaultKind.STATUS, Class.PERMANENT),
        ("Whatever", 418, FaultKind.STATUS, Class.PERMANENT),
        ("Whatever", 502, FaultKind.STATUS, Class.TRANSIENT),
    ],
)
def test_whether_an_error_is_tried_again(code, status, kind, what):
    found = fault(error(code, status))
    assert (found.kind, class_of(found)) == (kind, what)
    assert f"the commit of s3://bucket/key: {status} {code}: " in found.detail


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (error("AccessDenied", 403), "credential 'prod' may not do this: grant it"),
        (error("NoSuchBucket", 404), "no bucket 'bucket' at https://host"),
        (
            error("PermanentRedirect", 301, headers=[("x-amz-bucket-region", "eu-west-1")]),
            "in region 'eu-west-1': set S3(region=",
        ),
        (
            error("AuthorizationHeaderMalformed", 400, more="<Region>{x}</Region>"),
            "in region '{x}': set S3(region=",
        ),
        (
            error("TemporaryRedirect", 307, more="<Endpoint>b.host</Endpoint>"),
            "at 'b.host': set S3(endpoint=",
        ),
        (Reply(301, [], b""), "set S3(region=…), or S3(endpoint=…)"),
        (error("NotImplemented", 501), "S3(checksum='md5')"),
        (error("Odd", 400, "see {braces} https://h/?Signature=hidden"), "see {braces} https://h/"),
        (Reply(403, [], b""), "is wrong, or may not do this: check its secret, and grant it"),
        (Reply(503, [], b"<html>"), "busy"),
        (error("SlowDown", 503, headers=[("X-Amz-Request-Id", "R1")]), "(request R1)"),
    ],
)
def test_an_error_says_what_to_do_and_no_secret(reply, says):
    detail = fault(reply).detail
    assert says in detail
    assert "hidden" not in detail


def test_a_server_says_how_long_to_wait():
    assert fault(error("SlowDown", 503, headers=[("Retry-After", "7")])).retry_after == 7000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no xml",
        b"<open>",
        b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        b'<?xml version="1.0"?><!DOCTYPE Error SYSTEM "file:///etc/passwd"><Error/>',
        "<a/>".encode("utf-16"),
    ],
)
def test_what_is_no_harmless_xml_is_none(body):
    assert read_xml(body) is None


@given(st.binary(max_size=200))
def test_no_body_whatever_is_an_error_of_ours(body):
    read_xml(body)
    fault(Reply(400, [], body))


# Lists


def parts_page(*parts, more=""):
    listed = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;{etag}&quot;</ETag><Size>{size}</Size>"
        f"<LastModified>{modified}</LastModified>{extra}</Part>"
        for number, etag, size, modified, extra in parts
    )
    return Reply(200, [], f"<ListPartsResult xmlns='x'>{more}{listed}</ListPartsResult>".encode())


MD5 = "9e107d9d372bb6826bd81d3542a419d6"


def test_a_list_of_parts():
    crc = "<ChecksumCRC64NVME>rosUhgp5mIg=</ChecksumCRC64NVME>"
    page = listed_parts(
        parts_page((1, MD5, 5, "2026-01-02T03:04:05.678Z", crc), (3, f"{MD5}-2", 6, "", "")),
        checksum_of,
        md5=True,
    )
    assert page.entries == [
        Listed(
            0,
            Held(size=5, receipt=Receipt(text=f'"{MD5}"', checksum="crc64nvme:ae8b14860a799888"), md5=MD5),
            1767323045678,
        ),
        Listed(2, Held(size=6, receipt=Receipt(text=f'"{MD5}-2"')), 0),
    ]
    assert page.after == []


def test_an_etag_is_no_md5_where_the_server_encrypts_with_a_key():
    assert listed_parts(parts_page((1, MD5, 5, "", "")), checksum_of, md5=False).entries[0].held.md5 is None


def test_a_list_that_goes_on_says_where():
    more = "<IsTruncated>true</IsTruncated><NextPartNumberMarker>7</NextPartNumberMarker>"
    assert listed_parts(parts_page(more=more), checksum_of, md5=True).after == [("part-number-marker", "7")]


@pytest.mark.parametrize("body", [b"<Other/>", b"", b"<ListPartsResult><Part/></ListPartsResult>"])
def test_a_list_that_makes_no_sense_is_refused(body):
    with pytest.raises(Refused) as refused:
        listed_parts(Reply(200, [], body), checksum_of, md5=True)
    assert refused.value.fault.kind is FaultKind.REPLY


def part(index, etag, modified):
    return Listed(index, Held(size=1, receipt=Receipt(text=etag)), modified)


@given(st.permutations([part(0, "old", 1), part(0, "new", 2), part(0, "older", 0), part(1, "only", 1)]))
def test_the_newest_of_a_part_that_was_sent_again_counts_in_whatever_order_they_stand(parts):
    assert {index: held.receipt.text for index, held in newest(iter(parts)).items()} == {0: "new", 1: "only"}


@given(
    st.permutations(
        [part(0, "one", 5), part(0, "two", 5), part(0, "old", 1), part(1, "x", 5), part(1, "x", 5)]
    )
)
def test_of_two_of_one_moment_neither_counts_unless_they_are_the_same(parts):
    assert list(newest(iter(parts))) == [1]


@given(st.permutations([part(0, "one", 5), part(0, "two", 5), part(0, "newer", 6)]))
def test_a_newer_one_ends_the_doubt(parts):
    assert newest(iter(parts))[0].receipt.text == "newer"


def test_uploads_are_those_of_exactly_this_key():
    body = (
        "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>key.more</NextKeyMarker>"
        "<NextUploadIdMarker>u2</NextUploadIdMarker>"
        "<Upload><Key>key</Key><UploadId>u1</UploadId><Initiated>2026-01-02T03:04:05Z</Initiated></Upload>"
        "<Upload><Key>key.more</Key><UploadId>u2</UploadId></Upload></ListMultipartUploadsResult>"
    )
    page = uploads(Reply(200, [], body.encode()), "key")
    assert [(each.id, each.begun) for each in page.entries] == [("u1", 1767323045000)]
    assert page.after == [("key-marker", "key.more"), ("upload-id-marker", "u2")]


def test_the_body_of_a_commit_has_the_parts_in_order_and_escapes_what_they_are_called():
    body = completion({1: Receipt(text='"b&"', checksum="sha256:00ff"), 0: Receipt(text='"a"')}, "sha256")
    assert body.decode().partition(">")[2] == (
        '<Part><PartNumber>1</PartNumber><ETag>"a"</ETag></Part>'
        '<Part><PartNumber>2</PartNumber><ETag>"b&amp;"</ETag><ChecksumSHA256>AP8=</ChecksumSHA256></Part>'
        "</CompleteMultipartUpload>"
    )


# Checksums


@pytest.mark.parametrize("algorithm", ["crc64nvme", "crc64xz"])
@given(parts=st.lists(st.binary(max_size=300), min_size=1, max_size=5))
def test_the_crc_of_a_whole_follows_from_those_of_its_parts(algorithm, parts):
    def crc(content):
        digest = new(algorithm)
        digest.update(content)
        return digest.hexdigest()

    assert combined_crc64(algorithm, [(crc(each), len(each)) for each in parts]) == crc(b"".join(parts))


def test_the_sha256_of_a_multipart_object_is_that_of_its_parts():
    # of "a" and of "b", by coreutils
    one = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    two = "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"
    assert composite_sha256([one, two]) == "5aAf7hTg7VxIcU8iGA8lrYNltT+XefedxKPX6Tlj+Uo=-2"


@given(st.binary(max_size=32))
def test_a_value_in_base64_comes_back(value):
    assert hex_of(base64_of(value.hex())) == value.hex()
    assert hex_of("?") == ""


# Headers


def test_which_of_the_callers_headers_go_where():
    headers = {
        "Content-Type": "a/b",
        "x-amz-acl": "private",
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-customer-key": "k",
        "If-None-Match": "*",
        "x-amz-request-payer": "requester",
        "Authorization": "no",
        "Host": "no",
        "X-Amz-Date": "no",
        "x-amz-checksum-crc32": "no",
    }
    any_request = {"x-amz-server-side-encryption-customer-key", "x-amz-request-payer"}
    of_object = {"content-type", "x-amz-acl", "x-amz-server-side-encryption"}
    assert set(sent_with(headers)) == any_request
    assert set(sent_with(headers, creates=True)) == any_request | of_object
    assert set(sent_with(headers, commits=True)) == any_request | {"if-none-match"}
