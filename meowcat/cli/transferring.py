"""What `get` and `put` have in common: an engine of their own, until all that was asked for is at rest."""

import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from meowcat.cli.display import Display
from meowcat.cli.exits import Exit
from meowcat.cli.journals import resume_command
from meowcat.cli.running import Stop, Watched, say_how_to_go_on, wait_for_all
from meowcat.cli.signers import signers_of
from meowcat.config import Config
from meowcat.core.errors import DuplicateTask, JournalOwned
from meowcat.engine import Engine
from meowcat.protocols.credentials import Provider

Submit = Callable[[Engine], Awaitable[list[Watched]]]
"""Records what is asked for, or finds it recorded."""


@dataclass(frozen=True)
class Opening:
    """The engine that a command opens."""

    journal: str
    config: Config
    credentials: Mapping[str, Provider]


async def opening_for(
    journal: str, config: Config, credentials: Mapping[str, Provider], display: Display
) -> Opening:
    """The engine for a command's own transfers, which name `credentials`: with those as well that other
    unfinished tasks of the journal name, since they move along."""
    others = await signers_of(journal)
    for name in others.missing.keys() - credentials.keys():
        display.say(f"meowcat: an unfinished task of {journal} waits: {others.missing[name]}")
    return Opening(journal, config, {**others.found, **credentials})


async def transfer(opening: Opening, submit: Submit, display: Display, stop: Stop, *, paused: bool) -> Exit:
    """Submit, and wait unless it is only to be recorded (`paused`)."""
    watched: list[Watched] = []
    code = Exit.COMPLETE
    async with _opened(opening) as engine:
        with stop.scope:
            watched += await _submitted(engine, submit, opening.journal)
            with display:
                for each in watched:
                    display.begin(each.task.info, opening.journal)
                code = _recorded(watched, display) if paused else await wait_for_all(watched, display)
    if stop.exit is not None:
        say_how_to_go_on(stop, watched, display)
        return stop.exit
    return code


async def _submitted(engine: Engine, submit: Submit, journal: str) -> list[Watched]:
    try:
        return await submit(engine)
    except DuplicateTask as duplicate:
        command = f"meowcat cancel {duplicate.task} --journal {shlex.quote(journal)}"
        message = str(duplicate).replace(f"engine.cancel({duplicate.task!r})", repr(command))
        raise DuplicateTask(message, task=duplicate.task) from None


@asynccontextmanager
async def _opened(opening: Opening) -> AsyncIterator[Engine]:
    engine = Engine(opening.journal, config=opening.config, credentials=opening.credentials)
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(engine)
        except JournalOwned as owned:
            look = f"meowcat ls --watch --journal {shlex.quote(opening.journal)}"
            raise JournalOwned(f"{owned}: {look!r} shows its tasks", owner=owned.owner) from None
        yield engine


def _recorded(watched: list[Watched], display: Display) -> Exit:
    for each in watched:
        command = resume_command(each.journal, each.needs, each.task.id)
        display.say(f"{each.task.info.path}: recorded as {each.task.state}; begin with: {command}")
    return Exit.COMPLETE
