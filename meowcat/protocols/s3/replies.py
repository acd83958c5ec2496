"""What S3 says of parts and of errors, and what it means."""

from collections.abc import Mapping
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from meowcat.core.sessions import Receipt
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.objects.documents import error_of, text_of
from meowcat.protocols.objects.meanings import Meaning, Meanings
from meowcat.protocols.s3.address import Address
from meowcat.protocols.s3.checksums import CHECKSUMS, hex_of
from meowcat.protocols.wire import Reply

__all__ = ["checksum_of", "classify", "completion"]

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


def checksum_of(part: ET.Element) -> str | None:
    """`algorithm:digits` of a part in a list; None where it has none that is known here."""
    checksum = None
    for algorithm, names in CHECKSUMS.items():
        if value := text_of(part, names.element):
            checksum = f"{algorithm}:{hex_of(value)}"
    return checksum


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


_STALE = (
    "the session token of credential {credential!r} has run out: register a provider that brings fresh ones"
)
_FORBIDDEN = (
    "credential {credential!r} may not do this: grant it s3:PutObject, s3:GetObject, s3:AbortMultipartUpload "
    "and s3:ListMultipartUploadParts there"
)
_UNSAID = (
    "credential {credential!r} is wrong, or may not do this: check its secret, and grant it s3:PutObject, "
    "s3:GetObject, s3:AbortMultipartUpload and s3:ListMultipartUploadParts there"
)
_ARCHIVED = "the object is archived: have it restored first"
_CONDITION = (
    "the object there is not as If-Match or If-None-Match demands, and nothing was replaced: name another "
    "key, or leave the condition out"
)
_SHORTER = "the object is shorter than what was asked for: see what is there, and begin again"
_BUSY = "the server is busy; tried again later"
_DAMAGED = "the server got other bytes than were sent: they were damaged on their way, and are sent again"
_NO_CHECKSUM = "the server does not take this; if it is the checksum, set S3(checksum='md5') or 'none'"

_BY_CODE: dict[str, Meaning] = {
    "AccessDenied": (
        FaultKind.STATUS,
        None,
        _FORBIDDEN,
    ),
    "Forbidden": (FaultKind.STATUS, None, _UNSAID),
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
    "InvalidObjectState": (FaultKind.STATUS, None, _ARCHIVED),
    "RestoreAlreadyInProgress": (FaultKind.STATUS, None, _ARCHIVED),
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
    "PreconditionFailed": (FaultKind.STATUS, None, _CONDITION),
    "InvalidRange": (FaultKind.STATUS, None, _SHORTER),
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
    403: "Forbidden",
    404: "NoSuchKey",
    409: "ConditionalRequestConflict",
    412: "PreconditionFailed",
    416: "InvalidRange",
    429: "TooManyRequests",
    501: "NotImplemented",
    503: "SlowDown",
}
_MEANINGS = Meanings(_BY_CODE, _BY_STATUS, "x-amz-request-id")


def classify(reply: Reply, doing: str, address: Address, credential: str, now: int) -> Fault:
    """What a reply means that is not the one hoped for; its text says what to do.

    Args:
        reply: in full.
        doing: what was asked for, as a noun phrase.
        address: of the object.
        credential: the name of the credential.
        now: milliseconds since 1970 UTC.
    """
    error = error_of(reply)
    words = {"credential": credential, "bucket": address.bucket, "endpoint": address.endpoint}
    elsewhere = _elsewhere(reply, error, _MEANINGS.code(reply, error))
    return _MEANINGS.fault(reply, error, f"{doing} {address.shown}", words, now, instead=elsewhere)


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
