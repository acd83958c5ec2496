"""What is known of the tasks of some journals, kept up to date: by their owners where they have one, and by
reading where they have none.
"""

import time
from collections.abc import Iterable
from dataclasses import replace

import anyio
import anyio.to_thread

from meowcat.cli.journals import Past, chosen, opened
from meowcat.cli.views import Seen
from meowcat.control import messages as ctl
from meowcat.control.client import connect
from meowcat.core.errors import ControlError, JournalError, MeowcatError, NobodyListens
from meowcat.core.info import info_of
from meowcat.core.machine import ACTIVE, ENDED, State
from meowcat.core.state import TaskState, evolve
from meowcat.core.values import Position, TaskId
from meowcat.journal.contract import Owner, Record
from meowcat.journal.replay import Fold

LOOK_EVERY = 0.5
"""Seconds between two looks for an owner."""
LOOK_WITHIN = 3.0
"""Seconds that an owner may take to say how things are: a list is not worth a longer wait."""
READ_EVERY = {True: 0.5, False: 5.0}
"""Seconds between two readings of a journal without owner: one that was named, and one of the state folder,
which may have hundreds."""
_READ_AT_ONCE = 2000
_GOING = ACTIVE | {State.QUEUED}
"""States of tasks that go on by themselves."""


async def seen_in(past: Past) -> tuple[list[Seen], dict[str, ControlError]]:
    """The tasks as they were read, with what the owners of their journals add; and which of those failed."""
    owners: dict[str, Owner] = {}
    live: dict[TaskId, ctl.LiveTask] = {}
    silent: dict[str, ControlError] = {}
    refusals: dict[str, str] = {}
    for journal in past.journals:
        try:
            async with connect(journal, answer_within=LOOK_WITHIN) as control:
                owners[journal] = (await control.ping()).owner
                live |= {each.info.id: each for each in await control.tasks(states=tuple(ACTIVE))}
                refusals[journal] = control.refusal
        except NobodyListens:
            continue
        except ControlError as error:
            silent[journal] = error
    return [
        _seen(
            each.journal,
            live.get(each.task.id) or ctl.LiveTask(info=each.info),
            owners.get(each.journal),
            refusals.get(each.journal, ""),
            silent=each.journal in silent,
        )
        for each in past.tasks
    ], silent


def _seen(
    journal: str, live: ctl.LiveTask, owner: Owner | None, refusal: str, *, silent: bool = False
) -> Seen:
    told = refusal if live.info.state in _GOING else ""
    return Seen(journal, live.info, live.rate, live.eta, live.waits_until, owner, silent, told)


class Board:
    """The newest view of each task, and which have changed since somebody looked."""

    def __init__(self) -> None:
        self.tasks: dict[TaskId, Seen] = {}
        self.changed: set[TaskId] = set()
        self.old: set[TaskId] = set()
        """What had ended before it was first looked at."""

    def put(self, seen: Seen) -> None:
        task = seen.info.id
        known = self.tasks.get(task)
        if known is None and seen.info.state in ENDED:
            self.old.add(task)
        if known != seen:
            self.tasks[task] = seen
            self.changed.add(task)

    def refuse(self, journal: str, refusal: str) -> None:
        """The journal takes no records now, or with "" takes them again: that concerns each of its tasks."""
        for seen in list(self.tasks.values()):
            if seen.journal == journal and seen.owner is not None and seen.info.state in _GOING:
                self.put(replace(seen, refusal=refusal))

    def disown(self, journal: str) -> None:
        """The journal has no owner any more: what only it knew is not known now."""
        for seen in list(self.tasks.values()):
            if seen.journal == journal and seen.owner is not None:
                self.put(Seen(journal, seen.info))


async def follow_all(board: Board, journal: str | None) -> None:
    """Keep the board up to date until canceled; journals that come to the state folder are joined in."""
    followed: set[str] = set()
    async with anyio.create_task_group() as following:
        while True:
            for where in set(chosen(journal)) - followed:
                followed.add(where)
                following.start_soon(_follow, board, where, journal is not None)
            await anyio.sleep(LOOK_EVERY)


async def _follow(board: Board, journal: str, named: bool) -> None:
    reading = _Reading(journal)
    due = 0.0
    while True:
        if time.monotonic() >= due:
            await _catch_up(board, reading, named)
            due = time.monotonic() + READ_EVERY[named]
        if await _owned(board, journal):
            board.disown(journal)
            due = 0.0  # the owner may have recorded more than it lived to tell
        await anyio.sleep(LOOK_EVERY)


async def _catch_up(board: Board, reading: "_Reading", named: bool) -> None:
    try:
        for task in await anyio.to_thread.run_sync(reading.news):
            board.put(Seen(reading.journal, info_of(task)))
    except JournalError:
        if named:
            raise  # one of the state folder may be readable the next time, and hurts no other


async def _owned(board: Board, journal: str) -> bool:
    """Follow the journal's owner as long as it has one; False where it had none."""
    owned = False
    try:
        async with connect(journal, answer_within=LOOK_WITHIN) as control:
            owner = (await control.ping()).owner
            owned = True
            refusal = ""
            async for changed in control.watch():
                for live in changed:
                    board.put(_seen(journal, live, owner, control.refusal))
                if control.refusal != refusal:
                    refusal = control.refusal
                    board.refuse(journal, refusal)
    except MeowcatError:  # gone, hanging or closing: the journal itself tells what there is
        pass
    return owned


class _Reading:
    """What was read of one journal, and how far. Opened anew each time, so that nothing stays held."""

    def __init__(self, journal: str) -> None:
        self.journal = journal
        self._fold: Fold[TaskState] = Fold(evolve)
        self._position = Position(0)

    def news(self) -> Iterable[TaskState]:
        """The tasks that have records behind those read before. Blocking."""
        journal = opened(self.journal)
        touched: set[TaskId] = set()
        try:
            while True:
                records = journal.scan(self._position, _READ_AT_ONCE)
                self._fold.add(records)
                touched |= {each.task for each in records if isinstance(each, Record)}
                if records:
                    self._position = max(each.position or self._position for each in records)
                if len(records) < _READ_AT_ONCE:
                    break
        finally:
            journal.close()
        return [self._fold.tasks[task] for task in touched if task in self._fold.tasks]
