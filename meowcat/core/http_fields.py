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


Fields = dict[str, tuple[str, ...]]
"""The same, of which many are asked for: by name in lower case, the values of all lines of that name."""


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


_NUMBER = "([0-9]{1,99})"
"""Of any value that fits, with a great many zeros before it: `int` takes quadratic time."""
_RANGE = re.compile(rf"bytes +(?:{_NUMBER}-{_NUMBER}/(?:{_NUMBER}|\*)|\*/{_NUMBER})", re.IGNORECASE)
_STRONG_TAG = re.compile(r'"[\x21\x23-\x7e\x80-\U0010ffff]+"')
_BYTE_SEQUENCE = re.compile(r"([a-z*][a-z0-9_.*-]*)[ \t]*=[ \t]*:([A-Za-z0-9+/=]*):")
_INSTANCE_DIGEST = re.compile(r"([A-Za-z0-9-]+)=([A-Za-z0-9+/=]+)")
_STRONG_AGE_MS = 60_000
_FEW_DIGITS = len(str(MAX_SIZE))
_DIGEST_NAMES = {"sha-256": "sha256", "sha-512": "sha512", "sha": "sha1", "md5": "md5", "crc32c": "crc32c"}
"""Keys of the IANA registries "Hash Algorithms for HTTP Digest Fields" and "HTTP Digest Algorithm Values"."""


def fields_of(headers: Headers) -> Fields:
    """The fields by name; their values in order, and as they came."""
    fields: Fields = {name.lower(): (value,) for name, value in headers}
    return fields if len(fields) == len(headers) else _repeated(headers)


def _repeated(headers: Headers) -> Fields:
    """Where some names stand there several times."""
    fields: Fields = {}
    for name, value in headers:
        fields[name.lower()] = (*fields.get(name.lower(), ()), value)
    return fields


def first(fields: Fields, name: str) -> str | None:
    """The value of the first line called `name`; None where it is absent."""
    found = fields.get(name)
    return None if found is None else found[0].strip(" \t")


def agreed(fields: Fields, name: str) -> str | None:
    """The value of a field that can stand only once; None where it is absent, or where lines differ.

    A validator that a reply gives twice with different values validates nothing.
    """
    found = fields.get(name)
    if found is None or (len(found) > 1 and _differ(found)):
        return None
    return found[0].strip(" \t") or None


def _differ(values: Iterable[str]) -> bool:
    return len({value.strip(" \t") for value in values}) > 1


def members(fields: Fields, name: str) -> list[str]:
    """The members of a comma-separated list, from all lines."""
    return [member.strip(" \t") for value in fields.get(name, ()) for member in value.split(",")]


def tokens(fields: Fields, name: str) -> list[str]:
    """The members of a comma-separated list of tokens, in lower case, from all lines."""
    return [member.lower() for member in members(fields, name) if member]


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


def content_length(fields: Fields) -> int | None:
    """The body's length in bytes; None where it is not said.

    A list of equal values is one value (RFC 9110 8.6); with Transfer-Encoding it is not looked at, since the
    coding's own framing rules (RFC 9112 6.3).

    Raises:
        FieldError: no number, or two different ones.
    """
    found = fields.get("content-length")
    if found is None or "transfer-encoding" in fields:
        return None
    if len(found) == 1 and (length := number(found[0].strip(" \t"))) is not None:
        return length
    lengths = {number(member) for member in members(fields, "content-length")}
    if len(lengths) > 1 or None in lengths:
        raise FieldError(f"content-length {', '.join(found)[:60]!r}: expected one number from 0 to 2^63-1")
    return lengths.pop()


def content_range(fields: Fields) -> ContentRange | Unsatisfied | None:
    """The one Content-Range (RFC 9110 14.4); None where it is absent.

    Raises:
        RangeFieldError: another unit than bytes, a broken or contradicting form, several of them.
    """
    found = fields.get("content-range")
    if found is None:
        return None
    text = found[0].strip(" \t")
    match = _RANGE.fullmatch(text)
    if match is None or (len(found) > 1 and _differ(found)):
        said = ", ".join(found)[:80]
        raise RangeFieldError(
            f"content-range {said!r}: expected one 'bytes FIRST-LAST/TOTAL' or 'bytes */TOTAL', with numbers "
            "up to 2^63-1"
        )
    begin, last, complete, unsatisfied = match.groups()
    if unsatisfied is None:
        start, stop, total = int(begin), int(last) + 1, None if complete is None else int(complete)
        if start < stop <= (stop if total is None else total) <= MAX_SIZE:
            return ContentRange(start, stop, total)
    elif int(unsatisfied) <= MAX_SIZE:
        return Unsatisfied(int(unsatisfied))
    raise RangeFieldError(
        f"content-range {text[:80]!r}: expected a range inside its own total, with numbers up to 2^63-1"
    )


def content_codings(fields: Fields) -> list[str]:
    """The content codings in the order they were applied, without `identity` (RFC 9110 8.4)."""
    return [coding for coding in tokens(fields, "content-encoding") if coding != "identity"]


def strong_etag(value: str | None) -> bool:
    """Whether `value` is a strong entity tag (RFC 9110 8.8.3): quoted, no `W/`.

    An empty one is not taken as strong: servers that send it send it for everything.
    """
    return value is not None and _STRONG_TAG.fullmatch(value) is not None


def strong_last_modified(last_modified: str | None, date: str | None) -> bool:
    """Whether Last-Modified is strong enough to tell two versions apart (RFC 9110 8.8.2.2).

    The reply's Date must be later by enough that the content can't have changed twice within Last-Modified's
    one second. RFC 9110 asks for a second by the same clock, or for a difference that makes skewed clocks
    unlikely; since nobody can tell whose clocks they are, here it is the 60 seconds of RFC 7232 2.2.2.
    """
    modified, sent = http_date(last_modified), http_date(date)
    return modified is not None and sent is not None and sent - modified >= _STRONG_AGE_MS


def dictionary_digests(fields: Fields, name: str) -> dict[str, Checksum]:
    """The digests of Repr-Digest or Content-Digest (RFC 9530 2, 3), by algorithm.

    Members that can't be read, or whose algorithm is unknown, are left out: a digest is an offer.
    """
    found = (_BYTE_SEQUENCE.match(member) for member in members(fields, name))
    return _by_algorithm((match[1], match[2]) for match in found if match)


def instance_digests(fields: Fields) -> dict[str, Checksum]:
    """The digests of Digest (RFC 3230 4.3.2), by algorithm. It speaks of the whole, also on a 206."""
    found = (_INSTANCE_DIGEST.fullmatch(member) for member in members(fields, "digest"))
    return _by_algorithm((match[1].lower(), match[2]) for match in found if match)


def body_md5(fields: Fields) -> dict[str, Checksum]:
    """Content-MD5 (RFC 1864): of the body that it stands on, where that is the whole."""
    return _by_algorithm(("md5", value.strip(" \t")) for value in fields.get("content-md5", ()))


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
