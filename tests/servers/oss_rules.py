"""The rules of the stand-in OSS that need neither its store nor a connection, and its XML."""

import base64
import binascii
import hashlib
import re
from email.utils import parsedate_to_datetime
from itertools import pairwise
from urllib.parse import quote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from oss_signatures import Refusal, http_date
from oss_store import CRC64, Object
from starlette.responses import Response

SMALLEST_PART = 100 << 10
"""Bytes of each part but the last, which only the completion looks at: EC 0042-00000213."""
LONGEST_PAGE = 1000
KEPT = (
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
)
"""Fields of an object that are handed back as they came, beside `x-oss-meta-*`."""


def check_bucket_name(name):
    """https://help.aliyun.com/en/oss/user-guide/bucket-overview: 3 to 63 of a-z, 0-9 and `-`, which stands
    neither first nor last."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", name):
        raise Refusal(400, "InvalidBucketName", "The specified bucket is not valid.", BucketName=name)


def check_md5(given):
    try:
        good = len(base64.b64decode(given, validate=True)) == hashlib.md5(usedforsecurity=False).digest_size
    except binascii.Error:
        good = False
    if not good:
        raise Refusal(
            400, "InvalidDigest", "The Content-MD5 you specified is not valid.", **{"Content-MD5": given}
        )


def check_conditions(headers, found):
    """If-Match and its kin, as GetObject and HeadObject have them."""

    def named(field):
        return [each.strip().strip('"') for each in headers[field].split(",")]

    def since(field):
        try:
            return int(parsedate_to_datetime(headers[field]).timestamp())
        except (KeyError, ValueError):
            return None

    modified = found.modified // 1000
    failed = "If-Match" if "if-match" in headers and found.etag not in named("if-match") else None
    if (limit := since("if-unmodified-since")) is not None and modified > limit:
        failed = failed or "If-Unmodified-Since"
    if failed:
        raise Refusal(
            412,
            "PreconditionFailed",
            "At least one of the pre-conditions you specified did not hold.",
            Condition=failed,
        )
    if "if-none-match" in headers and found.etag in named("if-none-match"):
        raise Refusal(304, "NotModified", "Not Modified")
    if (limit := since("if-modified-since")) is not None and modified <= limit:
        raise Refusal(304, "NotModified", "Not Modified")


def range_of(text, size, *, standard):
    """Start and stop of what is sent, or None for the whole.

    https://help.aliyun.com/en/oss/how-to-obtain-oss-resources-by-segmenting-http-range-requests: a range that
    is not wholly within the object counts for nothing, so that all is sent with 200, unless the request says
    `x-oss-range-behavior: standard`; then it is cut, or 416.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", text or "")
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if first == "":
        start, stop = max(0, size - int(last)), size
        inside = 0 < int(last) <= size
    else:
        start, stop = int(first), int(last) + 1 if last else size
        if stop <= start and last:
            return None
        inside = start < size and stop <= size
    if inside:
        return start, stop
    if not standard:
        return None
    if start >= size or (first == "" and int(last) == 0):
        raise Refusal(416, "InvalidRange", "The requested range cannot be satisfied.", ActualObjectSize=size)
    return start, min(stop, size)


def kept_fields(headers):
    kept = {name: value for name, value in headers.items() if name in KEPT or name.startswith("x-oss-meta-")}
    return {"content-type": "application/octet-stream", **kept}


def fields_of(found):
    """What GetObject and HeadObject say of an object."""
    fields = {
        **found.fields,
        "Accept-Ranges": "bytes",
        "ETag": f'"{found.etag}"',
        "Last-Modified": http_date(found.modified),
        "x-oss-hash-crc64ecma": found.crc,
        "x-oss-object-type": "Normal" if found.md5 else "Multipart",
        "x-oss-storage-class": "Standard",
    }
    return fields | ({"Content-MD5": found.md5} if found.md5 else {})


async def wanted_parts(call):
    """Numbers and ETags that a completion names; None where it asks for all that are there."""
    body = await call.request.body()
    if call.headers.get("x-oss-complete-all", "").lower() == "yes":
        if body:
            raise Refusal(400, "InvalidArgument", "A body is not allowed with x-oss-complete-all.")
        return None
    try:
        root = ET.fromstring(body)
        parts = [(int(part.findtext("PartNumber")), part.findtext("ETag")) for part in root.iter("Part")]
    except (ET.ParseError, TypeError, ValueError):
        raise malformed() from None
    if root.tag != "CompleteMultipartUpload" or not parts or not all(etag for _, etag in parts):
        raise malformed()
    return parts


def malformed():
    return Refusal(
        400,
        "MalformedXML",
        "The XML you provided was not well-formed or did not validate against our published schema.",
    )


def chosen_parts(wanted, there):
    """The parts that become the object, checked."""
    if wanted is None:
        wanted = [(part.number, part.etag) for part in there]
    numbers = [number for number, _ in wanted]
    if any(after <= before for before, after in pairwise(numbers)):
        raise Refusal(
            400,
            "InvalidPartOrder",
            "The list of parts was not in ascending order. Parts list must be specified in order by part "
            "number.",
        )
    known = {part.number: part for part in there}
    for number, etag in wanted:
        if number not in known or known[number].etag != etag.strip().strip('"'):
            raise Refusal(
                400,
                "InvalidPart",
                "One or more of the specified parts could not be found or the specified entity tag might not "
                "have matched the part's entity tag.",
                PartNumber=number,
            )
    chosen = [known[number] for number in numbers]
    for part in chosen[:-1]:
        if part.size < SMALLEST_PART:
            raise Refusal(
                400,
                "EntityTooSmall",
                "Your proposed upload is smaller than the minimum allowed size.",
                "0042-00000213",
                MinSizeAllowed=SMALLEST_PART,
                ProposedSize=part.size,
                PartNumber=part.number,
            )
    if not chosen:
        raise Refusal(400, "InvalidPart", "No part has been uploaded.")
    return chosen


def joined(upload, parts, blob, now):
    """The object that they make. Its ETag is no MD5 of the content, and says how many they were."""
    crc, size, md5s = CRC64.calc(b""), 0, b""
    for part in parts:
        crc = CRC64.combine(crc, int(part.crc), part.size)
        size += part.size
        md5s += bytes.fromhex(part.etag)
    etag = f"{hashlib.md5(md5s, usedforsecurity=False).hexdigest().upper()}-{len(parts)}"
    return Object(upload.bucket, upload.name, blob, size, etag, None, str(crc), now, upload.fields)


def no_such_upload(id_):
    return Refusal(
        404,
        "NoSuchUpload",
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been "
        "aborted or completed.",
        UploadId=id_,
    )


def whole_number(call, name, default):
    text = call.query.get(name) or str(default)
    if not text.isdecimal():
        raise Refusal(
            400, "InvalidArgument", f"{name} is no whole number.", ArgumentName=name, ArgumentValue=text
        )
    return int(text)


def page_length(call, name):
    length = whole_number(call, name, LONGEST_PAGE)
    if not 1 <= length <= LONGEST_PAGE:
        raise Refusal(
            400,
            "InvalidArgument",
            f"{name} must be an integer between 1 and {LONGEST_PAGE}.",
            ArgumentName=name,
            ArgumentValue=length,
        )
    return length


# XML


def element(name, *children):
    """Children are names with values, or elements that are ready; None is left out."""
    inside = "".join(
        child if isinstance(child, str) else f"<{child[0]}>{escape(str(child[1]))}</{child[0]}>"
        for child in children
        if child is not None
    )
    return f"<{name}>{inside}</{name}>"


def xml(name, *children):
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n{element(name, *children)}'
    return Response(text, media_type="application/xml", headers={"Content-Type": "application/xml"})


def encoding(call):
    return ("EncodingType", "url") if call.query.get("encoding-type") == "url" else None


def spelt(call, text):
    """XML 1.0 has no word for most control characters, so clients ask for keys as they stand in a URL."""
    return quote(text) if call.query.get("encoding-type") == "url" else text
