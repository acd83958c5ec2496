"""How a command reaches a task: through the process that owns its journal, or on the journal itself.

Who owns a journal can change at any moment, so either way is tried again for a while when the other one has
just become the right one.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import anyio
from msgspec.structs import replace

from meowcat.cli.journals import read_all
from meowcat.cli.signers import Signers, signers_of
from meowcat.cli.views import refusal_text
from meowcat.config import Config
from meowcat.control import messages as ctl
from meowcat.control.client import connect
from meowcat.control.server import obey
from meowcat.core.errors import (
    Code,
    EngineClosed,
    JournalOwned,
    MeowcatError,
    NobodyListens,
    OwnerLost,
)
from meowcat.core.machine import ACTIVE, State, Trigger
from meowcat.core.values import TaskId
from meowcat.engine import Engine

GRACE = 5.0
"""Seconds that a journal may be owned by a process that does not answer: it is opening, or closing, or
another command that is soon done."""
PAUSE = 0.05
"""Seconds until the next try then."""

PATIENCE = 1.0
"""Seconds that an owner may take to do something until it is asked whether its journal takes records."""

Via = Literal["owner", "journal"]
T = TypeVar("T")

_GOING = ACTIVE | {State.QUEUED, State.COMPLETE}
_REACHED: dict[Trigger, frozenset[State]] = {
    Trigger.PAUSE: frozenset({State.PAUSED}),
    Trigger.RESUME: frozenset(_GOING),
    Trigger.RETRY: frozenset(_GOING),
    Trigger.CANCEL: frozenset({State.CANCELED}),
}
"""Where a task is when the command was done, though the owner did not live to say so."""


@dataclass(frozen=True)
class Answered:
    """What became of the tasks of one journal, and who did it."""

    outcomes: list[ctl.Outcome]
    via: Via


async def act(journal: str, order: ctl.Order) -> Answered:
    """Have the journal's owner do it; where it has none, do it.

    Raises:
        JournalOwned: its owner does not listen. JournalError, ControlError: it can't be used, or reached.
    """
    deadline = time.monotonic() + GRACE
    doubtful = False
    done: list[ctl.Outcome] = []
    while True:
        try:
            async with connect(journal) as control:
                outcomes = await control.order(order)
            left = _cut_off(outcomes)
            done += [each for each in outcomes if each.task not in left]
            if not left:
                return Answered(await _settled(journal, order, done, doubtful=doubtful), "owner")
            order = replace(order, tasks=tuple(left))
        except NobodyListens:
            pass
        except (OwnerLost, EngineClosed):
            doubtful = True
        try:
            done += await _alone(journal, order)
            return Answered(await _settled(journal, order, done, doubtful=doubtful), "journal")
        except JournalOwned as owned:
            if time.monotonic() > deadline:
                raise silent_owner(owned) from None
            await anyio.sleep(PAUSE)


async def telling_why(journal: str, say: Callable[[str], None], doing: Callable[[], Awaitable[T]]) -> T:
    """Do it; where that takes long since the owner's journal takes no records, say so meanwhile.

    Raises:
        MeowcatError: what `doing` raises.
    """
    found: list[T] = []
    failed: MeowcatError | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(_tell_why, journal, say)
        try:
            found.append(await doing())
        except MeowcatError as error:  # raised below: a group would make another error of it
            failed = error
        group.cancel_scope.cancel()
    if failed is not None:
        raise failed
    return found[0]


async def _tell_why(journal: str, say: Callable[[str], None]) -> None:
    await anyio.sleep(PATIENCE)
    try:
        async with connect(journal) as control:
            refusal = (await control.snapshot()).refusal
    except MeowcatError:
        return  # whoever waits for the owner is told of it
    if refusal:
        say(f"{journal}: {refusal_text(refusal)}; waiting until it does")


def silent_owner(owned: JournalOwned) -> JournalOwned:
    """What is to be done about an owner that can't be asked."""
    return JournalOwned(
        f"{owned}, which does not listen: stop it, or have it opened with control=True", owner=owned.owner
    )


async def _alone(journal: str, order: ctl.Order) -> list[ctl.Outcome]:
    """With an engine that touches what is ordered and nothing else. It does not listen: whoever else comes
    waits for the moment that it takes, instead of being hung up on.

    What a cancel leaves to be removed at a server is removed while it closes, or is owed.
    """
    signers = await signers_of(journal) if isinstance(order, ctl.Cancel) else Signers()
    config = Config(control=False)
    async with Engine(journal, config=config, on_restart="leave", credentials=signers.found) as engine:
        return await obey(engine, order)


def _cut_off(outcomes: list[ctl.Outcome]) -> list[TaskId]:
    """The tasks that the owner's close came before."""
    return [each.task for each in outcomes if each.error is not None and each.error.code == Code.CLOSED]


async def _settled(
    journal: str, order: ctl.Order, outcomes: list[ctl.Outcome], *, doubtful: bool
) -> list[ctl.Outcome]:
    """Where an owner died before it had answered, a refusal may mean that it had done it before."""
    if not doubtful or not any(each.error for each in outcomes):
        return outcomes
    reached = _REACHED[ctl.ORDERS[type(order)]]
    states = {each.task.id: each.task.state for each in (await read_all(journal)).tasks}
    return [
        ctl.Outcome(task=each.task, state=states[each.task])
        if each.error is not None and states.get(each.task) in reached
        else each
        for each in outcomes
    ]
