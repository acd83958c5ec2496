"""`meowcat journal prune`: the journals of the state folder of which nothing is left to do."""

import os
import socket
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.to_thread
import click

from meowcat.audit.log import HEAD_SNAPSHOT
from meowcat.cli.exits import Exit
from meowcat.cli.journals import chosen, folder, opened
from meowcat.cli.options import json_option
from meowcat.cli.quantities import counted, seconds_option, size_text
from meowcat.cli.views import clock_text, json_document, printable
from meowcat.core.errors import JournalError, JournalOwned
from meowcat.core.state import TaskState, evolve
from meowcat.core.values import Position
from meowcat.journal.contract import Journal, Owner, RemovableJournal
from meowcat.journal.locate import locate
from meowcat.journal.logged import when
from meowcat.journal.replay import Fold, fold_all

USUAL_AGE = "7d"

Why = Literal["unfinished", "in-use", "recent", "followed", "signed", "damaged", "unreadable"]

_WORDS: dict[Why, str] = {
    "unfinished": "with tasks that are not finished",
    "in-use": "in use",
    "recent": "used since",
    "followed": "with sinks",
    "signed": "with a signed history",
    "damaged": "damaged",
    "unreadable": "that can't be read or removed",
}


@dataclass(frozen=True)
class Finished:
    """A journal that nobody needs to go on with."""

    journal: str
    tasks: int
    size: int
    """Bytes on the disk, with what stands beside the journal."""
    used: float
    """When it was last written, in seconds since 1970 UTC."""
    left_over: bool = False
    """Whether this is what a removal that was cut off has left of it."""


@dataclass(frozen=True)
class Kept:
    """A journal that stays."""

    journal: str
    why: Why
    detail: str = ""


@click.command(name="prune", epilog="Example: meowcat journal prune --older-than 30d --remove")
@click.option(
    "--older-than",
    "age",
    callback=seconds_option,
    default=USUAL_AGE,
    show_default=True,
    metavar="TIME",
    help="Only those that were last written so long ago: 12h, 30d; 0 is all.",
)
@click.option("--remove", is_flag=True, help="Remove them. Without it nothing is changed.")
@json_option
def prune_journals(*, age: float, remove: bool, as_json: bool) -> Exit:
    """List the finished journals of the state folder, or remove them.

    Those are the journals of each 'get' and 'put' without --journal. One is finished when all of its tasks
    are Complete or Canceled, and owe nothing. What somebody has open stays, and what is damaged, was signed,
    or has sinks. The files that were transferred are not touched. What a removal that was cut off has left is
    finished, whatever its age.

    With its journal goes the history of a transfer, and the knowledge that the same command was done.
    """
    return anyio.run(partial(_prune, age, remove=remove, as_json=as_json))


async def _prune(age: float, *, remove: bool, as_json: bool) -> Exit:
    found = [await _look(where, time.time() - age, remove=remove) for where in chosen(None)]
    found += [await _finish(where, remove=remove) for where in _cut_off()]
    finished = [each for each in found if isinstance(each, Finished)]
    stay = [each for each in found if isinstance(each, Kept)]
    if as_json:
        json_document(
            {
                "folder": str(folder()),
                "journals": [_object(each, removed=remove) for each in finished],
                "kept": [{"journal": each.journal, "why": each.why, "detail": each.detail} for each in stay],
            }
        )
    else:
        _print(finished, stay, remove=remove)
    failed = remove and any(each.why == "unreadable" for each in stay)
    return Exit.JOURNAL if failed else Exit.COMPLETE


def _object(each: Finished, *, removed: bool) -> dict[str, Any]:
    return {
        "journal": each.journal,
        "tasks": each.tasks,
        "bytes": each.size,
        "used": when(round(each.used * 1000)),
        "left_over": each.left_over,
        "removed": removed,
    }


def _print(finished: list[Finished], kept: list[Kept], *, remove: bool) -> None:
    for each in finished:
        rest = "what a removal has left" if each.left_over else counted(each.tasks, "task")
        what = f"{rest}, {size_text(each.size)}"
        used = clock_text(round(each.used * 1000))[:16]
        click.echo(printable(f"{'removed  ' if remove else ''}{each.journal}  {what}, last used {used}"))
    total = f"{counted(len(finished), 'finished journal')}, {size_text(sum(each.size for each in finished))}"
    if finished and not remove:
        total += "; --remove removes them"
    click.echo(total, err=True)
    reasons = Counter(each.why for each in kept)
    if reasons:
        counts = ", ".join(f"{reasons[why]:,} {words}" for why, words in _WORDS.items() if reasons[why])
        click.echo(f"kept: {counts}", err=True)
    for stays in kept:
        if stays.why in ("damaged", "unreadable"):
            click.echo(printable(f"meowcat: {stays.journal}: {stays.detail}"), err=True)


async def _look(where: str, before: float, *, remove: bool) -> Finished | Kept:
    """What is to become of a journal, and has, where `remove` says so.

    It is judged without keeping anybody out, which may take a while; and removed only if no record has come
    since, which is asked while nobody else can open it.
    """
    try:
        used = _last_written(where)
        if used > before:
            return Kept(where, "recent")
        judged = await _judge(where)
        if isinstance(judged, Kept):
            return judged
        tasks, last = judged
        size = sum(path.stat().st_size for path in _files(where))
        done = await anyio.to_thread.run_sync(partial(_remove, where, last, remove=remove))
        return Finished(where, tasks, size, used) if done or not remove else Kept(where, "in-use")
    except JournalOwned as owned:
        return Kept(where, "in-use", str(owned))
    except (JournalError, OSError) as error:
        return Kept(where, "unreadable", str(error))


async def _finish(where: str, *, remove: bool) -> Finished | Kept:
    """Remove what is left of a journal, where `remove` says so."""
    try:
        status = [path.stat() for path in _beside(where)]
        if remove:
            await anyio.to_thread.run_sync(partial(_remove, where, Position(0), remove=True))
    except JournalOwned as owned:
        return Kept(where, "in-use", str(owned))
    except (JournalError, OSError) as error:
        return Kept(where, "unreadable", str(error))
    size, used = sum(each.st_size for each in status), max(each.st_mtime for each in status)
    return Finished(where, 0, size, used, left_over=True)


async def _judge(where: str) -> tuple[int, Position] | Kept:
    """How many tasks a finished journal has, and its last record; or why it stays."""
    journal = await anyio.to_thread.run_sync(opened, where)
    try:
        last = journal.last()
        fold = await fold_all(journal, evolve)
        why = await anyio.to_thread.run_sync(_why_kept, journal, fold)
    finally:
        await anyio.to_thread.run_sync(journal.close)
    return (len(fold.tasks), last) if why is None else Kept(where, *why)


def _why_kept(journal: Journal, fold: Fold[TaskState]) -> tuple[Why, str] | None:
    wrong = [*(each.detail for each in fold.damage), *(each.detail for each in fold.quarantined.values())]
    if wrong:
        return "damaged", f"{wrong[0]}; see 'meowcat journal check'"
    if any(task.open for task in fold.tasks.values()):
        return "unfinished", ""
    if journal.cursors():
        return "followed", ""
    return ("signed", "") if journal.get_snapshot(HEAD_SNAPSHOT) else None


def _remove(where: str, last: Position, *, remove: bool) -> bool:
    """Take the ownership, and delete the journal if that is wanted, and nothing was added to it."""
    journal = locate(where)
    if not isinstance(journal, RemovableJournal):
        raise JournalError("a journal of this kind can't be removed by itself")
    owner = Owner(os.getpid(), socket.gethostname(), "meowcat journal prune")
    return journal.remove(owner, lambda: remove and journal.last() == last)


def _last_written(where: str) -> float:
    """In seconds since 1970 UTC. A reader leaves an empty log behind, which says nothing."""
    path = Path(where)
    log = Path(f"{where}-wal")
    written = path.stat().st_mtime
    return max(written, log.stat().st_mtime) if log.exists() and log.stat().st_size else written


def _files(where: str) -> list[Path]:
    """The journal, and what stands beside it under its name."""
    return [Path(where), *_beside(where)]


def _beside(where: str) -> list[Path]:
    path = Path(where)
    return [each for each in path.parent.iterdir() if each.name.startswith(f"{path.name}-")]


def _cut_off() -> list[str]:
    """The journals that a removal has left something of: they stand under another name, or of all there was
    only the lock file had to go, which is empty by then."""
    try:
        names = {each.name for each in folder().iterdir()}
    except OSError:
        return []  # `chosen` has told it, or there are none
    renamed = {name.removesuffix("-removing") for name in names if name.endswith(".db-removing")}
    locks = {name.removesuffix("-lock") for name in names if name.endswith(".db-lock")}
    empty = {name for name in locks - names if _is_empty(folder() / f"{name}-lock")}
    return [str(folder() / name) for name in sorted((renamed | empty) - names)]


def _is_empty(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except OSError:
        return False  # it went in this moment
