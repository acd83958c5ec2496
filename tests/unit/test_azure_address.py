"""Which blob is meant, where its requests go, and what settings are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meowcat.core.errors import InvalidArgument
from meowcat.core.transfers import ProtocolSpec
from meowcat.core.urls import check_url, identity
from meowcat.protocols.azure import AzureBlob, AzureDownload, AzureUpload
from meowcat.protocols.azure.address import address_of, resolve
from meowcat.protocols.azure.blocks import block_id, nonce_of, owner_of, parse


def resolved(url, **settings):
    return resolve(url, AzureBlob(**settings).spec())


@pytest.mark.parametrize(
    ("url", "settings", "expected"),
    [
        ("azure://c-1/b", {"account": "acct"}, "https://acct.blob.core.windows.net/c-1/b"),
        ("azure://$root/b", {"account": "acct"}, "https://acct.blob.core.windows.net/$root/b"),
        ("AZURE://c-1/ä", {"endpoint": "https://H/"}, "https://h/c-1/%C3%A4"),
        ("azure://c-1/a?b#c%20d e", {"endpoint": "https://h"}, "https://h/c-1/a%3Fb%23c%2520d%20e"),
        ("azure://c-1/b", {"endpoint": "http://127.0.0.1:1/acct"}, "http://127.0.0.1:1/acct/c-1/b"),
        ("azure://c-1/b", {"endpoint": "https://h", "account": "acct"}, "https://h/c-1/b"),
    ],
)
def test_where_the_requests_for_a_blob_go(url, settings, expected):
    assert resolved(url, **settings)[0] == expected


@pytest.mark.parametrize(
    ("url", "settings", "expected"),
    [
        (
            "https://acct.blob.core.windows.net/c-1/a/b",
            {},
            ("https://acct.blob.core.windows.net", "c-1", "a/b"),
        ),
        ("https://acct.blob.core.windows.net/c-1/b", {"account": "acct"}, (..., "c-1", "b")),
        ("https://files.example/c-1/a%2Fb%20c", {}, ("https://files.example", "c-1", "a/b c")),
        ("http://127.0.0.1:10000/acct/c-1/b", {}, ("http://127.0.0.1:10000/acct", "c-1", "b")),
        ("http://localhost:1/acct/c-1/b", {}, ("http://localhost:1/acct", "c-1", "b")),
        ("http://h:1/acct/c-1/b", {"endpoint": "http://h:1/acct"}, ("http://h:1/acct", "c-1", "b")),
    ],
)
def test_a_blobs_url_is_taken_apart(url, settings, expected):
    found, spec = resolved(url, **settings)
    address = address_of(spec)
    told = (address.endpoint, address.container, address.blob)
    assert [each for each in zip(told, expected, strict=True) if each[1] not in (..., each[0])] == []
    assert resolve(found, spec) == (found, spec)


@pytest.mark.parametrize(
    ("url", "settings", "says"),
    [
        ("azure://c-1/b", {}, "does not say whose container"),
        ("azure://c-1", {"account": "acct"}, "key of 0 bytes"),
        ("azure://C_1/b", {"account": "acct"}, "container 'C_1'"),
        ("azure://a--b/b", {"account": "acct"}, "container 'a--b'"),
        ("azure://ab/b", {"account": "acct"}, "container 'ab'"),
        ("azure://c-1/a/../b", {"account": "acct"}, "'.' or '..' between slashes"),
        ("azure://c-1/a.", {"account": "acct"}, "drops a '.' or '/' at the end"),
        ("azure://c-1/a/", {"account": "acct"}, "drops a '.' or '/' at the end"),
        ("azure://c-1/a\\b", {"account": "acct"}, "makes a slash of a backslash"),
        ("azure://c-1/" + "ä" * 1025, {"account": "acct"}, "1025 characters"),
        ("https://h/c-1/b?sv=1&sig=secret", {}, "a SAS is a credential"),
        ("https://other/c-1/b", {"account": "acct"}, "expected one of the endpoint"),
        ("ftp://h/c-1/b", {}, "http"),
        ("azure://c-1/b", {"endpoint": "h"}, "endpoint 'h'"),
    ],
)
def test_what_is_no_blob_is_refused(url, settings, says):
    with pytest.raises(InvalidArgument, match="(?s)" + says.replace("(", r"\(")) as error:
        resolved(url, **settings)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"overwrite": "always"}, "overwrite 'always': expected one of never, replace"),
        ({"checksum": "sha1"}, "checksum 'sha1'"),
        ({"account": "My_Account"}, "account 'My_Account'"),
        ({"tier": "a\nb"}, "tier"),
        ({"metadata": {"a-b": "1"}}, "names of variables"),
        ({"metadata": {"1a": "1"}}, "names of variables"),
        ({"metadata": {"MeowcatTask": "1"}}, "taken by meowcat's own mark"),
        ({"metadata": {"a": "ä"}}, "metadata 'a'"),
        ({"snapshot": "x", "version_id": "y"}, "give one of them"),
    ],
)
def test_settings_that_can_not_be_worked_with_are_refused(settings, says):
    with pytest.raises(InvalidArgument, match=says):
        AzureBlob(**settings).spec()


@pytest.mark.parametrize("field", ["snapshot", "version_id"])
def test_what_is_for_downloads_is_refused_for_an_upload(field):
    spec = AzureBlob(account="acct", **{field: "2024"}).spec()
    with pytest.raises(InvalidArgument, match=f"{field}: an upload makes a new blob"):
        AzureUpload.resolve("azure://c-1/b", spec)
    AzureDownload.resolve("azure://c-1/b", spec)


def test_needs_are_the_credentials_name():
    assert AzureUpload.needs(AzureBlob(credential="prod").spec()) == ("credential:prod",)
    assert AzureDownload.needs(AzureBlob(credential=None).spec()) == ()


def test_fields_and_url_that_contradict_each_other_are_refused():
    _, spec = resolved("azure://c-1/b", account="acct")
    with pytest.raises(InvalidArgument, match="its fields say 'azure://c-1/b'"):
        resolve("https://acct.blob.core.windows.net/c-1/other", spec)
    assert isinstance(spec, ProtocolSpec)


NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\\"), min_size=1, max_size=30
).filter(lambda name: not name.endswith(("/", ".")) and not {".", ".."} & set(name.split("/")))


@given(NAMES)
def test_every_name_has_a_url_of_its_own_and_comes_back_from_it(name):
    url, spec = resolved(f"azure://c-1/{name}", account="acct")
    check_url(url)
    assert identity(url)
    assert address_of(spec).blob == name
    again, found = resolve(url, AzureBlob(account="acct").spec())
    assert (again, address_of(found)) == (url, address_of(spec))


# Ids of blocks

HEX = st.binary(min_size=32, max_size=32).map(bytes.hex)


@given(st.text(max_size=26), st.text(max_size=40), st.integers(0, 49_999), HEX, st.integers(1, 4000 << 20))
def test_the_id_of_a_block_tells_all_about_it_and_all_have_one_length(task, mark, index, digest, size):
    nonce = nonce_of(task, mark)
    made = block_id(nonce, index, digest)
    assert len(made) == 64
    found = parse(made, size)
    assert (found.nonce, found.index, found.digest, found.size, found.id) == (
        nonce,
        index,
        digest,
        size,
        made,
    )
    assert nonce.startswith(owner_of(task))


@given(st.text(max_size=80))
def test_ids_of_others_are_not_taken_for_ours(text):
    found = parse(text, 1)
    assert found is None or len(text) == 64
