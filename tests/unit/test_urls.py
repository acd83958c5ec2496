import re
from urllib.parse import quote, quote_plus

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.pretty import pretty_repr

import meowcat.core.urls as urls_module
from meowcat.core.errors import InvalidArgument
from meowcat.core.seal import Secrets, missing, seal, unseal
from meowcat.core.transfers import Download, ProtocolSpec, Upload
from meowcat.core.urls import check_url, harmless_header, host_of, identity, redact, scrub, seal_url

SIGNED = (
    "https://b.s3.amazonaws.com/k?versionId=7&X-Amz-Date={0}&X-Amz-Signature={0}&X-Amz-Credential={0}%2Fx"
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SIGNED.format("aaa"), SIGNED.format("bbb")),
        (SIGNED.format("aaa"), "https://b.s3.amazonaws.com/k?versionId=7"),
        (
            "https://a.blob.core.windows.net/c/b?sv=1&se=2&sr=b&sp=r&sig=x",
            "https://a.blob.core.windows.net/c/b",
        ),
        ("https://o.example/k?OSSAccessKeyId=a&Expires=1&Signature=b", "https://o.example/k?Expires=2"),
        ("HTTPS://User:Pass@H.Example:443", "https://h.example/#part"),
        ("http://h:80/%7ea%2fb", "http://h/~a%2Fb"),
        ("https://h/p?v=1&id=2", "https://h/p?id=2&v=1"),
        ("https://h/p?access_token=1", "https://h/p?my-secret=2"),
        ("https://[::1]:443/", "https://[::1]"),
    ],
)
def test_urls_of_one_object_have_one_identity(one, other):
    assert identity(one) == identity(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://h/p", "http://h/p"),
        ("https://h/p", "https://h:8443/p"),
        ("https://h/p", "https://h/P"),
        ("https://h/a%2Fb", "https://h/a/b"),
        ("https://h/p?versionId=1", "https://h/p?versionId=2"),
        ("https://h/p?item=1", "https://h/p?item=2"),
        ("https://h/p?1234", "https://h/p?5678"),
        ("https://h/p?x-oss-process=a", "https://h/p?x-oss-process=b"),
    ],
)
def test_urls_of_two_objects_have_two_identities(one, other):
    assert identity(one) != identity(other)


def test_an_identity_can_be_read():
    assert identity("HTTPS://H.Example/a?id=b%20c&sig=x") == "https://h.example/a?id=b%20c"


@pytest.mark.parametrize(
    ("url", "stored", "names"),
    [
        ("https://h/p?versionId=3", "https://h/p?versionId=3", ()),
        ("https://h/p#access_token=1", "https://h/p", ()),
        ("https://h/p?raw&download=", "https://h/p?raw&download=", ()),
        ("https://u:p@h:1/p", "https://***@h:1/p", ("userinfo",)),
        (
            "https://h/p?sig=a&id=1;token=b",
            "https://h/p?sig=***&id=1;token=***",
            ("query:sig", "query:token"),
        ),
        ("https://h/p?sig=a&sig=b", "https://h/p?sig=***&sig=***", ("query:sig",)),
        (
            "https://h/p?response-content-disposition=attachment%3B%20filename%3D%22a%22",
            "https://h/p?response-content-disposition=attachment%3B%20filename%3D%22a%22",
            (),
        ),
    ],
)
def test_a_stored_url_has_harmless_values_alone(url, stored, names):
    assert seal_url(url) == (stored, names)


@pytest.mark.parametrize(
    "query",
    [
        "{0}", "{0}=", "{0}==", "item={0}", "sig={0}", "X-Amz-Security-Token={0}", "a=1;token={0}",
        "v=1;t={0}",
        "file=https://h/x?sig={0}", "file=https%3A%2F%2Fh%2Fx%3Fsig%3D{0}", "path=a%253Fsig%253D{0}",
        "id=a@{0}", "path=/x%26token={0}", "a&{0}&b=", "%73ig={0}",
    ],
)  # fmt: skip
@given(secret=st.text(min_size=5, max_size=60).map("zQ9-".__add__))
def test_no_secret_is_left_in_any_encoded_form(query, secret):
    for written in (quote(secret, safe=""), quote_plus(secret)):
        url = f"https://user:{written}@host.example/path?{query.format(written)}"
        sealed, secrets = seal(Download(url, headers={"X-Api-Key": secret, "accept": "*/*"}))
        shown = [
            msgspec.json.encode(sealed).decode(),
            repr(sealed),
            repr(secrets),
            pretty_repr(secrets),
            identity(url),
            redact(url),
            scrub(f"cannot connect to {url}"),
        ]
        for text in shown:
            for form in (secret, written, quote(secret), quote(written, safe="")):
                assert form not in text
        assert unseal(sealed, secrets) == (url, {"X-Api-Key": secret, "accept": "*/*"})


urls = st.builds(
    "https://{}h/p?{}".format,
    st.sampled_from(["", "u@", "u:p@"]),
    st.lists(
        st.sampled_from([
                *("v=1", "sig=a", "item=1", "item=", "sig=", "***", "blob", "x=***", "=", "=a", "token"),
                *("é=1", "a%3Db=1"),
            ]),
        max_size=5,
    ).map("&".join),
)  # fmt: skip


@given(urls)
def test_sealing_keeps_the_identity_and_is_done_once(url):
    stored, names = seal_url(url)
    assert identity(stored) == identity(url)
    assert seal_url(stored) == (stored, names)
    sealed, secrets = seal(Download(url, headers={"cookie": "x"}))
    again, nothing = seal(sealed)
    assert again == sealed
    assert nothing == Secrets()
    assert sealed.needs == (*(["url"] if names else []), "header:cookie")
    assert missing(sealed.needs, secrets) == ()


_NEARLY_PLAIN = st.builds(
    "{}://{}{}{}{}".format,
    st.sampled_from(["http", "https", "HTTP", "ftp"]),
    st.sampled_from(
        ["h", "h.example", "a-b.example", "127.0.0.1", "H.example", "h.", "-h", "u@h", "[::1]", "", "a..b"]
    ),
    st.sampled_from(["", ":", ":1", ":80", ":443", ":0", ":08", ":59999", ":60000", ":65536", ":x"]),
    st.sampled_from(
        ["", "/", "/a", "//a", "/a%2Fb", "/a b", "/a\\b", "/a\n", "/é", "/a;b", "/a@b:c", "/(a)~"]
    ),
    st.sampled_from(["", "?", "?item=1", "#part", "?sig=1"]),
)


@given(_NEARLY_PLAIN)
def test_a_plain_url_is_what_the_parser_makes_of_it(url):
    """What is recognised without it gives the same answers, and nothing is taken that it refuses."""

    def answers():
        found = []
        for ask in (seal_url, host_of):
            try:
                found.append(ask(url))
            except InvalidArgument as refused:
                found.append(str(refused))
        return found

    urls_module._host_key.cache_clear()
    quick = answers()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(urls_module, "_PLAIN", re.compile("(?!)"))
        urls_module._host_key.cache_clear()
        assert answers() == quick


def test_a_request_without_secrets_needs_nothing_after_a_restart():
    request = Upload("a.bin", "https://h/p?v=1", ProtocolSpec("x"), headers={"Content-Type": "a/b"})
    sealed, secrets = seal(request)
    assert sealed == request
    assert sealed.needs == ()
    assert secrets == Secrets()
    assert unseal(sealed, None) == (request.url, {"Content-Type": "a/b"})


def test_what_is_missing_is_named():
    sealed, secrets = seal(Download("https://h/p?sig=1", headers={"Authorization": "x", "COOKIE": "y"}))
    assert missing(sealed.needs, None) == ("url", "header:authorization", "header:cookie")
    assert missing(sealed.needs, Secrets(headers={"cookie": "z"})) == ("url", "header:authorization")
    with pytest.raises(InvalidArgument, match="url, header:authorization"):
        unseal(sealed, None)
    assert repr(secrets) == "Secrets(url='***', headers=['Authorization', 'COOKIE'])"
    assert repr(Secrets()) == "Secrets(url='', headers=[])"


def test_a_supply_replaces_what_it_names():
    old = Secrets("https://h/p?sig=1", {"Cookie": "old", "X-Api-Key": "k"})
    fresh = Secrets("https://h/p?sig=2", {"cookie": "new"})
    assert old.updated(fresh, url=True) == Secrets(fresh.url, {"X-Api-Key": "k", "cookie": "new"})
    assert old.updated(fresh, url=False).url == old.url
    sealed, _ = seal(Download("https://h/p?sig=1", headers={"Accept": "a", "Cookie": "old"}))
    assert unseal(sealed, fresh) == (fresh.url, {"Accept": "a", "cookie": "new"})


@pytest.mark.parametrize(
    "name",
    [
        "Accept",
        "user-agent",
        "Range",
        "Content-Type",
        "X-Request-Id",
        "cache-control",
        "X-OSS-Forbid-Overwrite",
    ],
)
def test_harmless_headers_may_be_stored(name):
    assert harmless_header(name)


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "cookie",
        "Proxy-Authorization",
        "x-amz-security-token",
        "X-Api-Key",
        "Referer",
        "X-New",
        "",
    ],
)
def test_every_other_header_may_not(name):
    assert not harmless_header(name)


def test_the_key_of_a_host_has_its_port():
    assert host_of("HTTPS://u:p@H.example/p") == "https://h.example:443"
    assert host_of("http://[::1]:8080") == "http://[::1]:8080"


@given(
    st.sampled_from(["http", "https"]),
    st.text(st.sampled_from("abz019.-"), min_size=1, max_size=8),
    st.one_of(st.none(), st.integers(1, 65535)),
    st.sampled_from(["", "/", "/p?q=1", "?q", "#f"]),
)
def test_a_usual_url_has_the_host_that_it_has_when_it_is_written_unusually(scheme, host, port, rest):
    usual = f"{scheme}://{host}" + (f":{port}" if port else "") + rest
    unusual = f"{scheme.upper()}://u@{host.upper()}" + (f":{port:06d}" if port else "") + rest
    assert host_of(usual) == host_of(unusual)


@pytest.mark.parametrize(
    "url", ["http://h/a b", "http://h/\\", "http://h:0/", "http://h:65536/", "http:///p"]
)
def test_a_url_that_begins_as_usual_is_looked_at_to_its_end(url):
    with pytest.raises(InvalidArgument):
        seal_url(url)


@given(_NEARLY_PLAIN)
def test_the_host_of_a_url_is_that_of_the_whole(url):
    try:
        parts = urls_module._split(url)
    except InvalidArgument:
        return  # and what stands behind its host may be the reason
    port = parts.port or urls_module._PORTS[parts.scheme]
    assert host_of(url) == f"{parts.scheme}://{urls_module._host(parts)}:{port}"


@pytest.mark.parametrize(
    "url",
    [
        "", "h/p", "/p", "ftp://h/p", "file:///etc/passwd", "https://", "https:///p", "https://:443/p",
        "https://h:0/", "https://h:99999/", "https://h:x/", "https://[::1/", "https://h/a b", "https://h/a\nb",
        "https://h\\@evil/", "https://h/\x7f", "https://user:pa/SECRET@h/", "https://u:SECRET@h\u2100/",
        "https://h/?sig=SECRET x", " https://h/", "data:SECRET",
    ],
)  # fmt: skip
def test_what_is_no_url_is_refused_without_its_secrets(url):
    with pytest.raises(InvalidArgument, match="URL") as error:
        check_url(url)
    assert "SECRET" not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None


def test_a_good_url_is_accepted():
    check_url("https://h.example:8443/a/b?c=d")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@h/p?sig=a&v=1&item=2&blob#f", "https://***@h/p?sig=***&v=1&item=***&***"),
        ("https://@h/p", "https://***@h/p"),
        ("/relative?token=a", "/relative?token=***"),
        ("https://u:a/b@h/", "https://***"),
        ("https:secret", "https://***"),
        ("//u:a/b", "***"),
    ],
)
def test_people_see_a_url_without_secrets(url, shown):
    assert redact(url) == shown


@pytest.mark.parametrize("url", ["http://h", "https://host:8443/a%20b//c;d=1/", "http://127.0.0.1:9/f/1.bin"])
def test_a_plain_url_is_shown_as_it_is(url):
    assert redact(url) == url == seal_url(url)[0]


@given(st.text(max_size=50))
def test_redacting_never_raises(text):
    redact(text)
    redact(f"https://{text}")
    scrub(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET https://u:p@h/p?sig=a failed", "GET https://***@h/p?sig=*** failed"),
        ("GET /p?sig=a&v=1 HTTP/1.1", "GET /p?sig=***&v=1 HTTP/1.1"),
        ("url='https://h/p?sig=ab'cd'", "url='https://h/p?sig=***"),
        ("Authorization: Bearer x y\nnext", "Authorization: ***\nnext"),
        ("{'cookie': 'a=b'}", "{'cookie': ***"),
        ("what? nothing", "what? nothing"),
        ("no route to host", "no route to host"),
    ],
)
def test_a_message_of_a_library_is_scrubbed(text, shown):
    assert scrub(text) == shown


def test_bytes_and_a_plan_of_an_upload_are_never_stored():
    upload = Upload(
        "name", "https://h/p", ProtocolSpec("form"), origin="bytes", data=b"c0ffee", plan={"a": 1}
    )
    sealed, _ = seal(upload)
    assert (sealed.data, sealed.plan, sealed.needs) == (None, None, ("data",))
    assert seal(sealed)[0] == sealed
