import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from meowcat.core.errors import InvalidArgument
from meowcat.core.http_fields import fields_of, first
from meowcat.core.http_rules import (
    Asked,
    Changed,
    Partial,
    Rangeless,
    Whole,
    Wrong,
    condition_headers,
    content_digests,
    file_name,
    generation_of,
    judge,
    range_header,
    same_generation,
    strong_etag,
    strong_last_modified,
)
from meowcat.core.values import Checksum, Generation

numbers = st.one_of(st.integers(-2, 30).map(str), st.sampled_from(["*", "", "x", "9" * 30, "00", "1_0"]))
ranges = st.one_of(
    st.tuples(numbers, numbers, numbers).map(lambda n: f"bytes {n[0]}-{n[1]}/{n[2]}"),
    numbers.map(lambda n: f"bytes */{n}"),
    st.text(max_size=20),
)
fields = st.one_of(
    st.tuples(st.just("Content-Range"), ranges),
    st.tuples(st.just("content-length"), numbers),
    st.tuples(st.just("ETag"), st.sampled_from(['"a"', '"b"', 'W/"a"', '""', "a", ""])),
    st.tuples(st.just("Content-Encoding"), st.sampled_from(["gzip", "identity", ""])),
    st.tuples(st.just("Transfer-Encoding"), st.just("chunked")),
    st.tuples(st.just("Repr-Digest"), st.text(max_size=20)),
    st.tuples(st.just("Content-Type"), st.sampled_from(["multipart/byteranges", "text/plain"])),
    st.tuples(st.sampled_from(["Date", "Last-Modified", "Retry-After"]), st.text(max_size=10)),
)
pins = st.one_of(
    st.none(),
    st.builds(
        lambda size, etag: Generation(size=size, ranges=True, etag=etag, strong=strong_etag(etag)),
        st.one_of(st.none(), st.integers(0, 20)),
        st.sampled_from(['"a"', 'W/"a"', None]),
    ),
)
requests = st.builds(
    Asked,
    start=st.integers(0, 20),
    stop=st.one_of(st.none(), st.integers(21, 40)),
    pinned=pins,
    total=st.one_of(st.none(), st.integers(0, 20)),
    keep_encoding=st.booleans(),
    method=st.sampled_from(["GET", "HEAD"]),
)


@given(requests, st.sampled_from([200, 206, 412, 416, 404, 503]), st.lists(fields, max_size=6))
@settings(max_examples=600)
def test_bytes_never_have_a_place_that_the_reply_does_not_give_them(asked, status, headers):
    verdict = judge(asked, status, headers)
    if isinstance(verdict, Partial):
        said = {value.strip(" \t") for name, value in headers if name == "Content-Range"}
        total = "*" if verdict.generation.size is None else verdict.generation.size
        (only,) = said
        first, last, whole = only.removeprefix("bytes ").replace("/", "-").split("-")
        assert (int(first), int(last) + 1) == (verdict.start, verdict.stop)
        assert whole.lstrip("0") == str(total).lstrip("0")
        assert verdict.start == asked.start
        assert asked.stop is None or verdict.stop <= asked.stop
        assert status == 206
    if isinstance(verdict, Whole):
        assert status == 200
    if isinstance(verdict, Partial | Whole) and asked.pinned is not None and asked.pinned.strong:
        assert same_generation(asked.pinned, verdict.generation)
    if status in (404, 503):
        assert isinstance(verdict, Wrong)


@given(requests, st.lists(fields, max_size=6))
def test_a_416_never_leads_to_the_same_request_again(asked, headers):
    verdict = judge(asked, 416, headers)
    if isinstance(verdict, Rangeless):
        assert asked.stop is not None, "the next one has no range"
        assert not isinstance(judge(replace(asked, stop=None), 416, headers), Rangeless)
    elif not isinstance(verdict, Changed | Wrong):
        assert verdict.generation.size == 0


@pytest.mark.parametrize(
    ("value", "strong"),
    [('"a"', True), ('"é"', True)] + [(value, False) for value in ('W/"a"', "a", '"a', '""', '"a"b"', None)],
)
def test_a_strong_tag_is_quoted_and_not_weak(value, strong):
    assert strong_etag(value) == strong


def test_a_date_is_strong_a_minute_later():
    old = "Mon, 23 Nov 2026 09:59:00 GMT"
    assert strong_last_modified(old, "Mon, 23 Nov 2026 10:00:00 GMT")
    assert not strong_last_modified(old, "Mon, 23 Nov 2026 09:59:59 GMT")
    assert not strong_last_modified(old, None)
    assert not strong_last_modified(None, old)


MD5 = (Checksum("md5", "0"),)


def make(**known):
    return Generation(**{"size": 10, "ranges": True, **known})


@pytest.mark.parametrize(
    ("pinned", "seen", "same"),
    [
        (make(etag='"a"'), make(etag='"a"'), True),
        (make(etag='"a"'), make(etag='"a"', size=None), True),
        (make(etag='"a"'), make(etag='"b"'), False),
        (make(etag='"a"'), make(etag='"a"', size=11), False),
        (make(etag='W/"a"'), make(etag='W/"a"'), False),
        (make(), make(), False),
        (make(last_modified="x", strong=True), make(last_modified="x"), True),
        (make(last_modified="x"), make(last_modified="x"), False),
        (make(last_modified="x", strong=True), make(), False),
        (make(etag='"a"', digests=MD5), make(etag='"a"', digests=(Checksum("md5", "1"),)), False),
        (make(etag='"a"', digests=MD5), make(etag='"a"', digests=(Checksum("sha1", "1"),)), True),
    ],
)  # fmt: skip
def test_only_a_strong_validator_proves_a_generation(pinned, seen, same):
    assert same_generation(pinned, seen) == same


def test_a_condition_is_sent_where_the_validator_can_hold_it():
    assert condition_headers(make(etag='"a"', last_modified="x", strong=True)) == {"If-Match": '"a"'}
    assert condition_headers(make(etag='W/"a"', last_modified="x", strong=True)) == {
        "If-Unmodified-Since": "x"
    }
    assert condition_headers(make(etag='W/"a"')) == {}
    assert condition_headers(make(last_modified="x")) == {}


def test_a_range_is_half_open_here_and_closed_on_the_wire():
    assert range_header(0, None) == "bytes=0-"
    assert range_header(0, 1) == "bytes=0-0"
    for start, stop in [(5, 5), (5, 4), (-1, 4)]:
        with pytest.raises(InvalidArgument, match="at least one byte"):
            range_header(start, stop)


def test_digests_of_a_body_are_of_the_whole_where_it_is_that():
    headers = fields_of(
        [
            ("Content-MD5", "XrY7u+Ae7tCTyyK7j1rNww=="),
            ("Content-Digest", "sha-256=:uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=:"),
        ]
    )
    kinds = [digest.algorithm for digest in content_digests(headers)]
    assert kinds == ["md5", "sha256"]
    assert generation_of(206, headers).digests == ()
    assert [digest.algorithm for digest in generation_of(200, headers).digests] == kinds


def test_an_md5_that_may_be_of_the_whole_is_not_one_of_a_part():
    headers = fields_of([("Content-MD5", "XrY7u+Ae7tCTyyK7j1rNww==")])
    assert content_digests(headers, part=True) == ()
    assert [digest.algorithm for digest in content_digests(headers, part=False)] == ["md5"]
    assert content_digests(fields_of([("ETag", '"x"')])) == ()


def test_the_later_of_two_digests_of_one_kind_counts():
    one, two = ("XrY7u+Ae7tCTyyK7j1rNww==", "eEkRR0A8qLgeHnVzmCqmXg==")
    both = generation_of(206, fields_of([("Repr-Digest", f"md5=:{one}:, md5=:{two}:")]))
    assert len(both.digests) == 1
    assert both == generation_of(206, fields_of([("Repr-Digest", f"md5=:{two}:")]))


@pytest.mark.parametrize(
    ("disposition", "url", "name"),
    [
        ("attachment; filename=a.bin", "https://h/b", "a.bin"),
        ('attachment; filename="a b.bin"', "https://h/b", "a b.bin"),
        (r'attachment; filename="a\"b.bin"', "https://h/b", "a_b.bin"),
        ("attachment; filename=\"x\"; filename*=UTF-8''%e2%82%ac.txt", "https://h/b", "€.txt"),
        ("attachment; filename*=iso-8859-1'en'%A3.txt", "https://h/b", "£.txt"),
        ("attachment; filename*=UTF-8''%ff; filename=x", "https://h/b", "x"),
        ("attachment; filename*=koi8-r''a; filename=x", "https://h/b", "x"),
        ("attachment; filename*=bad; filename=x", "https://h/b", "x"),
        ('attachment; filename="Ã©.txt"', "https://h/b", "é.txt"),
        ('attachment; filename="é.txt"', "https://h/b", "é.txt"),
        ('attachment; filename="日本"', "https://h/b", "日本"),
        ("attachment", "https://h/dir/b.iso?x=1#y", "b.iso"),
        (None, "https://h/a%20b", "a b"),
        (None, "https://h/", "download"),
        (None, "https://[", "download"),
        ('attachment; filename="../../etc/passwd"', "https://h/b", "passwd"),
        (r'attachment; filename="..\\..\\boot.ini"', "https://h/b", "boot.ini"),
        ('attachment; filename=".."', "https://h/b", "b"),
        (None, "https://h/..%2F..%2F.bashrc", "bashrc"),
        (None, "https://h/x%2F", "download"),
        (None, "https://h/a%00b%0A%E2%80%AEgpj.exe", "abgpj.exe"),
        (None, "https://h/nul.txt", "_nul.txt"),
        (None, "https://h/COM1", "_COM1"),
        (None, "https://h/console", "console"),
        (None, "https://h/c:evil.", "c_evil"),
        (None, "https://h/%20%20", "download"),
    ],
)
def test_a_file_name_is_one_harmless_segment(disposition, url, name):
    assert file_name(disposition, url) == name


def test_a_long_name_keeps_its_suffix():
    name = file_name(None, "https://h/" + "é" * 300 + ".tar")
    assert len(name.encode()) <= 200
    assert name.endswith("é.tar")
    assert len(file_name(None, "https://h/" + "a" * 300).encode()) <= 200
    assert len(file_name(None, "https://h/a." + "b" * 300).encode()) <= 200


@given(st.text(max_size=300), st.text(alphabet="./\\:%20CONnul€\x00\n ~", max_size=300))
def test_no_proposal_leaves_the_folder(disposition, path):
    name = file_name(f'attachment; filename="{disposition}"', f"https://h/{path}")
    for result in (name, file_name(None, f"https://h/{path}")):
        assert 0 < len(result.encode()) <= 200
        assert not set(result) & set('/\\:\0\n\r<>"|?*')
        assert not result.startswith((".", " "))
        assert not result.endswith((".", " "))
        assert result.split(".")[0].strip().upper() not in {"CON", "NUL", "AUX", "PRN", "COM1"}


def test_fields_that_stand_several_times_are_found_in_their_order_whatever_their_case():
    found = fields_of([("Via", "a "), ("ETag", '"x"'), ("via", "\tb"), ("VIA", "c")])
    assert found == {"via": ("a ", "\tb", "c"), "etag": ('"x"',)}
    assert (first(found, "via"), first(found, "etag"), first(found, "date")) == ("a", '"x"', None)
