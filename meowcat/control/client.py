"""The other end of the control socket: what asks the owner of a journal for something."""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import anyio

from meowcat.control import messages as ctl
from meowcat.control.place import place_of
from meowcat.control.wire import LineTooLong, Wire, connect_to
from meowcat.core.errors import ControlError, NobodyListens, OwnerLost
from meowcat.core.info import Orphan, Snapshot
from meowcat.core.machine import State
from meowcat.core.plans import DownloadPlan, UploadPlan
from meowcat.core.transfers import Direction
from meowcat.core.values import TaskId
from meowcat.journal.contract import Journal
from meowcat.streams import Stream

CONNECT_WITHIN = 5.0
ANSWER_WITHIN = 90.0
"""Seconds that an owner may take for a line of its answer: longer than until it gives a command up itself."""
SILENCE = 20.0
"""Seconds without a line after which a watched owner counts as hanging: it says something every 5."""

R = TypeVar("R", bound=ctl.Reply)


@asynccontextmanager
async def connect(
    journal: str | os.PathLike[str] | Journal, *, answer_within: float = ANSWER_WITHIN
) -> AsyncIterator["Control"]:
    """Reach the owner of a journal, for the length of an `async with` block.

    Args:
        journal: as for `Engine`.
        answer_within: seconds after which an owner that has not answered counts as hanging.

    Raises:
        NobodyListens: it has no owner, or one that does not listen. ControlError: the socket is not to be
            trusted, or can't be opened.
    """
    path = place_of(journal)
    with await _reached(path) as wire:
        yield Control(wire, path, answer_within)


async def _reached(path: Path) -> Wire:
    try:
        _check_owner(path)
        with anyio.fail_after(CONNECT_WITHIN):
            return await connect_to(path)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        raise NobodyListens(f"{path}: nobody listens there") from None
    except TimeoutError:
        raise ControlError(f"{path}: no connection within {CONNECT_WITHIN:.0f} s") from None
    except OSError as error:
        raise ControlError(f"{path}: {error.strerror or error}") from None


def _check_owner(path: Path) -> None:
    """Secrets are sent there: the socket must be ours, root's, or of whom the folder and the journal are.

    Raises:
        ControlError: somebody else has put it there.
    """
    trusted = {os.geteuid(), 0, path.parent.stat().st_uid}
    owner = path.stat().st_uid
    if owner not in trusted:
        raise ControlError(f"{path}: belongs to user {owner}, who owns neither you nor its folder; remove it")


class Control:
    """A connection to the owner of a journal. One request at a time; a watch takes it over for good.

    Every method raises OwnerLost where the owner went away before it had answered, and otherwise what the
    owner had: the same class and code, with the same text.
    """

    def __init__(self, wire: Wire, path: Path, answer_within: float = ANSWER_WITHIN) -> None:
        self._wire = wire
        self._path = path
        self._within = answer_within
        self.refusal = ""
        """Why the journal took no records when its owner last told of tasks; empty while it does."""

    async def ping(self) -> ctl.Pong:
        """Who owns the journal, and which version it speaks."""
        await self._send(ctl.Ping())
        return await self._receive(ctl.Pong)

    async def order(self, order: ctl.Order) -> list[ctl.Outcome]:
        """Pause, resume, cancel or retry: what became of each task."""
        await self._send(order)
        return await self._outcomes()

    async def supply(
        self,
        task: TaskId,
        *,
        url: str | None = None,
        headers: Mapping[str, str] | None = None,
        plan: UploadPlan | DownloadPlan | None = None,
    ) -> None:
        """As `Task.supply`: it stays in the owner's memory."""
        supply = ctl.Supply(
            task=task,
            url=url,
            headers=dict(headers or {}),
            upload_plan=plan if isinstance(plan, UploadPlan) else None,
            download_plan=plan if isinstance(plan, DownloadPlan) else None,
        )
        await self._send(supply)
        await self._outcomes()

    async def limit(
        self, rate: int | None, *, host: str | None = None, tasks: Sequence[TaskId] = ()
    ) -> list[ctl.Outcome]:
        """As `Engine.set_limit_rate`: what became of each of the tasks, if any are named."""
        await self._send(ctl.Limit(rate=rate, host=host, tasks=tuple(tasks)))
        return await self._outcomes()

    async def tasks(
        self, *, states: Sequence[State] = (), direction: Direction | None = None
    ) -> list[ctl.LiveTask]:
        """The tasks that have not ended, or those in `states`."""
        await self._send(ctl.ListTasks(states=tuple(states), direction=direction))
        return await self._page()

    async def orphans(self) -> list[Orphan]:
        """As `Engine.orphans`."""
        await self._send(ctl.ListOrphans())
        found: list[Orphan] = []
        while True:
            page = await self._receive(ctl.Orphans)
            found += page.orphans
            if not page.more:
                return found

    async def abort_orphans(self) -> list[TaskId]:
        """As `Engine.abort_orphans`."""
        await self._send(ctl.AbortOrphans())
        return [each.task for each in await self._outcomes()]

    async def snapshot(self) -> Snapshot:
        await self._send(ctl.Glance())
        return (await self._receive(ctl.Glanced)).snapshot

    def watch(
        self, tasks: Sequence[TaskId] = (), *, direction: Direction | None = None
    ) -> Stream[list[ctl.LiveTask]]:
        """First all (or the named) tasks, then about twice a second those that changed, which may be none.
        `refusal` is up to date with each."""
        sent = False

        async def step() -> list[ctl.LiveTask]:
            nonlocal sent
            if not sent:
                sent = True
                await self._send(ctl.Watch(tasks=tuple(tasks), direction=direction))
                return await self._page()
            return await self._page(SILENCE)

        return Stream(step)

    async def _outcomes(self) -> list[ctl.Outcome]:
        found: list[ctl.Outcome] = []
        while True:
            done = await self._receive(ctl.Done)
            found += done.outcomes
            if not done.more:
                return found

    async def _page(self, within: float | None = None) -> list[ctl.LiveTask]:
        found: list[ctl.LiveTask] = []
        while True:
            page = await self._receive(ctl.Tasks, within)
            found += page.tasks
            self.refusal = page.refusal
            if not page.more:
                return found

    async def _send(self, request: ctl.Request) -> None:
        try:
            with anyio.move_on_after(self._within):
                await self._wire.send(ctl.line_of(request))
        except OSError:
            pass  # it may have said why, and hung up: reading tells

    async def _receive(self, kind: type[R], within: float | None = None) -> R:
        within = self._within if within is None else within
        try:
            with anyio.fail_after(within):
                line = await self._wire.line(ctl.MAX_REPLY)
        except TimeoutError:
            raise ControlError(f"{self._path}: the owner has not answered within {within:.0f} s") from None
        except LineTooLong:
            raise ControlError(f"{self._path}: the owner's answer has no end") from None
        except OSError:
            line = None
        if line is None:
            raise OwnerLost(f"{self._path}: the owner is gone, and has not answered")
        reply = ctl.reply_of(line)
        if isinstance(reply, ctl.Failure):
            raise ctl.error_of(reply)
        if not isinstance(reply, kind):
            raise ControlError(f"{self._path}: the owner answered {type(reply).__name__}, out of turn")
        return reply
