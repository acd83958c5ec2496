"""`meowcat orphans`: sessions that uploads have left at servers and that nobody needs."""

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import click

from meowcat.cli.exits import Exit, exit_of
from meowcat.cli.journals import Past, read_all
from meowcat.cli.listing import warn
from meowcat.cli.options import journal_option, json_option
from meowcat.cli.owners import GRACE, PAUSE, silent_owner
from meowcat.cli.quantities import counted
from meowcat.cli.rows import plain_lines
from meowcat.cli.signers import named_by, signers_named
from meowcat.cli.terminals import terminal
from meowcat.cli.views import ID_SHOWN, clock_text, json_document, printable
from meowcat.config import Config
from meowcat.control.client import Control, connect
from meowcat.core.errors import EngineClosed, JournalOwned, MeowcatError, NobodyListens, OwnerLost
from meowcat.core.info import Orphan
from meowcat.core.machine import State
from meowcat.core.state import TaskState
from meowcat.core.transfers import Upload
from meowcat.core.urls import scrub
from meowcat.engine import Engine
from meowcat.journal.logged import when
from meowcat.protocols.registry import Protocols

if TYPE_CHECKING:
    from rich.table import Table

_EXAMPLES = """\b
Examples:
  meowcat orphans                          look, and touch nothing
  meowcat orphans --abort                  try again to remove what is ours and of no use
  meowcat orphans --journal transfers.db --json
"""

_OTHERS = (
    "not proved to be meowcat's: they are never removed by it. Where nobody else uploads to the object, use "
    "the server's own tools, as in: aws s3api abort-multipart-upload --bucket BUCKET --key KEY --upload-id "
    "SESSION"
)
_KEPT = "kept by Failed tasks: 'meowcat retry TASK' goes on with one, 'meowcat cancel TASK' removes it"
_LINGERING = (
    "to be dropped by the server itself, in its own time: nothing removes them sooner. 'meowcat retry TASK' "
    "goes on with one of a Failed task"
)
_OWED = "to be removed: 'meowcat orphans --abort' tries again, and 'meowcat log TASK' says what came of it"


@dataclass(frozen=True)
class Left:
    """A session that stands at a server, and the journal that knows of it; or that stood there."""

    journal: str
    orphan: Orphan
    removed: bool = False

    @property
    def owed(self) -> bool:
        """Whether its removal is tried again."""
        return self.orphan.ours and self.orphan.removable and not self.orphan.kept and not self.removed


@click.command(epilog=_EXAMPLES)
@journal_option
@click.option("--abort", is_flag=True, help="Try again to remove those that are ours and of no use.")
@json_option
def orphans(*, journal: str | None, abort: bool, as_json: bool) -> Exit:
    """List sessions at servers that no upload needs any more.

    They may cost money. The process that owns a journal is asked; where nobody owns it, it is opened, and no
    transfer of it begins. Only what the journal proves to be its own is ever removed.
    """
    return anyio.run(partial(_orphans, journal, abort=abort, as_json=as_json))


async def _orphans(journal: str | None, *, abort: bool, as_json: bool) -> Exit:
    past = await read_all(journal)
    warn(past)
    found: list[Left] = []
    code = Exit.COMPLETE
    for where, tasks in _concerned(past).items():
        try:
            found += await _look(where, tasks, abort=abort)
        except MeowcatError as error:
            if journal is not None:
                raise
            click.echo(printable(f"meowcat: skipped {where}: {error}"), err=True)
            code = exit_of(error)
    if as_json:
        json_document([orphan_object(each) for each in found])
    else:
        _print(found)
    if abort and any(each.owed for each in found):
        return Exit.FAILED
    return code


def _concerned(past: Past) -> dict[str, list[TaskState]]:
    """The tasks that may have left something behind, by their journals: no other journal is opened."""
    found: dict[str, list[TaskState]] = {}
    for each in past.tasks:
        task = each.task
        failed = task.state is State.FAILED and task.session is not None
        if task.is_upload and (task.condemned or task.left or task.lost or failed or _lingers(task)):
            found.setdefault(each.journal, []).append(task)
    return found


def _lingers(task: TaskState) -> bool:
    """Whether the task has ended without what it had sent, and nothing can remove that."""
    assert isinstance(task.request, Upload)  # noqa: S101  # asked of uploads alone
    protocol = Protocols.with_own(()).uploads.get(task.request.protocol.tag)
    ended = task.state in (State.FAILED, State.CANCELED)
    return ended and bool(task.stored) and protocol is not None and not protocol.removes


async def _look(journal: str, tasks: Sequence[TaskState], *, abort: bool) -> list[Left]:
    """Ask the owner of the journal; where it has none, open it. Who owns it may change at any moment.

    Raises:
        JournalOwned: its owner does not listen. MeowcatError: what the owner, or the opening, met.
    """
    deadline = time.monotonic() + GRACE
    while True:
        try:
            async with connect(journal) as control:
                return await _outcome(journal, control, abort=abort)
        except (NobodyListens, OwnerLost, EngineClosed):
            pass
        try:
            return await _alone(journal, tasks, abort=abort)
        except JournalOwned as owned:
            if time.monotonic() > deadline:
                raise silent_owner(owned) from None
            await anyio.sleep(PAUSE)


async def _alone(journal: str, tasks: Sequence[TaskState], *, abort: bool) -> list[Left]:
    signers = await anyio.to_thread.run_sync(signers_named, named_by(tasks))
    for text in signers.missing.values():
        click.echo(printable(f"meowcat: {text}"), err=True)
    config = Config(control=False)
    async with Engine(journal, config=config, on_restart="leave", credentials=signers.found) as engine:
        return await _outcome(journal, engine, abort=abort)


async def _outcome(journal: str, asked: Control | Engine, *, abort: bool) -> list[Left]:
    """What there is; after an abort also what there is no more."""
    there = await asked.orphans()
    if not abort or not any(Left(journal, each).owed for each in there):
        return [Left(journal, each) for each in there]
    await asked.abort_orphans()
    after = {(each.task, each.session): each for each in await asked.orphans()}
    gone = [each for each in there if (each.task, each.session) not in after]
    return [Left(journal, each, removed=True) for each in gone] + [
        Left(journal, each) for each in after.values()
    ]


def orphan_object(left: Left) -> dict[str, Any]:
    """An orphan as JSON. These names are documented, and stay."""
    orphan = left.orphan
    return {
        "task": orphan.task,
        "journal": left.journal,
        "url": orphan.url,
        "session": orphan.session,
        "ours": orphan.ours,
        "kept": orphan.kept,
        "removed": left.removed,
        "removable": orphan.removable,
        "begun": None if orphan.begun is None else when(orphan.begun),
        "detail": scrub(orphan.detail),
    }


def _print(found: Sequence[Left]) -> None:
    """The table on standard output; what to do about each kind on standard error."""
    if not found:
        click.echo("no orphans", err=True)
        return
    console = terminal(sys.stdout)
    if console is not None:
        console.print(_table(found))
    else:
        for line in plain_lines([_HEAD, *map(_row, found)]):
            click.echo(line)
    unproved = [each for each in found if not each.orphan.ours]
    kinds: list[tuple[list[Left], str]] = [
        ([each for each in found if each.owed], _OWED),
        ([each for each in found if each.orphan.kept and each.orphan.removable], _KEPT),
        ([each for each in found if not each.orphan.removable], _LINGERING),
        ([each for each in unproved if each.orphan.session], _OTHERS),
    ]
    for some, advice in kinds:
        if some:
            click.echo(f"{counted(len(some), 'session')} {advice}", err=True)


_HEAD = ("TASK", "SESSION", "SINCE", "URL", "")


def _row(left: Left) -> tuple[str, ...]:
    orphan = left.orphan
    since = "" if orphan.begun is None else clock_text(orphan.begun)[:19]
    detail = "removed" if left.removed else scrub(orphan.detail)
    return orphan.task[-ID_SHOWN:], orphan.session, since, orphan.url, detail


def _table(found: Iterable[Left]) -> "Table":
    """Nothing is cut: a session's name is there to be copied."""
    from rich.table import Column, Table  # noqa: PLC0415  # see `terminal`

    columns = [Column(name, overflow="fold") for name in _HEAD]
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for each in found:
        table.add_row(*map(printable, _row(each)))
    return table
