"""Where the command line keeps its journals, and how it reads them without owning them."""

import hashlib
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import anyio.to_thread
import click
import platformdirs

from meowcat.cli.quantities import counted
from meowcat.core.errors import JournalError, NotAJournal, TaskQuarantined
from meowcat.core.info import TaskInfo, info_of
from meowcat.core.state import TaskState, evolve
from meowcat.core.values import TaskId
from meowcat.journal.contract import Damage, Journal, ReadableJournal, Record
from meowcat.journal.locate import locate
from meowcat.journal.replay import fold_all

FOLDER_VARIABLE = "MEOWCAT_STATE_DIR"
"""Names another folder for the journals of `get` without `--journal`."""


def folder() -> Path:
    """Where each `get` without `--journal` has its journal."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else platformdirs.user_state_path("meowcat") / "journals"


def journal_of(wanted: Iterable[tuple[str, str]]) -> Path:
    """The journal of a `get` for these pairs of destination and URL identity.

    The same for the same command, in whatever order its URLs stand, so that it goes on after a crash. What
    the destination is must be known without asking a server: the folder, where the server names the file.

    Raises:
        click.UsageError: bytes that are no UTF-8.
    """
    pairs = sorted(wanted)
    try:
        named = "\0".join(text for pair in pairs for text in pair).encode()
    except UnicodeEncodeError as error:
        raise click.UsageError(
            "a path or URL has bytes that are no UTF-8, which nothing can store"
        ) from error
    digest = hashlib.sha256(named).hexdigest()[:16]
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(pairs[0][0]).name).strip("-.")[:40] or "get"
    return folder() / f"{stem}-{digest}.db"


def make_folder() -> None:
    """Make the state folder, for its owner alone: file names tell a lot.

    Raises:
        click.ClickException: it can't be made.
    """
    try:
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"{folder()}: {error.strerror}; name a journal with --journal") from error


def chosen(journal: str | None) -> list[str]:
    """The journals that a command looks through: the named one, or all of the state folder, oldest first.

    Raises:
        click.UsageError: the state folder can't be read.
    """
    if journal is not None:
        return [journal]
    try:
        with os.scandir(folder()) as entries:
            found = [(each.stat().st_mtime, each.path) for each in entries if each.name.endswith(".db")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise click.UsageError(f"{folder()}: {error.strerror}; name a journal with --journal") from error
    return [path for _, path in sorted(found)]


@dataclass(frozen=True)
class Found:
    """A task, and the journal that has it."""

    journal: str
    task: TaskState

    @property
    def info(self) -> TaskInfo:
        return info_of(self.task)


@dataclass(frozen=True)
class Past:
    """What the journals hold."""

    tasks: list[Found]
    quarantined: dict[TaskId, str]
    unreadable: dict[str, JournalError]
    """Journals that could not be read, and why."""
    journals: list[str]
    named: bool
    """Whether the user named the journal; else they are those of the state folder."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Journals with damage that could not be laid to a task, and what it is."""

    @property
    def whole(self) -> bool:
        """Whether nothing is kept out or missing by damage, and every journal could be read."""
        return not (self.quarantined or self.unreadable or self.damaged)


async def read_all(journal: str | None) -> Past:
    """Read the chosen journals, also those that another process owns.

    Raises:
        JournalError: the named journal can't be read. One of the state folder hurts no other.
    """
    past = Past([], {}, {}, chosen(journal), named=journal is not None)
    for where in past.journals:
        try:
            await _read_into(past, where)
        except JournalError as error:
            if journal is not None:
                raise
            past.unreadable[where] = error
    return past


async def _read_into(past: Past, where: str) -> None:
    journal = await anyio.to_thread.run_sync(opened, where)
    try:
        fold = await fold_all(journal, evolve)
    finally:
        await anyio.to_thread.run_sync(journal.close)
    past.tasks.extend(Found(where, task) for task in fold.tasks.values())
    past.quarantined.update({task: each.detail for task, each in fold.quarantined.items()})
    if fold.damage:
        places = counted(len(fold.damage), "place")
        past.damaged[where] = f"damaged in {places} of no task that is known, first: {fold.damage[0].detail}"


def opened(where: str) -> Journal:
    journal = locate(where)
    if not isinstance(journal, ReadableJournal):
        raise NotAJournal(f"{where}: a journal of this kind can't be read from outside")
    journal.open_for_reading()
    assert isinstance(journal, Journal)  # noqa: S101  # `locate` gives nothing else; the check narrows the type
    return journal


async def records_of(found: Found) -> list[Record | Damage]:
    """All records of one task, in order."""
    journal = await anyio.to_thread.run_sync(opened, found.journal)
    try:
        return list(await anyio.to_thread.run_sync(journal.read, found.task.id))
    finally:
        await anyio.to_thread.run_sync(journal.close)


def pick(past: Past, reference: str) -> Found:
    """The task that `reference` means: an id, or a beginning or end of one that no other has.

    Raises:
        click.UsageError: none, or several. TaskQuarantined: its records are damaged.
    """
    wanted = reference.upper()
    fits = [each for each in past.tasks if each.task.id.upper().startswith(wanted)]
    fits = fits or [each for each in past.tasks if each.task.id.upper().endswith(wanted)]
    if len(fits) == 1 and wanted:
        return fits[0]
    for task, detail in past.quarantined.items():
        if task.upper().startswith(wanted) or task.upper().endswith(wanted):
            raise TaskQuarantined(f"task {task} is quarantined: {detail}")
    if not fits:
        raise click.UsageError(f"no task {reference!r} in {_places(past)}")
    several = ", ".join(each.task.id for each in fits[:4])
    raise click.UsageError(f"{reference!r} fits {len(fits)} tasks ({several} …): give more of the id")


def _places(past: Past) -> str:
    """Where was looked, and how to see what is there."""
    if past.named:
        where = past.journals[0]
        return f"{where}; 'meowcat ls --all --journal {shlex.quote(where)}' lists them"
    count = counted(len(past.journals), "journal")
    return f"the {count} of the state folder; 'meowcat ls --all' lists them, and --journal names another"


def resume_command(journal: str, needs: Iterable[str] = (), task: TaskId | None = None) -> str:
    """What to type to go on; of secrets only the names, for they are not known here any more. A credential is
    found by its name again."""
    words = ["meowcat", "resume", *([task] if task else []), "--journal", shlex.quote(journal)]
    for need in needs:
        kind, _, name = need.partition(":")
        if kind == "url":
            words += ["--url", "URL"]
        elif kind == "plan":
            words += ["--plan", "FILE"]
        elif kind == "header":
            words += ["--header", shlex.quote(f"{name}: VALUE")]
    return " ".join(words)
