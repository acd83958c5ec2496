"""The protocols that there are: meowcat's own, and those of the application."""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self, TypeVar

from meowcat.core.errors import InvalidArgument
from meowcat.core.kinds import kind_of
from meowcat.core.transfers import ProtocolSpec, Upload
from meowcat.protocols.azure import AzureDownload, AzureUpload
from meowcat.protocols.contract import DownloadProtocol, UploadProtocol
from meowcat.protocols.form_upload import FormProtocol
from meowcat.protocols.oss import OSSDownload, OSSUpload
from meowcat.protocols.presigned import PresignedProtocol
from meowcat.protocols.presigned_download import PresignedRange
from meowcat.protocols.s3 import S3Download, S3Upload

__all__ = ["Protocols", "download_needs_of", "download_protocol_of", "upload_needs_of", "upload_protocol_of"]

UPLOADS: tuple[type[UploadProtocol], ...] = (
    FormProtocol,
    PresignedProtocol,
    S3Upload,
    OSSUpload,
    AzureUpload,
)
DOWNLOADS: tuple[type[DownloadProtocol], ...] = (PresignedRange, S3Download, OSSDownload, AzureDownload)
"""Those that come with meowcat, but for plain HTTP, which has no name."""

Uploads = dict[str, type[UploadProtocol]]
Downloads = dict[str, type[DownloadProtocol]]
Kind = TypeVar("Kind", type[UploadProtocol], type[DownloadProtocol])


@dataclass(frozen=True)
class Protocols:
    """By tag. One tag may be that of an upload protocol and of a download protocol."""

    uploads: Uploads
    downloads: Downloads

    @classmethod
    def with_own(cls, own: Iterable[type[UploadProtocol] | type[DownloadProtocol]]) -> Self:
        """Meowcat's, and those of the application, which may not take their names.

        Raises:
            InvalidArgument: no class of a protocol, or a tag that is taken.
        """
        found = cls({each.tag: each for each in UPLOADS}, {each.tag: each for each in DOWNLOADS})
        if not isinstance(own, Iterable):
            raise InvalidArgument(f"protocols: expected a list of classes, got {kind_of(own)}")
        for each in own:
            if not inspect.isclass(each) or inspect.isabstract(each):
                raise _no_protocol(each)
            if issubclass(each, UploadProtocol):
                _add(found.uploads, each)
            elif issubclass(each, DownloadProtocol):
                _add(found.downloads, each)
            else:
                raise _no_protocol(each)
        return found

    def __contains__(self, tag: str) -> bool:
        return tag in self.uploads or tag in self.downloads


def _no_protocol(found: object) -> InvalidArgument:
    return InvalidArgument(
        f"protocol {found!r}: expected a subclass of UploadProtocol or DownloadProtocol, with all its methods"
    )


def _add(known: dict[str, Kind], one: Kind) -> None:
    tag = getattr(one, "tag", None)
    if not isinstance(tag, str) or not tag:
        raise InvalidArgument(f"protocol {one.__name__}: expected a tag, a text that is not empty")
    if tag in known or tag == "http":
        raise InvalidArgument(f"protocol {one.__name__}: the tag {tag!r} is taken")
    known[tag] = one


def upload_protocol_of(protocols: Protocols, spec: ProtocolSpec) -> type[UploadProtocol]:
    """The upload protocol that a spec names.

    Raises:
        InvalidArgument: nobody registered it, or only another version.
    """
    return _named(protocols.uploads, spec)


def download_protocol_of(protocols: Protocols, spec: ProtocolSpec) -> type[DownloadProtocol]:
    """The same of a download protocol."""
    return _named(protocols.downloads, spec)


def _named(known: dict[str, Kind], spec: ProtocolSpec) -> Kind:
    if not isinstance(spec, ProtocolSpec):
        raise InvalidArgument(f"protocol: expected settings such as S3(), got {kind_of(spec)}")
    found = known.get(spec.tag)
    if found is None:
        raise InvalidArgument(
            f"protocol {spec.tag!r}: expected one of {', '.join(known) or 'none'}; register others with "
            "Engine(protocols=[…])"
        )
    if not 1 <= spec.version <= found.version:
        raise InvalidArgument(f"protocol {spec.tag!r} version {spec.version}: expected 1 to {found.version}")
    return found


def upload_needs_of(protocol: type[UploadProtocol], spec: ProtocolSpec, request: Upload) -> tuple[str, ...]:
    """What must be registered before anything of the request is sent."""
    source = (f"source:{request.source}",) if request.origin == "named" else ()
    return (*protocol.needs(spec), *source, *(() if protocol in UPLOADS else (f"protocol:{spec.tag}",)))


def download_needs_of(protocol: type[DownloadProtocol], spec: ProtocolSpec) -> tuple[str, ...]:
    """What must be registered before anything is asked for."""
    return (*protocol.needs(spec), *(() if protocol in DOWNLOADS else (f"protocol:{spec.tag}",)))
