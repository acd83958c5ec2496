"""What a back end makes plans for Azure with: it names a blob as a direct transfer would, and signs.

A shared access signature is of the blob, and not of a request: every URL of an upload has the same one.
Nothing here asks a server, and nothing has to be opened or dropped at one.
"""

import time
from collections.abc import Callable

from meowcat.core.errors import InvalidArgument
from meowcat.core.kinds import check_size, check_text, kind_of
from meowcat.core.pieces import MAX_PIECE
from meowcat.core.plans import DownloadPlan, PlanPart, PlanRequest, UploadPlan
from meowcat.core.sessions import Capabilities
from meowcat.core.uploads import choose_part_size
from meowcat.core.urls import redact
from meowcat.protocols.azure.address import address_of, resolve
from meowcat.protocols.azure.blocks import block_id, nonce_of
from meowcat.protocols.azure.settings import MARK, AzureBlob
from meowcat.protocols.azure.upload import MAX_BLOCK, MAX_BLOCKS, MAX_SIZE, blob_headers
from meowcat.protocols.credentials import AzureKey
from meowcat.protocols.objects.settings import check_name
from meowcat.protocols.signing.sas import service_sas

__all__ = ["AzurePresigner"]

_NO_DIGEST = "0" * 64
"""In the ids of blocks whose content nobody knows who signs for it. So all ids of a blob have one length,
whoever uploads to it."""


class AzurePresigner:
    """One blob, and who may sign for it. Its repr holds no secret.

    Args:
        url: `azure://container/blob`, or the blob's http(s) URL, as for a direct transfer.
        protocol: as for a direct transfer. Its `credential` and its `checksum` count for nothing here.
        key: that signs.
        expires: seconds that each URL is good for.
        wall: milliseconds since 1970 UTC.

    Raises:
        InvalidArgument: names the part, the value and what is expected.
    """

    def __init__(
        self,
        url: str,
        protocol: AzureBlob,
        key: AzureKey,
        *,
        expires: int = 3600,
        wall: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        check_text("URL", url)
        if not isinstance(protocol, AzureBlob):
            raise InvalidArgument(f"protocol: expected an AzureBlob(…), got {kind_of(protocol)}")
        if not isinstance(key, AzureKey):
            raise InvalidArgument(f"key: expected an AzureKey, got {type(key).__name__}")
        if not isinstance(expires, int) or expires < 1:
            raise InvalidArgument(f"expires {expires!r}: expected 1 second or more")
        self._url, self._spec = resolve(url, protocol.spec())
        self._address = address_of(self._spec)
        self._key, self._expires, self._wall = key, expires, wall

    def __repr__(self) -> str:
        return f"AzurePresigner({redact(self._url)!r})"

    def upload_plan(self, size: int, upload_id: str = "", *, part_size: int | None = None) -> UploadPlan:
        """A plan of an upload; made again for the same `upload_id`, it is the same one with fresh URLs.

        Args:
            size: bytes in all.
            upload_id: any text of the back end's own that tells this upload from all others, in ASCII. It
                names the blocks, and is kept with the blob, so that a completion whose reply was lost is told
                from somebody else's. Without one, a single request makes the blob, of 512 MiB at most, or of
                no bytes at all.
            part_size: bytes in each block but the last; None is 8 MiB, or more where there would be more than
                50,000 blocks.

        Raises:
            InvalidArgument: Azure takes no content of that size, or not in such blocks.
        """
        check_size("size", size)
        one = not upload_id
        check_name("upload_id", upload_id or None)
        for name in ("snapshot", "version_id"):
            if name in self._spec.fields:
                raise InvalidArgument(f"{name}: an upload makes a new blob; it is for downloads")
        if one and size > MAX_PIECE:
            raise InvalidArgument(
                f"size {size}: a single request takes at most {MAX_PIECE} bytes; give an upload_id"
            )
        able = Capabilities(
            empty=one, max_parts=1 if one else MAX_BLOCKS, max_part=MAX_BLOCK, max_size=MAX_SIZE
        )
        part = choose_part_size(size, part_size, able)
        proof = {f"x-ms-meta-{MARK}": upload_id} if upload_id else {}
        headers = blob_headers(self._spec.fields) | proof
        if self._spec.fields["overwrite"] == "never":
            headers["If-None-Match"] = "*"
        return UploadPlan(
            total_size=size,
            chunk_size=part,
            parts=(self._whole(size, headers),) if one else self._blocks(size, part, upload_id),
            upload_id=upload_id,
            complete=None if one else self._request("PUT", headers, ("comp", "blocklist")),
            check=PlanRequest("HEAD", self._signed("r")),
            proof=proof,
            completion="default" if one else "azure-block-list",
        )

    def download_plan(self, size: int | None = None) -> DownloadPlan:
        """A plan of a download, in ranges.

        Args:
            size: bytes in all, where the back end knows.
        """
        names = (("snapshot", "snapshot"), ("version_id", "versionid"))
        which = [(query, str(self._spec.fields[name])) for name, query in names if name in self._spec.fields]
        url = self._signed("r", *which)
        return DownloadPlan(url=url, head_url=url, total_size=size)

    def _whole(self, size: int, headers: dict[str, str]) -> PlanPart:
        return PlanPart(1, 0, size, self._signed("cw"), headers | {"x-ms-blob-type": "BlockBlob"})

    def _blocks(self, size: int, part: int, upload_id: str) -> tuple[PlanPart, ...]:
        nonce, signature = nonce_of(upload_id, upload_id), self._signature("cw")
        parts = []
        for index, offset in enumerate(range(0, size, part)):
            name = block_id(nonce, index, _NO_DIGEST)
            url = self._address.with_query(("blockid", name), ("comp", "block"))
            length = min(part, size - offset)
            parts.append(PlanPart(index + 1, offset, length, f"{url}&{signature}", part_id=name))
        return tuple(parts)

    def _request(self, method: str, headers: dict[str, str], *fields: tuple[str, str]) -> PlanRequest:
        return PlanRequest(method, self._signed("cw", *fields), headers)

    def _signed(self, permissions: str, *fields: tuple[str, str]) -> str:
        """The blob's URL with a query, and a signature that permits this."""
        url = self._address.with_query(*fields)
        return f"{url}{'&' if fields else '?'}{self._signature(permissions)}"

    def _signature(self, permissions: str) -> str:
        which = {
            name: str(self._spec.fields[name])
            for name in ("snapshot", "version_id")
            if name in self._spec.fields
        }
        sas = service_sas(
            self._key,
            self._address.container,
            self._address.blob,
            permissions=permissions,
            expires=self._wall() + self._expires * 1000,
            https_only=self._address.endpoint.startswith("https:"),
            snapshot=which.get("snapshot"),
            version_id=which.get("version_id"),
        )
        return sas.query
