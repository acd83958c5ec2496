"""Header fields of a reply, read strictly: a value or an error, never a guess.

Names are compared without case, values are stripped of blanks, and numbers are plain ASCII digits up to
2^63-1: Python's own `int` would also take signs, underscores and other scripts' digits.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Sequence

from msgspec import Struct

from meowcat.core.pieces import MAX_SIZE
from meowcat.core.retry import http_date
from meowcat.core.transfers import DIGEST_LENGTHS
from meowcat.core.values import Checksum

Headers = Sequence[tuple[str, str]]


class Fields(list[tuple[str, str]]):
    """Header fields of one reply, of which many are asked for: found without a look at each."""

    def __init__(self, headers: Headers) -> None:
        super().__init__(headers)
        self.found: dict[str, list[str]] = {field.lower(): [value.strip(" \t")] for field, value in headers}
        if len(self.found) < len(headers):  # some names stand there several times
            self.found = {}
            for field, value in headers:
                self.found.setdefault(field.lower(), []).append(value.strip(" \t"))


class FieldError(ValueError):
    """A field that breaks its grammar, or contradicts its repetition."""


class RangeFieldError(FieldError):
    """A Content-Range that gives the body no place."""


class ContentRange(Struct, frozen=True, gc=False):
    """A satisfied Content-Range (RFC 9110 14.4): bytes `start` up to `stop` of `total`; None for `*`."""

    start: int
    stop: int
    total: int | None


class Unsatisfied(Struct, frozen=True):
    """The form of a 416, `bytes */total`: the range lies outside the content."""

    total: int


_RANGE = re.compile(r"bytes +(?:([0-9]+)-([0-9]+)/([0-9]+|\*)|\*/([0-9]+))", re.IGNORECASE)
_ENTITY_TAG = re.compile(r'(W/)?"[\x21\x23-\x7e\x80-\U0010ffff]*"')
_BYTE_SEQUENCE = re.compile(r"([a-z*][a-z0-9_.*-]*)[ \t]*=[ \t]*:([A-Za-z0-9+/=]*):")
_INSTANCE_DIGEST = re.compile(r"([A-Za-z0-9-]+)=([A-Za-z0-9+/=]+)")
_STRONG_AGE_MS = 60_000
_FEW_DIGITS = len(str(MAX_SIZE))
_DIGEST_NAMES = {"sha-256": "sha256", "sha-512": "sha512", "sha": "sha1", "md5": "md5", "crc32c": "crc32c"}
"""Keys of the IANA registries "Hash Algorithms for HTTP Digest Fields" and "HTTP Digest Algorithm Values"."""


def values(headers: Headers, name: str) -> list[str]:
    """The values of all lines called `name`, in order."""
    if isinstance(headers, Fields):
        return headers.found.get(name, [])
    return [value.strip(" \t") for field, value in headers if field.lower() == name]


def agreed(headers: Headers, name: str) -> str | None:
    """The value of a field that can stand only once; None where it is absent, or where lines differ.

    A validator that a reply gives twice with different values validates nothing.
    """
    found = values(headers, name)
    if len(found) > 1:
        found = list(set(found))
    return (found[0] or None) if len(found) == 1 else None


def tokens(headers: Headers, name: str) -> list[str]:
    """The members of a comma-separated list of tokens, in lower case, from all lines."""
    found = values(headers, name)
    if not found:
        return []
    members = (member.strip(" \t").lower() for value in found for member in value.split(","))
    return [member for member in members if member]


def number(text: str) -> int | None:
    """A decimal of plain digits from 0 to 2^63-1; None for anything else."""
    if not (text.isascii() and text.isdigit()):
        return None
    if len(text) < _FEW_DIGITS:
        return int(text)
    digits = text.lstrip("0") or "0"
    if len(digits) > len(str(MAX_SIZE)):  # int() takes quadratic time
        return None
    return int(digits) if int(digits) <= MAX_SIZE else None


def content_length(headers: Headers) -> int | None:
    """The body's length in bytes; None where it is not said.

    A list of equal values is one value (RFC 9110 8.6); with Transfer-Encoding it is not looked at, since the
    coding's own framing rules (RFC 9112 6.3).

    Raises:
        FieldError: no number, or two different ones.
    """
    if values(headers, "transfer-encoding"):
        return None
    said_once = values(headers, "content-length")
    if len(said_once) == 1 and (length := number(said_once[0])) is not None:
        return length
    lengths = {number(member) for member in _members(headers, "content-length")}
    if len(lengths) > 1 or None in lengths:
        said = ", ".join(values(headers, "content-length"))[:60]
        raise FieldError(f"content-length {said!r}: expected one number from 0 to 2^63-1")
    return lengths.pop() if lengths else None


def content_range(headers: Headers) -> ContentRange | Unsatisfied | None:
    """The one Content-Range (RFC 9110 14.4); None where it is absent.

    Raises:
        RangeFieldError: another unit than bytes, a broken or contradicting form, several of them.
    """
    found = set(values(headers, "content-range"))
    if not found:
        return None
    text = found.pop()
    match = _RANGE.fullmatch(text)
    if match is None or found:
        said = ", ".join([text, *found])[:80]
        raise RangeFieldError(
            f"content-range {said!r}: expected one 'bytes FIRST-LAST/TOTAL' or 'bytes */TOTAL'"
        )
    first, last, complete, unsatisfied = match.groups()
    if unsatisfied:
        return Unsatisfied(_inside(unsatisfied, text))
    start, stop = _inside(first, text), _inside(last, text) + 1
    total = None if complete == "*" else _inside(complete, text)
    if start >= stop or stop > (MAX_SIZE if total is None else total):
        raise RangeFieldError(f"content-range {text!r}: the range does not lie inside its own total")
    return ContentRange(start, stop, total)


def _inside(digits: str, text: str) -> int:
    found = number(digits)
    if found is None:
        raise RangeFieldError(f"content-range {text[:80]!r}: expected numbers up to 2^63-1")
    return found


def content_codings(headers: Headers) -> list[str]:
    """The content codings in the order they were applied, without `identity` (RFC 9110 8.4)."""
    return [coding for coding in tokens(headers, "content-encoding") if coding != "identity"]


def strong_etag(value: str | None) -> bool:
    """Whether `value` is a strong entity tag (RFC 9110 8.8.3): quoted, no `W/`.

    An empty one is not taken as strong: servers that send it send it for everything.
    """
    return (
        value is not None and value != '""' and _ENTITY_TAG.fullmatch(value) is not None and value[0] == '"'
    )


def strong_last_modified(last_modified: str | None, date: str | None) -> bool:
    """Whether Last-Modified is strong enough to tell two versions apart (RFC 9110 8.8.2.2).

    The reply's Date must be later by enough that the content can't have changed twice within Last-Modified's
    one second. RFC 9110 asks for a second by the same clock, or for a difference that makes skewed clocks
    unlikely; since nobody can tell whose clocks they are, here it is the 60 seconds of RFC 7232 2.2.2.
    """
    modified, sent = http_date(last_modified), http_date(date)
    return modified is not None and sent is not None and sent - modified >= _STRONG_AGE_MS


def dictionary_digests(headers: Headers, name: str) -> dict[str, Checksum]:
    """The digests of Repr-Digest or Content-Digest (RFC 9530 2, 3), by algorithm.

    Members that can't be read, or whose algorithm is unknown, are left out: a digest is an offer.
    """
    if not values(headers, name):
        return {}
    found = (_BYTE_SEQUENCE.match(member) for member in _members(headers, name))
    return _by_algorithm((match[1], match[2]) for match in found if match)


def instance_digests(headers: Headers) -> dict[str, Checksum]:
    """The digests of Digest (RFC 3230 4.3.2), by algorithm. It speaks of the whole, also on a 206."""
    found = (_INSTANCE_DIGEST.fullmatch(member) for member in _members(headers, "digest"))
    return _by_algorithm((match[1].lower(), match[2]) for match in found if match)


def body_md5(headers: Headers) -> dict[str, Checksum]:
    """Content-MD5 (RFC 1864): of the body that it stands on, where that is the whole."""
    found = values(headers, "content-md5")
    return _by_algorithm(("md5", value) for value in found) if found else {}


def _members(headers: Headers, name: str) -> list[str]:
    return [member.strip(" \t") for value in values(headers, name) for member in value.split(",")]


def _by_algorithm(pairs: Iterable[tuple[str, str]]) -> dict[str, Checksum]:
    digests = (_checksum(key, text) for key, text in pairs)
    return {digest.algorithm: digest for digest in digests if digest}


def _checksum(key: str, text: str) -> Checksum | None:
    algorithm = _DIGEST_NAMES.get(key)
    try:
        digits = base64.b64decode(text, validate=True).hex()
    except binascii.Error:
        return None
    if algorithm is None or len(digits) != DIGEST_LENGTHS[algorithm]:
        return None
    return Checksum(algorithm, digits)
