"""What S3 says: lists, results and errors, all of them small XML documents; and what they mean."""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from msgspec import Struct

from meowcat.core.retry import parse_retry_after
from meowcat.core.sessions import Held, Receipt
from meowcat.core.urls import scrub
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.contract import Orphan, Refused
from meowcat.protocols.s3.address import Address
from meowcat.protocols.s3.checksums import CHECKSUMS, hex_of
from meowcat.protocols.wire import Reply

__all__ = [
    "Listed",
    "Page",
    "classify",
    "completion",
    "error_code",
    "listed_parts",
    "newest",
    "read_xml",
    "refusal",
    "text_of",
    "uploads",
]

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')
_SHOWN = 160


def read_xml(body: bytes) -> ET.Element | None:
    """The root of a document, its tags without their namespace; None where it is no such document.

    A document with a DTD is none: entities are what makes XML dangerous, and S3 never sends one.
    """
    text = body.decode("utf-8", "replace").strip()
    if not text.startswith("<") or "<!DOCTYPE" in text or "<!ENTITY" in text:
        return None
    try:
        root = ET.fromstring(text)  # noqa: S314  # see above
    except ET.ParseError:
        return None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def text_of(element: ET.Element | None, name: str) -> str:
    found = None if element is None else element.findtext(name)
    return (found or "").strip()


# Lists


class Listed(Struct, frozen=True):
    """A part as a list has it."""

    index: int
    held: Held
    modified: int
    """Milliseconds since 1970 UTC; 0 where the server does not say."""


class Page(Struct, frozen=True):
    """One page of a list, and where the next one begins; no marker where it was the last one."""

    parts: list[Listed]
    marker: str


def listed_parts(reply: Reply, *, md5: bool) -> Page:
    """A page of ListParts.

    Args:
        reply: a 200.
        md5: whether an ETag that looks like an MD5 is one: it is not where the server encrypts with a key.

    Raises:
        Refused: REPLY, where it is something else.
    """
    root = _document(reply, "ListPartsResult")
    parts = [_listed(element, md5=md5) for element in root.findall("Part")]
    more = text_of(root, "IsTruncated") == "true"
    return Page(parts, text_of(root, "NextPartNumberMarker") if more else "")


def _listed(element: ET.Element, *, md5: bool) -> Listed:
    etag, number, size = (text_of(element, name) for name in ("ETag", "PartNumber", "Size"))
    if not etag or not number.isdecimal() or not size.isdecimal() or int(number) < 1:
        raise refusal(f"a list of parts has one without a number, a size or an ETag: {number[:20]!r}")
    checksum = None
    for algorithm, names in CHECKSUMS.items():
        if value := text_of(element, names.element):
            checksum = f"{algorithm}:{hex_of(value)}"
    like_md5 = _MD5.fullmatch(etag) if md5 else None
    held = Held(
        size=int(size), receipt=Receipt(text=etag, checksum=checksum), md5=like_md5[1] if like_md5 else None
    )
    return Listed(int(number) - 1, held, _instant(text_of(element, "LastModified")) or 0)


def newest(parts: Iterator[Listed]) -> dict[int, Held]:
    """Of a part that was sent again, and stands there twice, the newest.

    Where two of one moment differ nobody can say which it is; neither counts, and the part is sent once more.
    """
    found: dict[int, Listed] = {}
    doubtful: dict[int, int] = {}
    for part in parts:
        known = found.get(part.index)
        if known is None or part.modified > known.modified:
            found[part.index] = part
        elif part.modified == known.modified and part.held.receipt.text != known.held.receipt.text:
            doubtful[part.index] = part.modified
    return {index: part.held for index, part in found.items() if doubtful.get(index) != part.modified}


def uploads(reply: Reply, key: str) -> tuple[list[Orphan], list[tuple[str, str]]]:
    """Of a page of ListMultipartUploads those of exactly `key`, and the query fields of the next page.

    Raises:
        Refused: REPLY, where it is something else.
    """
    root = _document(reply, "ListMultipartUploadsResult")
    found = [
        Orphan(id=text_of(element, "UploadId"), begun=_instant(text_of(element, "Initiated")))
        for element in root.findall("Upload")
        if element.findtext("Key") == key and text_of(element, "UploadId")
    ]
    if text_of(root, "IsTruncated") != "true":
        return found, []
    markers = [("key-marker", root.findtext("NextKeyMarker") or "")]
    markers.append(("upload-id-marker", text_of(root, "NextUploadIdMarker")))
    return found, [marker for marker in markers if marker[1]]


def completion(receipts: Mapping[int, Receipt], algorithm: str | None) -> bytes:
    """The body that makes an object of its parts."""
    lines = []
    for index in sorted(receipts):
        receipt = receipts[index]
        known, _, value = (receipt.checksum or "").partition(":")
        names = CHECKSUMS.get(known) if known == algorithm else None
        checksum = f"<{names.element}>{names.text(value)}</{names.element}>" if names else ""
        lines.append(
            f"<Part><PartNumber>{index + 1}</PartNumber><ETag>{escape(receipt.text)}</ETag>{checksum}</Part>"
        )
    body = f'<CompleteMultipartUpload xmlns="{_NAMESPACE}">{"".join(lines)}</CompleteMultipartUpload>'
    return body.encode()


def _document(reply: Reply, name: str) -> ET.Element:
    root = read_xml(reply.body)
    if root is None or root.tag != name:
        raise refusal(f"expected a {name}; what came is no such document")
    return root


def _instant(text: str) -> int | None:
    """Milliseconds since 1970 UTC of an ISO 8601 date."""
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:
        return None


# Errors


def error_code(reply: Reply) -> str:
    """The code of the error in a reply's body; "" where there is none, as in each reply to a HEAD."""
    root = read_xml(reply.body)
    return text_of(root, "Code") if root is not None and root.tag == "Error" else ""


def refusal(detail: str) -> Refused:
    return Refused(Fault(kind=FaultKind.REPLY, detail=detail))


_STALE = (
    "the session token of credential {credential!r} has run out: register a provider that brings fresh ones"
)
_FORBIDDEN = (
    "credential {credential!r} may not do this: grant it s3:PutObject, s3:GetObject, s3:AbortMultipartUpload "
    "and s3:ListMultipartUploadParts there"
)
_BUSY = "the server is busy; tried again later"
_DAMAGED = "the server got other bytes than were sent: they were damaged on their way, and are sent again"
_NO_CHECKSUM = "the server does not take this; if it is the checksum, set S3(checksum='md5') or 'none'"

_MEANINGS: dict[str, tuple[FaultKind, int | None, str]] = {
    "AccessDenied": (
        FaultKind.STATUS,
        None,
        _FORBIDDEN,
    ),
    "InvalidAccessKeyId": (
        FaultKind.STATUS,
        None,
        "the server knows no such key: check credential {credential!r}, and whether it is one of {endpoint}",
    ),
    "SignatureDoesNotMatch": (
        FaultKind.STATUS,
        None,
        "the secret of credential {credential!r} is wrong, or something on the way changed the request",
    ),
    "ExpiredToken": (FaultKind.EXPIRED, None, _STALE),
    "InvalidToken": (FaultKind.EXPIRED, None, _STALE),
    "TokenRefreshRequired": (FaultKind.EXPIRED, None, _STALE),
    "RequestTimeTooSkewed": (FaultKind.STATUS, None, "the clocks here and there differ: set this machine's"),
    "NoSuchBucket": (
        FaultKind.STATUS,
        None,
        "there is no bucket {bucket!r} at {endpoint}: check its name, the endpoint and the region",
    ),
    "NoSuchKey": (FaultKind.STATUS, None, "there is no such object: check its key"),
    "NoSuchVersion": (FaultKind.STATUS, None, "the object has no such version: check version_id"),
    "InvalidObjectState": (FaultKind.STATUS, None, "the object is archived: have it restored first"),
    "NoSuchUpload": (FaultKind.SESSION_LOST, None, "the server does not know the upload any more"),
    "InvalidPart": (FaultKind.SESSION_LOST, None, "the server has not got a part that it had confirmed"),
    "InvalidPartOrder": (FaultKind.REPLY, None, "the server wants the parts in another order than by number"),
    "EntityTooSmall": (
        FaultKind.STATUS,
        None,
        "a part is too small: leave piece_size out, or make it 5 MiB or more",
    ),
    "EntityTooLarge": (
        FaultKind.STATUS,
        None,
        "too large for the server: make piece_size smaller, or the object",
    ),
    "BadDigest": (FaultKind.DISCONNECTED, None, _DAMAGED),
    "InvalidDigest": (FaultKind.CHECKSUM, None, "the server can't read the checksum that was sent along"),
    "XAmzContentSHA256Mismatch": (FaultKind.DISCONNECTED, None, _DAMAGED),
    "XAmzContentChecksumMismatch": (FaultKind.DISCONNECTED, None, _DAMAGED),
    "PreconditionFailed": (
        FaultKind.STATUS,
        None,
        "the object there is not as If-Match or If-None-Match demands: nothing was replaced",
    ),
    "RequestTimeout": (FaultKind.STATUS, 408, "the server waited too long for the body; sent again"),
    "OperationAborted": (
        FaultKind.STATUS,
        503,
        "another operation on the bucket is under way; tried again later",
    ),
    "ConditionalRequestConflict": (
        FaultKind.STATUS,
        503,
        "another upload to it is under way; tried again later",
    ),
    "SlowDown": (FaultKind.STATUS, 503, _BUSY),
    "ServiceUnavailable": (FaultKind.STATUS, 503, _BUSY),
    "TooManyRequests": (FaultKind.STATUS, 429, _BUSY),
    "RequestLimitExceeded": (FaultKind.STATUS, 503, _BUSY),
    "InternalError": (FaultKind.STATUS, 500, "the server failed; tried again"),
    "NotImplemented": (FaultKind.STATUS, None, _NO_CHECKSUM),
    "InvalidStorageClass": (
        FaultKind.STATUS,
        None,
        "there is no such storage class: check S3(storage_class=…)",
    ),
    "MetadataTooLarge": (FaultKind.STATUS, None, "names and values of S3(metadata=…) have more than 2 kB"),
    "KeyTooLongError": (FaultKind.STATUS, None, "the key is too long"),
}
"""By code: the kind, the status by which it is retried where that is not the reply's own (a 400
RequestTimeout and a 409 OperationAborted may be, and a 200 can hold an error), and what it means."""

_ELSEWHERE_CODES = frozenset(
    {
        "PermanentRedirect",
        "TemporaryRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
    }
)
_BY_STATUS = {
    301: "PermanentRedirect",
    307: "TemporaryRedirect",
    403: "AccessDenied",
    404: "NoSuchKey",
    412: "PreconditionFailed",
    429: "TooManyRequests",
    501: "NotImplemented",
    503: "SlowDown",
}
"""For replies without a body, such as those to a HEAD."""
_OK = 200


def classify(reply: Reply, doing: str, address: Address, credential: str, now: int) -> Fault:
    """What a reply means that is not the one hoped for; its text says what to do.

    Args:
        reply: in full.
        doing: what was asked for, as a noun phrase.
        address: of the object.
        credential: the name of the credential.
        now: milliseconds since 1970 UTC.
    """
    root = read_xml(reply.body)
    root = root if root is not None and root.tag == "Error" else None
    code = text_of(root, "Code") or _BY_STATUS.get(reply.status, "")
    status = reply.status if reply.status != _OK else 500  # an error in a 200: the server failed half-way
    kind, retried_as, meaning = _MEANINGS.get(code, (FaultKind.STATUS, None, ""))
    text = meaning.format(credential=credential, bucket=address.bucket, endpoint=address.endpoint)
    text = _elsewhere(reply, root, code) or text or _said(root)
    request = reply.header("x-amz-request-id")
    suffix = f" (request {request[:40]})" if request else ""
    wait = parse_retry_after(reply.header("retry-after"), reply.header("date"), now)
    return Fault(
        kind=kind,
        detail=f"{doing} {address.shown}: {reply.status} {code[:60]}: {text}{suffix}",
        status=retried_as or status,
        retry_after=wait,
    )


def _said(root: ET.Element | None) -> str:
    """The server's own words, for what nobody has thought of."""
    return " ".join(scrub(text_of(root, "Message")).split())[:_SHOWN] or "the server gave no reason"


def _elsewhere(reply: Reply, root: ET.Element | None, code: str) -> str:
    """Where the bucket really is, if that is what the reply says."""
    region = reply.header("x-amz-bucket-region") or text_of(root, "Region")
    endpoint = text_of(root, "Endpoint")
    if code not in _ELSEWHERE_CODES and reply.status not in (301, 307):
        return ""
    if region:
        return f"the bucket is in region {region[:40]!r}: set S3(region=…) to that"
    if endpoint:
        return f"the bucket is at {endpoint[:100]!r}: set S3(endpoint=…) to that"
    return "the bucket is elsewhere: set S3(region=…), or S3(endpoint=…)"
