"""`meowcat resume`: take up what journals hold, and wait for it."""

from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import click

from meowcat.cli.completion import files, unfinished_tasks
from meowcat.cli.control import ORDERS, Report, apply
from meowcat.cli.display import Display, display_for, exit_of_task
from meowcat.cli.exits import Exit, exit_of_all
from meowcat.cli.journals import Found, Past, pick, read_all, resume_command
from meowcat.cli.options import (
    EngineOptions,
    engine_options,
    header_option,
    headers_of,
    journal_option,
    json_option,
    plan_of_file,
    quiet_option,
    taken,
    url_of,
)
from meowcat.cli.owners import telling_why
from meowcat.cli.running import Stop, Watched, at_rest, run_until_done, say_how_to_go_on, wait_for_all
from meowcat.cli.signers import signers_of
from meowcat.control import messages as ctl
from meowcat.control.client import Control, connect
from meowcat.core.errors import EngineClosed, InvalidTaskState, JournalOwned, NobodyListens, OwnerLost
from meowcat.core.machine import ACTIVE, ENDED, State, Trigger, may
from meowcat.core.plans import DownloadPlan, UploadPlan, read_plan
from meowcat.core.urls import check_url, host_of
from meowcat.core.values import TaskId
from meowcat.core.wanted import waits_for_a_time
from meowcat.engine import Engine
from meowcat.task import Progress, Task

_EXAMPLES = """\b
Examples:
  meowcat resume                                   all that is unfinished in the state folder
  meowcat resume --journal transfers.db            all that is unfinished there
  meowcat resume 7Q3KX2 --url 'https://host/x?sig=…'   one task, with a fresh signed URL
  meowcat resume 7Q3KX2 -H 'Authorization: …'      one task, with a header that was never journaled
  meowcat resume 7Q3KX2 --plan plan.json           one task, with a fresh presigned plan

Tasks that were Paused by a user and tasks that Failed are left alone, unless named or with --all.
Where another process owns the journal, it is asked to go on, and its progress is shown.
"""


@dataclass(frozen=True)
class Supply:
    """What was never journaled, given again."""

    url: str | None = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    plan: bytes | None = field(default=None, repr=False)
    """As JSON: what it has to be depends on the task."""

    def __bool__(self) -> bool:
        return bool(self.url or self.headers or self.plan is not None)

    def plan_for(self, found: Found) -> UploadPlan | DownloadPlan | None:
        """Raises InvalidArgument where it is none of such a task."""
        return None if self.plan is None else read_plan(self.plan, found.task.request.direction)


@dataclass(frozen=True)
class Wish:
    """All that a `resume` is told."""

    references: tuple[str, ...]
    journal: str | None
    everything: bool
    supply: Supply
    engine: EngineOptions

    @property
    def particular(self) -> bool:
        """Whether more is asked for than that all which is under way goes on."""
        return bool(self.references or self.journal is not None or self.everything or self.supply)


@dataclass(frozen=True)
class Entrusted:
    """Tasks that the owner of their journal is to go on with."""

    journal: str
    control: Control
    tasks: list[Found]


@click.command(epilog=_EXAMPLES)
@click.argument(
    "tasks",
    nargs=-1,
    metavar="[TASK]...",
    shell_complete=unfinished_tasks({State.PAUSED, State.FAILED, State.QUEUED, *ACTIVE}),
)
@journal_option
@click.option("--all", "everything", is_flag=True, help="Resume Paused tasks and retry Failed ones, too.")
@header_option
@click.option(
    "--no-wait", is_flag=True, help="Only set going: the owner, or a later 'resume', does the rest."
)
@click.option(
    "--url",
    help="A fresh URL for the task, a signed one for example; @FILE reads it from a file. For one task.",
)
@click.option(
    "--plan",
    metavar="FILE",
    shell_complete=files,
    help="A fresh presigned plan for the task, as JSON; - reads standard input. For one task.",
)
@engine_options
@quiet_option
@json_option
def resume(tasks: tuple[str, ...], *, as_json: bool, quiet: bool, **options: Any) -> Exit:
    """Take up what is unfinished and wait for it. What waits for a server or a host is tried at once.

    TASK is an id, or a beginning or end of one that no other task has. Other unfinished tasks of the same
    journal move along while it is open, but are not waited for.
    """
    engine = taken(options)
    plan = plan_of_file(options["plan"])
    supply = Supply(url_of(options["url"]), headers_of(options["header_lines"]), plan)
    if supply.url is not None:
        check_url(supply.url)
    wish = Wish(tasks, options["journal"], options["everything"], supply, engine)
    if options["no_wait"]:
        return anyio.run(partial(_set_going_only, wish, as_json=as_json))
    display = display_for(as_json=as_json, quiet=quiet)
    return run_until_done(lambda stop: _resume(wish, display, stop))


async def _resume(wish: Wish, display: Display, stop: Stop) -> Exit:
    past = await read_all(wish.journal)
    for where, error in past.unreadable.items():
        display.say(f"meowcat: skipped {where}: {error}")
    for task, detail in past.quarantined.items():
        display.say(f"meowcat: task {task} is quarantined: {detail}")
    chosen = _chosen(past, wish)
    _check_supply(wish.supply, chosen)
    if not chosen:
        display.say(_nothing_text(past))
        return Exit.COMPLETE
    watched: list[Watched] = []
    codes: list[Exit] = []
    async with AsyncExitStack() as stack:
        opened, entrusted = await _open_all(wish, chosen, stack, display)
        with stop.scope:
            for found in chosen:
                if found.journal in opened:
                    handle = await _set_going(opened[found.journal], found, wish.supply)
                    watched.append(Watched(handle, found.journal, found.task.request.needs))
            with display:
                for each in watched:
                    display.begin(each.task.info, each.journal)
                async with anyio.create_task_group() as waiting:
                    for owned in entrusted:
                        waiting.start_soon(_entrust, owned, wish.supply, display, codes)
                    codes.append(await wait_for_all(watched, display))
    if stop.exit is not None:
        say_how_to_go_on(stop, watched, display)
        return stop.exit
    return exit_of_all(codes)


async def _entrust(owned: Entrusted, supply: Supply, display: Display, codes: list[Exit]) -> None:
    """Have the owner set the tasks going, and show their progress until all are at rest."""
    try:
        for found in owned.tasks:
            if supply and found.task.state not in ENDED:
                await _hand_over(owned.control, found, supply)
            for trigger in (Trigger.RESUME, Trigger.RETRY):
                if _fits(found, trigger):  # refused where somebody else was faster
                    order = partial(owned.control.order, ORDERS[trigger](tasks=(found.task.id,)))
                    await telling_why(owned.journal, display.say, order)
        codes.extend(await follow(owned.control, owned.journal, owned.tasks, display))
    except (OwnerLost, EngineClosed):
        command = resume_command(owned.journal)
        display.say(f"the owner of {owned.journal} is gone. Go on with:", f"  {command}")
        codes.append(Exit.UNFINISHED)


async def follow(control: Control, journal: str, tasks: Sequence[Found], display: Display) -> list[Exit]:
    """Show what the owner tells of the tasks, until none of them moves any more without help.

    Raises:
        OwnerLost: before that.
    """
    left = {each.task.id for each in tasks}
    shown: dict[TaskId, ctl.LiveTask] = {}
    codes = []
    refusal = ""
    named = tuple(left) if len(left) <= ctl.TASKS_AT_ONCE else ()
    async for changed in control.watch(named):
        for live in changed:
            if live.info.id not in left:
                continue
            if live.info.id not in shown:
                display.begin(live.info, journal)
            shown[live.info.id] = live
            if at_rest(live.info):
                left.discard(live.info.id)
                display.end(live.info, journal)
                codes.append(exit_of_task(live.info))
        moved = list(shown) if control.refusal != refusal else [each.info.id for each in changed]
        refusal = control.refusal
        for task in moved:
            if task in left:
                display.advance(shown[task].info, moment_of(shown[task], refusal))
        if not left:
            break
    return codes


def moment_of(live: ctl.LiveTask, refusal: str) -> Progress:
    info = live.info
    return Progress(
        state=info.state,
        bytes_done=info.bytes_done,
        size=info.size,
        rate=live.rate,
        eta=live.eta,
        waiting_for=info.waiting_for,
        refusal=refusal,
    )


async def _set_going_only(wish: Wish, *, as_json: bool) -> Exit:
    """Resume and retry without waiting for the rest, whoever owns the journal."""
    past = await read_all(wish.journal)
    chosen = _chosen(past, wish)
    _check_supply(wish.supply, chosen)
    report = Report(past, Trigger.RESUME, as_json=as_json)
    if not chosen:
        report.note(_nothing_text(past))
    if wish.supply:
        for found in chosen:
            await _supply_to_owner(found, wish.supply)
    for journal, founds in _by_journal(chosen).items():
        orders = [
            ORDERS[trigger](tasks=tuple(tasks))
            for trigger in (Trigger.RESUME, Trigger.RETRY)
            if (tasks := [each.task.id for each in founds if _fits(each, trigger)])
        ]
        if not orders:
            report.note(f"{journal}: nothing is Paused or Failed, or waits, of what is to go on")
        await apply(report, journal, orders)
    return report.code


async def _supply_to_owner(found: Found, supply: Supply) -> None:
    try:
        async with connect(found.journal) as control:
            await _hand_over(control, found, supply)
    except NobodyListens:
        raise click.UsageError(
            f"--url, --header and --plan are kept in memory only, and nobody works on {found.journal}: "
            "leave --no-wait out"
        ) from None


async def _hand_over(control: Control, found: Found, supply: Supply) -> None:
    plan = supply.plan_for(found)
    await control.supply(found.task.id, url=supply.url, headers=supply.headers, plan=plan)


def _by_journal(chosen: Sequence[Found]) -> dict[str, list[Found]]:
    found: dict[str, list[Found]] = {}
    for each in chosen:
        found.setdefault(each.journal, []).append(each)
    return found


def _chosen(past: Past, wish: Wish) -> list[Found]:
    if wish.references:
        named = {pick(past, reference).task.id for reference in wish.references}
        return [each for each in past.tasks if each.task.id in named]
    left_alone = ENDED if wish.everything else ENDED | {State.PAUSED, State.FAILED}
    return [each for each in past.tasks if each.task.state not in left_alone]


def _nothing_text(past: Past) -> str:
    counts = Counter(each.task.state for each in past.tasks)
    alone = [f"{counts[state]} {state}" for state in (State.PAUSED, State.FAILED) if counts[state]]
    if not alone and any(each.task.condemned or each.task.left for each in past.tasks):
        return "nothing is unfinished; sessions at servers are still to be removed: 'meowcat orphans --abort'"
    if not alone:
        return "nothing is unfinished"
    return f"nothing to take up; {' and '.join(alone)}: name them, or use --all"


def _check_supply(supply: Supply, chosen: list[Found]) -> None:
    """A URL and a plan are for one task; a header, which may be a credential, for one host at most."""
    if not chosen and supply:
        raise click.UsageError("--url, --header and --plan: no task to supply them to; name it")
    for option, given in (("--url", supply.url), ("--plan", supply.plan)):
        if given is not None and len(chosen) > 1:
            raise click.UsageError(f"{option} is for one task, and {len(chosen)} are to go on: name it")
    for each in chosen:
        supply.plan_for(each)  # before anything is opened
    hosts = {host_of(each.task.request.url) for each in chosen}
    if supply.headers and len(hosts) > 1:
        raise click.UsageError(
            f"--header would go to {len(hosts)} hosts ({', '.join(sorted(hosts))}): name the tasks it is for"
        )


async def _open_all(
    wish: Wish, chosen: Sequence[Found], stack: AsyncExitStack, display: Display
) -> tuple[dict[str, Engine], list[Entrusted]]:
    """Open the journals; what another process owns is asked of that process.

    Where nothing particular is asked for, an owned journal is left to its owner, who is at it.
    """
    opened: dict[str, Engine] = {}
    entrusted: list[Entrusted] = []
    for journal, founds in _by_journal(chosen).items():
        try:
            opened[journal] = await stack.enter_async_context(await _engine(journal, wish, display))
        except JournalOwned as error:
            if not wish.particular:
                display.say(f"meowcat: left alone: {error}")
                continue
            try:
                control = await stack.enter_async_context(connect(journal))
            except NobodyListens:  # it may have gone at this moment; if not, this says who it is
                opened[journal] = await stack.enter_async_context(await _engine(journal, wish, display))
            else:
                entrusted.append(Entrusted(journal, control, founds))
    return opened, entrusted


async def _engine(journal: str, wish: Wish, display: Display) -> Engine:
    """With the credentials that its unfinished tasks name; whose credential is nowhere waits for it."""
    signers = await signers_of(journal)
    for text in signers.missing.values():
        display.say(f"meowcat: {text}")
    return Engine(journal, config=wish.engine.config(), credentials=signers.found)


async def _set_going(engine: Engine, found: Found, supply: Supply) -> Task:
    task = await engine.task(found.task.id)
    if task.state in ENDED:
        return task
    if supply:
        plan = supply.plan_for(found)
        await task.supply(url=supply.url, headers=supply.headers or None, plan=plan)
    if may(task.state, Trigger.RETRY):
        await task.retry()
    elif _fits(found, Trigger.RESUME):
        with suppress(InvalidTaskState):  # its delay was over at this moment
            await task.resume()
    return task


def _fits(found: Found, trigger: Trigger) -> bool:
    """Whether the command makes sense; what waits for a time is tried at once."""
    return may(found.task.state, trigger) or (trigger is Trigger.RESUME and waits_for_a_time(found.task))
