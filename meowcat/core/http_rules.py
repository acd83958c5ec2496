"""What a reply to a download's request means: whether its body may be used, and where it belongs.

`judge` is a pure function of what was asked and of the reply's head. It believes nothing that it can't
check: bytes have a place only where a valid Content-Range, or a complete 200, gives them one, and bytes of
two generations are never called the same. Sections are of RFC 9110 unless said otherwise.
"""

import re
from typing import Final

from msgspec import Struct, structs

from meowcat.core.content_disposition import file_name
from meowcat.core.errors import InvalidArgument
from meowcat.core.http_fields import (
    ContentRange,
    FieldError,
    Fields,
    Headers,
    RangeFieldError,
    Unsatisfied,
    agreed,
    body_md5,
    content_codings,
    content_length,
    content_range,
    dictionary_digests,
    fields_of,
    first,
    instance_digests,
    strong_etag,
    strong_last_modified,
    tokens,
)
from meowcat.core.retry import parse_retry_after
from meowcat.core.values import Checksum, Fault, FaultKind, Generation

__all__ = [
    "DIGESTS",
    "Asked",
    "Changed",
    "Empty",
    "Partial",
    "Rangeless",
    "Verdict",
    "Whole",
    "Wrong",
    "condition_headers",
    "content_digests",
    "file_name",
    "generation_of",
    "judge",
    "range_header",
    "same_generation",
    "status_fault",
    "strong_etag",
    "strong_last_modified",
]

_OK: Final = 200
_PARTIAL: Final = 206
_PRECONDITION_FAILED: Final = 412
_RANGE_NOT_SATISFIABLE: Final = 416

_RANGE_REFUSED: Final = frozenset({400, 501})
"""What some servers, and what stands before them, answer to any Range, though they serve the whole."""

_MULTIPART: Final = re.compile(r"[ \t]*multipart/byteranges", re.IGNORECASE)
_CODINGS: Final = frozenset({"transfer-encoding", "content-encoding"})
DIGESTS: Final = frozenset({"repr-digest", "content-digest", "content-md5", "digest"})
"""Fields with digests. Most replies to a range have none of these and of those above."""


class Asked(Struct, frozen=True, gc=False):
    """What a request asked for."""

    start: int
    """The first byte wanted."""
    stop: int | None
    """Where the wanted bytes end, itself not wanted; None for the end of the content."""
    pinned: Generation | None
    """The generation whose bytes must not be mixed with another's; None before any is known."""
    total: int | None = None
    """The whole size in bytes, where the caller of the download knows it."""
    keep_encoding: bool = False
    """Take coded bytes as they are. No Range is sent then: ranges of coded bytes change with the coder."""
    method: str = "GET"
    stored: bool = False
    """The bytes are those that are stored, ranges are of them, and a coding says only what they are: so it is
    with objects."""


class Partial(Struct, frozen=True, gc=False, tag="partial"):
    """The body is bytes `start` up to `stop` of the content, and of the pinned generation."""

    generation: Generation
    start: int
    stop: int


class Whole(Struct, frozen=True, gc=False, tag="whole"):
    """The body is the whole content from byte 0; `length` is None where only its end will tell.

    Where something else was asked for, the server did not look at Range: the body may be used from 0, or
    left unread. It is never put at `Asked.start`.
    """

    generation: Generation
    length: int | None


class Empty(Struct, frozen=True, gc=False, tag="empty"):
    """The content has no bytes at all."""

    generation: Generation


class Rangeless(Struct, frozen=True, gc=False, tag="rangeless"):
    """Nothing of it comes as a range. Asked for as a whole it may be empty, or brought by a server that knows
    no ranges."""


class Changed(Struct, frozen=True, tag="changed"):
    """Not the pinned generation, or not provably so: what is stored must not be continued with it."""

    detail: str


class Wrong(Struct, frozen=True, tag="wrong"):
    """A reply that can't be used; `fault` says why."""

    fault: Fault


Verdict = Partial | Whole | Empty | Rangeless | Changed | Wrong


def judge(asked: Asked, status: int, headers: Headers | Fields, now_ms: int | None = None) -> Verdict:
    """What the reply to a GET or HEAD means. Redirects are followed, or refused, before this is called.

    Args:
        asked: the request.
        status: of the reply.
        headers: of the reply, repeated names repeated.
        now_ms: the wall clock, needed only for a Retry-After date in a reply that has no Date.

    """
    fields = headers if isinstance(headers, dict) else fields_of(headers)
    try:
        if status == _OK:
            return _judge_whole(asked, fields)
        if status == _PARTIAL and asked.method == "GET":  # 14.2: Range is defined for GET alone
            return _judge_partial(asked, fields)
        if status == _RANGE_NOT_SATISFIABLE and asked.method == "GET":
            return _judge_unsatisfied(asked, fields)
    except RangeFieldError as error:
        return _wrong(FaultKind.RANGE, status, f"{error}")
    except FieldError as error:
        return _wrong(FaultKind.REPLY, status, f"{error}")
    if status in _RANGE_REFUSED and _begins(asked) and not (asked.stored or asked.keep_encoding):
        return Rangeless()
    if status == _PRECONDITION_FAILED and asked.pinned is not None and condition_headers(asked.pinned):
        return Changed("the server says that the content is not the pinned one any more (412)")
    return Wrong(status_fault(status, fields, now_ms))


def _judge_whole(asked: Asked, fields: Fields) -> Verdict:
    """A 200: the whole content, whatever range was asked for (14.2 lets a server ignore Range)."""
    coded = _refuse_coding(asked, _OK, fields)
    if coded is not None:
        return coded
    generation = generation_of(_OK, fields, method=asked.method)
    placed = content_range(fields)
    if placed is not None and not _is_whole(placed, generation.size):
        # 14.4 gives Content-Range no meaning here, but servers that send a part with a 200 do exist.
        return _wrong(FaultKind.RANGE, _OK, "a 200 with the Content-Range of a part; expected 206 for a part")
    if asked.keep_encoding:
        generation = _without_ranges(generation)
    differs = _compare(asked, generation, _OK)
    if differs is not None:
        return differs
    if generation.size == 0:
        return Empty(generation)
    generation = _sized(asked, generation)
    return Whole(generation, generation.size)


def _sized(asked: Asked, generation: Generation) -> Generation:
    """With the size that the caller knows, where the server does not say it: a body that ends elsewhere is
    not taken for the content."""
    if generation.size is not None or asked.total is None:
        return generation
    return structs.replace(generation, size=asked.total)


def _is_whole(placed: ContentRange | Unsatisfied, size: int | None) -> bool:
    if isinstance(placed, Unsatisfied) or placed.start:
        return False
    return placed.stop == placed.total and size in (None, placed.stop)


def _judge_partial(asked: Asked, fields: Fields) -> Verdict:
    """A 206: one range, which must begin where it was asked for (15.3.7)."""
    if asked.keep_encoding:
        return _wrong(FaultKind.RANGE, _PARTIAL, "a part of a content that was asked for as a whole")
    if any(map(_MULTIPART.match, fields.get("content-type", ()))):
        # 15.3.7.2: only for a request of several ranges, which is never sent.
        return _wrong(
            FaultKind.RANGE, _PARTIAL, "multipart/byteranges for one range; expected that range alone"
        )
    coded = _refuse_coding(asked, _PARTIAL, fields)
    if coded is not None:
        return coded
    placed = content_range(fields)
    if not isinstance(placed, ContentRange):
        return _judge_unplaced(asked, placed, fields)
    return _judge_placed(asked, placed, fields)


def _judge_unplaced(asked: Asked, placed: Unsatisfied | None, fields: Fields) -> Verdict:
    """A 206 without a range. Some servers send `bytes */0` for an empty content, which has no ranges."""
    length = content_length(fields)
    if placed is None or placed.total or length or asked.start:
        return _wrong(FaultKind.RANGE, _PARTIAL, "a 206 without the Content-Range of a part (15.3.7.1)")
    generation = generation_of(_PARTIAL, fields, size=0)
    return _compare(asked, generation, _PARTIAL) or Empty(generation)


def _judge_placed(asked: Asked, placed: ContentRange, fields: Fields) -> Verdict:
    start, stop = placed.start, placed.stop
    if start != asked.start:
        detail = f"{_came(placed)}; expected a range that begins at {asked.start}"
        return _wrong(FaultKind.RANGE, _PARTIAL, detail)
    if asked.stop is not None and stop > asked.stop:  # less is allowed by 15.3.7, more is not
        detail = f"{_came(placed)}; expected nothing beyond {asked.stop - 1}"
        return _wrong(FaultKind.RANGE, _PARTIAL, detail)
    generation = _sized(asked, generation_of(_PARTIAL, fields, size=placed.total))
    differs = _compare(asked, generation, _PARTIAL)
    if differs is not None:
        return differs
    length = content_length(fields)
    if length is not None and length != stop - start:
        detail = f"{_came(placed)} announced with a Content-Length of {length}"
        return _wrong(FaultKind.LENGTH, _PARTIAL, detail)
    return Partial(generation, start, stop)


def _came(placed: ContentRange) -> str:
    return f"bytes {placed.start} to {placed.stop - 1}"


def _begins(asked: Asked) -> bool:
    """Whether a range from the first byte on was asked for, of a content of which nothing is known."""
    return asked.method == "GET" and asked.pinned is None and not asked.start and asked.stop is not None


def _judge_unsatisfied(asked: Asked, fields: Fields) -> Verdict:
    """A 416 (15.5.17). None of its verdicts leads to the same request again, so that no loop is possible."""
    placed = content_range(fields)
    if placed is None and _begins(asked):
        return Rangeless()
    if not isinstance(placed, Unsatisfied):
        return _wrong(
            FaultKind.RANGE,
            _RANGE_NOT_SATISFIABLE,
            f"the server has nothing from byte {asked.start} on and does not say how much it has",
        )
    generation = generation_of(_RANGE_NOT_SATISFIABLE, fields, size=placed.total)
    pinned = asked.pinned
    if pinned is not None and (_contradict(pinned, generation) or placed.total < asked.start):
        return Changed(f"the content has {placed.total} bytes now, and is not the pinned one any more")
    differs = _compare_total(asked, generation, _RANGE_NOT_SATISFIABLE)
    if differs is not None:
        return differs
    if placed.total == 0 and asked.start == 0:
        return Empty(generation)
    return _wrong(
        FaultKind.RANGE,
        _RANGE_NOT_SATISFIABLE,
        f"the server refuses bytes from {asked.start} on of a content of {placed.total} bytes",
    )


def status_fault(status: int, fields: Fields, now_ms: int | None) -> Fault:
    """A status that brings no content, with what it means and how long it asks to wait."""
    detail = f"the server answered {status}: {_MEANINGS.get(status, 'expected 200 or 206')}"
    return Fault(
        kind=FaultKind.STATUS,
        detail=detail,
        status=status,
        retry_after=parse_retry_after(first(fields, "retry-after"), first(fields, "date"), now_ms),
    )


_MEANINGS = {
    204: "no content; expected 200 or 206 with the content",
    304: "not modified, although nobody asked whether it was",
    401: "it wants credentials; give an Authorization header",
    403: "it forbids access; the credentials may be wrong, or a signed URL may have expired",
    404: "there is no such content; check the URL",
    407: "the proxy wants credentials",
    410: "the content is gone for good",
    429: "too many requests; they are held back and tried again",
    503: "it is not available now; tried again later",
}
"""What helps a person on, for the statuses that people meet."""


def _refuse_coding(asked: Asked, status: int, fields: Fields) -> Wrong | None:
    """8.4: a coding changes what the bytes are, and `Accept-Encoding: identity` was sent (12.5.3).

    No TE is sent either, so chunked alone may be used for the transfer (RFC 9112 6.1): of anything else each
    client makes something else, and some hand over the chunks' sizes as if they were content.
    """
    if fields.keys().isdisjoint(_CODINGS):
        return None
    transfer = tokens(fields, "transfer-encoding")
    if transfer and transfer != ["chunked"]:
        detail = f"transfer-encoding {', '.join(transfer)[:40]!r}: expected none, or chunked"
        return _wrong(FaultKind.REPLY, status, detail)
    codings = content_codings(fields)
    if not codings or asked.keep_encoding or asked.stored:
        return None
    detail = (
        f"content-encoding {', '.join(codings)[:40]!r}: expected none; keep_encoding (--keep-encoding) takes "
        "it as it is"
    )
    return _wrong(FaultKind.REPLY, status, detail)


def _compare(asked: Asked, seen: Generation, status: int) -> Changed | Wrong | None:
    """What speaks against using bytes of `seen`; None where nothing does."""
    if asked.pinned is not None:
        if _contradict(asked.pinned, seen):
            return Changed(
                f"the content changed: {_describe(asked.pinned)} was pinned, {_describe(seen)} came"
            )
        if asked.pinned.strong and not same_generation(asked.pinned, seen):
            return Changed(f"the reply does not prove that it is of the pinned {_describe(asked.pinned)}")
    return _compare_total(asked, seen, status)


def _compare_total(asked: Asked, seen: Generation, status: int) -> Wrong | None:
    if asked.total is None or seen.size is None or asked.total == seen.size:
        return None
    return _wrong(FaultKind.LENGTH, status, f"the content has {seen.size} bytes; expected {asked.total}")


def _contradict(one: Generation, other: Generation) -> bool:
    """Whether the two can't be the same content: by size, digests and validators."""
    if None not in (one.size, other.size) and one.size != other.size:
        return True
    known = {digest.algorithm: digest for digest in one.digests}
    if any(known.get(digest.algorithm, digest) != digest for digest in other.digests):
        return True
    if strong_etag(one.etag) and strong_etag(other.etag):
        return one.etag != other.etag  # 13.2.2: an entity tag is more accurate than a date
    etags = (one.etag, other.etag)
    if None not in etags and _opaque(one.etag) != _opaque(other.etag):
        return True
    dates = (one.last_modified, other.last_modified)
    return None not in dates and one.last_modified != other.last_modified


def _opaque(etag: str | None) -> str:
    """The tag for the weak comparison (8.8.3.2)."""
    return (etag or "").removeprefix("W/")


def same_generation(pinned: Generation, seen: Generation) -> bool:
    """Whether a strong validator proves that both are one generation, so that their bytes may be mixed.

    By the strong comparison of ETags (8.8.3.2) where `pinned` has a strong one, else by a Last-Modified that
    was strong when it was pinned. Sizes and digests must not contradict it.
    """
    if _contradict(pinned, seen):
        return False
    if strong_etag(pinned.etag):
        return pinned.etag == seen.etag
    return pinned.strong and pinned.last_modified is not None and pinned.last_modified == seen.last_modified


def _describe(generation: Generation) -> str:
    validator = generation.etag or generation.last_modified or "a content without validator"
    size = "unknown size" if generation.size is None else f"{generation.size} bytes"
    return f"{validator[:80]} ({size})"


def generation_of(status: int, fields: Fields, *, size: int | None = None, method: str = "GET") -> Generation:
    """The generation that a 200, 206 or 416 speaks of.

    `size` is what Content-Range said; of a 200 it is Content-Length. The 0 of a HEAD is not believed: too
    many servers send it for contents that a GET brings in full, and an empty file must be proven.

    Raises:
        FieldError: a Content-Length that is none, or two.
    """
    whole = status == _OK
    if whole:
        size = content_length(fields)
        size = None if size == 0 and method == "HEAD" else size
    etag = agreed(fields, "etag")
    modified = agreed(fields, "last-modified")
    strong = strong_etag(etag) or strong_last_modified(modified, agreed(fields, "date"))
    return Generation(
        size=size,
        ranges=not whole or "bytes" in tokens(fields, "accept-ranges"),  # 14.3
        etag=etag,
        last_modified=modified,
        strong=strong,
        digests=_whole_digests(status, fields, method),
    )


def _whole_digests(status: int, fields: Fields, method: str) -> tuple[Checksum, ...]:
    """Repr-Digest speaks of the whole on any reply (RFC 9530 3), except that a 416 represents an error page.

    Digest (RFC 3230 4.3.2) does so as well, but servers that compute it over the part are known: it counts
    on a 200 only, and so do, where the body is the whole, the digests of the body.
    """
    if status == _RANGE_NOT_SATISFIABLE or fields.keys().isdisjoint(DIGESTS):
        return ()
    offered = dictionary_digests(fields, "repr-digest")
    if status == _OK:
        body = {d.algorithm: d for d in content_digests(fields)} if method == "GET" else {}
        offered = instance_digests(fields) | body | offered
    return tuple(offered.values())


def _without_ranges(generation: Generation) -> Generation:
    return structs.replace(generation, ranges=False)


def content_digests(fields: Fields, *, part: bool = False) -> tuple[Checksum, ...]:
    """Digests of the reply's own body: Content-Digest (RFC 9530 2), and Content-MD5 unless it is a `part`.

    HTTP has given Content-MD5 up since servers disagree on whether it is of a part or of the whole (RFC 7231,
    Appendix B): OSS sends that of the whole with every range.
    """
    found = {} if part else body_md5(fields)
    return tuple((found | dictionary_digests(fields, "content-digest")).values())


def condition_headers(generation: Generation) -> dict[str, str]:
    """The condition that makes a server refuse another generation with 412 (13.1.1, 13.1.4).

    None where the validator is weak: If-Match compares strongly, and a weak tag never matches.
    """
    if generation.etag is not None and strong_etag(generation.etag):
        return {"If-Match": generation.etag}
    if generation.strong and generation.last_modified is not None:
        return {"If-Unmodified-Since": generation.last_modified}
    return {}


def range_header(start: int, stop: int | None) -> str:
    """The value of Range for bytes `start` up to `stop`, itself left out; None for the end (14.1.2).

    Raises:
        InvalidArgument: no byte lies between the two: a range can't say that.
    """
    if start < 0 or (stop is not None and stop <= start):
        raise InvalidArgument(f"range from {start} to {stop}: expected at least one byte, and none below 0")
    return f"bytes={start}-" if stop is None else f"bytes={start}-{stop - 1}"


def _wrong(kind: FaultKind, status: int, detail: str) -> Wrong:
    return Wrong(Fault(kind=kind, detail=detail, status=status))
