"""What a user says of an S3 server and of an object there."""

from typing import Literal

from msgspec import Struct, field

from meowcat.core.transfers import ProtocolSpec
from meowcat.protocols.objects.settings import (
    MARK,
    check_choice,
    check_endpoint,
    check_metadata,
    check_name,
    metadata_fields,
)

__all__ = ["MARKER", "S3", "TAG"]

TAG = "s3"
MARKER = f"x-amz-meta-{MARK}"
"""The header that proves an object to be of one upload of one task."""

Style = Literal["auto", "path", "virtual"]
Checking = Literal["auto", "crc64nvme", "sha256", "md5", "none"]


class S3(Struct, frozen=True, kw_only=True):
    """Where an object is, and how it is kept. All of it is journaled, so none of it is a secret."""

    endpoint: str | None = None
    """`https://host` of the server; None is AWS in `region`."""
    region: str | None = None
    """None: the one that an endpoint of AWS names, else `us-east-1`, which most other servers take."""
    credential: str | None = "default"
    """The name of the credential that signs; None signs nothing, for public buckets."""
    style: Style = "auto"
    """Where the bucket's name stands: before the host (`virtual`) or in the path (`path`). `auto` is virtual
    at AWS and at those clones that take nothing else, and path at all others."""
    checksum: Checking = "auto"
    """What the server compares each part with. `crc64nvme` also covers the whole object; `sha256` each part;
    `md5` is Content-MD5, which every server knows; `none` leaves it to TLS. `auto` is crc64nvme at AWS and
    wherever a server says that it takes it, and md5 elsewhere."""
    storage_class: str | None = None
    """`STANDARD_IA`, `INTELLIGENT_TIERING` …; None is the server's default."""
    content_type: str | None = None
    """The media type that downloads of the object will say; None is the server's default."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Kept with the object: names as in header fields, values in ASCII."""
    version_id: str | None = None
    """Of a download: which version of the object; None is the newest."""

    def spec(self) -> ProtocolSpec:
        """The same as a plain value, as it is journaled.

        Raises:
            InvalidArgument: a field that can't be worked with.
        """
        self._check()
        names = ("endpoint", "region", "style", "checksum", "storage_class", "content_type", "version_id")
        given = {name: getattr(self, name) for name in names}
        fields: dict[str, str | int | bool] = {
            name: value for name, value in given.items() if value is not None
        }
        fields["credential"] = self.credential or ""
        return ProtocolSpec(TAG, 1, fields | metadata_fields(self.metadata))

    def _check(self) -> None:
        check_endpoint(self.endpoint)
        check_choice("style", self.style, Style)
        check_choice("checksum", self.checksum, Checking)
        for name in ("region", "storage_class", "content_type", "version_id", "credential"):
            check_name(name, getattr(self, name))
        check_metadata(self.metadata)
