"""Downloads from Azure: ranges of one blob, of one version or snapshot of it."""

from typing import ClassVar

from meowcat.core.http_rules import Asked
from meowcat.core.transfers import ProtocolSpec
from meowcat.protocols.azure.address import address_of, resolve
from meowcat.protocols.azure.client import PLACES, AzureSigner
from meowcat.protocols.azure.settings import TAG
from meowcat.protocols.contract import DownloadJob, Tools
from meowcat.protocols.objects.download import SignedDownload
from meowcat.protocols.signing.shared_key import VERSION

__all__ = ["AzureDownload"]


class AzureDownload(SignedDownload):
    """The content of one blob. A range is asked for with `x-ms-range`, which is signed; Range is not."""

    tag: ClassVar[str] = TAG

    def __init__(self, job: DownloadJob, tools: Tools) -> None:
        super().__init__(job, tools)
        assert job.request.protocol is not None  # noqa: S101  # it is what this class was chosen by
        spec = job.request.protocol
        address = address_of(spec)
        names = (("snapshot", "snapshot"), ("version_id", "versionid"))
        fields = [(query, str(spec.fields[name])) for name, query in names if name in spec.fields]
        self.object_url = address.with_query(*fields)
        self.signer = AzureSigner(address, str(spec.fields["credential"]), tools)
        self.sent = PLACES.sent(self._kept) | {"x-ms-version": VERSION}

    @classmethod
    def resolve(cls, url: str, spec: ProtocolSpec, plan: object | None = None) -> tuple[str, ProtocolSpec]:  # noqa: ARG003  # the contract's
        """See `address.resolve`."""
        return resolve(url, spec)

    def _headers(self, asked: Asked) -> dict[str, str]:
        headers = super()._headers(asked)
        wanted = headers.pop("Range", None)
        return headers if wanted is None else headers | {"x-ms-range": wanted}
