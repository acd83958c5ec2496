"""`meowcat resume`: take up what journals hold, and wait for it."""

from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import click

from meowcat.cli.display import Display, display_for
from meowcat.cli.exits import Exit
from meowcat.cli.journals import Found, Past, pick, read_all
from meowcat.cli.options import (
    EngineOptions,
    engine_options,
    header_option,
    headers_of,
    journal_option,
    json_option,
    taken,
)
from meowcat.cli.running import Stop, Watched, run_until_done, say_how_to_go_on, wait_for_all
from meowcat.core.errors import JournalOwned
from meowcat.core.machine import ENDED, State, Trigger, may
from meowcat.core.urls import check_url, host_of
from meowcat.engine import Engine
from meowcat.task import Task

_EXAMPLES = """\b
Examples:
  meowcat resume                                   all that is unfinished in the state folder
  meowcat resume --journal transfers.db            all that is unfinished there
  meowcat resume 7Q3KX2 --url 'https://host/x?sig=…'   one task, with a fresh signed URL
  meowcat resume 7Q3KX2 -H 'Authorization: …'      one task, with a header that was never journaled

Tasks that were Paused by a user and tasks that Failed are left alone, unless named or with --all.
"""


@dataclass(frozen=True)
class Supply:
    """What was never journaled, given again."""

    url: str | None
    headers: dict[str, str]

    def __bool__(self) -> bool:
        return bool(self.url or self.headers)


@dataclass(frozen=True)
class Wish:
    """All that a `resume` is told."""

    references: tuple[str, ...]
    journal: str | None
    everything: bool
    supply: Supply
    engine: EngineOptions


@click.command(epilog=_EXAMPLES)
@click.argument("tasks", nargs=-1, metavar="[TASK]...")
@journal_option
@click.option("--all", "everything", is_flag=True, help="Resume Paused tasks and retry Failed ones, too.")
@header_option
@click.option("--url", help="A fresh URL for the task, a signed one for example. For one task.")
@engine_options
@json_option
def resume(tasks: tuple[str, ...], *, as_json: bool, **options: Any) -> Exit:
    """Take up what is unfinished and wait for it.

    TASK is an id, or a beginning or end of one that no other task has. Other unfinished tasks of the same
    journal move along while it is open, but are not waited for.
    """
    engine = taken(options)
    supply = Supply(options["url"], headers_of(options["header_lines"]))
    if supply.url is not None:
        check_url(supply.url)
    wish = Wish(tasks, options["journal"], options["everything"], supply, engine)
    display = display_for(as_json=as_json)
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
    code = Exit.COMPLETE
    async with AsyncExitStack() as engines:
        opened = await _open_all(wish, dict.fromkeys(each.journal for each in chosen), engines, display)
        with stop.scope:
            for found in chosen:
                if found.journal in opened:
                    handle = await _set_going(opened[found.journal], found, wish.supply)
                    watched.append(Watched(handle, found.journal, found.task.request.needs))
            with display:
                for each in watched:
                    display.begin(each.task.info, each.journal)
                code = await wait_for_all(watched, display)
    if stop.exit is not None:
        say_how_to_go_on(stop, watched, display)
        return stop.exit
    return code


def _chosen(past: Past, wish: Wish) -> list[Found]:
    if wish.references:
        named = {pick(past, reference).task.id for reference in wish.references}
        return [each for each in past.tasks if each.task.id in named]
    left_alone = ENDED if wish.everything else ENDED | {State.PAUSED, State.FAILED}
    return [each for each in past.tasks if each.task.state not in left_alone]


def _nothing_text(past: Past) -> str:
    counts = Counter(each.task.state for each in past.tasks)
    alone = [f"{counts[state]} {state}" for state in (State.PAUSED, State.FAILED) if counts[state]]
    if not alone:
        return "nothing is unfinished"
    return f"nothing to take up; {' and '.join(alone)}: name them, or use --all"


def _check_supply(supply: Supply, chosen: list[Found]) -> None:
    """A URL is for one task; a header, which may be a credential, for one host at most."""
    if not chosen and supply:
        raise click.UsageError("--url and --header: no task to supply them to; name it")
    if supply.url is not None and len(chosen) > 1:
        raise click.UsageError(f"--url is for one task, and {len(chosen)} are to go on: name it")
    hosts = {host_of(each.task.request.url) for each in chosen}
    if supply.headers and len(hosts) > 1:
        raise click.UsageError(
            f"--header would go to {len(hosts)} hosts ({', '.join(sorted(hosts))}): name the tasks it is for"
        )


async def _open_all(
    wish: Wish, journals: Iterable[str], engines: AsyncExitStack, display: Display
) -> dict[str, Engine]:
    """Open the journals. What another process works on is left to it, unless it was named."""
    opened: dict[str, Engine] = {}
    for journal in journals:
        engine = Engine(journal, config=wish.engine.config())
        try:
            opened[journal] = await engines.enter_async_context(engine)
        except JournalOwned as error:
            if wish.journal is not None or wish.references:
                raise
            display.say(f"meowcat: left alone: {error}")
    return opened


async def _set_going(engine: Engine, found: Found, supply: Supply) -> Task:
    task = await engine.task(found.task.id)
    if task.state in ENDED:
        return task
    if supply:
        await task.supply(url=supply.url, headers=supply.headers or None)
    if may(task.state, Trigger.RESUME):
        await task.resume()
    elif may(task.state, Trigger.RETRY):
        await task.retry()
    return task
