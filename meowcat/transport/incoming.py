"""A reply of HTTP/1.1 as it comes in (RFC 9112), without I/O: its head, and where its body ends."""

from collections import deque

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from meowcat.transport.contract import Headers

__all__ = ["Incoming", "NotHTTP"]

MOST_HEAD = 256 << 10
"""Bytes of a head, interim replies included. What has more is taken for none."""

_INTERIM = 100
_FINAL = 200
"""The first status of a reply that is not followed by another one (RFC 9110 15.2)."""

_BODILESS = frozenset({204, 304})

_FRAMING_LENGTHS = frozenset({len("content-length"), len("transfer-encoding")})
"""Of the names of those fields that say where a body ends."""


class NotHTTP(Exception):  # it says what came
    """What comes is no reply of HTTP/1.1. It has no text: that could quote the peer."""


class Incoming:
    """One reply to a request of `method`. Interim replies before it are passed over.

    Bytes of a body of known length may be read to where they belong as well, and counted here.
    """

    def __init__(self, method: str) -> None:
        self._parser = self._new_parser()
        self._bodiless = method == "HEAD"
        self._head = b""
        """What has come of it, interim replies included."""
        self._fields: list[tuple[str, str]] = []
        self._length: int | None = None
        self._chunked = False
        self._body: deque[bytes | memoryview] = deque()
        self.status = 0
        self.version = "HTTP/1.1"
        self.begun = False
        """Whether its head has come."""
        self.left: int | None = None
        """Bytes of the body that are still to come; None where it is not known beforehand."""
        self.ended = False
        """Whether its body has come, to the end that the server meant."""
        self.reusable = False
        """Whether another request may follow on its connection once it has ended."""

    @property
    def headers(self) -> Headers:
        return self._fields

    def feed(self, data: bytes) -> None:
        """Take what came; b"" once the server has ended the connection.

        Raises:
            NotHTTP: it is something else.
            ConnectionResetError: it has ended too early.
        """
        if not data:
            if not self.begun or self._chunked or self.left:
                raise ConnectionResetError
            self.ended = True
            return
        if self.begun and self.left is not None:
            if len(data) > self.left:
                self.reusable = False  # nobody has asked for what follows
            self._add(data[: self.left])
            return
        if not self.begun:
            self._head += data
        try:
            self._parse(data)
        except (HttpParserError, HttpParserUpgrade):
            if not self.ended:
                raise NotHTTP from None
            self.reusable = False  # it is what follows, which nobody has asked for
        if self.begun:
            self._head = b""
        elif len(self._head) > MOST_HEAD:
            raise NotHTTP

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            mended = None if self.begun else _with_each_length_once(self._head)
            if mended is None:
                raise
            self._parser = self._new_parser()
            self._length, self._chunked = None, False
            self._parser.feed_data(mended)

    def _new_parser(self) -> HttpResponseParser:
        parser = HttpResponseParser(self)
        # Old servers send lines without CR, fields that go on in the next line (RFC 9112 2.2 and 5.2), blanks
        # after the size of a chunk, and interim replies in HTTP/1.0 or with `Connection: close`. Of a length
        # beside chunks it is the chunks that count (6.3).
        parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
            lenient_keep_alive=True,
            lenient_chunked_length=True,
        )
        return parser

    def count(self, number: int) -> None:
        """So many of the `left` bytes were read past this; none where the server has ended the connection.

        Raises:
            ConnectionResetError: it has ended too early.
        """
        assert self.left is not None  # noqa: S101  # or else they have to be fed
        if not number:
            raise ConnectionResetError
        self.left -= number
        self.ended = not self.left

    def take(self, size: int) -> bytes | memoryview:
        """Up to `size` bytes of the body that were fed; b"" where there are none."""
        if not self._body:
            return b""
        chunk = self._body.popleft()
        if len(chunk) > size:
            chunk = memoryview(chunk)
            self._body.appendleft(chunk[size:])
            return chunk[:size]
        return chunk

    @property
    def holds(self) -> bool:
        """Whether bytes of the body were fed and not taken yet."""
        return bool(self._body)

    def _add(self, data: bytes) -> None:
        self._body.append(data)
        if self.left is not None:
            self.left -= len(data)
            self.ended = not self.left

    # Of the parser

    def on_message_begin(self) -> None:
        if self.begun:
            self.reusable = False  # nobody has asked for another one
        else:
            self._fields = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.begun:
            return  # a trailer
        self._fields.append((name.decode("latin-1"), value.decode("latin-1")))
        if len(name) in _FRAMING_LENGTHS:
            match name.lower():
                case b"content-length":
                    self._length = int(value)
                case b"transfer-encoding":
                    self._chunked = value.rpartition(b",")[2].strip().lower() == b"chunked"

    def on_headers_complete(self) -> None:
        if self.begun:
            return
        parser = self._parser
        self.status = status = parser.get_status_code()
        if status < _INTERIM:
            raise NotHTTP
        if status < _FINAL:
            self._length, self._chunked = None, False
            return
        self.begun = True
        self.version = f"HTTP/{parser.get_http_version()}"
        self.reusable = parser.should_keep_alive()
        if self._bodiless or status in _BODILESS:
            self._length, self._chunked = 0, False
        if not self._chunked:
            self.left = self._length
        elif self._length is not None:
            self.reusable = False  # others may see its end elsewhere
        self.ended = self.left == 0

    def on_body(self, data: bytes) -> None:
        if self.ended:
            self.reusable = False  # the body of a reply that has none
        else:
            self._add(data)

    def on_message_complete(self) -> None:
        if self.begun:
            self.ended = True


def _with_each_length_once(head: bytes) -> bytes | None:
    """Without fields that say the same length once more, which the parser refuses (RFC 9110 8.6); None
    where there are none."""
    fields, blank, rest = head.partition(b"\r\n\r\n")
    lines = fields.split(b"\r\n")
    kept: list[bytes] = []
    lengths: set[bytes] = set()
    for line in lines:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            if value.strip() in lengths:
                continue
            lengths.add(value.strip())
        kept.append(line)
    return b"\r\n".join(kept) + blank + rest if len(kept) < len(lines) else None
