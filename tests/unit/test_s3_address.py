"""Which object is meant, and where its requests go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meowcat.core.errors import InvalidArgument
from meowcat.core.urls import check_url, identity
from meowcat.protocols.s3 import S3, S3Download, S3Upload
from meowcat.protocols.s3.address import address_of, resolve


def resolved(url, **settings):
    return resolve(url, S3(**settings).spec())


@pytest.mark.parametrize(
    ("url", "settings", "expected"),
    [
        ("s3://bucket/key", {}, "https://bucket.s3.us-east-1.amazonaws.com/key"),
        ("s3://bucket/key", {"region": "eu-west-1"}, "https://bucket.s3.eu-west-1.amazonaws.com/key"),
        ("s3://bucket/key", {"region": "cn-north-1"}, "https://bucket.s3.cn-north-1.amazonaws.com.cn/key"),
        ("s3://my.bucket/key", {}, "https://s3.us-east-1.amazonaws.com/my.bucket/key"),
        ("s3://bucket/key", {"style": "path"}, "https://s3.us-east-1.amazonaws.com/bucket/key"),
        ("s3://bucket/key", {"endpoint": "http://127.0.0.1:9000/"}, "http://127.0.0.1:9000/bucket/key"),
        ("s3://bucket/key", {"endpoint": "https://HOST/s3"}, "https://host/s3/bucket/key"),
        ("s3://bucket/key", {"endpoint": "https://host", "style": "virtual"}, "https://bucket.host/key"),
        (
            "s3://bucket/key",
            {"endpoint": "https://oss-cn-hangzhou.aliyuncs.com"},
            "https://bucket.oss-cn-hangzhou.aliyuncs.com/key",
        ),
        ("s3://bucket/a?b#c%20d e", {"endpoint": "https://h"}, "https://h/bucket/a%3Fb%23c%2520d%20e"),
        ("s3://bucket//a//b/", {"endpoint": "https://h"}, "https://h/bucket//a//b/"),
        ("S3://bucket/ä", {"endpoint": "https://h"}, "https://h/bucket/%C3%A4"),
    ],
)
def test_where_the_requests_for_an_object_go(url, settings, expected):
    assert resolved(url, **settings)[0] == expected


@pytest.mark.parametrize(
    ("url", "settings", "bucket", "key", "endpoint", "region", "style"),
    [
        ("https://host:9000/b-1/a/b", {}, "b-1", "a/b", "https://host:9000", "us-east-1", "path"),
        ("https://h/b-1/a%2Fb%20c", {}, "b-1", "a/b c", "https://h", "us-east-1", "path"),
        ("https://b-1.h/k", {"style": "virtual"}, "b-1", "k", "https://h", "us-east-1", "virtual"),
        ("https://b-1.h/k", {"endpoint": "https://h"}, "b-1", "k", "https://h", "us-east-1", "virtual"),
        ("https://h/b-1/k", {"endpoint": "https://h"}, "b-1", "k", "https://h", "us-east-1", "path"),
        ("https://h/s3/b-1/k", {"endpoint": "https://h/s3"}, "b-1", "k", "https://h/s3", "us-east-1", "path"),
        (
            "https://b-1.s3.eu-west-1.amazonaws.com/k",
            {},
            *("b-1", "k", "https://s3.eu-west-1.amazonaws.com", "eu-west-1", "virtual"),
        ),
        (
            "https://a.b.s3.dualstack.eu-west-1.amazonaws.com/k",
            {},
            *("a.b", "k", "https://s3.dualstack.eu-west-1.amazonaws.com", "eu-west-1", "virtual"),
        ),
        (
            "https://s3.us-gov-west-1.amazonaws.com/b-1/k",
            {},
            *("b-1", "k", "https://s3.us-gov-west-1.amazonaws.com", "us-gov-west-1", "path"),
        ),
    ],
)
def test_an_objects_own_url_is_taken_apart(url, settings, bucket, key, endpoint, region, style):
    found, spec = resolved(url, **settings)
    address = address_of(spec)
    assert (address.bucket, address.key, address.endpoint, address.region, address.style) == (
        *(bucket, key, endpoint),
        *(region, style),
    )
    assert identity(found) == identity(url.replace("%2F", "/"))


keys = st.text(
    st.characters(codec="utf-8", min_codepoint=0x20, exclude_characters="\x7f"), min_size=1, max_size=80
)
keys = keys.filter(lambda key: all(each not in (".", "..") for each in key.split("/")))


@given(keys, st.sampled_from(["path", "virtual"]))
def test_any_key_comes_back_from_its_url(key, style):
    url, spec = resolved(f"s3://bucket/{key}", endpoint="https://h", style=style)
    check_url(url)
    again, same = resolve(url, S3(endpoint="https://h", style=style).spec())
    assert again == url
    assert address_of(same) == address_of(spec)
    assert resolve(url, spec) == (url, spec), "what was resolved once stays as it is"


@pytest.mark.parametrize(
    ("url", "settings", "says"),
    [
        ("s3://b", {}, "bucket 'b': expected 3 to 63"),
        ("s3:///key", {}, "bucket ''"),
        ("s3://Bucket/key", {}, "bucket 'Bucket'"),
        ("s3://192.168.1.1/key", {}, "no address of a machine"),
        ("s3://a..b/key", {}, "bucket 'a..b'"),
        ("s3://bucket", {}, "key of 0 bytes"),
        ("s3://bucket/", {}, "key of 0 bytes"),
        ("s3://bucket/" + "x" * 1025, {}, "key of 1025 bytes"),
        ("s3://bucket/a/../b", {}, "'.' or '..' between slashes"),
        ("s3://bucket/a\nb", {}, "control character"),
        ("s3://bucket/\ud800", {}, "half of a character"),
        ("https://h/bucket/k?versionId=1", {}, "without query"),
        ("https://user:pw@h/bucket/k", {}, "without query and userinfo"),
        ("https://h/bucket/%ff", {}, "no UTF-8"),
        ("ftp://h/bucket/k", {}, "expected http or https"),
        ("https://other/bucket/k", {"endpoint": "https://h"}, "expected one of the endpoint 'https://h'"),
        ("s3://bucket/k", {"endpoint": "127.0.0.1:9000"}, "expected 'https://host'"),
        ("s3://bucket/k", {"endpoint": "https://h?x=1"}, "no userinfo, query or fragment"),
        (
            "s3://bucket/k",
            {"endpoint": "https://s3.eu-west-1.amazonaws.com", "region": "us-east-2"},
            "is that of 'eu-west-1'",
        ),
    ],
)
def test_what_names_no_object_is_refused_with_its_reason(url, settings, says):
    with pytest.raises(InvalidArgument) as error:
        resolved(url, **settings)
    assert says in str(error.value)
    assert "pw" not in str(error.value)


def test_fields_that_name_another_object_than_the_url_are_refused():
    _, spec = resolved("s3://bucket/one")
    with pytest.raises(InvalidArgument, match="s3://bucket/one"):
        resolve("https://bucket.s3.us-east-1.amazonaws.com/two", spec)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"style": "dns"}, "style 'dns': expected one of auto, path, virtual"),
        ({"checksum": "crc32"}, "checksum 'crc32'"),
        ({"region": ""}, "region ''"),
        ({"content_type": "a\r\nb"}, "content_type"),
        ({"metadata": {"a b": "c"}}, "header 'a b'"),
        ({"metadata": {"a": "ü"}}, "metadata 'a': expected a value in ASCII"),
        ({"metadata": {"Meowcat-Task": "x"}}, "taken by meowcat's own mark"),
    ],
)
def test_settings_that_can_not_be_worked_with_are_refused(settings, says):
    with pytest.raises(InvalidArgument) as error:
        S3(**settings).spec()
    assert says in str(error.value)


def test_a_version_is_for_downloads():
    spec = S3(version_id="v1").spec()
    assert S3Download.resolve("s3://bucket/key", spec, None)[1].fields["version_id"] == "v1"
    with pytest.raises(InvalidArgument, match="version_id"):
        S3Upload.resolve("s3://bucket/key", spec, None)


def test_the_credential_is_what_has_to_be_there():
    assert S3Upload.needs(S3().spec()) == ("credential:default",)
    assert S3Upload.needs(S3(credential="prod").spec()) == ("credential:prod",)
    assert S3Download.needs(S3(credential=None).spec()) == ()
