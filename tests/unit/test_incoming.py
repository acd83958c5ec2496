"""Replies of HTTP/1.1 in pieces of any size, and what is none."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meowcat.transport.incoming import MOST_HEAD, Incoming, NotHTTP

OK = b"HTTP/1.1 200 OK\r\n"
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
NAMES = st.sampled_from(["X-A", "x-a", "ETag", "Content-Type", "Content-Range"])
FIELDS = st.lists(st.tuples(NAMES, st.text('abcé \t!"=;,:/', max_size=9).map(str.strip)), max_size=5)


def chunked(body, size):
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    lines = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return lines + b"0\r\nX-Trailer: it is none of the fields\r\n\r\n"


def framed(framing, body, fields, size):
    """A reply on the wire."""
    told = {
        "length": f"Content-Length: {len(body)}\r\n",
        "chunked": "Transfer-Encoding: chunked\r\n",
        "close": "",
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    content = chunked(body, size) if framing == "chunked" else body
    return OK + (lines + told[framing] + "\r\n").encode("latin-1") + content


def pieces(data, cuts):
    at = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:stop] for start, stop in pairwise(at)]


def take(incoming, size=7):
    taken = b""
    while chunk := incoming.take(size):
        assert len(chunk) <= size
        taken += chunk
    return taken


@given(
    framing=st.sampled_from(["length", "chunked", "close"]),
    body=st.binary(max_size=60),
    fields=FIELDS,
    size=st.integers(1, 20),
    interim=st.lists(st.just(EARLY), max_size=2),
    cuts=st.lists(st.integers(0, 1 << 20), max_size=12),
)
def test_a_reply_is_the_same_however_it_is_cut(framing, body, fields, size, interim, cuts):
    incoming = Incoming("GET")
    taken = b""
    for piece in pieces(b"".join(interim) + framed(framing, body, fields, size), cuts):
        assert not incoming.ended or not piece
        incoming.feed(piece)
        taken += take(incoming)
    if framing == "close":
        assert not incoming.ended
        incoming.feed(b"")
    assert (incoming.status, incoming.version, incoming.ended) == (200, "HTTP/1.1", True)
    assert taken == body
    assert incoming.reusable == (framing != "close")
    assert [each for each in incoming.headers if each[0] in ("X-A", "x-a")] == [
        each for each in fields if each[0] in ("X-A", "x-a")
    ]
    assert not [name for name, _ in incoming.headers if name in ("Link", "X-Trailer")]


@given(
    framing=st.sampled_from(["length", "chunked"]),
    body=st.binary(min_size=1, max_size=40),
    size=st.integers(1, 20),
    data=st.data(),
)
def test_a_reply_that_breaks_off_is_never_a_whole_one(framing, body, size, data):
    whole = framed(framing, body, [], size)
    broken = whole[: data.draw(st.integers(0, len(whole) - 1))]
    incoming = Incoming("GET")
    if broken:
        incoming.feed(broken)
    with pytest.raises(ConnectionResetError):
        incoming.feed(b"")
    assert not incoming.ended


@pytest.mark.parametrize(
    "follows", [b"0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong", b"\0", b"x"]
)
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("apart", [True, False])
def test_what_follows_a_reply_is_none_of_it_and_ends_its_connection(follows, framing, apart):
    incoming = Incoming("GET")
    for piece in (
        [framed(framing, b"right", [], 5), follows] if apart else [framed(framing, b"right", [], 5) + follows]
    ):
        incoming.feed(piece)
    assert take(incoming) == b"right"
    assert (incoming.ended, incoming.reusable) == (True, False)


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", "200 OK"), ("GET", "304 Not Modified"), ("GET", "204 No Content")]
)
def test_some_replies_have_no_body_whatever_their_head_says(method, status):
    incoming = Incoming(method)
    incoming.feed(f"HTTP/1.1 {status}\r\nContent-Length: 500\r\n\r\n".encode())
    assert (incoming.ended, incoming.reusable, incoming.left) == (True, True, 0)
    assert dict(incoming.headers)["Content-Length"] == "500"


@pytest.mark.parametrize(
    "head",
    [
        OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        OK + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: gzip\r\n\r\n",
    ],
)
def test_a_connection_that_the_server_ends_or_may_see_otherwise_is_not_used_again(head):
    incoming = Incoming("GET")
    incoming.feed(head)
    if not incoming.ended:
        incoming.feed(b"")
    assert (incoming.ended, incoming.reusable) == (True, False)


@pytest.mark.parametrize(
    "sent",
    [b"Content-Length: 500\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"],
)
def test_a_connection_on_which_a_body_comes_where_none_is_due_is_not_used_again(sent):
    incoming = Incoming("HEAD")
    incoming.feed(OK + sent)
    assert (take(incoming), incoming.ended, incoming.reusable) == (b"", True, False)


@pytest.mark.parametrize(
    "interim", [b"HTTP/1.1 100 Continue\r\nConnection: close\r\n\r\n", b"HTTP/1.0 100 Continue\r\n\r\n"]
)
def test_an_interim_reply_does_not_end_the_connection(interim):
    incoming = Incoming("GET")
    incoming.feed(interim + OK + b"Content-Length: 2\r\n\r\nhi")
    assert (incoming.status, take(incoming), incoming.reusable) == (200, b"hi", True)


def test_sizes_of_chunks_may_be_filled_up_with_blanks():
    incoming = Incoming("GET")
    incoming.feed(OK + b"Transfer-Encoding: chunked\r\n\r\n5    \r\nhello\r\n0   \r\n\r\n")
    assert (take(incoming), incoming.ended, incoming.reusable) == (b"hello", True, True)


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_a_length_may_be_said_more_than_once(cut):
    """As long as it is the same."""
    said = b"Content-Length: 5\r\nX-A: a\r\ncontent-length:5 \r\nContent-Length: 5\r\nX-B: b\r\n\r\nhello"
    whole = OK + said
    incoming = Incoming("GET")
    for at in range(0, len(whole), cut):
        incoming.feed(whole[at : at + cut])
    assert (take(incoming), incoming.ended, incoming.reusable) == (b"hello", True, True)
    assert incoming.headers == [("Content-Length", "5"), ("X-A", "a"), ("X-B", "b")]


def test_an_old_server_may_keep_its_connection_and_leave_out_cr():
    incoming = Incoming("GET")
    incoming.feed(b"HTTP/1.0 200 OK\nConnection: keep-alive\nX-A: a\n b\nContent-Length: 2\n\nhi")
    assert (incoming.version, take(incoming), incoming.reusable) == ("HTTP/1.0", b"hi", True)
    assert dict(incoming.headers)["X-A"].split() == ["a", "b"]


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"<html>",
        OK + b"Content-Length: many\r\n\r\n",
        OK + b"Content-Length: 99999999999999999999999\r\n\r\n",
        OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        OK + b"Content-Length: 1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        OK + b"X A: b\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nz\r\n",
        b"HTTP/1.1 099 Odd\r\nContent-Length: 5\r\n\r\nwrong" + OK + b"Content-Length: 5\r\n\r\nright",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        OK + b"X-A: " + b"a" * MOST_HEAD,
        EARLY * (MOST_HEAD // len(EARLY) + 1),
    ],
)
def test_what_is_no_reply_of_http_is_said_to_be_none(answer):
    incoming = Incoming("GET")
    with pytest.raises(NotHTTP) as caught:
        incoming.feed(answer)
    assert str(caught.value) == ""  # it could quote the peer
    assert caught.value.__suppress_context__ or caught.value.__context__ is None  # likewise


def test_a_head_that_comes_in_pieces_has_a_limit_too():
    incoming, line = Incoming("GET"), b"X-A: %s\r\n" % (b"a" * 993)
    incoming.feed(OK)
    for _ in range((MOST_HEAD - len(OK)) // len(line)):
        incoming.feed(line)
    with pytest.raises(NotHTTP):
        incoming.feed(line)


@pytest.mark.parametrize("coding", ["Chunked", "gzip, chunked", "gzip,chunked", "gzip, CHUNKED "])
def test_chunks_are_known_however_they_are_told_of(coding):
    incoming = Incoming("GET")
    incoming.feed(OK + f"Transfer-Encoding: {coding}\r\n\r\n5\r\nfirst\r\n".encode())
    assert take(incoming) == b"first"
    with pytest.raises(ConnectionResetError):
        incoming.feed(b"")  # the last chunk has not come
    incoming.feed(b"0\r\n\r\n")
    assert incoming.ended


def test_a_reply_to_head_may_tell_of_chunks_and_has_none():
    incoming = Incoming("HEAD")
    incoming.feed(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    assert (incoming.ended, incoming.reusable, incoming.left) == (True, True, 0)
    incoming.feed(b"5\r\nwrong")
    assert (take(incoming), incoming.ended, incoming.reusable) == (b"", True, False)


@pytest.mark.parametrize("follows", [b"z", b"5z", b"\r\n", b"z\r\n5\r\nwrong\r\n"])
def test_what_follows_a_reply_to_head_ends_its_connection(follows):
    incoming = Incoming("HEAD")
    incoming.feed(OK + b"Transfer-Encoding: chunked\r\n\r\n" + follows)
    assert (take(incoming), incoming.ended, incoming.reusable) == (b"", True, False)


@pytest.mark.parametrize("framing", ["Content-Length: 9", "Transfer-Encoding: chunked"])
def test_what_an_interim_reply_says_of_a_body_is_nothing_of_the_reply(framing):
    incoming = Incoming("GET")
    incoming.feed(f"HTTP/1.1 103 Early Hints\r\n{framing}\r\n\r\n".encode() + OK + b"\r\nbody")
    assert (incoming.left, take(incoming), incoming.ended) == (None, b"body", False)
    incoming.feed(b"")
    assert incoming.ended


def test_bytes_that_were_read_past_it_are_counted():
    incoming = Incoming("GET")
    incoming.feed(OK + b"Content-Length: 5\r\n\r\nab")
    assert (incoming.holds, incoming.left) == (True, 3)
    assert take(incoming) == b"ab"
    incoming.count(2)
    assert (incoming.left, incoming.ended) == (1, False)
    with pytest.raises(ConnectionResetError):
        incoming.count(0)
    incoming.count(1)
    assert (incoming.ended, incoming.reusable) == (True, True)


def test_what_comes_after_bytes_that_were_counted_is_taken_to_the_end_and_no_further():
    incoming = Incoming("GET")
    incoming.feed(OK + b"Content-Length: 5\r\n\r\nab")
    incoming.count(2)
    incoming.feed(b"efollows")
    assert take(incoming) == b"abe"
    assert (incoming.ended, incoming.left, incoming.reusable) == (True, 0, False)
