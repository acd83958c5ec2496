"""Uploads by presigned plans: a back end holds the credentials and signs; here the bytes are moved.

The back end has opened the upload, where the provider knows such a thing, before it made the plan: nothing is
created here. Parts are sent in any order. A signed URL can't list them: what the server confirmed is known
from the journal, and a part whose reply was lost is sent again.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial

import msgspec
from msgspec.structs import replace

from meowcat.core.errors import InvalidArgument
from meowcat.core.plans import (
    Fingerprint,
    PlanPart,
    PlanRequest,
    UploadPlan,
    check_fit,
)
from meowcat.core.sessions import Capabilities, Held, Receipt, Session
from meowcat.core.transfers import FRAMING, ProtocolSpec
from meowcat.core.urls import check_url
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.completions import NEEDS_ETAG, Completion
from meowcat.protocols.contract import Job, Outcome, Part, Prepared, Reconciled, Tools, UploadProtocol
from meowcat.protocols.plans_at_hand import PlansAtHand
from meowcat.protocols.presigned_digests import PartDigests, content_of, md5_of, md5s_of
from meowcat.protocols.presigned_replies import (
    ANSWERS,
    classify,
    confirmed,
    created,
    etag_of,
    gone,
    unauthorized,
)
from meowcat.protocols.presigned_settings import TAG, receipt_of, upload_fields, uploaded_parts, url_of
from meowcat.protocols.refreshers import RefreshReason, RefreshRequest
from meowcat.protocols.refused import Refused
from meowcat.protocols.wire import Reply, call
from meowcat.transport.contract import Chunk, HttpRequest

__all__ = ["PresignedProtocol"]

MOST = 1 << 20
"""Bytes of a reply, of which a few fields mean something."""

_OWN = FRAMING | {"connection"}
"""Fields of the connection, which the transport sets (RFC 9110 7.6.1, 8.6), though signers name them, too."""

_LONGEST = 1024
"""Characters of an ETag or a version id that are worth remembering."""

_VALIDATORS = ("etag", "last-modified", "x-amz-version-id", "x-oss-version-id", "x-ms-version-id")
"""What tells one version of an object from another."""


class PresignedProtocol(UploadProtocol):
    """What `PresignedUpload` stands for."""

    tag = TAG

    def __init__(self, job: Job, tools: Tools) -> None:
        super().__init__(job, tools)
        self._fields = upload_fields(job.spec)
        self._plans = PlansAtHand(tools, job.task, UploadPlan, job.plan, self._fields.refresher)
        self._sent: set[int] = set()
        """Indices of the parts that were confirmed to this object."""
        self._digests = PartDigests()
        self._found: Reply | None = None
        """The object that stands there after a single PUT in doubt: whose it is, its bytes tell."""

    @classmethod
    def resolve(cls, url: str, spec: ProtocolSpec, plan: object | None = None) -> tuple[str, ProtocolSpec]:
        """See `UploadProtocol.resolve`. Without a URL the object's own is taken from the plan."""
        fields = upload_fields(spec)
        if plan is not None and not isinstance(plan, UploadPlan):
            raise InvalidArgument(f"plan: expected an UploadPlan, got {type(plan).__name__}")
        if plan is not None:
            plan.validate()
        url = url or url_of(fields.object, _first_url(plan))
        check_url(url)
        return url, spec

    @classmethod
    def needs(cls, spec: ProtocolSpec) -> tuple[str, ...]:
        """See `UploadProtocol.needs`: who brings plans, or the plan itself."""
        name = upload_fields(spec).refresher
        return (f"refresher:{name}",) if name else ("plan",)

    def capabilities(self) -> Capabilities:
        fields = self._fields
        whole = fields.count == 1 and (not fields.completes or fields.size == 0)
        return Capabilities(
            any_order=True,
            session=fields.aborts,
            creates_session=False,
            lists_parts=False,
            commits_with_last_part=whole,
            max_parts=max(fields.count, 1),
            min_part=fields.chunk,
            max_part=fields.chunk,
            max_size=fields.size,
        )

    # The upload

    async def prepare(self, session: Session | None) -> Prepared:
        if session is not None:
            await self._plan(session)
            return Prepared(session=session)
        plan = await self._first_plan()
        if self.job.size != plan.total_size:
            raise _refused(
                FaultKind.LENGTH,
                f"the source has {self.job.size} bytes, and the plan is for {plan.total_size}: have the back "
                "end make a plan for this source",
            )
        self.tools.refreshers.completion(plan.completion)  # before a byte is sent, rather than after the last
        fingerprint = msgspec.json.encode(plan.fingerprint).decode()
        opened = Session(id=plan.upload_id, capabilities=self.capabilities(), facts={"plan": fingerprint})
        before = await self._object_before(opened, plan)
        if before is not None:
            opened = replace(opened, facts={**opened.facts, "before": before})
        return Prepared(session=opened, held=_held(plan))

    async def _object_before(self, session: Session, plan: UploadPlan) -> str | None:
        """What stands at the target before the upload; None where nobody can tell, or needs to."""
        if plan.check is None or plan.proof:
            return None
        plan, reply = await self._ask_about_object(session)
        if confirmed(reply):
            return _validators(reply)
        return "" if gone(reply) else None

    async def _ask_about_object(self, session: Session) -> tuple[UploadPlan, Reply]:
        """HEAD of the object. S3 answers 403 for one that is not there to those who may not list, which no
        fresh signature would change.

        Raises:
            Refused: the server said something else than what it has, or that it may not say.
        """
        plan, reply = await self._exchange(
            session, lambda plan: _asked(plan.check), settling=True, insist=False
        )
        if not confirmed(reply) and not gone(reply) and reply.status not in (401, 403):
            raise self._failed(plan, reply, _asked(plan.check), "check")
        return plan, reply

    async def send_part(self, session: Session, part: Part) -> Receipt:
        await self._digests.ahead(part)
        plan, reply = await self._exchange(session, lambda plan: _part(plan, part), part.body, part.size)
        planned = _part(plan, part)
        block = plan.complete is not None and plan.completion == "azure-block-list"
        if not confirmed(reply) or (block and not created(reply)):
            raise self._failed(plan, reply, planned, f"part {planned.number}")
        await self._digests.compare(part, reply, f"part {planned.number}")
        etag = (reply.header("etag") or "")[:_LONGEST]
        if not etag and plan.completion in NEEDS_ETAG and plan.complete is not None:
            raise _refused(
                FaultKind.REPLY,
                f"part {planned.number}: the server's reply has no ETag, and {plan.completion} has to name "
                "each part by it: a proxy may remove it, or the completion is another provider's",
            )
        self._sent.add(part.index)
        return receipt_of(etag, planned.part_id)

    async def commit(
        self, session: Session, receipts: Mapping[int, Receipt], last: Part | None
    ) -> dict[str, str]:
        known = dict(receipts)
        found = self._found
        if last is not None and found is not None and await last.checksum("md5") == content_of(found):
            return _result(found)
        if last is not None:
            known[last.index] = await self.send_part(session, last)
        plan = await self._plan(session, settling=True)
        parts = uploaded_parts(plan, known)
        etags = all(part.etag for part in parts)
        if plan.complete is None:
            if last is not None and not etags:
                await self._look_for_object(session, plan, f"part {parts[0].number}")
            return {"etag": parts[0].etag} if last is not None and parts[0].etag else {}
        completion = Completion(plan.upload_id, plan.metadata, plan.total_size, parts)
        body = self._completion_body(plan, completion)
        plan, reply = await self._exchange(
            session, lambda plan: _asked(plan.complete), _chunks(body), len(body), settling=True
        )
        answered = ANSWERS.get(plan.completion)
        if not confirmed(reply) or (answered is not None and not answered(reply)):
            raise self._failed(plan, reply, _asked(plan.complete), "complete")
        silent = reply.status == 200 and not reply.body  # noqa: PLR2004  # 201 and 204 say that it was done
        if answered is None and (silent or not etags):
            await self._look_for_object(session, plan, "complete")
        return _result(reply)

    async def _look_for_object(self, session: Session, plan: UploadPlan, what: str) -> None:
        """Have the plan's `check`, if it has one, confirm a success of which the reply says nothing: every
        store names what it made, a server of one's own may be honest and silent.

        Raises:
            Refused: there is no such object.
        """
        if plan.check is None:
            return
        plan, reply = await self._ask_about_object(session)
        if not (confirmed(reply) and _fits(reply, plan)):
            detail = (
                f"{what}: the server answered with a success and said nothing of what it made, and the check "
                f"finds no such object of {plan.total_size} bytes"
            )
            raise Refused(Fault(kind=FaultKind.STATUS, detail=detail, status=502))

    def _completion_body(self, plan: UploadPlan, completion: Completion) -> bytes:
        if plan.complete is not None and plan.complete.body is not None:
            return plan.complete.body
        builder = self.tools.refreshers.completion(plan.completion)
        try:
            return bytes(builder(completion))
        except Exception as error:  # noqa: BLE001  # an application's function: whatever it raises, there is no body
            raise _refused(
                FaultKind.INTERNAL, f"completion {plan.completion!r} raised {type(error).__name__}"
            ) from None

    async def reconcile(self, session: Session) -> Reconciled:
        """See `UploadProtocol.reconcile`.

        Without a `check` nothing can be asked. Then the completion may be sent again: it names the same
        parts, so that it can make no other object, and a provider that has made it already says so, or that
        the upload is not there any more.
        """
        plan = await self._plan(session, settling=True)
        if plan.check is None:
            return Reconciled(outcome=Outcome.NOT_COMMITTED)
        plan, reply = await self._ask_about_object(session)
        ours = confirmed(reply) and _is_ours(reply, plan, session.facts.get("before"))
        if ours and not plan.proof and content_of(reply) and self.job.receipts is not None:
            ours = self._has_parts(reply, plan, self.job.receipts)
        if ours:
            return Reconciled(outcome=Outcome.COMMITTED, result=_result(reply))
        return Reconciled(outcome=Outcome.NOT_COMMITTED)

    def _has_parts(self, reply: Reply, plan: UploadPlan, receipts: Mapping[int, Receipt]) -> bool:
        """Whether an object is of this upload's parts, as far as its ETag tells. Of a single PUT the commit
        can tell, which has the bytes at hand."""
        if plan.complete is None and len(plan.parts) == 1:
            self._found = reply
            return False
        if plan.completion != "s3-xml" or len(receipts) < len(plan.parts):
            return True
        expected = md5s_of(part.etag for part in uploaded_parts(plan, receipts))
        return expected in (None, content_of(reply))

    async def abort(self, session: Session) -> None:
        present = self._plans.known
        other = present if present is not None and _misfit(session, present) else None
        if other is not None and not self._plans.renewable:
            raise _refused(
                FaultKind.REPLY,
                f"{_misfit(session, other)}, which goes on; the one before it is left as it is, since it "
                "takes a plan of its own to remove it",
            )
        plan = await self._plan(session, settling=True)
        if plan.abort is None:
            return
        body = plan.abort.body
        plan, reply = await self._exchange(
            session,
            lambda plan: _asked(plan.abort),
            None if body is None else _chunks(body),
            None if body is None else len(body),
            settling=True,
        )
        if not confirmed(reply) and not gone(reply):
            raise self._failed(plan, reply, _asked(plan.abort), "abort")
        self._plans.lose(plan)  # what is begun anew needs another upload
        if other is not None:
            self._plans.take(other)

    # Plans

    async def _first_plan(self) -> UploadPlan:
        """The plan that an upload begins with.

        Raises:
            Refused: there is none; or it is not of this transfer, or of an upload that is gone.
        """
        plan = self._plans.known
        lost = self._plans.lost
        if plan is None or (lost and plan.upload_id == lost):
            reason = RefreshReason.RESTART if lost is None else RefreshReason.SESSION_LOST
            request = self._refresh_request(self._fields.fingerprint, reason, same_upload=False)
            plan = await self._plans.renew(request, plan, _WHY[reason])
        if lost and plan.upload_id == lost:
            raise _refused(
                FaultKind.REPLY,
                f"refresher {self._fields.refresher!r} brought a plan of the upload that the server does not "
                "know any more: where the reason is session-lost, a new upload has to be opened",
            )
        try:
            check_fit(self._fields.fingerprint, plan, keep_upload=False)
        except InvalidArgument as error:
            raise _refused(FaultKind.REPLY, str(error)) from None
        return plan

    async def _plan(self, session: Session, *, settling: bool = False) -> UploadPlan:
        """The plan that goes on with `session`.

        Raises:
            Refused: SESSION_LOST where the one at hand goes on with another; EXPIRED where there is none.
        """
        plan = self._plans.known or (self._plans.last if settling else None)
        misfit = None if plan is None else _misfit(session, plan)
        if plan is not None and misfit is None:
            return plan
        if misfit is not None and not self._plans.renewable:
            kind = FaultKind.EXPIRED if settling else FaultKind.SESSION_LOST
            raise _refused(kind, f"{misfit}; without a refresher nothing else can go on with it")
        return await self._renew(session, RefreshReason.RESTART, plan, settling=settling)

    async def _renew(
        self, session: Session, reason: RefreshReason, seen: UploadPlan | None, *, settling: bool
    ) -> UploadPlan:
        """A fresh plan that goes on with `session`.

        Raises:
            Refused: SESSION_LOST where it is one of a new upload, which nothing forbids as yet.
        """
        keep = settling or bool(self._confirmed)
        request = self._refresh_request(_known_of(session), reason, same_upload=keep)
        plan = await self._plans.renew(request, seen, _WHY[reason])
        misfit = _misfit(session, plan)
        if misfit is not None:
            kind = FaultKind.REPLY if keep else FaultKind.SESSION_LOST
            raise _refused(kind, misfit)
        return plan

    @property
    def _confirmed(self) -> set[int]:
        return self._sent.union(self.job.confirmed.numbers)

    def _refresh_request(
        self, known: Fingerprint, reason: RefreshReason, *, same_upload: bool
    ) -> RefreshRequest:
        there = self._confirmed if same_upload else set()
        numbers = [(known.first + index, index in there) for index in range(known.count)]
        return RefreshRequest(
            task=self.job.task,
            direction="upload",
            reason=reason,
            fingerprint=known,
            same_upload=same_upload,
            wanted=tuple(number for number, confirmed in numbers if not confirmed),
            confirmed=tuple(number for number, confirmed in numbers if confirmed),
        )

    # Requests

    async def _exchange(
        self,
        session: Session,
        pick: "Callable[[UploadPlan], PlanRequest | PlanPart]",
        body: Callable[[], AsyncIterator[Chunk]] | None = None,
        length: int | None = None,
        *,
        settling: bool = False,
        insist: bool = True,
    ) -> tuple[UploadPlan, Reply]:
        """One request of the plan, with a fresh signature where it needs one: once before it is sent, by the
        clock, and once more where the server does not take it, if `insist` says so."""
        plan = await self._plan(session, settling=settling)
        plan = await self._plans.in_time(
            plan, pick(plan), partial(self._renew, session, RefreshReason.EXPIRES, plan, settling=settling)
        )
        reply = await self._send(pick(plan), body, length)
        if insist and unauthorized(reply) and self._plans.renewable:
            plan = await self._renew(session, RefreshReason.REFUSED, plan, settling=settling)
            reply = await self._send(pick(plan), body, length)
        return plan, reply

    async def _send(
        self,
        signed: PlanRequest | PlanPart,
        body: Callable[[], AsyncIterator[Chunk]] | None,
        length: int | None,
    ) -> Reply:
        named = {name.lower() for name in signed.headers} | _OWN
        headers = {name: value for name, value in self.job.headers.items() if name.lower() not in named}
        headers |= {name: value for name, value in signed.headers.items() if name.lower() not in _OWN}
        request = HttpRequest(signed.method, signed.url, headers, body, length)
        return await call(self.tools.transport, request, MOST)

    def _failed(self, plan: UploadPlan, reply: Reply, signed: PlanRequest | PlanPart, what: str) -> Refused:
        fault = classify(reply, what, self.tools.wall(), run_out=self._plans.over(signed))
        if fault.kind is FaultKind.SESSION_LOST:
            self._plans.lose(plan)
        if fault.kind is FaultKind.EXPIRED and self._plans.renewable:
            detail = f"{what}: the server answered {reply.status} to a fresh URL, too: compare the clocks"
            fault = Fault(kind=FaultKind.CREDENTIAL, detail=detail, status=reply.status)
        return Refused(fault)


_SAME = "supply a fresh plan of the same upload, or name a refresher"
_WHY = {
    RefreshReason.EXPIRES: f"the signed URLs have run out, by this machine's clock: {_SAME}",
    RefreshReason.REFUSED: f"the signed URLs are refused: {_SAME}",
    RefreshReason.RESTART: f"the plan is not at hand, since it is never stored: {_SAME}",
    RefreshReason.SESSION_LOST: "the server does not know the upload any more: supply a plan of a new one, "
    "or name a refresher",
}


def _first_url(plan: UploadPlan | None) -> str:
    if plan is None:
        return ""
    signed = plan.ordered[0] if plan.parts else plan.complete
    return signed.url if signed is not None else ""


def _known_of(session: Session) -> Fingerprint:
    return replace(msgspec.json.decode(session.facts["plan"], type=Fingerprint), upload_id=session.id)


def _misfit(session: Session, plan: UploadPlan) -> str | None:
    """Why `plan` does not go on with `session`; None where it does."""
    try:
        check_fit(_known_of(session), plan, keep_upload=True)
    except InvalidArgument as error:
        return str(error)
    return None


def _part(plan: UploadPlan, part: Part) -> PlanPart:
    planned = plan.ordered[part.index]
    assert (planned.offset, planned.size) == (part.start, part.size)  # noqa: S101  # the sizes left no choice
    return planned


def _asked(request: PlanRequest | None) -> PlanRequest:
    if request is None:
        raise _refused(
            FaultKind.REPLY, "a fresh plan lacks a request that the one before it had: sign it again as well"
        )
    return request


def _held(plan: UploadPlan) -> dict[int, Held]:
    """The parts that another store has noted, by index."""
    held: dict[int, Held] = {}
    for index, part in enumerate(plan.resumed):
        receipt = receipt_of(part.etag, part.part_id, part.checksum)
        held[index] = Held(size=part.size, receipt=receipt, md5=md5_of(part.etag))
    return held


def _chunks(data: bytes) -> Callable[[], AsyncIterator[bytes]]:
    async def body() -> AsyncIterator[bytes]:
        yield data

    return body


def _validators(reply: Reply) -> str:
    """What one version of an object is known by."""
    return " ".join(f"{name}={(reply.header(name) or '')[:_LONGEST]}" for name in _VALIDATORS)


def _fits(reply: Reply, plan: UploadPlan) -> bool:
    """Whether the object has the size of this upload, as far as its server tells, and the plan's proof."""
    length = reply.header("content-length")
    if length != str(plan.total_size) and not (length is None and reply.header("etag")):
        return False
    return all(reply.header(name) == value for name, value in plan.proof.items())


def _is_ours(reply: Reply, plan: UploadPlan, before: str | None) -> bool:
    """Whether the object is what this upload made: it fits, and without a proof is not the object that stood
    there when the upload began."""
    other = bool(plan.proof) or (before is not None and _validators(reply) != before)
    return other and _fits(reply, plan)


def _result(reply: Reply) -> dict[str, str]:
    """What is worth remembering of the object."""
    versions = (reply.header(name) for name in _VALIDATORS if name.endswith("version-id"))
    found = {"etag": etag_of(reply), "version_id": next(filter(None, versions), None)}
    return {name: value[:_LONGEST] for name, value in found.items() if value}


def _refused(kind: FaultKind, detail: str) -> Refused:
    return Refused(Fault(kind=kind, detail=detail))
