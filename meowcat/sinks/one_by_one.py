"""Sinks that take one event at a time."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from meowcat.journal.logged import LoggedEvent


class OneByOne(ABC):
    """Takes a batch one event after the other, and goes on after a failure where it stopped.

    Without that, a receiver that can't take one event of a batch would get those before it again and again.
    Events are told by their id, so one sink may serve several engines.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    async def deliver(self, events: Sequence[LoggedEvent]) -> None:
        for event in events:
            if event.id not in self._taken:
                await self.take(event)
                self._taken.add(event.id)
        self._taken.difference_update(event.id for event in events)

    @abstractmethod
    async def take(self, event: LoggedEvent) -> None:
        """Take one event; whatever is raised makes it come again."""
