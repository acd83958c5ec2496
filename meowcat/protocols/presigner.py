"""What a back end makes presigned plans with: it names an object as a direct transfer would, and signs.

Nothing here asks a server. The one request that a back end has to send itself, which opens an upload, is
signed as all others are, and sent with whatever the back end talks HTTP with.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from meowcat.core.errors import InvalidArgument
from meowcat.core.kinds import check_size, check_text
from meowcat.core.pieces import MAX_PIECE
from meowcat.core.plans import DownloadPlan, PlanPart, PlanRequest, UploadPlan
from meowcat.core.sessions import Capabilities
from meowcat.core.transfers import ProtocolSpec
from meowcat.core.uploads import choose_part_size
from meowcat.core.urls import redact
from meowcat.protocols.credentials import AccessKey
from meowcat.protocols.objects.address import ObjectAddress
from meowcat.protocols.objects.documents import read_xml, text_of
from meowcat.protocols.objects.multipart import MultipartUpload
from meowcat.protocols.objects.settings import MARK, check_name, object_headers
from meowcat.protocols.oss import AliyunOSS, OSSUpload
from meowcat.protocols.oss import address as oss
from meowcat.protocols.s3 import S3, S3Upload
from meowcat.protocols.s3 import address as s3
from meowcat.protocols.signing import oss_v4, sigv4

__all__ = ["Presigner"]

LONGEST = 7 * 24 * 3600
"""Seconds that a URL is good for at most, at S3 and at OSS."""


@dataclass(frozen=True)
class _Store:
    """What of it is the provider's own."""

    uploads: type[MultipartUpload]
    resolve: Callable[[str, ProtocolSpec], tuple[str, ProtocolSpec]]
    address: Callable[[ProtocolSpec], ObjectAddress]
    presign: Callable[[ProtocolSpec], partial[str]]
    completion: str
    ranges: dict[str, str]
    """Headers that a request for a range has to have."""


def _presign_s3(spec: ProtocolSpec) -> partial[str]:
    return partial(sigv4.presign, region=s3.Address.of(spec).region)


def _presign_oss(spec: ProtocolSpec) -> partial[str]:
    address = oss.Address.of(spec)
    return partial(
        oss_v4.presign,
        region=address.region,
        bucket=None if address.style == "path" else address.bucket,
        additional_headers=tuple(filter(None, str(spec.fields.get("additional_headers", "")).split(";"))),
    )


_STORES = {
    S3: _Store(S3Upload, s3.resolve, s3.Address.of, _presign_s3, "s3-xml", {}),
    AliyunOSS: _Store(
        OSSUpload,
        oss.resolve,
        oss.Address.of,
        _presign_oss,
        "oss-xml",
        {"x-oss-range-behavior": "standard"},
    ),
}


class Presigner:
    """One object, and who may sign for it. Its repr holds no secret.

    Args:
        url: `oss://bucket/key`, `s3://bucket/key`, or the object's http(s) URL, as for a direct transfer. The
            signed URLs go to its endpoint: not to the provider's internal one, unless clients are there.
        protocol: `AliyunOSS(…)` or `S3(…)`, as for a direct transfer. Its `credential` and its `checksum`
            count for nothing here; what it says of the object is signed.
        key: that signs. With a session's token no URL outlives the session.
        expires: seconds that each URL is good for; at most seven days.
        wall: milliseconds since 1970 UTC.

    Raises:
        InvalidArgument: names the part, the value and what is expected.
    """

    def __init__(
        self,
        url: str,
        protocol: AliyunOSS | S3,
        key: AccessKey,
        *,
        expires: int = 3600,
        wall: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        check_text("URL", url)
        if type(protocol) not in _STORES:
            raise InvalidArgument(f"protocol {type(protocol).__name__}: expected AliyunOSS(…) or S3(…)")
        if not isinstance(key, AccessKey):
            raise InvalidArgument(f"key: expected an AccessKey, got {type(key).__name__}")
        if not isinstance(expires, int) or not 1 <= expires <= LONGEST:
            raise InvalidArgument(
                f"expires {expires!r}: expected 1 to {LONGEST} seconds, which is seven days"
            )
        self._store = _STORES[type(protocol)]
        self._url, self._spec = self._store.resolve(url, protocol.spec())
        self._address = self._store.address(self._spec)
        self._presign = self._store.presign(self._spec)
        self._key, self._expires, self._wall = key, expires, wall

    def __repr__(self) -> str:
        return f"Presigner({redact(self._url)!r})"

    def begin(self, mark: str | None = None) -> PlanRequest:
        """The request that opens an upload in parts. The back end sends it, with its headers as they are and
        without a body, and reads the reply with `upload_id`.

        Args:
            mark: any text of the back end's own that tells this upload from all others; kept with the object,
                so that a completion whose reply was lost is told from somebody else's. Then every
                `upload_plan` of the upload needs it, too.
        """
        return self._request("POST", self._address.with_query(("uploads", "")), self._of_object(mark))

    def upload_id(self, reply: bytes) -> str:
        """The id of the upload that was opened.

        Args:
            reply: the body of the reply to `begin`.

        Raises:
            InvalidArgument: it names none; an error of the provider's is named by its code.
        """
        root = read_xml(reply)
        found = text_of(root, "UploadId")
        if not found:
            code = text_of(root, "Code") if root is not None and root.tag == "Error" else ""
            raise InvalidArgument(
                f"the reply to the begin of {self._address.shown} has no UploadId"
                + (f", but the error {code[:60]!r}" if code else "")
            )
        return found

    def upload_plan(
        self, size: int, upload_id: str = "", *, part_size: int | None = None, mark: str | None = None
    ) -> UploadPlan:
        """A plan of an upload; made again, it is the same one with fresh URLs.

        Args:
            size: bytes in all.
            upload_id: of the upload that `begin` opened. Without one, a single request makes the object, of
                512 MiB at most, or of no bytes at all.
            part_size: bytes in each part but the last; None is 8 MiB, or more where there would be more than
                10,000 parts.
            mark: the one that `begin` was given.

        Raises:
            InvalidArgument: the provider takes no content of that size, or not in such parts.
        """
        check_size("size", size)
        check_text("upload_id", upload_id)
        uploads, one = self._store.uploads, not upload_id
        able = Capabilities(
            empty=one,
            max_parts=1 if one else uploads.max_parts,
            min_part=uploads.min_part,
            max_part=uploads.max_part,
            max_size=uploads.max_size,
        )
        if "version_id" in self._spec.fields:
            raise InvalidArgument("version_id: an upload makes a new version; it is for downloads")
        if one and size > MAX_PIECE:
            raise InvalidArgument(
                f"size {size}: a single request takes at most {MAX_PIECE} bytes; open an upload by `begin`, "
                "and give its upload_id"
            )
        part = choose_part_size(size, part_size, able)
        return UploadPlan(
            total_size=size,
            chunk_size=part,
            parts=(self._whole(size, mark),) if one else self._parts(size, part, upload_id),
            upload_id=upload_id,
            complete=None if one else self._of_upload("POST", upload_id),
            abort=None if one else self._of_upload("DELETE", upload_id),
            check=self._request("HEAD", self._url),
            proof=self._marked(mark),
            completion=self._store.completion,
        )

    def download_plan(self, size: int | None = None) -> DownloadPlan:
        """A plan of a download, in ranges.

        Args:
            size: bytes in all, where the back end knows.
        """
        version = self._spec.fields.get("version_id")
        url = self._address.with_query(*([("versionId", str(version))] if version else []))
        headers = self._store.ranges
        get, head = (self._request(method, url, headers) for method in ("GET", "HEAD"))
        return DownloadPlan(
            url=get.url, head_url=head.url, headers=dict(headers), total_size=size, expires=get.expires
        )

    # Parts

    def _whole(self, size: int, mark: str | None) -> PlanPart:
        made = self._request("PUT", self._url, self._of_object(mark))
        return PlanPart(1, 0, size, made.url, made.headers, made.expires)

    def _parts(self, size: int, part: int, upload_id: str) -> tuple[PlanPart, ...]:
        parts = []
        for number, offset in enumerate(range(0, size, part), start=1):
            url = self._address.with_query(("partNumber", str(number)), ("uploadId", upload_id))
            made = self._request("PUT", url)
            parts.append(PlanPart(number, offset, min(part, size - offset), made.url, expires=made.expires))
        return tuple(parts)

    # Requests

    def _of_upload(self, method: str, upload_id: str) -> PlanRequest:
        return self._request(method, self._address.with_query(("uploadId", upload_id)))

    def _request(self, method: str, url: str, headers: Mapping[str, str] | None = None) -> PlanRequest:
        """Headers that are signed are sent as they are."""
        now, ends = self._wall(), self._key.expires
        if ends is not None and ends <= now:
            raise InvalidArgument(f"key: its session ended {(now - ends) // 1000} s ago; ask for a fresh one")
        given = dict(headers or {})
        signed = self._presign(method, url, self._key, at=now, expires=self._expires, headers=given)
        sooner = ends is not None and ends < now + self._expires * 1000
        return PlanRequest(method, signed, given, expires=ends if sooner else None)

    def _of_object(self, mark: str | None) -> dict[str, str]:
        return self._marked(mark) | object_headers(self._spec.fields, self._store.uploads.prefix)

    def _marked(self, mark: str | None) -> dict[str, str]:
        check_name("mark", mark)
        return {} if mark is None else {f"{self._store.uploads.prefix}meta-{MARK}": mark}
