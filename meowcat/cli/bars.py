"""Bars for transfers under way, on a terminal of any width."""

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from meowcat.cli.display import PlainLines, complete_text, pace_text
from meowcat.cli.quantities import percent_text, size_text
from meowcat.cli.views import printable, shown_name
from meowcat.core.info import TaskInfo
from meowcat.core.machine import State
from meowcat.core.values import TaskId
from meowcat.task import Progress

_BAR_FROM, _AMOUNT_FROM = 100, 80
"""Columns of a terminal from which on it has room for a bar, and for the bytes."""
_NAME_WIDTH = 28
_STANDING_WIDTH = 20
_BESIDE = 28
"""Columns that the share, a rate and the time left need beside the name."""


class OnTerminal(PlainLines):
    """A bar for each transfer that is at work or waits, on standard error."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._bars = Bars(*_columns(console.width), console=console, expand=console.width >= _BAR_FROM)
        self._rows: dict[TaskId, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bars.stop()

    def advance(self, info: TaskInfo, moment: Progress) -> None:
        waits = info.waiting_for or moment.refusal
        if info.id in self._rows or waits or info.state is not State.QUEUED:
            self._draw(info, pace_text(info, moment))

    def _draw(self, info: TaskInfo, pace: str) -> None:
        if info.id not in self._rows:
            room = min(_NAME_WIDTH, max(self._console.width - _BESIDE, 8))
            name = _short(printable(shown_name(info)), room)
            self._rows[info.id] = self._bars.add_task(name, total=None, percent="", amount="", pace="")
        known = info.size is not None
        self._bars.update(
            self._rows[info.id],
            total=1.0 if known else None,
            completed=info.fraction,
            percent=percent_text(info.fraction) if known else "",
            amount=f"{size_text(info.bytes_done)} / {size_text(info.size)}",
            pace=printable(pace),
        )

    def end(self, info: TaskInfo, journal: str) -> None:
        if len(self._told) == 1:
            self._draw(info, info.state.lower())
        elif info.id in self._rows:  # of many, only those that are at work have room
            self._bars.remove_task(self._rows.pop(info.id))
        if info.state is State.COMPLETE:
            self._console.print(Text(printable(complete_text(info))), soft_wrap=True)
        else:
            super().end(info, journal)

    def say(self, *lines: str) -> None:
        for line in lines:
            self._console.print(Text(printable(line)), soft_wrap=True)


class _Standing(ProgressColumn):
    """A rate and the time left, or what is waited for. It is what is cut where a line is too long: of columns
    that may wrap the widest is made narrower first, and the cell says that it must not wrap."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["pace"].ljust(_STANDING_WIDTH), "green", no_wrap=True, overflow="ellipsis")


def _columns(width: int) -> list[ProgressColumn]:
    """What a terminal so wide has room for."""
    columns: list[tuple[int, ProgressColumn]] = [
        (0, TextColumn("{task.description}", markup=False)),
        (_BAR_FROM, BarColumn(bar_width=None)),
        (0, TextColumn("{task.fields[percent]:>6}", markup=False)),
        (_AMOUNT_FROM, TextColumn("{task.fields[amount]:>21}", style="cyan", markup=False)),
        (0, _Standing()),
    ]
    return [column for least, column in columns if width >= least]


def _short(name: str, width: int) -> str:
    """The name, cut in its middle where it is long: both ends tell."""
    if len(name) <= width:
        return name
    half = (width - 1) // 2
    return f"{name[:half]}…{name[-half:]}"
