"""What Azure says: lists of blocks, and errors; and what they mean.

https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes
"""

import re
from collections.abc import Iterable
from xml.etree import ElementTree as ET

from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.azure.address import Address
from meowcat.protocols.azure.blocks import Block, parse
from meowcat.protocols.objects.documents import document, error_of, refusal, text_of
from meowcat.protocols.objects.meanings import Meanings
from meowcat.protocols.wire import Reply

__all__ = ["blocks_of", "classify", "completion", "error_code", "has_ended"]


def error_code(reply: Reply) -> str:
    """The code of an error; "" where it has none. Azure also says it in a header, for what has no body."""
    return reply.header("x-ms-error-code") or text_of(error_of(reply), "Code")


def blocks_of(reply: Reply) -> tuple[list[Block], list[int]]:
    """The uncommitted blocks of a list that uploads of meowcat have made, and the sizes of all others.

    Raises:
        Refused: REPLY, where it is something else.
    """
    root = document(reply, "BlockList")
    ours: list[Block] = []
    others: list[int] = []
    for element in root.iterfind("UncommittedBlocks/Block"):
        name, size = text_of(element, "Name"), text_of(element, "Size")
        if not name or not size.isdecimal():
            raise refusal(f"a list of blocks has one without an id or a size: {size[:20]!r}")
        block = parse(name, int(size))
        if block is None:
            others.append(int(size))
        else:
            ours.append(block)
    return ours, others


def completion(ids: Iterable[str]) -> bytes:
    """The body that makes a blob of its blocks. Ids are in base64, which XML takes as it is."""
    listed = "".join(f"<Uncommitted>{each}</Uncommitted>" for each in ids)
    return f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode()


_STATUS, _DISCONNECTED = FaultKind.STATUS, FaultKind.DISCONNECTED
_BUSY = "Azure is busy; tried again later"
_DAMAGED = "Azure got other bytes than were sent: they were damaged on their way, and are sent again"
_PERMISSION = (
    "credential {credential!r} may not do this. A SAS needs r to download; cw to upload, and r to resume an "
    "upload and to prove its end. A token needs the role Storage Blob Data Contributor, or Reader"
)
_FROM_HERE = (
    "credential {credential!r} may not do this from here: check what it permits, and the account's rules of "
    "networks; an emulator says the same of a wrong key"
)
_FORBIDDEN = (
    "credential {credential!r} is wrong, or may not do this: check that it is whole and one of the account "
    "at {endpoint}, what it permits, and the account's rules of networks"
)
_UNPROVED = (
    "Azure does not take the signature: check that credential {credential!r} is whole and one of the account "
    "at {endpoint}, and this machine's clock"
)
_ENDED = "credential {credential!r} has run out: register a provider that brings fresh ones"
_CONDITION = (
    "the blob is another one than at the beginning: somebody has written or deleted it meanwhile; nothing "
    "was replaced: see what is there, and retry"
)
_SHORTER = "the blob is shorter than what was asked for: see what is there, and begin again"
_THERE = (
    "there is a blob of that name; nothing was replaced: set AzureBlob(overwrite='replace'), or name another"
)
_LEASED = "somebody has a lease on it: have it ended, or give its id with the header x-ms-lease-id"
_LEASE_ENDED = "the lease of x-ms-lease-id has ended: take a new one, or leave the header out"
_ARCHIVED = "the blob is archived: set it to tier Hot or Cool, and wait until it is rehydrated"
_NO_CONTAINER = "there is no container {container!r} at {endpoint}: check its name and the account"
_LOST = "Azure has not got a block that it had confirmed: somebody has written the blob meanwhile"
_MIXED = (
    "another upload has left blocks with ids of another length on this blob: they go a week after the last "
    "of them, or at once when the blob is written in one piece or deleted"
)
_IMMUTABLE = "a policy of the container keeps it as it is; nothing was replaced: name another blob"

MEANINGS = Meanings(
    by_code={
        "AuthenticationFailed": (_STATUS, None, _UNPROVED),
        "AuthorizationFailure": (
            _STATUS,
            None,
            _FROM_HERE,
        ),
        "Forbidden": (_STATUS, None, _FORBIDDEN),
        "AuthorizationPermissionMismatch": (_STATUS, None, _PERMISSION),
        "InsufficientAccountPermissions": (_STATUS, None, _PERMISSION),
        "AuthorizationResourceTypeMismatch": (
            _STATUS,
            None,
            "the SAS of credential {credential!r} is not for blobs: an account SAS needs the resources co",
        ),
        "AuthorizationServiceMismatch": (
            _STATUS,
            None,
            "the SAS of credential {credential!r} is for another service: an account SAS needs the service b",
        ),
        "AuthorizationProtocolMismatch": (
            _STATUS,
            None,
            "the SAS of credential {credential!r} is for https alone",
        ),
        "AuthorizationSourceIPMismatch": (
            _STATUS,
            None,
            "the SAS of credential {credential!r} is not for this machine's address",
        ),
        "InvalidAuthenticationInfo": (FaultKind.EXPIRED, None, _ENDED),
        "NoAuthenticationInformation": (
            _STATUS,
            None,
            "the container is not open to everybody: give AzureBlob(credential=…)",
        ),
        "PublicAccessNotPermitted": (
            _STATUS,
            None,
            "the account is not open to everybody: give AzureBlob(credential=…)",
        ),
        "KeyBasedAuthenticationNotPermitted": (
            _STATUS,
            None,
            "the account takes no keys, and no SAS made of them: register a BearerToken",
        ),
        "AccountIsDisabled": (_STATUS, None, "the account at {endpoint} is disabled"),
        "ContainerNotFound": (_STATUS, None, _NO_CONTAINER),
        "ContainerDisabled": (_STATUS, None, "the container {container!r} is disabled"),
        "ContainerBeingDeleted": (_STATUS, 503, "the container is being deleted; tried again later"),
        "BlobNotFound": (_STATUS, None, "there is no such blob: check its name, snapshot and version_id"),
        "ResourceNotFound": (_STATUS, None, "there is no such account, container or blob: check their names"),
        "InvalidResourceName": (_STATUS, None, "Azure takes no such name"),
        "BlobAlreadyExists": (_STATUS, None, _THERE),
        "UnauthorizedBlobOverwrite": (
            _STATUS,
            None,
            "there is a blob of that name, and credential {credential!r} may only create new ones",
        ),
        "LeaseIdMissing": (_STATUS, None, _LEASED),
        "LeaseIdMismatchWithBlobOperation": (_STATUS, None, _LEASED),
        "LeaseNotPresentWithBlobOperation": (_STATUS, None, _LEASE_ENDED),
        "LeaseLost": (_STATUS, None, _LEASE_ENDED),
        "BlobArchived": (_STATUS, None, _ARCHIVED),
        "BlobBeingRehydrated": (_STATUS, None, _ARCHIVED),
        "BlobImmutableDueToPolicy": (_STATUS, None, _IMMUTABLE),
        "BlobImmutableDueToLegalHold": (_STATUS, None, _IMMUTABLE),
        "InvalidBlobType": (_STATUS, None, "what is there is no block blob, and can't be replaced by one"),
        "ConditionNotMet": (_STATUS, None, _CONDITION),
        "TargetConditionNotMet": (_STATUS, None, _CONDITION),
        "InvalidRange": (_STATUS, None, _SHORTER),
        "InvalidBlockList": (FaultKind.SESSION_LOST, None, _LOST),
        "InvalidBlobOrBlock": (_STATUS, None, _MIXED),
        "InvalidBlockId": (_STATUS, None, _MIXED),
        "BlockCountExceedsLimit": (
            _STATUS,
            None,
            "the blob has 100,000 uncommitted blocks: they go a week after the last of them",
        ),
        "BlockListTooLong": (_STATUS, None, "more than 50,000 blocks: make piece_size larger"),
        "RequestBodyTooLarge": (_STATUS, None, "a block is too large: make piece_size smaller"),
        "Md5Mismatch": (_DISCONNECTED, None, _DAMAGED),
        "Crc64Mismatch": (_DISCONNECTED, None, _DAMAGED),
        "InvalidMd5": (FaultKind.CHECKSUM, None, "Azure can't read the checksum that was sent along"),
        "InvalidMetadata": (_STATUS, None, "Azure does not take AzureBlob(metadata=…)"),
        "MetadataTooLarge": (_STATUS, None, "AzureBlob(metadata=…) has more than 8 KiB"),
        "UnsupportedHeader": (
            _STATUS,
            None,
            "the server does not take a header; is it AzureBlob(checksum=…)?",
        ),
        "FeatureNotSupported": (_STATUS, None, "the account can't do this; is it AzureBlob(tier=…)?"),
        "ServerBusy": (_STATUS, 503, _BUSY),
        "TooManyRequests": (_STATUS, 429, _BUSY),
        "OperationTimedOut": (_STATUS, 500, "Azure took too long; tried again"),
        "InternalError": (_STATUS, 500, "Azure failed; tried again"),
    },
    by_status={
        401: "InvalidAuthenticationInfo",
        403: "Forbidden",
        404: "BlobNotFound",
        409: "BlobAlreadyExists",
        412: "ConditionNotMet",
        413: "RequestBodyTooLarge",
        416: "InvalidRange",
        429: "TooManyRequests",
        503: "ServerBusy",
    },
    request_id="x-ms-request-id",
)

_ENDS = re.compile(
    r"not valid in the specified time frame|has expired|Lifetime validation failed", re.IGNORECASE
)


def has_ended(reply: Reply) -> bool:
    """Whether a refusal says that a SAS or a token has run out (or not begun yet)."""
    error = error_of(reply)
    texts = [text_of(error, "AuthenticationErrorDetail"), text_of(error, "Message")]
    texts.append(reply.header("www-authenticate") or "")
    return any(_ENDS.search(text) for text in texts)


def classify(
    reply: Reply, doing: str, address: Address, credential: str, now: int, *, over: bool = False
) -> Fault:
    """What a reply means that is not the one hoped for; its text says what to do.

    Args:
        reply: in full.
        doing: what was asked for, as a noun phrase.
        address: of the blob.
        credential: the name of the credential.
        now: milliseconds since 1970 UTC.
        over: whether the credential has ended by the server's clock: what answers a HEAD does not say so.
    """
    error = _error(reply)
    what = f"{doing} {address.shown}"
    words = {"credential": credential, "container": address.container, "endpoint": address.endpoint}
    fault = MEANINGS.fault(reply, error, what, words, now)
    if fault.status in (401, 403) and (over or has_ended(reply)):
        return _as(fault, FaultKind.EXPIRED, f"{what}: {reply.status}: {_ENDED.format(**words)}")
    return fault


def _error(reply: Reply) -> ET.Element | None:
    """The error of a reply, also where only a header has it."""
    error = error_of(reply)
    code = reply.header("x-ms-error-code")
    if error is None and code:
        error = ET.Element("Error")
        ET.SubElement(error, "Code").text = code
    return error


def _as(fault: Fault, kind: FaultKind, detail: str) -> Fault:
    return Fault(kind=kind, detail=detail, status=fault.status, retry_after=fault.retry_after)
