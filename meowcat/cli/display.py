"""How transfers under way are shown: bars on a terminal, plain lines elsewhere, JSON lines when asked."""

import sys
import time
from collections.abc import Sequence
from signal import SIGINT, SIGTERM
from typing import Protocol, Self

import click

from meowcat.cli.exits import Exit
from meowcat.cli.quantities import rate_text, seconds_text, size_text
from meowcat.cli.terminals import terminal
from meowcat.cli.views import (
    amount_text,
    json_line,
    place_text,
    printable,
    progress_object,
    refusal_text,
    shown_name,
    standing_text,
    task_object,
)
from meowcat.core.info import TaskInfo
from meowcat.core.machine import TERMINAL, State
from meowcat.core.transfers import Direction
from meowcat.core.values import TaskId
from meowcat.task import Progress

_STOPPED: dict[int, str] = {SIGINT: "interrupted", SIGTERM: "terminated"}
LINE_INTERVAL = 1.0
"""Seconds between two lines of progress of one task, at the least."""


class Display(Protocol):
    """What a command tells while it waits. `journal` is as the user, or the state folder, names it."""

    def begin(self, info: TaskInfo, journal: str) -> None:
        """The task is in the journal; told of each task before anything else is."""

    def advance(self, info: TaskInfo, moment: Progress) -> None:
        """It has moved."""

    def end(self, info: TaskInfo, journal: str) -> None:
        """It won't move any more without help."""

    def say(self, *lines: str) -> None:
        """Something else that people should know."""

    def stopped(self, signal: int, commands: Sequence[str]) -> None:
        """A signal came; `commands` go on with what is unfinished."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


def display_for(*, as_json: bool, quiet: bool = False) -> Display:
    if as_json:
        return JsonLines(quiet=quiet)
    if quiet:
        return Quiet()
    console = terminal(sys.stderr)
    if console is None:
        return PlainLines()
    from meowcat.cli.bars import OnTerminal  # noqa: PLC0415  # brings rich: see `terminal`

    return OnTerminal(console)


def exit_of_task(info: TaskInfo) -> Exit:
    if info.state is State.COMPLETE:
        return Exit.COMPLETE
    return Exit.FAILED if info.state is State.FAILED else Exit.UNFINISHED


def closing_text(info: TaskInfo) -> str:
    """The last word on a task that is not Complete."""
    if info.state is State.FAILED:
        return f"meowcat: {shown_name(info)} failed: {standing_text(info)}"
    standing = standing_text(info)
    word = "waits" if info.needs or info.waiting_for else info.state.lower()
    return f"meowcat: {shown_name(info)} {word}" + (f": {standing}" if standing else "")


def complete_text(info: TaskInfo) -> str:
    words = [size_text(info.size if info.size is not None else info.bytes_done)]
    if info.compared:
        words.append(f"{', '.join(digest.algorithm for digest in info.compared)} verified")
    words += [str(digest) for digest in info.digests if digest not in info.compared]
    words += [f"{name} {value}" for name, value in info.remote.items()]
    return f"{place_text(info, info.path)}  {', '.join(words)}"


_AGAIN: dict[Direction, str] = {
    "download": "'get --overwrite' fetches it again",
    "upload": "'put --again' sends it again",
}


class Pace:
    """When a task is told of again: at most once an interval, but at once where it begins or ceases to wait,
    be it for the journal. Nothing more may happen meanwhile, so that what is left out then stays untold."""

    def __init__(self) -> None:
        self._told: dict[TaskId, tuple[float, object]] = {}

    def begin(self, info: TaskInfo) -> None:
        self._told[info.id] = (time.monotonic(), (info.waiting_for, ""))

    def due(self, info: TaskInfo, moment: Progress) -> bool:
        now = time.monotonic()
        then, waited_for = self._told[info.id]
        waits_for = (info.waiting_for, moment.refusal)
        if now - then < LINE_INTERVAL and waits_for == waited_for:
            return False
        self._told[info.id] = (now, waits_for)
        return True

    def __len__(self) -> int:
        return len(self._told)


class PlainLines:
    """Lines on standard error; the path of what is complete on standard output."""

    def __init__(self) -> None:
        self._told = Pace()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def begin(self, info: TaskInfo, journal: str) -> None:  # noqa: ARG002  # one interface for all displays
        self._told.begin(info)  # what is over within a second needs no progress
        if info.state is State.COMPLETE:
            self.say(f"{shown_name(info)}: complete already; {_AGAIN[info.direction]}")
        elif info.bytes_done:
            self.say(f"{shown_name(info)}: goes on at {amount_text(info)}")

    def advance(self, info: TaskInfo, moment: Progress) -> None:
        if self._told.due(info, moment):
            self.say(f"{shown_name(info)}: {amount_text(info)}  {pace_text(info, moment)}")

    def end(self, info: TaskInfo, journal: str) -> None:  # noqa: ARG002  # as above
        if info.state is State.COMPLETE:
            click.echo(printable(complete_text(info)))
        else:
            self.say(closing_text(info))

    def say(self, *lines: str) -> None:
        for line in lines:
            click.echo(printable(line), err=True)

    def stopped(self, signal: int, commands: Sequence[str]) -> None:
        self.say(*stopped_lines(signal, commands))


class Quiet(PlainLines):
    """The same without progress."""

    def begin(self, info: TaskInfo, journal: str) -> None:
        pass

    def advance(self, info: TaskInfo, moment: Progress) -> None:
        pass


class JsonLines:
    """One JSON object a line on standard output; `type` says which."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._told = Pace()
        self._quiet = quiet

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def begin(self, info: TaskInfo, journal: str) -> None:
        self._told.begin(info)
        json_line({"type": "task"} | task_object(info, journal))

    def advance(self, info: TaskInfo, moment: Progress) -> None:
        if not self._quiet and self._told.due(info, moment):
            json_line(progress_object(info, moment))

    def end(self, info: TaskInfo, journal: str) -> None:
        json_line({"type": "result"} | task_object(info, journal))

    def say(self, *lines: str) -> None:
        json_line({"type": "note", "message": "\n".join(lines)})

    def stopped(self, signal: int, commands: Sequence[str]) -> None:
        json_line({"type": "stopped", "signal": signal, "resume": "\n  ".join(commands) or None})


def stopped_lines(signal: int, commands: Sequence[str]) -> list[str]:
    word = _STOPPED.get(signal, "the terminal was closed")
    if not commands:
        return [f"meowcat: {word}"]
    said = f"meowcat: {word}; what is done is kept in the journal. Go on with:"
    return [said, *(f"  {command}" for command in commands)]


def pace_text(info: TaskInfo, moment: Progress) -> str:
    """How it goes: a rate and the time that is left, or what is waited for."""
    if moment.refusal and info.state not in TERMINAL:
        return f"waits: {refusal_text(moment.refusal)}"
    standing = standing_text(info)
    if standing:
        return f"waits: {standing}" if info.waiting_for else standing
    if info.state is not State.RUNNING:
        return info.state.lower()
    if info.size is not None and info.bytes_done >= info.size:
        return str(info.phase)
    if not moment.rate:
        return "..."
    left = "" if moment.eta is None else f"  {seconds_text(moment.eta)} left"
    return rate_text(moment.rate) + left
