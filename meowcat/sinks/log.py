"""Events as records of Python's logging."""

import logging
from collections.abc import Sequence
from functools import partial

from meowcat.core import events as ev
from meowcat.journal.logged import LoggedEvent, event_object
from meowcat.transport.threads import Lane


def _level(event: ev.Event) -> int | None:
    """Of an event that somebody may want to be woken for."""
    match event:
        case ev.Failed():
            return logging.ERROR
        case ev.AttemptFailed() | ev.SessionAborted(gone=False) | ev.SessionUnopened(lost=True):
            return logging.WARNING
        case _:
            return None


def _because(event: ev.Event) -> str:
    match event:
        case ev.Failed(fault=fault) | ev.AttemptFailed(fault=fault):
            return f": {fault.detail}"
        case ev.SessionAborted(gone=False):
            return f": session {event.session} may still stand at the server: {event.detail}"
        case ev.SessionUnopened(lost=True):
            return ": a session may stand at the server whose name was lost"
        case _:
            return ""


class Logging:
    """Logs each event: a task that failed at `ERROR`, a failed attempt and a session that may be left at a
    server at `WARNING`, all others at `level`.

    Args:
        logger: a logger, or its name.
        level: of all other events.

    The record has the event's fields as attributes, for formatters of structured logs: `event_id`, `task`,
    `seq`, `position`, `event_type`, `state`, and `event` with the fields of its own. Handlers are called in a
    thread. Python's logging swallows what a handler raises: such an event counts as delivered.
    """

    def __init__(self, logger: logging.Logger | str = "meowcat.events", *, level: int = logging.INFO) -> None:
        self._logger = logging.getLogger(logger) if isinstance(logger, str) else logger
        self._level = level
        self._lane = Lane("meowcat-logging")

    async def deliver(self, events: Sequence[LoggedEvent]) -> None:
        await self._lane.run(partial(self._log_all, events))

    def _log_all(self, events: Sequence[LoggedEvent]) -> None:
        for event in events:
            level = _level(event.event) or self._level
            if self._logger.isEnabledFor(level):
                self._log(level, event)

    def _log(self, level: int, event: LoggedEvent) -> None:
        known = event_object(event)
        extra = {
            "event_id": known["id"],
            "task": known["task"],
            "seq": known["seq"],
            "position": known["position"],
            "event_type": known["type"],
            "state": known["state"],
            "event": known["event"],
        }
        because = _because(event.event)
        self._logger.log(
            level, "task %s: %s, %s%s", event.task, known["type"], known["state"], because, extra=extra
        )
