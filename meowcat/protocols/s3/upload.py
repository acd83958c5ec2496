"""Uploads to S3.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
"""

from collections.abc import Mapping
from typing import ClassVar
from xml.etree import ElementTree as ET

from meowcat.core.sessions import Capabilities, Receipt, Session
from meowcat.core.transfers import ProtocolSpec
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.contract import Part, Refused
from meowcat.protocols.objects.address import ObjectAddress
from meowcat.protocols.objects.documents import Listed, Page, error_code, listed_parts, text_of
from meowcat.protocols.objects.exchange import Signer
from meowcat.protocols.objects.multipart import MultipartUpload
from meowcat.protocols.s3.address import address_of, is_aws, resolve
from meowcat.protocols.s3.checksums import CHECKSUMS, base64_of, composite_sha256, hex_of
from meowcat.protocols.s3.client import PLACES, S3Signer
from meowcat.protocols.s3.replies import checksum_of, completion
from meowcat.protocols.s3.settings import TAG
from meowcat.protocols.wire import Reply

__all__ = ["S3Upload"]

_UNKNOWN_HEADER = frozenset({400, 501})
"""What a server answers that takes no checksum."""
_OPAQUE = "opaque-etags"
"""What the session remembers where the object is encrypted: that its ETags are no MD5s."""


class S3Upload(MultipartUpload):
    """One upload of one object."""

    tag: ClassVar[str] = TAG
    prefix = "x-amz-"
    places = PLACES
    min_part = 5 << 20
    max_size = 5 << 40

    @classmethod
    def _resolved(cls, url: str, spec: ProtocolSpec) -> tuple[str, ProtocolSpec]:
        return resolve(url, spec)

    def _reached(self, credential: str) -> tuple[ObjectAddress, Signer]:
        address = address_of(self.job.spec)
        return address, S3Signer(address, credential, self.tools)

    def _wanted_checksum(self) -> str | None:
        wanted = str(self.job.spec.fields["checksum"])
        if wanted == "auto":
            return "crc64nvme" if is_aws(self._address.endpoint) else "md5"
        return None if wanted == "none" else wanted

    def _multipart(self, algorithm: str | None, whole_checksum: str | None = None) -> Capabilities:  # noqa: ARG002  # it follows from the other
        return super()._multipart(algorithm, algorithm if algorithm == "crc64nvme" else None)

    async def _create(self, capabilities: Capabilities, mark: str) -> Session:
        """Where the server may choose, it is asked for the checksum of the whole, and takes it or not."""
        algorithm = capabilities.part_checksum
        asking = self.job.spec.fields["checksum"] == "auto" and algorithm == "md5"
        reply = await self._begin(mark, _announced("crc64nvme" if asking else algorithm))
        if asking and reply.status in _UNKNOWN_HEADER and _is_about_checksums(reply):
            reply = await self._begin(mark)
        if asking and reply.header("x-amz-checksum-algorithm") == CHECKSUMS["crc64nvme"].algorithm:
            algorithm = "crc64nvme"
        facts = {_OPAQUE: "yes"} if _is_encrypted(reply) else {}
        return self._begun(reply, self._multipart(algorithm), mark, facts)

    def _listed(self, session: Session, reply: Reply) -> Page[Listed]:
        return listed_parts(reply, checksum_of, md5=_OPAQUE not in session.facts)

    async def _checked(self, part: Part, algorithm: str | None) -> tuple[dict[str, str], str | None]:
        if algorithm is None:
            return {}, None
        digits = await part.checksum(algorithm)
        header = "content-md5" if algorithm == "md5" else CHECKSUMS[algorithm].header
        return {header: base64_of(digits)}, f"{algorithm}:{digits}"

    def _payload(self, checksum: str | None) -> str | None:
        algorithm, _, digits = (checksum or "").partition(":")
        return digits if algorithm == "sha256" else None

    def _compare(self, reply: Reply, checksum: str | None) -> None:
        algorithm, _, digits = (checksum or "").partition(":")
        names = CHECKSUMS.get(algorithm)
        said = reply.header(names.header) if names is not None else None
        if said is not None and hex_of(said) != digits:
            raise Refused(self._differs(algorithm, digits, said))

    # The commit

    def _completion(self, session: Session, receipts: Mapping[int, Receipt]) -> tuple[dict[str, str], bytes]:
        checksum = self._whole(session, receipts)
        names = CHECKSUMS["crc64nvme"]
        headers = {names.header: base64_of(checksum), "x-amz-checksum-type": names.type} if checksum else {}
        return headers, completion(receipts, session.capabilities.part_checksum)

    def _whole(self, session: Session, receipts: Mapping[int, Receipt]) -> str | None:
        """The CRC-64/NVME of the whole, where the parts have theirs."""
        named = session.capabilities.part_checksum == "crc64nvme"
        return self._combined("crc64nvme", receipts) if named else None

    def _covers(
        self,
        session: Session,
        receipts: Mapping[int, Receipt],
        reply: Reply,  # noqa: ARG002  # S3 says it in the document
        root: ET.Element,
    ) -> bool:
        algorithm = session.capabilities.part_checksum or ""
        expected = self._whole_as_said(session, receipts)
        said = text_of(root, CHECKSUMS[algorithm].element) if algorithm in CHECKSUMS else ""
        if expected and said and said != expected:
            raise Refused(self._differs(algorithm, expected, said))
        return bool(expected and said)

    def _whole_as_said(self, session: Session, receipts: Mapping[int, Receipt]) -> str | None:
        """What the server should say of the whole, in its own form."""
        if session.capabilities.part_checksum == "crc64nvme":
            digits = self._whole(session, receipts)
            return base64_of(digits) if digits else None
        given = [(receipts[index].checksum or "").partition(":") for index in sorted(receipts)]
        if all(name == "sha256" for name, _, _ in given):
            return composite_sha256([digits for _, _, digits in given])
        return None

    def _differs(self, algorithm: str, sent: str, said: str) -> Fault:
        detail = f"{self._address.endpoint} has {algorithm} {said[:60]!r}; {sent[:60]!r} was sent"
        return Fault(kind=FaultKind.CHECKSUM, detail=detail)


def _announced(algorithm: str | None) -> dict[str, str]:
    """The headers that say with which checksum the parts will come."""
    names = CHECKSUMS.get(algorithm or "")
    if names is None:
        return {}
    return {"x-amz-checksum-algorithm": names.algorithm, "x-amz-checksum-type": names.type}


def _is_about_checksums(reply: Reply) -> bool:
    """Whether a refusal may be one of the checksum, and not of the object or of who asks."""
    return error_code(reply) in ("", "NotImplemented", "InvalidRequest", "InvalidArgument", "MalformedHeader")


def _is_encrypted(reply: Reply) -> bool:
    """Whether ETags are no MD5s: with a key of the key service, or one of the caller's."""
    with_key = (reply.header("x-amz-server-side-encryption") or "").startswith("aws:kms")
    return with_key or reply.header("x-amz-server-side-encryption-customer-algorithm") is not None
