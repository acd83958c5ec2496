"""Uploads to S3: one PUT for what is small, parts in any order for the rest.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html

The object is marked when its upload is begun, so that a commit whose reply was lost can be proved by asking
for the object. Bodies are sent as they are, never in signed chunks or with trailers: those exist at AWS and a
few others, and a part that was damaged is found by its checksum as well.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar
from xml.etree import ElementTree as ET

from meowcat.core.errors import InvalidArgument
from meowcat.core.sessions import Capabilities, Held, Receipt, Session
from meowcat.core.transfers import ProtocolSpec
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.contract import (
    Job,
    Orphan,
    Outcome,
    Part,
    Prepared,
    Reconciled,
    Refused,
    Tools,
    UploadProtocol,
)
from meowcat.protocols.s3.address import address_of, is_aws, resolve
from meowcat.protocols.s3.checksums import CHECKSUMS, base64_of, composite_sha256, hex_of, whole_crc64nvme
from meowcat.protocols.s3.client import Client, Signer, needs_of, sent_with, whole
from meowcat.protocols.s3.replies import (
    Listed,
    completion,
    error_code,
    listed_parts,
    newest,
    read_xml,
    refusal,
    text_of,
    uploads,
)
from meowcat.protocols.s3.settings import MARKER, META, TAG
from meowcat.protocols.signing.sigv4 import UNSIGNED
from meowcat.protocols.wire import Reply

__all__ = ["S3Upload"]

ONE_PUT = 8 << 20
"""Bytes up to which an object is sent by one PUT."""
MIN_PART = 5 << 20
MAX_PART = 5 << 30
MAX_SIZE = 5 << 40
MAX_PARTS = 10_000

MAX_ABORTS = 5
"""How often one call asks for the same abort: parts that were under way may land after it, and bring the
upload back."""
MAX_PAGES = 1000
"""Of a list; a server that never comes to an end is cut off."""

_OK = 200
_FORBIDDEN = 403
_NOT_FOUND = 404
_DONE = frozenset({200, 204})
_UNKNOWN_HEADER = frozenset({400, 501})
"""What a server answers that takes no checksum."""
_OPAQUE = "opaque-etags"
_MARK = "mark"
"""What the session remembers: the object's mark; and, where it is encrypted, that its ETags are no MD5s."""


class S3Upload(UploadProtocol):
    """One upload of one object."""

    tag: ClassVar[str] = TAG

    def __init__(self, job: Job, tools: Tools) -> None:
        super().__init__(job, tools)
        self._address = address_of(job.spec)
        signer = Signer(self._address, str(job.spec.fields["credential"]), tools)
        self._signer = signer
        self._client = Client(signer, tools)

    @classmethod
    def resolve(cls, url: str, spec: ProtocolSpec, plan: object | None = None) -> tuple[str, ProtocolSpec]:  # noqa: ARG003  # the contract's
        """See `address.resolve`."""
        if "version_id" in spec.fields:
            raise InvalidArgument("version_id: an upload makes a new version; it is for downloads")
        return resolve(url, spec)

    @classmethod
    def needs(cls, spec: ProtocolSpec) -> tuple[str, ...]:
        return needs_of(spec)

    def capabilities(self) -> Capabilities:
        """What is small is one part, which the commit sends."""
        algorithm = self._wanted_checksum()
        if self.job.size <= ONE_PUT:
            return Capabilities(
                session=False,
                lists_parts=False,
                commits_with_last_part=True,
                part_checksum=algorithm,
                max_parts=1,
                max_part=ONE_PUT,
                max_size=ONE_PUT,
            )
        return _multipart(algorithm)

    def _wanted_checksum(self) -> str | None:
        """What is sent along unless the server says more of itself."""
        wanted = str(self.job.spec.fields["checksum"])
        if wanted == "auto":
            return "crc64nvme" if is_aws(self._address.endpoint) else "md5"
        return None if wanted == "none" else wanted

    # The session

    async def prepare(self, session: Session | None) -> Prepared:
        if session is not None:
            return await self._resume(session)
        capabilities = self.capabilities()
        # The moment tells this attempt from an earlier one of the same task, whose content may have been
        # another one.
        mark = f"{self.job.task}-{self.tools.wall():x}"
        if not capabilities.session:
            return Prepared(session=Session(id="", capabilities=capabilities, facts={_MARK: mark}))
        return Prepared(session=await self._create(capabilities, mark))

    async def _create(self, capabilities: Capabilities, mark: str) -> Session:
        algorithm = capabilities.part_checksum
        asking = self.job.spec.fields["checksum"] == "auto" and algorithm == "md5"
        reply = await self._ask_to_create("crc64nvme" if asking else algorithm, mark)
        if asking and reply.status in _UNKNOWN_HEADER and _is_about_checksums(reply):
            reply = await self._ask_to_create(None, mark)
        if reply.status != _OK:
            raise self._refused(reply, "the begin of")
        root = read_xml(reply.body)
        upload = text_of(root, "UploadId")
        if not upload:
            raise refusal(f"{self._address.endpoint} began an upload and gave it no UploadId")
        if asking and reply.header("x-amz-checksum-algorithm") == CHECKSUMS["crc64nvme"].algorithm:
            algorithm = "crc64nvme"
        facts = {_MARK: mark} | ({_OPAQUE: "yes"} if _is_encrypted(reply) else {})
        return Session(id=upload, capabilities=_multipart(algorithm), facts=facts)

    async def _ask_to_create(self, algorithm: str | None, mark: str) -> Reply:
        headers = self._object_headers(mark) | sent_with(self.job.headers, creates=True)
        names = CHECKSUMS.get(algorithm or "")
        if names is not None:
            headers |= {"x-amz-checksum-algorithm": names.algorithm, "x-amz-checksum-type": names.type}
        url = self._address.with_query(("uploads", ""))
        return await self._client.ask("POST", url, headers)

    def _object_headers(self, mark: str) -> dict[str, str]:
        """What the object is to have, by its settings."""
        fields = self.job.spec.fields
        headers = {MARKER: mark}
        for name, header in (("content_type", "content-type"), ("storage_class", "x-amz-storage-class")):
            if name in fields:
                headers[header] = str(fields[name])
        metadata = {
            f"x-amz-meta-{name.removeprefix(META)}": str(value)
            for name, value in fields.items()
            if name.startswith(META)
        }
        return headers | metadata

    async def _resume(self, session: Session) -> Prepared:
        """What the server has; the object itself, where the upload is gone because it was committed."""
        if not session.capabilities.session:
            return Prepared(session=session)
        parts = await self._list(session)
        if parts is None:
            done = await self._committed(session)
            if done is None:
                raise Refused(self._lost())
            return Prepared(session=session, done=done)
        return Prepared(session=session, held=parts)

    async def _list(self, session: Session) -> dict[int, Held] | None:
        """The parts that the server has; None where it does not know the upload."""
        listed: list[Listed] = []
        marker = ""
        for _ in range(MAX_PAGES):
            fields = [("uploadId", session.id)] + ([("part-number-marker", marker)] if marker else [])
            reply = await self._client.ask("GET", self._address.with_query(*fields), self._plain())
            if reply.status == _NOT_FOUND and error_code(reply) in ("NoSuchUpload", ""):
                return None
            if reply.status != _OK:
                raise self._refused(reply, "the list of parts of")
            page = listed_parts(reply, md5=_OPAQUE not in session.facts)
            listed += page.parts
            if not page.marker:
                return newest(iter(listed))
            if page.marker == marker:
                break
            marker = page.marker
        raise refusal(f"the list of parts of {self._address.shown} does not come to an end")

    # Parts

    async def send_part(self, session: Session, part: Part) -> Receipt:
        fields = (("partNumber", str(part.index + 1)), ("uploadId", session.id))
        headers, checksum = await self._checked(part, session.capabilities.part_checksum)
        reply = await self._client.ask(
            "PUT",
            self._address.with_query(*fields),
            self._plain() | headers,
            body=part.body,
            length=part.size,
            payload=self._payload(checksum),
        )
        if reply.status != _OK:
            raise self._refused(reply, f"part {part.index + 1} of")
        return Receipt(text=self._etag(reply, checksum), checksum=checksum)

    async def _checked(self, part: Part, algorithm: str | None) -> tuple[dict[str, str], str | None]:
        """The headers that a part's checksum makes, and the checksum as receipts have it."""
        if algorithm is None:
            return {}, None
        digits = await part.checksum(algorithm)
        header = "content-md5" if algorithm == "md5" else CHECKSUMS[algorithm].header
        return {header: base64_of(digits)}, f"{algorithm}:{digits}"

    def _payload(self, checksum: str | None) -> str:
        """The digest of a body that is signed along, where it is known anyway."""
        algorithm, _, digits = (checksum or "").partition(":")
        return digits if algorithm == "sha256" else UNSIGNED

    def _etag(self, reply: Reply, checksum: str | None) -> str:
        """The ETag of what was stored, after a look at the checksum that came with it."""
        algorithm, _, digits = (checksum or "").partition(":")
        names = CHECKSUMS.get(algorithm)
        said = reply.header(names.header) if names is not None else None
        if said is not None and hex_of(said) != digits:
            raise Refused(self._differs(algorithm, digits, said))
        etag = reply.header("etag")
        if not etag:
            raise refusal(f"{self._address.endpoint} took a part and gave it no ETag")
        return etag

    # The commit

    async def commit(
        self, session: Session, receipts: Mapping[int, Receipt], last: Part | None
    ) -> dict[str, str]:
        if last is not None:
            return await self._put(session, last)
        checksum = self._whole(session, receipts)
        names = CHECKSUMS["crc64nvme"]
        headers = self._plain(commits=True)
        if checksum is not None:
            headers |= {names.header: base64_of(checksum), "x-amz-checksum-type": names.type}
        body = completion(receipts, session.capabilities.part_checksum)
        url = self._address.with_query(("uploadId", session.id))
        headers["content-type"] = "application/xml"
        payload = hashlib.sha256(body).hexdigest()
        reply = await self._client.ask("POST", url, headers, whole(body), len(body), payload)
        root = read_xml(reply.body)
        if reply.status != _OK or root is None or root.tag != "CompleteMultipartUploadResult":
            return await self._not_completed(session, reply)
        return await self._completed(session, receipts, reply, root)

    async def _put(self, session: Session, part: Part) -> dict[str, str]:
        headers, checksum = await self._checked(part, session.capabilities.part_checksum)
        headers |= self._object_headers(session.facts[_MARK])
        headers |= sent_with(self.job.headers, creates=True, commits=True)
        reply = await self._client.ask(
            "PUT",
            self._address.url,
            headers,
            body=part.body if part.size else None,
            length=part.size,
            payload=self._payload(checksum),
        )
        if reply.status != _OK:
            raise self._refused(reply, "the upload to")
        return _result(self._etag(reply, checksum), reply)

    def _whole(self, session: Session, receipts: Mapping[int, Receipt]) -> str | None:
        """The CRC-64/NVME of the whole, out of those of the parts; None where they do not tell."""
        if session.capabilities.part_checksum != "crc64nvme":
            return None
        sizes = self._sizes(len(receipts))
        given = [(receipts[index].checksum or "").partition(":") for index in sorted(receipts)]
        if not sizes or any(name != "crc64nvme" or not digits for name, _, digits in given):
            return self.job.digests.get("crc64nvme")
        return whole_crc64nvme([(digits, size) for (_, _, digits), size in zip(given, sizes, strict=True)])

    def _sizes(self, count: int) -> list[int]:
        """The parts' sizes; none where they are not known."""
        size, part = self.job.size, self.job.part_size
        if count == 1:
            return [size]
        bounds = [*range(0, size, part), size] if part else []
        return [stop - start for start, stop in pairwise(bounds)] if len(bounds) == count + 1 else []

    async def _completed(
        self, session: Session, receipts: Mapping[int, Receipt], reply: Reply, root: ET.Element
    ) -> dict[str, str]:
        """See that the object is the one that was sent, as far as the server tells."""
        algorithm = session.capabilities.part_checksum or ""
        expected = self._whole_as_said(session, receipts)
        said = text_of(root, CHECKSUMS[algorithm].element) if algorithm in CHECKSUMS else ""
        if expected and said and said != expected:
            raise Refused(self._differs(algorithm, expected, said))
        result = _result(text_of(root, "ETag"), reply)
        if expected and said:
            return result
        # Nothing that the server said covers the whole: its size, at least, is asked for.
        head = await self._head()
        if head.status != _OK or head.header(MARKER) not in (None, session.facts[_MARK]):
            return result  # it may not be read, or somebody has replaced it since
        if head.header("content-length") != str(self.job.size):
            raise refusal(
                f"{self._address.shown} is complete, and has {head.header('content-length')} bytes; "
                f"expected {self.job.size}: the server lost some"
            )
        return result | {"etag": head.header("etag") or result["etag"]}

    def _whole_as_said(self, session: Session, receipts: Mapping[int, Receipt]) -> str | None:
        """What the server should say of the whole, in its own form."""
        if session.capabilities.part_checksum == "crc64nvme":
            digits = self._whole(session, receipts)
            return base64_of(digits) if digits else None
        given = [(receipts[index].checksum or "").partition(":") for index in sorted(receipts)]
        if all(name == "sha256" for name, _, _ in given):
            return composite_sha256([digits for _, _, digits in given])
        return None

    async def _not_completed(self, session: Session, reply: Reply) -> dict[str, str]:
        """An upload that is gone may have been committed by an earlier request, whose reply was lost."""
        if reply.status == _OK and not error_code(reply):
            raise refusal(
                f"{self._address.endpoint} answered the commit with 200, and neither result nor error"
            )
        code = error_code(reply)
        if code == "NoSuchUpload":
            done = await self._committed(session)
            if done is not None:
                return done
        if code == "InvalidPart":
            await self.abort(session)  # it is begun anew: nobody would ask for this one again
        raise self._refused(reply, "the commit of")

    async def reconcile(self, session: Session) -> Reconciled:
        done = await self._committed(session)
        if done is not None:
            return Reconciled(outcome=Outcome.COMMITTED, result=done)
        if not session.capabilities.session or await self._list(session) is not None:
            return Reconciled(outcome=Outcome.NOT_COMMITTED)
        # The upload is gone. The commit may have come through between the two questions.
        done = await self._committed(session, must_tell=True)
        if done is not None:
            return Reconciled(outcome=Outcome.COMMITTED, result=done)
        return Reconciled(outcome=Outcome.LOST)

    async def _committed(self, session: Session, *, must_tell: bool = False) -> dict[str, str] | None:
        """What the commit has returned, where the object that stands there has this upload's mark.

        A server may answer 403 for what is not there, and to whoever may only write: with `must_tell` that
        is an error, since nothing else tells.
        """
        reply = await self._head()
        if reply.status == _FORBIDDEN and not must_tell:
            return None
        if reply.status not in (_OK, _NOT_FOUND):
            raise self._refused(reply, "a look at")
        same = reply.header(MARKER) == session.facts.get(_MARK)
        same = same and reply.header("content-length") == str(self.job.size)
        return _result(reply.header("etag") or "", reply) if reply.status == _OK and same else None

    async def _head(self) -> Reply:
        return await self._client.ask("HEAD", self._address.url, self._plain())

    # The end of a session

    async def abort(self, session: Session) -> None:
        if not session.capabilities.session:
            return
        for _ in range(MAX_ABORTS):
            url = self._address.with_query(("uploadId", session.id))
            reply = await self._client.ask("DELETE", url, self._plain())
            gone = reply.status == _NOT_FOUND and error_code(reply) in ("NoSuchUpload", "")
            if not gone and reply.status not in _DONE:
                raise self._refused(reply, "the abort of")
            if await self._is_gone(session):
                return
        detail = f"the upload to {self._address.shown} came back after each of {MAX_ABORTS} aborts"
        raise Refused(Fault(kind=FaultKind.TIMEOUT, detail=detail))

    async def _is_gone(self, session: Session) -> bool:
        try:
            return await self._list(session) is None
        except Refused as refused:
            if refused.fault.status == _FORBIDDEN:  # it may abort and not list: the abort's word has to do
                return True
            raise

    async def orphans(self) -> Sequence[Orphan]:
        """Uploads to exactly this key, whoever began them."""
        found: list[Orphan] = []
        marker: list[tuple[str, str]] = []
        for _ in range(MAX_PAGES):
            fields = [("uploads", ""), ("prefix", self._address.key), *marker]
            reply = await self._client.ask("GET", self._address.with_bucket_query(*fields), self._plain())
            if reply.status == _NOT_FOUND and error_code(reply) == "NoSuchUpload":
                break  # rclone's word for none
            if reply.status != _OK:
                raise self._refused(reply, "the list of uploads to")
            page, after = uploads(reply, self._address.key)
            found += page
            if not after or after == marker:
                break
            marker = after
        return found

    # Words

    def _plain(self, *, commits: bool = False) -> dict[str, str]:
        """Those of the caller's headers that go with any request."""
        return sent_with(self.job.headers, commits=commits)

    def _refused(self, reply: Reply, doing: str) -> Refused:
        return Refused(self._signer.fault(reply, doing))

    def _lost(self) -> Fault:
        detail = f"the server does not know the upload to {self._address.shown} any more; it is begun anew"
        return Fault(kind=FaultKind.SESSION_LOST, detail=detail)

    def _differs(self, algorithm: str, sent: str, said: str) -> Fault:
        detail = f"{self._address.endpoint} has {algorithm} {said[:60]!r}; {sent[:60]!r} was sent"
        return Fault(kind=FaultKind.CHECKSUM, detail=detail)


def _multipart(algorithm: str | None) -> Capabilities:
    return Capabilities(
        part_checksum=algorithm,
        whole_checksum=algorithm if algorithm == "crc64nvme" else None,
        empty=False,
        max_parts=MAX_PARTS,
        min_part=MIN_PART,
        max_part=MAX_PART,
        max_size=MAX_SIZE,
    )


def _is_about_checksums(reply: Reply) -> bool:
    """Whether a refusal may be one of the checksum, and not of the object or of who asks."""
    return error_code(reply) in ("", "NotImplemented", "InvalidRequest", "InvalidArgument", "MalformedHeader")


def _is_encrypted(reply: Reply) -> bool:
    """Whether ETags are no MD5s: with a key of the key service, or one of the caller's."""
    with_key = (reply.header("x-amz-server-side-encryption") or "").startswith("aws:kms")
    return with_key or reply.header("x-amz-server-side-encryption-customer-algorithm") is not None


def _result(etag: str, reply: Reply) -> dict[str, str]:
    version = reply.header("x-amz-version-id")
    return {"etag": etag} | ({"version_id": version} if version else {})
