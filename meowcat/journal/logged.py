"""A record as users see it: an event with its place in the journal."""

import logging

from msgspec import Struct

from meowcat.core.errors import JournalDamaged, UnknownEvent
from meowcat.core.events import Event
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
