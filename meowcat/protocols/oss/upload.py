"""Uploads to OSS.

https://www.alibabacloud.com/help/en/oss/user-guide/multipart-upload
"""

import base64
from collections.abc import Mapping
from typing import ClassVar
from xml.etree import ElementTree as ET

from meowcat.core.sessions import Capabilities, Receipt, Session
from meowcat.core.transfers import ProtocolSpec
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.contract import Part, Prepared, Refused
from meowcat.protocols.objects.address import ObjectAddress
from meowcat.protocols.objects.documents import Listed, Page, listed_parts
from meowcat.protocols.objects.exchange import Signer
from meowcat.protocols.objects.multipart import MultipartUpload
from meowcat.protocols.oss.address import Address, resolve
from meowcat.protocols.oss.client import FORBID_OVERWRITE, PLACES, OSSSigner
from meowcat.protocols.oss.replies import CRC64, DAMAGED, checksum_of, completion, crc64_in
from meowcat.protocols.oss.settings import TAG
from meowcat.protocols.wire import Reply

__all__ = ["OSSUpload"]

_NO_CONDITION = "OSS knows no such condition of uploads, and would replace the object whatever it is"
_NO_CALLBACK = "the reply to a commit would be that of somebody else, and prove nothing"
_NOT_TAKEN = {
    "if-match": _NO_CONDITION,
    "if-modified-since": _NO_CONDITION,
    "if-unmodified-since": _NO_CONDITION,
    "x-oss-callback": _NO_CALLBACK,
    "x-oss-callback-var": _NO_CALLBACK,
}
"""Headers of the caller that would be lost, or do harm."""


class OSSUpload(MultipartUpload):
    """One upload of one object."""

    tag: ClassVar[str] = TAG
    prefix = "x-oss-"
    places = PLACES
    min_part = 100 << 10
    max_size = 10_000 * (5 << 30)
    made_already = frozenset({"NoSuchUpload", "FileAlreadyExists"})

    @classmethod
    def _resolved(cls, url: str, spec: ProtocolSpec) -> tuple[str, ProtocolSpec]:
        return resolve(url, spec)

    def _reached(self, credential: str) -> tuple[ObjectAddress, Signer]:
        address = Address.of(self.job.spec)
        additional = str(self.job.spec.fields.get("additional_headers", ""))
        return address, OSSSigner(address, credential, self.tools, additional)

    def _wanted_checksum(self) -> str | None:
        """What OSS itself compares. Its CRC-64 is compared here, with each reply: too late for one PUT, which
        has replaced the object by then, with this upload's mark on what may be damaged.
        """
        wanted = str(self.job.spec.fields["checksum"])
        if wanted == "none":
            return None
        return "md5" if wanted == "md5" or self.job.size <= self.one_put else None

    @property
    def _compares(self) -> bool:
        return self.job.spec.fields["checksum"] != "none"

    async def prepare(self, session: Session | None) -> Prepared:
        for name, value in self.job.headers.items():
            why = _NOT_TAKEN.get(name.lower())
            if name.lower() == "if-none-match" and value.strip() != "*":
                why = "OSS knows only '*' here: that nothing may be replaced"
            if why is not None:
                raise Refused(Fault(kind=FaultKind.STATUS, status=400, detail=f"header {name}: {why}"))
        return await super().prepare(session)

    def _fitting(self, *, creates: bool = False, commits: bool = False) -> dict[str, str]:
        """`If-None-Match: *`, as other stores know it, is OSS's own condition."""
        headers = super()._fitting(creates=creates, commits=commits)
        if headers.pop("if-none-match", None) is not None:
            headers[FORBID_OVERWRITE] = "true"
        return headers

    async def _create(self, capabilities: Capabilities, mark: str) -> Session:
        """Where nothing may be replaced, OSS is asked before anything is sent, and again by the commit."""
        condition = self._fitting(commits=True).get(FORBID_OVERWRITE)
        more = {FORBID_OVERWRITE: condition} if condition is not None else {}
        return self._begun(await self._begin(mark, more), capabilities, mark)

    def _listed(self, session: Session, reply: Reply) -> Page[Listed]:  # noqa: ARG002  # the same for all
        return listed_parts(reply, checksum_of, md5=True)

    async def _checked(self, part: Part, algorithm: str | None) -> tuple[dict[str, str], str | None]:
        if not self._compares:
            return {}, None
        headers = {}
        if algorithm == "md5":
            digest = bytes.fromhex(await part.checksum("md5"))
            headers["content-md5"] = base64.b64encode(digest).decode()
        return headers, f"{CRC64}:{await part.checksum(CRC64)}"

    def _compare(self, reply: Reply, checksum: str | None) -> None:
        said = crc64_in(reply.headers)
        if checksum is not None and said is not None and f"{CRC64}:{said}" != checksum:
            raise Refused(Fault(kind=FaultKind.DISCONNECTED, detail=f"{self._address.shown}: {DAMAGED}"))

    def _completion(self, session: Session, receipts: Mapping[int, Receipt]) -> tuple[dict[str, str], bytes]:  # noqa: ARG002  # the same for all
        return {}, completion(receipts)

    def _covers(
        self,
        session: Session,  # noqa: ARG002  # the same for all
        receipts: Mapping[int, Receipt],
        reply: Reply,
        root: ET.Element,  # noqa: ARG002  # OSS says it in a header
    ) -> bool:
        expected = self._combined(CRC64, receipts) if self._compares else None
        said = crc64_in(reply.headers)
        if expected and said and said != expected:
            # The object has this upload's mark: a later look would take it for right. One that is begun anew
            # has another mark, and replaces it.
            detail = (
                f"{self._address.shown}: OSS made of the parts an object with CRC-64 {said}, and {expected} "
                "was sent; all is sent again"
            )
            raise Refused(Fault(kind=FaultKind.SESSION_LOST, detail=detail))
        return bool(expected and said)
