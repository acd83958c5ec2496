"""Opening a journal that has a past: load what is unfinished, ask what becomes of it, record the answers."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from msgspec import Struct

from meowcat.core import messages as msg
from meowcat.core.decide import decide
from meowcat.core.errors import JournalDamaged, TaskNotFound
from meowcat.core.info import TaskInfo, info_of
from meowcat.core.machine import ACTIVE, State
from meowcat.core.state import TaskState, evolve
from meowcat.core.values import TaskId
from meowcat.journal.contract import Entry, Journal
from meowcat.journal.histories import AT_ONCE, histories
from meowcat.journal.replay import Quarantined, fold_tasks
from meowcat.journal.writer import Writer
from meowcat.runtime.dispatcher import entries_of
from meowcat.runtime.world import Clock, Threads

log = logging.getLogger("meowcat.journal")

OnRestart = str | Callable[[TaskInfo], bool]
"""`resume`, `pause`, or a function that is asked for each task that was not paused: go on with it? Or
`leave`: nobody is asked, and nothing is recorded of a task until a command names it, but that a session of
it may stand at a server."""

ON_RESTART = ("resume", "pause", "leave")

BATCH = AT_ONCE
"""Tasks that are read with one visit to the journal, and whose answers are recorded with one append."""


@dataclass
class Past:
    """What an opening found."""

    tasks: list[TaskState] = field(default_factory=list)
    quarantined: dict[TaskId, str] = field(default_factory=dict)


class Verdict(Struct, frozen=True):
    resume: bool
    reason: str


def load(journal: Journal) -> Past:
    """Read and fold every unfinished task; one that is damaged is set aside. Blocking."""
    past = Past()
    for tasks in _batches(list(journal.unfinished())):
        found = load_some(journal, tasks)
        past.tasks += found.tasks
        past.quarantined |= found.quarantined
    return past


def load_some(journal: Journal, tasks: Sequence[TaskId]) -> Past:
    """`load` of these tasks."""
    past = Past()
    for task, folded in zip(tasks, read_tasks(journal, tasks), strict=True):
        if isinstance(folded, TaskState):
            past.tasks.append(folded)
            continue
        if isinstance(folded, Exception) and not isinstance(folded, JournalDamaged | TaskNotFound):
            raise folded
        detail = folded.detail if isinstance(folded, Quarantined) else str(folded)
        log.error("task %s is quarantined: %s", task, detail)
        past.quarantined[task] = detail
    return past


def read_tasks(journal: Journal, tasks: Sequence[TaskId]) -> list[TaskState | Quarantined | Exception]:
    """The states of tasks from their records, in their order, or of each why not: `Quarantined`,
    TaskNotFound, or what reading it raised. Blocking."""
    found = histories(journal, tasks)
    states = fold_tasks(tasks, [() if isinstance(each, Exception) else each for each in found], evolve)
    folded: list[TaskState | Quarantined | Exception] = [*states]
    for place, history in enumerate(found):
        if not history:
            folded[place] = TaskNotFound(f"task {tasks[place]}: the journal has no such task")
        elif isinstance(history, Exception):
            folded[place] = history
    return folded


def _batches(tasks: Sequence[TaskId]) -> Iterator[Sequence[TaskId]]:
    return (tasks[first : first + BATCH] for first in range(0, len(tasks), BATCH))


def ask(on_restart: OnRestart, task: TaskState) -> Verdict:
    """What becomes of a task that was Queued or at work. A function that raises pauses the task."""
    if not callable(on_restart):
        return Verdict(on_restart == "resume", f"opened with on_restart={on_restart!r}")
    try:
        resume = bool(on_restart(info_of(task)))
    except (
        Exception
    ) as error:  # the application's own function: whatever it raises, the task must not be lost
        log.exception("on_restart raised for task %s", task.id)
        return Verdict(resume=False, reason=f"on_restart raised {type(error).__name__}")
    return Verdict(resume, f"on_restart said {'yes' if resume else 'no'}")


Has = Callable[[str], bool]
"""Whether what a request needs, by name, is registered with the engine that opens the journal."""


def answers(
    tasks: Sequence[TaskState], on_restart: OnRestart, clock: Clock, has: Has = lambda _: False
) -> Iterator[tuple[int, list[Entry], TaskState]]:
    """For each task that the opening changes: its index, the entries to append, and the task after them."""
    for index, task in enumerate(tasks):
        message = _message(task, on_restart)
        entries, after = _told(task, message, clock) if message is not None else ([], task)
        met = _met(after, has) if on_restart != "leave" else ()
        if met:
            supply = msg.Reap() if after.condemned else msg.Supply(names=met)
            supplied, after = _told(after, supply, clock)
            entries += supplied
        if entries:
            yield index, entries, after


def _told(task: TaskState, message: msg.Message, clock: Clock) -> tuple[list[Entry], TaskState]:
    now = clock.now()
    return entries_of(task, decide(task, message, now).events, now.at)


def _met(task: TaskState, has: Has) -> tuple[str, ...]:
    """What the task waits for without an end, if all of it is registered by now: what it needs; or what it
    said when it began to wait, where it will say then what else is missing now."""
    moves = task.state is State.QUEUED or bool(task.condemned)
    if not moves or task.wait is None or task.wait.delay is not None:
        return ()
    told = () if task.condemned else task.wait.names
    return next((names for names in (task.request.needs, told) if names and all(map(has, names))), ())


def _message(task: TaskState, on_restart: OnRestart) -> msg.Message | None:
    """What the opening has to say to a task; None where it changes nothing, and nobody was asked. What a
    function has answered is recorded even where it changes nothing."""
    at_rest = task.state not in ACTIVE and task.state is not State.QUEUED
    if at_rest or on_restart == "leave":
        # What became of a session that was being opened is known to no one, whatever becomes of the task.
        return msg.Unopened(lost=True) if task.opening else None
    if on_restart == "resume" and task.state is State.QUEUED and not task.opening:
        return None
    verdict = ask(on_restart, task)
    return msg.Recover(resume=verdict.resume, reason=verdict.reason)


async def recover(
    journal: Journal,
    writer: Writer,
    on_restart: OnRestart,
    clock: Clock,
    threads: Threads,
    has: Has,
    take: Callable[[Sequence[TaskState]], None],
) -> dict[TaskId, str]:
    """Load the past, decide on each task, and make the answers durable; then the tasks are handed to `take`.

    Batch by batch, so that no more than some thousand states are in memory. Returns whom damage keeps out,
    and why.
    """
    quarantined: dict[TaskId, str] = {}
    for names in _batches(await threads.run(lambda: list(journal.unfinished()))):
        past = await threads.run(partial(load_some, journal, names))
        quarantined |= past.quarantined
        entries: list[Entry] = []
        for index, added, after in answers(past.tasks, on_restart, clock, has):
            entries += added
            past.tasks[index] = after
        if entries:
            await writer.append(entries)
        take(past.tasks)
    return quarantined
