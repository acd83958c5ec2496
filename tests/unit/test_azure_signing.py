"""Shared Key and shared access signatures, against vectors and against the official SDK's own code."""

from datetime import UTC, datetime
from urllib.parse import parse_qsl

import pytest
from azure.core.pipeline import PipelineRequest
from azure.core.pipeline.transport import HttpRequest
from azure.storage.blob._shared.authentication import SharedKeyCredentialPolicy, _storage_header_sort
from azure.storage.blob._shared.shared_access_signature import SharedAccessSignature
from azure.storage.blob._shared_access_signature import BlobSharedAccessSignature
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from meowcat.core.errors import InvalidArgument
from meowcat.protocols.credentials import AzureKey, AzureSas, BearerToken
from meowcat.protocols.signing import shared_key
from meowcat.protocols.signing.canonical import escaped, escaped_query
from meowcat.protocols.signing.sas import account_sas, service_sas
from meowcat.protocols.signing.shared_key import VERSION, sign

DEVELOPMENT = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
KEY = AzureKey(account="myaccount", key=DEVELOPMENT)
JUNE_2015 = 1435361952_000
HOST = "https://myaccount.blob.core.windows.net"
BLOB = f"{HOST}/mycontainer/dir/a%20b.bin"


def signature(*request, key=KEY, **more):
    return sign(*request, key, at=JUNE_2015, **more)["Authorization"].partition(f"{key.account}:")[2]


@pytest.fixture
def in_2015(monkeypatch):
    monkeypatch.setattr(shared_key, "VERSION", "2015-02-21")


@pytest.mark.parametrize(
    ("method", "url", "headers", "length", "expected"),
    [
        (
            "GET",
            f"{HOST}/mycontainer?comp=metadata&restype=container&timeout=20",
            {},
            0,
            "1u9lui2jDxj0+fpbHjQ5m5NnastJRSYM+PSmfi8TXx4=",
        ),
        (
            "PUT",
            f"{BLOB}?comp=block&blockid=AAAAAA%3D%3D",
            {"Content-Type": "application/octet-stream"},
            4194304,
            "YiD+yA0uCWCFqWzkXEMbCo+4mtpTHND5NUxoj+rrRKA=",
        ),
        (
            "PUT",
            f"{BLOB}?comp=blocklist",
            {"Content-Type": "application/xml"},
            123,
            "vKShAmXgtRFLQzBmO61SMhy2ASvy+4Kf2WV+4G3+GG0=",
        ),
        (
            "GET",
            BLOB,
            {"x-ms-range": "bytes=0-4194303", "If-Match": '"0x8D4B18ADF0748D3"'},
            0,
            "N8WZIurdg1dLKzzZ8lvAdmqtvBGcWWGaRY0+4HfAPZ4=",
        ),
        ("HEAD", BLOB, {}, 0, "R5DuWlmD+vW4PcJnLZwOmRnAf2HDgbeagRnp6VxjOXQ="),
    ],
)
def test_vectors(in_2015, method, url, headers, length, expected):
    assert signature(method, url, headers, length=length) == expected


def test_the_vector_of_a_path_that_begins_with_the_account(in_2015):
    emulator = AzureKey(account="devstoreaccount1", key=DEVELOPMENT)
    found = signature("GET", "http://127.0.0.1:10000/devstoreaccount1/c/b.bin", {}, key=emulator)
    assert found == "/wwAy6ENKkD7CpexLsjU9GI8UK/p/FkH1KqL0WOB1ro="


@pytest.mark.parametrize("at", [0, JUNE_2015, 1709251199_999])
def test_a_date_is_the_same_in_any_locale(at):
    moment = datetime.fromtimestamp(at // 1000, UTC)
    assert shared_key.http_date_of(at) == moment.strftime("%a, %d %b %Y %H:%M:%S GMT")


# Against the official SDK

ACCOUNTS = st.from_regex("[a-z0-9]{3,24}", fullmatch=True)
KEYS = st.binary(min_size=1, max_size=64).map(lambda raw: shared_key.base64.b64encode(raw).decode())
NAMES = st.from_regex("[a-z][a-z0-9_-]{0,12}", fullmatch=True)
TEXTS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20)
AZURE_KEYS = st.builds(AzureKey, account=ACCOUNTS, key=KEYS)
STANDARD = st.sampled_from(
    [
        "Content-Encoding",
        "Content-Language",
        "Content-MD5",
        "Content-Type",
        "If-Match",
        "If-None-Match",
        "Accept",
    ]
)
FIELDS = st.dictionaries(
    NAMES.map("x-ms-meta-{}".format) | NAMES.map("x-ms-{}".format) | STANDARD, TEXTS, max_size=8
)
QUERIES = st.dictionaries(
    st.sampled_from(["comp", "blockid", "snapshot", "versionid", "timeout", "blocklisttype", "restype"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
)
PATHS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
MOMENTS = st.integers(min_value=0, max_value=4102444800_000)


def of_the_sdk(method, url, headers, key):
    request = HttpRequest(method, url, headers=headers)
    SharedKeyCredentialPolicy(key.account, key.key).on_request(PipelineRequest(request, _Nowhere()))
    return request.headers["Authorization"]


class _Nowhere:
    transport = None


@settings(max_examples=400)
@given(
    st.sampled_from(["GET", "PUT", "HEAD", "DELETE"]), PATHS, QUERIES, FIELDS, st.integers(0, 1 << 32),
    AZURE_KEYS, MOMENTS,
)  # fmt: skip
def test_our_signature_is_the_one_of_the_official_sdk(method, path, query, headers, length, key, at):
    headers = {name: value for name, value in headers.items() if name not in ("x-ms-date", "x-ms-version")}
    url = f"https://{key.account}.blob.core.windows.net/{escaped(path, safe='/')}"
    url += f"?{escaped_query(query.items())}" if query else ""
    ours = sign(method, url, headers, key, at=at, length=length)
    sent = {name: value for name, value in ours.items() if name != "Authorization"}
    theirs = of_the_sdk(method, url, {**headers, **sent, "Content-Length": str(length)}, key)
    assert ours["Authorization"] == theirs


@settings(max_examples=400)
@given(st.lists(st.from_regex("x-ms-[a-c0-1_-]{1,5}", fullmatch=True), unique=True))
def test_names_are_in_the_order_of_the_official_sdk(names):
    theirs = [name for name, _ in _storage_header_sort([(name, "") for name in sorted(names)])]
    assert sorted(sorted(names), key=shared_key._place) == theirs


def test_the_order_of_names_is_the_one_that_the_service_collates_by():
    names = ["a", "a_b", "a1", "aa", "ab", "a-b"]
    assert sorted(sorted(names), key=lambda name: shared_key._place(f"x-ms-meta-{name}")) == names


@pytest.mark.parametrize("name", ["x-ms-meta-a.b", "x-ms-meta-a'b", "x-ms-meta-ä", "x-ms-"])
def test_a_name_whose_place_is_not_known_is_refused(name):
    with pytest.raises(InvalidArgument, match="nobody knows where it would stand"):
        sign("GET", BLOB, {name: "1"}, KEY, at=0)


def test_a_range_that_would_not_be_signed_is_refused():
    with pytest.raises(InvalidArgument, match="expected 'x-ms-range'"):
        sign("GET", BLOB, {"Range": "bytes=0-1"}, KEY, at=0)


PERMISSIONS = st.sets(st.sampled_from("racwdxytmei"), min_size=1).map(
    lambda found: "".join(each for each in "racwdxytmei" if each in found)
)
SECONDS = st.integers(0, 4102444800)
IPS = st.none() | st.just("168.1.5.60") | st.just("168.1.5.60-168.1.5.70")
TERMS = st.tuples(PERMISSIONS, SECONDS, st.none() | SECONDS, IPS, st.booleans())
WHICH = [{}, {"snapshot": "2024-01-01T00:00:00.0000000Z"}, {"version_id": "2024-01-01T00:00:00.1234567Z"}]


def ours_of(terms):
    permissions, end, begin, ip, https_only = terms
    begin = None if begin is None else begin * 1000
    return {
        "permissions": permissions, "expires": end * 1000, "starts": begin, "ip": ip,
        "https_only": https_only,
    }  # fmt: skip


def theirs_of(terms):
    permissions, end, begin, ip, https_only = terms
    begin = None if begin is None else datetime.fromtimestamp(begin, UTC)
    protocol = "https" if https_only else "https,http"
    return {
        "permission": permissions, "expiry": datetime.fromtimestamp(end, UTC), "start": begin, "ip": ip,
        "protocol": protocol,
    }  # fmt: skip


@settings(max_examples=300)
@given(AZURE_KEYS, NAMES, st.none() | PATHS, TERMS, st.sampled_from(WHICH))
def test_our_sas_is_the_one_of_the_official_sdk(key, container, blob, terms, which):
    which = which if blob is not None else {}
    ours = service_sas(key, container, blob, **ours_of(terms), **which)
    sdk = BlobSharedAccessSignature(key.account, key.key)
    sdk.x_ms_version = VERSION
    more = theirs_of(terms)
    if blob is None:
        theirs = sdk.generate_container(container, **more)
    else:
        theirs = sdk.generate_blob(container, blob, **more, **which)
    assert sorted(parse_qsl(ours.query)) == sorted(parse_qsl(theirs))


@settings(max_examples=300)
@given(AZURE_KEYS, TERMS)
def test_our_account_sas_is_the_one_of_the_official_sdk(key, terms):
    ours = account_sas(key, **ours_of(terms))
    sdk = SharedAccessSignature(key.account, key.key, x_ms_version=VERSION)
    theirs = sdk.generate_account("b", "co", **theirs_of(terms))
    assert sorted(parse_qsl(ours.query)) == sorted(parse_qsl(theirs))


def test_permissions_are_put_into_the_services_order_and_unknown_ones_are_refused():
    found = service_sas(KEY, "c", "b", permissions="wcr", expires=0).query
    assert dict(parse_qsl(found))["sp"] == "rcw"
    for wrong in ("", "rz"):
        with pytest.raises(InvalidArgument, match=f"permissions '{wrong}'"):
            service_sas(KEY, "c", "b", permissions=wrong, expires=0)
    with pytest.raises(InvalidArgument, match="give one of them"):
        service_sas(KEY, "c", "b", permissions="r", expires=0, snapshot="x", version_id="y")


def test_a_key_that_is_no_base64_is_refused_without_being_shown():
    with pytest.raises(InvalidArgument, match="no base64") as error:
        sign("GET", BLOB, {}, AzureKey(account="a", key="not base64!"), at=0)
    assert "not base64!" not in str(error.value)


@pytest.mark.parametrize(
    ("credential", "secret"),
    [
        (KEY, DEVELOPMENT),
        (AzureSas(token="sv=2023&sig=made-up-secret"), "made-up-secret"),
        (BearerToken(token="made-up-secret"), "made-up-secret"),
    ],
)
def test_credentials_hide_what_is_secret(credential, secret):
    for shown in (repr(credential), pretty_repr(credential), str(credential)):
        assert secret not in shown
        assert type(credential).__name__ in shown
