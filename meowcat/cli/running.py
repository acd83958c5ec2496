"""Waiting for transfers, and being stopped by a signal without losing anything."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Self

import anyio

from meowcat.cli.display import Display, exit_of_task
from meowcat.cli.exits import Exit, exit_of_all
from meowcat.cli.journals import resume_command
from meowcat.cli.terminals import leave_terminal
from meowcat.core.info import TaskInfo
from meowcat.core.machine import TERMINAL, State
from meowcat.task import Task


def _signals() -> tuple[signal.Signals, ...]:
    """Those that ask to stop. Behind nohup a closed terminal does not; that a shell lets what it starts in
    the background ignore Ctrl-C of its terminal says nothing of who sends a SIGINT to it."""
    asking: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        asking += (signal.SIGHUP,)
    return asking


class Stop:
    """The wish to stop. The first signal ends the waiting, and the engine closes in good order; a second one
    ends the process at once, which costs no more than a crash.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.scope = anyio.CancelScope()
        """What the signal cancels: the waiting, never the closing of an engine."""

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._heard = _signals()
        for number in self._heard:
            self._loop.add_signal_handler(number, self._asked, number)
        return self

    def __exit__(self, *exc: object) -> None:
        for number in self._heard:
            self._loop.remove_signal_handler(number)

    def _asked(self, number: int) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        leave_terminal()
        self.scope.cancel()

    @property
    def exit(self) -> Exit | None:
        return None if self.signal is None else Exit(128 + self.signal)


def run_until_done(work: Callable[[Stop], Awaitable[Exit]]) -> Exit:
    """Run `work` in an event loop, with signals turned into a `Stop`."""

    async def guarded() -> Exit:
        with Stop() as stop:
            return await work(stop)

    return anyio.run(guarded)


@dataclass(frozen=True)
class Watched:
    """A transfer that a command waits for."""

    task: Task
    journal: str
    needs: tuple[str, ...] = ()
    """What has to be given again after this process, by name."""


def at_rest(info: TaskInfo) -> bool:
    """Whether the task won't move any more without help from outside."""
    waits = info.waiting_for is not None and info.waiting_for.helpless
    return waits or info.state in TERMINAL or info.state is State.PAUSED


async def wait_for_all(watched: Sequence[Watched], display: Display) -> Exit:
    """Wait until all are at rest, and say which exit code that makes."""
    codes: list[Exit] = []

    async def wait(each: Watched) -> None:
        async for moment in each.task.progress():
            info = each.task.info
            if at_rest(info):
                break
            display.advance(info, moment)
        display.end(each.task.info, each.journal)
        codes.append(exit_of_task(each.task.info))

    async with anyio.create_task_group() as waiting:
        for each in watched:
            waiting.start_soon(wait, each)
    return exit_of_all(codes)


def say_how_to_go_on(stop: Stop, watched: Sequence[Watched], display: Display) -> None:
    """After a signal, and once the engines are closed: the command that takes up what is unfinished."""
    assert stop.signal is not None  # noqa: S101  # only called then
    left = [each for each in watched if each.task.state not in TERMINAL]
    commands = {
        journal: resume_command(
            journal,
            dict.fromkeys(need for each in left if each.journal == journal for need in each.needs),
            left[0].task.id if len(left) == 1 and left[0].needs else None,
        )
        for journal in dict.fromkeys(each.journal for each in left)
    }
    display.stopped(stop.signal, list(commands.values()))
