"""`meowcat pause | cancel | retry`: commands to tasks, whoever owns their journal."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import click

from meowcat.cli.completion import unfinished_tasks
from meowcat.cli.exits import Exit, exit_of
from meowcat.cli.journals import Past, pick, read_all
from meowcat.cli.options import direction_option, journal_option, json_option, state_option
from meowcat.cli.owners import Via, act, telling_why
from meowcat.cli.views import ID_SHOWN, error_object, json_line, printable
from meowcat.control import messages as ctl
from meowcat.core.errors import MeowcatError
from meowcat.core.machine import TABLE, State, Trigger, may
from meowcat.core.transfers import Direction
from meowcat.core.values import TaskId

ORDERS = {trigger: order for order, trigger in ctl.ORDERS.items()}

_DONE = {
    Trigger.PAUSE: "paused",
    Trigger.RESUME: "resumed",
    Trigger.CANCEL: "canceled",
    Trigger.RETRY: "queued again",
}


@dataclass(frozen=True)
class Choice:
    """Which tasks a command is for."""

    references: tuple[str, ...]
    journal: str | None
    everything: bool
    states: tuple[State, ...]
    direction: Direction | None

    @property
    def named(self) -> bool:
        return bool(self.references)


class Report:
    """Tells what became of each task, and remembers the exit code that it makes."""

    def __init__(self, past: Past, trigger: Trigger, *, as_json: bool) -> None:
        self._paths = {each.task.id: each.info.path for each in past.tasks}
        self._trigger = trigger
        self._as_json = as_json
        self.code = Exit.COMPLETE

    def outcome(self, journal: str, outcome: ctl.Outcome, via: Via) -> None:
        error = None if outcome.error is None else ctl.error_of(outcome.error)
        if error is not None:
            self._failed(error)
        path = self._paths.get(outcome.task, "")
        if self._as_json:
            json_line(outcome_object(self._trigger, journal, outcome, path, via))
        elif error is None:
            line = f"{_DONE[self._trigger]}  {outcome.task[-ID_SHOWN:]}  {path}"
            click.echo(printable(line.rstrip()))
        else:
            click.echo(printable(f"meowcat: {error}"), err=True)

    def refused(self, journal: str, error: MeowcatError) -> None:
        """The journal as a whole could not be reached or used."""
        self._failed(error)
        if self._as_json:
            json_line(error_object(error, f"{journal}: {error}"))
        else:
            click.echo(printable(f"meowcat: {error}"), err=True)

    def note(self, text: str) -> None:
        if self._as_json:
            json_line({"type": "note", "message": text})
        else:
            click.echo(printable(text), err=True)

    def _failed(self, error: MeowcatError) -> None:
        if self.code == Exit.COMPLETE:
            self.code = exit_of(error)


def outcome_object(
    trigger: Trigger, journal: str, outcome: ctl.Outcome, path: str, via: Via
) -> dict[str, Any]:
    """What a command did to one task, as JSON. These names are documented, and stay."""
    error = outcome.error
    return {
        "type": "outcome",
        "command": trigger,
        "task": outcome.task,
        "journal": journal,
        "path": path,
        "state": outcome.state,
        "via": via,
        "error": None
        if error is None
        else {"code": error.code, "name": error.name, "message": error.message},
    }


def chosen_by_journal(past: Past, choice: Choice, trigger: Trigger) -> dict[str, list[TaskId]]:
    """The tasks by their journal: the named ones, or those that the command fits.

    Raises:
        click.UsageError: a name that fits none, or several.
    """
    if choice.named:
        found = [pick(past, reference) for reference in choice.references]
    else:
        found = [
            each
            for each in past.tasks
            if may(each.task.state, trigger)
            and (not choice.states or each.task.state in choice.states)
            and choice.direction in (None, each.task.request.direction)
        ]
    chosen: dict[str, list[TaskId]] = {}
    for each in found:
        tasks = chosen.setdefault(each.journal, [])
        if each.task.id not in tasks:
            tasks.append(each.task.id)
    return chosen


async def command(choice: Choice, trigger: Trigger, *, as_json: bool) -> Exit:
    """Choose, act and tell."""
    past = await read_all(choice.journal)
    report = Report(past, trigger, as_json=as_json)
    for where, error in past.unreadable.items():
        report.note(f"meowcat: skipped {where}: {error}")
    chosen = chosen_by_journal(past, choice, trigger)
    if not chosen:
        report.note(nothing_text(past, trigger))
    for journal, tasks in chosen.items():
        await apply(report, journal, orders_for(choice, trigger, tasks))
    return report.code


def orders_for(choice: Choice, trigger: Trigger, tasks: Sequence[TaskId]) -> list[ctl.Order]:
    kind = ORDERS[trigger]
    if not choice.named:
        return [kind(all=True, states=choice.states, direction=choice.direction)]
    starts = range(0, len(tasks), ctl.TASKS_AT_ONCE)
    return [kind(tasks=tuple(tasks[start : start + ctl.TASKS_AT_ONCE])) for start in starts]


async def apply(report: Report, journal: str, orders: Sequence[ctl.Order]) -> None:
    """Give the orders to one journal. What fails there is told, and hurts no other journal."""
    for order in orders:
        try:
            answered = await telling_why(journal, report.note, partial(act, journal, order))
        except MeowcatError as error:
            report.refused(journal, error)
            return
        for outcome in answered.outcomes:
            report.outcome(journal, outcome, answered.via)
        queued = any(each.state is State.QUEUED for each in answered.outcomes)
        if queued and answered.via == "journal":
            report.note(f"nobody works on {journal} now: 'meowcat resume' takes up what is queued there")
        if isinstance(order, ctl.Cancel) and answered.via == "journal":
            await _note_what_is_owed(report, journal, answered.outcomes)


async def _note_what_is_owed(report: Report, journal: str, outcomes: Sequence[ctl.Outcome]) -> None:
    """A canceled upload's session is removed at once where its server, and its credential, can be had."""
    canceled = {each.task for each in outcomes if each.error is None}
    tasks = [each.task for each in (await read_all(journal)).tasks if each.task.id in canceled]
    if any(each.condemned or each.left for each in tasks):
        report.note("sessions at servers are still to be removed: 'meowcat orphans --abort' tries again")


def nothing_text(past: Past, trigger: Trigger) -> str:
    """Why a command found nothing to do, and what there is."""
    counts = Counter(each.task.state for each in past.tasks)
    there = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no task"
    return f"nothing to {trigger}: there is {there}; {trigger} is for {' and '.join(TABLE[trigger][0])}"


def _make(trigger: Trigger, about: str, example: str) -> click.Command:
    @click.command(name=str(trigger), help=about, epilog=f"Example: {example}")
    @click.argument(
        "tasks", nargs=-1, metavar="[TASK]...", shell_complete=unfinished_tasks(TABLE[trigger][0])
    )
    @journal_option
    @click.option("--all", "everything", is_flag=True, help="Every task that the command fits.")
    @state_option
    @direction_option
    @json_option
    def run(
        tasks: tuple[str, ...],
        *,
        journal: str | None,
        everything: bool,
        states: tuple[State, ...],
        direction: Direction | None,
        as_json: bool,
    ) -> Exit:
        chooses = everything or bool(states) or direction is not None
        if bool(tasks) == chooses:
            raise click.UsageError("expected TASKs; or --all, --state or --direction, and no TASK")
        choice = Choice(tasks, journal, everything, states, direction)
        return anyio.run(partial(command, choice, trigger, as_json=as_json))

    return run


_WHERE = (
    "Also of a journal that another process owns, which is asked to do it; where nobody owns it, it is "
    "recorded there. TASK is an id, or a beginning or end of one that no other task has."
)

pause = _make(
    Trigger.PAUSE,
    f"Stop tasks, and keep them stopped until they are resumed. That holds over restarts.\n\n{_WHERE}",
    "meowcat pause 7Q3KX2",
)
cancel = _make(
    Trigger.CANCEL,
    f"End tasks for good, and remove what is half done of them.\n\n{_WHERE}",
    "meowcat cancel --state Failed --journal transfers.db",
)
retry = _make(
    Trigger.RETRY,
    "Queue Failed tasks again, with what is stored of them. It does not wait: 'meowcat resume TASK' "
    f"retries and waits.\n\n{_WHERE}",
    "meowcat retry --all",
)
