"""What a user says of an OSS bucket and of an object there."""

from typing import Literal

from msgspec import Struct, field

from meowcat.core.errors import InvalidArgument
from meowcat.core.transfers import ProtocolSpec, check_header
from meowcat.protocols.objects.settings import (
    MARK,
    check_choice,
    check_endpoint,
    check_metadata,
    check_name,
    metadata_fields,
)

__all__ = ["MARKER", "TAG", "AliyunOSS"]

TAG = "oss"
MARKER = f"x-oss-meta-{MARK}"
"""The header that proves an object to be of one upload of one task."""

Style = Literal["auto", "virtual", "path", "cname"]
Checking = Literal["auto", "md5", "none"]


class AliyunOSS(Struct, frozen=True, kw_only=True):
    """Where an object is, and how it is kept. All of it is journaled, so none of it is a secret."""

    endpoint: str | None = None
    """`https://host`, or the host alone; None is the public one of `region`."""
    region: str | None = None
    """As in `cn-hangzhou`; None: the one that the endpoint's host names."""
    credential: str | None = "default"
    """The name of the credential that signs; None signs nothing, for objects that everybody may read."""
    style: Style = "auto"
    """Where the bucket's name stands: before the host (`virtual`), in the path (`path`), or nowhere, where
    the endpoint is a domain of one's own that belongs to one bucket (`cname`). `auto` is path where the
    endpoint is the address of a machine, and virtual at all others."""
    additional_headers: tuple[str, ...] = ()
    """Headers that are signed besides those that always are, where a request has them: `host`, `range`."""
    checksum: Checking = "auto"
    """How bytes are compared. `auto`: the CRC-64 that OSS computes of each part and of the whole object, and
    tells in its replies, has to be that of the source. With `md5` each part's MD5 is sent along besides, so
    that OSS does not even take a damaged one; so it is in any case where one request makes the object.
    `none` leaves it to TLS. Of a download, all but `none` compare the whole with the CRC-64 that OSS tells.
    """
    storage_class: str | None = None
    """`IA`, `Archive` …; None is the bucket's."""
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
        if self.additional_headers:
            fields["additional_headers"] = ";".join(sorted(name.lower() for name in self.additional_headers))
        return ProtocolSpec(TAG, 1, fields | metadata_fields(self.metadata))

    def _check(self) -> None:
        check_endpoint(self.endpoint)
        check_choice("style", self.style, Style)
        check_choice("checksum", self.checksum, Checking)
        for name in ("region", "storage_class", "content_type", "version_id", "credential"):
            check_name(name, getattr(self, name))
        names: object = self.additional_headers
        if not isinstance(names, tuple | list):
            raise InvalidArgument(f"additional_headers {names!r}: expected a tuple of names, as ('host',)")
        for name in self.additional_headers:
            check_header(name, "")
        check_metadata(self.metadata)
