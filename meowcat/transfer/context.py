"""What operations work with: the world around them, as the runtime hands it to them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from msgspec import Struct

from meowcat.core.crowd import Crowd
from meowcat.core.events import Event
from meowcat.core.messages import Message
from meowcat.core.seal import Secrets
from meowcat.core.state import TaskState
from meowcat.core.values import TaskId
from meowcat.protocols.contract import Tools
from meowcat.protocols.registry import Protocols
from meowcat.transfer.disk import Disk
from meowcat.transfer.rounds import Rounds
from meowcat.transfer.sources import Sources
from meowcat.transfer.workers import Workers
from meowcat.transport.contract import Transport

Durability = Literal["power", "process"]
Report = Callable[[Message], None]
"""Puts a message into the task's mailbox; never blocks, and only from the event loop's thread."""


class Histories(Protocol):
    """What the journal holds: where digests are read, since the state has none."""

    def events_of(self, task: TaskId) -> AsyncIterator[Event]:
        """The task's events so far."""


Rest = Callable[[], float]
"""How many seconds of a rest are left, by the limits as they are when it is asked. From any thread."""


class Throttle(Protocol):
    """Bandwidth limits of the task, its host and the engine together. They may change at any time."""

    @property
    def rate(self) -> int | None:
        """Bytes a second of the narrowest limit; None where there is none."""

    async def acquire(self, size: int) -> None:
        """Wait until `size` bytes may be taken from the network."""

    def spend(self, size: int) -> Rest:
        """How long a thread rests before it takes `size` bytes from the network. From any thread."""

    def give_back(self, size: int) -> None:
        """Of what was asked for, so many bytes have not come. From any thread."""


class Requests(Protocol):
    """The requests of one operation: bounded over the engine, and by how the host takes them."""

    def turn(self) -> AbstractAsyncContextManager[None]:
        """One request. Entering waits for its turn; what is raised through it (`Refused`, `TransportFault`)
        tells how the host took it, and an end without that counts as a good answer."""

    @property
    def most(self) -> int | None:
        """Requests at once that the host is given for now, by all tasks together; None = no bound of its
        own."""


class Budget(Protocol):
    """The engine-wide bounds of what is in flight: requests, and bytes in memory."""

    async def acquire(self) -> None:
        """Wait until another request may be under way."""

    def release(self) -> None: ...

    async def take(self, size: int) -> None:
        """Wait until `size` bytes more may be held in memory."""

    def take_spare(self, size: int, beside: int = 0) -> bool:
        """Whether `size` bytes are taken now, since half of all is free after that.

        Whoever holds them while he waits for something else, as for his turn, has `beside` be what others
        take at once at the most. Those may wait for all of it, and he for them.
        """

    def give(self, size: int) -> None: ...


@dataclass(frozen=True)
class Plugins:
    """Protocols, what they are lent, and the sources that have names."""

    protocols: Protocols
    tools: Tools
    sources: Sources

    def has(self, need: str) -> bool:
        """Whether what a request needs (`credential:NAME` …) is registered."""
        kind, _, name = need.partition(":")
        if kind == "credential":
            return name in self.tools.credentials
        if kind == "refresher":
            return name in self.tools.refreshers
        if kind == "source":
            return self.sources.get(name) is not None
        return kind == "protocol" and name in self.protocols


@dataclass(frozen=True)
class World:
    """Shared by all operations of an engine."""

    transport: Transport
    disk: Disk
    budget: Budget
    durability: Durability
    flush_bytes: int
    """A flush begins when so many bytes were written since the last one began …"""
    flush_seconds: float
    """… or so long after it."""
    clock: Callable[[], float]
    """Monotonic seconds."""
    wall: Callable[[], int]
    """Milliseconds since 1970 UTC; for HTTP dates only."""
    sleep: Callable[[float], Awaitable[None]]
    plugins: Plugins
    workers: Workers = Workers()  # noqa: RUF009  # it has no state
    lowest_rate: int | None = None
    """Bytes a second that a download's reply has to bring at least …"""
    patience: float = 30.0
    """… in so many seconds of waiting."""
    rounds: Rounds | None = None
    """How small files go to the disk; without it they go there like large ones."""


class Errand(Struct, frozen=True, eq=False):
    """What one operation is given about its task."""

    task: TaskState
    """The state at the operation's start; `Running.update` brings later ones."""
    secrets: Secrets
    """The URL and headers in full, as the user gave them."""
    report: Report
    histories: Histories
    throttle: Throttle
    requests: Requests
    crowd: Crowd
    """How many connections a transfer with its host has, where the user does not say."""


class Running(Protocol):
    """An operation at work.

    It is over when `run` returns: nothing is written, sent or held open after that, but for a request that
    its transport can only let time out. Cancellation of `run` stops it: `quiet` is then set as soon as no
    byte more will be written or sent, which is at once and not after a sync; what is written already is
    still flushed and reported before `run` ends.
    """

    def update(self, task: TaskState, *, hold: bool) -> None:
        """The task moved on, and the operation is still wanted. `hold`: start no new request."""

    async def run(self) -> None:
        """Do the work and report; failures are reported as well, never raised."""

    @property
    def quiet(self) -> bool:
        """Whether no byte more will be written or sent."""
