"""The stand-in for OSS is fair: the official SDKs pass their own flows, and it refuses what OSS does."""

import contextlib
import datetime as dt
import hashlib
import http.client
import itertools
import os
import random
import re
import socket
import time
from pathlib import Path

import alibabacloud_oss_v2 as sdk
import oss2
import pytest
from alibabacloud_oss_v2.signer import SignerV4
from alibabacloud_oss_v2.types import Credentials, HttpRequest, SigningContext
from oss_server import OSSServer
from requests.structures import CaseInsensitiveDict

PART = 128 << 10
CONTENT = random.Random(0).randbytes(5 * PART + 1234)

_names = itertools.count()


@pytest.fixture
def key():
    return f"{time.time_ns():x}/{next(_names)} é+~&?.bin"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "source.bin"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def own(tmp_path):
    """A server of the test's own, to be stopped, or to have its clock turned."""
    with OSSServer(tmp_path / "oss") as server:
        yield server


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest().upper()


@contextlib.contextmanager
def client_of(server, **fields):
    """The official SDK's, without patience."""
    given = {
        "region": server.region,
        "endpoint": server.origin,
        "credentials_provider": sdk.credentials.StaticCredentialsProvider(server.key.id, server.key.secret),
        "retry_max_attempts": 1,
    }
    made = sdk.Client(sdk.config.Config(**given | fields))
    try:
        yield made
    finally:
        made._client._options.http_client.close()


@pytest.fixture
def client(oss):
    with client_of(oss) as made:
        yield made


def put(server, client, key, content=CONTENT, **fields):
    return client.put_object(sdk.PutObjectRequest(bucket=server.bucket, key=key, body=content, **fields))


def get(server, client, key, **fields):
    with client.get_object(sdk.GetObjectRequest(bucket=server.bucket, key=key, **fields)).body as body:
        return body.read()


def raw(server, method, path, headers=None, body=b""):
    """One request as it stands; returns the status, the fields and the body of the reply."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        with connection.getresponse() as reply:
            return reply.status, CaseInsensitiveDict(reply.getheaders()), reply.read()
    finally:
        connection.close()


@contextlib.contextmanager
def refused(code, status=None):
    """The SDK reports this error of the service."""
    with pytest.raises(
        (sdk.exceptions.OperationError, sdk.uploader.UploadError, sdk.downloader.DownloadError)
    ) as raised:
        yield
    error = raised.value
    while not isinstance(error, sdk.exceptions.ServiceError):
        error = error.unwrap()
    assert error.code == code
    assert status in (None, error.status_code)
    assert len(error.request_id) == 24


# The official SDK of today: alibabacloud-oss-v2


def test_an_object_comes_back_as_it_went(oss, client, key):
    done = put(oss, client, key, content_type="image/png", metadata={"colour": "blue"})
    assert done.etag == f'"{md5(CONTENT)}"'
    assert get(oss, client, key) == CONTENT
    head = client.head_object(sdk.HeadObjectRequest(bucket=oss.bucket, key=key))
    assert (head.content_length, head.etag, head.content_type) == (len(CONTENT), done.etag, "image/png")
    assert (head.hash_crc64, head.object_type) == (done.hash_crc64, "Normal")
    assert dict(head.metadata) == {"colour": "blue"}
    client.delete_object(sdk.DeleteObjectRequest(bucket=oss.bucket, key=key))
    client.delete_object(sdk.DeleteObjectRequest(bucket=oss.bucket, key=key))
    with refused("NoSuchKey", 404):
        client.get_object(sdk.GetObjectRequest(bucket=oss.bucket, key=key))
    with refused("NoSuchKey", 404):  # of which the reply to HEAD has a header only
        client.head_object(sdk.HeadObjectRequest(bucket=oss.bucket, key=key))


def test_several_parts_at_once_as_the_sdk_has_them_by_default(oss, client, key, tmp_path):
    large = os.urandom(20 << 20)
    (tmp_path / "large").write_bytes(large)
    client.uploader().upload_file(sdk.PutObjectRequest(bucket=oss.bucket, key=key), str(tmp_path / "large"))
    client.downloader().download_file(sdk.GetObjectRequest(bucket=oss.bucket, key=key), str(tmp_path / "got"))
    assert (tmp_path / "got").read_bytes() == large
    meta = client.get_object_meta(sdk.GetObjectMetaRequest(bucket=oss.bucket, key=key))
    assert (meta.content_length, meta.etag) == (len(large), f'"{oss.object(key)["etag"]}"')


def upload_file(client, server, key, file, notes, **options):
    uploader = client.uploader(
        part_size=PART, parallel_num=1, enable_checkpoint=True, checkpoint_dir=f"{notes}/", **options
    )
    return uploader.upload_file(sdk.PutObjectRequest(bucket=server.bucket, key=key), str(file))


def test_the_uploader_goes_on_from_its_checkpoint(oss, client, key, file, tmp_path):
    oss.fail(status=403, code="AccessDenied", op="upload_part", key=key, partNumber="4")
    with refused("AccessDenied"):
        upload_file(client, oss, key, file, tmp_path)
    (upload,) = oss.uploads(key)
    assert oss.parts(upload) == [1, 2, 3]
    done = upload_file(client, oss, key, file, tmp_path)
    sent = [each["query"]["partNumber"] for each in oss.requests(op="upload_part", key=key, status=200)]
    assert sent == ["1", "2", "3", "4", "5", "6"]
    assert done.etag.endswith('-6"')
    assert (oss.content(key), oss.uploads(key)) == (CONTENT, [])


def test_the_uploader_goes_on_after_the_server_was_killed(own, key, file, tmp_path):
    def dies(increment, transferred, total):
        if transferred == 2 * PART:
            own.kill()

    with client_of(own) as client:
        uploader = client.uploader(
            part_size=PART, parallel_num=1, enable_checkpoint=True, checkpoint_dir=f"{tmp_path}/"
        )
        with pytest.raises(sdk.uploader.UploadError):
            uploader.upload_file(
                sdk.PutObjectRequest(bucket=own.bucket, key=key, progress_fn=dies), str(file)
            )
        own.start()
        (upload,) = own.uploads(key)
        assert own.parts(upload) == [1, 2]
        upload_file(client, own, key, file, tmp_path)
    assert [each["query"]["partNumber"] for each in own.requests(op="upload_part")] == ["3", "4", "5", "6"]
    assert own.content(key) == CONTENT


def download_file(client, server, key, path, notes):
    downloader = client.downloader(
        part_size=PART, parallel_num=1, enable_checkpoint=True, checkpoint_dir=f"{notes}/", verify_data=True
    )
    return downloader.download_file(sdk.GetObjectRequest(bucket=server.bucket, key=key), str(path))


def test_the_downloader_goes_on_from_its_checkpoint(oss, client, key, tmp_path):
    put(oss, client, key)
    third = f"bytes={2 * PART}-{3 * PART - 1}"
    oss.fail(status=403, code="AccessDenied", op="get_object", key=key, range=third)
    with refused("AccessDenied"):
        download_file(client, oss, key, tmp_path / "got", tmp_path)
    before = len(oss.requests(op="get_object", key=key))
    download_file(client, oss, key, tmp_path / "got", tmp_path)
    asked = [each["range"] for each in oss.requests(op="get_object", key=key)[before:]]
    assert asked[0] == third
    assert len(asked) == 4
    assert (tmp_path / "got").read_bytes() == CONTENT


def test_the_downloader_fetches_again_what_was_cut_off(oss, client, key, tmp_path):
    put(oss, client, key)
    oss.fail(op="get_object", key=key, cut=1000)
    download_file(client, oss, key, tmp_path / "got", tmp_path)
    assert (tmp_path / "got").read_bytes() == CONTENT


def test_the_downloader_finds_out_by_the_crc_that_a_content_is_damaged(oss, client, key, tmp_path):
    put(oss, client, key)
    path = Path(oss.object(key)["path"])
    path.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    with pytest.raises(sdk.downloader.DownloadError, match="crc is inconsistent"):
        download_file(client, oss, key, tmp_path / "got", tmp_path)


def begin(server, client, key, **fields):
    return client.initiate_multipart_upload(
        sdk.InitiateMultipartUploadRequest(bucket=server.bucket, key=key, **fields)
    ).upload_id


def send(server, client, key, upload, number, content):
    done = client.upload_part(
        sdk.UploadPartRequest(
            bucket=server.bucket, key=key, upload_id=upload, part_number=number, body=content
        )
    )
    return sdk.UploadPart(part_number=number, etag=done.etag)


def complete(server, client, key, upload, parts, **fields):
    wanted = sdk.CompleteMultipartUpload(parts=parts)
    return client.complete_multipart_upload(
        sdk.CompleteMultipartUploadRequest(
            bucket=server.bucket, key=key, upload_id=upload, complete_multipart_upload=wanted, **fields
        )
    )


def test_parts_are_listed_page_by_page(oss, client, key):
    upload = begin(oss, client, key)
    for number in (1, 2, 5, 9, 10_000):
        send(oss, client, key, upload, number, b"%d" % number)
    pages = list(
        client.list_parts_paginator(limit=2).iter_page(
            sdk.ListPartsRequest(bucket=oss.bucket, key=key, upload_id=upload)
        )
    )
    listed = [[part.part_number for part in page.parts or []] for page in pages]
    assert listed == [[1, 2], [5, 9], [10_000]]
    last = pages[-1].parts[0]
    assert (last.size, last.etag) == (5, f'"{md5(b"10000")}"')
    assert pages[0].key == key


def test_of_two_parts_with_one_number_the_later_counts(own):
    with client_of(own) as client:
        upload = begin(own, client, "k")
        earlier = send(own, client, "k", upload, 1, b"earlier")
        later = send(own, client, "k", upload, 1, b"later")
        assert len(list((own.folder / "blobs").iterdir())) == 1
        with refused("InvalidPart", 400):
            complete(own, client, "k", upload, [earlier])
        complete(own, client, "k", upload, [later])
    assert own.content("k") == b"later"


def test_an_upload_is_of_one_object(oss, client, key):
    upload = begin(oss, client, key)
    with refused("NoSuchUpload", 404):
        send(oss, client, f"{key}2", upload, 1, b"x")


def test_uploads_are_listed_page_by_page_in_the_order_of_their_keys(oss, client, key):
    names = sorted([f"{key}/b", f"{key}/b", f"{key}/a", f"{key}/c"])
    uploads = [begin(oss, client, name) for name in names]
    request = sdk.ListMultipartUploadsRequest(bucket=oss.bucket, prefix=key)
    pages = list(client.list_multipart_uploads_paginator(limit=1).iter_page(request))
    listed = [(each.key, each.upload_id) for page in pages for each in page.uploads or []]
    assert [name for name, _ in listed] == names
    assert sorted(id_ for _, id_ in listed) == sorted(uploads)
    assert [page.is_truncated for page in pages] == [True, True, True, False]


def test_an_upload_that_is_aborted_is_gone(oss, client, key):
    upload = begin(oss, client, key)
    send(oss, client, key, upload, 1, CONTENT)
    abort = sdk.AbortMultipartUploadRequest(bucket=oss.bucket, key=key, upload_id=upload)
    client.abort_multipart_upload(abort)
    assert oss.uploads(key) == []
    for act in (
        lambda: client.abort_multipart_upload(abort),
        lambda: client.list_parts(sdk.ListPartsRequest(bucket=oss.bucket, key=key, upload_id=upload)),
        lambda: send(oss, client, key, upload, 2, b"x"),
        lambda: complete(oss, client, key, upload, [sdk.UploadPart(part_number=1, etag="x")]),
    ):
        with refused("NoSuchUpload", 404):
            act()


def test_a_completion_counts_once(oss, client, key):
    upload = begin(oss, client, key, metadata={"by": "me"})
    part = send(oss, client, key, upload, 7, CONTENT)
    done = complete(oss, client, key, upload, [part])
    assert done.key == key
    with refused("NoSuchUpload", 404):
        complete(oss, client, key, upload, [part])
    head = client.head_object(sdk.HeadObjectRequest(bucket=oss.bucket, key=key))
    assert (head.object_type, head.etag, dict(head.metadata)) == ("Multipart", done.etag, {"by": "me"})
    assert head.hash_crc64 == done.hash_crc64


def test_a_completion_of_all_that_is_there(oss, client, key):
    upload = begin(oss, client, key)
    for number in (3, 1):
        send(oss, client, key, upload, number, bytes([number]) * PART)
    client.complete_multipart_upload(
        sdk.CompleteMultipartUploadRequest(bucket=oss.bucket, key=key, upload_id=upload, complete_all="yes")
    )
    assert oss.content(key) == bytes([1]) * PART + bytes([3]) * PART


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda parts: parts[::-1], "InvalidPartOrder"),
        (lambda parts: [parts[0], parts[0]], "InvalidPartOrder"),
        (lambda parts: [parts[0], sdk.UploadPart(part_number=2, etag=parts[0].etag)], "InvalidPart"),
        (lambda parts: [*parts, sdk.UploadPart(part_number=9, etag=parts[0].etag)], "InvalidPart"),
        (lambda parts: [], "MalformedXML"),
    ],
)
def test_a_completion_of_other_parts_than_are_there_is_refused(oss, client, key, change, code):
    upload = begin(oss, client, key)
    parts = [send(oss, client, key, upload, number, bytes([number]) * PART) for number in (1, 2)]
    with refused(code, 400):
        complete(oss, client, key, upload, change(parts))
    complete(oss, client, key, upload, parts)


def test_parts_but_the_last_have_a_hundred_kibibytes_at_least(oss, client, key):
    upload = begin(oss, client, key)
    small = [send(oss, client, key, upload, number, bytes((100 << 10) - 1)) for number in (1, 2)]
    with refused("EntityTooSmall", 400):
        complete(oss, client, key, upload, small)
    large = send(oss, client, key, upload, 1, bytes(100 << 10))
    complete(oss, client, key, upload, [large, small[1]])


@pytest.mark.parametrize("number", [0, 10_001])
def test_a_part_has_a_number_from_1_to_10000(oss, client, key, number):
    upload = begin(oss, client, key)
    with refused("InvalidArgument", 400):
        send(oss, client, key, upload, number, b"x")


def test_a_content_that_has_another_md5_than_its_field_says_is_refused(oss, client, key):
    with refused("InvalidDigest", 400):
        put(oss, client, key, content_md5="1B2M2Y8AsgTpgAmY7PhCfg==")
    with refused("InvalidDigest", 400):
        put(oss, client, key, content_md5="none")
    assert oss.object(key) is None


def test_an_object_may_be_protected_from_its_successor(oss, client, key):
    upload = begin(oss, client, key)
    part = send(oss, client, key, upload, 1, b"new")
    put(oss, client, key, b"old", forbid_overwrite=True)
    for act in (
        lambda: put(oss, client, key, b"new", forbid_overwrite=True),
        lambda: begin(oss, client, key, forbid_overwrite=True),
        lambda: complete(oss, client, key, upload, [part], forbid_overwrite=True),
    ):
        with refused("FileAlreadyExists", 409):
            act()
    assert oss.content(key) == b"old"
    complete(oss, client, key, upload, [part])
    assert oss.content(key) == b"new"


@pytest.mark.parametrize(
    ("wanted", "lenient", "standard"),
    [
        ("bytes=0-3", b"0123", b"0123"),
        ("bytes=7-", b"789", b"789"),
        ("bytes=-3", b"789", b"789"),
        ("bytes=5-20", b"0123456789", b"56789"),
        ("bytes=-20", b"0123456789", b"0123456789"),
        ("bytes=10-12", b"0123456789", None),
        ("bytes=10-", b"0123456789", None),
        ("bytes=a-b", b"0123456789", b"0123456789"),
        ("bytes=5-3", b"0123456789", b"0123456789"),
    ],
)
def test_a_range_that_is_not_within_the_object_counts_for_nothing_or_is_cut(
    oss, client, key, wanted, lenient, standard
):
    put(oss, client, key, b"0123456789")
    assert get(oss, client, key, range_header=wanted) == lenient
    if standard is None:
        with refused("InvalidRange", 416):
            get(oss, client, key, range_header=wanted, range_behavior="standard")
    else:
        assert get(oss, client, key, range_header=wanted, range_behavior="standard") == standard


def test_conditions_are_kept(oss, client, key):
    done = put(oss, client, key)
    head = client.head_object(sdk.HeadObjectRequest(bucket=oss.bucket, key=key, if_match=done.etag))
    past = "Thu, 01 Jan 2015 00:00:00 GMT"
    with refused("PreconditionFailed", 412):
        get(oss, client, key, if_match='"' + "0" * 32 + '"')
    with refused("PreconditionFailed", 412):
        get(oss, client, key, if_unmodified_since=past)
    now = head.headers["Last-Modified"]
    assert get(oss, client, key, if_unmodified_since=now, if_modified_since=past) == CONTENT
    for condition in ({"if_none_match": done.etag}, {"if_modified_since": now}):
        with pytest.raises(sdk.exceptions.OperationError, match="304"):
            get(oss, client, key, **condition)


def test_buckets_have_names_and_are_there_or_not(oss, client):
    client.put_bucket(sdk.PutBucketRequest(bucket="another-bucket"))
    client.put_object(sdk.PutObjectRequest(bucket="another-bucket", key="k", body=b"x"))
    with refused("NoSuchBucket", 404):
        client.put_object(sdk.PutObjectRequest(bucket="no-such-bucket", key="k", body=b"x"))
    oss.ask("add_bucket", name="NOT-A-NAME")
    signed = signed_headers(oss, "GET", f"{oss.origin}/NOT-A-NAME/k", "NOT-A-NAME", "k")
    assert b"<Code>InvalidBucketName</Code>" in raw(oss, "GET", "/NOT-A-NAME/k", signed)[2]


# Who may ask


def test_nobody_else_may(oss, key):
    unknown = sdk.credentials.StaticCredentialsProvider("nobody", "x")
    wrong = sdk.credentials.StaticCredentialsProvider(oss.key.id, "another secret")
    with client_of(oss, credentials_provider=unknown) as client, refused("InvalidAccessKeyId", 403):
        put(oss, client, key)
    with client_of(oss, credentials_provider=wrong) as client, refused("SignatureDoesNotMatch", 403):
        put(oss, client, key)
    anonymous = sdk.credentials.AnonymousCredentialsProvider()
    with client_of(oss, credentials_provider=anonymous) as client, refused("AccessDenied", 403):
        put(oss, client, key)
    with client_of(oss, signature_version="v1") as client, refused("InvalidArgument", 400):
        put(oss, client, key)
    assert oss.object(key) is None


def test_the_region_has_to_be_the_bucket_s(oss, key):
    with client_of(oss, region="cn-beijing") as client, refused("InvalidArgument", 400):
        put(oss, client, key)


def test_a_clock_may_differ_by_a_quarter_of_an_hour(own, key):
    minute = 60_000
    with client_of(own) as client:
        for ahead in (14 * minute, -14 * minute):
            own.ask("clock", ahead=ahead)
            put(own, client, key)
        for ahead in (16 * minute, -16 * minute):
            own.ask("clock", ahead=ahead)
            with refused("RequestTimeTooSkewed", 403):
                put(own, client, key)


def test_a_session_needs_its_token_and_ends(oss, key):
    session = oss.session(3600)

    def provider(token):
        return sdk.credentials.StaticCredentialsProvider(session.id, session.secret, token)

    with client_of(oss, credentials_provider=provider(None)) as client, refused("InvalidAccessKeyId", 403):
        put(oss, client, key)
    with client_of(oss, credentials_provider=provider("x")) as client, refused("InvalidSecurityToken", 403):
        put(oss, client, key)
    with client_of(oss, credentials_provider=provider(session.token)) as client:
        put(oss, client, key)
        oss.expire(session)
        with refused("SecurityTokenExpired", 403):
            put(oss, client, key)


def presigned(client, request, seconds=60):
    return client.presign(request, expires=dt.timedelta(seconds=seconds))


def longer(url, seconds):
    return re.sub("x-oss-expires=[0-9]+", f"x-oss-expires={seconds}", url)


def test_a_presigned_url_is_good_for_what_it_was_signed_for(oss, client, key):
    request = sdk.PutObjectRequest(bucket=oss.bucket, key=key, content_type="text/plain")
    signed = presigned(client, request)
    path = signed.url.removeprefix(oss.origin)
    assert raw(oss, "PUT", path, dict(signed.signed_headers), b"x")[0] == 200
    assert oss.content(key) == b"x"
    assert raw(oss, "PUT", path, {"content-type": "text/html"}, b"x")[0] == 403
    assert raw(oss, "GET", path)[0] == 403
    status, _, body = raw(oss, "PUT", longer(path, 90), dict(signed.signed_headers), b"x")
    assert (status, b"<Code>SignatureDoesNotMatch</Code>" in body) == (403, True)


def test_a_presigned_url_ends(own, key):
    with client_of(own) as client:
        put(own, client, key)
        path = presigned(client, sdk.GetObjectRequest(bucket=own.bucket, key=key)).url.removeprefix(
            own.origin
        )
        assert raw(own, "GET", path)[2] == CONTENT
        own.ask("clock", ahead=61_000)
        status, _, body = raw(own, "GET", path)
        assert status == 403
        assert b"<Code>AccessDenied</Code><Message>Request has expired.</Message>" in body
        own.ask("clock", ahead=0)
        too_long = longer(path, 604801)
        status, _, body = raw(own, "GET", too_long)
        assert (status, b"<Code>InvalidArgument</Code>" in body) == (400, True)


def signed_headers(server, method, url, bucket, key, headers=(), additional=()):
    request = HttpRequest(method, url, headers=dict(headers))
    context = SigningContext(
        product="oss",
        region=server.region,
        bucket=bucket,
        key=key,
        request=request,
        credentials=Credentials(server.key.id, server.key.secret),
        additional_headers=set(additional),
    )
    SignerV4().sign(context)
    return dict(request.headers)


def test_additional_headers_are_signed_too(oss, client, key):
    put(oss, client, key, b"0123456789")
    url = presigned(client, sdk.GetObjectRequest(bucket=oss.bucket, key=key)).url.partition("?")[0]
    signed = signed_headers(oss, "GET", url, oss.bucket, key, {"Range": "bytes=0-3"}, ["range"])
    path = url.removeprefix(oss.origin)
    assert raw(oss, "GET", path, signed)[2] == b"0123"
    assert raw(oss, "GET", path, {**signed, "Range": "bytes=0-4"})[0] == 403
    unordered = signed["Authorization"].replace("=range", "=range;host")
    assert raw(oss, "GET", path, {**signed, "Authorization": unordered})[0] == 400


# Where buckets are


def test_the_host_may_name_the_bucket(oss, key):
    endpoint = "http://oss-cn-hangzhou.aliyuncs.com"
    with client_of(oss, endpoint=endpoint, proxy_host={"http": oss.origin}) as client:
        put(oss, client, key)
        assert get(oss, client, key) == CONTENT
    host = f"{oss.bucket}.oss-cn-hangzhou.aliyuncs.com"
    assert {each["host"] for each in oss.requests(key=key)} == {host}


def test_a_domain_may_stand_for_a_bucket(oss, key):
    oss.ask("add_cname", host="files.example.com", bucket=oss.bucket)
    proxy = {"http": oss.origin}
    with client_of(oss, endpoint="http://files.example.com", use_cname=True, proxy_host=proxy) as client:
        put(oss, client, key)
    with (
        client_of(oss, endpoint="http://else.example.com", use_cname=True, proxy_host=proxy) as client,
        refused("NoSuchBucket", 404),
    ):
        put(oss, client, key)
    assert oss.content(key) == CONTENT


def test_an_official_host_takes_no_bucket_in_its_path(oss, key):
    endpoint = "http://oss-cn-hangzhou.aliyuncs.com"
    with (
        client_of(oss, endpoint=endpoint, use_path_style=True, proxy_host={"http": oss.origin}) as client,
        refused("SecondLevelDomainForbidden", 403),
    ):
        put(oss, client, key)


# The official SDK of yesterday: oss2


@pytest.fixture
def old(oss):
    session = oss2.Session()
    auth = oss2.AuthV4(oss.key.id, oss.key.secret)
    yield oss2.Bucket(auth, oss.origin, oss.bucket, session=session, region=oss.region)
    session.session.close()


of_the_old = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")  # on Python 3.12 and later


@of_the_old
def test_resumable_upload_of_oss2_goes_on(oss, old, key, file, tmp_path):
    def upload():
        oss2.resumable_upload(
            old,
            key,
            str(file),
            store=oss2.ResumableStore(root=str(tmp_path)),
            multipart_threshold=PART,
            part_size=PART,
            num_threads=1,
        )

    oss.fail(status=403, code="AccessDenied", op="upload_part", key=key, partNumber="4")
    with pytest.raises(oss2.exceptions.AccessDenied):
        upload()
    upload()
    sent = [each["query"]["partNumber"] for each in oss.requests(op="upload_part", key=key, status=200)]
    assert sorted(sent) == ["1", "2", "3", "4", "5", "6"]
    assert (oss.content(key), oss.uploads(key)) == (CONTENT, [])


@of_the_old
def test_resumable_download_of_oss2_goes_on(oss, old, key, tmp_path):
    old.put_object(key, CONTENT)

    def download():
        oss2.resumable_download(
            old,
            key,
            str(tmp_path / "got"),
            store=oss2.ResumableDownloadStore(root=str(tmp_path)),
            multiget_threshold=PART,
            part_size=PART,
            num_threads=1,
        )

    third = f"bytes={2 * PART}-{3 * PART - 1}"
    oss.fail(status=403, code="AccessDenied", op="get_object", key=key, range=third)
    with pytest.raises(oss2.exceptions.AccessDenied):
        download()
    before = len(oss.requests(op="get_object", key=key))
    download()
    assert len(oss.requests(op="get_object", key=key)) - before == 4
    assert (tmp_path / "got").read_bytes() == CONTENT


@of_the_old
def test_multipart_of_oss2(oss, old, key):
    upload = old.init_multipart_upload(key).upload_id
    parts = []
    for number in (1, 2):
        done = old.upload_part(key, upload, number, bytes([number]) * PART)
        parts.append(oss2.models.PartInfo(number, done.etag, size=PART, part_crc=done.crc))
    assert [part.part_number for part in oss2.PartIterator(old, key, upload, max_parts=1)] == [1, 2]
    open_ones = [each.upload_id for each in oss2.MultipartUploadIterator(old, prefix=key)]
    assert open_ones == [upload]
    old.complete_multipart_upload(key, upload, parts)
    assert old.get_object(key).read() == bytes([1]) * PART + bytes([2]) * PART


@of_the_old
def test_urls_signed_by_oss2(oss, old, key):
    url = old.sign_url("PUT", key, 60, slash_safe=True)
    assert raw(oss, "PUT", url.removeprefix(oss.origin), {}, b"x")[0] == 200
    assert oss.content(key) == b"x"


# What tests rely on


def test_all_of_it_outlives_a_kill(own, key):
    with client_of(own) as client:
        put(own, client, key)
        upload = begin(own, client, f"{key}2")
        part = send(own, client, f"{key}2", upload, 1, CONTENT)
        own.kill()
        (own.folder / "blobs" / "left-behind").write_bytes(b"by a request that was under way")
        own.start()
        assert get(own, client, key) == CONTENT
        complete(own, client, f"{key}2", upload, [part])
    assert own.content(f"{key}2") == CONTENT
    assert len(list((own.folder / "blobs").iterdir())) == 2


def test_a_part_that_comes_in_while_its_upload_is_aborted_is_dropped(own, key):
    with client_of(own) as client:
        upload = begin(own, client, "k")
        path = f"/{own.bucket}/k?partNumber=1&uploadId={upload}"
        headers = signed_headers(own, "PUT", own.origin + path, own.bucket, "k")
        lines = [f"PUT {path} HTTP/1.1", f"Host: 127.0.0.1:{own.port}", "Content-Length: 10"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        with socket.create_connection(("127.0.0.1", own.port), timeout=10) as connection:
            connection.sendall("\r\n".join([*lines, "Expect: 100-continue", "", ""]).encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
            client.abort_multipart_upload(
                sdk.AbortMultipartUploadRequest(bucket=own.bucket, key="k", upload_id=upload)
            )
            connection.sendall(b"0123456789")
            assert connection.recv(1000).startswith(b"HTTP/1.1 404 ")
    assert list((own.folder / "blobs").iterdir()) == []


def test_whoever_reads_an_object_reads_all_of_it_though_another_takes_its_place(oss, client, key):
    large = os.urandom(16 << 20)
    put(oss, client, key, large)
    with client.get_object(sdk.GetObjectRequest(bucket=oss.bucket, key=key)).body as body:
        chunks = body.iter_bytes(block_size=1000)
        read = [next(chunks)]
        put(oss, client, key, b"another")
        read += chunks
    assert b"".join(read) == large


def test_faults_come_as_they_were_ordered(oss, client, key):
    oss.fail(2, status=503, code="ServiceUnavailable", op="put_object", key=key)
    oss.fail(op="put_object", key=key, status=500, code="InternalError", after=True)
    for code in ("ServiceUnavailable", "ServiceUnavailable", "InternalError"):
        assert oss.object(key) is None
        with refused(code):
            put(oss, client, key)
    assert oss.content(key) == CONTENT
    assert oss.ask("faults") == 0
