"""Uploads to stores of S3's kind: one PUT for what is small, parts in any order for the rest.

The object is marked when its upload is begun, so that a commit whose reply was lost can be proved by asking
for the object. Bodies are sent as they are, never in signed chunks or with trailers: few servers know those,
and a part that was damaged is found by its checksum as well.
"""

import hashlib
from abc import abstractmethod
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
from meowcat.protocols.objects.address import ObjectAddress
from meowcat.protocols.objects.checksums import combined_crc64
from meowcat.protocols.objects.documents import (
    Listed,
    Marker,
    Page,
    all_pages,
    error_code,
    newest,
    read_xml,
    refusal,
    text_of,
    uploads,
)
from meowcat.protocols.objects.exchange import Client, Signer, needs_of, whole
from meowcat.protocols.objects.headers import Placement
from meowcat.protocols.objects.settings import MARK, object_headers
from meowcat.protocols.wire import Reply

__all__ = ["MultipartUpload"]

MAX_ABORTS = 5
"""How often one call asks for the same abort: parts that were under way may land after it, and bring the
upload back."""

OK = 200
_FORBIDDEN = 403
_NOT_FOUND = 404
_DONE = frozenset({200, 204})
_MARK = "mark"
"""What the session remembers: the value of the object's mark."""


class MultipartUpload(UploadProtocol):
    """One upload of one object. A provider's own says what is different there: its names, its limits, its
    checksums, and how an upload is begun.
    """

    prefix: ClassVar[str]
    """What the names of the provider's headers begin with: `x-amz-`."""
    places: ClassVar[Placement]
    one_put: ClassVar[int] = 8 << 20
    """Bytes up to which an object is sent by one PUT."""
    min_part: ClassVar[int]
    max_part: ClassVar[int] = 5 << 30
    max_size: ClassVar[int]
    max_parts: ClassVar[int] = 10_000
    made_already: ClassVar[frozenset[str]] = frozenset({"NoSuchUpload"})
    """Codes that a commit is answered with that was sent before, and whose reply was lost."""

    def __init__(self, job: Job, tools: Tools) -> None:
        super().__init__(job, tools)
        self._address, self._signer = self._reached(str(job.spec.fields["credential"]))
        self._client = Client(self._signer, tools)
        self._marker = f"{self.prefix}meta-{MARK}"

    @classmethod
    def resolve(cls, url: str, spec: ProtocolSpec, plan: object | None = None) -> tuple[str, ProtocolSpec]:  # noqa: ARG003  # the contract's
        if "version_id" in spec.fields:
            raise InvalidArgument("version_id: an upload makes a new version; it is for downloads")
        return cls._resolved(url, spec)

    @classmethod
    def needs(cls, spec: ProtocolSpec) -> tuple[str, ...]:
        return needs_of(spec)

    # What a provider says of itself

    @classmethod
    @abstractmethod
    def _resolved(cls, url: str, spec: ProtocolSpec) -> tuple[str, ProtocolSpec]:
        """The http(s) URL of the object, and a spec whose fields say all that its URLs are made of."""

    @abstractmethod
    def _reached(self, credential: str) -> tuple[ObjectAddress, Signer]:
        """The object of the job, and who signs requests for it."""

    @abstractmethod
    def _wanted_checksum(self) -> str | None:
        """By what parts are compared, unless the server says more of itself when the upload is begun."""

    @abstractmethod
    async def _create(self, capabilities: Capabilities, mark: str) -> Session:
        """Begin an upload: see `_begin` and `_begun`."""

    @abstractmethod
    def _listed(self, session: Session, reply: Reply) -> Page[Listed]:
        """A page of ListParts."""

    @abstractmethod
    async def _checked(self, part: Part, algorithm: str | None) -> tuple[dict[str, str], str | None]:
        """The headers that a part's checksum makes, and the checksum as receipts have it."""

    @abstractmethod
    def _compare(self, reply: Reply, checksum: str | None) -> None:
        """See that what was stored is what was sent, as far as the reply says so.

        Raises:
            Refused: it is something else.
        """

    @abstractmethod
    def _completion(self, session: Session, receipts: Mapping[int, Receipt]) -> tuple[dict[str, str], bytes]:
        """The headers and the body of the request that makes an object of its parts."""

    @abstractmethod
    def _covers(
        self, session: Session, receipts: Mapping[int, Receipt], reply: Reply, root: ET.Element
    ) -> bool:
        """Whether the reply to a commit has a checksum of the whole, which is that of what was sent.

        Raises:
            Refused: CHECKSUM: it is another one.
        """

    def _payload(self, checksum: str | None) -> str | None:  # noqa: ARG002  # a default
        """The SHA-256 of a body that is signed along, where it is known anyway."""
        return None

    # What can be done

    def capabilities(self) -> Capabilities:
        """What is small is one part, which the commit sends."""
        algorithm = self._wanted_checksum()
        if self.job.size <= self.one_put:
            return Capabilities(
                session=False,
                lists_parts=False,
                commits_with_last_part=True,
                part_checksum=algorithm,
                max_parts=1,
                max_part=self.one_put,
                max_size=self.one_put,
            )
        return self._multipart(algorithm)

    def _multipart(self, algorithm: str | None, whole_checksum: str | None = None) -> Capabilities:
        return Capabilities(
            part_checksum=algorithm,
            whole_checksum=whole_checksum,
            empty=False,
            max_parts=self.max_parts,
            min_part=self.min_part,
            max_part=self.max_part,
            max_size=self.max_size,
        )

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

    async def _begin(self, mark: str, more: dict[str, str] | None = None) -> Reply:
        """Ask for an upload, with `more` headers than the settings and the caller make."""
        headers = self._object_headers(mark) | self._fitting(creates=True) | (more or {})
        return await self._client.ask("POST", self._address.with_query(("uploads", "")), headers)

    def _begun(
        self, reply: Reply, capabilities: Capabilities, mark: str, facts: dict[str, str] | None = None
    ) -> Session:
        """The session that a reply to `_begin` speaks of."""
        if reply.status != OK:
            raise self._refused(reply, "the begin of")
        upload = text_of(read_xml(reply.body), "UploadId")
        if not upload:
            raise refusal(f"{self._address.endpoint} began an upload and gave it no UploadId")
        return Session(id=upload, capabilities=capabilities, facts={_MARK: mark} | (facts or {}))

    def _object_headers(self, mark: str) -> dict[str, str]:
        return {self._marker: mark} | object_headers(self.job.spec.fields, self.prefix)

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

        async def ask(marker: Marker) -> Page[Listed] | None:
            url = self._address.with_query(("uploadId", session.id), *marker)
            reply = await self._client.ask("GET", url, self._fitting())
            if reply.status == _NOT_FOUND and error_code(reply) in ("NoSuchUpload", ""):
                return None
            if reply.status != OK:
                raise self._refused(reply, "the list of parts of")
            return self._listed(session, reply)

        listed = await all_pages(ask, f"the list of parts of {self._address.shown}")
        return None if listed is None else newest(iter(listed))

    # Parts

    async def send_part(self, session: Session, part: Part) -> Receipt:
        fields = (("partNumber", str(part.index + 1)), ("uploadId", session.id))
        headers, checksum = await self._checked(part, session.capabilities.part_checksum)
        reply = await self._client.ask(
            "PUT",
            self._address.with_query(*fields),
            self._fitting() | headers,
            body=part.body,
            length=part.size,
            payload=self._payload(checksum),
        )
        if reply.status != OK:
            raise self._refused(reply, f"part {part.index + 1} of")
        return Receipt(text=self._etag(reply, checksum), checksum=checksum)

    def _etag(self, reply: Reply, checksum: str | None) -> str:
        """The ETag of what was stored, after a look at the checksum that came with it."""
        self._compare(reply, checksum)
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
        headers, body = self._completion(session, receipts)
        headers = self._fitting(commits=True) | headers | {"content-type": "application/xml"}
        url = self._address.with_query(("uploadId", session.id))
        payload = hashlib.sha256(body).hexdigest()
        reply = await self._client.ask("POST", url, headers, whole(body), len(body), payload)
        root = read_xml(reply.body)
        if reply.status != OK or root is None or root.tag != "CompleteMultipartUploadResult":
            return await self._not_completed(session, reply)
        return await self._completed(session, receipts, reply, root)

    async def _put(self, session: Session, part: Part) -> dict[str, str]:
        headers, checksum = await self._checked(part, session.capabilities.part_checksum)
        headers |= self._object_headers(session.facts[_MARK])
        headers |= self._fitting(creates=True, commits=True)
        reply = await self._client.ask(
            "PUT",
            self._address.url,
            headers,
            body=part.body if part.size else None,
            length=part.size,
            payload=self._payload(checksum),
        )
        if reply.status != OK:
            raise self._refused(reply, "the upload to")
        return self._result(self._etag(reply, checksum), reply)

    def _part_sizes(self, count: int) -> list[int]:
        """The sizes of that many parts; none where they are not known."""
        size, part = self.job.size, self.job.part_size
        if count == 1:
            return [size]
        bounds = [*range(0, size, part), size] if part else []
        return [stop - start for start, stop in pairwise(bounds)] if len(bounds) == count + 1 else []

    def _combined(self, algorithm: str, receipts: Mapping[int, Receipt]) -> str | None:
        """The CRC of the whole, in hexadecimal, out of those of the parts; None where they do not tell."""
        sizes = self._part_sizes(len(receipts))
        given = [(receipts[index].checksum or "").partition(":") for index in sorted(receipts)]
        if not sizes or any(name != algorithm or not digits for name, _, digits in given):
            return self.job.digests.get(algorithm)
        parts = [(digits, size) for (_, _, digits), size in zip(given, sizes, strict=True)]
        return combined_crc64(algorithm, parts)

    async def _completed(
        self, session: Session, receipts: Mapping[int, Receipt], reply: Reply, root: ET.Element
    ) -> dict[str, str]:
        """See that the object is the one that was sent, as far as the server tells."""
        covered = self._covers(session, receipts, reply, root)
        result = self._result(text_of(root, "ETag"), reply)
        if covered:
            return result
        # Nothing that the server said covers the whole: its size, at least, is asked for.
        head = await self._head()
        if head.status != OK or head.header(self._marker) not in (None, session.facts[_MARK]):
            return result  # it may not be read, or somebody has replaced it since
        if not self._has_size(head):
            raise refusal(
                f"{self._address.shown} is complete, and has {head.header('content-length')} bytes; "
                f"expected {self.job.size}: the server lost some"
            )
        return result | {"etag": head.header("etag") or result["etag"]}

    async def _not_completed(self, session: Session, reply: Reply) -> dict[str, str]:
        """An upload that is gone may have been committed by an earlier request, whose reply was lost."""
        if reply.status == OK and not error_code(reply):
            raise refusal(
                f"{self._address.endpoint} answered the commit with 200, and neither result nor error"
            )
        code = error_code(reply)
        if code in self.made_already:
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
        if reply.status not in (OK, _NOT_FOUND):
            raise self._refused(reply, "a look at")
        same = reply.header(self._marker) == session.facts.get(_MARK)
        same = same and self._has_size(reply)
        return self._result(reply.header("etag") or "", reply) if reply.status == OK and same else None

    def _has_size(self, head: Reply) -> bool:
        """Whether the object has the bytes that were sent, as far as its server tells: what answers a HEAD
        may leave the length out (RFC 9110 9.3.2), as some proxies do."""
        return head.header("content-length") in (None, str(self.job.size))

    async def _head(self) -> Reply:
        return await self._client.ask("HEAD", self._address.url, self._fitting())

    # The end of a session

    async def abort(self, session: Session) -> None:
        if not session.capabilities.session:
            return
        for _ in range(MAX_ABORTS):
            url = self._address.with_query(("uploadId", session.id))
            reply = await self._client.ask("DELETE", url, self._fitting())
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

        async def ask(marker: Marker) -> Page[Orphan] | None:
            fields = (("uploads", ""), ("prefix", self._address.key), *marker)
            reply = await self._client.ask("GET", self._address.with_bucket_query(*fields), self._fitting())
            if reply.status == _NOT_FOUND and error_code(reply) == "NoSuchUpload":
                return None  # rclone's word for none
            if reply.status != OK:
                raise self._refused(reply, "the list of uploads to")
            return uploads(reply, self._address.key)

        return await all_pages(ask, f"the list of uploads to {self._address.shown}") or ()

    # Words

    def _fitting(self, *, creates: bool = False, commits: bool = False) -> dict[str, str]:
        """Those of the caller's headers that go with a request of that kind."""
        return self.places.sent(self.job.headers, creates=creates, commits=commits)

    def _result(self, etag: str, reply: Reply) -> dict[str, str]:
        version = reply.header(f"{self.prefix}version-id")
        return {"etag": etag} | ({"version_id": version} if version else {})

    def _refused(self, reply: Reply, doing: str) -> Refused:
        return Refused(self._signer.fault(reply, doing))

    def _lost(self) -> Fault:
        detail = f"the server does not know the upload to {self._address.shown} any more; it is begun anew"
        return Fault(kind=FaultKind.SESSION_LOST, detail=detail)
