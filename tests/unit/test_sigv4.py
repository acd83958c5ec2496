"""AWS Signature Version 4, against the vectors of its makers and against botocore."""

import re
from datetime import UTC, datetime
from urllib.parse import quote

from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from meowcat.protocols.credentials import AccessKey
from meowcat.protocols.signing.canonical import escaped_query
from meowcat.protocols.signing.sigv4 import EMPTY_SHA256, presign, sign

SUITE = AccessKey(id="AKIDEXAMPLE", secret="wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
S3 = AccessKey(id="AKIAIOSFODNN7EXAMPLE", secret="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
MAY_2013 = 1369353600_000
AUGUST_2015 = 1440938160_000


def signature(headers):
    return re.search("Signature=([0-9a-f]{64})$", headers["Authorization"])[1]


def test_the_plainest_vector_of_the_signing_suite():
    signed = sign(
        "GET",
        "https://example.amazonaws.com/",
        {},
        SUITE,
        region="us-east-1",
        at=AUGUST_2015,
        payload=EMPTY_SHA256,
        service="service",
    )
    assert signature(signed) == "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
    assert "X-Amz-Content-SHA256" not in signed


def test_the_plainest_vector_of_the_signing_suite_with_the_signature_in_the_query():
    url = presign(
        "GET",
        "https://example.amazonaws.com/",
        SUITE,
        region="us-east-1",
        at=AUGUST_2015,
        expires=3600,
        payload=EMPTY_SHA256,
        service="service",
    )
    assert url.endswith("=e93c787ed7f371d5c6b165c1b38ede9550f4dce4144713e844b25b7192d3865d")


def test_a_range_of_an_object():
    signed = sign(
        "GET",
        "https://examplebucket.s3.amazonaws.com/test.txt",
        {"Range": "bytes=0-9"},
        S3,
        region="us-east-1",
        at=MAY_2013,
        payload=EMPTY_SHA256,
    )
    assert signature(signed) == "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"


def test_an_object_with_a_dollar_in_its_key():
    signed = sign(
        "PUT",
        "https://examplebucket.s3.amazonaws.com/test%24file.text",
        {"Date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
        S3,
        region="us-east-1",
        at=MAY_2013,
        payload="44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
    )
    assert signature(signed) == "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"


def test_a_presigned_url():
    url = presign(
        "GET",
        "https://examplebucket.s3.amazonaws.com/test.txt",
        S3,
        region="us-east-1",
        at=MAY_2013,
        expires=86400,
    )
    assert url.endswith("=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")


def test_neither_the_secret_nor_the_token_stands_in_what_is_shown_of_a_key():
    key = AccessKey(id="AKID", secret="hidden-1", token="hidden-2")
    for shown in (repr(key), f"{key}", pretty_repr(key)):
        assert "hidden" not in shown
        assert "AKID" in shown


keys = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r\n"), min_size=1).filter(
    lambda key: all(segment not in (".", "..") for segment in key.split("/"))
)
queries = st.lists(
    st.tuples(st.sampled_from(["partNumber", "uploadId", "uploads", "prefix", "a", "A"]), keys), max_size=4
)
tokens = st.one_of(st.none(), st.just("a+token/with==signs"))
hosts = st.sampled_from(
    ["http://127.0.0.1:9000", "https://b.s3.eu-west-1.amazonaws.com", "https://S3.Host:443"]
)
fields = st.dictionaries(
    st.sampled_from(["Range", "x-amz-meta-note", "Content-Type", "Content-MD5", "User-Agent", "Expect"]),
    st.text(st.sampled_from("ab  =-/1"), min_size=1).map(str.strip),
)


def url_of(host, key, query):
    return f"{host}/{quote(key, safe='/-_.~')}?{escaped_query(query)}".rstrip("?")


def milliseconds(moment):
    return int(datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp() * 1000)


@given(hosts, keys, queries, fields, tokens, st.sampled_from(["GET", "PUT", "HEAD", "POST", "DELETE"]))
def test_what_is_signed_is_what_botocore_signs(host, key, query, headers, token, method):
    url = url_of(host, key, query)
    theirs = AWSRequest(
        method=method, url=url, headers={**headers, "X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}
    )
    theirs.context["payload_signing_enabled"] = False
    S3SigV4Auth(Credentials("AKID", "secret", token), "s3", "eu-west-1").add_auth(theirs)
    ours = sign(
        method,
        url,
        headers,
        AccessKey(id="AKID", secret="secret", token=token),
        region="eu-west-1",
        at=milliseconds(theirs.headers["X-Amz-Date"]),
        payload=theirs.headers["X-Amz-Content-SHA256"],
    )
    assert ours["Authorization"] == theirs.headers["Authorization"]
    assert {name: theirs.headers[name] for name in ours} == ours


@given(hosts, keys, queries, tokens, st.sampled_from(["GET", "PUT"]))
def test_what_is_presigned_is_what_botocore_presigns(host, key, query, token, method):
    url = url_of(host, key, dict(query).items())
    theirs = AWSRequest(method=method, url=url)
    S3SigV4QueryAuth(Credentials("AKID", "secret", token), "s3", "eu-west-1", expires=600).add_auth(theirs)
    ours = presign(
        method,
        url,
        AccessKey(id="AKID", secret="secret", token=token),
        region="eu-west-1",
        at=milliseconds(re.search("X-Amz-Date=([0-9TZ]+)", theirs.url)[1]),
        expires=600,
    )
    assert ours.rpartition("=")[2] == theirs.url.rpartition("=")[2]
