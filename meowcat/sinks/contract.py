"""What a sink is: where an application wants its durable events delivered."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from meowcat.journal.logged import LoggedEvent


@runtime_checkable
class Sink(Protocol):
    """Gets every durable event at least once, in the journal's order.

    A sink may also have `async def aclose(self) -> None`: called when it is removed, and when its engine
    closes.
    """

    async def deliver(self, events: Sequence[LoggedEvent]) -> None:
        """Take the next events, at most some hundred.

        Returning says that they are safe: the cursor moves behind them, and they never come again. Whatever
        is raised makes them come again later, perhaps together with others; `RetryLater` says when. After a
        crash, too, some may come again: an event's `id` tells.
        """
