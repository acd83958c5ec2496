"""`meowcat limit`: another bandwidth limit, while transfers are under way."""

import anyio
import click

from meowcat.cli.completion import unfinished_tasks
from meowcat.cli.exits import Exit, exit_of
from meowcat.cli.journals import chosen, pick, read_all
from meowcat.cli.options import journal_option, json_option
from meowcat.cli.owners import Via, silent_owner
from meowcat.cli.quantities import parse_size, rate_text
from meowcat.cli.views import ID_SHOWN, error_object, json_line, printable
from meowcat.config import Config
from meowcat.control import messages as ctl
from meowcat.control.client import connect
from meowcat.control.server import limit as limit_by
from meowcat.core.errors import JournalOwned, MeowcatError, NobodyListens
from meowcat.core.machine import State
from meowcat.core.values import TaskId
from meowcat.engine import Engine

NO_LIMIT = "none"


def read_rate(_: click.Context, __: click.Parameter, value: str) -> int | None:
    """Bytes a second, or None where there is to be no limit.

    Raises:
        click.BadParameter: neither.
    """
    if value.lower() == NO_LIMIT:
        return None
    try:
        return parse_size(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}; or {NO_LIMIT!r}") from None


class Report:
    """Tells what was limited, and remembers the exit code that it makes."""

    def __init__(self, request: ctl.Limit, *, as_json: bool) -> None:
        self._request = request
        self._as_json = as_json
        self.code = Exit.COMPLETE

    def done(self, journal: str, task: TaskId | None, via: Via) -> None:
        rate = self._request.rate
        if self._as_json:
            json_line(
                {
                    "type": "limit",
                    "journal": journal,
                    "rate": rate,
                    "host": self._request.host,
                    "task": task,
                    "via": via,
                }
            )
            return
        what = task[-ID_SHOWN:] if task else self._request.host or journal
        figure = "no limit" if rate is None else rate_text(rate)
        click.echo(printable(f"{figure}  {what}"))

    def failed(self, journal: str, error: MeowcatError) -> None:
        if self.code == Exit.COMPLETE:
            self.code = exit_of(error)
        if self._as_json:
            json_line(error_object(error, f"{journal}: {error}"))
        else:
            click.echo(printable(f"meowcat: {error}"), err=True)

    def outcomes(self, journal: str, outcomes: list[ctl.Outcome], via: Via) -> None:
        for each in outcomes:
            if each.error is None:
                self.done(journal, each.task, via)
            else:
                self.failed(journal, ctl.error_of(each.error))


async def limit_running(journal: str | None, request: ctl.Limit, report: Report) -> None:
    """Ask those who own the journals. Where nobody does there is nothing to limit."""
    asked = 0
    for where in chosen(journal):
        try:
            async with connect(where) as control:
                await control.limit(request.rate, host=request.host)
        except NobodyListens:
            continue
        except MeowcatError as error:
            report.failed(where, error)
        else:
            report.done(where, None, "owner")
        asked += 1
    if not asked:
        raise NobodyListens(
            "nobody works on a journal now: this limit holds for running transfers; "
            "'get' and 'put' take --limit-rate, and a TASK's own limit is recorded"
        )


async def limit_tasks(
    journal: str | None, references: tuple[str, ...], request: ctl.Limit, report: Report
) -> None:
    """Through the owner of each task's journal, or on the journal itself: it is recorded."""
    past = await read_all(journal)
    tasks: dict[str, list[TaskId]] = {}
    for reference in references:
        found = pick(past, reference)
        tasks.setdefault(found.journal, []).append(found.task.id)
    for where, ids in tasks.items():
        wanted = ctl.Limit(rate=request.rate, tasks=tuple(dict.fromkeys(ids)))
        try:
            try:
                async with connect(where) as control:
                    report.outcomes(where, await control.limit(wanted.rate, tasks=wanted.tasks), "owner")
            except NobodyListens:
                async with Engine(where, config=Config(control=False), on_restart="leave") as engine:
                    report.outcomes(where, await limit_by(engine, wanted), "journal")
        except JournalOwned as owned:
            report.failed(where, silent_owner(owned))
        except MeowcatError as error:
            report.failed(where, error)


@click.command(epilog="Example: meowcat limit 5M --journal transfers.db")
@click.argument("rate", callback=read_rate)
@click.argument("tasks", nargs=-1, metavar="[TASK]...", shell_complete=unfinished_tasks(frozenset(State)))
@journal_option
@click.option("--host", metavar="URL", help="Limit all transfers from and to the host of URL.")
@json_option
def limit(
    rate: int | None, tasks: tuple[str, ...], *, journal: str | None, host: str | None, as_json: bool
) -> Exit:
    """Limit the bandwidth of what is under way.

    RATE is bytes a second, or 'none'. Of all transfers of a journal together; or with --host of those of one
    host together: where a process owns the journal now, until it ends. Or of each TASK: that is recorded, and
    holds after a restart, too.
    """
    if tasks and host is not None:
        raise click.UsageError("expected TASKs, or --host, or neither")
    request = ctl.Limit(rate=rate, host=host)
    report = Report(request, as_json=as_json)
    if tasks:
        anyio.run(limit_tasks, journal, tasks, request, report)
    else:
        anyio.run(limit_running, journal, request, report)
    return report.code
