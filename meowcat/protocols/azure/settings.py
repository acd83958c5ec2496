"""What a user says of an Azure account and of a blob there."""

import re
from typing import Literal

from msgspec import Struct, field

from meowcat.core.errors import InvalidArgument
from meowcat.core.transfers import ProtocolSpec
from meowcat.protocols.objects.settings import (
    META,
    check_choice,
    check_endpoint,
    check_metadata,
    check_name,
    metadata_fields,
)

__all__ = ["MARK", "META", "TAG", "AzureBlob"]

TAG = "azure"
MARK = "meowcattask"
"""The name of the metadata that proves a blob to be of one upload of one task. Azure takes names of variables
alone: no hyphens."""

Checking = Literal["auto", "md5", "crc64nvme", "none"]
Replacing = Literal["never", "replace"]

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")


class AzureBlob(Struct, frozen=True, kw_only=True):
    """Where a blob is, and how it is kept. All of it is journaled, so none of it is a secret."""

    account: str | None = None
    """The storage account that azure:// URLs are of."""
    endpoint: str | None = None
    """Of the account: `https://host`, or `https://host/account` where the account stands in the path. None is
    `https://ACCOUNT.blob.core.windows.net`."""
    credential: str | None = "default"
    """The name of the credential: an `AzureKey`, an `AzureSas` or a `BearerToken`. None signs nothing, for
    containers that everybody may read."""
    overwrite: Replacing = "never"
    """Of an upload: `never` leaves a blob alone that is there, or that comes before the end; `replace`
    replaces the one that was there at the beginning, and none that comes after."""
    checksum: Checking = "auto"
    """What Azure compares each block with: `md5` is Content-MD5; `crc64nvme` is its own, and is faster to
    compute; `none` leaves it to TLS. `auto` is md5, which its emulators know, too."""
    tier: str | None = None
    """`Hot`, `Cool`, `Cold`, `Archive`; None is the account's."""
    content_type: str | None = None
    """The media type that downloads of the blob will say; None is `application/octet-stream`."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Kept with the blob: names as of variables, values in ASCII."""
    snapshot: str | None = None
    """Of a download: the instant of the snapshot that is meant; None is the blob itself."""
    version_id: str | None = None
    """Of a download: which version of the blob; None is the newest."""

    def spec(self) -> ProtocolSpec:
        """The same as a plain value, as it is journaled.

        Raises:
            InvalidArgument: a field that can't be worked with.
        """
        self._check()
        names = (
            "account",
            "endpoint",
            "overwrite",
            "checksum",
            "tier",
            "content_type",
            "snapshot",
            "version_id",
        )
        given = {name: getattr(self, name) for name in names}
        fields: dict[str, str | int | bool] = {
            name: value for name, value in given.items() if value is not None
        }
        fields["credential"] = self.credential or ""
        return ProtocolSpec(TAG, 1, fields | metadata_fields(self.metadata))

    def _check(self) -> None:
        check_endpoint(self.endpoint)
        check_choice("overwrite", self.overwrite, Replacing)
        check_choice("checksum", self.checksum, Checking)
        for name in ("credential", "tier", "content_type", "snapshot", "version_id"):
            check_name(name, getattr(self, name))
        check_name("account", self.account)
        if self.account is not None and _ACCOUNT.fullmatch(self.account) is None:
            raise InvalidArgument(f"account {self.account!r}: expected 3 to 24 of a-z and 0-9")
        if self.snapshot is not None and self.version_id is not None:
            raise InvalidArgument("snapshot and version_id: a blob's one or its other; give one of them")
        check_metadata(self.metadata)
        for name in self.metadata:
            if _VARIABLE.fullmatch(name) is None:
                raise InvalidArgument(
                    f"metadata {name!r}: Azure takes names of variables: letters, digits and '_', and no "
                    "digit first"
                )
            if name.lower() == MARK:
                raise InvalidArgument(f"metadata {name!r}: the name is taken by meowcat's own mark")
