"""What may be fetched into memory, what a reply means, and when to ask again."""

import pytest

from meowcat.core.errors import BodyTooLarge, Code, InvalidArgument
from meowcat.core.fetch_rules import MOST_BYTES, SmallGet, check_small_get, judge_small, retry_after
from meowcat.core.values import Fault, FaultKind

URL = "https://host.example/list.json"
ASKED = SmallGet(URL, max_bytes=1000)


def judge(status, *headers, asked=ASKED):
    return judge_small(asked, status, headers, 0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"url": "ftp://host.example/x"}, "expected http or https"),
        ({"url": ""}, "expected http or https"),
        ({"url": "https://me:made-up@host.example/x"}, "give an Authorization header"),
        ({"max_bytes": 0}, "from 1 to 67,108,864; what is larger is a download"),
        ({"max_bytes": MOST_BYTES + 1}, "from 1 to 67,108,864; what is larger is a download"),
        ({"max_bytes": 1.5}, "expected a whole number"),
        ({"max_bytes": True}, "expected a whole number"),
        ({"max_redirects": -1}, "from 0 to 10"),
        ({"max_redirects": 11}, "from 0 to 10"),
        ({"headers": {"X-A": "one\r\nX-B: two"}}, "line break"),
        ({"headers": {"X A": "one"}}, "expected a name"),
    ],
)
def test_what_is_out_of_bounds_is_refused_with_the_bounds(wrong, said):
    with pytest.raises(InvalidArgument, match=said) as refused:
        check_small_get(SmallGet(**({"url": URL} | wrong)))
    assert "made-up" not in str(refused.value)


@pytest.mark.parametrize("bounds", [{"max_bytes": 1}, {"max_bytes": MOST_BYTES}, {"max_redirects": 0}])
def test_the_bounds_themselves_are_allowed(bounds):
    check_small_get(SmallGet(URL, **bounds))


@pytest.mark.parametrize("status", [200, 203, 204, 206])
def test_every_success_is_an_answer(status):
    assert judge(status) is None


@pytest.mark.parametrize("status", [100, 300, 304, 400, 404, 500])
def test_nothing_else_is(status):
    fault = judge(status)
    assert (fault.kind, fault.status) == (FaultKind.STATUS, status)


@pytest.mark.parametrize("condition", ["If-None-Match", "if-modified-since"])
def test_not_modified_is_an_answer_to_those_who_asked_whether_it_was(condition):
    asked = SmallGet(URL, headers={condition: "made up"})
    assert judge(304, ("Content-Length", "99999999999"), asked=asked) is None


def test_a_body_of_the_allowed_size_is_read_and_one_byte_more_is_not():
    assert judge(200, ("Content-Length", "1000")) is None
    with pytest.raises(BodyTooLarge, match=r"1,001 bytes; expected at most max_bytes=1,000") as refused:
        judge(200, ("content-length", "1001"))
    assert refused.value.code is Code.BINARY_TOO_LARGE


def test_a_length_that_is_none_is_a_broken_reply():
    assert judge(200, ("Content-Length", "1"), ("Content-Length", "2")).kind is FaultKind.REPLY


def test_coded_bytes_are_refused():
    assert "'gzip'" in judge(200, ("Content-Encoding", "gzip")).detail
    assert judge(200, ("Content-Encoding", "identity")) is None


def test_identity_is_asked_for_whatever_the_caller_says():
    caller = {"ACCEPT-ENCODING": "gzip", "accept": "application/json", "X-A": "b", "Content-Length": "9"}
    asked = SmallGet(URL, headers=caller)
    assert asked.own_headers == {"Accept-Encoding": "identity"}
    assert asked.caller_headers == {"accept": "application/json", "X-A": "b"}
    assert ASKED.own_headers["Accept"] == "*/*"


def fault(kind=FaultKind.STATUS, **fields):
    return Fault(kind=kind, detail="", **fields)


@pytest.mark.parametrize(
    "one",
    [
        fault(status=503),
        fault(status=429),
        fault(FaultKind.TIMEOUT),
        fault(FaultKind.DISCONNECTED),
        fault(FaultKind.UNREACHABLE),
    ],
)
def test_what_may_pass_is_tried_again_twice(one):
    assert [retry_after(one, failures) for failures in (1, 2, 3)] == [300, 800, None]


@pytest.mark.parametrize("one", [fault(status=404), fault(FaultKind.TLS), fault(FaultKind.REDIRECT)])
def test_what_will_not_pass_is_not(one):
    assert retry_after(one, 1) is None


def test_a_server_that_asks_for_a_while_gets_it_and_one_that_asks_for_long_ends_it():
    assert retry_after(fault(status=503, retry_after=30_000), 1) == 30_000
    assert retry_after(fault(status=503, retry_after=100), 1) == 300
    assert retry_after(fault(status=503, retry_after=30_001), 1) is None
