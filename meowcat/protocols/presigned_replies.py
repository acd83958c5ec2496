"""What a reply to a signed request means, whoever the provider is.

S3, OSS and Google answer with XML that has a `Code`, Azure with the same and a header `x-ms-error-code`. Of a
reply's body nothing but that code is ever shown: some servers quote signatures and whole URLs there.
"""

import re
from html import unescape
from typing import Final

import msgspec
from msgspec import Struct

from meowcat.core.retry import parse_retry_after
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.wire import Reply

__all__ = [
    "ANSWERS",
    "LOOK",
    "classify",
    "confirmed",
    "created",
    "error_code",
    "etag_of",
    "expiry_stands_in",
    "gone",
    "says_expired",
    "unauthorized",
]

_OK: Final = frozenset({200, 201, 204})
_CODE = re.compile(rb"<Code>\s*([A-Za-z.]{2,60})\s*</Code>")
"""Letters alone, so that no signature passes for one."""
_ETAG = re.compile(rb"<ETag>([^<]{1,200})</ETag>")
_ERROR_ROOT = re.compile(rb"(?:<\?xml[^>]*\?>)?\s*<Error[\s>]")
_RESULT_ROOT = re.compile(rb"(?:<\?xml[^>]*\?>)?\s*<CompleteMultipartUploadResult[\s>]")
_PAGE = re.compile(rb"(?i)(?:<\?xml[^>]*\?>)?\s*<(?:!doctype\s+)?html[\s>]")
_EXPIRED = re.compile(rb"(?i)expired|not valid in the specified time frame")
LOOK = 4096
"""Bytes of a body in which an error says what it is."""

_LOST = {
    "NoSuchUpload": FaultKind.SESSION_LOST,
    "InvalidBlockList": FaultKind.SESSION_LOST,
    "InvalidPart": FaultKind.CHANGED,  # the upload stands, and is to be removed
}
"""Codes by which the parts, or all of the upload, are no longer there as they were confirmed."""

_AGAIN = {"RequestTimeout": 408, "OperationAborted": 503, "SlowDown": 503, "InternalError": 500}
"""Codes that stand for another status than the reply may have: 400 and 409, or a 200 with an error in it."""

_MEANINGS: Final = {
    "AccessDenied": "the signature does not allow this request; look at what the back end signs for",
    "AuthenticationFailed": "the signature is wrong, or not for this request; see what the back end signs",
    "BadDigest": "the content is not what the plan was signed for",
    "ContainerNotFound": "there is no such container; look at what the back end signs for",
    "EntityTooLarge": "a part is larger than the provider takes; let the back end cut smaller ones",
    "EntityTooSmall": "a part is smaller than the provider takes (5 MiB at S3, 100 KiB at OSS, but for the "
    "last); let the back end cut larger ones",
    "FileAlreadyExists": "there is an object already, which the plan forbids to replace",
    "InvalidAccessKeyId": "the back end signs with a key that the provider does not know",
    "InvalidArgument": "something that the URL says is wrong, such as its region; look at what the back end "
    "signs for",
    "InvalidDigest": "the content has another MD5 than the plan's Content-MD5 says",
    "InvalidPartOrder": "the completion names the parts in another order; use the provider's own completion",
    "MalformedXML": "the completion is not what the provider takes; name the right one in the plan",
    "NoSuchBucket": "there is no such bucket; look at what the back end signs for",
    "RequestTimeTooSkewed": "the clock of whoever signs is wrong",
    "SignatureDoesNotMatch": "the request is not the one that was signed: method, URL and headers of the "
    "plan must be those that the back end signed, all of them",
}

_STATUSES: Final = {
    401: "it wants other credentials than the signed URL has",
    403: "it forbids the request; the signature may be wrong, or not for this request",
    404: "there is nothing at this URL; look at what the back end signs for",
    405: "the method is not allowed at this URL; the plan's method has to be the one that was signed",
    409: "something stands in the way, such as an object that must not be replaced; look at what is there",
    411: "it wants a length, which was sent; a proxy may have removed it",
    412: "a condition that the plan sends along does not hold; look at what is there",
    413: "the part is larger than the server takes; let the back end cut smaller ones",
    416: "the object is shorter than what was asked for; see what is there, and begin again",
    429: "too many requests; tried again later",
    503: "it is not available now; tried again later",
}


class _Told(Struct):
    """What an application's own back end says of a failure, for which it may have no status."""

    error: object = None
    errors: object = None
    success: object = None
    ok: object = None


def confirmed(reply: Reply) -> bool:
    """Whether the request did what it was sent for, by what was answered: S3 also answers 200 with an error
    in the body, a back end with JSON that tells of one, and a portal or a login with a page."""
    return reply.status in _OK and not _ERROR_ROOT.match(_begin(reply)) and not _denied(reply)


def _denied(reply: Reply) -> bool:
    """Whether the body of a success is a page for people, or JSON that tells of an error."""
    if _PAGE.match(_begin(reply)):
        return True
    try:
        told = msgspec.json.decode(reply.body, type=_Told)
    except msgspec.DecodeError:
        return False
    return bool(told.error or told.errors) or told.success is False or told.ok is False


def has_result(reply: Reply) -> bool:
    """Whether a confirmed completion was answered as S3, OSS and Google do."""
    return _RESULT_ROOT.match(_begin(reply)) is not None


def created(reply: Reply) -> bool:
    """Whether a confirmed block or block list was answered as Azure does."""
    return reply.status == 201  # noqa: PLR2004  # Created


ANSWERS: Final = {"s3-xml": has_result, "oss-xml": has_result, "azure-block-list": created}
"""By the plan's completion: whether a reply is the provider's own. Others are known to nobody here."""


def _begin(reply: Reply) -> bytes:
    """Where the body says what it is: S3 sends blanks while it puts a large object together."""
    return reply.body.lstrip()[:LOOK]


def error_code(reply: Reply) -> str:
    """The provider's code; "" where there is none, or none that may be shown."""
    named = reply.header("x-ms-error-code") or ""
    if named and named.isascii() and named.isalpha():
        return named
    found = _CODE.search(reply.error[:LOOK])
    return found[1].decode("ascii") if found else ""


def etag_of(reply: Reply) -> str | None:
    """The ETag of what the request made: S3 names that of a completion in the body alone."""
    named = reply.header("etag")
    found = None if named is not None else _ETAG.search(reply.body[:LOOK])
    return unescape(found[1].decode("utf-8", "replace")) if found else named


def unauthorized(reply: Reply) -> bool:
    """Whether a fresh signature may help: Google answers 400 to an old one."""
    return reply.status in (401, 403) or says_expired(reply)


def says_expired(reply: Reply) -> bool:
    """Whether the reply says that the signature has run out."""
    return reply.status in (400, 401, 403) and expiry_stands_in(reply.error[:LOOK])


def expiry_stands_in(body: bytes) -> bool:
    """Whether the body of a refusal says that the signature has run out, in any provider's words."""
    return _EXPIRED.search(body) is not None


def gone(reply: Reply) -> bool:
    """Whether what was to be removed, or asked about, is not there."""
    return reply.status in (404, 410)


def classify(reply: Reply, what: str, now_ms: int, *, run_out: bool = False) -> Fault:
    """Why a request came to nothing.

    Args:
        reply: one that is not `confirmed`, or not what was to be answered.
        what: the request, for people: `part 3`.
        now_ms: the wall clock, for a Retry-After date in a reply without Date.
        run_out: the URL's end has passed, by this machine's clock.
    """
    code, status = error_code(reply), reply.status
    said = f"{what}: the server answered {status}{f' {code}' if code else ''}"
    if 300 <= status < 400:  # noqa: PLR2004  # the 3xx class
        detail = f"{said}, a redirect: a signed request is sent nowhere else; sign the final URL"
        return Fault(kind=FaultKind.REDIRECT, detail=detail, status=status)
    if code in _LOST:
        detail = f"{said}: it has not the upload, or a part of it, as confirmed; all is sent again"
        return Fault(kind=_LOST[code], detail=detail, status=status)
    if says_expired(reply) or (run_out and status in (401, 403)):
        detail = f"{said}: the signed URL has run out; supply a fresh plan, or name a refresher"
        return Fault(kind=FaultKind.EXPIRED, detail=detail, status=status)
    if code == "BadDigest":
        return Fault(kind=FaultKind.CHECKSUM, detail=f"{said}: {_MEANINGS[code]}", status=status)
    if status in _OK and not _ERROR_ROOT.match(_begin(reply)):
        detail = (
            f"{said}, and not as a success is answered: a proxy or a portal may have done so in its place, "
            "and what became of the request is not known"
        )
        return Fault(kind=FaultKind.STATUS, detail=detail, status=502)
    meaning = _MEANINGS.get(code) or _STATUSES.get(status) or "expected 200, 201 or 204"
    return Fault(
        kind=FaultKind.STATUS,
        detail=f"{said}: {meaning}",
        status=_AGAIN.get(code, 400 if status in _OK else status),
        retry_after=parse_retry_after(reply.header("retry-after"), reply.header("date"), now_ms),
    )
