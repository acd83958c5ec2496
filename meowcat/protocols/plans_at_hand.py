"""The plan that an operation works by: the one that is at hand, or a fresh one from the back end."""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from meowcat.core.plans import Plan, Signed, UploadPlan, ends, stale
from meowcat.core.urls import host_of
from meowcat.core.values import Fault, FaultKind, TaskId
from meowcat.protocols.contract import Tools
from meowcat.protocols.refreshers import RefreshRequest
from meowcat.protocols.refused import Refused

__all__ = ["PlansAtHand"]

Kind = TypeVar("Kind", bound=Plan)


class PlansAtHand(Generic[Kind]):
    """The plans of one task, for one of its operations.

    Args:
        tools: of the engine.
        task: whose plan it is.
        kind: `UploadPlan` or `DownloadPlan`.
        handed: the plan that came with the task, or was supplied to it.
        refresher: the name of who brings fresh ones; "" where nobody does.
    """

    def __init__(
        self, tools: Tools, task: TaskId, kind: type[Kind], handed: object | None, refresher: str
    ) -> None:
        self._tools = tools
        self._kind = kind
        self._name = refresher
        plan = handed if isinstance(handed, kind) else None
        self._supply = tools.refreshers.supply(task, plan, tools.wall())

    @property
    def known(self) -> Kind | None:
        """The plan that is at hand."""
        plan = self._supply.plan
        return plan if isinstance(plan, self._kind) else None

    @property
    def last(self) -> UploadPlan | None:
        """The plan of an upload that the server does not know any more, if it said so in this process."""
        return self._supply.last

    @property
    def lost(self) -> str | None:
        """The id of the upload that the server does not know any more, where it said so."""
        return self._supply.lost

    def lose(self, plan: UploadPlan) -> None:
        """The server does not know the upload of `plan` any more: it is of no use."""
        self._supply.lose(plan)

    def take(self, plan: Kind) -> None:
        """Go on with `plan`."""
        self._supply.take(plan, self._tools.wall())

    @property
    def renewable(self) -> bool:
        """Whether somebody can be asked for a fresh plan."""
        return bool(self._name)

    async def renew(self, request: RefreshRequest, seen: Kind | None, why: str) -> Kind:
        """Another plan than `seen`: the one that came meanwhile, or one that is asked for now.

        Raises:
            Refused: EXPIRED, with `why`, where nobody can be asked; what `Refreshers.ask` raises.
        """
        known = self.known
        if known is not None and known is not seen:
            return known
        if not self._name:
            raise Refused(Fault(kind=FaultKind.EXPIRED, detail=why))
        plan = await self._tools.refreshers.ask(self._name, request)
        assert isinstance(plan, self._kind)  # noqa: S101  # of the direction that was asked for
        self.take(plan)
        return plan

    async def in_time(self, plan: Kind, signed: Signed, renew: Callable[[], Awaitable[Kind]]) -> Kind:
        """`plan`; or, where `signed` of it is about to end, what `renew` brings. While the URL is still good,
        a back end that fails hurts nobody.

        Raises:
            Refused: the URL has run out, and there is no other.
        """
        if not stale(signed, self._supply.received, self._now(signed), plan.refresh_before):
            return plan
        over = self.over(signed)
        if not over and not self.renewable:
            return plan
        try:
            return await renew()
        except Refused as refused:
            if over or refused.fault.kind is not FaultKind.CREDENTIAL:
                raise
            return plan

    def over(self, signed: Signed) -> bool:
        """Whether a URL has run out, as far as the server's clock is known."""
        end = ends(signed)
        return end is not None and self._now(signed) >= end

    def _now(self, signed: Signed) -> int:
        return self._tools.wall() + self._tools.skew.get(host_of(signed.url), 0)
