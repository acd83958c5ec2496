"""An actor: one task, one mailbox, one message at a time, no shared state.

Actors exist for tasks that are at work or have messages; all others are a row. They are not coroutines: the
dispatcher steps those that have something in their mailbox.
"""

from collections import deque
from collections.abc import Awaitable
from typing import Protocol

import anyio
from msgspec import Struct, field

from meowcat.core.errors import Code, InvalidTaskState, MeowcatError, TaskNotFound
from meowcat.core.messages import Message
from meowcat.core.state import TaskState
from meowcat.core.story import Refusal
from meowcat.core.values import TaskId
from meowcat.core.wanted import AnyOperation
from meowcat.runtime.bus import Feed
from meowcat.runtime.pool import Job
from meowcat.transfer.context import Running
from meowcat.transfer.signal import Signal


class Answer(Signal):
    """What a command waits for, and then asks for its `outcome`."""

    __slots__ = ("_error", "_task")

    def __init__(self) -> None:
        super().__init__()
        self._task: TaskState | None = None
        self._error: MeowcatError | None = None

    def give(self, task: TaskState | None) -> None:
        self._task = task
        self.set()

    def refuse(self, error: MeowcatError) -> None:
        self._error = error
        self.set()

    def outcome(self) -> TaskState:
        """The task's state after the command was made durable.

        Raises:
            MeowcatError: the command was refused; nothing has changed.
        """
        if self._error is not None:
            raise self._error
        assert self._task is not None  # noqa: S101  # an answer is a task or an error
        return self._task


def as_error(refusal: Refusal) -> MeowcatError:
    """The exception for a refusal of the core."""
    kind = TaskNotFound if refusal.code is Code.TASK_NOT_FOUND else InvalidTaskState
    return kind(refusal.detail)


class Employer(Protocol):
    """Who has operations work. One for all of them: a bound method for each would be one more thing for the
    collector of cycles to look at."""

    def reported(self, actor: "Actor", envelope: "Envelope") -> None:
        """An operation of the actor has something to say."""

    def ended(self, live: "Live") -> None:
        """An operation is over."""


class Live(Job):
    """An operation at work.

    Args:
        actor: whose it is, and who has none when it is over.
        operation: what it does.
        employer: told what it reports, and of its end.
    """

    __slots__ = (
        "_employer",
        "_event",
        "actor",
        "defect",
        "held",
        "is_over",
        "operation",
        "reported",
        "running",
    )

    def __init__(self, actor: "Actor", operation: AnyOperation, employer: Employer) -> None:
        super().__init__()
        self.actor = actor
        self.operation = operation
        self.running: Running
        """How it is done: there from its start to its end."""
        self.reported = False
        self.held = False
        """Whether it was ever told to start no request: it may have ended for that, without a word."""
        self.is_over = False
        self.defect: Exception | None = None
        self._employer = employer
        self._event: anyio.Event | None = None
        """Made by the first who waits: as a rule nobody does."""

    def report(self, message: Message) -> None:
        """Put a message into the task's mailbox."""
        self.reported = True
        self._employer.reported(self.actor, Envelope(message, None, self))

    def run(self) -> Awaitable[None]:
        return self.running.run()

    def broke(self, defect: Exception) -> None:
        self.defect = defect

    def end(self) -> None:
        """Also where the engine's own group is canceled: a close waits for it."""
        self.actor.live = None
        self.is_over = True
        del self.running  # which knows whom it reports to: such rings are for the collector to find
        if self._event is not None:
            self._event.set()

    def follow(self) -> None:
        self._employer.ended(self)

    async def ended(self) -> None:
        """Wait until it is over."""
        if not self.is_over:
            self._event = self._event or anyio.Event()
            await self._event.wait()


class Envelope(Struct, eq=False):
    message: Message
    answer: Answer | None = None
    source: Live | None = None
    """The operation that reports it."""


class Actor(Struct, eq=False):
    id: TaskId
    task: TaskState | None = None
    """None until it was read from the journal."""
    mailbox: deque[Envelope] = field(default_factory=deque)
    live: Live | None = None
    stale: bool = False
    """Whether somebody else has recorded a step of the task: it is read anew before the next message."""
    feed: Feed | None = None
    """Held while the task is at work, so that whoever looks at it finds a rate that was measured."""
    timer: int = 0
    """The event that began the wait for which a timer runs; 0 = none."""
