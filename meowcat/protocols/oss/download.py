"""Downloads from OSS: ranges of one version of an object."""

from typing import ClassVar

from meowcat.core.http_rules import Asked
from meowcat.core.transfers import ProtocolSpec
from meowcat.core.values import Checksum
from meowcat.protocols.contract import DownloadJob, Tools
from meowcat.protocols.objects.download import SignedDownload
from meowcat.protocols.oss.address import Address, resolve
from meowcat.protocols.oss.client import PLACES, OSSSigner
from meowcat.protocols.oss.replies import CRC64, crc64_in
from meowcat.protocols.oss.settings import TAG
from meowcat.transport.contract import Headers

__all__ = ["OSSDownload"]


class OSSDownload(SignedDownload):
    """The content of one object, or of one version of it."""

    tag: ClassVar[str] = TAG

    def __init__(self, job: DownloadJob, tools: Tools) -> None:
        super().__init__(job, tools)
        assert job.request.protocol is not None  # noqa: S101  # it is what this class was chosen by
        fields = job.request.protocol.fields
        address = Address.of(job.request.protocol)
        version = fields.get("version_id")
        self.object_url = address.with_query(*([("versionId", str(version))] if version else []))
        additional = str(fields.get("additional_headers", ""))
        self.signer = OSSSigner(address, str(fields["credential"]), tools, additional)
        self.sent = PLACES.sent(self._kept)
        self._compares = fields["checksum"] != "none"

    @classmethod
    def resolve(cls, url: str, spec: ProtocolSpec, plan: object | None = None) -> tuple[str, ProtocolSpec]:  # noqa: ARG003  # the contract's
        """See `address.resolve`."""
        return resolve(url, spec)

    def _headers(self, asked: Asked) -> dict[str, str]:
        """Without the last, OSS answers a range that lies outside with 200 and all of the content.

        https://www.alibabacloud.com/help/en/oss/developer-reference/getobject
        """
        return super()._headers(asked) | {"x-oss-range-behavior": "standard"}

    def whole_digests(self, headers: Headers) -> tuple[Checksum, ...]:
        """The CRC-64 is that of the object, also on a reply with a part of it; not of what OSS has compressed
        on the way."""
        encodings = [value.strip().lower() for name, value in headers if name.lower() == "content-encoding"]
        said = crc64_in(headers)
        if not self._compares or said is None or any(each not in ("", "identity") for each in encodings):
            return ()
        return (Checksum(CRC64, said),)
