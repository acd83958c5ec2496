"""Which object of OSS is meant, and where its requests go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meowcat.core.errors import InvalidArgument
from meowcat.core.urls import check_url, identity
from meowcat.protocols.oss import AliyunOSS, OSSDownload, OSSUpload
from meowcat.protocols.oss.address import Address, resolve


def resolved(url, **settings):
    return resolve(url, AliyunOSS(**settings).spec())


HANGZHOU = {"region": "cn-hangzhou"}


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        (HANGZHOU, "https://bucket.oss-cn-hangzhou.aliyuncs.com/key"),
        ({"region": "oss-cn-hangzhou"}, "https://bucket.oss-cn-hangzhou.aliyuncs.com/key"),
        ({"endpoint": "oss-eu-west-1.aliyuncs.com"}, "https://bucket.oss-eu-west-1.aliyuncs.com/key"),
        (
            {"endpoint": "http://oss-us-west-1-internal.aliyuncs.com"},
            "http://bucket.oss-us-west-1-internal.aliyuncs.com/key",
        ),
        (HANGZHOU | {"style": "path"}, "https://oss-cn-hangzhou.aliyuncs.com/bucket/key"),
        (HANGZHOU | {"endpoint": "http://127.0.0.1:9000/"}, "http://127.0.0.1:9000/bucket/key"),
        (HANGZHOU | {"endpoint": "http://localhost:9000"}, "http://localhost:9000/bucket/key"),
        (HANGZHOU | {"endpoint": "http://[::1]:9000"}, "http://[::1]:9000/bucket/key"),
        (HANGZHOU | {"endpoint": "https://files.example", "style": "cname"}, "https://files.example/key"),
        (
            HANGZHOU | {"endpoint": "https://oss-accelerate.aliyuncs.com"},
            "https://bucket.oss-accelerate.aliyuncs.com/key",
        ),
    ],
)
def test_where_the_requests_for_an_object_go(settings, url):
    assert resolved("oss://bucket/key", **settings)[0] == url


@pytest.mark.parametrize(
    ("endpoint", "region"),
    [
        ("oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou"),
        ("oss-cn-hangzhou-internal.aliyuncs.com", "cn-hangzhou"),
        ("oss-cn-shenzhen-finance-1.aliyuncs.com", "cn-shenzhen-finance-1"),
        ("https://cn-hangzhou.oss.aliyuncs.com", "cn-hangzhou"),
    ],
)
def test_a_region_is_recognised_from_its_endpoint(endpoint, region):
    assert resolved("oss://bucket/key", endpoint=endpoint)[1].fields["region"] == region


@pytest.mark.parametrize(
    ("url", "settings", "bucket", "key", "style", "endpoint"),
    [
        (
            "https://b-1.oss-cn-hangzhou.aliyuncs.com/a%2Fb%20c",
            {},
            *("b-1", "a/b c", "virtual", "https://oss-cn-hangzhou.aliyuncs.com"),
        ),
        ("http://127.0.0.1:9000/b-1/k", HANGZHOU, "b-1", "k", "path", "http://127.0.0.1:9000"),
        ("https://h/b-1/k", HANGZHOU | {"style": "path"}, "b-1", "k", "path", "https://h"),
        ("https://b-1.h/k", HANGZHOU | {"endpoint": "https://h"}, "b-1", "k", "virtual", "https://h"),
        ("https://h/b-1/k", HANGZHOU | {"endpoint": "https://h"}, "b-1", "k", "path", "https://h"),
    ],
)
def test_an_objects_own_url_is_taken_apart(url, settings, bucket, key, style, endpoint):
    found, spec = resolved(url, **settings)
    address = Address.of(spec)
    assert (address.bucket, address.key, address.style, address.endpoint) == (bucket, key, style, endpoint)
    assert identity(found) == identity(url.replace("%2F", "/"))


keys = st.text(
    st.characters(codec="utf-8", min_codepoint=0x20, exclude_characters="\x7f"), min_size=1, max_size=80
)
keys = keys.filter(
    lambda key: key[0] not in "/\\" and all(each not in (".", "..") for each in key.split("/"))
)


@given(keys, st.sampled_from(["path", "virtual"]))
def test_any_key_comes_back_from_its_url(key, style):
    settings = AliyunOSS(endpoint="https://h", style=style, region="cn-hangzhou").spec()
    url, spec = resolve(f"oss://bucket/{key}", settings)
    check_url(url)
    again, same = resolve(url, settings)
    assert again == url
    assert Address.of(same) == Address.of(spec)
    assert resolve(url, spec) == (url, spec), "what was resolved once stays as it is"


@pytest.mark.parametrize(
    ("url", "settings", "says"),
    [
        ("oss://bucket/key", {}, "in which region is the bucket? set AliyunOSS(region="),
        ("oss://bucket/key", {"endpoint": "https://host"}, "names no region, and the signature needs one"),
        ("oss://bucket/key", {"endpoint": "oss-accelerate.aliyuncs.com"}, "names no region"),
        ("oss://bucket/key", {"region": "Hangzhou"}, "region 'Hangzhou': expected one as in 'cn-hangzhou'"),
        (
            "oss://bucket/key",
            {"endpoint": "oss-cn-hangzhou.aliyuncs.com", "region": "cn-beijing"},
            "is that of 'cn-hangzhou'; leave one out",
        ),
        ("oss://b/k", HANGZHOU, "bucket 'b': expected 3 to 63"),
        ("oss://my.bucket/k", HANGZHOU, "bucket 'my.bucket'"),
        ("oss://bucket", HANGZHOU, "key of 0 bytes"),
        ("oss://bucket/" + "x" * 1024, HANGZHOU, "key of 1024 bytes: expected 1 to 1023"),
        ("oss://bucket//k", HANGZHOU, "OSS takes none that begins with '/'"),
        ("oss://bucket/\\k", HANGZHOU, "OSS takes none that begins with"),
        ("oss://bucket/a/../b", HANGZHOU, "'.' or '..' between slashes"),
        ("https://b-1.h/k?versionId=1", HANGZHOU, "without query"),
        ("https://user:pw@b-1.h/k", HANGZHOU, "without query and userinfo"),
        ("https://files.example/k", HANGZHOU | {"style": "cname"}, "which bucket is it? say oss://"),
        ("https://other/b-1/k", HANGZHOU | {"endpoint": "https://h"}, "expected one of the endpoint"),
    ],
)
def test_what_names_no_object_is_refused_with_its_reason(url, settings, says):
    with pytest.raises(InvalidArgument) as error:
        resolved(url, **settings)
    assert says in str(error.value)
    assert "pw" not in str(error.value)


def test_fields_that_name_another_object_than_the_url_are_refused():
    _, spec = resolved("oss://bucket/one", **HANGZHOU)
    with pytest.raises(InvalidArgument, match="oss://bucket/one"):
        resolve("https://bucket.oss-cn-hangzhou.aliyuncs.com/two", spec)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"style": "dns"}, "style 'dns': expected one of auto, virtual, path, cname"),
        ({"checksum": "crc32"}, "checksum 'crc32'"),
        ({"additional_headers": "host"}, "expected a tuple of names"),
        ({"additional_headers": ("a b",)}, "header 'a b'"),
        ({"storage_class": "a\nb"}, "storage_class"),
        ({"metadata": {"Meowcat-Task": "x"}}, "taken by meowcat's own mark"),
    ],
)
def test_settings_that_can_not_be_worked_with_are_refused(settings, says):
    with pytest.raises(InvalidArgument) as error:
        AliyunOSS(**settings).spec()
    assert says in str(error.value)


def test_a_version_is_for_downloads():
    spec = AliyunOSS(version_id="v1", **HANGZHOU).spec()
    assert OSSDownload.resolve("oss://bucket/key", spec, None)[1].fields["version_id"] == "v1"
    with pytest.raises(InvalidArgument, match="version_id"):
        OSSUpload.resolve("oss://bucket/key", spec, None)


def test_the_credential_is_what_has_to_be_there():
    assert OSSUpload.needs(AliyunOSS().spec()) == ("credential:default",)
    assert OSSUpload.needs(AliyunOSS(credential="prod").spec()) == ("credential:prod",)
    assert OSSDownload.needs(AliyunOSS(credential=None).spec()) == ()
