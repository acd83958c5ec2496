"""The bodies of requests that make an object of its parts, in each provider's own form."""

from collections.abc import Callable
from xml.sax.saxutils import escape

import msgspec
from msgspec import Struct

from meowcat.core.plans import UploadedPart

__all__ = ["BUILDERS", "NEEDS_ETAG", "Builder", "Completion", "default_json"]


class Completion(Struct, frozen=True):
    """What a completion can speak of."""

    upload_id: str
    metadata: dict[str, str]
    """As the plan has it: handed back as it came."""
    total_size: int
    """Bytes."""
    parts: tuple[UploadedPart, ...]
    """In their order."""


Builder = Callable[[Completion], bytes]
"""Makes the body of a plan's `complete` request."""


def default_json(completion: Completion) -> bytes:
    """For a back end of one's own: the fields of `Completion` as JSON."""
    return msgspec.json.encode(completion)


def s3_xml(completion: Completion) -> bytes:
    """CompleteMultipartUpload of S3 and its kin, Google's XML interface included."""
    return _numbered('<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">', completion)


def oss_xml(completion: Completion) -> bytes:
    """CompleteMultipartUpload of Aliyun OSS."""
    return _numbered("<CompleteMultipartUpload>", completion)


def azure_block_list(completion: Completion) -> bytes:
    """Put Block List. `Latest` also finds a block that an earlier request committed, so that the request may
    be sent twice."""
    blocks = "".join(f"<Latest>{escape(part.part_id or '')}</Latest>" for part in completion.parts)
    return f'<?xml version="1.0" encoding="utf-8"?><BlockList>{blocks}</BlockList>'.encode()


def _numbered(root: str, completion: Completion) -> bytes:
    parts = "".join(
        f"<Part><PartNumber>{part.number}</PartNumber><ETag>{escape(part.etag)}</ETag></Part>"
        for part in completion.parts
    )
    return f"{root}{parts}</CompleteMultipartUpload>".encode()


BUILDERS: dict[str, Builder] = {
    "default": default_json,
    "s3-xml": s3_xml,
    "oss-xml": oss_xml,
    "azure-block-list": azure_block_list,
}
"""Those that plans can name without anybody registering them."""

NEEDS_ETAG = frozenset({"s3-xml", "oss-xml"})
"""Builders that name each part by its ETag: without it the object could not be made."""
