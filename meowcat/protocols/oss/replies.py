"""What OSS says of checksums and of errors, and what it means.

https://www.alibabacloud.com/help/en/oss/user-guide/http-status-code
"""

import re
from collections.abc import Mapping
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from msgspec.structs import replace

from meowcat.core.sessions import Receipt
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.objects.documents import error_of, text_of
from meowcat.protocols.objects.meanings import Meaning, Meanings
from meowcat.protocols.oss.address import Address
from meowcat.protocols.wire import Reply
from meowcat.transport.contract import Headers

__all__ = ["CRC64", "DAMAGED", "checksum_of", "classify", "completion", "crc64_in", "told_error"]

CRC64 = "crc64xz"
"""The name that digests have here for the checksum of OSS, CRC-64/XZ: what OSS calls ECMA."""
_HEADER = "x-oss-hash-crc64ecma"
_LIMIT = 1 << 64


def crc64_in(headers: Headers) -> str | None:
    """The CRC-64 that a reply tells, in hexadecimal; OSS writes it in decimal. None where there is none."""
    said = next((value for name, value in headers if name.lower() == _HEADER), "")
    return _digits(said)


def checksum_of(part: ET.Element) -> str | None:
    """`algorithm:digits` of a part in a list."""
    digits = _digits(text_of(part, "HashCrc64ecma"))
    return f"{CRC64}:{digits}" if digits else None


def _digits(text: str) -> str | None:
    text = text.strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(_LIMIT))):
        return None
    return f"{int(text):016x}" if int(text) < _LIMIT else None


def completion(receipts: Mapping[int, Receipt]) -> bytes:
    """The body that makes an object of its parts."""
    parts = "".join(
        f"<Part><PartNumber>{index + 1}</PartNumber><ETag>{escape(receipts[index].text)}</ETag></Part>"
        for index in sorted(receipts)
    )
    return f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()


# Errors


def told_error(reply: Reply) -> ET.Element | None:
    """The error of a reply, also of one to a HEAD."""
    return error_of(Reply(reply.status, reply.headers, reply.error))


DAMAGED = "OSS got other bytes than were sent: they were damaged on their way, and are sent again"
_STALE = (
    "the session token of credential {credential!r} has run out: register a provider that brings fresh ones"
)
_FORBIDDEN = (
    "credential {credential!r} may not do this: grant it oss:PutObject, oss:GetObject, "
    "oss:AbortMultipartUpload and oss:ListParts there"
)
_UNSIGNED = "not everybody may do this, and nothing was signed: name a credential"
_BUSY = "OSS is busy, or a limit of the account or the bucket is reached; tried again later"
_THERE = (
    "there is an object already, and x-oss-forbid-overwrite leaves it alone: nothing was replaced; name "
    "another key, or leave that out"
)
_CONDITION = (
    "the object is not as If-Match or another condition demands, and nothing was done: see what is there, or "
    "leave the condition out"
)
_GONE = "OSS has not got a part that it had confirmed"

_BY_CODE: dict[str, Meaning] = {
    # 400
    "InvalidDigest": (FaultKind.DISCONNECTED, None, DAMAGED),
    "BadDigest": (FaultKind.DISCONNECTED, None, DAMAGED),
    "InvalidPart": (FaultKind.SESSION_LOST, None, _GONE),
    "FilePartNotExist": (FaultKind.SESSION_LOST, None, _GONE),
    "FilePartStale": (FaultKind.SESSION_LOST, None, _GONE),
    "InvalidPartOrder": (FaultKind.REPLY, None, "OSS wants the parts in another order than by number"),
    "EntityTooSmall": (
        FaultKind.STATUS,
        None,
        "a part is too small: leave piece_size out, or make it 100 KiB or more",
    ),
    "EntityTooLarge": (FaultKind.STATUS, None, "too large for OSS: make piece_size smaller, or the object"),
    "InvalidBucketName": (FaultKind.STATUS, None, "OSS takes no bucket of the name {bucket!r}"),
    "InvalidObjectName": (FaultKind.STATUS, None, "OSS takes no object of such a name"),
    "MetadataTooLarge": (FaultKind.STATUS, None, "names and values of AliyunOSS(metadata=…) have over 8 KB"),
    "InvalidStorageClass": (
        FaultKind.STATUS,
        None,
        "there is no such storage class: check AliyunOSS(storage_class=…)",
    ),
    "RequestTimeout": (FaultKind.STATUS, 408, "OSS waited too long for the body; sent again"),
    # 403
    "AccessDenied": (
        FaultKind.STATUS,
        None,
        _FORBIDDEN,
    ),
    "InvalidAccessKeyId": (
        FaultKind.STATUS,
        None,
        "OSS knows no such key, or it is disabled: check credential {credential!r}, and its token",
    ),
    "SignatureDoesNotMatch": (
        FaultKind.STATUS,
        None,
        "the secret of credential {credential!r} is wrong, or something on the way changed the request",
    ),
    "SecurityTokenExpired": (FaultKind.EXPIRED, None, _STALE),
    "InvalidSecurityToken": (FaultKind.EXPIRED, None, _STALE),
    "RequestTimeTooSkewed": (FaultKind.STATUS, None, "the clocks here and there differ: set this machine's"),
    "InvalidObjectState": (FaultKind.STATUS, None, "the object is archived: have it restored first"),
    "UserDisable": (FaultKind.STATUS, None, "the account is disabled: look for bills that are due"),
    "SecondLevelDomainForbidden": (
        FaultKind.STATUS,
        None,
        "OSS takes no bucket in the path here: set AliyunOSS(style='virtual')",
    ),
    # 404
    "NoSuchBucket": (
        FaultKind.STATUS,
        None,
        "there is no bucket {bucket!r} at {endpoint}: check its name, the endpoint and the region",
    ),
    "NoSuchKey": (FaultKind.STATUS, None, "there is no such object: check its key"),
    "NoSuchVersion": (FaultKind.STATUS, None, "the object has no such version: check version_id"),
    "NoSuchUpload": (FaultKind.SESSION_LOST, None, "OSS does not know the upload any more"),
    # 409
    "FileAlreadyExists": (FaultKind.STATUS, None, _THERE),
    "FileImmutable": (
        FaultKind.STATUS,
        None,
        "a retention policy protects the object: nothing was replaced; name another key",
    ),
    "ObjectAlreadyExists": (
        FaultKind.STATUS,
        None,
        "there is an object already: nothing was replaced; name another key",
    ),
    "OperationAborted": (FaultKind.STATUS, 503, "another operation on it is under way; tried again later"),
    # 411, 412, 416, 429
    "MissingContentLength": (
        FaultKind.STATUS,
        None,
        "OSS wants a length, which was sent; a proxy may have removed it",
    ),
    "PreconditionFailed": (FaultKind.STATUS, None, _CONDITION),
    "InvalidRange": (
        FaultKind.STATUS,
        None,
        "the object is shorter than what was asked for: see what is there, and begin again",
    ),
    "TooManyRequests": (FaultKind.STATUS, 429, _BUSY),
    # 5xx
    "InternalError": (FaultKind.STATUS, 500, "OSS failed; tried again"),
    "ServiceUnavailable": (FaultKind.STATUS, 503, _BUSY),
    "SlowDown": (FaultKind.STATUS, 503, _BUSY),
    "QpsLimitExceeded": (FaultKind.STATUS, 503, _BUSY),
    "TotalQpsLimitExceeded": (FaultKind.STATUS, 503, _BUSY),
    "UploadTrafficRateLimitExceeded": (FaultKind.STATUS, 503, _BUSY),
    "DownloadTrafficRateLimitExceeded": (FaultKind.STATUS, 503, _BUSY),
}
_BY_STATUS = {
    403: "AccessDenied",
    404: "NoSuchKey",
    409: "ObjectAlreadyExists",
    411: "MissingContentLength",
    412: "PreconditionFailed",
    416: "InvalidRange",
    429: "TooManyRequests",
    503: "ServiceUnavailable",
}
_CAUSE = re.compile(r"[0-9]{4}-[0-9]{8}")
"""What tells apart the reasons of one code; https://api.aliyun.com/troubleshoot explains each."""
_WRONG_REGION = frozenset({"0002-00000226", "0002-00000228"})
_MEANINGS = Meanings(_BY_CODE, _BY_STATUS, "x-oss-request-id")


def classify(reply: Reply, doing: str, address: Address, credential: str, now: int) -> Fault:
    """What a reply means that is not the one hoped for; its text says what to do.

    Args:
        reply: in full.
        doing: what was asked for, as a noun phrase.
        address: of the object.
        credential: the name of the credential; "" where nothing is signed.
        now: milliseconds since 1970 UTC.
    """
    error = told_error(reply)
    words = {"credential": credential, "bucket": address.bucket, "endpoint": address.endpoint}
    instead = _elsewhere(error, address)
    if not instead and not credential and _MEANINGS.code(reply, error) == "AccessDenied":
        instead = _UNSIGNED
    fault = _MEANINGS.fault(reply, error, f"{doing} {address.shown}", words, now, instead=instead)
    cause = text_of(error, "EC") or reply.header("x-oss-ec") or ""
    if _CAUSE.fullmatch(cause) is None:
        return fault
    return replace(fault, detail=f"{fault.detail} (EC {cause})")


def _elsewhere(error: ET.Element | None, address: Address) -> str:
    """Where the bucket really is, if that is what the error says."""
    endpoint = text_of(error, "Endpoint")
    if endpoint:
        return f"the bucket is at {endpoint[:100]!r}: set AliyunOSS(endpoint=…) to that"
    if text_of(error, "EC") in _WRONG_REGION or "signing region" in text_of(error, "Message"):
        return f"the bucket is not in region {address.region!r}: set AliyunOSS(region=…) to its own"
    return ""
