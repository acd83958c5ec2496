"""Events and messages out of the tables of a scenario: what is left out is filled in.

An event's `state` is the one that its kind leads to (`admitted` leads to Preparing), or else the state that
the task is in. Everything else that a table lacks comes from `STANDARD`, or from the file's `[defaults]`.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import fields

from meowcat.core.events import EVENT_TYPES, Event
from meowcat.core.machine import State
from meowcat.core.messages import MESSAGE_TYPES, Message, Report, Wake
from meowcat.core.state import TaskState
from meowcat.testing.spec_files import Mistake, Table, show, unknown

PIECE = 4 << 20
"""Bytes in a piece of the standard content, which has two."""

_CONTENT = {"size": 2 * PIECE, "ranges": True, "etag": '"v1"', "strong": True}
_FILE = {"device": 1, "inode": 7}
_SOURCE = {"size": 2 * PIECE, "device": 1, "inode": 9}
_FAULT = {"detail": "as scripted"}
_REQUEST = {
    "kind": "download",
    "url": "https://host.example/big.iso",
    "to": "/downloads/big.iso",
    "piece_size": PIECE,
}
_UPLOAD = {
    "kind": "upload",
    "source": "/downloads/big.iso",
    "url": "https://host.example/big.iso",
    "protocol": {"tag": "scripted"},
}
_SESSION = {"id": "session-1", "capabilities": {}}
_TASK = {"task": "01K0000000000000000000TASK", "key": "/downloads/big.iso", "request": _REQUEST}

STANDARD: dict[str, dict[str, Any]] = {
    "created": _TASK | {"at": 0},
    "create": _TASK,
    "started": {"generation": _CONTENT, "piece_size": PIECE},
    "probed": {"generation": _CONTENT},
    "stored": {"digests": "", "file": _FILE},
    "flushed": {"digests": "", "file": _FILE},
    "brought": {"generation": _CONTENT, "digests": "", "file": _FILE},
    "rechecked": {"kept": [], "lost": []},
    "proved": {"kept": [], "lost": []},
    "attempt-failed": {"attempt": 1, "waiting_for": "retry", "delay": 250},
    "restarted": {"reason": "as scripted", "changed": False},
    "publish-intended": {"file": _FILE, "size": 2 * PIECE, "digests": []},
    "completed": {
        "path": "/downloads/big.iso",
        "size": 2 * PIECE,
        "digests": [],
        "url": "https://host.example/big.iso",
        "created": 0,
    },
    "paused": {"reason": "asked to"},
    "requeue": {"reason": "preempted"},
    "requeued": {"reason": "preempted"},
    "recover": {"resume": True},
    "recovered": {"crashed": True, "reason": "asked to"},
    "part-discarded": {"published": False},
    "source-pinned": {"source": _SOURCE, "digests": []},
    "pinned": {"source": _SOURCE, "digests": []},
    "session-opened": {"session": _SESSION, "piece_size": PIECE, "held": []},
    "opened": {"session": _SESSION, "piece_size": PIECE},
    "session-unopened": {"lost": False},
    "sent": {"digests": "", "receipts": []},
    "confirmed": {"digests": "", "receipts": []},
    "ready": {"digests": []},
    "commit-intended": {"size": 2 * PIECE, "digests": []},
    "committed": {"result": {}},
    "aborted": {"session": "session-1"},
    "abort-failed": {"session": "session-1"},
    "session-condemned": {"session": "session-1"},
    "session-aborted": {"session": "session-1", "gone": True, "committed": False},
    "session-dropped": {"reason": "as scripted", "abort": True, "changed": False, "unpin": False},
}
"""What a table of that type has when it does not say otherwise; inner tables are merged key by key. A
`request = {kind = "upload"}` is merged with the standard upload instead of the standard download, and a fault
has a `detail`."""

LEADS_TO = {
    "created": State.QUEUED,
    "admitted": State.PREPARING,
    "started": State.RUNNING,
    "completed": State.COMPLETE,
    "paused": State.PAUSED,
    "resumed": State.QUEUED,
    "requeued": State.QUEUED,
    "failed": State.FAILED,
    "canceled": State.CANCELED,
    "retried": State.QUEUED,
}
"""The state after an event of that type. `recovered` leads to Queued unless it says Paused, `session-opened`
from Preparing to Running; all others leave the state as it is."""


def implied_state(tag: str, task: TaskState | None) -> State:
    if tag == "recovered":
        return State.QUEUED
    if tag == "session-opened" and task is not None and task.state is State.PREPARING:
        return State.RUNNING
    return LEADS_TO.get(tag) or (task.state if task else State.QUEUED)


def moves(tag: str) -> bool:
    """Whether events of that type imply a state of their own."""
    return tag in LEADS_TO or tag == "recovered"


def make_event(table: Table, task: TaskState | None, defaults: Table) -> Event:
    """The event that `table` describes, as it comes after `task`.

    Raises:
        Mistake: what is wrong with the table.
    """
    tag = _tag(table, EVENT_TYPES)
    implied: dict[str, Any] = {"state": implied_state(tag, task)}
    if tag == "admitted":
        implied["run"] = (task.run if task else 0) + 1
    event: Event = _make(EVENT_TYPES[tag], _filled(tag, table, defaults, implied))
    return event


def make_message(table: Table, task: TaskState | None, defaults: Table) -> Message:
    """The message that `table` describes; a report is of the task's present run unless it says otherwise.

    Raises:
        Mistake: what is wrong with the table.
    """
    tag = _tag(table, MESSAGE_TYPES)
    kind = MESSAGE_TYPES[tag]
    implied: dict[str, Any] = {}
    if task is not None and issubclass(kind, Report):
        implied = {"run": task.run, "restarts": task.restarts}
    if task is not None and kind is Wake and task.wait is not None:
        implied = {"seq": task.wait.seq}
    message: Message = _make(kind, _filled(tag, table, defaults, implied))
    return message


def event_pattern(table: Table, task: TaskState | None) -> dict[str, Any]:
    """What an event must look like: the keys of `table`, and its state.

    Raises:
        Mistake: no such event, or a key that the event does not have.
    """
    tag = _tag(table, EVENT_TYPES)
    known = ["type", *(field.encode_name for field in fields(EVENT_TYPES[tag]))]
    if wrong := unknown(table, known):
        raise Mistake(f"{tag}: {wrong}")
    return {"state": str(implied_state(tag, task)), **table}


def plain(value: Any) -> Any:
    """A value of the core as tables and lists, for comparing and showing."""
    return msgspec.json.decode(msgspec.json.encode(value))


def _tag(table: Table, known: Mapping[str, Any]) -> str:
    if not isinstance(table, Mapping) or not isinstance(table.get("type"), str):
        example = next(iter(known))
        raise Mistake(f'{show(table)}: expected a table with a type, as {{type = "{example}"}}')
    tag: str = table["type"]
    if tag not in known:
        raise Mistake(f"unknown type {show(tag)}; known: {', '.join(known)}")
    return tag


def _filled(tag: str, table: Table, defaults: Table, implied: Table) -> dict[str, Any]:
    own = _merged(defaults.get(tag, {}), table)
    standard = _merged(STANDARD.get(tag, {}), implied)
    request = own.get("request")
    if isinstance(request, dict) and request.get("kind") == "upload":
        standard["request"] = _UPLOAD
    if "fault" in own:
        standard["fault"] = _FAULT
    return _merged(standard, own)


def _merged(under: Table, over: Table) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _make(kind: type[Struct], filled: dict[str, Any]) -> Any:
    try:
        made = msgspec.convert(filled, kind)
    except msgspec.ValidationError as error:
        raise Mistake(f"{filled['type']}: {error}") from error
    strange = _strays(filled, plain(made))
    if strange:
        raise Mistake(f"{filled['type']}: unknown key {', '.join(strange)}")
    return made


def _strays(written: Any, read: Any) -> list[str]:
    """Keys that were written and are not in what was made of them."""
    if isinstance(written, dict) and isinstance(read, dict):
        own = [key for key in written if key not in read and key != "type"]
        inner = [
            f"{key}.{each}" for key in written if key in read for each in _strays(written[key], read[key])
        ]
        return own + inner
    if isinstance(written, list) and isinstance(read, list):
        return [each for pair in zip(written, read, strict=False) for each in _strays(*pair)]
    return []
