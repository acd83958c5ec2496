"""`meowcat journal check | salvage | compact | export | import | prune`: looking after journals."""

import os
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import click

from meowcat.cli.exits import Exit
from meowcat.cli.options import json_option
from meowcat.cli.outputs import pour, refuse_standing, standard_output, write_whole
from meowcat.cli.pruning import prune_journals
from meowcat.cli.quantities import counted, size_text
from meowcat.cli.views import json_document, printable
from meowcat.core.errors import JournalAccess, JournalDamaged, JournalError, NotAJournal
from meowcat.core.values import Position
from meowcat.journal.checkup import IMPORTING, check
from meowcat.journal.contract import (
    CompactableJournal,
    Damage,
    Journal,
    Owner,
    ReadableJournal,
    RestorableJournal,
)
from meowcat.journal.exchange import Batch, export_lines, read_export
from meowcat.journal.locate import locate
from meowcat.journal.salvage import salvage
from meowcat.runtime.world import wall

_SHOWN = 20
"""Places of damage that are printed; `--json` has all."""

_AT = click.argument("journal", metavar="JOURNAL")


@click.group(name="journal", epilog="Example: meowcat journal check transfers.db")
def journal_group() -> None:
    """Check, salvage, archive, export, import and remove journals.

    JOURNAL is a path or a URL, as --journal takes it elsewhere.
    """


journal_group.add_command(prune_journals)


@contextmanager
def _reading(where: str) -> Iterator[Journal]:
    journal = locate(where)
    if not isinstance(journal, ReadableJournal):
        raise NotAJournal(f"{where}: a journal of this kind can't be read from outside")
    journal.open_for_reading()
    assert isinstance(journal, Journal)  # noqa: S101  # `locate` gives nothing else; the check narrows the type
    try:
        yield journal
    finally:
        journal.close()


@contextmanager
def _writing(where: str, doing: str) -> Iterator[Journal]:
    journal = locate(where)
    journal.open(Owner(os.getpid(), socket.gethostname(), f"meowcat journal {doing}"), "power")
    try:
        yield journal
    finally:
        journal.close()


@contextmanager
def _creating(where: str, doing: str) -> Iterator[Journal]:
    """A new journal; one that has records already is not touched."""
    try:
        with _reading(where) as there:  # opening it for writing would be recorded in it
            _require_empty(there, where)
    except NotAJournal:
        pass  # there is none; or what stands there is refused by the opening
    with _writing(where, doing) as journal:
        _require_empty(journal, where)
        yield journal


def _require_there(where: str) -> None:
    """A mistyped name makes no new journal."""
    if isinstance(locate(where), ReadableJournal):
        try:
            with _reading(where):
                pass
        except JournalAccess:
            pass  # an early layout, say: opening it for writing mends that, or tells


def _require_empty(journal: Journal, where: str) -> None:
    if journal.last() > 0 or IMPORTING in journal.cursors():
        raise JournalError(f"{where}: it has records already; expected a journal that does not exist yet")


@journal_group.command(name="check", epilog="Example: meowcat journal check transfers.db --json")
@_AT
@json_option
def check_journal(journal: str, *, as_json: bool) -> Exit:
    """Check that every record is the one that was written.

    Reads all of JOURNAL: checksums, hash chain, epochs, and whether each task replays.

    Also of a journal that another process owns. Changes nothing. Exit code 3 where something is damaged.
    """
    with _reading(journal) as opened:
        found = check(opened)
    told = {(each.task, each.detail) for each in found.damage}
    places = [
        *found.damage,
        *(Damage(why, task=task) for task, why in found.quarantined.items() if (task, why) not in told),
    ]
    if as_json:
        json_document(
            {
                "journal": journal,
                "sound": found.sound,
                "records": found.records,
                "tasks": found.tasks,
                "unfinished": found.unfinished,
                "epoch": found.epoch,
                "chain": found.chain,
                "damage": [_place(each) for each in places],
            }
        )
        return Exit.COMPLETE if found.sound else Exit.JOURNAL
    click.echo(
        f"{journal}: {counted(found.records, 'record')} of {counted(found.tasks, 'task')}, "
        f"{found.unfinished:,} unfinished; opened {counted(found.epoch, 'time')}"
    )
    for each in places[:_SHOWN]:
        click.echo(printable(f"damaged: {_line(each)}"))
    if len(places) > _SHOWN:
        click.echo(f"… and {len(places) - _SHOWN:,} more places; --json lists them")
    if found.sound:
        click.echo(f"sound; the chain ends in {found.chain or 'nothing: it is empty'}")
        return Exit.COMPLETE
    click.echo(f"keep it as it is; 'meowcat journal salvage {journal} NEW' saves what is whole")
    return Exit.JOURNAL


def _line(damage: Damage) -> str:
    return f"task {damage.task}: {damage.detail}" if damage.task else damage.detail


def _place(damage: Damage) -> dict[str, Any]:
    return {"position": damage.position, "task": damage.task, "detail": damage.detail}


@journal_group.command(name="salvage", epilog="Example: meowcat journal salvage transfers.db saved.db")
@_AT
@click.argument("new", metavar="NEW")
@click.option("--partial", is_flag=True, help="Keep tasks up to the first hole in their history.")
@json_option
def salvage_journal(journal: str, new: str, *, partial: bool, as_json: bool) -> Exit:
    """Save what is whole of a damaged JOURNAL into NEW.

    NEW must not exist yet. JOURNAL is not changed: keep it as evidence. The records of NEW are numbered
    anew: what was signed of the old ones does not hold for them. A task whose history has a hole is left
    out, or with --partial kept up to the hole. Exit code 0 where nothing was lost, else 3.
    """
    with _reading(journal) as source, _creating(new, "salvage") as target:
        found = salvage(source, target, wall(), partial=partial)
    whole = not (found.left_out or found.damage or found.missing)
    if as_json:
        json_document(
            {
                "journal": new,
                "records": found.kept,
                "tasks": found.tasks,
                "missing": found.missing,
                "left_out": {
                    task: detail for task, detail in found.left_out.items() if task not in found.cut
                },
                "cut": found.cut,
                "damage": found.damage,
            }
        )
        return Exit.COMPLETE if whole else Exit.JOURNAL
    click.echo(f"{new}: {counted(found.kept, 'record')} of {counted(found.tasks, 'task')}")
    for task, detail in found.left_out.items():
        done = f"kept up to record {found.cut[task]}, Paused" if task in found.cut else "left out"
        click.echo(printable(f"task {task}: {done}: {detail}"))
    for detail in found.damage:
        click.echo(printable(f"damaged: {detail}"))
    return Exit.COMPLETE if whole else Exit.JOURNAL


@journal_group.command(name="compact", epilog="Example: meowcat journal compact transfers.db")
@_AT
@json_option
def compact_journal(journal: str, *, as_json: bool) -> Exit:
    """Archive the records of finished tasks. They are moved as they are, beside JOURNAL.

    They stay part of the journal: 'log', 'check' and 'export' read them there. What a sink has not
    come to stays where it is. Nobody else may own JOURNAL meanwhile.
    """
    if not isinstance(locate(journal), CompactableJournal):
        raise JournalError(
            f"{journal}: a journal of this kind can't archive records; sqlite: and jsonl: can "
            "('meowcat journal export' and 'import' convert)"
        )
    _require_there(journal)
    with _writing(journal, "compact") as opened:
        assert isinstance(opened, CompactableJournal)  # noqa: S101  # so is every journal at that place
        done = opened.compact()
    if as_json:
        json_document(
            {"journal": journal, "records": done.records, "bytes": done.bytes, "archive": done.archive}
        )
    elif done.records:
        click.echo(
            f"{journal}: {done.records:,} records, {size_text(done.bytes)}, archived in {done.archive}"
        )
    else:
        click.echo(f"{journal}: nothing to archive yet")
    return Exit.COMPLETE


@journal_group.command(
    name="export", epilog="Example: meowcat journal export transfers.db -o transfers.lines"
)
@_AT
@click.option("-o", "--output", metavar="FILE", default="-", help="Where to; - is standard output.")
def export_journal(journal: str, output: str) -> Exit:
    """Write all of JOURNAL as checksummed lines of JSON.

    'import' takes them, and any reader can. The same journal gives the same bytes. Only a sound journal
    is exported.
    """
    if output != "-":
        refuse_standing(output)
    with _reading(journal) as opened:
        if output == "-":
            pour(export_lines(opened), standard_output())
        else:
            write_whole(Path(output), export_lines(opened))
    return Exit.COMPLETE


@journal_group.command(
    name="import", epilog="Example: meowcat journal import transfers.lines transfers.jsonl"
)
@click.argument("file", metavar="FILE")
@click.argument("new", metavar="NEW")
@json_option
def import_journal(file: str, new: str, *, as_json: bool) -> Exit:
    """Make the journal NEW of an exported FILE.

    NEW must not exist yet; FILE may be - for standard input. Positions, epochs and the hash chain stay as
    they are. All of FILE is checked before anything is made.
    """
    with _exported(file) as source:
        records = 0
        try:
            records = sum(len(batch.records) for batch in read_export(source))
        except (NotAJournal, JournalDamaged) as error:
            raise type(error)(f"{file}: {error}") from error
        source.seek(0)
        _restore(new, read_export(source))
    if as_json:
        json_document({"journal": new, "records": records})
    else:
        click.echo(f"{new}: {records:,} records")
    return Exit.COMPLETE


@contextmanager
def _exported(file: str) -> Iterator[IO[bytes]]:
    """The file to read twice; standard input is kept on disk meanwhile."""
    try:
        if file != "-":
            with Path(file).open("rb") as source:
                yield source
            return
        with tempfile.TemporaryFile() as kept:
            for block in iter(lambda: sys.stdin.buffer.read(1 << 20), b""):
                kept.write(block)
            kept.seek(0)
            yield kept
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}") from error


def _restore(new: str, batches: Iterable[Batch]) -> None:
    cursors: dict[str, int | None] = {}
    if not isinstance(locate(new), RestorableJournal):
        raise JournalError(f"{new}: a journal of this kind takes no records of another one")
    with _creating(new, "import") as journal:
        assert isinstance(journal, RestorableJournal)  # noqa: S101  # so is every journal at that place
        journal.set_cursor(IMPORTING, Position(0))
        for batch in batches:
            if batch.records:
                journal.restore(batch.records)
            cursors |= {each.name: each.position for each in batch.cursors}
    _finish(new, cursors)


def _finish(new: str, cursors: dict[str, int | None]) -> None:
    with _writing(new, "import") as journal:  # with an epoch behind those of the records
        for name, position in cursors.items():
            journal.set_cursor(name, None if position is None else Position(position))
        journal.set_cursor(IMPORTING, None)
