"""Tables of tasks for terminals of any width."""

from collections.abc import Callable, Sequence
from typing import Literal

from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from meowcat.cli.quantities import size_text
from meowcat.cli.rows import done_text, left_of, rate_of
from meowcat.cli.views import ID_SHOWN, Seen, owner_text, place_text, printable, shown_name, waits_text
from meowcat.core.machine import State

_BAR_FROM, _RATE_FROM, _SIZE_FROM, _OWNER_FROM = 100, 64, 80, 110
"""Columns of a terminal from which on it has room for a bar, a rate, a size and an owner."""
_BAR_WIDTH = 16

_STYLES = {
    State.RUNNING: "green",
    State.PREPARING: "green",
    State.PAUSED: "yellow",
    State.FAILED: "red",
    State.COMPLETE: "cyan",
    State.CANCELED: "dim",
}


def table_of(tasks: Sequence[Seen], width: int) -> Table:
    """The tasks as a table no wider than `width`: a narrow one has fewer columns, and shorter names."""
    shown = [(column, make) for least, column, make in _columns() if width >= least]
    cells = [[make(seen) for _, make in shown] for seen in tasks]
    table = Table(*(column for column, _ in shown), box=None, pad_edge=False, header_style="bold")
    for row in cells:
        table.add_row(*row)
    return table


Cell = Callable[[Seen], RenderableType]


def _columns() -> list[tuple[int, Column, Cell]]:
    """Each column with the width of a terminal from which on there is room for it, and its cells."""
    return [
        (0, _fixed("ID"), lambda seen: Text(seen.info.id[-ID_SHOWN:])),
        (0, _fixed("STATE"), _state),
        (_BAR_FROM, _fixed(""), _bar),
        (0, _fixed("DONE", "right"), lambda seen: Text(done_text(seen))),
        (_SIZE_FROM, _fixed("SIZE", "right"), lambda seen: Text(size_text(seen.info.size))),
        (_RATE_FROM, _fixed("RATE", "right"), lambda seen: Text(rate_of(seen))),
        (_SIZE_FROM, _fixed("LEFT", "right"), lambda seen: Text(left_of(seen))),
        (_OWNER_FROM, _fixed("OWNER"), lambda seen: Text(owner_text(seen))),
        (0, Column("FILE"), lambda seen: _cut(place_text(seen.info, shown_name(seen.info)))),
        (0, Column(""), lambda seen: _cut(waits_text(seen), "yellow")),
    ]


def _fixed(heading: str, justify: Literal["left", "right"] = "left") -> Column:
    return Column(heading, justify=justify, no_wrap=True)


def _cut(text: str, style: str = "") -> Text:
    """A cell that is cut where its column is too narrow for it. Only columns that may wrap are made narrower
    before others, so that it is the cell that says it must not."""
    return Text(printable(text), style, no_wrap=True, overflow="ellipsis")


def _state(seen: Seen) -> Text:
    return Text(seen.info.state, style=_STYLES.get(seen.info.state, ""))


def _bar(seen: Seen) -> RenderableType:
    return ProgressBar(total=1.0, completed=seen.info.fraction, width=_BAR_WIDTH)
