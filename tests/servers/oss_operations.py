"""What the stand-in OSS does for a request whose signature is good, by OSS's own rules.

https://help.aliyun.com/en/oss/developer-reference/list-of-operations-by-function; where a rule is not on the
page of its operation, its source stands beside it.
"""

import asyncio
import base64
import os
from dataclasses import dataclass
from urllib.parse import quote

from oss_rules import (
    check_bucket_name,
    check_conditions,
    check_md5,
    chosen_parts,
    element,
    encoding,
    fields_of,
    joined,
    kept_fields,
    no_such_upload,
    page_length,
    range_of,
    spelt,
    wanted_parts,
    whole_number,
    xml,
)
from oss_signatures import Refusal, iso
from oss_store import Object, Store
from starlette.requests import Request
from starlette.responses import Response

MOST_PARTS = 10_000
STEP = 256 << 10
"""Bytes that are read of a file at once."""
REFUSED = frozenset({"x-oss-copy-source", "x-oss-server-side-encryption", "x-oss-callback", "x-oss-process"})
SUBRESOURCES = frozenset(
    {"acl", "append", "asyncFetch", "callback", "restore", "symlink", "tagging", "versionId", "x-oss-process"}
)
"""What a real one can, and this one can't: better refused than taken for something else."""

OPERATIONS = {
    ("PUT", "bucket", ""): "put_bucket",
    ("GET", "bucket", "uploads"): "list_multipart_uploads",
    ("PUT", "object", ""): "put_object",
    ("GET", "object", ""): "get_object",
    ("HEAD", "object", ""): "head_object",
    ("HEAD", "object", "objectMeta"): "head_object",
    ("DELETE", "object", ""): "delete_object",
    ("POST", "object", "uploads"): "initiate_multipart_upload",
    ("PUT", "object", "uploadId"): "upload_part",
    ("GET", "object", "uploadId"): "list_parts",
    ("POST", "object", "uploadId"): "complete_multipart_upload",
    ("DELETE", "object", "uploadId"): "abort_multipart_upload",
}


@dataclass(frozen=True)
class Call:
    """One request, taken apart."""

    request: Request
    bucket: str
    name: str
    query: dict
    headers: dict
    now: int
    """Milliseconds since 1970 UTC, by the server's clock."""


def operation_of(method, bucket, name, query):
    """The name of the operation that a request asks for.

    Raises:
        Refusal: there is none here.
    """
    if query.keys() & SUBRESOURCES:
        raise Refusal(501, "NotImplemented", "A header you provided implies functionality that is not here.")
    if not bucket:
        raise Refusal(501, "NotImplemented", "Buckets are not listed here.")
    of = "object" if name else "bucket"
    which = next((each for each in ("uploads", "uploadId", "objectMeta") if each in query), "")
    if "partNumber" in query and not which:
        raise Refusal(400, "InvalidArgument", "Unexpected query string parameter", "0017-00000219")
    found = OPERATIONS.get((method, of, which))
    if found is None:
        raise Refusal(
            405,
            "MethodNotAllowed",
            "The specified method is not allowed against this resource.",
            Method=method,
        )
    return found


class Operations:
    """By name, as `OPERATIONS` has them."""

    def __init__(self, store: Store, host_of):
        self.store = store
        self._host_of = host_of
        self._turns = {}

    async def run(self, operation, call):
        if REFUSED & call.headers.keys():
            raise Refusal(
                501, "NotImplemented", "A header you provided implies functionality that is not here."
            )
        if operation != "put_bucket":
            self._check_bucket(call)
        if len(call.name.encode()) > 1023:  # https://help.aliyun.com/en/oss/user-guide/object-overview
            raise Refusal(400, "InvalidObjectName", "The specified object is not valid.")
        return await getattr(self, operation)(call)

    def _check_bucket(self, call):
        check_bucket_name(call.bucket)
        if not self.store.has_bucket(call.bucket):
            raise Refusal(
                404,
                "NoSuchBucket",
                "The specified bucket does not exist.",
                BucketName=call.bucket,
            )

    def _check_free(self, call):
        forbidden = call.headers.get("x-oss-forbid-overwrite", "").lower() == "true"
        if forbidden and self.store.object(call.bucket, call.name) is not None:
            raise Refusal(
                409,
                "FileAlreadyExists",
                "The object you specified already exists and can not be overwritten.",
            )

    async def put_bucket(self, call):
        check_bucket_name(call.bucket)
        self.store.add_bucket(call.bucket)
        return Response(status_code=200)

    # Objects

    async def put_object(self, call):
        self._check_free(call)
        blob = await self._receive(call)
        md5 = base64.b64encode(blob.md5).decode()
        self.store.put(
            Object(
                call.bucket,
                call.name,
                blob.name,
                blob.size,
                blob.etag,
                md5,
                str(blob.crc),
                call.now,
                kept_fields(call.headers),
            )
        )
        return Response(
            headers={"ETag": f'"{blob.etag}"', "Content-MD5": md5, "x-oss-hash-crc64ecma": str(blob.crc)}
        )

    async def _receive(self, call):
        """The body. Raises: Refusal, where it has another MD5 than its header says."""
        given = call.headers.get("content-md5")
        if given is not None:
            check_md5(given)
        if "content-length" not in call.headers and "transfer-encoding" not in call.headers:
            raise Refusal(411, "MissingContentLength", "You must provide the Content-Length HTTP header.")
        blob = await self.store.receive(call.request.stream())
        if given is not None and base64.b64decode(given) != blob.md5:
            self.store.drop(blob.name)
            raise Refusal(
                400,
                "InvalidDigest",
                "The Content-MD5 you specified was invalid.",
                **{"Content-MD5": given},
            )
        return blob

    async def head_object(self, call):
        found = self._found(call)
        check_conditions(call.headers, found)
        return Response(headers={**fields_of(found), "Content-Length": str(found.size)})

    async def get_object(self, call):
        found = self._found(call)
        check_conditions(call.headers, found)
        standard = call.headers.get("x-oss-range-behavior") == "standard"
        span = range_of(call.headers.get("range"), found.size, standard=standard)
        start, stop = span or (0, found.size)
        headers = {**fields_of(found), "Content-Length": str(stop - start)}
        for name, value in call.query.items():
            if name.startswith("response-"):
                headers[name.removeprefix("response-")] = value
        if span is not None:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{found.size}"
        return Content(self.store.open_blob(found.blob), start, stop, 206 if span else 200, headers)

    def _found(self, call):
        found = self.store.object(call.bucket, call.name)
        if found is None:
            raise Refusal(404, "NoSuchKey", "The specified key does not exist.", Key=call.name)
        return found

    async def delete_object(self, call):
        self.store.delete(call.bucket, call.name)
        return Response(status_code=204)

    # Uploads in parts

    async def initiate_multipart_upload(self, call):
        self._check_free(call)
        id_ = self.store.begin(call.bucket, call.name, call.now, kept_fields(call.headers))
        return xml(
            "InitiateMultipartUploadResult",
            encoding(call),
            ("Bucket", call.bucket),
            ("Key", spelt(call, call.name)),
            ("UploadId", id_),
        )

    async def upload_part(self, call):
        number = call.query.get("partNumber", "")
        if not number.isdecimal() or not 1 <= int(number) <= MOST_PARTS:  # EC 0017-00000220
            raise Refusal(
                400,
                "InvalidArgument",
                f"Part number must be an integer between 1 and {MOST_PARTS}, inclusive.",
                "0017-00000220",
                ArgumentName="PartNumber",
                ArgumentValue=number,
            )
        upload = self._upload(call)
        blob = await self._receive(call)
        if not self.store.keep(upload.id, int(number), blob, call.now):  # it ended while the part came in
            self.store.drop(blob.name)
            raise no_such_upload(upload.id)
        return Response(
            headers={
                "ETag": f'"{blob.etag}"',
                "Content-MD5": base64.b64encode(blob.md5).decode(),
                "x-oss-hash-crc64ecma": str(blob.crc),
            }
        )

    def _upload(self, call):
        upload = self.store.upload(call.query["uploadId"])
        if upload is None or (upload.bucket, upload.name) != (call.bucket, call.name):
            raise no_such_upload(call.query["uploadId"])
        return upload

    async def list_parts(self, call):
        upload = self._upload(call)
        most = page_length(call, "max-parts")
        after = whole_number(call, "part-number-marker", 0)
        found = self.store.parts(upload.id, after, most + 1)
        page = found[:most]
        rows = [
            element(
                "Part",
                ("PartNumber", part.number),
                ("LastModified", iso(part.modified)),
                ("ETag", f'"{part.etag}"'),
                ("HashCrc64ecma", part.crc),
                ("Size", part.size),
            )
            for part in page
        ]
        return xml(
            "ListPartsResult",
            encoding(call),
            ("Bucket", call.bucket),
            ("Key", spelt(call, call.name)),
            ("UploadId", upload.id),
            ("StorageClass", "Standard"),
            ("PartNumberMarker", after),
            ("NextPartNumberMarker", page[-1].number if page else after),
            ("MaxParts", most),
            ("IsTruncated", str(len(found) > most).lower()),
            *rows,
        )

    async def list_multipart_uploads(self, call):
        if call.query.get("delimiter"):
            raise Refusal(501, "NotImplemented", "A delimiter is not taken here.")
        most = page_length(call, "max-uploads")
        prefix, key_marker, id_marker = (
            call.query.get(name, "") for name in ("prefix", "key-marker", "upload-id-marker")
        )
        found = self.store.uploads(call.bucket, prefix, key_marker, id_marker, most + 1)
        page, more = found[:most], len(found) > most
        rows = [
            element(
                "Upload",
                ("Key", spelt(call, upload.name)),
                ("UploadId", upload.id),
                ("StorageClass", "Standard"),
                ("Initiated", iso(upload.begun)),
            )
            for upload in page
        ]
        return xml(
            "ListMultipartUploadsResult",
            encoding(call),
            ("Bucket", call.bucket),
            ("KeyMarker", spelt(call, key_marker)),
            ("UploadIdMarker", id_marker),
            ("NextKeyMarker", spelt(call, page[-1].name) if more else ""),
            ("NextUploadIdMarker", page[-1].id if more else ""),
            ("Prefix", spelt(call, prefix)),
            ("MaxUploads", most),
            ("IsTruncated", str(more).lower()),
            *rows,
        )

    async def complete_multipart_upload(self, call):
        wanted = await wanted_parts(call)
        turn = self._turns.setdefault(call.query["uploadId"], asyncio.Lock())
        async with turn:
            upload = self._upload(call)
            self._check_free(call)
            parts = chosen_parts(wanted, self.store.parts(upload.id))
            blob = await self.store.join(parts)
            made = joined(upload, parts, blob, call.now)
            if not self.store.finish(upload, made):
                self.store.drop(blob)
                raise no_such_upload(upload.id)
        self._turns.pop(upload.id, None)
        reply = xml(
            "CompleteMultipartUploadResult",
            encoding(call),
            ("Location", f"http://{self._host_of(call)}/{quote(call.name)}"),
            ("Bucket", call.bucket),
            ("Key", spelt(call, call.name)),
            ("ETag", f'"{made.etag}"'),
        )
        reply.headers.update({"ETag": f'"{made.etag}"', "x-oss-hash-crc64ecma": made.crc})
        return reply

    async def abort_multipart_upload(self, call):
        self.store.abort(self._upload(call).id)
        return Response(status_code=204)


class Content(Response):
    """Bytes of a file, read as they are sent.

    Args:
        fd: open for reading; it is closed behind it.
        start: of the first byte.
        stop: behind the last.
        status: of HTTP.
        headers: with Content-Length.
    """

    def __init__(self, fd, start, stop, status, headers):
        super().__init__(status_code=status, headers=headers)
        self._fd, self._at, self._stop = fd, start, stop
        self.cut = None
        """Bytes after which the connection ends; None = it does not."""

    async def __call__(self, scope, receive, send):
        stop = self._stop if self.cut is None else min(self._stop, self._at + self.cut)
        try:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            while self._at < stop and (block := os.pread(self._fd, min(STEP, stop - self._at), self._at)):
                self._at += len(block)
                await send({"type": "http.response.body", "body": block, "more_body": True})
                await asyncio.sleep(0)  # a fast reader must not have the loop to itself
            if self.cut is None:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            os.close(self._fd)
