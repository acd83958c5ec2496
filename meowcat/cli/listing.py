"""`meowcat ls`: the tasks of one journal or of many, once or as they move."""

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import anyio
import click

from meowcat.cli.board import Board, follow_all, seen_in
from meowcat.cli.exits import Exit
from meowcat.cli.journals import Past, read_all
from meowcat.cli.options import direction_option, journal_option, json_option, state_option
from meowcat.cli.rows import PLAIN_HEAD, SORTS, plain_lines, plain_row
from meowcat.cli.running import Stop, run_until_done
from meowcat.cli.terminals import terminal
from meowcat.cli.views import Seen, json_document, json_line, live_object, printable
from meowcat.core.machine import ENDED, State
from meowcat.core.state import Phase
from meowcat.core.transfers import Direction
from meowcat.core.values import TaskId

if TYPE_CHECKING:
    from rich.console import Console

REDRAW = 0.5
"""Seconds between two looks at the board."""
LINE_INTERVAL = 1.0
"""Seconds between two lines of a task whose state is the same, at the least."""


@dataclass(frozen=True)
class Filter:
    """Which tasks are shown, and in which order."""

    states: tuple[State, ...]
    direction: Direction | None
    everything: bool
    sort: str
    reverse: bool

    def fits(self, seen: Seen, *, old: bool = True) -> bool:
        """`old`: whether an ended task had ended before anybody looked."""
        info = seen.info
        if self.direction not in (None, info.direction):
            return False
        if self.states:
            return info.state in self.states
        over = info.state in ENDED and info.phase is not Phase.DISCARDING
        return self.everything or not over or not old

    def ordered(self, tasks: Iterable[Seen]) -> list[Seen]:
        return sorted(tasks, key=SORTS[self.sort], reverse=self.reverse)


_EXAMPLES = """\b
Examples:
  meowcat ls --journal transfers.db
  meowcat ls --state Failed --sort size --reverse
  meowcat ls --watch
"""


@click.command(name="ls", epilog=_EXAMPLES)
@journal_option
@state_option
@direction_option
@click.option("--all", "everything", is_flag=True, help="Also tasks that are Complete or Canceled.")
@click.option(
    "--sort", type=click.Choice(list(SORTS)), default="created", show_default=True, help="In which order."
)
@click.option("--reverse", is_flag=True, help="The other way round.")
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C, and show what changes.")
@json_option
def list_tasks(
    *,
    journal: str | None,
    states: tuple[State, ...],
    direction: Direction | None,
    everything: bool,
    sort: str,
    reverse: bool,
    watch: bool,
    as_json: bool,
) -> Exit:
    """List the tasks that have not ended, once or as they move.

    Also those of a journal that another process owns. Exit code 3 where records are damaged or
    missing, or a journal of the state folder can't be read: the other tasks are listed all the same.
    """
    wanted = Filter(states, direction, everything, sort, reverse)
    if watch:
        return run_until_done(lambda stop: _watch(journal, wanted, stop, as_json=as_json))
    return anyio.run(partial(_list, journal, wanted, as_json=as_json))


async def _list(journal: str | None, wanted: Filter, *, as_json: bool) -> Exit:
    past = await read_all(journal)
    tasks, silent = await seen_in(past)
    shown = wanted.ordered(each for each in tasks if wanted.fits(each))
    if as_json:
        json_document([live_object(each) for each in shown])
    else:
        _print(shown)
        hidden = sum(not wanted.fits(each) and each.info.state in ENDED for each in tasks)
        if hidden and not wanted.states:
            click.echo(f"{hidden} that ended not shown; --all shows them", err=True)
    for where, error in silent.items():
        click.echo(printable(f"meowcat: {where}: {error}"), err=True)
    warn(past)
    return Exit.COMPLETE if past.whole else Exit.JOURNAL


def _print(tasks: Sequence[Seen]) -> None:
    if not tasks:
        return
    console = terminal(sys.stdout)
    if console is not None:
        from meowcat.cli.tables import table_of  # noqa: PLC0415  # brings rich: see `terminal`

        console.print(table_of(tasks, console.width))
        return
    for line in plain_lines([PLAIN_HEAD, *map(plain_row, tasks)]):
        click.echo(line)


def warn(past: Past) -> None:
    """On standard error, so that a table or a document stays what it is."""
    for where, error in past.unreadable.items():
        click.echo(printable(f"meowcat: skipped {where}: {error}"), err=True)
    for where, detail in past.damaged.items():
        click.echo(printable(f"meowcat: {where}: {detail}; see 'meowcat journal check'"), err=True)
    for task, detail in past.quarantined.items():
        click.echo(printable(f"meowcat: task {task} is quarantined: {detail}"), err=True)


# Watching


async def _watch(journal: str | None, wanted: Filter, stop: Stop, *, as_json: bool) -> Exit:
    warn(await read_all(journal))  # raises where the named journal can't be read
    board = Board()
    with stop.scope:
        async with anyio.create_task_group() as looking:
            looking.start_soon(follow_all, board, journal)
            console = None if as_json else terminal(sys.stdout)
            if console is not None:
                await _redraw(board, wanted, console)
            else:
                await _print_changes(board, wanted, as_json=as_json)
    return Exit.COMPLETE if stop.exit is Exit.INTERRUPTED else stop.exit or Exit.COMPLETE


async def _redraw(board: Board, wanted: Filter, console: "Console") -> None:
    from rich.live import Live  # noqa: PLC0415  # as above

    from meowcat.cli.tables import table_of  # noqa: PLC0415  # as above

    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            shown = [
                each for each in board.tasks.values() if wanted.fits(each, old=each.info.id in board.old)
            ]
            live.update(table_of(wanted.ordered(shown), console.width), refresh=True)
            await anyio.sleep(REDRAW)


async def _print_changes(board: Board, wanted: Filter, *, as_json: bool) -> None:
    """A line for each task, and for each change of it: at once for its state, once a second for its bytes."""
    told: dict[TaskId, tuple[State, float]] = {}
    while True:
        later = set()
        for seen in wanted.ordered(board.tasks[task] for task in board.changed):
            task, state, now = seen.info.id, seen.info.state, time.monotonic()
            if task not in told and not wanted.fits(seen, old=task in board.old):
                continue
            if task in told and told[task][0] == state and now - told[task][1] < LINE_INTERVAL:
                later.add(task)
                continue
            told[task] = (state, now)
            if as_json:
                json_line({"type": "task"} | live_object(seen))
            else:
                click.echo(printable("  ".join(filter(None, plain_row(seen)))))
            if not wanted.fits(seen, old=False):
                del told[task]  # it has left what is asked for, and was told of for the last time
        board.changed = later
        await anyio.sleep(REDRAW)
