"""Refreshers by name: functions of the application's that ask its back end for fresh presigned plans.

Names are journaled, plans never. A refresher is asked when URLs are about to end, when a server refuses them,
after a restart, and when the server does not know the upload any more; once for each task, however many of
its requests are waiting.
"""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum

import anyio
from msgspec import Struct

from meowcat.core.errors import InvalidArgument
from meowcat.core.kinds import check_registration, named
from meowcat.core.plans import DownloadPlan, Fingerprint, Plan, UploadPlan, check_fit
from meowcat.core.transfers import Direction
from meowcat.core.urls import HIDDEN, scrub
from meowcat.core.values import Fault, FaultKind, TaskId
from meowcat.protocols.completions import BUILDERS, Builder
from meowcat.protocols.refused import Refused
from meowcat.transport.threads import call_apart

__all__ = ["RefreshReason", "RefreshRequest", "Refresher", "Refreshers", "Supply"]

PATIENCE = 60.0
"""Seconds that a refresher may take."""
THREADS = 8
"""Plain functions that may run at once; anyio's common limit belongs to the application."""

_LONG_WORD = re.compile(r"[A-Za-z0-9+/=_-]{20,}")
"""What a token or a signature looks like in the text of somebody else's error."""
_SHOWN = 200


class RefreshReason(StrEnum):
    """Why a plan is asked for."""

    EXPIRES = "expires"
    """Its URLs have run out, or are about to."""
    REFUSED = "refused"
    """The server answered 401 or 403 to one of them."""
    RESTART = "restart"
    """No plan is at hand: this process did not begin the transfer."""
    SESSION_LOST = "session-lost"
    """The server does not know the multipart upload any more: a new one is to be opened."""


class RefreshRequest(Struct, frozen=True, kw_only=True):
    """What is asked of a back end. Holds no secret."""

    task: TaskId
    direction: Direction
    reason: RefreshReason
    fingerprint: Fingerprint
    """What the plan has to be about: which object, how large, in which parts, of which upload."""
    same_upload: bool = False
    """The plan has to be of the upload `fingerprint.upload_id`; otherwise it may be of another one."""
    wanted: tuple[int, ...] = ()
    """Numbers of the parts that are still to be sent. The others' URLs have to be there, and are not used."""
    confirmed: tuple[int, ...] = ()
    """Numbers of the parts that the server has."""


Refresher = Callable[[RefreshRequest], Plan | Awaitable[Plan]]
"""Returns a whole plan, signed anew: plain (it is called in a thread, so it may block) or async."""


class Supply:
    """The plan of one task as it is now, in memory: what all operations of the task share."""

    def __init__(self, handed: Plan | None, now: int) -> None:
        self.handed = handed
        self.plan = handed
        self.received = now
        """Milliseconds since 1970 UTC."""
        self.lost: str | None = None
        """The id of the upload that the server does not know any more, where it said so."""
        self.last: UploadPlan | None = None
        """The plan of that one, by which it can be removed if it stands nevertheless."""

    def take(self, plan: Plan, now: int) -> None:
        """Have `plan` from now on. Of one that is there already nothing changes."""
        if plan is not self.plan:
            self.plan, self.received = plan, now

    def lose(self, plan: UploadPlan) -> None:
        """The server does not know the upload of `plan` any more."""
        self.lost, self.last = plan.upload_id, plan
        if isinstance(self.plan, UploadPlan) and self.plan.upload_id == plan.upload_id:
            self.plan = None


class Refreshers:
    """What is registered, by name; and the plans that are at hand.

    Args:
        refreshers: by name.
        completions: builders of completion bodies by name, besides those that come with meowcat.
        patience: seconds that a refresher may take.

    Raises:
        InvalidArgument: one that can't be called.
    """

    def __init__(
        self,
        refreshers: Mapping[str, Refresher] | None = None,
        completions: Mapping[str, Builder] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._refreshers: dict[str, Refresher] = {}
        self._completions: dict[str, Builder] = dict(BUILDERS)
        self._patience = patience
        self._threads = anyio.CapacityLimiter(THREADS)
        self._asking: dict[tuple[str, TaskId], _Asking] = {}
        self._supplies: dict[TaskId, Supply] = {}
        for name, refresher in named("refreshers", refreshers, "functions").items():
            self.register(name, refresher)
        for name, builder in named("completions", completions, "functions").items():
            self.register_completion(name, builder)

    def register(self, name: str, refresher: Refresher) -> None:
        """Have `refresher` under `name` from now on, in the place of an earlier one.

        Raises:
            InvalidArgument: it can't be called; or a name that is none.
        """
        check_registration("refresher", name, refresher)
        _check_callable(f"refresher {name!r}", refresher)
        self._refreshers[name] = refresher

    def register_completion(self, name: str, builder: Builder) -> None:
        """Have `builder` make the bodies of completions that name it.

        Raises:
            InvalidArgument: it can't be called, or is a coroutine function; or the name is none, or one of
                meowcat's own.
        """
        check_registration("completion", name, builder)
        if name in BUILDERS:
            raise InvalidArgument(f"completion {name!r}: one that comes with meowcat; choose another name")
        _check_callable(f"completion {name!r}", builder)
        if inspect.iscoroutinefunction(builder):
            raise InvalidArgument(f"completion {name!r}: expected a plain function, got a coroutine function")
        self._completions[name] = builder

    def __contains__(self, name: str) -> bool:
        return name in self._refreshers

    def completion(self, name: str) -> Builder:
        """The builder of that name.

        Raises:
            Refused: EXPIRED, since registering it is all that is missing.
        """
        builder = self._completions.get(name)
        if builder is None:
            known = ", ".join(sorted(self._completions))
            raise Refused(
                Fault(
                    kind=FaultKind.EXPIRED,
                    detail=f"completion {name!r} is not registered; known are {known}: register it by name",
                )
            )
        return builder

    def supply(self, task: TaskId, handed: Plan | None, now: int) -> Supply:
        """The plan of `task`: `handed`, or what replaced it since."""
        known = self._supplies.get(task)
        if known is None or (handed is not None and known.handed is not handed):
            known = self._supplies[task] = Supply(handed, now)
        return known

    def forget(self, task: TaskId) -> None:
        """Drop the plan of a task that has ended, or rests."""
        self._supplies.pop(task, None)

    async def ask(self, name: str, request: RefreshRequest) -> Plan:
        """A fresh plan that fits; everybody who asks for one task meanwhile gets the same one.

        Raises:
            Refused: EXPIRED where no refresher has that name; CREDENTIAL where it failed; REPLY where what it
                returned is no plan of this transfer.
        """
        key = name, request.task
        while (asking := self._asking.get(key)) is not None:
            await asking.over.wait()
            if asking.fault is not None:
                raise Refused(asking.fault)
            if asking.plan is not None:
                return asking.plan
            # Whoever asked was canceled: the next one in line asks.
        self._asking[key] = asking = _Asking()
        try:
            asking.plan = await self._call(name, request)
        except Refused as refused:
            asking.fault = refused.fault
            raise
        finally:
            del self._asking[key]
            asking.over.set()
        return asking.plan

    async def _call(self, name: str, request: RefreshRequest) -> Plan:
        refresher = self._refreshers.get(name)
        if refresher is None:
            raise _refused(
                FaultKind.EXPIRED,
                f"refresher {name!r} is not registered: pass Engine(refreshers={{{name!r}: ...}})",
            )
        try:
            with anyio.move_on_after(self._patience):
                return _accepted(name, request, await self._given(refresher, request))
            text = f"brought no plan within {self._patience:g} s"
        except Refused:
            raise
        except Exception as error:  # noqa: BLE001  # an application's function: whatever it raises, there is no plan
            said = _LONG_WORD.sub(HIDDEN, scrub(str(error)))
            text = f"raised {type(error).__name__}: {said}"[:_SHOWN]
        raise _refused(FaultKind.CREDENTIAL, f"refresher {name!r} {text}")

    async def _given(self, refresher: Refresher, request: RefreshRequest) -> object:
        if inspect.iscoroutinefunction(refresher) or inspect.iscoroutinefunction(type(refresher).__call__):
            given: object = refresher(request)
        else:
            given = await call_apart(lambda: refresher(request), "meowcat-refresher", self._threads)
        return await given if inspect.isawaitable(given) else given


class _Asking:
    """A refresher is being asked."""

    def __init__(self) -> None:
        self.over = anyio.Event()
        self.plan: Plan | None = None
        self.fault: Fault | None = None


def _accepted(name: str, request: RefreshRequest, given: object) -> Plan:
    """What a refresher returned, if it goes on with the transfer.

    Raises:
        Refused: REPLY, which no other attempt would change: it is a defect of the refresher.
    """
    expected = UploadPlan if request.direction == "upload" else DownloadPlan
    if not isinstance(given, expected):
        raise _refused(
            FaultKind.REPLY,
            f"refresher {name!r} returned a {type(given).__name__}; expected: {expected.__name__}",
        )
    try:
        given.validate()
        check_fit(request.fingerprint, given, keep_upload=request.same_upload)
    except InvalidArgument as error:
        raise _refused(FaultKind.REPLY, f"refresher {name!r}: {error}") from None
    return given


def _check_callable(what: str, function: object) -> None:
    if not callable(function):
        raise InvalidArgument(f"{what}: expected a function, got {type(function).__name__}")


def _refused(kind: FaultKind, detail: str) -> Refused:
    return Refused(Fault(kind=kind, detail=detail))
