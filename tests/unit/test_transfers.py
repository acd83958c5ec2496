"""Requests as values, and the one way to write a checksum."""

from enum import IntEnum
from pathlib import Path
from typing import get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.pretty import pretty_repr

from meowcat.core.errors import InvalidArgument
from meowcat.core.machine import State
from meowcat.core.transfers import (
    DIGEST_LENGTHS,
    Download,
    ProtocolSpec,
    Request,
    Upload,
    changed_options,
    check,
    check_header,
    parse_checksum,
    same_content,
    whereabouts,
    with_named,
)
from meowcat.core.urls import scrub
from meowcat.core.values import Checksum


@pytest.mark.parametrize(("algorithm", "length"), DIGEST_LENGTHS.items())
def test_every_algorithm_is_read(algorithm, length):
    assert parse_checksum(f"{algorithm}:{'a1' * (length // 2)}") == Checksum(algorithm, "a1" * (length // 2))


def test_case_blanks_and_hyphens_do_not_matter():
    assert parse_checksum(" SHA-256 : " + "AB" * 32 + " ") == Checksum("sha256", "ab" * 32)


@pytest.mark.parametrize("text", ["", "md5", "00" * 16, "sha3:00", ":00"])
def test_an_unknown_algorithm_names_the_known_ones(text):
    with pytest.raises(InvalidArgument, match="expected 'algorithm:hex' with one of sha256, sha512"):
        parse_checksum(text)


@pytest.mark.parametrize("digits", ["", "00", "0" * 31, "0" * 33, "g" * 32, "0x" + "0" * 30])
def test_the_digits_must_be_those_that_the_algorithm_has(digits):
    with pytest.raises(InvalidArgument, match="md5 has 32 hexadecimal digits"):
        parse_checksum(f"md5:{digits}")


@pytest.mark.parametrize(
    ("request_", "direction"),
    [
        (Download("https://host.example/x", "/x", headers={"a": "b"}, retries=0), "download"),
        (Upload("/x", "https://host.example/x", ProtocolSpec("s3", 1, {"bucket": "b"})), "upload"),
    ],
)
def test_a_request_survives_json_and_knows_its_direction(request_, direction):
    encoded = msgspec.json.encode(request_)
    assert msgspec.json.decode(encoded, type=Request) == request_
    assert request_.direction == direction
    assert msgspec.json.decode(encoded)["kind"] == direction


DOWNLOAD = Download("https://host.example/x", "/x")
UPLOAD = Upload("/x", "https://host.example/x", ProtocolSpec("s3"))


@pytest.mark.parametrize("request_", [DOWNLOAD, UPLOAD])
def test_a_plain_request_is_within_its_bounds(request_):
    check(request_)


@pytest.mark.parametrize("request_", [DOWNLOAD, UPLOAD])
@pytest.mark.parametrize(
    ("field", "least", "most"),
    [
        ("connections", 1, 256),
        ("piece_size", 64 << 10, 512 << 20),
        ("limit_rate", 1, 1 << 50),
        ("retries", 0, 1_000_000),
    ],
)
def test_numbers_have_bounds_and_the_bounds_are_allowed(request_, field, least, most):
    for value in (least, most, None):
        check(replace(request_, **{field: value}))
    for value in (least - 1, most + 1, 1.5):
        with pytest.raises(
            InvalidArgument, match=rf"{field} {value}: expected a whole number from {least:,}"
        ):
            check(replace(request_, **{field: value}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": ""}, "url is empty"),
        ({"to": ""}, "to is empty"),
        ({"to": "/a\0b"}, r"to '/a\\x00b': has a NUL"),
        ({"checksum": "md5:0"}, "md5 has 32 hexadecimal digits"),
        ({"digest": "sha0"}, "digest 'sha0': expected one of sha256, .*none"),
        ({"overwrite": "maybe"}, "overwrite 'maybe': expected 'never' or 'replace'"),
        ({"probe": "options"}, "probe 'options': expected 'get' or 'head'"),
        ({"total_size": -1}, "total_size -1"),
        ({"headers": {"a b": "c"}}, "header 'a b': expected a name"),
        ({"headers": {"": "c"}}, "header '': expected a name"),
        *(
            (
                {"headers": {name: "bytes=0-9"}},
                f"header '{name}': expected none of those by which .* checksum=",
            )
            for name in ("Range", "if-match", "If-None-Match", "If-Range", "If-Modified-Since")
        ),
        ({"accept": "*/*\r\nInjected: secret"}, "header 'accept' has a line break"),
        *(
            ({"headers": {"x": f"secret{control}Injected: 1"}}, "header 'x' has .* control character")
            for control in ("\r\n", "\0", "\x01", "\x1b", "\x7f")
        ),
    ],
)
def test_what_no_download_can_be_is_refused_and_no_secret_is_shown(changes, said):
    with pytest.raises(InvalidArgument, match=said) as caught:
        check(replace(DOWNLOAD, **changes))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", ["Bearer secret\n", 5])
def test_why_a_header_is_refused_is_not_taken_for_its_value(value):
    with pytest.raises(InvalidArgument) as caught:
        check_header("Authorization", value)
    assert scrub(str(caught.value)) == str(caught.value)


def test_a_download_with_everything_given_is_within_its_bounds():
    check(
        replace(DOWNLOAD, checksum="md5:" + "0" * 32, digest="none", total_size=0, headers={"X-Token": "\té"})
    )


def test_a_request_shows_itself_without_its_secrets():
    request = Download(
        "https://user:pw1@host/x?X-Amz-Signature=cafe01",
        "y",
        headers={"Authorization": "hunter2"},
        priority=3,
    )
    shown = repr(request) + pretty_repr(request)
    assert "host/x" in shown
    assert "to='y'" in shown
    assert "priority=3" in shown
    assert "Authorization" in shown
    assert not any(secret in shown for secret in ("pw1", "cafe01", "hunter2"))
    assert "retries" not in shown
    assert repr(Download("https://host/x")) == "Download('https://host/x')"


def test_two_requests_for_one_content_may_differ_in_their_options():
    one = Download("https://host/x?X-Amz-Signature=a", "/y", retries=3)
    url = "https://host/x?X-Amz-Signature=b"
    other = Download(url, "/y", retries=5, overwrite="replace", headers={"A": "b"})
    assert same_content(one, other)
    assert changed_options(one, other) == ("overwrite", "retries")
    assert not same_content(one, Download("https://host/z", "/y"))
    assert not same_content(one, Download(one.url, "/z"))
    assert not same_content(one, Download(one.url, "/y", checksum="md5:" + "0" * 32))


@pytest.mark.parametrize("field", ["to", "client_file_sign", "key"])
def test_text_that_nothing_can_store_is_refused(field):
    with pytest.raises(InvalidArgument, match=field):
        check(Download("https://host/x", **({"to": "/y"} | {field: "a\ud800"})))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": ""}, "source is empty: expected the path of a file, or a name"),
        ({"source": "/a\0b"}, r"source '/a\\x00b': has a NUL"),
        ({"origin": "pipe"}, "origin 'pipe': expected 'file', 'named' or 'bytes'"),
        ({"verify_source": "never"}, "verify_source 'never': expected 'auto' or 'always'"),
        ({"prepare_retries": -1}, "prepare_retries -1: expected a whole number from 0 to"),
        ({"digest": "sha3"}, "digest 'sha3': expected one of"),
        ({"url": ""}, "url is empty"),
    ],
)
def test_what_no_upload_can_be_is_refused(changes, said):
    with pytest.raises(InvalidArgument, match=said):
        check(replace(UPLOAD, **changes))


def test_settings_of_a_protocol_become_what_is_stored_and_a_plan_that_is_not():
    class Mine:
        plan: object = None

        def spec(self):
            return ProtocolSpec("mine", 2, {"bucket": "b"})

    class Planned(Mine):
        plan = ("https://host.example/x?signature=c0ffee",)

    assert Upload("/x", "https://host.example/x", Mine()) == Upload(
        "/x", "https://host.example/x", ProtocolSpec("mine", 2, {"bucket": "b"})
    )
    planned = Upload("/x", "https://host.example/x", Planned(), data=b"c0ffee")
    assert planned.plan == Planned.plan
    assert "c0ffee" not in repr(planned)
    assert "plan=" in repr(planned)
    for neither in ("s3", None):
        with pytest.raises(
            InvalidArgument, match=r"expected settings such as FormUpload\(\), or a ProtocolSpec"
        ):
            Upload("/x", "https://host.example/x", neither)


def test_two_requests_for_one_object_may_differ_in_their_options():
    assert same_content(UPLOAD, replace(UPLOAD, retries=5, protocol=ProtocolSpec("s3", 2)))
    for changes in ({"source": "/y"}, {"origin": "named"}, {"protocol": ProtocolSpec("form")}):
        assert not same_content(UPLOAD, replace(UPLOAD, **changes))
    assert not same_content(UPLOAD, DOWNLOAD)


def test_what_is_supplied_takes_back_no_change_that_was_recorded_meanwhile():
    seen = Download("https://host/x", "/x", headers={"Accept-Language": "en"})
    now = replace(seen, url="https://mirror/x", limit_rate=1000, needs=("header:authorization",))
    assert with_named(now, replace(seen, priority=5), ["priority"]) == replace(now, priority=5)
    assert with_named(now, replace(seen, url="https://other/x"), ["url"]) == replace(
        seen, url="https://other/x", limit_rate=1000
    )
    assert with_named(now, seen, []) == replace(seen, limit_rate=1000)


@pytest.mark.parametrize("value", [[8], {}, "8", 1.0])
def test_a_number_that_is_none_is_named(value):
    with pytest.raises(InvalidArgument, match=r"connections .*: expected a whole number from"):
        check(Download("https://host/x", "/x", connections=value))
    check(Download("https://host/x", "/x", connections=8))


def test_a_text_that_is_not_ascii_is_fine_and_half_a_character_is_refused():
    check(Download("https://host/x", "/é猫😀"))
    with pytest.raises(InvalidArgument, match="client_file_sign: has half of a character"):
        check(Download("https://host/x", "/x", client_file_sign="\ud800"))


def test_where_a_content_is_and_what_opens_it_says_nothing_of_options():
    one = Download("https://host/x", "/x", headers={"A": "1"})
    assert whereabouts(one) == whereabouts(replace(one, priority=3, connections=2))
    for other in ({"url": "https://host/y"}, {"headers": {"A": "2"}}, {"needs": ("url:sig",)}):
        assert whereabouts(one) != whereabouts(replace(one, **other))


_ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.binary(max_size=3), st.text(max_size=3),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)  # fmt: skip


@given(data=st.data())
def test_whatever_is_accepted_can_be_read_again_once_it_is_recorded(data):
    whole = data.draw(st.sampled_from([DOWNLOAD, UPLOAD, replace(UPLOAD, origin="bytes")]))
    names = [name for name in whole.__struct_fields__ if name not in ("needs", "plan", "protocol")]
    name = data.draw(st.sampled_from(names))
    changed = replace(whole, **{name: data.draw(_ANYTHING)})
    try:
        check(changed)
    except InvalidArgument as refused:
        # Most values are refused, and say why: of headers, which one.
        assert name.removesuffix("s") in str(refused)  # noqa: PT017  # it need not be raised
        return
    assert msgspec.json.decode(msgspec.json.encode(changed), type=type(whole)) == changed


@given(value=_ANYTHING)
def test_a_field_of_a_protocol_that_is_accepted_can_be_read_again(value):
    changed = replace(UPLOAD, protocol=ProtocolSpec("own", 1, {"field": value}))
    try:
        check(changed)
    except InvalidArgument as refused:
        assert "'own', field 'field'" in str(refused)  # noqa: PT017  # as above
        return
    assert msgspec.json.decode(msgspec.json.encode(changed), type=Upload) == changed


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"headers": None}, "headers: expected a dict of names and texts, got None"),
        ({"headers": {"X-Count": 5}}, "header 'X-Count' has .*int.* as its value: expected a text"),
        ({"client_file_sign": 4711}, "client_file_sign 4711: expected a text, got .*int"),
        ({"key": ["a"]}, "key .*expected a text, got .*list"),
        ({"priority": None}, "priority None: expected a whole number"),
        ({"connections": True}, "connections True: expected a whole number"),
        ({"keep_encoding": 1}, "keep_encoding 1: expected True or False"),
        ({"remote_time": "yes"}, "remote_time 'yes': expected True or False"),
        ({"checksum": b"md5:0"}, "checksum .*expected a text"),
        ({"protocol": ProtocolSpec(7)}, "protocol .*expected a text as its tag"),
        ({"protocol": ProtocolSpec("own", 1, [])}, "protocol .*a dict of fields"),
        ({"protocol": ProtocolSpec("own", 1, {"a": 1.5})}, "'own', field 'a': expected a text, .*float"),
        ({"protocol": ProtocolSpec("own", 1, {7: "a"})}, "'own': expected fields whose names are texts"),
    ],
)
def test_a_value_of_another_kind_is_named(changes, said):
    with pytest.raises(InvalidArgument, match=said):
        check(replace(DOWNLOAD, **changes))


@pytest.mark.parametrize("whole", [DOWNLOAD, UPLOAD])
def test_every_text_is_looked_at(whole):
    names = [name for name, hint in get_type_hints(type(whole)).items() if hint in (str, str | None)]
    assert {"url", "key", "digest", "client_file_sign"} < set(names)
    for name in names:
        with pytest.raises(InvalidArgument, match=f"{name}.*: expected a text"):
            check(replace(whole, **{name: ["x"]}))
        with pytest.raises(InvalidArgument, match=f"{name}: has half of a character"):
            check(replace(whole, **{name: "x\ud800"}))


@pytest.mark.parametrize("value", [State.QUEUED, IntEnum("Number", "ONE").ONE])
def test_a_value_that_is_stored_as_one_of_the_usual_kind_is_fine(value):
    check(replace(DOWNLOAD, protocol=ProtocolSpec("own", 1, {"field": value})))


def test_a_checksum_is_a_text():
    with pytest.raises(InvalidArgument, match="checksum 7: expected a text, as in 'sha256:"):
        parse_checksum(7)


def test_a_target_may_be_a_path():
    check(Download("https://host/x", Path("/x")))


def test_only_an_upload_of_bytes_brings_its_content_along():
    check(replace(UPLOAD, origin="bytes", data=b"x"))
    with pytest.raises(InvalidArgument, match="data: is the content of an upload with origin='bytes'"):
        check(replace(UPLOAD, data=b"x"))
    with pytest.raises(InvalidArgument, match=r"data: expected bytes, got .*str"):
        check(replace(UPLOAD, origin="bytes", data="x"))
