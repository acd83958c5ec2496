"""`meowcat show | log`: what journals hold, read beside whoever owns them."""

from typing import Any

import anyio
import click

from meowcat.cli.board import seen_in
from meowcat.cli.completion import unfinished_tasks
from meowcat.cli.exits import Exit
from meowcat.cli.history import event_text
from meowcat.cli.journals import Found, Past, pick, read_all, records_of
from meowcat.cli.listing import warn
from meowcat.cli.options import journal_option, json_option
from meowcat.cli.quantities import counted, rate_text, seconds_text, size_text
from meowcat.cli.views import (
    Seen,
    amount_text,
    clock_text,
    json_document,
    json_line,
    live_object,
    owner_text,
    printable,
    waits_text,
)
from meowcat.core.errors import MeowcatError
from meowcat.core.machine import State
from meowcat.core.remedies import remedy
from meowcat.core.state import Phase, TaskState
from meowcat.core.transfers import Download, Upload
from meowcat.journal.contract import Damage, Record
from meowcat.journal.logged import event_object, logged


@click.command(epilog="Example: meowcat show 7Q3KX2", no_args_is_help=True)
@click.argument("task", shell_complete=unfinished_tasks(set(State)))
@journal_option
@json_option
def show(task: str, *, journal: str | None, as_json: bool) -> Exit:
    """Show one task in detail. TASK is an id, or a beginning or end of one that no other task has."""
    found = pick(anyio.run(read_all, journal), task)
    (seen,), silent = anyio.run(seen_in, Past([found], {}, {}, [found.journal], named=True))
    if as_json:
        json_document(live_object(seen) | {"upload": upload_object(found.task)})
        return Exit.COMPLETE
    for error in silent.values():
        click.echo(printable(f"meowcat: {error}"), err=True)
    for label, value in _details(found, seen):
        if value:
            click.echo(printable(f"{label:<13}{value}"))
    return Exit.COMPLETE


def _details(found: Found, seen: Seen) -> list[tuple[str, str]]:
    info, task = seen.info, found.task
    upload = task.request if isinstance(task.request, Upload) else None
    return [
        ("Task", info.id),
        ("State", str(info.state) if info.phase is Phase.DONE else f"{info.state} ({info.phase})"),
        ("Waiting for", waits_text(seen) if info.waiting_for or seen.refusal else ""),
        ("To go on", "; ".join(map(remedy, info.needs))),
        ("Reason", info.reason),
        ("Direction", info.direction),
        ("URL", info.url),
        ("Path" if upload is None else "Source", info.path),
        ("Protocol", "" if upload is None else _protocol_text(upload)),
        ("Journal", found.journal),
        ("Owner", owner_text(seen)),
        ("Created", clock_text(info.created)),
        ("Progress", amount_text(info)),
        ("Rate", rate_text(seen.rate) if seen.rate else ""),
        ("Left", seconds_text(seen.eta) if seen.eta is not None else ""),
        ("Pieces" if upload is None else "Parts", _pieces_text(found)),
        ("Session", task.session.id if task.session else ""),
        ("To remove", ", ".join(each.session.id for each in task.condemned)),
        ("Not known", _lost_text(task)),
        ("Connections", _connections_text(task)),
        ("Content", _content_text(found)),
        ("Checksum", (isinstance(task.request, Download) and task.request.checksum) or ""),
        ("Server said", ", ".join(f"{name} {value}" for name, value in info.remote.items())),
        ("Digests", ", ".join(str(digest) for digest in info.digests)),
        ("Failures", f"{info.attempts} in a row" if info.attempts else ""),
        ("Crashes", f"{info.crashes} in a row" if info.crashes else ""),
        ("Last failure", f"{info.fault.detail} ({info.fault.kind})" if info.fault else ""),
        ("Not stored", ", ".join(task.request.needs)),
    ]


def _pieces_text(found: Found) -> str:
    grid = found.task.grid
    if grid is None:
        return ""
    done = "sent" if found.task.is_upload else "stored"
    return f"{found.task.stored.total} of {grid.count} {done}, {size_text(found.task.piece_size)} each"


def _protocol_text(request: Upload) -> str:
    fields = [f"{name} {value}" for name, value in request.protocol.fields.items() if value not in ("", None)]
    return request.protocol.tag + (f" ({', '.join(fields)})" if fields else "")


def _connections_text(task: TaskState) -> str:
    if task.session is not None and not task.session.capabilities.any_order:
        return "1, since each part follows on the one before it"
    return str(task.request.connections or "")


def _lost_text(task: TaskState) -> str:
    if not task.lost:
        return ""
    return f"{counted(task.lost, 'session')} may stand at the server whose name was lost: 'meowcat orphans'"


def upload_object(task: TaskState) -> dict[str, Any] | None:
    """What only uploads have, as JSON. These names are documented, and stay."""
    if not isinstance(task.request, Upload):
        return None
    spec, grid = task.request.protocol, task.grid
    return {
        "protocol": {"tag": spec.tag, "version": spec.version, "fields": spec.fields},
        "origin": task.request.origin,
        "session": task.session.id if task.session else None,
        "parts": grid.count if grid else None,
        "parts_sent": task.stored.total,
        "part_size": task.piece_size or None,
        "to_remove": [each.session.id for each in task.condemned],
        "lost": task.lost,
    }


def _content_text(found: Found) -> str:
    generation = found.task.generation
    if generation is None or found.task.is_upload:  # of a source there is nothing to tell but its size
        return ""
    named = f"ETag {generation.etag}" if generation.etag else f"Last-Modified {generation.last_modified}"
    known = named if generation.etag or generation.last_modified else "no validator"
    return known + ("" if generation.ranges else ", no ranges")


@click.command(name="log", epilog="Example: meowcat log 7Q3KX2 --json | jq .type")
@click.argument("task", required=False, shell_complete=unfinished_tasks(set(State)))
@journal_option
@json_option
def show_log(task: str | None, *, journal: str | None, as_json: bool) -> Exit:
    """Print the history of TASK, or of all tasks.

    One line per event, the oldest first. TASK is an id, or a beginning or end of one that no other task has.
    Exit code 3 where a record is damaged or missing, or a task or a journal could not be read.
    """
    past = anyio.run(read_all, journal)
    chosen = [pick(past, task)] if task is not None else past.tasks
    sound = True
    for number, found in enumerate(chosen):
        if not as_json and len(chosen) > 1:
            click.echo("\n" * (number > 0) + printable(f"{found.task.id}  {found.info.path}"))
        for record in anyio.run(records_of, found):
            sound &= _print_record(record, found.journal, as_json=as_json)
    warn(past)
    return Exit.COMPLETE if sound and (past.whole or task is not None) else Exit.JOURNAL


def _print_record(record: Record | Damage, journal: str, *, as_json: bool) -> bool:
    """Print one event; False where its record is not what was written."""
    try:
        if isinstance(record, Damage):
            click.echo(printable(f"meowcat: damaged: {record.detail}"), err=True)
            return False
        event = logged(record)
    except MeowcatError as error:
        click.echo(printable(f"meowcat: record {record.position}: {error}"), err=True)
        return False
    if as_json:
        json_line({"journal": journal, **event_object(event)})
    else:
        click.echo(printable(event_text(event)))
    return True
