"""A record as users see it: an event with its place in the journal."""

import datetime as dt
import logging
from typing import Any

import msgspec
from msgspec import Struct

from meowcat.core.errors import JournalDamaged, UnknownEvent
from meowcat.core.events import TAGS, Event
from meowcat.core.values import Position, TaskId
from meowcat.journal.codec import decode
from meowcat.journal.contract import Record

log = logging.getLogger("meowcat.journal")


class LoggedEvent(Struct, frozen=True, kw_only=True):
    """An event with its place in the journal."""

    position: Position
    task: TaskId
    seq: int
    """1, 2, 3 … within the task."""
    epoch: int
    """The opening of the journal that wrote it."""
    at: int
    """Milliseconds since 1970 UTC."""
    event: Event

    @property
    def id(self) -> str:
        """Unique in the world, and the same at every delivery: what a receiver drops duplicates by."""
        return f"{self.task}-{self.seq}"


def when(milliseconds: int) -> str:
    """ISO 8601 in UTC, with milliseconds."""
    moment = dt.datetime.fromtimestamp(milliseconds / 1000, tz=dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def event_object(logged: LoggedEvent) -> dict[str, Any]:
    """An event as JSON has it: its place, and under `event` its own fields, as `specs/events` has them.

    These names are documented, and stay. Secrets are not in it, since the journal has none.
    """
    return {
        "id": logged.id,
        "task": logged.task,
        "seq": logged.seq,
        "position": logged.position,
        "epoch": logged.epoch,
        "at": when(logged.at),
        "type": TAGS[type(logged.event)],
        "state": logged.event.state,
        "event": msgspec.to_builtins(logged.event),
    }


def logged(record: Record) -> LoggedEvent:
    """A record as users see it.

    Raises:
        UnknownEvent, JournalDamaged: it can't be read.
    """
    return LoggedEvent(
        position=record.position,
        task=record.task,
        seq=record.seq,
        epoch=record.epoch,
        at=record.at,
        event=decode(record.type, record.version, record.body),
    )


def readable(record: Record) -> LoggedEvent | None:
    """`logged`, or None with a word in the log where it can't be read: its task is quarantined for it."""
    try:
        return logged(record)
    except (JournalDamaged, UnknownEvent) as error:
        log.error("record %d can't be read: %s", record.position, error)  # noqa: TRY400  # the text says it all
        return None
