"""How presigned transfers are chosen, and what of that is stored: nothing that is signed."""

from collections.abc import Mapping
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from meowcat.core.errors import InvalidArgument
from meowcat.core.plans import DownloadPlan, Fingerprint, PlanPart, UploadedPart, UploadPlan
from meowcat.core.sessions import Receipt
from meowcat.core.transfers import ProtocolSpec
from meowcat.core.urls import HIDDEN

__all__ = [
    "TAG",
    "DownloadFields",
    "PresignedDownload",
    "PresignedUpload",
    "UploadFields",
    "download_fields",
    "receipt_of",
    "upload_fields",
    "uploaded_parts",
    "url_of",
]

TAG = "presigned"


class PresignedUpload(Struct, frozen=True):
    """Upload by the requests of a plan that a back end has signed."""

    plan: UploadPlan
    refresher: str = ""
    """The name of who brings fresh plans (`Engine(refreshers={…})`); without one a task whose URLs have run
    out, or whose process ended, waits until a plan is supplied."""

    def spec(self) -> ProtocolSpec:
        """What is stored of it: nothing that is signed."""
        if not isinstance(self.plan, UploadPlan):
            raise InvalidArgument(f"plan: expected an UploadPlan, got {type(self.plan).__name__}")
        known = asdict(self.plan.fingerprint)
        return ProtocolSpec(
            TAG, 1, {**known, "completion": self.plan.completion, "refresher": self.refresher}
        )

    def __repr__(self) -> str:
        return f"PresignedUpload({self.plan!r}, refresher={self.refresher!r})"


class UploadFields(Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of an upload's spec."""

    object: str
    size: int
    chunk: int
    count: int
    first: int
    upload_id: str
    completes: bool
    aborts: bool
    completion: str
    refresher: str

    @property
    def fingerprint(self) -> Fingerprint:
        return Fingerprint(*(getattr(self, name) for name in Fingerprint.__struct_fields__))


def upload_fields(spec: ProtocolSpec) -> UploadFields:
    """The fields of an upload's spec.

    Raises:
        InvalidArgument: it has others.
    """
    try:
        return msgspec.convert(spec.fields, UploadFields)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"presigned upload: {error}; give PresignedUpload(plan) instead") from None


class _Named(Struct, frozen=True, omit_defaults=True):
    """What a completion names a confirmed part by; the text of its receipt is this as JSON."""

    etag: str = ""
    part_id: str | None = None


def receipt_of(etag: str, part_id: str | None, checksum: str | None = None) -> Receipt:
    """What is journaled of a confirmed part."""
    return Receipt(text=msgspec.json.encode(_Named(etag, part_id)).decode(), checksum=checksum)


def uploaded_parts(plan: UploadPlan, receipts: Mapping[int, Receipt]) -> tuple[UploadedPart, ...]:
    """What `with_resumed_parts` takes, of the receipts that the journal has by the parts' indices."""
    parts = plan.ordered
    return tuple(_uploaded(parts[index], receipts[index]) for index in sorted(receipts))


def _uploaded(part: PlanPart, receipt: Receipt) -> UploadedPart:
    named = msgspec.json.decode(receipt.text, type=_Named)
    return UploadedPart(part.number, part.offset, part.size, named.etag, named.part_id, receipt.checksum)


class PresignedDownload(Struct, frozen=True):
    """Download from the URL of a plan that a back end has signed."""

    plan: DownloadPlan
    refresher: str = ""
    """As of `PresignedUpload`."""

    def spec(self) -> ProtocolSpec:
        """What is stored of it: nothing that is signed."""
        if not isinstance(self.plan, DownloadPlan):
            raise InvalidArgument(f"plan: expected a DownloadPlan, got {type(self.plan).__name__}")
        known = self.plan.fingerprint
        fields: dict[str, str | int | bool] = {"object": known.object, "refresher": self.refresher}
        if known.size is not None:
            fields["size"] = known.size
        return ProtocolSpec(TAG, 1, fields)

    def __repr__(self) -> str:
        return f"PresignedDownload({self.plan!r}, refresher={self.refresher!r})"


class DownloadFields(Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of a download's spec."""

    object: str
    refresher: str
    size: int | None = None
    """Bytes, where the plan said so."""

    @property
    def fingerprint(self) -> Fingerprint:
        return Fingerprint(self.object, self.size)


def download_fields(spec: ProtocolSpec) -> DownloadFields:
    """The fields of a download's spec.

    Raises:
        InvalidArgument: it has others.
    """
    try:
        return msgspec.convert(spec.fields, DownloadFields)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"presigned download: {error}; give PresignedDownload(plan) instead") from None


def url_of(named: str, signed: str) -> str:
    """What is transferred, as a URL without secrets, so that nobody has to supply them: its own name, where
    that is a URL; else that name at the host of `signed`, one of the plan's URLs. It is never asked for."""
    if named.startswith(("http://", "https://")) or not signed:
        address, mark, query = named.partition("?")
        return f"{address}{quote(mark + query)}" if HIDDEN in query else named
    parts = urlsplit(signed)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/{quote(named)}"
