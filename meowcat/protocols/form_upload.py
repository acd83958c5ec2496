"""The default upload protocol: chunks as multipart/form-data, one after the other, to a server that says how
many bytes it has. `docs/reference/form-upload.md` is its contract, for those who write servers.
"""

import re
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from meowcat.core.errors import InvalidArgument
from meowcat.core.pieces import MAX_PIECES
from meowcat.core.sessions import Capabilities, Receipt, Session
from meowcat.core.transfers import ProtocolSpec
from meowcat.core.urls import check_url
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.contract import (
    Job,
    Outcome,
    Part,
    Prepared,
    Reconciled,
    Refused,
    Tools,
    UploadProtocol,
)
from meowcat.protocols.form_wire import (
    Answer,
    Rest,
    classify,
    conflict,
    decode,
    form_request,
    quoted,
    without_secrets,
)
from meowcat.protocols.wire import Reply, call

__all__ = ["FormProtocol", "FormUpload"]

TAG = "form"
VERSION = 1

MOST = 1 << 20
"""Bytes of a reply, of which two short fields mean something."""

_NO_BODY = frozenset({"GET", "HEAD", "DELETE", "OPTIONS", "CONNECT", "TRACE"})
"""Methods whose request has no body that means anything (RFC 9110 9.3)."""

_EXPECTED = 'expected {"nextByte": a whole number} or {"fileId": "a text"}, or nothing'


class FormUpload(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Upload by HTTP forms: `multipart/form-data` to one URL for all requests.

    The server says how many bytes it has, so that an upload goes on there after any crash; the MD5 of the
    content names the upload.
    """

    method: str = "POST"
    """Of every request: POST, PUT, PATCH or one of the server's own."""
    category: str = ""
    """Sent along as it is, for the server to sort uploads by."""

    def spec(self) -> ProtocolSpec:
        """What is stored of it."""
        return ProtocolSpec(TAG, VERSION, {"method": self.method, "category": self.category})


def settings(spec: ProtocolSpec) -> FormUpload:
    """The settings that `spec` stands for.

    Raises:
        InvalidArgument: a field that is unknown or makes no sense.
    """
    if spec.version != VERSION:
        raise InvalidArgument(f"form upload in version {spec.version}: expected version {VERSION}")
    try:
        found = msgspec.convert(spec.fields, FormUpload)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"form upload: {error}; expected method and category, both text") from error
    method = found.method.upper()
    if not re.fullmatch(r"[A-Z]{1,20}", method) or method in _NO_BODY:
        raise InvalidArgument(
            f"method {found.method!r}: expected one whose requests have a body: POST, PUT or PATCH"
        )
    if any("\ud800" <= char <= "\udfff" for char in found.category):
        raise InvalidArgument(f"category {found.category!r}: has half of a character (a lone surrogate)")
    return FormUpload(method=method, category=found.category)


class FormProtocol(UploadProtocol):
    """One upload by forms. There is no session at the server: `fileMd5` finds the upload again."""

    tag = TAG
    version = VERSION
    owns_url = False

    def __init__(self, job: Job, tools: Tools) -> None:
        super().__init__(job, tools)
        self._settings = settings(job.spec)
        self._has = 0
        """Bytes that the server has by its last word: another sender of the same content may be ahead."""
        self._done: dict[str, str] | None = None
        """What `commit` returns, once the server has said that all is there."""

    @classmethod
    def resolve(cls, url: str, spec: ProtocolSpec, plan: object | None = None) -> tuple[str, ProtocolSpec]:  # noqa: ARG003  # it has none
        check_url(url)
        return url, settings(spec).spec()

    def capabilities(self) -> Capabilities:
        return Capabilities(
            any_order=False,
            server_offset=True,
            session=False,
            lists_parts=False,
            commits_with_last_part=True,
            needs_digests=("md5",),
            max_parts=MAX_PIECES,
        )

    async def prepare(self, session: Session | None) -> Prepared:
        answer = await self._ask()
        has = self._has = min(self._offset(answer, 0), self.job.size)
        self._done = None
        # 0 of 0 bytes proves nothing: an empty file that the server made has an id.
        if answer.file_id is not None or 0 < has == self.job.size:
            self._finish(answer)
        return Prepared(
            session=session or Session(id="", capabilities=self.capabilities()), offset=has, done=self._done
        )

    async def send_part(self, session: Session, part: Part) -> Receipt:  # noqa: ARG002  # there is none
        if self._done is None and self._has < part.start + part.size:
            await self._send(part)
        # An id is said once all is there, perhaps by another sender: `commit` finds it, in whatever process.
        return Receipt(text=self._done["file_id"] if self._done else "")

    async def commit(
        self,
        session: Session,  # noqa: ARG002  # there is none
        receipts: Mapping[int, Receipt],
        last: Part | None,
    ) -> dict[str, str]:
        known = next((each.text for each in receipts.values() if each.text), None)
        if known is not None:
            return {"file_id": known}
        if self._done is None:
            assert last is not None  # noqa: S101  # `commits_with_last_part`
            await self._send(last)
        if self._done is None:
            detail = f"the last chunk ends before byte {self.job.size}"
            raise Refused(Fault(kind=FaultKind.INTERNAL, detail=detail))
        return self._done

    async def reconcile(self, session: Session) -> Reconciled:
        """Never NOT_COMMITTED: where not all is there, the server may have lost more than the last chunk."""
        prepared = await self.prepare(session)
        if prepared.done is None:
            return Reconciled(outcome=Outcome.LOST)
        return Reconciled(outcome=Outcome.COMMITTED, result=prepared.done)

    async def abort(self, session: Session) -> None:
        """The contract has no request for it: servers drop what nobody goes on with."""

    async def _send(self, part: Part) -> None:
        """Send of a chunk what the server lacks, and take in what it has then.

        Raises:
            Refused: SESSION_LOST where that is less than what it had confirmed before. The server is asked
                anew then where to go on, a few times at most, however much is sent in between.
        """
        stop = part.start + part.size
        at = max(part.start, self._has)
        while True:
            answer = await self._ask(part if at == part.start else Rest(part, at))
            self._has = self._offset(answer, stop)
            if answer.file_id is not None or self._has == self.job.size:
                self._finish(answer)
            if self._done is not None or self._has >= stop:
                return
            if self._has <= at:
                raise self._lost(at, stop)
            at = self._has  # it took a part of the chunk

    def _lost(self, at: int, stop: int) -> Refused:
        return Refused(
            Fault(
                kind=FaultKind.SESSION_LOST,
                detail=f"the server has {self._has} bytes after it was sent those from {at} to {stop}: it is "
                "asked again where to go on; if this comes again, it loses what it has confirmed",
            )
        )

    def _finish(self, answer: Answer) -> None:
        # An id may be a URL, and that a signed one; or whatever else a server has at hand.
        self._done = {"file_id": without_secrets(answer.file_id or "", self.job)}

    def _offset(self, answer: Answer, unsaid: int) -> int:
        """Bytes that the server has; `unsaid` where it does not say."""
        has = unsaid if answer.next_byte is None else max(0, answer.next_byte)
        if answer.file_id is None and has > self.job.size:
            raise self._nonsense(f"nextByte is {has}, and the content has only {self.job.size} bytes")
        return has

    async def _ask(self, part: Part | Rest | None = None) -> Answer:
        """Send a chunk, or the request that prepares the upload, and read what the server says.

        Raises:
            Refused: as `classify` says; REPLY where it is none of this contract.
        """
        chosen = self._settings
        request = form_request(self.job, chosen.method, chosen.category, part)
        reply = await call(self.tools.transport, request, MOST)
        if not 200 <= reply.status < 300:  # noqa: PLR2004  # the class of success
            if part is not None and (answer := conflict(reply)) is not None:
                return answer
            raise Refused(classify(reply, self.job, self.tools.wall()))
        try:
            answer = decode(reply)
        except msgspec.MsgspecError as error:
            raise self._nonsense(str(error), reply) from None
        if answer.file_id == "" and answer.next_byte != self.job.size:
            raise self._nonsense("fileId is empty, and nextByte is not the size either", reply)
        return answer

    def _nonsense(self, what: str, reply: Reply | None = None) -> Refused:
        detail = f"a reply that does not follow the form-upload contract: {what}; {_EXPECTED}"
        if reply is not None:
            detail += quoted(reply, self.job)
        return Refused(Fault(kind=FaultKind.REPLY, detail=detail))
