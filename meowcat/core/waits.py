"""What a task can wait for. A waiting task says so in `waiting_for` and holds no slot."""

from collections.abc import Sequence
from enum import StrEnum

from msgspec import Struct


class WaitingFor(StrEnum):
    RETRY = "retry"
    """The delay after a failed attempt."""
    SERVER = "server"
    """The time that the server asked for (Retry-After)."""
    HOST = "host"
    """A host that answered before and can't be reached now."""
    DISK_SPACE = "disk-space"
    SUPPLY = "supply"
    """What was never journaled, and has to be handed in (`Task.supply`) or registered by name."""
    PROTOCOL = "protocol"
    """A protocol that nobody has registered, and nothing else: `Engine(protocols=[…])` brings it."""

    @property
    def helpless(self) -> bool:
        """Whether only somebody from outside can end it."""
        return self in (WaitingFor.SUPPLY, WaitingFor.PROTOCOL)


def wait_for(names: Sequence[str]) -> WaitingFor:
    """What a task waits for that lacks these, which `Supplied` names once they are there."""
    only = all(name.startswith("protocol:") for name in names)
    return WaitingFor.PROTOCOL if only else WaitingFor.SUPPLY


class Wait(Struct, frozen=True):
    """A wait under way."""

    waiting_for: WaitingFor
    delay: int | None
    """Milliseconds from the moment the wait was recorded, or the journal opened; None = until supplied."""
    seq: int
    """The event that began it: a wake-up for another one is stale."""
    names: tuple[str, ...] = ()
