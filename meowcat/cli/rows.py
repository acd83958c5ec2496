"""Tasks as rows of plain text, and by what they are sorted."""

from collections.abc import Callable, Sequence

from meowcat.cli.quantities import percent_text, rate_text, seconds_text, size_text
from meowcat.cli.views import ID_SHOWN, Seen, owner_text, place_text, printable, waits_text
from meowcat.core.machine import State

PLAIN_HEAD = ("ID", "STATE", "DONE", "SIZE", "RATE", "LEFT", "OWNER", "PATH", "")

SORTS: dict[str, Callable[[Seen], tuple[object, ...]]] = {
    "created": lambda seen: (seen.info.created, seen.info.id),
    "state": lambda seen: (list(State).index(seen.info.state), seen.info.created),
    "done": lambda seen: (seen.info.fraction, seen.info.bytes_done),
    "size": lambda seen: (seen.info.size or 0, seen.info.bytes_done),
    "rate": lambda seen: (seen.rate, seen.info.fraction),
    "path": lambda seen: (seen.info.path,),
}
"""What tasks can be sorted by."""


def done_text(seen: Seen) -> str:
    info = seen.info
    return percent_text(info.fraction) if info.size is not None else size_text(info.bytes_done)


def plain_row(seen: Seen) -> tuple[str, ...]:
    info = seen.info
    return (
        info.id[-ID_SHOWN:],
        info.state,
        done_text(seen),
        size_text(info.size),
        rate_of(seen),
        left_of(seen),
        owner_text(seen),
        place_text(info, info.path),
        waits_text(seen),
    )


def plain_lines(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The rows in columns as wide as their widest cell."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        printable("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        for row in rows
    ]


def rate_of(seen: Seen) -> str:
    return rate_text(seen.rate) if seen.rate else ""


def left_of(seen: Seen) -> str:
    return seconds_text(seen.eta) if seen.eta is not None else ""
