"""Downloads from presigned URLs: ranges over HTTP, whose URL is replaced in time, or where it is refused.

A fresh URL leads to the same content as long as the validator says so: the generation is pinned over all of
them, and what another one would bring is refused as a change.
"""

from types import TracebackType

from msgspec.structs import replace

from meowcat.core.errors import InvalidArgument
from meowcat.core.http_rules import Asked, Wrong
from meowcat.core.plans import DownloadPlan, check_fit
from meowcat.core.transfers import ProtocolSpec
from meowcat.core.urls import check_url
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.contract import Answer, Asking, DownloadJob, DownloadProtocol, Tools
from meowcat.protocols.http_range import HttpRange
from meowcat.protocols.plans_at_hand import PlansAtHand
from meowcat.protocols.presigned_replies import LOOK, expiry_stands_in
from meowcat.protocols.presigned_settings import TAG, DownloadFields, download_fields, url_of
from meowcat.protocols.refreshers import RefreshReason, RefreshRequest
from meowcat.protocols.refused import Refused
from meowcat.transport.contract import TransportFault

__all__ = ["PresignedRange"]


class PresignedRange(DownloadProtocol):
    """What `PresignedDownload` stands for."""

    tag = TAG

    def __init__(self, job: DownloadJob, tools: Tools) -> None:
        super().__init__(job, tools)
        self._fields = _fields_of(job)
        self._plans = PlansAtHand(tools, job.task, DownloadPlan, job.plan, self._fields.refresher)
        self._ranges: tuple[DownloadPlan, HttpRange] | None = None
        """Of the newest plan: they remember where its redirects led."""

    @classmethod
    def resolve(cls, url: str, spec: ProtocolSpec, plan: object | None = None) -> tuple[str, ProtocolSpec]:
        """See `DownloadProtocol.resolve`. Without a URL the content's own is taken from the plan."""
        fields = download_fields(spec)
        if plan is not None and not isinstance(plan, DownloadPlan):
            raise InvalidArgument(f"plan: expected a DownloadPlan, got {type(plan).__name__}")
        if plan is not None:
            plan.validate()
        url = url or url_of(fields.object, plan.url if plan is not None else "")
        check_url(url)
        return url, spec

    @classmethod
    def needs(cls, spec: ProtocolSpec) -> tuple[str, ...]:
        """See `DownloadProtocol.needs`: who brings plans, or the plan itself."""
        name = download_fields(spec).refresher
        return (f"refresher:{name}",) if name else ("plan",)

    @property
    def looks_first(self) -> bool:
        plan = self._plans.known
        return plan is not None and plan.head_url is not None and plan.total_size is None

    def look(self) -> Asking:
        return _Renewing(self, Asked(0, None, None, method="HEAD"))

    def ask(self, asked: Asked) -> Asking:
        return _Renewing(self, asked)

    async def current(self) -> DownloadPlan:
        """The plan to ask by, fresh enough.

        Raises:
            Refused: there is none; or it is not of this content.
        """
        plan = self._plans.known
        if plan is None:
            return await self.renew(None, RefreshReason.RESTART)
        try:
            check_fit(self._fields.fingerprint, plan, keep_upload=False)
        except InvalidArgument as error:
            raise Refused(Fault(kind=FaultKind.REPLY, detail=str(error))) from None
        return await self._plans.in_time(plan, plan, lambda: self.renew(plan, RefreshReason.EXPIRES))

    async def renew(self, seen: DownloadPlan | None, reason: RefreshReason) -> DownloadPlan:
        """Another plan than `seen`."""
        request = RefreshRequest(
            task=self.job.task, direction="download", reason=reason, fingerprint=self._fields.fingerprint
        )
        return await self._plans.renew(request, seen, _WHY[reason])

    @property
    def renewable(self) -> bool:
        """Whether somebody can be asked for a fresh plan."""
        return self._plans.renewable

    def over(self, plan: DownloadPlan) -> bool:
        """Whether the plan's URL has run out by now."""
        return self._plans.over(plan)

    def opened(self, plan: DownloadPlan, asked: Asked) -> Asking:
        """The request for `asked` by a plan."""
        if asked.method == "HEAD":
            return self._ranges_of(plan, plan.head_url or plan.url).ask(asked)
        if self._ranges is None or self._ranges[0] is not plan:
            self._ranges = plan, self._ranges_of(plan, plan.url)
        return self._ranges[1].ask(asked)

    def _ranges_of(self, plan: DownloadPlan, url: str) -> HttpRange:
        signed = {name.lower() for name in plan.headers}
        kept = {name: value for name, value in self.job.headers.items() if name.lower() not in signed}
        total = self.job.request.total_size
        request = replace(
            self.job.request, total_size=plan.total_size if plan.total_size is not None else total
        )
        job = DownloadJob(self.job.task, request, url, {**kept, **plan.headers})
        return HttpRange(job, self.tools)


_FRESH = "supply a fresh plan, or name a refresher"
_WHY = {
    RefreshReason.EXPIRES: f"the signed URL has run out, by this machine's clock: {_FRESH}",
    RefreshReason.REFUSED: f"the signed URL is refused: {_FRESH}",
    RefreshReason.RESTART: f"the plan is not at hand, since it is never stored: {_FRESH}",
}


class _Renewing:
    """One request; where the server does not take its URL, once more with a fresh one."""

    def __init__(self, protocol: PresignedRange, asked: Asked) -> None:
        self._protocol = protocol
        self._asked = asked
        self._asking: Asking | None = None

    async def __aenter__(self) -> Answer:
        plan = await self._protocol.current()
        answer = await self._enter(plan)
        if not _unauthorized(answer):
            return answer
        if self._protocol.renewable:
            await self._leave()
            return await self._enter(await self._protocol.renew(plan, RefreshReason.REFUSED))
        if not self._protocol.over(plan) and not expiry_stands_in(await _read(answer)):
            return answer
        await self._leave()
        raise Refused(_run_out(answer))

    async def _enter(self, plan: DownloadPlan) -> Answer:
        asking = self._protocol.opened(plan, self._asked)
        answer = await asking.__aenter__()
        self._asking = asking
        return answer

    async def _leave(self) -> None:
        asking, self._asking = self._asking, None
        if asking is not None:
            await asking.__aexit__(None, None, None)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asking, self._asking = self._asking, None
        if asking is not None:
            await asking.__aexit__(kind, error, trace)


def _unauthorized(answer: Answer) -> bool:
    verdict = answer.verdict
    return isinstance(verdict, Wrong) and verdict.fault.status in (401, 403)


async def _read(answer: Answer) -> bytes:
    """The beginning of what a refusal says."""
    said = bytearray()
    try:
        while len(said) < LOOK and (chunk := await answer.read(LOOK)):
            said += chunk
    except TransportFault:
        pass  # the refusal itself has come; only its text is cut off
    return bytes(said)


def _run_out(answer: Answer) -> Fault:
    """A URL that has run out, where nobody can bring a fresh one: supplied anew, the download goes on."""
    verdict = answer.verdict
    status = verdict.fault.status if isinstance(verdict, Wrong) else None
    detail = f"the server answered {status}: the signed URL has run out; {_FRESH}"
    return Fault(kind=FaultKind.EXPIRED, detail=detail, status=status)


def _fields_of(job: DownloadJob) -> DownloadFields:
    assert job.request.protocol is not None  # noqa: S101  # chosen by it
    return download_fields(job.request.protocol)
