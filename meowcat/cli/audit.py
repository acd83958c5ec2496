"""`meowcat audit keygen | checkpoint | receipt | verify`: proving what a journal says."""

import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import click

from meowcat.audit.checkpoints import parse_checkpoint, verify_checkpoint
from meowcat.audit.keys import Key
from meowcat.audit.log import Log
from meowcat.audit.notes import VerifierKey, parse_vkey
from meowcat.audit.receipts import Receipt, verify_receipt
from meowcat.audit.verify import Check, Verification, one_by_one, verify_journal
from meowcat.cli.exits import Exit
from meowcat.cli.journals import pick, read_all
from meowcat.cli.options import json_option
from meowcat.cli.outputs import NO_ROOM, refuse_standing, unwritten, write_whole
from meowcat.cli.quantities import size_text
from meowcat.cli.views import clock_text, json_document, printable
from meowcat.core.errors import AuditError, InvalidArgument, JournalOwned, NotAJournal
from meowcat.core.values import TaskId
from meowcat.journal.contract import Journal, Owner, ReadableJournal
from meowcat.journal.locate import locate
from meowcat.journal.logged import when
from meowcat.transfer.digests import digest_file
from meowcat.transfer.disk import FileFault, OsDisk

_TASK_ID = 26

_journal = click.option("--journal", required=True, metavar="PATH", help="The journal: a path or a URL.")
_key = click.option(
    "--key", required=True, metavar="FILE", help="The private key that 'meowcat audit keygen' made."
)
_origin = click.option("--origin", metavar="NAME", help="The log's name, where it is not that of the key.")


@click.group()
def audit() -> None:
    """Sign what a journal says, and prove it to others.

    A checkpoint is a signature over all records so far; a receipt proves one transfer, to anybody who has
    the public key. Keep checkpoints on another machine: only they tell that a journal was cut short.
    """


@audit.command(epilog="\b\nExample: meowcat audit keygen -o audit.key --name example.com/my-app > audit.vkey")
@click.option("-o", "--output", default="audit.key", show_default=True, metavar="FILE", help="The key file.")
@click.option(
    "--name", metavar="ORIGIN", help="The log's name, like example.com/my-app; unique and for ever."
)
@json_option
def keygen(*, output: str, name: str | None, as_json: bool) -> Exit:
    """Make a key. The private part goes to FILE (mode 0600), the public part is printed: the vkey."""
    name = name or f"{socket.gethostname() or 'localhost'}/meowcat/{secrets.token_hex(4)}"
    with _as_usage():
        key = Key.generate(name)
        try:
            key.save(output)
        except AuditError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in NO_ROOM:
                raise unwritten(output, error.__cause__) from error
            raise
    if as_json:
        json_document({"key": str(Path(output).absolute()), "name": name, "vkey": key.vkey})
        return Exit.COMPLETE
    click.echo(f"The private key of {name} is in {output}: it signs, so keep it to yourself.", err=True)
    click.echo("What follows is the public one: hand it out, and verify with it.", err=True)
    click.echo(key.vkey)
    return Exit.COMPLETE


@audit.command(
    epilog="\b\nExample: meowcat audit checkpoint --journal t.db --key audit.key -o checkpoints.txt"
)
@_journal
@_key
@_origin
@click.option(
    "-o", "--output", metavar="FILE", help="Append it there as well; those in FILE are gone on from."
)
@json_option
def checkpoint(*, journal: str, key: str, origin: str | None, output: str | None, as_json: bool) -> Exit:
    """Sign all records that the journal has, and print the checkpoint.

    Nothing is signed where the journal is not a continuation of what was signed before. A journal that
    another process owns is read beside it: then the checkpoint is not kept in the journal.
    """
    with _log(journal, key, origin, output) as (log, owner):
        text = _signed(log, owner)
    signed, _ = parse_checkpoint(text)
    if as_json:
        json_document(
            {
                "origin": signed.origin,
                "size": signed.size,
                "root": signed.root.hex(),
                "checkpoint": text,
                "kept": owner is None,
                "output": output,
            }
        )
        return Exit.COMPLETE
    _say_where(owner)
    click.echo(text, nl=False)
    return Exit.COMPLETE


@audit.command(
    epilog="\b\nExample: meowcat audit receipt --journal t.db --key audit.key 7Q3KX2 -o big.receipt"
)
@click.argument("task")
@_journal
@_key
@_origin
@click.option("--checkpoints", metavar="FILE", help="Append a checkpoint that has to be signed first there.")
@click.option("-o", "--output", metavar="FILE", help="Write the receipt there instead of printing it.")
@json_option
def receipt(
    task: str,
    *,
    journal: str,
    key: str,
    origin: str | None,
    checkpoints: str | None,
    output: str | None,
    as_json: bool,
) -> Exit:
    """Print the receipt of TASK, which must be Complete.

    Whoever has it and the vkey can verify it. TASK is an id, or a beginning or end of one that no other
    task has.
    """
    output = None if output == "-" else output  # as of an export
    if output is not None:
        refuse_standing(output)
    wanted = task if len(task) == _TASK_ID else pick(anyio.run(read_all, journal), task).task.id
    with _log(journal, key, origin, checkpoints) as (log, owner):
        text = _receipt(log, owner, TaskId(wanted))
        proven = verify_receipt(text, log.key, origin=log.origin)
    if output is not None:
        write_whole(Path(output), [text.encode()])
    if as_json:
        json_document(_receipt_object(proven) | {"receipt": text, "output": output, "kept": owner is None})
        return Exit.COMPLETE
    _say_where(owner)
    if not proven.digests:
        click.echo("meowcat: the transfer has no digest: the receipt proves its size alone", err=True)
    if output is not None:
        click.echo(printable(f"{output}: {proven.path}"))
    else:
        click.echo(text, nl=False)
    return Exit.COMPLETE


def _receipt(log: Log, owner: JournalOwned | None, task: TaskId) -> str:
    covering = log.covering(task)
    return log.receipt(task, _signed(log, owner) if covering is None else covering)


def _signed(log: Log, owner: JournalOwned | None) -> str:
    """A checkpoint, kept in the journal where it is ours to write."""
    text = log.sign()
    if owner is None:
        log.keep(text)
    log.export(text)
    return text


def _say_where(owner: JournalOwned | None) -> None:
    if owner is not None:
        click.echo(
            f"meowcat: the journal was read beside its owner, {owner.owner}: nothing of this is kept in it",
            err=True,
        )


@contextmanager
def _log(
    where: str, key: str, origin: str | None, file: str | None
) -> Iterator[tuple[Log, JournalOwned | None]]:
    """The journal as a log, and whose it is if another process owns it."""
    with _as_usage():
        signer = Key.load(key)
    journal, owner = _opened(where)
    try:
        yield Log(journal, signer, origin=origin, file=file), owner
    finally:
        journal.close()


def _opened(where: str) -> tuple[Journal, JournalOwned | None]:
    """The journal, open for writing or, where somebody else owns it, for reading.

    Raises:
        NotAJournal: there is none: signing makes no new one.

    """
    _readable(where).close()
    journal = locate(where)
    try:
        journal.open(Owner(os.getpid(), socket.gethostname(), "meowcat audit"), "power")
    except JournalOwned as owned:
        return _readable(where), owned
    return journal, None


def _readable(where: str) -> Journal:
    journal = locate(where)
    if not isinstance(journal, ReadableJournal):
        raise NotAJournal(f"{where}: a journal of this kind can't be read from outside")
    journal.open_for_reading()
    assert isinstance(journal, Journal)  # noqa: S101  # `locate` gives nothing else; the check narrows the type
    return journal


@audit.command(
    epilog="""\b
Examples:
  meowcat audit verify --receipt big.receipt --vkey audit.vkey --file big.iso
  meowcat audit verify --journal t.db --vkey audit.vkey --checkpoint checkpoints.txt

Ends with 0 where everything is proved, and with 1 where anything is not.
"""
)
@click.option(
    "--journal", metavar="PATH", help="Read all of this journal, and compare it with what was signed."
)
@click.option(
    "--vkey",
    "vkeys",
    required=True,
    multiple=True,
    metavar="VKEY|FILE",
    help="The public key, or a file that has it; several where keys were replaced.",
)
@_origin
@click.option(
    "--checkpoint", "checkpoints", multiple=True, metavar="FILE", help="Checkpoints that were kept elsewhere."
)
@click.option("--receipt", "receipts", multiple=True, metavar="FILE", help="A receipt; needs no journal.")
@click.option(
    "--file",
    metavar="FILE",
    help="The file that was downloaded or uploaded: size and digests are compared with the receipt.",
)
@json_option
def verify(
    *,
    journal: str | None,
    vkeys: Sequence[str],
    origin: str | None,
    checkpoints: Sequence[str],
    receipts: Sequence[str],
    file: str | None,
    as_json: bool,
) -> Exit:
    """Verify receipts, checkpoints or a whole journal, offline.

    A journal is compared with all that was signed of it.
    """
    if not (journal or checkpoints or receipts):
        raise click.UsageError("nothing to verify: name a --journal, a --receipt or a --checkpoint")
    if file is not None and len(receipts) != 1:
        raise click.UsageError("--file is for one --receipt")
    keys = [_vkey(each) for each in vkeys]
    exported = one_by_one((path, _text(path)) for path in checkpoints)
    given = [(path, _text(path)) for path in receipts]
    found = None
    if journal is not None:
        found = verify_journal(journal, keys, origin=origin, checkpoints=exported, receipts=given)
    checks = list(found.checks) if found else _offline(keys, origin, exported, given)
    proven = _proven(keys, origin, given)
    if file is not None and proven:
        checks.append(_of_file(Path(file), proven[0][1]))
    proved = all(each.proved for each in checks) and any(each.size for each in checks)
    if as_json:
        json_document(_verification_object(proved, found, checks, proven))
    else:
        _tell(proved, found, checks, proven)
    return Exit.COMPLETE if proved else Exit.FAILED


def _offline(
    keys: Sequence[VerifierKey],
    origin: str | None,
    checkpoints: Sequence[tuple[str, str]],
    receipts: Sequence[tuple[str, str]],
) -> list[Check]:
    """The checks that need no journal."""
    checks = []
    for source, text in checkpoints:
        try:
            signed = verify_checkpoint(text, keys, origin=origin)
        except AuditError as error:
            checks.append(Check(what="checkpoint", source=source, proved=False, detail=str(error)))
        else:
            detail = f"signed by {signed.origin}" + ("" if signed.size else ", and covers no records")
            checks.append(
                Check(what="checkpoint", source=source, proved=True, detail=detail, size=signed.size)
            )
    for source, text in receipts:
        try:
            proven = verify_receipt(text, keys, origin=origin)
        except AuditError as error:
            checks.append(Check(what="receipt", source=source, proved=False, detail=str(error)))
        else:
            detail = f"record {proven.position:,} of {proven.origin}"
            size = proven.checkpoint.size
            checks.append(Check(what="receipt", source=source, proved=True, detail=detail, size=size))
    return checks


def _proven(
    keys: Sequence[VerifierKey], origin: str | None, receipts: Sequence[tuple[str, str]]
) -> list[tuple[str, Receipt]]:
    """What the receipts say that are signed as they should be."""
    proven = []
    for source, text in receipts:
        try:
            proven.append((source, verify_receipt(text, keys, origin=origin)))
        except AuditError:  # told by its check
            continue
    return proven


def _of_file(path: Path, proven: Receipt) -> Check:
    """Whether a file is the one that a receipt speaks of."""
    wrong = ""
    try:
        size = path.stat().st_size
        expected = {each.algorithm: each.hex for each in proven.digests}
        if size != proven.size:
            wrong = f"it has {size:,} bytes; the receipt says {proven.size:,}"
        elif not expected:
            wrong = "its size is right, but the receipt has no digest: nothing more can be compared"
        elif (got := digest_file(OsDisk(), str(path), list(expected), size)) != expected:
            name = next(name for name in expected if got[name] != expected[name])
            wrong = f"its {name} is {got[name]}; the receipt says {expected[name]}"
    except OSError as error:
        wrong = error.strerror or type(error).__name__
    except (FileFault, InvalidArgument) as error:
        wrong = str(error)
    told = ", ".join(["size", *(each.algorithm for each in proven.digests)])
    return Check(
        what="file", source=str(path), proved=not wrong, detail=wrong or f"{told} as the receipt says"
    )


def _tell(
    proved: bool,
    found: Verification | None,
    checks: Sequence[Check],
    proven: Sequence[tuple[str, Receipt]],
) -> None:
    for source, each in proven:
        click.echo(printable(f"What {source} says:"))
        for label, value in _lines(each):
            if value:
                click.echo(printable(f"  {label:<13}{value}"))
    for check in checks:
        mark = "proved    " if check.proved else "NOT PROVED"
        click.echo(printable(f"{mark}  {check.what:<11}{check.source}: {check.detail}"))
    if found is not None and len(found.checks) == 1:
        click.echo("NOT PROVED  nothing was ever signed here, and no checkpoint was given")
    elif not proved and all(each.proved for each in checks):
        click.echo("NOT PROVED  what was signed covers no records")
    elif found is not None and proved and found.covered < found.records:
        behind = found.records - found.covered
        click.echo(f"records behind the last checkpoint, not signed yet: {behind:,}")


def _lines(proven: Receipt) -> list[tuple[str, str]]:
    return [
        ("Task", proven.task),
        ("Transfer", proven.direction),
        ("URL", proven.url or "not recorded"),
        ("Source" if proven.direction == "upload" else "Path", proven.path),
        ("Size", f"{proven.size:,} bytes ({size_text(proven.size)})"),
        ("Digests", ", ".join(map(str, proven.digests)) or "none: it says nothing about the content"),
        ("Server said", ", ".join(f"{name} {value}" for name, value in proven.remote.items())),
        ("Created", "not recorded" if proven.created is None else clock_text(proven.created)),
        ("Completed", clock_text(proven.completed)),
        ("Named", proven.client_file_sign or ""),
        ("Log", f"{proven.origin}, record {proven.position:,}"),
    ]


def _receipt_object(proven: Receipt) -> dict[str, Any]:
    return {
        "task": proven.task,
        "direction": proven.direction,
        "url": proven.url,
        "path": proven.path,
        "size": proven.size,
        "digests": [str(each) for each in proven.digests],
        "remote": proven.remote,
        "created": None if proven.created is None else when(proven.created),
        "completed": when(proven.completed),
        "client_file_sign": proven.client_file_sign,
        "origin": proven.origin,
        "position": proven.position,
        "checkpoint_size": proven.checkpoint.size,
    }


def _verification_object(
    proved: bool,
    found: Verification | None,
    checks: Sequence[Check],
    proven: Sequence[tuple[str, Receipt]],
) -> dict[str, Any]:
    return {
        "proved": proved,
        "records": None if found is None else found.records,
        "covered": None if found is None else found.covered,
        "checks": [
            {
                "what": each.what,
                "source": each.source,
                "size": each.size,
                "proved": each.proved,
                "detail": each.detail,
            }
            for each in checks
        ],
        "receipts": [{"source": source} | _receipt_object(each) for source, each in proven],
    }


@contextmanager
def _as_usage() -> Iterator[None]:
    """A key that can't be used is bad input, and no proof that failed."""
    try:
        yield
    except AuditError as error:
        raise click.UsageError(str(error)) from error


def _vkey(given: str) -> VerifierKey:
    """A verifier key as it stands, or in a file."""
    with _as_usage():
        return parse_vkey(_text(given) if Path(given).is_file() else given)


def _text(path: str) -> str:
    try:
        return Path(path).read_bytes().decode()  # line ends as they are: they are signed
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise click.UsageError(f"{path}: {reason}") from error
