"""Downloads from S3: ranges of one version of an object."""

from typing import ClassVar

from meowcat.core.transfers import ProtocolSpec
from meowcat.protocols.contract import DownloadJob, Tools
from meowcat.protocols.objects.download import SignedDownload
from meowcat.protocols.s3.address import address_of, resolve
from meowcat.protocols.s3.client import S3Signer, sent_with
from meowcat.protocols.s3.settings import TAG

__all__ = ["S3Download"]


class S3Download(SignedDownload):
    """The content of one object, or of one version of it."""

    tag: ClassVar[str] = TAG

    def __init__(self, job: DownloadJob, tools: Tools) -> None:
        super().__init__(job, tools)
        assert job.request.protocol is not None  # noqa: S101  # it is what this class was chosen by
        spec = job.request.protocol
        address = address_of(spec)
        version = spec.fields.get("version_id")
        self.object_url = address.with_query(*([("versionId", str(version))] if version else []))
        self.signer = S3Signer(address, str(spec.fields["credential"]), tools)
        self.sent = sent_with(self._kept)

    @classmethod
    def resolve(cls, url: str, spec: ProtocolSpec, plan: object | None = None) -> tuple[str, ProtocolSpec]:  # noqa: ARG003  # the contract's
        """See `address.resolve`."""
        return resolve(url, spec)
