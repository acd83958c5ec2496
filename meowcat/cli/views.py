"""What is printed of a task: JSON objects with stable names, and the words that people read."""

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from typing import Any

import click
import msgspec

from meowcat.cli.quantities import percent_text, size_text
from meowcat.core.errors import MeowcatError
from meowcat.core.info import TaskInfo
from meowcat.core.machine import State
from meowcat.core.state import Phase
from meowcat.core.values import FaultKind
from meowcat.journal.contract import Owner
from meowcat.journal.logged import when
from meowcat.task import Progress

ID_SHOWN = 8
"""Characters of an id in tables, from its end: its beginning is the time, which neighbours share."""
_REPLACEABLE = "overwrite='replace'"
"""What the fault of a target that may be replaced advises."""


@dataclass(frozen=True)
class Seen:
    """A task as it is seen from outside: out of its journal, and with what its owner adds."""

    journal: str
    info: TaskInfo
    rate: float = 0.0
    eta: float | None = None
    """Seconds."""
    waits_until: int | None = None
    """Milliseconds since 1970 UTC."""
    owner: Owner | None = None
    silent: bool = False
    """Whether there is an owner that does not answer."""
    refusal: str = ""
    """Why the journal takes no records now, by its owner; told of tasks that would go on."""


def json_line(document: Any) -> None:
    """One JSON document on one line of standard output, out at once; UTF-8 whatever the terminal speaks."""
    click.echo(_encoded(document))


def json_document(document: Any) -> None:
    click.echo(msgspec.json.format(_encoded(document), indent=2))


def _encoded(document: Any) -> bytes:
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:  # bytes of a file's name that are no UTF-8, and that JSON has no letters for
        text = json.dumps(msgspec.to_builtins(document), ensure_ascii=False, separators=(",", ":"))
        return text.encode(errors="replace")


def clock_text(milliseconds: int) -> str:
    """Local time, for people."""
    moment = dt.datetime.fromtimestamp(milliseconds / 1000, tz=dt.UTC).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S.") + f"{moment.microsecond // 1000:03}"


def task_object(info: TaskInfo, journal: str) -> dict[str, Any]:
    """A task as JSON. These names are documented, and stay."""
    fault = info.fault
    return {
        "task": info.id,
        "journal": journal,
        "state": info.state,
        "phase": info.phase,
        "direction": info.direction,
        "url": info.url,
        "path": info.path,
        "size": info.size,
        "bytes_done": info.bytes_done,
        "fraction": round(info.fraction, 6),
        "priority": info.priority,
        "created": when(info.created),
        "attempts": info.attempts,
        "crashes": info.crashes,
        "waiting_for": info.waiting_for,
        "needs": list(info.needs),
        "reason": info.reason,
        "fault": None
        if fault is None
        else {"code": int(fault.code), "kind": fault.kind, "status": fault.status, "detail": fault.detail},
        "digests": [str(digest) for digest in info.digests],
        "compared": [str(digest) for digest in info.compared],
        "remote": info.remote,
    }


def live_object(seen: Seen) -> dict[str, Any]:
    """A task as JSON with what only its owner knows. These names are documented, and stay."""
    owner = seen.owner
    return task_object(seen.info, seen.journal) | {
        "rate": round(seen.rate),
        "eta": None if seen.eta is None else round(seen.eta, 1),
        "waits_until": None if seen.waits_until is None else when(seen.waits_until),
        "owner": None if owner is None else {"pid": owner.pid, "host": owner.host, "command": owner.command},
        "refusal": seen.refusal or None,
    }


def owner_text(seen: Seen) -> str:
    """Who owns a journal, as far as somebody answers for it."""
    owner = seen.owner
    if owner is None:
        return "no answer" if seen.silent else "nobody"
    return f"pid {owner.pid}" if owner.host == gethostname() else f"pid {owner.pid} on {owner.host}"


def waits_text(seen: Seen) -> str:
    """What keeps the task, and until when where that is known."""
    if seen.refusal:
        return refusal_text(seen.refusal)
    standing = standing_text(seen.info)
    if seen.waits_until is None:
        return standing
    what, colon, why = standing.partition(":")
    return f"{what} until {clock_text(seen.waits_until)[11:19]}{colon}{why}"


def refusal_text(refusal: str) -> str:
    """What keeps each task of a journal."""
    return f"the journal takes no records: {refusal}"


def progress_object(info: TaskInfo, moment: Progress) -> dict[str, Any]:
    """A moment of a transfer as JSON; `rate` in bytes a second, `eta` in seconds."""
    return {
        "type": "progress",
        "task": info.id,
        "state": moment.state,
        "bytes_done": moment.bytes_done,
        "size": moment.size,
        "rate": round(moment.rate),
        "eta": None if moment.eta is None else round(moment.eta, 1),
        "waiting_for": moment.waiting_for,
        "refusal": moment.refusal or None,
    }


def error_object(error: MeowcatError, message: str) -> dict[str, Any]:
    """A failure of the command itself as JSON."""
    return {"type": "error", "code": int(error.code), "name": error.code.name, "message": message}


def printable(text: str) -> str:
    """`text` without control characters: what a server sent, or a file is called, must not steer the
    terminal, nor look like a line of ours."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def shown_name(info: TaskInfo) -> str:
    return Path(info.path).name


def place_text(info: TaskInfo, path: str) -> str:
    """Where it goes: `path`, the target of a download; or the source of an upload, and the URL it goes to."""
    return f"{path} -> {info.url}" if info.direction == "upload" else path


def amount_text(info: TaskInfo) -> str:
    """`45.1%  115.5 MiB of 256.0 MiB`, as far as it is known."""
    if info.size is None:
        return size_text(info.bytes_done)
    return f"{percent_text(info.fraction)}  {size_text(info.bytes_done)} of {size_text(info.size)}"


def standing_text(info: TaskInfo) -> str:
    """What keeps a task that is neither Complete nor moving, in a few words; "" where nothing does."""
    if info.state is State.FAILED and info.fault is not None:
        if info.fault.kind is FaultKind.TARGET_EXISTS and _REPLACEABLE in info.fault.detail:
            target = info.path if info.direction == "download" else info.url
            return f"{target} exists; --overwrite replaces it"
        return info.fault.detail
    if info.needs:
        fault = info.fault
        why = f": {fault.detail}" if fault is not None and fault.kind is FaultKind.EXPIRED else ""
        return f"{info.waiting_for or 'supply'}: {', '.join(info.needs)}{why}"
    if info.waiting_for is not None:
        why = f": {info.fault.detail}" if info.fault is not None and info.fault.detail else ""
        return f"{info.waiting_for}{why}"
    if info.phase is Phase.DISCARDING:
        return (
            f"its {'session at the server' if info.direction == 'upload' else 'part file'} is to be removed"
        )
    return info.reason if info.state is State.PAUSED else ""
